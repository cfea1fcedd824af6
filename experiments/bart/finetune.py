"""BART's fine-tuning on XSum, SQuAD and GLUE, with BART large or any other BART.

Paper: Lewis et al., arXiv:1910.13461, section 5. CNN/DailyMail is ../finetune/summarize.py:cnn_dailymail_bart_large.
Sizes:
    xsum    15,000 updates of 32,768 tokens; beam 6, length penalty 1, 10 to 60 tokens, no trigram twice; all else as
        for CNN/DailyMail (fairseq, examples/bart/README.summarization.md and summarize.py)
    squad    SQuAD 1.1 with RoBERTa's values: rate 1.5e-5, 48 questions an update, two epochs, warm-up for 6 % of them
        (arXiv:1907.11692, table 10), since BART's authors give none
    mnli, qnli, qqp, rte, sst2, mrpc, cola    rates, batches, updates and warm-up of fairseq's README.glue.md: Adam
        (0.9, 0.98, 1e-8), weight decay 0.01, no clipping, dropout and attention dropout 0.1
Commands: bart-large is a Hugging Face directory.
    python -m scripts.train experiments/bart/finetune.py:xsum --run_dir runs/bart_xsum --config.data.manual_dir=DIR
    python -m scripts.evaluate runs/bart_xsum/checkpoints/best --split test
    python -m scripts.train experiments/bart/finetune.py:rte --run_dir runs/bart_rte \
        --config.model='Pretrained("bart-base", attention_dropout=0.1)'
Data: by TensorFlow Datasets names; XSum's builder asks for xsum-extracts-from-downloads.tar.gz in manual_dir.
Published, of BART large: XSum 45.14 / 22.27 / 37.25 ROUGE-1 / 2 / L (paper, table 3); on validation sets (fairseq,
    examples/bart/README.md) SQuAD 88.8 exact match, 94.6 F1, MNLI 89.9, QNLI 94.9, QQP 92.5, RTE 87.0, SST-2 96.6, MRPC
    90.4, CoLA 62.8.
Differs: SQuAD and GLUE are another method here. BART's authors classify the last state of the decoder, for SQuAD each
    state as the start or the end of the answer; here the model writes the label or the answer, with T5's words. STS-B,
    a regression there, is left out. XSum's rows are packed. ROUGE is rouge-score's, not that of files2rouge.
Hardware, modelled by python -m scripts.plan experiments/bart/finetune.py:xsum --hardware 8xH100: at least 1 chip-hour,
    2 for mnli, below 1 for squad and rte.
Time, result: not run yet.
"""

from dataclasses import replace
from typing import Literal

from research import (
    MNLI,
    MRPC,
    QNLI,
    QQP,
    RTE,
    SST2,
    AdamW,
    Beam,
    Buckets,
    Checkpoint,
    CoLA,
    Evaluation,
    Experiment,
    Generation,
    Linear,
    ModelTokenizer,
    Power,
    QuestionAnswering,
    SQuAD,
    Summarization,
    Supervised,
    Task,
    TFDSExamples,
)

from ..finetune import summarize

CNN = summarize.get_config("cnn_dailymail_bart_large")
BEAM = Generation(
    method=Beam(6, length_penalty=Power(1.0), stop="first"), max_length=60, min_length=10, no_repeat_ngram=3
)

XSUM = replace(
    CNN,
    data=Supervised(
        tasks=(Summarization(examples=TFDSExamples("xsum")),),
        tokenizer=ModelTokenizer(),
        input_length=1024,
        target_length=128,
    ),
    optimizer=AdamW(schedule=Linear(peak=3e-5, warmup=500), weight_decay=0.01, no_decay=(), clip_norm=0.1),
    steps=15_000,
    batch_size=32,
    evaluation=Evaluation(every=1_500, generation=BEAM, best="rougeL"),
    checkpoint=Checkpoint(every=1_500),
)


def short_answers(task: Task, peak: float, rows: int, steps: int, warmup: int, best: str = "accuracy") -> Experiment:
    """Return the fine-tuning on a task of GLUE or on SQuAD: one example a row, evaluated ten times."""
    every = -(-steps // 10)
    return replace(
        CNN,
        data=Supervised(
            tasks=(task,),
            tokenizer=ModelTokenizer(),
            input_length=512,
            target_length=64,
            batching=Buckets((512,)),
        ),
        loss=replace(CNN.loss, label_smoothing=0.0),
        optimizer=AdamW(schedule=Linear(peak=peak, warmup=warmup), b2=0.98, weight_decay=0.01, no_decay=()),
        steps=steps,
        batch_size=rows,
        evaluation=Evaluation(every=every, generation=Generation(max_length=64), examples=50_000, best=best),
        checkpoint=Checkpoint(every=every),
    )


QUESTIONS = QuestionAnswering(examples=TFDSExamples("squad"), source="{question} {context}", metrics=(SQuAD("1.1"),))
SIZES = {
    "xsum": XSUM,
    "squad": short_answers(QUESTIONS, 1.5e-5, rows=48, steps=3_650, warmup=219, best="f1"),
    "mnli": short_answers(MNLI(), 5e-6, rows=128, steps=30_968, warmup=1_858),
    "qnli": short_answers(QNLI(), 1e-5, rows=32, steps=33_112, warmup=1_986),
    "qqp": short_answers(QQP(), 1e-5, rows=32, steps=113_272, warmup=6_796),
    "rte": short_answers(RTE(), 1e-5, rows=32, steps=1_018, warmup=61),
    "sst2": short_answers(SST2(), 5e-6, rows=128, steps=5_233, warmup=314),
    "mrpc": short_answers(MRPC(), 2e-5, rows=64, steps=1_148, warmup=68),
    "cola": short_answers(CoLA(), 2e-5, rows=64, steps=1_334, warmup=80, best="matthews_corrcoef"),
}


def get_config(
    size: Literal["xsum", "squad", "mnli", "qnli", "qqp", "rte", "sst2", "mrpc", "cola"] = "xsum",
) -> Experiment:
    return SIZES[size]
