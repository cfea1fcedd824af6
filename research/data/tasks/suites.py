"""Suites of tasks by which models are compared: GLUE, SuperGLUE, all tasks of T5, and XTREME's as text.

T5's tables of ablations (arXiv:1910.10683) have scores of validation sets, which are `held_out` here. Its table 14 has
those of test sets, for GLUE and SuperGLUE from their servers, and for SQuAD those of the validation set. The tasks are
named as in t5 0.9.4, without versions.

Translations are from the data sets of t5 0.9.4's mixtures: wmt_t2t_translate/de-en (WMT14's newstest2013, newstest2014)
and wmt15_translate/fr-en, whose validation set has newstest2014 and newsdiscussdev2015, where the paper speaks of WMT14
for both. WNLI is entailment, as in glue_wnli; T5's numbers for it are of a model that was asked as for WSC.

XTREME's classification and questions are in the form of mT5 (arXiv:2010.11934), each language a task of its own. Its
tables have scores of test sets, of TyDi QA those of the validation set, which is `test` here too; XQuAD has no other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from research.config import ConfigError, Task
from research.config.base import closest
from research.config.examples import SPLITS, Split
from research.data.tasks import multilingual
from research.data.tasks.classification import Classification
from research.data.tasks.data_set import TFDSExamples
from research.data.tasks.examples import JSONExamples
from research.data.tasks.glue import MNLI, MRPC, QNLI, QQP, RTE, SST2, STSB, WNLI, CoLA
from research.data.tasks.multilingual import EVALUATED, PAWSX, XNLI, WikiAnn
from research.data.tasks.super_glue import CB, COPA, WSC, AXb, BoolQ, MultiRC, ReCoRD, SuperGLUERTE, WiC
from research.data.tasks.text_to_text import QuestionAnswering, Summarization, Translation
from research.score.answers import SQuAD
from research.score.bleu import BLEU
from research.score.rouge import ROUGE

SQUAD = SQuAD("1.1")
SIMILARITIES = tuple(f"{number / 5:.1f}" for number in range(26))  # the texts of STS-B: 0.0, 0.2 ... 5.0

# The names of scores in papers' tables.
SHOWN = {
    **{"accuracy": "accuracy", "matthews_corrcoef": "Matthews", "label_f1": "F1", "mean_3class_f1": "F1"},
    **{"pearson_corrcoef": "Pearson", "spearman_corrcoef": "Spearman", "exact_match": "EM", "f1": "F1"},
    **{"sequence_accuracy": "accuracy", "rouge1": "R-1", "rouge2": "R-2", "rougeLsum": "R-L", "bleu_intl": "BLEU"},
}

Scores = Mapping[str, Mapping[str, float]]  # by the names of tasks, then of scores


class SuiteTask(NamedTuple):
    """A task of a suite: its name in commands and directories, its title in tables, and its scores in their order."""

    name: str
    title: str
    task: Task
    scores: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All outputs that the task can have; () if these are not known."""
        if isinstance(self.task, STSB):
            return SIMILARITIES
        return self.task.labels if isinstance(self.task, Classification) else ()

    def read_from(self, directory: Path) -> "SuiteTask":
        """Return the task with the examples of DIRECTORY/NAME/{train,held_out,test}.jsonl."""
        examples = JSONExamples(*(str(self.file(directory, split)) for split in SPLITS))
        return self._replace(task=replace(self.task, examples=examples))

    def file(self, directory: Path, split: Split) -> Path:
        return directory / self.name / f"{split}.jsonl"


class Average(NamedTuple):
    """The mean over groups of tasks of the mean score of each; tasks in one group count as one."""

    title: str
    groups: tuple[tuple[str, ...], ...]
    score: str | None = None  # None: all scores of a task

    def of(self, scores: Scores, tasks: Mapping[str, SuiteTask]) -> float | None:
        """Compute the average. Scores of one task are averaged first. None if a task has no scores."""
        if any(name not in scores for group in self.groups for name in group):
            return None
        named = {name: (self.score,) if self.score else tasks[name].scores for group in self.groups for name in group}
        each = {name: mean(scores[name][one] for one in chosen) for name, chosen in named.items()}
        return mean(mean(each[name] for name in group) for group in self.groups)


