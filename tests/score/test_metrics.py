"""Scores are those of the metric libraries' own commands on the same files, to every digit that they print."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from research import BLEU, ROUGE, TER, Accuracy, ChrF, SQuAD
from research.config import ConfigError, score_names
from research.score import letters, metrics

PREDICTIONS = [
    "The cat sat on the mat, and it purred.",
    "There is no place like home.",
    "",
    "In 1905, Einstein published four papers; each was new!",
    "A sentence that shares nothing with it",
    "two men are running down a street in the rain .",
]
FIRST = [
    "The cat is sitting on the mat and purring.",
    "There is no place like home.",
    "Something was to be said here.",
    "Einstein published four ground-breaking papers in 1905.",
    "Otherwise worded, quite another thing.",
    "Two Men are running along the street in the rain .",
]
SECOND = [
    "The cat sat upon the mat, and it was purring.",
    "No place is like home.",
    "Here, something should have been said.",
    "In 1905 Einstein published four papers, and each was new.",
    "Nothing shared.",
    "Two men run down a street in rain .",
]
BOTH = list(zip(FIRST, SECOND, strict=True))


def write(path: Path, lines: list[str], end: str = "\n") -> str:
    path.write_text("".join(line + end for line in lines))
    return str(path)


def command(*arguments: str) -> str:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=True).stdout


def value(metric, predictions=PREDICTIONS, references=BOTH) -> float:
    return metrics.score([metric], predictions, references)[metric.names[0]].value


@pytest.mark.parametrize(
    ("metric", "options"),
    [
        (BLEU(), []),
        (BLEU("none", lowercase=True), ["--tokenize", "none", "--lowercase"]),
        (BLEU("intl"), ["--tokenize", "intl"]),
        (BLEU("char", lowercase=True), ["-tok", "char", "-lc"]),
        (ChrF(), ["-m", "chrf"]),
        (ChrF(word_order=2), ["-m", "chrf", "--chrf-word-order", "2"]),
        (TER(), ["-m", "ter"]),
        (TER(lowercase=False), ["-m", "ter", "--ter-case-sensitive"]),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_bleu_chrf_and_ter_are_those_of_sacrebleus_command(tmp_path, metric, options, count):
    files = [write(tmp_path / f"{n}.txt", lines) for n, lines in enumerate((FIRST, SECOND)[:count])]
    said = command("sacrebleu", *files, "-i", write(tmp_path / "hyp.txt", PREDICTIONS), *options, "-w", "9", "--force")
    expected = json.loads(said)
    found = metrics.score([metric], PREDICTIONS, [given[:count] for given in BOTH])[metric.names[0]]
    assert round(found.value, 9) == expected["score"]
    assert found.signature == expected["signature"]
    assert 5 < found.value < 95


def test_examples_may_have_unequal_numbers_of_references():
    """A reference that stands twice changes nothing, so that it can stand for one that is missing."""
    uneven = [given[: 1 + number % 2] for number, given in enumerate(BOTH)]
    doubled = [(given * 2)[:2] for given in uneven]
    for metric in (BLEU(), ChrF(), ROUGE()):
        assert value(metric, references=uneven) == value(metric, references=doubled)
        assert value(metric, references=uneven) != value(metric)
    assert "nrefs:var" in metrics.score([BLEU()], PREDICTIONS, uneven)["bleu"].signature


def test_rouge_is_refused_where_it_sees_nothing():
    metrics.check_references([ROUGE(), ChrF()], [("Слово",), ("1990 words",)], "a")
    metrics.check_references([ChrF(), BLEU()], [("Слово",)], "a")
    with pytest.raises(ConfigError, match=r"digits, 0\.0% of those in the references of a: score them with ChrF"):
        metrics.check_references([ROUGE(), ChrF()], [("Слово",), ("文章",)], "a")


def test_rouge_is_refused_or_noted_by_how_much_it_sees(capsys):
    russian = [(f"Обычное предложение номер {number}",) for number in range(1000)]
    with pytest.raises(ConfigError, match=r"digits, 0\.1% of those in the references of a: score"):
        metrics.check_references([ROUGE()], [("В 1990 году",), *[("Обычное предложение",)] * 200], "a")
    with pytest.raises(ConfigError, match=r"digits, 1\d\.\d% of those"):
        metrics.check_references([ROUGE()], russian, "a")
    metrics.check_references([ROUGE()], [("Deux hommes courent sous la pluie, cet été",)], "a")
    assert capsys.readouterr().err == ""
    metrics.check_references([ROUGE()], [("Tất cả mọi người sinh ra đều được tự do",)], "a")
    assert "note: ROUGE() reads only the letters a to z and digits, 6" in capsys.readouterr().err


CHINESE, JAPANESE, THAI = (
    "他们正在雨中的街道上奔跑。",
    "二人の男が雨の中で通りを走っている。",
    "ชายสองคนกำลังวิ่งไปตามถนนท่ามกลางสายฝน",
)


def test_signs_above_letters_are_letters_too() -> None:
    text = [("ผู้หญิงกำลังเดิน",)]
    assert letters.share(text, letters.OTHERS) == 1.0
    assert 0.5 < letters.share([("ที่นี่ มี one two",)], letters.OTHERS) < 0.7
    assert letters.share([], "a-z") == 1.0


def test_without_examples_there_is_nothing_to_check() -> None:
    metrics.check_references([ROUGE(), BLEU()], [], "a")
    with pytest.raises(ConfigError, match="There is no prediction to score"):
        metrics.score([ROUGE()], [], [])


@pytest.mark.parametrize(
    ("text", "refused", "better"),
    [
        (CHINESE, ("13a", "intl", "none", "ko-mecab"), "zh"),
        (JAPANESE, ("13a", "intl", "none", "ko-mecab", "zh"), "ja-mecab"),
        (THAI, ("13a", "intl", "none", "ko-mecab", "zh", "ja-mecab"), "flores200"),
        ("他们 正在 雨 中 的 街道 上 奔跑 。", (), ""),
        ("ชาย สอง คน กำลัง วิ่ง ไป ตาม ถนน", (), ""),
        ("Two men run along 长安街 in the rain.", (), ""),
        ("두 남자가 비를 맞으며 거리를 달리고 있다.", (), ""),
    ],
)
def test_bleu_is_refused_where_its_tokenizer_leaves_sentences_whole(text, refused, better):
    for tokenize in ("13a", "intl", "none", "ko-mecab", "zh", "ja-mecab", "char", "flores101", "flores200"):
        if tokenize in refused:
            with pytest.raises(ConfigError, match=rf'of a are: give BLEU\(tokenize="{better}"\) or BLEU'):
                metrics.check_references([BLEU(tokenize)], [(text,)] * 2, "a")
        else:
            metrics.check_references([BLEU(tokenize)], [(text,)] * 2, "a")


@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_is_that_of_its_command(tmp_path, stemmer):
    """Of each example; texts of several lines end in a form feed there."""
    predictions = [text.replace(", ", ",\n") for text in PREDICTIONS]
    references = [text.replace(" and", "\nand") for text in FIRST]
    out = tmp_path / "out.csv"
    command(
        "rouge_score.rouge",
        "--target_filepattern=" + write(tmp_path / "ref", references, "\f"),
        "--prediction_filepattern=" + write(tmp_path / "hyp", predictions, "\f"),
        f"--output_filename={out}",
        "--delimiter=\f",
        "--rouge_types=rouge1,rouge2,rougeL,rougeLsum",
        f"--use_stemmer={stemmer}",
        "--aggregate=False",
    )
    with out.open() as file:
        rows = list(csv.DictReader(file))
    each = metrics.score_each([ROUGE(stemmer)], predictions, [[one] for one in references])
    assert len(rows) == len(each)
    for row, found in zip(rows, each, strict=True):
        for name in ROUGE().names:
            assert f"{found[name] / 100:f}" == row[f"{name}-F"]
    whole = metrics.score([ROUGE(stemmer)], predictions, [[one] for one in references])
    assert any(row["rougeL-F"] != row["rougeLsum-F"] for row in rows)
    for name in ROUGE().names:
        mean = sum(float(row[f"{name}-F"]) for row in rows) / len(rows)
        assert whole[name].value / 100 == pytest.approx(mean, abs=1e-6)


def test_rouge_takes_the_best_reference_of_each_measure():
    (each,) = metrics.score_each([ROUGE()], ["a b c d"], [["a b x y", "d c b a"]])
    assert each["rouge1"] == pytest.approx(100.0)  # of the second
    assert each["rouge2"] == pytest.approx(100 / 3)  # of the first


def test_full_stops_end_sentences_as_in_t5():
    pair = ["x y . a b . "], [["a b . x y . "]]
    assert metrics.score([ROUGE()], *pair)["rougeLsum"].value < 100
    assert metrics.score([ROUGE(sentences="full_stop")], *pair)["rougeLsum"].value == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Denver Broncos!"], 100, 100),
        ("the  DENVER broncos.", ["Denver Broncos"], 100, 100),
        ("Broncos", ["Denver Broncos"], 0, 200 / 3),  # precision 1, recall 1/2
        ("Santa Clara, California", ["Levi's Stadium in Santa Clara", "Santa Clara"], 0, 80.0),
        ("to to be", ["to be be"], 0, 200 / 3),  # bags, not sets
        ("theatre", ["the atre"], 0, 0),  # articles are whole words
        ("John's", ["johns"], 100, 100),  # punctuation goes, and leaves no space
        ("mid-air", ["mid air"], 0, 0),
        ("a", ["the"], 100, 100),  # nothing is left of both
        ("a", ["Paris"], 0, 0),
        ("Paris", [""], 0, 0),
        ("", [""], 100, 100),  # what v2.0 asks for where there is no answer
    ],
)
def test_squads_scores_by_hand(prediction, references, exact, f1):
    found = metrics.score([SQuAD()], [prediction], [references])
    assert found["exact_match"].value == exact
    assert found["f1"].value == pytest.approx(f1)


def test_accuracy_is_of_whole_outputs():
    found = metrics.score([Accuracy()], [" yes\n", "Yes", "no", "no"], [["yes"], ["yes"], ["yes", "no"], ["yes"]])
    assert found["sequence_accuracy"].value == 50.0


def test_numbers_have_one_name_each():
    both = (BLEU(), BLEU("none", lowercase=True), ChrF(), ChrF(2), ROUGE(), SQuAD(), Accuracy())
    assert len(set(score_names(both))) == 11
    assert set(metrics.score(both, PREDICTIONS, BOTH)) == set(score_names(both))
    with pytest.raises(ConfigError, match="metrics give rouge1, rouge2, rougeL, rougeLsum twice"):
        score_names((ROUGE(), ROUGE(stemmer=False)))


@pytest.mark.parametrize(
    ("predictions", "references", "said"),
    [
        ([], [], "There is no prediction to score."),
        (["a"], [], "There are 1 predictions and 0 references"),
        (["a", "b"], [["a"], []], "Example 2 has no reference"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, references, said):
    with pytest.raises(ConfigError, match=said):
        metrics.score([BLEU()], predictions, references)


def test_a_tokenizer_that_is_not_here_is_refused_before_anything_is_written(monkeypatch):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ja_mecab.MeCab", None)
    metrics.check([BLEU(), ROUGE(), ChrF(), SQuAD(), Accuracy()])
    with pytest.raises(ConfigError) as error:
        metrics.check([BLEU("ja-mecab")])
    assert 'BLEU cannot use the tokenizer "ja-mecab" here' in str(error.value)
    assert "\n" not in str(error.value)
