"""The quickstart's T5 on XQuAD's English questions: context and question in, answer out.

Data: Artetxe et al., arXiv:1910.11856; its articles are divided here: most are for training, the others are held out.
Commands:
    ./scripts/quickstart
    python -m scripts.train experiments/finetune/xquad.py --run_dir runs/xquad --config.data.manual_dir=DIR
    python -m scripts.evaluate runs/xquad/checkpoints/best --split test
    Without manual_dir the file is downloaded.
To check that it learns at all, overfit it to 32 examples and evaluate it on the same ones:
    python -m scripts.train experiments/finetune/xquad.py --run_dir runs/xquad_32 --config.data.manual_dir=DIR \
        --config.data.tasks='[QuestionAnswering(
            examples=TFDSExamples("xquad/en", train="train[:32]", held_out="train[:32]"))]' \
        --config.model.dropout=0 --config.steps=1500 --config.evaluation.every=500 --config.batch_size=4
Result: no exact match among the 88 test questions, F1 0.25: 994 questions teach a model of this size nothing; exact
    match 100 after overfitting to 32 questions; on one NVIDIA H200, shared with a dozen other runs
    (commit 5db4c41; LOG.md).
"""

from dataclasses import replace

from research import (
    Adafactor,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    QuestionAnswering,
    SentencePiece,
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
            tasks=(QuestionAnswering(examples=TFDSExamples("xquad/en")),),
            tokenizer=SentencePiece("runs/quickstart/tokenizer.model"),
            input_length=512,
            target_length=64,
        ),
        optimizer=Adafactor(schedule=Constant(peak=5e-3, warmup=50)),
        steps=1_000,
        batch_size=8,
        evaluation=Evaluation(every=250, rows=16, generation=Generation(max_length=32), examples=100, best="f1"),
        checkpoint=Checkpoint(every=250),
        report=QUICKSTART.report,
    )
