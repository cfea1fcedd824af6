"""Fine-tuning of the small T5 series' models to summarize Python functions.

Papers fine-tune all models that they compare on the same tasks, since losses of different objectives cannot be
compared. Here the task is the built-in one, to write the first sentence of a function's docstring from its body, with
the same small number of steps for all. The model must be that of the series: width 256, 2 + 2 layers
(t5_objectives_small.py).

Commands:
    python -m scripts.sweep experiments/reproductions/small_summaries.py --dir sweeps/t5_objectives_summaries --jobs 2 \
        --from sweeps/t5_objectives
    To compare with random weights, for seeds 0, 1 and 2:
    python -m scripts.train experiments/reproductions/small_summaries.py --run_dir sweeps/scratch_summaries/seed=0 \
        --config.init=None --config.seed=0
    python -m scripts.report sweeps/t5_objectives_summaries sweeps/scratch_summaries/seed=* --out sweeps/summaries
Hardware, time: 2 cores of an Intel Xeon beside other work, about 80 seconds a run, a core each (commit b033f4a).
Result: held-out loss 5.391 from random weights, 4.476 to 5.321 from T5's objectives; ../LOG.md discusses it.
"""

from dataclasses import replace

from research import (
    Adafactor,
    Checkpoint,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    SentencePiece,
    Summarization,
    Supervised,
    TFDSExamples,
)

from . import t5_objectives_small

SERIES = t5_objectives_small.get_config()


def get_config() -> Experiment:
    return Experiment(
        model=replace(SERIES.model, dropout=0.1),
        init="sweeps/t5_objectives/seed=0,objective=ReplaceSpans",
        data=Supervised(
            tasks=(Summarization(examples=TFDSExamples("python_docs/summaries"), source="function", target="summary"),),
            tokenizer=SentencePiece("sweeps/t5_objectives/seed=0,objective=ReplaceSpans/tokenizer.model"),
            input_length=128,
            target_length=32,
        ),
        optimizer=Adafactor(schedule=Linear(peak=1e-2, warmup=50)),
        steps=400,
        batch_size=8,
        evaluation=Evaluation(
            every=200, rows=512, generation=Generation(max_length=32), examples=512, best="held_out_loss"
        ),
        checkpoint=Checkpoint(every=200, keep=1),
        report=SERIES.report,
    )
