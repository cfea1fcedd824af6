"""Tasks: what each kind of examples gives, what is held out, and one clear sentence for each bad input."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compressed
import numpy as np
import pyarrow as pa
import pytest
import tables
import tensorflow_datasets as tfds

from research import (
    BLEU,
    BySplit,
    JSONExamples,
    NamesBySplit,
    ParallelText,
    ParquetExamples,
    QuestionAnswering,
    SQuADFile,
    Summarization,
    Task,
    TextToText,
    TFDSExamples,
    Translation,
    TSVExamples,
)
from research.config import ConfigError, override
from research.data.corpora import corpus, text_files
from research.data.tasks.task import Example, TaskExamples, open_task
from research.data.tasks.text_to_text import lower_tokenized


def examples(task: Task, split: Any = "train", manual_dir: str | None = None) -> list[Example]:
    opened = open_task(task, split, manual_dir)
    assert isinstance(opened, TaskExamples)
    whole = opened.read(np.arange(len(opened)))
    order = np.random.default_rng(0).permutation(len(opened))
    assert opened.read(order) == [whole[index] for index in order]
    return whole


def one(source: str, target: str) -> Example:
    return Example(source, target, (target,))


def write_lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parallel(folder: Path, split: str, count: int, names: tuple[str, ...] = ("en", "de")) -> str:
    for name in names:
        (folder / f"{split}.{name}").write_text("".join(f"{name} {split} {number}\n" for number in range(count)))
    return str(folder / f"{split}.{{name}}")


def squad(path: Path, contexts: int, **changes: Any) -> str:
    def question(number: int) -> dict[str, Any]:
        answers = [{"text": f"answer {number}", "answer_start": 0}, {"text": f"reply {number}", "answer_start": 4}]
        return {"id": f"id{number}", "question": f"what {number}?", "answers": answers, **changes}

    paragraphs = [
        {"context": f"context {number}", "qas": [question(2 * number), question(2 * number + 1)]}
        for number in range(contexts)
    ]
    path.write_text(json.dumps({"data": [{"title": "Title", "paragraphs": paragraphs}]}, indent=1))
    return str(path)


# --- Files ------------------------------------------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    rows = [
        {"document": "eins {x}", "summary": ["one", "uno"]},
        {"document": "zwei\nzeilen", "summary": "two 😀", "more": 3},
    ]
    train = write_lines(tmp_path / "a.jsonl", rows)
    task = Summarization(examples=JSONExamples(train, held_out=train, test=train), prefix="summarize: ")
    expected = [
        Example("summarize: eins {x}", "one", ("one", "uno")),
        one("summarize: zwei\nzeilen", "two 😀"),
    ]
    assert examples(task) == examples(task, "held_out") == examples(task, "test") == expected
    for suffix, pack in compressed.PACK.items():
        packed = tmp_path / f"a.jsonl.{suffix}"
        packed.write_bytes(pack(Path(train).read_bytes()))
        assert examples(dataclasses.replace(task, examples=JSONExamples(str(packed), str(packed)))) == expected


@pytest.mark.parametrize("kind", tables.ANY)
def test_columns_of_tables(tmp_path: Path, kind: str) -> None:
    rows = [
        {"q": {"text": "who"}, "answers": {"text": ["he", "she"], "start": [1, 2]}, "n": 1},
        {"q": {"text": None}, "answers": {"text": ["it"], "start": [1]}, "n": 2},
        {"q": {"text": "what"}, "answers": {"text": [], "start": []}, "n": 3},
        {"q": {"text": "where"}, "answers": {"text": ["here"], "start": [3]}, "n": 4},
    ]
    tables.ANY[kind](pa.Table.from_pylist(rows), tmp_path / "a")
    path = str(tmp_path / "a")
    kinds = ParquetExamples(path, path, where="n < 5", empty="skip")
    task = TextToText(examples=kinds, source="q/text", target="answers/text")
    assert examples(task) == [Example("who", "he", ("he", "she")), one("where", "here")]
    only = dataclasses.replace(task, examples=ParquetExamples(path, path, where="n in (1, 4)"))
    assert examples(only) == examples(task)
    for where, message in (
        ("n < 3", r'selected row 2 has an empty source \("q/text"\)'),
        (None, r"/a(/data-00000-of-00002.arrow)?, row 2 has an empty"),
    ):
        with pytest.raises(ConfigError, match=message + '.*empty="skip"'):
            examples(dataclasses.replace(task, examples=ParquetExamples(path, path, where=where)))
    assert [made.target for made in examples(dataclasses.replace(task, target="n"))] == ["1", "3", "4"]
    with pytest.raises(ConfigError, match=r'the column "q" is struct.*, not a string or a list of strings'):
        examples(dataclasses.replace(task, target="q"))


def test_keys_within_keys(tmp_path: Path) -> None:
    rows = [{"q": {"text": "who", "a/b": "slash"}, "answers": {"text": ["he", "she"], "start": [1, 2]}}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    task = TextToText(examples=JSONExamples(path, path), source="q/text", target="answers/text")
    assert examples(task) == [Example("who", "he", ("he", "she"))]
    dotted = TextToText(examples=JSONExamples(path, path), source="{q.text} {q.a/b}", target="answers.text")
    with pytest.raises(ConfigError, match=r'has no key "q\.a/b": its keys are \'text\', \'a/b\''):
        examples(dotted)
    assert examples(dataclasses.replace(dotted, source="{q.text}?")) == [Example("who?", "he", ("he", "she"))]


def test_numbers_are_texts(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"source": f"{n}", "target": n} for n in (3, -1, 3.8, True)])
    found = examples(TextToText(examples=JSONExamples(path, path)))
    assert [made.target for made in found] == ["3", "-1", "3.8", "True"]


def test_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b'"one"\teins\tx\r\n\n two\tzwei\t\n')
    path = str(tmp_path / "a.tsv")
    columns = ("en", "de", "note")
    task = Translation(examples=TSVExamples(path, path, columns=columns))
    assert examples(task) == [one('"one"', "eins"), one(" two", "zwei")]


def test_parallel_text(tmp_path: Path) -> None:
    pattern = parallel(tmp_path, "train", 3)
    (tmp_path / "train.de").write_bytes("ü\r\nzwei\u2028zwei\ndrei".encode())
    task = Translation(examples=ParallelText(pattern, pattern))
    assert [example.target for example in examples(task)] == ["ü", "zwei\u2028zwei", "drei"]
    back = dataclasses.replace(task, source="de", target="en")
    assert examples(back)[0] == one("ü", "en train 0")
    for suffix, pack in compressed.PACK.items():
        for name in ("en", "de"):
            packed = pack((tmp_path / f"train.{name}").read_bytes())
            (tmp_path / f"train.{name}.{suffix}").write_bytes(packed)
        packed_task = dataclasses.replace(task, examples=ParallelText(f"{pattern}.{suffix}", f"{pattern}.{suffix}"))
        assert examples(packed_task) == examples(task)


def test_squad(tmp_path: Path) -> None:
    path = squad(tmp_path / "a.json", 2)
    task = QuestionAnswering(examples=SQuADFile(path, path))
    found = examples(task)
    assert len(found) == 4
    assert found[3] == Example("question: what 3? context: context 1", "answer 3", ("answer 3", "reply 3"))
    for suffix, pack in compressed.PACK.items():
        (tmp_path / f"a.json.{suffix}").write_bytes(pack(Path(path).read_bytes()))
        packed = SQuADFile(f"{tmp_path}/a.json.{suffix}", f"{tmp_path}/a.json.{suffix}")
        assert examples(dataclasses.replace(task, examples=packed)) == found
    as_bart = dataclasses.replace(task, source="{question} {context}")
    assert examples(as_bart)[0].source == "what 0? context 0"


def test_templates(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"a": "A {b}", "b": "B", "refs": ["R", "S"]}])
    task = TextToText(examples=JSONExamples(path, path), source="{{{a}}} {b}{a}", target="<{refs}>", prefix="{b}: ")
    assert examples(task) == [one("{b}: {A {b}} BA {b}", "<R>")]


# --- Multi30k's form of text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "raw", "prepared"),
    [
        # Lines of test_2016_flickr as Multi30k publishes them, raw and prepared.
        ("en", "A man in an orange hat starring at something.", "a man in an orange hat starring at something ."),
        (
            "en",
            'A woman on a boat named "El Corazon" drops black weights into the water.',
            "a woman on a boat named &quot; el corazon &quot; drops black weights into the water .",
        ),
        (
            "en",
            "A man in a blue coat grabbing a young boy's shoulder.",
            "a man in a blue coat grabbing a young boy &apos;s shoulder .",
        ),
        (
            "fr",
            "Un terrier de Boston court sur l'herbe verdoyante devant une clôture blanche.",
            "un terrier de boston court sur l&apos; herbe verdoyante devant une clôture blanche .",
        ),
    ],
)
def test_lower_tokenized_is_what_multi30k_publishes(language: str, raw: str, prepared: str) -> None:
    assert lower_tokenized(language)(raw) == prepared


def test_both_sides_are_prepared_in_their_language(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("Don’t stop, Mr. X!\tL’homme.\n")
    path = str(tmp_path / "a.tsv")
    task = Translation(
        examples=TSVExamples(path, path, columns=("en", "fr")), target="fr", text="lower_tokenized", prefix="En: "
    )
    assert examples(task) == [one("En: don &apos;t stop , mr. x !", "l&apos; homme .")]
    with pytest.raises(ConfigError, match="'en_US' is not a language that Moses knows: as, bn"):
        open_task(
            dataclasses.replace(task, examples=TSVExamples(path, path, columns=("en_US", "fr")), source="en_US"),
            "train",
        )


# --- What is held out, and identity -----------------------------------------------------------------------------------


def test_examples_are_held_out_by_a_hash_of_their_source(tmp_path: Path) -> None:
    rows = [{"source": f"source {number // 2}", "target": f"target {number}"} for number in range(4000)]
    task = TextToText(examples=JSONExamples(write_lines(tmp_path / "a.jsonl", rows)))
    train, held_out = examples(task), examples(task, "held_out")
    assert sorted(train + held_out) == sorted(one(row["source"], row["target"]) for row in rows)
    assert 20 < len(held_out) < 70
    assert not {example.source for example in train} & {example.source for example in held_out}

    lines = "".join(f"{row['source']}\t{row['target']}\n" for row in rows)
    (tmp_path / "a.tsv").write_text(lines)
    tsv = TextToText(examples=TSVExamples(str(tmp_path / "a.tsv")))
    assert examples(tsv, "held_out") == held_out
    for name in ("source", "target"):
        (tmp_path / f"a.{name}").write_text("".join(row[name] + "\n" for row in rows))
    assert examples(TextToText(examples=ParallelText(str(tmp_path / "a.{name}"))), "held_out") == held_out


def test_squad_holds_out_whole_contexts(tmp_path: Path) -> None:
    task = QuestionAnswering(examples=SQuADFile(squad(tmp_path / "a.json", 2000)), source="{context}")
    train, held_out = ({example.source for example in examples(task, split)} for split in ("train", "held_out"))
    assert len(train) + len(held_out) == 2000
    assert 8 < len(held_out) < 40


def test_identity_follows_what_decides_examples(tmp_path: Path) -> None:
    rows = [{"source": "one", "target": "eins", "other": "uno"}]
    first, second = (write_lines(tmp_path / name, rows) for name in ("a.jsonl", "b.jsonl"))

    def identity(path: str = first, **fields: Any) -> str:
        return open_task(TextToText(examples=JSONExamples(path, path), **fields), "train").identity

    assert identity() == identity(second) == identity(metrics=(BLEU(),)) == identity(languages=("en", None))
    different = [identity(), identity(target="other"), identity(prefix="x"), identity(source="<{source}>")]
    write_lines(tmp_path / "b.jsonl", [{**rows[0], "target": "zwei"}])
    assert len({*different, identity(second)}) == 5


@pytest.mark.parametrize(
    ("task", "identity"),
    [
        (Summarization(examples=JSONExamples("a.jsonl", "a.jsonl"), prefix="x: "), "89df9c916d3e446e7c302a5e"),
        (Summarization(examples=JSONExamples("a.jsonl")), "338d82ae2c68bb402f9e6619"),
        (
            Translation(examples=TSVExamples("a.tsv", "a.tsv", columns=("en", "de")), text="lower_tokenized"),
            "eb92989e9a8930d10c34f230",
        ),
        (Translation(examples=ParallelText("a.{name}", "a.{name}")), "1bff93db7d4fa3bc98ad5604"),
        (Translation(examples=ParallelText("a.{name}")), "f73a1c0ac8696ffc7b90bed9"),
        (QuestionAnswering(examples=SQuADFile("a.json", "a.json")), "cb99523b1bb784c8428a21cd"),
    ],
)
def test_identities_are_those_of_earlier_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task, identity: str
) -> None:
    """By them tokens on disk are found, and runs resume."""
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text('{"document": "d", "summary": ["s", "t"]}\n')
    Path("a.tsv").write_text("one\teins\n")
    for name in ("en", "de"):
        Path(f"a.{name}").write_text(f"{name}\n")
    answered = {"id": "1", "question": "q", "answers": [{"text": "a", "answer_start": 0}]}
    paragraphs = [{"context": "c", "qas": [answered]}]
    Path("a.json").write_text(json.dumps({"data": [{"title": "T", "paragraphs": paragraphs}]}))
    assert open_task(task, "train").identity.startswith(identity)


def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = squad(tmp_path / "a.json", 3)
    task = QuestionAnswering(examples=SQuADFile(path, path))
    before = examples(task)
    monkeypatch.setattr(text_files, "text_lines", lambda *_: pytest.fail("read again"))
    assert examples(task) == before


# --- TFDS -------------------------------------------------------------------------------------------------------------


class Mixed(tfds.core.GeneratorBasedBuilder):
    """Features of every kind that tasks can read, and some that they cannot."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        features = tfds.features.FeaturesDict(
            {
                "pair": tfds.features.Translation(languages=("en", "de")),
                "answers": tfds.features.Sequence({"text": text, "start": np.int32}),
                "notes": tfds.features.Sequence(text),
                "label": tfds.features.ClassLabel(names=["bad", "good"]),
                "number": np.int32,
            }
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(), "validation": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, Any]]:
        for number in range(5):
            yield (
                str(number),
                {
                    "pair": {"en": f"en {number}", "de": f"ü {number}" if number != 3 else " "},
                    "answers": [{"text": f"a {number}", "start": 1}, {"text": "b", "start": 2}],
                    "notes": [f"note {number}"],
                    "label": number % 2,
                    "number": number,
                },
            )


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TFDSExamples:
    tfds.disable_progress_bar()
    monkeypatch.setattr(corpus, "_tfds_builder", lambda name: Mixed(data_dir=tmp_path, file_format="array_record"))
    return TFDSExamples("mixed")


