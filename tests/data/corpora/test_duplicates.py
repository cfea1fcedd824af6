"""Documents that repeat others are left out: exactly those, by whatever pieces and parts, and once computed no more."""

import itertools
import json
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from research import Buckets, Bytes, Corpus, Denoising, JSONExamples, JSONLines, Packed, Supervised, TextToText
from research.config import ConfigError
from research.data.batch import Batch, Shard
from research.data.corpora import duplicates
from research.data.corpora.denoising import recipes
from research.data.corpora.documents import Documents, DocumentsInMemory, LeftOut
from research.data.corpora.duplicates import distinct
from research.data.pipeline import Pipeline, prepare

Texts = Sequence[Sequence[str]]


@pytest.fixture(autouse=True)
def here(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(corpora: Texts, held_out: Texts) -> list[list[DocumentsInMemory]]:
    return [[DocumentsInMemory(str(n), texts) for n, texts in enumerate(split)] for split in (corpora, held_out)]


def kept_texts(corpora: Texts, held_out: Texts) -> tuple[list[list[str]], list[LeftOut]]:
    found = distinct(*opened(corpora, held_out))
    return [one.read(np.arange(len(one))) for one in found], [one.left_out for one in found]


def expected(corpora: Texts, held_out: Texts) -> tuple[list[list[str]], list[LeftOut]]:
    """The same by sets of texts."""
    never = {text.strip() for texts in held_out for text in texts}
    before: set[str] = set()
    kept, counts = [], []
    for texts in corpora:
        own: set[str] = set()
        kept.append(list[str]())
        within = between = of_held_out = 0
        for text in texts:
            stripped = text.strip()
            if stripped in never:
                of_held_out += 1
            elif stripped in own:
                within += 1
            elif stripped in before:
                between += 1
            else:
                kept[-1].append(text)
            own.add(stripped)
        before |= own
        counts.append(LeftOut(within, between, of_held_out))
    return kept, counts


# --- What is left out -------------------------------------------------------------------------------------------------

LETTERS = st.sampled_from(["a", "b", "c", "d", " d", "d\n", "e", "f", "g", "h"])
CORPORA = st.lists(st.lists(LETTERS, min_size=1, max_size=12), min_size=1, max_size=3)


@settings(deadline=None, max_examples=50)
@given(corpora=CORPORA, held_out=CORPORA, piece=st.integers(1, 5), together=st.integers(1, 8))
def test_exactly_those_are_left_out_that_sets_of_texts_find(
    corpora: Texts, held_out: Texts, piece: int, together: int
) -> None:
    kept, counts = expected(corpora, held_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PIECE", piece)
        patch.setattr(duplicates, "TOGETHER", together)
        corpora = [[*texts, f"only {number}"] for number, texts in enumerate(corpora)]  # something is kept of each
        kept = [[*texts, f"only {number}"] for number, texts in enumerate(kept)]
        assert kept_texts(corpora, held_out) == (kept, counts)


def test_a_corpus_of_which_nothing_is_kept_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"All 2 documents of 1 repeat others: 1 of their own corpus, 1 of an earlier corpus\. R"
    ):
        distinct(*opened([["a"], ["a", "a"]], [["b"]]))


def test_without_duplicates_nothing_changes() -> None:
    train, held_out = opened([["a", "b"], ["c"]], [["d"]])
    assert all(found is given for found, given in zip(distinct(train, held_out), train, strict=True))


def test_identities_follow_what_is_kept() -> None:
    def identity(held_out: list[str]) -> str:
        return distinct(*opened([["a", "b", "c", "b"]], [held_out]))[0].identity

    assert identity(["d"]) == identity(["e"])
    assert identity(["d"]) != identity(["c"])


def test_memory_is_bounded_by_the_hashes_that_are_sorted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 1 << 18
    hashes = np.random.default_rng(0).integers(0, 1 << 63, (count, 2)).astype(np.uint64) * np.uint64(2)
    hashes[1::2] = hashes[::2]
    peaks = []
    for together in (1 << 20, 1 << 13):
        monkeypatch.setattr(duplicates, "TOGETHER", together)
        tracemalloc.start()
        (verdict,) = duplicates._verdicts([(0, np.split(hashes, 32))])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert int((verdict == duplicates.WITHIN).sum()) == count // 2
    assert peaks[0] > 8 * peaks[1]
    assert peaks[1] < 4 * count  # bytes


# --- The cache --------------------------------------------------------------------------------------------------------


def test_an_interrupted_build_resumes_and_a_finished_one_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PIECE", 4)
    texts = [[str(number % 9) for number in range(12)]], [["0"]]
    write, made = duplicates._write_hashes, list[range]()

    def stops(documents: DocumentsInMemory, rows: range, folder: Path) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(rows)
        write(documents, rows, folder)

    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_write_hashes", stops)
        with pytest.raises(KeyboardInterrupt):
            kept_texts(*texts)
    done = list(made)
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_write_hashes", lambda *of: (made.append(of[1]), write(*of)))
        assert kept_texts(*texts) == expected(*texts)
    assert len(done) == 2
    assert len(made) == 4  # three pieces of the corpus and one held out, each once
    monkeypatch.setattr(duplicates, "_write_hashes", lambda *_: pytest.fail("hashed again"))
    monkeypatch.setattr(duplicates, "_write", lambda *_: pytest.fail("judged again"))
    assert kept_texts(*texts) == expected(*texts)


# --- Training data ----------------------------------------------------------------------------------------------------


def write_lines(path: str, texts: Sequence[str]) -> None:
    Path(path).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def text(number: int) -> str:
    return f"document {number} has words enough for a row or so, all of them about {number * 7919}"


@pytest.fixture
def corpora() -> tuple[JSONLines, ...]:
    """Two corpora that repeat themselves, each other and the held-out text."""
    write_lines("a.jsonl", [text(number) for number in (0, 1, 2, 1, 3, 4, 90, 5, 0)])
    write_lines("b.jsonl", [text(number) for number in (10, 11, 3, 12, 91, 13)])
    write_lines("a_held_out.jsonl", [text(number) for number in range(90, 96)])
    write_lines("b_held_out.jsonl", [text(number) for number in range(80, 86)])
    return JSONLines("a.jsonl", "a_held_out.jsonl"), JSONLines("b.jsonl", "b_held_out.jsonl")


def taken(pipeline: Pipeline, hosts: int = 1) -> list[Batch]:
    """Three batches, put together from the parts of the hosts."""
    parts = [list(itertools.islice(pipeline.train(0, Shard(hosts, (host,))), 3)) for host in range(hosts)]
    return [
        Batch(*(np.concatenate(field) if field[0] is not None else None for field in zip(*of, strict=True)))
        for of in zip(*parts, strict=True)
    ]


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left.encoder_input_tokens, right.encoder_input_tokens)
        np.testing.assert_array_equal(left.decoder_target_tokens, right.decoder_target_tokens)