@dataclass(frozen=True)
class Suite:
    """Tasks that are evaluated together, with their averages; the server of a benchmark also wants its diagnostics."""

    name: str
    tasks: tuple[SuiteTask, ...]
    averages: tuple[Average, ...]
    diagnostics: tuple[SuiteTask, ...] = ()

    def averages_of(self, scores: Scores) -> dict[str, float | None]:
        """Compute the averages by their titles; None if a task has no scores."""
        tasks = {member.name: member for member in self.tasks}
        return {average.title: average.of(scores, tasks) for average in self.averages}


def suite(name: str) -> Suite:
    """Return the suite of that name. Raises ConfigError if there is none."""
    if name not in SUITES:
        like = closest(name, SUITES)
        remedy = f"there are {', '.join(SUITES)}" if like is None else f"did you mean {like}?"
        raise ConfigError(f"There is no suite {name}: {remedy}{'' if like else '.'}")
    return SUITES[name]


# --- GLUE -------------------------------------------------------------------------------------------------------------

MISMATCHED = TFDSExamples("glue/mnli", held_out="validation_mismatched", test="test_mismatched")

GLUE_TASKS = (
    SuiteTask("glue_cola", "CoLA", CoLA(), ("matthews_corrcoef",)),
    SuiteTask("glue_sst2", "SST-2", SST2(), ("accuracy",)),
    SuiteTask("glue_mrpc", "MRPC", MRPC(), ("label_f1", "accuracy")),
    SuiteTask("glue_stsb", "STS-B", STSB(), ("pearson_corrcoef", "spearman_corrcoef")),
    SuiteTask("glue_qqp", "QQP", QQP(), ("label_f1", "accuracy")),
    SuiteTask("glue_mnli_matched", "MNLI-m", MNLI(), ("accuracy",)),
    SuiteTask("glue_mnli_mismatched", "MNLI-mm", MNLI(examples=MISMATCHED), ("accuracy",)),
    SuiteTask("glue_qnli", "QNLI", QNLI(), ("accuracy",)),
    SuiteTask("glue_rte", "RTE", RTE(), ("accuracy",)),
    SuiteTask("glue_wnli", "WNLI", WNLI(), ("accuracy",)),
)
MNLI_PARTS = ("glue_mnli_matched", "glue_mnli_mismatched")
GLUE_GROUPS = (
    *((member.name,) for member in GLUE_TASKS if member.name not in MNLI_PARTS),
    MNLI_PARTS,
)
GLUE_AVERAGES = (
    Average("GLUE", GLUE_GROUPS),  # of the server: 9 tasks
    Average("GLUE without WNLI", tuple(group for group in GLUE_GROUPS if group != ("glue_wnli",))),  # of T5's tables
)
GLUE_DIAGNOSTICS = (SuiteTask("glue_ax", "AX", MNLI(examples=TFDSExamples("glue/ax")), ()),)

# --- SuperGLUE --------------------------------------------------------------------------------------------------------

SUPER_GLUE_TASKS = (
    SuiteTask("super_glue_boolq", "BoolQ", BoolQ(), ("accuracy",)),
    SuiteTask("super_glue_cb", "CB", CB(), ("mean_3class_f1", "accuracy")),
    SuiteTask("super_glue_copa", "COPA", COPA(), ("accuracy",)),
    SuiteTask("super_glue_multirc", "MultiRC", MultiRC(), ("label_f1", "exact_match")),
    SuiteTask("super_glue_record", "ReCoRD", ReCoRD(), ("f1", "exact_match")),
    SuiteTask("super_glue_rte", "RTE", SuperGLUERTE(), ("accuracy",)),
    SuiteTask("super_glue_wic", "WiC", WiC(), ("accuracy",)),
    SuiteTask("super_glue_wsc", "WSC", WSC(), ("accuracy",)),
)
SUPER_GLUE_AVERAGES = (Average("SuperGLUE", tuple((member.name,) for member in SUPER_GLUE_TASKS)),)
SUPER_GLUE_DIAGNOSTICS = (
    SuiteTask("super_glue_axb", "AX-b", AXb(), ()),
    SuiteTask("super_glue_axg", "AX-g", SuperGLUERTE(examples=TFDSExamples("super_glue/axg")), ()),
)