def test_tfds_features(mixed: TFDSExamples) -> None:
    task = TextToText(examples=mixed, source="{label}: {pair/en}", target="answers/text")
    found = examples(task)
    number = found[0].source[-1]
    assert found[0] == Example(
        f"{'bad' if int(number) % 2 == 0 else 'good'}: en {number}", f"a {number}", (f"a {number}", "b")
    )
    assert len({example.source for example in found}) == 5
    assert sorted(examples(dataclasses.replace(task, target="notes"), "held_out"))[0].target == "note 0"
    numbers = examples(dataclasses.replace(task, source="pair/en", target="number"))
    assert sorted(made[:2] for made in numbers) == [(f"en {number}", str(number)) for number in range(5)]
    assert examples(dataclasses.replace(task, target="answers/start"))[0].references == ("1", "2")


def test_what_a_tfds_data_set_lacks(mixed: TFDSExamples) -> None:
    with pytest.raises(
        ConfigError, match='mixed has no "en": it has answers/start, answers/text, label, notes, number, pair/de'
    ):
        open_task(Translation(examples=mixed), "train")
    with pytest.raises(ConfigError, match=r"mixed has no examples in test: it has train \(5\), validation \(5\)"):
        open_task(TextToText(examples=mixed, source="label", target="notes"), "test")
    with pytest.raises(ConfigError, match=r'Example \d of mixed \(train\) has an empty target \("pair/de"\)'):
        examples(Translation(examples=mixed, source="pair/en", target="pair/de"))


