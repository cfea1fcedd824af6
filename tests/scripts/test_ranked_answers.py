"""kintsugi evaluate --answers=ranked: the choice that the model gives the highest likelihood, whatever the batches."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import rewrite

from research import CB, Generation, JSONExamples, Mesh, Model, MultipleChoice, Supervised
from research.config import ConfigError, override
from research.decode import evaluate as evaluation
from research.decode import ranking
from research.decode.generate import Generator
from research.decode.loaded_model import load, open_model
from research.model.transformer import initial_params
from research.parallel.mesh import make_mesh
from research.pretrained import find, huggingface
from research.pretrained.tokenizer_files import write_tokenizer
from research.report import record
from scripts import evaluate

LABELS = ("entailment", "contradiction", "neutral")
SENTENCES = [
    {"hypothesis": f"text {number}", "premise": "word " * (number % 9), "label": number % 3} for number in range(21)
]
QUESTIONS = [
    {
        "question": f"{number} {'more ' * (number % 5)}?",
        "choices": [f"answer {place}{' x' * (place * number % 4)}" for place in range(2 + number % 3)],
        "label": number % 2,
    }
    for number in range(12)
]
CB_TASK = '--task=CB(examples=JSONExamples("cb.jsonl", test="cb.jsonl"))'
QUESTION_TASK = '--task=MultipleChoice(examples=JSONExamples("questions.jsonl", test="questions.jsonl"))'


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, records in (("cb", SENTENCES), ("questions", QUESTIONS)):
        write(f"{name}.jsonl", records)


@pytest.fixture(scope="module")
def model(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of weights so large that the best choice depends on the example."""
    run, directory = find.find(tiny_run), tmp_path_factory.mktemp("model") / "model"
    params = jax.tree.map(lambda leaf: 3 * leaf, initial_params(run.model, jax.random.key(0)))
    huggingface.write(directory, run.model, params, Generation(0, 1, 0))
    write_tokenizer(run.tokenizer(), directory)
    return directory


def write(name: str, records: list[dict[str, Any]]) -> None:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))


def rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path, "predictions.jsonl").read_text().splitlines()]


def results(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(path, "scores.json").read_text())


@pytest.mark.parametrize("by_token", [False, True])
def test_the_likeliest_choice_is_the_answer_and_every_metric_scores_it(model: Path, by_token: bool) -> None:
    """Its likelihood is that of each pair alone."""
    answers = "ranked_by_token" if by_token else "ranked"
    arguments = [str(model), CB_TASK, QUESTION_TASK, f"--answers={answers}", "--output=out", "--batch_size=8"]
    assert evaluate.main(arguments) == 0
    found, scores = rows("out"), results("out")
    assert scores["answers"] == answers
    first, second = scores["results"].values()
    assert first["scores"].keys() == {"mean_3class_f1", "accuracy", "ranked_accuracy", "ranked_mean_3class_f1"}
    assert first["scores"]["ranked_accuracy"] == pytest.approx(first["scores"]["accuracy"])
    assert first["scores"]["ranked_mean_3class_f1"] == pytest.approx(first["scores"]["mean_3class_f1"])
    assert second["scores"].keys() == {"sequence_accuracy", "ranked_accuracy"}
    assert second["scores"]["ranked_accuracy"] == pytest.approx(second["scores"]["sequence_accuracy"])
    assert second["signatures"]["ranked_accuracy"].startswith("choices:var|best by log-likelihood")
    loaded = load(model, batch_size=1)
    assert len(found) == len(SENTENCES) + len(QUESTIONS)
    assert [row["right"] for row in found] == [[record["label"]] for record in (*SENTENCES, *QUESTIONS)]
    assert len({row["prediction"] for row in found[: len(SENTENCES)]}) > 1
    for row in found[::5]:
        alone = [loaded.score([row["source"]], [choice["text"]]) for choice in row["choices"]]
        totals = [-float(nll[0]) for nll, _ in alone]
        lengths = [int(tokens[0]) for _, tokens in alone]
        assert [choice["tokens"] for choice in row["choices"]] == lengths
        np.testing.assert_allclose([choice["log_likelihood"] for choice in row["choices"]], totals, rtol=1e-5)
        means = np.divide(totals, lengths if by_token else 1)
        assert row["prediction"] == row["choices"][int(np.argmax(means))]["text"]
        (right,) = row["right"]
        assert row["target_nll"] == -row["choices"][right]["log_likelihood"]


def test_the_number_of_devices_changes_only_the_rounding(model: Path) -> None:
    examples = JSONExamples("cb.jsonl", "cb.jsonl")
    (task,) = evaluation.load_eval_tasks(Supervised((CB(examples=examples),)), "held_out")
    found = []
    for count in (1, 2):
        opened = replace(open_model(model), mesh=make_mesh(Mesh(data=count), jax.devices()[:count]), batch_size=8)
        generator = opened.generator(opened.generation(None, {}), (None, None))
        by_number = {
            number: (sum(each), len(each))
            for scores in generator.score_pairs(ranking.pairs_to_score(task))
            for number, each in scores.items()
        }
        ranked, _ = ranking.ranked(task, [by_number[number] for number in range(len(by_number))], by_token=False)
        found.append(ranked)
    np.testing.assert_allclose(found[0].scores, found[1].scores, rtol=1e-5)
    assert found[0].answers == found[1].answers


