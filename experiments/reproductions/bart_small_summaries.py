"""Fine-tuning of the models of bart_noise_small.py (beside this file) to summarize Python functions.

The task and the budget are those of small_summaries.py; the model is that of the series, and the optimizer BART's.

Commands:
    python -m scripts.sweep experiments/reproductions/bart_small_summaries.py --dir sweeps/bart_noise_summaries \
        --jobs 2 --from sweeps/bart_noise
Hardware, time: 2 cores of an AMD EPYC beside some tests, about 5 minutes a run, a core each (commit bdd30654, where the
    best checkpoint was that of ROUGE-L).
Result: held-out loss 4.532 to 4.556; ../LOG.md discusses it.
"""

from dataclasses import replace

from research import (
    AdamW,
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

from . import bart_noise_small

SERIES = bart_noise_small.get_config()


def get_config() -> Experiment:
    return Experiment(
        model=replace(SERIES.model, dropout=0.1),
        init="sweeps/bart_noise/seed=0,objective=BART",
        data=Supervised(
            tasks=(Summarization(examples=TFDSExamples("python_docs/summaries"), source="function", target="summary"),),
            tokenizer=SentencePiece("sweeps/bart_noise/seed=0,objective=BART/tokenizer.model", sentinels=1),
            input_length=128,
            target_length=32,
        ),
        optimizer=AdamW(schedule=Linear(peak=1e-3, warmup=50), clip_norm=1.0, weight_decay=0.01, b2=0.98, epsilon=1e-6),
        loss=SERIES.loss,
        steps=800,
        batch_size=8,
        evaluation=Evaluation(
            every=400, rows=512, generation=Generation(max_length=32), examples=512, best="held_out_loss"
        ),
        checkpoint=Checkpoint(every=400, keep=1),
        report=SERIES.report,
    )