# --- Empty sides ------------------------------------------------------------------------------------------------------


def test_examples_with_an_empty_side_are_left_out_by_choice_and_counted(
    tmp_path: Path, mixed: TFDSExamples, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [{"source": "a", "target": ["1"]}, {"source": " ", "target": ["2"]}, {"source": "c", "target": ["3", ""]}]
    lines = write_lines(tmp_path / "a.jsonl", [*rows, {"source": "d", "target": ["4"]}, {"source": "e", "target": []}])
    (tmp_path / "a.tsv").write_text("a\t1\n\t2\nc\t \n\nd\t4\n")
    (tmp_path / "a.source").write_text("a\n\nc\nd\n")
    (tmp_path / "a.target").write_text("1\n2\n \n4\n")
    kinds = (
        (JSONExamples(lines, lines, empty="skip"), 3, 5),
        (TSVExamples(str(tmp_path / "a.tsv"), str(tmp_path / "a.tsv"), empty="skip"), 2, 4),
        (ParallelText(str(tmp_path / "a.{name}"), str(tmp_path / "a.{name}"), empty="skip"), 2, 4),
    )
    for kind, left_out, count in kinds:
        task = TextToText(examples=kind)
        for _ in range(2):  # also of an index that is in the cache
            capfd.readouterr()
            assert [example.target for example in examples(task)] == ["1", "4"]
            assert f"{left_out} of {count} examples of " in capfd.readouterr().err
        refusing = dataclasses.replace(task, examples=dataclasses.replace(kind, empty="refuse"))
        with pytest.raises(ConfigError, match=r'line 2 .*empty="skip"'):
            open_task(refusing, "train")
    task = Translation(examples=dataclasses.replace(mixed, empty="skip"), source="pair/en", target="pair/de")
    for _ in range(2):
        assert len(examples(task)) == 4
        assert "1 of 5 examples of mixed (train) have an empty side" in capfd.readouterr().err
    (tmp_path / "a.source").write_text("\n\nc\n\n")
    with pytest.raises(ConfigError, match=r"Each of the 4 examples of .* has an empty side"):
        open_task(TextToText(examples=kind), "train")


def test_questions_without_an_answer_are_left_out_by_choice(tmp_path: Path) -> None:
    path = Path(squad(tmp_path / "a.json", 2))
    content = json.loads(path.read_text())
    content["data"][0]["paragraphs"][0]["qas"][1]["answers"] = []
    path.write_text(json.dumps(content))
    task = QuestionAnswering(examples=SQuADFile(str(path), str(path), empty="skip"))
    assert [example.target for example in examples(task)] == ["answer 0", "answer 2", "answer 3"]


def test_texts_under_other_names_in_some_splits(tmp_path: Path) -> None:
    train = write_lines(tmp_path / "a.jsonl", [{"text": "x", "summary": "one"}])
    test = write_lines(tmp_path / "b.jsonl", [{"text": "x", "first": ["1", "uno"], "second": "one"}])
    files = JSONExamples(train, train, test)
    given = NamesBySplit(files, "summary", test=("second", "first"))
    task = TextToText(examples=given, source="text", target="summary")
    assert examples(task) == examples(task, "held_out") == [one("x", "one")]
    assert examples(task, "test") == [Example("x", "one", ("one", "1", "uno"))]
    other = dataclasses.replace(given, test=("first", "second"))
    tests = [open_task(dataclasses.replace(task, examples=each), "test").identity for each in (given, other)]
    assert tests[0] != tests[1]
    assert given.label == files.label
    with pytest.raises(ConfigError, match=r'b\.jsonl, line 1 has no key "third": its keys are'):
        open_task(dataclasses.replace(task, examples=dataclasses.replace(given, test=("third",))), "test")
    with pytest.raises(ConfigError, match='NamesBySplit names "summary", but the task reads text, title'):
        open_task(TextToText(examples=given, source="text", target="title"), "test")
    config = "TextToText(examples=NamesBySplit(JSONExamples('a'), 'summary', test=['first', 'second']), source='text')"
    parsed = override.parse(Task, config, "data.tasks.0")
    assert parsed.examples.test == ("first", "second")
    assert override.from_json(override.to_json(parsed), TextToText) == parsed


def test_each_split_from_its_own_source(tmp_path: Path) -> None:
    a, b, c = (
        JSONExamples(
            *[write_lines(tmp_path / f"{name}{kind}", [{"source": name, "target": str(kind)}]) for kind in "123"]
        )
        for name in "abc"
    )
    task = TextToText(examples=BySplit(train=a, held_out=b, test=c))
    assert examples(task) == [one("a", "1")]
    assert examples(task, "held_out") == [one("b", "2")]
    assert examples(task, "test") == [one("c", "3")]
    assert task.examples.label == a.label
    assert override.from_json(override.to_json(task), TextToText) == task
    with pytest.raises(ConfigError, match="BySplit has no test: give it examples for one"):
        open_task(TextToText(examples=BySplit(train=a, held_out=b)), "test")


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_unequal_numbers_of_lines(tmp_path: Path) -> None:
    pattern = parallel(tmp_path, "train", 3)
    (tmp_path / "train.de").write_text("eins\nzwei\n")
    with pytest.raises(ConfigError, match=r"train\.en has 3 lines and .*train\.de has 2: the same line"):
        open_task(Translation(examples=ParallelText(pattern)), "train")


def test_files_that_are_parallel_only_as_a_whole(tmp_path: Path) -> None:
    for name, lines in (("a.en", 2), ("a.de", 3), ("b.en", 2), ("b.de", 1)):
        (tmp_path / name).write_text("line\n" * lines)
    with pytest.raises(ConfigError, match=r"a\.en has 2 lines and .*a\.de has 3: the same line"):
        open_task(Translation(examples=ParallelText(str(tmp_path / "?.{name}"))), "train")
    (tmp_path / "b.de").unlink()
    with pytest.raises(ConfigError, match=r"\?\.en names 2 files and .*\?\.de 1: each must have a counterpart"):
        open_task(Translation(examples=ParallelText(str(tmp_path / "?.{name}"))), "train")


def test_a_text_that_is_null_is_empty(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"source": "x", "target": "y"}, {"source": "z", "target": None}])
    opened = {
        empty: open_task(TextToText(examples=JSONExamples(path, path, empty=empty)), "train")
        for empty in ("skip", "keep")
    }
    assert [example.target for example in opened["keep"].read(np.arange(2))] == ["y", ""]
    assert len(opened["skip"]) == 1
    with pytest.raises(ConfigError, match=r'line 2 has an empty target \("target"\)'):
        open_task(TextToText(examples=JSONExamples(path, path)), "train")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"source": "x"}, r"""a\.jsonl, line 2 has no key "target": its keys are 'source'"""),
        ({"source": " ", "target": "y"}, r'line 2 has an empty source \("source"\)'),
        ({"source": "x", "target": []}, r'line 2 has an empty target \("target"\)'),
        ({"source": ["", "x"], "target": "y"}, r'line 2 has an empty source \("source"\)'),
        ({"source": "x", "target": ["y", " "]}, 'line 2 has an empty text among those of "target"'),
        ({"source": "x", "target": {"a": 3}}, 'the value of "target" is dict, not a string or a list of strings'),
        ({"source": "x", "target": ["y", None]}, 'the value of "target" is NoneType'),
        ({"source": "\ud800", "target": "y"}, "half of a surrogate pair"),
        ("text", "is not a JSON object but str"),
    ],
)
def test_bad_json(tmp_path: Path, row: Any, message: str) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"source": "x", "target": "y"}, row])
    with pytest.raises(ConfigError, match=message):
        open_task(TextToText(examples=JSONExamples(path)), "train")


