"""Instructions: forms to the letter as FLAN's (scripts/make_more_task_goldens.py), and choices that never change."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research import Bytes, FewShot, Instructions, JSONExamples, NamesBySplit, OnlySplits, Supervised, TextToText
from research.config import ConfigError, override
from research.config.examples import Split
from research.data.pipeline import prepare
from research.data.tasks.few_shot import shot_name
from research.data.tasks.task import Example, open_task

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "goldens" / "more_tasks.json").read_text())
FLAN: dict[str, Any] = GOLDENS["instructions"]
PHRASINGS = (
    ("Translate: {en}", "{de}"),
    ("{en}\nIn German:", "{de}"),
    ("Give a pair.", "{en} = {de}"),
)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(task: Instructions, split: Split = "train") -> list[Example]:
    opened = open_task(task, split)
    return opened.read(np.arange(len(opened)))


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"en": f"number {number}", "de": f"Zahl {number}"} for number in range(first, first + count)]


@pytest.fixture
def pairs(tmp_path: Path) -> JSONExamples:
    return JSONExamples(write(tmp_path / "a.jsonl", rows(60)), write(tmp_path / "b.jsonl", rows(20, 100)))


# --- FLAN's forms -----------------------------------------------------------------------------------------------------


def test_templates_and_options_are_flan_s(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FLAN["records"])
    task = Instructions(examples=JSONExamples(path, path, empty="keep"), templates=(tuple(FLAN["template"]),))
    expected = [(one["inputs"], one["targets"]) for one in FLAN["zero_shot"]]
    assert len(expected) >= 20
    assert [(example.source, example.target) for example in made(task)] == expected
    listing = dataclasses.replace(task, templates=(("{options_}", "{answer}"),))
    assert [example.source for example in made(listing)] == [one["dashes"] for one in FLAN["options"]]
    lettered = dataclasses.replace(listing, options="letters")
    assert [example.source for example in made(lettered)] == [one["letters"] for one in FLAN["options"]]


@pytest.mark.parametrize("number", range(len(FLAN["few_shot"])))
def test_few_shot_texts_are_flan_s(number: int) -> None:
    golden = FLAN["few_shot"][number]
    form = "{}{{source}}{}{}{{target}}{}".format(
        *(golden[name] for name in ("source_prefix", "between", "target_prefix", "separator"))
    )
    task = Instructions(
        examples=FewShot(JSONExamples("a"), golden["shots"], form), templates=((golden["source"], golden["target"]),)
    )
    last = golden["first"] + golden["shots"]
    *exemplars, own = [texts_of(record) for record in FLAN["records"][golden["first"] : last + 1]]
    record = own | {shot_name(shot, name): texts for shot, one in enumerate(exemplars) for name, texts in one.items()}
    source, (target, *_) = task.example(record)
    assert (source, target) == (golden["inputs"], golden["targets"])


def texts_of(record: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(value) if isinstance(value, list) else (value,) for name, value in record.items()}


# --- Choices ----------------------------------------------------------------------------------------------------------


def test_a_record_has_one_phrasing_always_or_each_in_training(pairs: JSONExamples) -> None:
    task = Instructions(examples=pairs, templates=PHRASINGS)
    once = made(task)
    assert once == made(task)
    assert len(once) == 60
    kinds = Counter(
        "pair" if one.source == "Give a pair." else "translate" if one.source.startswith("Tr") else "german"
        for one in once
    )
    assert min(kinds.values()) > 10
    each = made(dataclasses.replace(task, chosen="each"))
    assert len(each) == 180
    assert [one.source for one in each[:3]] == ["Translate: number 0", "number 0\nIn German:", "Give a pair."]
    assert [one.target for one in each[:3]] == ["Zahl 0", "Zahl 0", "number 0 = Zahl 0"]
    assert {one[:2] for one in once} < {one[:2] for one in each}
    assert len(made(dataclasses.replace(task, chosen="each"), "held_out")) == 20


def test_several_texts_are_references_of_a_target_that_is_one_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "x", "a": ["1", "one"]}])
    task = Instructions(examples=JSONExamples(path, path), templates=(("{q}", "{a}"),))
    assert made(task) == [Example("x", "1", ("1", "one"))]
    assert made(dataclasses.replace(task, templates=(("{q} {{}}", "It is {a}"),))) == [
        Example("x {}", "It is 1", ("It is 1",))
    ]


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_exemplars_are_others_of_the_training_split_in_the_same_phrasing(pairs: JSONExamples, split: Split) -> None:
    trained = {(row["en"], row["de"]) for row in rows(60)}
    task = Instructions(examples=FewShot(pairs, 3), templates=(("{en}", "{de}"), ("Q {en}", "A {de}")))
    found = made(task, split)
    assert found == made(task, split)
    shown = Counter[tuple[str, str]]()
    for example in found:
        *exemplars, own = example.source.split("\n\n\n")
        parts = [tuple(text.split("\n\n")) for text in exemplars]
        asked = own.startswith("Q ")
        assert all(source.startswith("Q ") == target.startswith("A ") == asked for source, target in parts)
        plain = [(source.removeprefix("Q "), target.removeprefix("A ")) for source, target in parts]
        assert len(set(plain)) == 3
        assert set(plain) <= trained
        assert own.removeprefix("Q ").strip() not in [source for source, _ in plain]
        assert own.endswith("\n\n")
        shown.update(plain)
    assert len(shown) > len(found) // 2


def test_records_with_equal_texts_are_no_exemplars(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "same", "a": "1"}] * 30 + [{"q": "x", "a": "2"}, {"q": "y", "a": "3"}])
    task = Instructions(examples=FewShot(JSONExamples(path, path), 2), templates=(("{q}", "{a}"),))
    for example in made(task)[:30]:
        assert sorted(example.source.split("\n\n\n")[:2]) == ["x\n\n2", "y\n\n3"]
    more = dataclasses.replace(task, examples=FewShot(JSONExamples(path, path), 3))
    with pytest.raises(
        ConfigError, match=r"Record 1 of .* has only 2 others in the training split: FewShot\.shots is 3"
    ):
        made(more)


def test_the_held_out_records_are_those_without_exemplars(tmp_path: Path) -> None:
    """Chosen by a hash of the source."""
    files = JSONExamples(write(tmp_path / "a.jsonl", rows(600)))
    plain = Instructions(examples=files, templates=(("{en}", "{de}"),))
    shot = Instructions(examples=FewShot(files, 2), templates=(("{en}", "{de}"),))
    ends = [example.source.split("\n\n\n")[-1].strip() for example in made(shot, "held_out")]
    held_out = [example.source for example in made(plain, "held_out")]
    assert ends == held_out
    shown = "\n".join(example.source for example in [*made(shot), *made(shot, "held_out")])
    listed = shown.split("\n")
    assert all(listed.count(text) == 1 for text in held_out)


def test_the_identity_follows_the_phrasings(pairs: JSONExamples, tmp_path: Path) -> None:
    """By it tokens on disk are found, and runs resume."""
    path = tmp_path / "templates.jsonl"
    write(path, [{"source": source, "target": target} for source, target in PHRASINGS])
    task = Instructions(examples=pairs, templates=PHRASINGS)
    of_file = dataclasses.replace(task, templates=str(path))
    assert of_file.pairs == PHRASINGS
    assert open_task(task, "train").identity == open_task(of_file, "train").identity
    write(path, [{"source": "{en}?", "target": "{de}"}])
    assert of_file.pairs == (("{en}?", "{de}"),)
    others = [
        dataclasses.replace(task, templates=str(path)),
        dataclasses.replace(task, chosen="each"),
        dataclasses.replace(task, options="letters"),
        dataclasses.replace(task, examples=FewShot(pairs, 1)),
        dataclasses.replace(task, examples=FewShot(pairs, 2)),
        dataclasses.replace(task, examples=FewShot(pairs, 2, "{source} {target}\n")),
    ]
    assert len({open_task(each, "train").identity for each in (task, *others)}) == 7


def test_instructions_are_packed_and_resume(pairs: JSONExamples, tmp_path: Path) -> None:
    templates = write(
        tmp_path / "t.jsonl", [{"source": "{en}:", "target": "{de}"}, {"source": "{de}", "target": "{en}"}]
    )
    task = Instructions(examples=FewShot(pairs, 1), templates=templates, chosen="each")
    data = Supervised((task, TextToText(examples=pairs, source="en", target="de")), Bytes(), 128, 32)
    pipeline, again = prepare(data, 0, 8), prepare(data, 0, 8)
    assert pipeline.fingerprint == again.fingerprint
    batches = [batch for _, batch in zip(range(4), pipeline.train(), strict=False)]
    resumed = next(again.train(16))
    assert all(np.array_equal(one, other) for one, other in zip(batches[2], resumed, strict=True))


# --- As text, and bad input -------------------------------------------------------------------------------------------


def test_as_overrides_and_json(pairs: JSONExamples) -> None:
    text = 'Instructions(examples=FewShot(JSONExamples("a"), 2), templates=[("{q}", "{a}"), ["Q {q}", "A {a}"]])'
    task = override.parse(Instructions, text, "data.tasks.0")
    assert task.templates == (("{q}", "{a}"), ("Q {q}", "A {a}"))
    for each in (task, dataclasses.replace(task, templates="t.jsonl", options="letters")):
        assert override.from_json(override.to_json(each), Instructions) == each
    wrapped = FewShot(OnlySplits(NamesBySplit(pairs, "en"), ("held_out",), "x"))
    assert (wrapped.label, wrapped.splits) == ("x", ("held_out",))
    with pytest.raises(ConfigError, match="x has no split train here"):
        made(Instructions(examples=wrapped, templates=PHRASINGS), "held_out")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ((), r"Instructions has no template: give at least one \(source, target\)"),
        ((("{en}", "yes"),), r"A template is \('\{en\}', 'yes'\): the target must have a name in braces"),
        ((("", "{de}"),), "the target must have a name in braces"),
        ((("{fr}", "{de}"),), r"""a\.jsonl, line 1 has no key "fr": its keys are 'en', 'de'"""),
        ((("{options_}", "{de}"),), r"""a\.jsonl, line 1 has no key "options": its keys are"""),
        ((("{en", "{de}"),), "'{en' is not a template"),
        ("gone.jsonl", r"gone\.jsonl: there is no such file"),
        ("none.jsonl", r"Instructions has no template in none\.jsonl: give at least one"),
        ("bad.jsonl", r'bad\.jsonl, line 2 is no template: it must have a text as "source" and as "target"'),
    ],
)
def test_bad_templates(
    pairs: JSONExamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, templates: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none.jsonl").write_text("\n")
    Path("bad.jsonl").write_text('{"source": "{en}", "target": "{de}"}\n{"source": "{en}", "target": 3}\n')
    with pytest.raises(ConfigError, match=message):
        made(Instructions(examples=pairs, templates=templates))


def test_bad_options(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "x", "a": "1", "options": []}])
    task = Instructions(examples=JSONExamples(path, path), templates=(("{q} {options_}", "{a}"),))
    with pytest.raises(ConfigError, match=r'line 1 has an empty list as "options"'):
        made(task)
    kept = dataclasses.replace(task, examples=JSONExamples(path, path, empty="keep"))
    with pytest.raises(ConfigError, match=r"A record has the options \[\], but .* lists them: each must be a text"):
        made(kept)
    record = {"q": ("x",), "a": ("1",), "options": tuple("abcdefghijklmnopqrstuvwxyz1")}
    with pytest.raises(ConfigError, match="A record has 27 options: only 26 have letters"):
        dataclasses.replace(task, options="letters").example(record)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shots": 0}, r"FewShot\.shots is 0: it must be above 0"),
        ({"form": "{source}"}, "it must have {source}, then {target}"),
        ({"form": "{target} {source}"}, "it must have {source}, then {target}"),
    ],
)
def test_bad_exemplars(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FewShot(JSONExamples("a"), **fields)