def test_the_batches_are_those_of_files_without_duplicates_on_any_number_of_hosts(
    corpora: tuple[JSONLines, ...],
) -> None:
    data = Denoising(corpora, Bytes(), input_length=48, duplicates="leave_out")
    pipeline = prepare(data, 0, 4)
    assert pipeline.notes == (
        "3 of 9 documents of a.jsonl repeat others and are left out: 2 of their own corpus, 1 of held-out text",
        "2 of 6 documents of b.jsonl repeat others and are left out: 1 of an earlier corpus, 1 of held-out text",
    )
    write_lines("c.jsonl", [text(number) for number in (0, 1, 2, 3, 4, 5)])
    write_lines("d.jsonl", [text(number) for number in (10, 11, 12, 13)])
    clean = JSONLines("c.jsonl", "a_held_out.jsonl"), JSONLines("d.jsonl", "b_held_out.jsonl")
    plain = prepare(Denoising(clean, Bytes(), input_length=48), 0, 4)
    assert_equal(taken(pipeline), taken(plain))
    assert_equal(taken(pipeline, hosts=2), taken(plain))
    assert pipeline.fingerprint == plain.fingerprint


def test_what_is_kept_by_default_has_its_identities(corpora: tuple[JSONLines, ...]) -> None:
    """A run that began before there was such a choice resumes, also with the choice if there are no duplicates."""
    kept = prepare(Denoising(corpora, Bytes(), input_length=48), 0, 4)
    assert kept.notes == ()
    assert (
        prepare(Denoising(corpora, Bytes(), input_length=48, duplicates="leave_out"), 0, 4).fingerprint
        != kept.fingerprint
    )
    for corpus in corpora:
        write_lines(corpus.train, [text(number + 50 * (corpus.train == "b.jsonl")) for number in range(9)])
    both = [
        prepare(Denoising(corpora, Bytes(), input_length=48, duplicates=choice), 0, 4).fingerprint
        for choice in ("keep", "leave_out")
    ]
    assert both[0] == both[1]


@dataclass(frozen=True)
class Letters(Corpus):
    letters: str

    def documents(self, split: Literal["train", "held_out"]) -> Documents:
        return DocumentsInMemory(self.letters, [*self.letters] if split == "train" else ["x", "y"])


def test_a_corpus_of_ones_own_loses_its_duplicates_too() -> None:
    corpora = (Letters("abcabx"), Letters("defax"))
    _, (first, second), _ = recipes(Denoising(corpora, Bytes(), input_length=8, duplicates="leave_out"))
    assert [first.documents[index] for index in range(len(first.documents))] == ["a", "b", "c"]
    assert second.documents.read(np.arange(3)) == ["d", "e", "f"]
    assert (first.documents.left_out, second.documents.left_out) == (LeftOut(2, 0, 1), LeftOut(0, 1, 1))


@pytest.mark.parametrize("batching", [Packed(), Buckets((16,))])
def test_examples_are_left_out_by_source_and_target(batching: Packed | Buckets) -> None:
    def write(path: str, pairs: Sequence[str]) -> None:
        Path(path).write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in pairs))

    write("a.jsonl", ["ab", "ac", "ab", "xy", "bb"])
    write("held_out.jsonl", ["xy", "zz"])
    task = TextToText(examples=JSONExamples("a.jsonl", "held_out.jsonl"))
    data = Supervised((task,), Bytes(), 16, 16, batching=batching, duplicates="leave_out")
    pipeline = prepare(data, 0, 1)
    counted = "2 of 5 examples of a.jsonl repeat others and are left out: 1 of their own corpus, 1 of held-out text"
    assert pipeline.notes[0].startswith("3 examples")
    assert pipeline.notes[1] == counted