def test_bad_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("a\tb\nc\n")
    with pytest.raises(ConfigError, match=r"a\.tsv, line 2 has 1 columns: they must be 2, source, target"):
        open_task(TextToText(examples=TSVExamples(str(path))), "train")
    path.write_text("a\tb\n\t\n")
    with pytest.raises(ConfigError, match="line 2 has an empty source"):
        open_task(TextToText(examples=TSVExamples(str(path))), "train")
    path.write_text("a\tb\nc\t \n")
    with pytest.raises(ConfigError, match="line 2 has an empty target"):
        open_task(TextToText(examples=TSVExamples(str(path))), "train")
    with pytest.raises(ConfigError, match=r'a\.tsv, by its columns, has no "en": it has source, target'):
        open_task(Translation(examples=TSVExamples(str(path))), "train")


def test_bad_parallel_text(tmp_path: Path) -> None:
    pattern = parallel(tmp_path, "train", 3)
    (tmp_path / "train.de").write_text("eins\n\ndrei\n")
    with pytest.raises(ConfigError, match=r"train\.de, line 2 is empty"):
        open_task(Translation(examples=ParallelText(pattern)), "train")
    with pytest.raises(ConfigError, match=r"There is no file .*train\.fr"):
        open_task(Translation(examples=ParallelText(pattern), target="fr"), "train")
    with pytest.raises(ConfigError, match=r'train\.en: the path must contain "\{name\}"'):
        ParallelText("train.en")


