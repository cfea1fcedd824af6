"""The pretraining of T5 as it was released: C4 and all supervised tasks in one mixture.

Sizes: small 60 M parameters, base (the default) 223 M, large 738 M, 3b and 11b.

Paper: Raffel et al., arXiv:1910.10683, sections 3.5.3 and 3.7: spans of 3 among 15 % of C4's tokens, GLUE, SuperGLUE,
SQuAD, CNN/DailyMail and WMT; 1,000,000 steps of 2**11 rows of 512 tokens, Adafactor with the inverse square root
schedule, dropout 0.1. Rates are t5 0.9.4's all_mix: of each task its number of examples, half of it for each RTE, as
both benchmarks have the same, and at most 1,000,000, which English to French and to German have. C4 has the artificial
size of the paper: 710,000 small, 2,620,000 base, 8,660,000 large, 33,500,000 3b, 133,000,000 11b. These five and the
million were written down without a copy of section 3.7 at hand.

Command: python -m scripts.train experiments/t5/multitask.py:base --run_dir runs/t5_base
    To fine-tune it: python -m scripts.train experiments/t5/finetune.py:squad --run_dir runs/t5_squad \
        --config.model='Pretrained("runs/t5_base")'
Data: those of v1_1_c4.py and finetune.py beside this file. With fewer tasks give --config.data.tasks and the rates of
    those, --config.data.mixing='Mixing(limit=1000000)'.
Differs: a row has examples of one task, where seqio packs those of several; rates of examples are equal. Held-out loss
    is over the text and the examples, each by its size. Targets have 512 tokens for all, which we chose: CNN/DailyMail
    and WMT have them in finetune.py, while those of text have 114.
Hardware, modelled by python -m scripts.plan experiments/t5/multitask.py:base --hardware v5p-256: at
    least 1,808 chip-hours
Time, result: not run yet, at any size.
"""

from typing import Literal

from research import (
    CB,
    COPA,
    MNLI,
    MRPC,
    QNLI,
    QQP,
    RTE,
    SST2,
    STSB,
    TFDS,
    WSC,
    Adafactor,
    BoolQ,
    Checkpoint,
    CoLA,
    Evaluation,
    Experiment,
    InverseSquareRoot,
    Mesh,
    Mixing,
    MultiRC,
    PronounResolution,
    ReCoRD,
    SentencePiece,
    SpanCorruption,
    SuperGLUERTE,
    Supervised,
    Task,
    UnlabelledText,
    WiC,
)
from research.model import family

from . import finetune

# t5 0.9.4's numbers of examples. The other tasks have those of their data, which are counted.
EXAMPLES: dict[type[Task], float] = {
    **{CoLA: 8551.0, SST2: 67349.0, MRPC: 3668.0, QQP: 363849.0, STSB: 5749.0, MNLI: 392702.0, QNLI: 104743.0},
    **{BoolQ: 9427.0, CB: 250.0, COPA: 400.0, MultiRC: 27243.0, ReCoRD: 138854.0, WiC: 5428.0, WSC: 259.0},
    **{PronounResolution: 1322.0, RTE: 2490 / 2, SuperGLUERTE: 2490 / 2},
}
TASKS = (*finetune.GLUE, *finetune.SUPER_GLUE, finetune.QUESTIONS, finetune.SUMMARIES, *finetune.TRANSLATIONS)
ARTIFICIAL = {"small": 710e3, "base": 2.62e6, "large": 8.66e6, "3b": 33.5e6, "11b": 133e6}
REMAT = {"small": "none", "base": "none", "large": "none", "3b": "dots", "11b": "full"}
FSDP = {"small": 1, "base": 1, "large": 1, "3b": 8, "11b": 64}


def get_config(size: Literal["small", "base", "large", "3b", "11b"] = "base") -> Experiment:
    return Experiment(
        model=family.t5(size, remat=REMAT[size]),
        data=Supervised(
            tasks=TASKS,
            tokenizer=SentencePiece("sentencepiece.model"),
            input_length=512,
            target_length=512,
            mixing=Mixing(limit=1_000_000, rates=tuple(EXAMPLES.get(type(task)) for task in TASKS)),
            unlabelled=UnlabelledText((TFDS("c4/en:2.2.0"),), SpanCorruption(0.15, 3.0), rate=ARTIFICIAL[size]),
        ),
        optimizer=Adafactor(schedule=InverseSquareRoot(peak=0.01, timescale=10_000)),
        steps=1_000_000,
        batch_size=2048,
        mesh=Mesh(data=-1, fsdp=FSDP[size]),
        evaluation=Evaluation(every=10_000, rows=32_768),
        checkpoint=Checkpoint(every=5_000),
    )
