"""T5's fine-tuning on GLUE, SuperGLUE, SQuAD, CNN/DailyMail and WMT, with T5 base or any other T5.

Paper: Raffel et al., arXiv:1910.10683. From sections 3.1.2 and 3.7: constant rate 0.001, Adafactor, dropout 0.1, 2**18
steps. Prefixes, labels and metrics are t5 0.9.4's, lengths those of its files sequence_lengths/*.gin.

Sizes:
    glue, super_glue, squad, cnn_dailymail, wmt_en_de, wmt_en_fr, wmt_en_ro    the columns of tables 1 to 13 and 15: 128
        rows of 512 tokens, checkpoints every 5,000 steps, greedy decoding, scores on the validation set. Each benchmark
        is one mixture of its tasks, in proportion to their examples
    cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, boolq, cb, copa, multirc, record, super_glue_rte, wic, wsc    a single
        task, as for table 14: 8 rows of 512 tokens, checkpoints every 1,000 steps. wsc has the pronouns of DPR too
Commands: t5-base is a Hugging Face directory; that of another T5 gives its dropout too. For 3b and 11b add
    --config.mesh.fsdp=8 --config.model.remat=full
    python -m scripts.train experiments/t5/finetune.py:cola --run_dir runs/t5_cola
    python -m scripts.train experiments/t5/finetune.py:squad --run_dir runs/t5_squad \
        --config.model='Pretrained("t5-v1_1-large")'
    For table 14, with its beam search: python -m scripts.evaluate runs/t5_wmt/checkpoints/best --split test \
        --generation.method='Beam(4, length_penalty=GNMT(0.6))'
    MNLI's mismatched genres: python -m scripts.evaluate runs/t5_mnli/checkpoints/best --split held_out \
        --task='MNLI(examples=TFDSExamples("glue/mnli", held_out="validation_mismatched"))'
Published: table 14, on test sets, for SQuAD on the validation set; EM is exact match, R ROUGE.

    T5       GLUE  SuperGLUE   SQuAD: EM    F1     WMT: EnDe  EnFr  EnRo   CNN/DM: R-1   R-2    R-L
    small    77.4    63.3          79.10  87.24        26.7   36.0  26.8         41.12  19.56  38.35
    base     82.7    76.2          85.44  92.08        30.9   41.2  28.0         42.05  20.34  39.40
    large    86.4    82.3          86.66  93.79        32.0   41.5  28.1         42.50  20.68  39.75
    3b       88.5    86.4          88.53  94.95        31.8   42.6  28.2         42.72  21.02  39.94
    11b      90.3    88.9          91.26  96.22        32.1   43.4  28.1         43.52  21.55  40.69

    On validation sets (table 15), T5 base: GLUE 85.97, CNN/DM 20.90 (ROUGE-2), SQuAD 85.44, SuperGLUE 75.64, EnDe
    28.37, EnFr 41.37, EnRo 28.98.
Differs: the authors take the best checkpoint of each task of a mixture; a run keeps the best one by one task, MNLI or
    ReCoRD, and metrics.jsonl has the scores of all tasks at each evaluation. For table 14's other tasks section 3.7
    speaks of batches of 2**11 rows: --config.batch_size=2048. Test labels of GLUE and SuperGLUE are not public.
Hardware, modelled by python -m scripts.plan experiments/t5/finetune.py:squad --hardware 8xH100: at least 14 chip-hours,
    13 each for glue and super_glue, 27 each for cnn_dailymail and wmt, 2 on one H100 for a single task, 605 for squad
    with the fields of 11b.
Time, result: not run yet.
"""

from typing import Literal

from research import (
    BLEU,
    CB,
    COPA,
    MNLI,
    MRPC,
    QNLI,
    QQP,
    ROUGE,
    RTE,
    SST2,
    STSB,
    WSC,
    Adafactor,
    BoolQ,
    Checkpoint,
    CoLA,
    Constant,
    Evaluation,
    Experiment,
    Generation,
    Mesh,
    ModelTokenizer,
    MultiRC,
    Pretrained,
    PronounResolution,
    QuestionAnswering,
    ReCoRD,
    SentencePiece,
    SQuAD,
    Summarization,
    SuperGLUERTE,
    Supervised,
    Task,
    TFDSExamples,
    Translation,
    WiC,
)
from research.model import family