def test_bad_squad(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, said in (
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"data": [{}]}', "KeyError: 'paragraphs'"),
        ('{"data": {"title": "T", "paragraphs": []}}', "AttributeError"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError, match=f"is not JSON as SQuAD 1.1 publishes it.*{said}"):
            open_task(QuestionAnswering(examples=SQuADFile(str(path))), "train")
    squad(path, 2, answers=[])
    with pytest.raises(ConfigError, match=r'Question id0 of .*a\.json has an empty target \("answers/text"\)'):
        open_task(QuestionAnswering(examples=SQuADFile(str(path))), "train")
    with pytest.raises(ConfigError, match='A SQuADFile has no "document": it has question, context'):
        open_task(QuestionAnswering(examples=SQuADFile(str(path)), source="document"), "train")


def test_splits_that_there_are_not(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"source": "x", "target": "y"}])
    task = TextToText(examples=JSONExamples(path))
    with pytest.raises(ConfigError, match="have no test split: name its files with test="):
        open_task(task, "test")
    with pytest.raises(ConfigError, match=r"None of the 1 examples .* held_out split .*name files with held_out="):
        open_task(task, "held_out")
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match="is empty: its files hold no example"):
        open_task(TextToText(examples=JSONExamples(str(tmp_path / "none.jsonl"))), "train")
    with pytest.raises(ConfigError, match="There is no file"):
        open_task(TextToText(examples=JSONExamples(str(tmp_path / "gone.jsonl"))), "train")


@pytest.mark.parametrize("text", ["", "{question", "question}", "{}", "{a!r}", "{a:>3}", "only {{}} braces"])
def test_bad_templates(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a template|must contain an example's name"):
        TextToText(examples=JSONExamples("a"), source=text)
