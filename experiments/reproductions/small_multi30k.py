"""Fine-tuning of the small T5 series' models to translate captions: English to German, Multi30k.

It is like small_summaries.py, with a task further from the text of pretraining: the vocabulary is the series', trained
on Python's documentation, so German is written in short pieces and bytes.

Commands:
    python -m scripts.sweep experiments/reproductions/small_multi30k.py --dir sweeps/t5_objectives_multi30k --jobs 2 \
        --from sweeps/t5_objectives --config.data.manual_dir=DIR
    Without manual_dir the files are downloaded. To compare with random weights, for seeds 0, 1 and 2:
    python -m scripts.train experiments/reproductions/small_multi30k.py --run_dir sweeps/scratch_multi30k/seed=0 \
        --config.init=None --config.seed=0
Hardware, time, result: not run yet.
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
    Supervised,
    TFDSExamples,
    Translation,
)

from . import t5_objectives_small

SERIES = t5_objectives_small.get_config()


def get_config() -> Experiment:
    return Experiment(
        model=replace(SERIES.model, dropout=0.1),
        init="sweeps/t5_objectives/seed=0,objective=ReplaceSpans",
        data=Supervised(
            tasks=(Translation(examples=TFDSExamples("multi30k"), source="en", target="de"),),
            tokenizer=SentencePiece("sweeps/t5_objectives/seed=0,objective=ReplaceSpans/tokenizer.model"),
            input_length=128,
            target_length=128,
        ),
        optimizer=Adafactor(schedule=Linear(peak=1e-2, warmup=50)),
        steps=800,
        batch_size=8,
        evaluation=Evaluation(every=400, rows=512, generation=Generation(max_length=96), examples=256, best="bleu"),
        checkpoint=Checkpoint(every=400, keep=1),
        report=SERIES.report,
    )