def test_equal_texts_are_scored_once_and_the_first_is_taken(model: Path) -> None:
    write("questions.jsonl", [{"question": "q", "choices": ["a", "b", "a", "b"], "label": -1}])
    assert evaluate.main([str(model), QUESTION_TASK, "--answers=ranked", "--output=out"]) == 0
    (row,) = rows("out")
    likelihoods = [choice["log_likelihood"] for choice in row["choices"]]
    assert likelihoods[:2] == likelihoods[2:]
    assert row["references"] == ["<unk>"]
    assert row["prediction"] == row["choices"][int(np.argmax(likelihoods))]["text"]


def test_a_stopped_command_continues_to_the_same_files(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [str(model), CB_TASK, QUESTION_TASK, "--answers=ranked", "--batch_size=8"]
    assert evaluate.main([*arguments, "--output=whole"]) == 0
    scored, whole = [], Generator._score

    def stop_after(count: int) -> None:
        def score(generator: Generator, pairs: Any) -> Any:
            if len(scored) == count:
                raise KeyboardInterrupt
            scored.append(len(pairs))
            return whole(generator, pairs)

        monkeypatch.setattr(Generator, "_score", score)

    stop_after(10)  # within the second task
    assert evaluate.main([*arguments, "--output=killed"]) == 130
    assert os.listdir("killed") == ["predictions.jsonl.partial"]
    monkeypatch.setattr(Generator, "_score", whole)
    by_token = ["--answers=ranked_by_token", *arguments[:3], "--batch_size=8", "--output=killed"]
    assert evaluate.main(by_token) == 2  # another request
    stop_after(100)
    assert evaluate.main([*arguments, "--output=killed"]) == 0
    assert sum(scored) == len(SENTENCES) * 3 + sum(len(record["choices"]) for record in QUESTIONS)
    assert Path("killed/predictions.jsonl").read_bytes() == Path("whole/predictions.jsonl").read_bytes()
    assert results("killed")["results"] == results("whole")["results"]


def test_a_run_keeps_both_kinds_of_answers(tiny_run: Path) -> None:
    shutil.copytree(tiny_run, "run")
    experiment = override.read(Path("run/config.json"))
    task = CB(examples=JSONExamples("cb.jsonl", "cb.jsonl"))
    rewrite(Path("run"), replace(experiment, data=Supervised((task,), experiment.data.tokenizer, 20, 6)))
    few = ["--split=held_out", "--examples=4"]
    assert evaluate.main(["run", *few, "--generation.max_length=4"]) == 0
    assert evaluate.main(["run", *few, "--answers=ranked"]) == 0
    assert sorted(os.listdir("run/evaluations")) == ["held_out-2", "held_out-2-ranked"]
    (result,) = results("run/evaluations/held_out-2-ranked")["results"].values()
    assert result["truncated targets"] == 4 * 3  # of 6 tokens
    scores = record.read(Path("run")).scores()
    assert {"held_out accuracy", "held_out ranked accuracy", "held_out ranked ranked_accuracy"} <= scores.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ['--task=TextToText(examples=TSVExamples("a.tsv", test="a.tsv"))'],
            "example 1 of a.tsv has no choices to rank",
        ),
        ([CB_TASK, "--generation.max_length=4"], "--generation... is for written answers, and --answers is ranked"),
        ([CB_TASK, "--seed=1"], "--seed is for written answers"),
        ([QUESTION_TASK.replace("MultipleChoice(", 'MultipleChoice(label="question", ')], "has the label '0 ?': it"),
    ],
)
def test_what_cannot_be_ranked_is_one_sentence(
    arguments: list[str], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("a.tsv").write_text("a\tb\n")
    assert evaluate.main([str(model), *arguments, "--answers=ranked"]) == 2
    assert message in capsys.readouterr().err


def test_a_choice_without_a_token_is_refused(families: dict[str, Any]) -> None:
    """SentencePiece drops a space of no width."""
    write("questions.jsonl", [{"question": "q", "choices": ["a", "\u200b"], "label": 0}])
    task = MultipleChoice(examples=JSONExamples("questions.jsonl", "questions.jsonl"))
    (read,) = evaluation.load_eval_tasks(Supervised((task,)), "held_out")
    generator = Generator(Model(400, 16, 2, 8, 32, 1, 1), {}, families["t5"], Generation(max_length=4))
    with pytest.raises(
        ConfigError, match=r"of questions.jsonl has the choice .*, of which the tokenizer makes no token"
    ):
        ranking.check_not_empty(generator, read)
