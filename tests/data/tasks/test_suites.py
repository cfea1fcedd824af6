"""Suites: every task has its scores, averages are those of the papers, and servers' files have their format."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import suite_data

from research import AXb
from research.config import ConfigError
from research.data.tasks.examples import JSONExamples
from research.data.tasks.submissions import SERVER_FILES, Unlabelled, UnlabelledOutputs, read_ids
from research.data.tasks.suites import SUITES, SuiteTask, suite
from research.data.tasks.task import open_task
from research.report.published_suites import BART_LARGE, PUBLISHED_SUITES, T5_11B
from research.report.suite_table import suite_table
from research.score import metrics

EVERY = {member.name: member for one in SUITES.values() for member in (*one.tasks, *one.diagnostics)}
GLUE_SCORES = {
    "glue_cola": {"matthews_corrcoef": 60.0},
    "glue_sst2": {"accuracy": 90.0},
    "glue_mrpc": {"label_f1": 90.0, "accuracy": 80.0},  # 85
    "glue_stsb": {"pearson_corrcoef": 88.0, "spearman_corrcoef": 86.0},  # 87
    "glue_qqp": {"label_f1": 70.0, "accuracy": 90.0},  # 80
    "glue_mnli_matched": {"accuracy": 84.0},
    "glue_mnli_mismatched": {"accuracy": 82.0},  # 83 with the other
    "glue_qnli": {"accuracy": 91.0},
    "glue_rte": {"accuracy": 75.0},
    "glue_wnli": {"accuracy": 60.0},
}


@pytest.mark.parametrize("member", EVERY.values(), ids=EVERY)
def test_every_task_makes_examples_of_its_columns_and_has_its_scores(member: SuiteTask, tmp_path: Path) -> None:
    suite_data.write(tmp_path, [member.name])
    examples = open_task(member.read_from(tmp_path).task, "held_out")
    made = examples.read(np.arange(len(examples)))
    assert len(made) == suite_data.COUNT
    targets, references = [one.target for one in made], [one.references for one in made]
    assert set(targets) <= set(member.labels or targets)
    scores = metrics.score(member.task.metrics, targets, references, [one.more for one in made])
    assert set(member.scores) <= set(scores)
    if member.scores and member.name != "super_glue_wsc":  # where half of the candidates are false
        assert [scores[name].value for name in member.scores] == pytest.approx([100.0] * len(member.scores))


def test_glue_averages_are_the_server_s_and_that_of_t5_s_tables() -> None:
    """By hand: (60 + 90 + 85 + 87 + 80 + 83 + 91 + 75 + 60) / 9, and the same without the last, / 8."""
    averages = suite("glue").averages_of(GLUE_SCORES)
    assert averages == {"GLUE": pytest.approx(711 / 9), "GLUE without WNLI": pytest.approx(651 / 8)}
    without = {name: scores for name, scores in GLUE_SCORES.items() if name != "glue_wnli"}
    assert suite("glue").averages_of(without) == {"GLUE": None, "GLUE without WNLI": pytest.approx(651 / 8)}


def test_the_published_scores_of_t5_11b_have_its_published_average() -> None:
    """The server shows 89.3: scores of one task are averaged first."""
    scores = {
        member.name: dict(zip(member.scores, T5_11B.scores[member.name], strict=True))
        for member in suite("superglue").tasks
    }
    average = suite("superglue").averages_of(scores)["SuperGLUE"]
    assert average == pytest.approx(89.25)
    assert suite("t5").averages_of(scores) == {"GLUE": None, "GLUE without WNLI": None, "SuperGLUE": average}


def test_the_averages_of_xtreme_are_of_one_score_in_all_languages() -> None:
    chosen = suite("xtreme-gen")
    scores = {
        member.name: dict.fromkeys(member.scores, 10.0) | {"f1": float(number)}
        for number, member in enumerate(chosen.tasks)
    }
    averages = chosen.averages_of(scores)
    assert (averages["XNLI"], averages["MLQA EM"]) == (10.0, 10.0)
    numbers = [number for number, member in enumerate(chosen.tasks) if member.name.startswith("mlqa")]
    assert averages["MLQA F1"] == pytest.approx(sum(numbers) / 7)
    assert len(chosen.tasks) == 15 + 7 + 11 + 7 + 9 + 40


@pytest.mark.parametrize("model", PUBLISHED_SUITES, ids=lambda model: model.name)
def test_published_scores_are_of_tasks_and_their_scores(model: Any) -> None:
    titles = {average.title for one in SUITES.values() for average in one.averages}
    assert set(model.averages) <= titles
    for name, values in model.scores.items():
        assert len(values) == len(EVERY[name].scores)
        assert any(value is not None for value in values)
        assert all(value is None or 0 < value < 100 for value in values)


def test_the_table_has_every_task_and_names_its_sources() -> None:
    table = suite_table(suite("glue"), {"glue_mrpc": {"label_f1": 90.0, "accuracy": 80.126}}, "glue")
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert list(rows) == [*(member.title for member in suite("glue").tasks), "GLUE", "GLUE without WNLI"]
    column = list(table.header).index(BART_LARGE.name) - 1
    assert rows["MRPC"][:2] == ["F1/accuracy", "90.00/80.13"]
    assert rows["MRPC"][column] == "-/90.4"
    assert rows["STS-B"][1] == rows["STS-B"][column] == rows["GLUE"][1] == ""
    assert "1910.10683, table 14" in table.note
    names = [model.name for model in PUBLISHED_SUITES if set(model.scores) & {m.name for m in suite("superglue").tasks}]
    assert names == ["T5-11B"]
    assert "BART-large" not in suite_table(suite("superglue"), {}, "").header


def test_an_unknown_suite_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^There is no suite gleu: did you mean glue\?$"):
        suite("gleu")
    with pytest.raises(ConfigError, match=r"^There is no suite blimp: there are glue, superglue, t5, xtreme-gen\.$"):
        suite("blimp")


def test_broad_diagnostics_are_asked_as_rte(tmp_path: Path) -> None:
    """As in t5 0.9.4, whose tasks.py takes sentence1 as the premise and sentence2 as the hypothesis."""
    (tmp_path / "test.jsonl").write_text(json.dumps({"sentence1": "Cats sleep.", "sentence2": "A cat.", "label": 1}))
    examples = open_task(AXb(examples=JSONExamples("none", test=str(tmp_path / "test.jsonl"))), "test")
    (made,) = examples.read(np.arange(1))
    assert made[:2] == ("rte hypothesis: A cat. premise: Cats sleep.", "not_entailment")


# --- Submissions ------------------------------------------------------------------------------------------------------

ENTAILMENT = (
    '{"idx": 7, "label": "entailment"}',
    '{"idx": 9, "label": "not_entailment"}',
    '{"idx": 8, "label": "entailment"}',
)
LINES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # outputs, the last of which is no label, and lines
    "glue_cola": (("unacceptable", "acceptable", "?"), ("7\t0", "9\t1", "8\t0")),
    "glue_sst2": (("positive", "negative", ""), ("7\t1", "9\t0", "8\t0")),
    "glue_mrpc": (("equivalent", "not_equivalent", "Equivalent"), ("7\t1", "9\t0", "8\t0")),
    "glue_stsb": (("3.8", "7", "high"), ("7\t3.800", "9\t5.000", "8\t0.000")),
    "glue_qqp": (("duplicate", "not_duplicate", "1"), ("7\t1", "9\t0", "8\t0")),
    "glue_mnli_matched": (("neutral", "contradiction", "?"), ("7\tneutral", "9\tcontradiction", "8\tentailment")),
    "glue_mnli_mismatched": (("neutral", "entailment", "?"), ("7\tneutral", "9\tentailment", "8\tentailment")),
    "glue_qnli": (("not_entailment", "entailment", "?"), ("7\tnot_entailment", "9\tentailment", "8\tentailment")),
    "glue_rte": (("not_entailment", "entailment", "?"), ("7\tnot_entailment", "9\tentailment", "8\tentailment")),
    "glue_wnli": (("not_entailment", "entailment", "?"), ("7\t0", "9\t1", "8\t0")),
    "glue_ax": (("neutral", "contradiction", "?"), ("7\tneutral", "9\tcontradiction", "8\tentailment")),
    "super_glue_boolq": (
        ("True", "False", "true"),
        ('{"idx": 7, "label": "true"}', '{"idx": 9, "label": "false"}', '{"idx": 8, "label": "false"}'),
    ),
    "super_glue_cb": (
        ("neutral", "contradiction", "?"),
        ('{"idx": 7, "label": "neutral"}', '{"idx": 9, "label": "contradiction"}', '{"idx": 8, "label": "entailment"}'),
    ),
    "super_glue_copa": (
        ("choice2", "choice1", "choice3"),
        ('{"idx": 7, "label": 1}', '{"idx": 9, "label": 0}', '{"idx": 8, "label": 0}'),
    ),
    "super_glue_rte": (("entailment", "not_entailment", "?"), ENTAILMENT),
    "super_glue_wic": (
        ("True", "False", "?"),
        ('{"idx": 7, "label": "true"}', '{"idx": 9, "label": "false"}', '{"idx": 8, "label": "false"}'),
    ),
    "super_glue_wsc": (
        ("The river", "a bridge", ""),
        ('{"idx": 7, "label": "True"}', '{"idx": 9, "label": "False"}', '{"idx": 8, "label": "False"}'),
    ),
    "super_glue_axb": (("entailment", "not_entailment", "?"), ENTAILMENT),
    "super_glue_axg": (("entailment", "not_entailment", "?"), ENTAILMENT),
}
IDS = [{"idx": 7}, {"idx": 9}, {"idx": 8}]


@pytest.mark.parametrize("name", LINES)
def test_files_have_the_server_s_lines_and_an_output_that_is_no_label_is_counted(name: str) -> None:
    texts, expected = LINES[name]
    lines, unreadable = SERVER_FILES[name].write(UnlabelledOutputs(IDS, texts, ["the river"] * 3))
    header = ["index\tprediction"] if name.startswith("glue") else []
    assert lines == [*header, *expected]
    assert unreadable == 1


def test_answers_to_one_question_and_questions_on_one_paragraph_are_nested() -> None:
    places = [(3, 5, 0), (3, 5, 1), (3, 6, 0), (4, 7, 2)]
    ids = [dict(zip(SERVER_FILES["super_glue_multirc"].ids, place, strict=True)) for place in places]
    texts = ["True", "False", "maybe", "True"]
    lines, unreadable = SERVER_FILES["super_glue_multirc"].write(UnlabelledOutputs(ids, texts, texts))
    assert [json.loads(line) for line in lines] == [
        {
            "idx": 3,
            "passage": {
                "questions": [
                    {"idx": 5, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]},
                    {"idx": 6, "answers": [{"idx": 0, "label": 0}]},
                ]
            },
        },
        {"idx": 4, "passage": {"questions": [{"idx": 7, "answers": [{"idx": 2, "label": 1}]}]}},
    ]
    assert unreadable == 1


def test_record_has_the_text_by_its_query() -> None:
    outputs = UnlabelledOutputs([{"idx/query": 4}, {"idx/query": 2}], ["Bob", "Zoë"], ["a", "b"])
    assert SERVER_FILES["super_glue_record"].write(outputs) == (
        ['{"idx": 4, "label": "Bob"}', '{"idx": 2, "label": "Zoë"}'],
        0,
    )


def test_every_task_of_a_server_has_a_file_of_its_own() -> None:
    members = [member.name for one in SUITES.values() for member in one.tasks + one.diagnostics if one.diagnostics]
    assert members == list(SERVER_FILES)
    assert {*LINES, "super_glue_multirc", "super_glue_record"} == set(SERVER_FILES)
    assert len({file.name for file in SERVER_FILES.values()}) == len(SERVER_FILES) == 21


@pytest.mark.parametrize("name", SERVER_FILES)
def test_test_sets_are_read_without_labels_and_with_ids(name: str, tmp_path: Path) -> None:
    suite_data.write(tmp_path, [name])
    task = EVERY[name].read_from(tmp_path).task
    with pytest.raises(ConfigError, match=r'has no key "(label|answers)"'):
        open_task(task, "test")
    examples = open_task(replace(task, examples=Unlabelled(task.examples)), "test")
    made = examples.read(np.arange(len(examples)))
    labelled = open_task(task, "held_out").read(np.arange(suite_data.COUNT))
    assert [one.source for one in made] == [one.source for one in labelled]
    ids = read_ids(task.examples, "test", SERVER_FILES[name].ids, len(made), None)
    numbers = [list(one.values()) for one in ids]
    assert len(set(map(tuple, numbers))) == suite_data.COUNT


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"sentence": "a b"}, 'A submission needs the ids of its examples, whole numbers as "idx": .*has no key "idx"'),
        ({"sentence": "a b", "idx": "x1"}, 'A submission needs the ids of its examples, whole numbers as "idx": .*x1'),
    ],
)
def test_a_split_without_ids_is_refused(line: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ConfigError, match=sentence):
        read_ids(JSONExamples(str(path), test=str(path)), "test", ("idx",), 1, None)
