"""scripts.significance: sacreBLEU's numbers where it has them, known cases elsewhere, and what cannot be compared."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import significance

WORDS = list("abcdefghijklmnopqrstuvw")
MEASURES = ("--metrics", "BLEU()", "ChrF()", "ROUGE()", "SQuAD()")


def sentences(count: int, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=draw.integers(5, 15))) for _ in range(count)]


def worsened(lines: list[str], share: float, seed: int) -> list[str]:
    """With that share of the words changed."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS) if draw.random() < share else word for word in line.split()) for line in lines]


REFERENCES = sentences(60, 0)
SHARES = {"good": 0.30, "like": 0.30, "bad": 0.6}
SYSTEMS = {name: worsened(REFERENCES, share, seed) for seed, (name, share) in enumerate(SHARES.items(), 1)}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, predictions in SYSTEMS.items():
        write(name, predictions, REFERENCES)


def write(name: str, predictions: list[str], references: list[str], metrics: tuple[str, ...] = ("BLEU()",)) -> None:
    """As scripts.evaluate does."""
    Path(name).mkdir()
    rows = [
        {"number": number, "task": "some", "source": f"source {number}", "prediction": one, "references": [reference]}
        for number, (one, reference) in enumerate(zip(predictions, references, strict=True), 1)
    ]
    Path(name, "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path(name, "scores.json").write_text(json.dumps({"results": {"some": {"metrics": metrics}}}))


def compared(capsys, *arguments: str) -> dict:
    assert significance.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["some"]


def test_scores_and_p_values_are_those_of_sacrebleus_command(capsys):
    found = compared(capsys, "good", "like", "bad", "--metrics", "BLEU()", "ChrF()")
    Path("ref.txt").write_text("\n".join(REFERENCES) + "\n")
    for name, predictions in SYSTEMS.items():
        Path(f"{name}.txt").write_text("\n".join(predictions) + "\n")
    files = ["ref.txt", "-i", "good.txt", "like.txt", "bad.txt", "-m", "bleu", "chrf", "-w", "9", "-f", "text"]
    for option, ours in (("--paired-bs", "p_bootstrap"), ("--paired-ar", "p_randomization")):
        command = [sys.executable, "-m", "sacrebleu", *files, option]
        # Its JSON cannot hold what numpy 2 computes, so its table is read.
        table = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        for number in (0, 1):
            name = ("bleu", "chrf")[number]
            for other in found[name]["others"]:
                row = re.search(rf" {other['system']}.txt │(.*)\n(.*)", table)
                assert row is not None
                scores, p_values = re.findall(r"(\d+\.\d{9})(?: \(| +│)", row[1]), re.findall(r"p = ([\d.]+)", row[2])
                assert f"{other['score']:.9f}" == scores[number]
                assert f"{other[ours]:.4f}" == p_values[number]
    assert all(part in found["bleu"]["signature"].split("|") for part in ("bs:1000", "ar:10000", "seed:12345"))


def test_a_system_does_not_differ_from_itself(capsys):
    found = compared(capsys, "good", "good", *MEASURES)
    assert len(found) == 8
    for one in found.values():
        (other,) = one["others"]
        assert other["score"] == one["score"]
        assert (other["difference"], other["interval"]) == (0.0, [0.0, 0.0])
        assert other["p_bootstrap"] == other["p_randomization"] == 1.0


def test_what_is_far_worse_is_significant_by_every_measure_and_what_is_as_good_by_none(capsys):
    found = compared(capsys, "good", "like", "bad", "--metrics", "BLEU()", "ChrF()", "ROUGE()")
    for one in found.values():
        like, bad = one["others"]
        assert max(bad["p_bootstrap"], bad["p_randomization"]) < 0.005
        assert bad["interval"][0] < bad["difference"] < bad["interval"][1] < 0
        assert min(like["p_bootstrap"], like["p_randomization"]) > 0.05
        assert like["interval"][0] < 0 < like["interval"][1]


def test_exact_match_is_as_the_sign_test_has_it(capsys):
    """Where all that differ do so in one direction, exchanges reach the difference in 2 of 2 ** n cases."""
    for count in (3, 5, 8):
        predictions = ["wrong"] * count + REFERENCES[count:]
        write(f"right{count}", REFERENCES, REFERENCES)
        write(f"wrong{count}", predictions, REFERENCES)
        (other,) = compared(capsys, f"wrong{count}", f"right{count}", "--metrics", "SQuAD()")["exact_match"]["others"]
        assert other["difference"] == pytest.approx(100 * count / 60)
        exact = 2 / 2**count
        assert other["p_randomization"] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))


def test_the_interval_of_a_mean_is_near_the_normal_one(capsys):
    (other,) = compared(capsys, "good", "bad", "--metrics", "ROUGE()")["rouge1"]["others"]
    from research import ROUGE
    from research.score.metrics import score_each

    each = [
        [row["rouge1"] for row in score_each([ROUGE()], SYSTEMS[name], [(one,) for one in REFERENCES])]
        for name in ("good", "bad")
    ]
    gains = np.subtract(*each[::-1])
    assert other["difference"] == pytest.approx(gains.mean())
    error = gains.std() / math.sqrt(len(gains))
    assert other["interval"] == pytest.approx(
        [gains.mean() - 1.96 * error, gains.mean() + 1.96 * error], abs=0.4 * error
    )


def test_the_table_has_every_system_and_the_metrics_are_those_of_the_evaluation(capsys):
    assert significance.main(["good", "bad"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("bleu", "good", "bad", "nrefs:1"))
    assert "rouge" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["good"], "Give two or more evaluations"),
        (["good", "nowhere"], "nowhere: there is no such directory."),
        (["good", "empty"], "empty has no predictions.jsonl"),
        (["good", "unfinished"], "unfinished is not finished"),
        (["good", "fewer"], "have 60 and 59 examples of some"),
        (["good", "elsewhere"], "have different references from example 2 of some on"),
        (["good", "shuffled"], "have different sources from example 1 of some on"),
        (["good", "another"], "have different tasks, some and another"),
        (["unsaid", "good"], "unsaid has no metrics for some"),
        (["good", "bad", "--metrics", "BLEU()", "BLEU()"], "metrics give bleu twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(capsys, arguments, sentence):
    Path("empty").mkdir()
    write("unfinished", SYSTEMS["good"], REFERENCES)
    Path("unfinished/predictions.jsonl").rename("unfinished/predictions.jsonl.partial")
    write("fewer", SYSTEMS["good"][1:], REFERENCES[1:])
    write("elsewhere", SYSTEMS["good"], [REFERENCES[0], "another", *REFERENCES[2:]])
    write("shuffled", SYSTEMS["good"], REFERENCES)
    rows = Path("shuffled/predictions.jsonl").read_text()
    Path("shuffled/predictions.jsonl").write_text(rows.replace("source 1", "Source 1"))
    write("another", SYSTEMS["good"], REFERENCES)
    Path("another/predictions.jsonl").write_text(rows.replace('"some"', '"another"'))
    write("unsaid", SYSTEMS["good"], REFERENCES)
    Path("unsaid/scores.json").write_text("{}")
    assert significance.main(arguments) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