# --- T5's other tasks -------------------------------------------------------------------------------------------------


def _translation(name: str, title: str, data_set: str, target: str, language: str) -> SuiteTask:
    task = Translation(
        examples=TFDSExamples(data_set),
        target=target,
        prefix=f"translate English to {language}: ",
        metrics=(BLEU("intl"),),
    )
    return SuiteTask(name, title, task, ("bleu_intl",))


OTHER_TASKS = (
    SuiteTask(
        "squad",
        "SQuAD",
        QuestionAnswering(examples=TFDSExamples("squad"), text="spaced", metrics=(SQUAD,)),
        ("exact_match", "f1"),
    ),
    SuiteTask(
        "cnn_dailymail",
        "CNN/DM",
        Summarization(
            examples=TFDSExamples("cnn_dailymail"),
            source="article",
            target="highlights",
            prefix="summarize: ",
            metrics=(ROUGE(stemmer=False, sentences="full_stop"),),
        ),
        ("rouge1", "rouge2", "rougeLsum"),
    ),
    _translation("wmt_ende", "WMT En-De", "wmt_t2t_translate/de-en", "de", "German"),
    _translation("wmt_enfr", "WMT En-Fr", "wmt15_translate/fr-en", "fr", "French"),
    _translation("wmt_enro", "WMT En-Ro", "wmt16_translate/ro-en", "ro", "Romanian"),
)

T5_TASKS = (
    *GLUE_TASKS,
    *(one._replace(title="SuperGLUE's RTE") if one.title == "RTE" else one for one in SUPER_GLUE_TASKS),
    *OTHER_TASKS,
)

# --- XTREME -----------------------------------------------------------------------------------------------------------

# By the names of benchmarks, with their scores.
XTREME: Mapping[str, tuple[str, Mapping[str, Task], tuple[str, ...]]] = {
    "xnli": (
        "XNLI",
        {each: XNLI(language=each, examples=TFDSExamples("xnli")) for each in multilingual.XNLI_LANGUAGES},
        ("sequence_accuracy",),
    ),
    "pawsx": (
        "PAWS-X",
        {each: PAWSX(examples=TFDSExamples(f"paws_x_wiki/{each}")) for each in multilingual.PAWSX_LANGUAGES},
        ("accuracy",),
    ),
    "xquad": (
        "XQuAD",
        {each: multilingual.xquad_test(each) for each in multilingual.XQUAD_LANGUAGES},
        ("exact_match", "f1"),
    ),
    "mlqa": (
        "MLQA",
        {each: multilingual.mlqa_test(each) for each in multilingual.MLQA_LANGUAGES},
        ("exact_match", "f1"),
    ),
    "tydi_qa": (
        "TyDi QA",
        {each: multilingual.tydi_qa_validation(each, EVALUATED) for each in multilingual.TYDIQA_LANGUAGES},
        ("exact_match", "f1"),
    ),
    "wikiann": (
        "WikiAnn",
        {each: WikiAnn(examples=TFDSExamples(f"wikiann/{each}")) for each in multilingual.WIKIANN_LANGUAGES},
        ("span_f1",),
    ),
}
XTREME_TASKS = tuple(
    SuiteTask(f"{name}_{language}", f"{title} {language}", task, scores)
    for name, (title, tasks, scores) in XTREME.items()
    for language, task in tasks.items()
)
XTREME_AVERAGES = tuple(
    Average(
        title if len(scores) == 1 else f"{title} {SHOWN[score]}", tuple((f"{name}_{each}",) for each in tasks), score
    )
    for name, (title, tasks, scores) in XTREME.items()
    for score in scores
)

# --- All suites -------------------------------------------------------------------------------------------------------

SUITES = {
    one.name: one
    for one in (
        Suite("glue", GLUE_TASKS, GLUE_AVERAGES, GLUE_DIAGNOSTICS),
        Suite("superglue", SUPER_GLUE_TASKS, SUPER_GLUE_AVERAGES, SUPER_GLUE_DIAGNOSTICS),
        Suite("t5", T5_TASKS, (*GLUE_AVERAGES, *SUPER_GLUE_AVERAGES)),
        Suite("xtreme-gen", XTREME_TASKS, XTREME_AVERAGES),
    )
}
