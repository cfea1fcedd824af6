"""Batches are the same whatever the threads, hosts and starting place; every row comes once an epoch."""

import dataclasses
import io
import itertools
import json
import math
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import compressed
import fsspec
import jax
import numpy as np
import pyarrow as pa
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from research import (
    Bytes,
    Denoising,
    HFDataset,
    JSONLines,
    Mixing,
    Parquet,
    PlainText,
    SentencePiece,
    SpanCorruption,
    TrainedSentencePiece,
    WebDataset,
)
from research.config import ConfigError, Corpus
from research.data.batch import Batch, Shard
from research.data.blocks import BLOCK_ROWS, Block, Share, cut
from research.data.pipeline import Pipeline, prepare, unigram_entropy

Row = tuple[tuple[int, ...], ...]


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> tuple[PlainText, JSONLines]:
    """Two small corpora whose rows are all different: about 300 and 120 rows of 71 tokens, held-out text apart."""
    folder = tmp_path_factory.mktemp("corpora")
    counter = itertools.count(10_000)

    def text(words: int) -> list[str]:
        return [" ".join(str(next(counter)) for _ in range(20)) for _ in range(words // 20)]

    (folder / "a.txt").write_text("\n\n".join(text(3600)))
    (folder / "a_held_out.txt").write_text("\n\n".join(text(1800)))
    for name, words in (("b.jsonl", 1440), ("b_held_out.jsonl", 720)):
        (folder / name).write_text("".join(json.dumps({"text": each}) + "\n" for each in text(words)))
    return (
        PlainText(str(folder / "a.txt"), str(folder / "a_held_out.txt")),
        JSONLines(str(folder / "b.jsonl"), str(folder / "b_held_out.jsonl")),
    )


@pytest.fixture
def one(corpora: tuple[PlainText, JSONLines]) -> Denoising:
    return Denoising(corpora[:1], Bytes(), input_length=64)


@pytest.fixture
def two(corpora: tuple[PlainText, JSONLines]) -> Denoising:
    return Denoising(corpora, Bytes(), input_length=64)


def rows_of(batches: list[Batch]) -> list[Row]:
    """Everything in each row, hashable."""
    fields = [np.concatenate([field for field in each if field is not None], axis=1) for each in batches]
    return [tuple(row) for row in np.concatenate(fields).tolist()] if fields else []


def take(pipeline: Pipeline, batches: int, start_row: int = 0, host: int = 0, hosts: int = 1) -> list[Batch]:
    return list(itertools.islice(pipeline.train(start_row, Shard(hosts, (host,))), batches))


def raw_rows(pipeline: Pipeline, batches: list[Batch]) -> list[tuple[int, ...]]:
    """Rows before corruption, from inputs and targets put together again."""
    sentinels = set(pipeline.tokenizer.sentinel_ids.tolist())
    rows = []
    for batch in batches:
        for inputs, targets in zip(batch.encoder_input_tokens, batch.decoder_target_tokens, strict=True):
            spans: dict[int, list[int]] = {}
            for token in targets[:-1].tolist():
                if token in sentinels:
                    span = spans.setdefault(token, [])
                else:
                    span.append(token)
            rows.append(tuple(itertools.chain(*(spans.get(token, [token]) for token in inputs[:-1].tolist()))))
    return rows


# --- The same rows for everybody --------------------------------------------------------------------------------------


def test_shapes_types_and_no_padding(one: Denoising) -> None:
    pipeline = prepare(one, 0, 24)
    (batch,) = take(pipeline, 1)
    assert batch.encoder_input_tokens.shape == (24, 64)
    assert batch.decoder_target_tokens.shape == (24, pipeline.targets)
    assert all(field is None for field in batch[3:])
    assert batch.encoder_input_tokens.dtype == np.int32
    assert jax.tree.map(lambda rows: (rows.shape, rows.dtype), batch) == jax.tree.map(
        lambda rows: (rows.shape, rows.dtype), pipeline.batch_shapes[0]
    )
    assert 250 < pipeline.train_rows < 350


def test_any_batch_size_threads_and_start_give_the_same_rows(two: Denoising) -> None:
    whole = rows_of(take(prepare(two, 0, 128), 6))
    for batch_size, threads in ((8, 1), (24, 3), (96, 4), (200, 2), (256, 1)):
        pipeline = prepare(dataclasses.replace(two, threads=threads), 0, batch_size)
        batches = 700 // batch_size
        rows = rows_of(take(pipeline, batches))
        assert rows == whole[: len(rows)]
        start = batches // 2 * batch_size
        assert rows_of(take(pipeline, batches - batches // 2, start)) == rows[start:]


def test_hosts_have_disjoint_parts_whose_union_is_the_batch(two: Denoising) -> None:
    for batch_size, hosts in ((24, 4), (256, 2), (192, 3), (8, 8), (1024, 4)):
        pipeline = prepare(two, 0, batch_size)
        start = batch_size * 3
        whole = take(pipeline, 3, start)
        parts = [take(pipeline, 3, start, host, hosts) for host in range(hosts)]
        for index, batch in enumerate(whole):
            mine = [rows_of([part[index]]) for part in parts]
            assert {len(rows) for rows in mine} == {batch_size // hosts}
            assert list(itertools.chain(*mine)) == rows_of([batch])


@pytest.mark.parametrize("kind", [*compressed.PACK, *tables.ANY, "directory of datasets", "memory", "tar"])
def test_every_format_gives_the_rows_of_json_lines_anywhere(
    corpora: tuple[PlainText, JSONLines], tmp_path: Path, kind: str
) -> None:
    paths = [Path(corpora[1].train), Path(corpora[1].held_out or "")]
    here = [tmp_path / f"{path.name}.{kind.strip(':/')}" for path in paths]
    for path, copy in zip(paths, here, strict=True):
        lines = path.read_text().splitlines(keepends=True)
        if kind in compressed.PACK:
            copy.write_bytes(compressed.PACK[kind](path.read_bytes()))
        elif kind == "memory":
            fsspec.filesystem("memory").pipe(f"/{copy.name}", path.read_bytes())
        elif kind == "tar":
            with tarfile.open(copy, "w") as tar:
                for number, line in enumerate(lines):
                    member = tarfile.TarInfo(f"{number}.json")
                    member.size = len(line)
                    tar.addfile(member, io.BytesIO(line.encode()))
        elif kind in tables.ANY:
            tables.ANY[kind](pa.Table.from_pylist(list(map(json.loads, lines))), copy)
        else:
            name, half = "validation" if "held_out" in path.name else "train", len(lines) // 2
            for number, part in enumerate((lines[:half], lines[half:])):
                (tmp_path / f"{name}-{number}.jsonl").write_text("".join(part))
    named = [f"memory://{copy.name}" if kind == "memory" else str(copy) for copy in here]
    own: Corpus = (Parquet if kind in tables.ANY else JSONLines)(*named)
    if kind in ("directory of datasets", "tar"):
        own = HFDataset(str(tmp_path)) if kind != "tar" else WebDataset(*named, text="json/text")
    expected, pipeline = (
        prepare(Denoising((corpus,), Bytes(), input_length=64), 0, 24) for corpus in (corpora[1], own)
    )
    assert rows_of(list(pipeline.held_out(24))) == rows_of(list(expected.held_out(24)))
    whole = take(expected, 8)
    assert rows_of(take(pipeline, 8)) == rows_of(whole)
    for host in range(2):  # resumed at the fourth batch
        assert rows_of(take(pipeline, 5, 3 * 24, host, 2)) == rows_of(take(expected, 5, 3 * 24, host, 2))


def test_a_run_goes_on_far_from_the_start(one: Denoising) -> None:
    pipeline = prepare(one, 0, 40)
    start = 40 * 10**9
    assert rows_of(take(pipeline, 3, start))[40:] == rows_of(take(pipeline, 2, start + 40))


def test_preparing_again_gives_the_same(two: Denoising) -> None:
    assert rows_of(take(prepare(two, 5, 64), 3)) == rows_of(take(prepare(two, 5, 64), 3))
    assert rows_of(take(prepare(two, 5, 64), 1)) != rows_of(take(prepare(two, 6, 64), 1))


# --- Epochs and mixing ------------------------------------------------------------------------------------------------


def epochs(pipeline: Pipeline, count: int) -> Iterator[tuple[list[tuple[int, ...]], list[Row]]]:
    batches = take(pipeline, math.ceil(pipeline.train_rows * count / pipeline.batch_size))
    raw, rows, size = raw_rows(pipeline, batches), rows_of(batches), pipeline.train_rows
    for epoch in range(count):
        span = slice(epoch * size, (epoch + 1) * size)
        yield raw[span], rows[span]


@pytest.mark.parametrize("corpora_used", [1, 2])
def test_every_row_comes_once_an_epoch_in_a_new_order_with_new_noise(two: Denoising, corpora_used: int) -> None:
    data = dataclasses.replace(two, corpora=two.corpora[:corpora_used])
    (first, first_rows), (second, second_rows) = epochs(prepare(data, 0, 32), 2)
    assert len(set(first)) == len(first)
    assert sorted(first) == sorted(second)
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 0.05 * len(first)
    assert len(set(first_rows) & set(second_rows)) == 0


def test_rates_follow_the_mixing(two: Denoising) -> None:
    pipeline = prepare(dataclasses.replace(two, mixing=Mixing(temperature=1e6)), 0, 100)
    first = {row for batch in raw_rows_of_each(two, pipeline) for row in batch}
    counts = [sum(row in first for row in raw_rows(pipeline, [batch])) for batch in take(pipeline, 6)]
    assert all(49 <= count <= 51 for count in counts)


def raw_rows_of_each(two: Denoising, pipeline: Pipeline) -> list[list[tuple[int, ...]]]:
    """The rows of the first corpus alone."""
    alone = prepare(dataclasses.replace(two, corpora=two.corpora[:1]), 0, 1)
    return [raw_rows(alone, take(alone, alone.train_rows))]


# --- Held-out rows ----------------------------------------------------------------------------------------------------


def test_held_out_rows_are_the_same_at_every_call_and_seed(two: Denoising) -> None:
    pipeline = prepare(two, 0, 24)
    first = rows_of(list(pipeline.held_out(48)))
    assert rows_of(list(pipeline.held_out(48))) == first
    assert rows_of(list(prepare(two, 1, 16).held_out(48))) == first
    assert rows_of(list(pipeline.held_out(96)))[:48] == first
    train = raw_rows(pipeline, take(pipeline, 20))
    assert not set(raw_rows(pipeline, list(pipeline.held_out(10**6)))) & set(train)


def test_held_out_rows_are_whole_batches(two: Denoising) -> None:
    pipeline = prepare(two, 0, 24)
    assert [len(list(pipeline.held_out(rows))) for rows in (1, 24, 25)] == [1, 1, 2]
    available = list(pipeline.held_out(10**9))
    assert len(available) == pipeline.held_out_rows // 24
    assert len(available) * 24 > BLOCK_ROWS
    raw = raw_rows(pipeline, available)
    assert len(set(raw)) == len(raw)
    parts = [list(pipeline.held_out(50, Shard(3, (host,)))) for host in range(3)]
    for index, batch in enumerate(pipeline.held_out(50)):
        assert list(itertools.chain(*(rows_of([part[index]]) for part in parts))) == rows_of([batch])


def test_too_few_held_out_rows(two: Denoising) -> None:
    pipeline = prepare(two, 0, 4096)
    with pytest.raises(ConfigError, match=r"held-out text has \d+ rows, fewer than one batch of 4096.*lower batch"):
        pipeline.held_out(10)
    with pytest.raises(ConfigError, match=r"evaluation\.rows is 0"):
        pipeline.held_out(0)


# --- What decides the data --------------------------------------------------------------------------------------------


def test_the_fingerprint_names_what_changed(two: Denoising, tmp_path: Path) -> None:
    def changed(data: Denoising, seed: int = 0, batch_size: int = 8) -> set[str]:
        before, after = prepare(two, 0, 8).fingerprint, prepare(data, seed, batch_size).fingerprint
        assert before.keys() == after.keys()
        assert json.loads(json.dumps(after)) == after
        return {name for name in before if before[name] != after[name]}

    assert changed(dataclasses.replace(two, threads=7)) == set()
    assert changed(two, seed=1) == {"seed"}
    assert changed(two, batch_size=16) == {"batch_size"}
    assert changed(dataclasses.replace(two, tokenizer=Bytes(sentinels=50))) == {"data.tokenizer"}
    assert changed(dataclasses.replace(two, mixing=Mixing(limit=10))) == {"data.mixing"}
    assert changed(dataclasses.replace(two, input_length=65)) == {"data.input_length"}
    assert changed(dataclasses.replace(two, objective=SpanCorruption(0.2))) == {"data.objective"}
    assert changed(dataclasses.replace(two, corpora=two.corpora[::-1])) == {"data.corpora"}
    assert changed(dataclasses.replace(two, corpora=two.corpora[:1])) == {"data.corpora"}

    moved = tmp_path / "moved.txt"
    moved.write_bytes(Path(two.corpora[0].train).read_bytes())
    first = dataclasses.replace(two.corpora[0], train=str(moved))
    assert changed(dataclasses.replace(two, corpora=(first, two.corpora[1]))) == set()
    moved.write_bytes(moved.read_bytes().replace(b"10001", b"10002"))
    assert changed(dataclasses.replace(two, corpora=(first, two.corpora[1]))) == {"data.corpora"}


def test_a_trained_vocabulary(two: Denoising) -> None:
    data = dataclasses.replace(two, tokenizer=TrainedSentencePiece(pieces=310))
    pipeline = prepare(data, 0, 8)
    assert pipeline.tokenizer.size == 410
    assert pipeline.tokenizer.digest == prepare(data, 0, 8).tokenizer.digest
    assert len(take(pipeline, 1)) == 1


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_before_a_batch_is_asked_for(two: Denoising, tmp_path: Path) -> None:
    pipeline = prepare(two, 0, 8)
    with pytest.raises(ConfigError, match="row 12: it must be a multiple of batch_size, which is 8"):
        pipeline.train(12)
    with pytest.raises(
        ConfigError, match="batch_size is 8: it must be a multiple of the parts it is split into, which are 3"
    ):
        pipeline.train(0, Shard(3))
    with pytest.raises(ConfigError, match="multiple of the parts"):
        pipeline.held_out(8, Shard(3))
    with pytest.raises(ConfigError, match="fewer than one row of"):
        prepare(dataclasses.replace(two, input_length=40_000, objective=SpanCorruption(0.15, 1000.0)), 0, 8)
    with pytest.raises(ConfigError, match="sentinels"):
        prepare(dataclasses.replace(two, tokenizer=Bytes(sentinels=1)), 0, 8)
    with pytest.raises(ConfigError, match="There is no file"):
        prepare(dataclasses.replace(two, corpora=(PlainText(str(tmp_path / "none")),)), 0, 8)
    with pytest.raises(ConfigError, match="cannot be read"):
        prepare(dataclasses.replace(two, tokenizer=SentencePiece(str(tmp_path / "none"))), 0, 8)


def test_an_error_while_blocks_are_made_reaches_the_reader(one: Denoising, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = prepare(one, 0, 8)

    def broken(*arguments: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(pipeline, "_train_block", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        next(pipeline.train())


def test_a_reader_that_goes_away_leaves_no_threads(one: Denoising) -> None:
    pipeline = prepare(one, 0, 8)
    before = threading.active_count()
    for _ in range(5):
        batches = pipeline.train()
        next(batches)
        batches.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


# --- Parts ------------------------------------------------------------------------------------------------------------


@st.composite
def shards(draw: st.DrawFn) -> Shard:
    parts = draw(st.integers(1, 8))
    return Shard(parts, tuple(sorted(draw(st.sets(st.integers(0, parts - 1), min_size=1)))))


@given(shards(), st.integers(1, 40))
def test_the_spans_of_a_shard_are_its_parts(shard: Shard, part: int) -> None:
    spans = shard.spans(part * shard.parts)
    rows = [row for span in spans for row in range(*span)]
    assert rows == [number * part + row for number in shard.held for row in range(part)]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


@given(shards(), st.integers(1, 300), st.integers(0, 1000))
def test_shares_need_exactly_the_blocks_of_their_rows(shard: Shard, part: int, first: int) -> None:
    share = Share(part * shard.parts, shard)
    rows = [row for batch in range(first, first + 5) for span in share.rows(batch) for row in range(*span)]
    needed = sorted({row // BLOCK_ROWS for row in rows})
    start = share.index(rows[0])
    assert [share.block(start + offset) for offset in range(len(needed))] == needed
    assert share.index(rows[-1]) == start + len(needed) - 1


@given(shards(), st.integers(1, 300))
def test_batches_cut_from_blocks_are_the_rows_asked_for(shard: Shard, part: int) -> None:
    share = Share(part * shard.parts, shard)
    parts = [share.rows(batch) for batch in range(3, 8)]
    start = share.index(parts[0][0][0])

    def block(number: int) -> Block:
        rows = np.arange(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS)[:, None]
        return Block(number * BLOCK_ROWS, (number + 1) * BLOCK_ROWS, Batch(rows, rows, rows))

    blocks = (block(share.block(index)) for index in itertools.count(start))
    for spans, batch in zip(parts, cut(blocks, parts), strict=True):
        assert batch.encoder_input_tokens[:, 0].tolist() == [row for span in spans for row in range(*span)]
        assert batch.decoder_loss_weights is None


def test_unigram_entropy() -> None:
    def batch(targets: list[list[int]], weights: list[list[float]] | None = None) -> Batch:
        tokens = np.array(targets, np.int32)
        return Batch(tokens, tokens, tokens, None if weights is None else np.array(weights, np.float32))

    assert unigram_entropy([batch([[7, 7, 7]])]) == 0
    assert unigram_entropy([batch([[1, 2]]), batch([[3, 900]])]) == pytest.approx(math.log(4))
    assert unigram_entropy([batch([[1, 1, 1, 2]])]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert unigram_entropy([batch([[1, 1, 2, 3]], [[1, 0, 1, 0]])]) == pytest.approx(math.log(2))
