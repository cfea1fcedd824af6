"""The quickstart's T5 on DialogSum's 500 development dialogues: too few to learn to summarize, enough to try it out.

Data: Chen et al., arXiv:2105.06762; dialogsum.dev.jsonl and dialogsum.test.jsonl in the directory of manual_dir.
Commands:
    ./scripts/quickstart
    python -m scripts.train experiments/finetune/dialogsum.py --run_dir runs/dialogsum --config.data.manual_dir=DIR
    python -m scripts.evaluate runs/dialogsum/checkpoints/best --split test
To check that it learns at all, overfit it to 32 examples and evaluate it on the same ones:
    python -m scripts.train experiments/finetune/dialogsum.py --run_dir runs/dialogsum_32 --config.data.manual_dir=DIR \
        --config.data.tasks='[Summarization(source="dialogue",
            examples=TFDSExamples("dialogsum", train="validation[:32]", held_out="validation[:32]"))]' \
        --config.model.dropout=0 --config.steps=1500 --config.evaluation.every=500 --config.batch_size=4
Result: ROUGE-L 18.95 on the 500 test dialogues; 98.78 after overfitting to 32 dialogues; on one NVIDIA H200,
    shared with a dozen other runs (commit 5db4c41; LOG.md).
"""

from dataclasses import replace

from research import (
    Adafactor,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    SentencePiece,
    Summarization,
    Supervised,
    TFDSExamples,
)

from .. import quickstart

QUICKSTART = quickstart.get_config()


def get_config() -> Experiment:
    return Experiment(
        model=replace(QUICKSTART.model, dropout=0.1),
        init="runs/quickstart",
        data=Supervised(
            tasks=(
                Summarization(
                    examples=TFDSExamples("dialogsum", train="validation[:90%]", held_out="validation[90%:]"),
                    source="dialogue",
                ),
            ),
            tokenizer=SentencePiece("runs/quickstart/tokenizer.model"),
            input_length=512,
            target_length=128,
        ),
        optimizer=Adafactor(schedule=Constant(peak=5e-3, warmup=50)),
        steps=1_000,
        batch_size=8,
        evaluation=Evaluation(every=250, rows=16, generation=Generation(max_length=96), examples=50, best="rougeL"),
        checkpoint=Checkpoint(every=250),
        report=QUICKSTART.report,
    )
