"""Any trained model learns to summarize: document in, summary out.

Commands: the quickstart's T5, or any other model, on the task of the size; on your own examples with data.tasks.
    ./scripts/quickstart
    python -m scripts.train experiments/finetune/summarize.py --run_dir runs/summaries
    python -m scripts.evaluate runs/summaries/checkpoints/best --split test
    python -m scripts.train experiments/finetune/summarize.py --run_dir runs/x --config.model='Pretrained("DIR")'
    Architecture and vocabulary of the model, with random weights to compare with: --config.init_fresh='[".*"]'
Sizes:
    python    functions of Python's library: the body in, the docstring's first sentence out
    dialogsum    500 dialogues (Chen et al., arXiv:2105.06762), too few to learn to summarize: dialogsum.dev.jsonl and
        dialogsum.test.jsonl in the directory of --config.data.manual_dir=DIR, or downloaded
    cnn_dailymail_bart_large    BART large as its authors did (Lewis et al., arXiv:1910.13461, 5.3; fairseq,
        examples/bart/README.summarization.md): learning rate 3e-5, linear to 0 in 20,000 updates after 500 of warm-up,
        Adam (0.9, 0.999, 1e-8), weight decay 0.01, clipping 0.1, label smoothing 0.1, dropout 0.1, attention dropout
        0.1, 65,536 tokens an update; beam 4, length penalty 2, 55 to 140 tokens, no trigram twice. bart-large is a
        Hugging Face directory: with another place, --config.model='Pretrained("DIR", attention_dropout=0.1)'
To check that the dialogues' size learns at all, overfit it to 32 examples and evaluate it on the same ones:
    --config.data.tasks='[Summarization(source="dialogue",
        examples=TFDSExamples("dialogsum", train="validation[:32]", held_out="validation[:32]"))]'
    --config.model.dropout=0 --config.steps=1500 --config.evaluation.every=500 --config.batch_size=4
Result: of python, ROUGE-L 17.03 on the test examples, 16.43 from random weights, means of three seeds each; of
    dialogsum, 18.95 on the 500 test dialogues, 98.78 after overfitting to 32 dialogues; on one NVIDIA H200, shared with
    a dozen other runs (commit 5db4c41, whose files python_summaries.py and dialogsum.py are these sizes; LOG.md). The
    size cnn_dailymail_bart_large was not run: its paper has 44.16 / 21.28 / 40.90 ROUGE-1 / 2 / L.
"""

from typing import Literal

from research import (
    Adafactor,
    AdamW,
    Beam,
    ByteLevelBPE,
    Checkpoint,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    Loss,
    ModelGeneration,
    ModelTokenizer,
    Power,
    Pretrained,
    SentencePiece,
    Summarization,
    Supervised,
    TFDSExamples,
)
from research.model import family

from .. import quickstart

QUICKSTART = quickstart.get_config()
TRAINED = Pretrained.like(
    QUICKSTART.model,
    path="runs/quickstart",
    tokenizer=SentencePiece("runs/quickstart/tokenizer.model"),
    generation=Generation(max_length=32),
    dropout=0.1,
)

SIZES = {
    "python": Experiment(
        model=TRAINED,
        data=Supervised(
            tasks=(Summarization(examples=TFDSExamples("python_docs/summaries"), source="function", target="summary"),),
            tokenizer=ModelTokenizer(),
            input_length=256,
            target_length=64,
        ),
        optimizer=Adafactor(schedule=Linear(peak=1e-2, warmup=100)),
        steps=4_000,
        batch_size=16,
        evaluation=Evaluation(every=500, rows=256, generation=ModelGeneration(), examples=256, best="rougeL"),
        checkpoint=Checkpoint(every=500),
        report=QUICKSTART.report,
    ),
    "dialogsum": Experiment(
        model=Pretrained.like(
            TRAINED, path=TRAINED.path, tokenizer=TRAINED.tokenizer, generation=Generation(max_length=96)
        ),
        data=Supervised(
            tasks=(
                Summarization(
                    examples=TFDSExamples("dialogsum", train="validation[:90%]", held_out="validation[90%:]"),
                    source="dialogue",
                ),
            ),
            tokenizer=ModelTokenizer(),
            input_length=512,
            target_length=128,
        ),
        optimizer=Adafactor(schedule=Constant(peak=5e-3, warmup=50)),
        steps=1_000,
        batch_size=8,
        evaluation=Evaluation(every=250, rows=16, generation=ModelGeneration(), examples=50, best="rougeL"),
        checkpoint=Checkpoint(every=250),
        report=QUICKSTART.report,
    ),
    "cnn_dailymail_bart_large": Experiment(
        model=Pretrained.like(
            family.bart("large", attention_dropout=0.1), path="bart-large", tokenizer=ByteLevelBPE("bart-large")
        ),
        data=Supervised(
            tasks=(Summarization(examples=TFDSExamples("cnn_dailymail"), source="article", target="highlights"),),
            tokenizer=ModelTokenizer(),
            input_length=1024,
            target_length=256,
        ),
        loss=Loss(z_loss=0.0, label_smoothing=0.1, smoothing="fairseq"),
        optimizer=AdamW(schedule=Linear(peak=3e-5, warmup=500), weight_decay=0.01, no_decay=(), clip_norm=0.1),
        steps=20_000,
        batch_size=64,
        evaluation=Evaluation(
            every=2_000,
            generation=Generation(
                method=Beam(4, length_penalty=Power(2.0), stop="first"),
                max_length=140,
                min_length=55,
                no_repeat_ngram=3,
            ),
            best="rougeL",
        ),
        checkpoint=Checkpoint(every=2_000),
    ),
}


def get_config(size: Literal["python", "dialogsum", "cnn_dailymail_bart_large"] = "python") -> Experiment:
    return SIZES[size]