T5_BASE = Pretrained.like(family.t5("base"), path="t5-base", tokenizer=SentencePiece("t5-base/spiece.model"))
GLUE = (CoLA(), SST2(), MRPC(), QQP(), STSB(), MNLI(), QNLI(), RTE())
SUPER_GLUE = (PronounResolution(metrics=()), WSC(), BoolQ(), CB(), COPA(), MultiRC(), ReCoRD(), SuperGLUERTE(), WiC())
SUMMARIES = Summarization(
    examples=TFDSExamples("cnn_dailymail"),
    source="article",
    target="highlights",
    prefix="summarize: ",
    metrics=(ROUGE(stemmer=False, bootstrap=True, sentences="full_stop"),),
)
QUESTIONS = QuestionAnswering(examples=TFDSExamples("squad"), text="spaced", metrics=(SQuAD("1.1"),))


def translation(examples: str, target: str, language: str) -> Translation:
    prefix = f"translate English to {language}: "
    return Translation(examples=TFDSExamples(examples), target=target, prefix=prefix, metrics=(BLEU("intl"),))


TRANSLATIONS = (
    translation("wmt_t2t_translate/de-en", "de", "German"),
    translation("wmt15_translate/fr-en", "fr", "French"),
    translation("wmt16_translate/ro-en", "ro", "Romanian"),
)


def finetuning(*tasks: Task, length: int = 512, best: str, rows: int = 128, every: int = 5_000) -> Experiment:
    """Return the fine-tuning on tasks whose targets have at most `length` tokens."""
    return Experiment(
        model=T5_BASE,
        data=Supervised(tasks=tasks, tokenizer=ModelTokenizer(), input_length=512, target_length=length),
        optimizer=Adafactor(schedule=Constant(peak=1e-3)),
        steps=2**18,
        batch_size=rows,
        mesh=Mesh(data=-1),
        evaluation=Evaluation(every=every, generation=Generation(max_length=length), examples=50_000, best=best),
        checkpoint=Checkpoint(every=every),
    )


def alone(*tasks: Task, best: str) -> Experiment:
    return finetuning(*tasks, best=best, rows=8, every=1_000)


SIZES = {
    "glue": finetuning(*GLUE, length=84, best="glue/mnli/accuracy"),
    "super_glue": finetuning(*SUPER_GLUE, length=62, best="super_glue/record/f1"),
    "squad": finetuning(QUESTIONS, length=97, best="exact_match"),
    "cnn_dailymail": finetuning(SUMMARIES, best="rouge2"),
    "wmt_en_de": finetuning(TRANSLATIONS[0], best="bleu_intl"),
    "wmt_en_fr": finetuning(TRANSLATIONS[1], best="bleu_intl"),
    "wmt_en_ro": finetuning(TRANSLATIONS[2], best="bleu_intl"),
    "cola": alone(CoLA(), best="matthews_corrcoef"),
    "sst2": alone(SST2(), best="accuracy"),
    "mrpc": alone(MRPC(), best="accuracy"),
    "stsb": alone(STSB(), best="spearman_corrcoef"),
    "qqp": alone(QQP(), best="accuracy"),
    "mnli": alone(MNLI(), best="accuracy"),
    "qnli": alone(QNLI(), best="accuracy"),
    "rte": alone(RTE(), best="accuracy"),
    "boolq": alone(BoolQ(), best="accuracy"),
    "cb": alone(CB(), best="accuracy"),
    "copa": alone(COPA(), best="accuracy"),
    "multirc": alone(MultiRC(), best="label_f1"),
    "record": alone(ReCoRD(), best="f1"),
    "super_glue_rte": alone(SuperGLUERTE(), best="accuracy"),
    "wic": alone(WiC(), best="accuracy"),
    "wsc": alone(PronounResolution(metrics=()), WSC(), best="super_glue/wsc.fixed/accuracy"),
}


def get_config(
    size: Literal[
        "glue", "super_glue", "squad", "cnn_dailymail", "wmt_en_de", "wmt_en_fr", "wmt_en_ro",
        "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte",
        "boolq", "cb", "copa", "multirc", "record", "super_glue_rte", "wic", "wsc",
    ] = "squad",
) -> Experiment:  # fmt: skip
    return SIZES[size]
