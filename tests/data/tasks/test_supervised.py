"""Supervised data: the same batches whatever the threads, hosts and start; each example once an epoch; T5's rates."""

import collections
import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from vocabularies import sentencepiece_model, sentences

from research import (
    Buckets,
    Bytes,
    JSONExamples,
    MBart,
    Mixing,
    OnlySplits,
    Packed,
    ParallelText,
    Supervised,
    TextToText,
    TrainedSentencePiece,
    Translation,
)
from research.config import ConfigError
from research.data import mixing
from research.data.batch import Batch, Shard
from research.data.pipeline import Pipeline, prepare
from research.data.tokenizer import SentencePieceTokenizer
from research.report.data_overview import task_splits

Example = tuple[tuple[int, ...], tuple[int, ...]]


def write(path: Path, count: int, longest: int, seed: int) -> str:
    """Examples that are all different, of 4 to `longest` characters on each side."""
    draw = np.random.default_rng(seed)

    def text(number: int) -> str:
        return f"{number:04}" + "x" * int(draw.integers(0, longest - 3))

    rows = [{"source": text(number), "target": text(number + 1)} for number in range(seed * 1000, seed * 1000 + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Supervised:
    folder = tmp_path_factory.mktemp("tasks")
    files = [
        JSONExamples(
            write(folder / f"{name}.jsonl", count, longest, seed),
            write(folder / f"{name}_held_out.jsonl", count // 4, longest, seed + 10),
        )
        for name, count, longest, seed in (("a", 400, 10, 1), ("b", 100, 20, 2))
    ]
    tasks = tuple(TextToText(examples=each) for each in files)
    return Supervised(tasks, Bytes(), input_length=40, target_length=36)


@pytest.fixture
def one(two: Supervised) -> Supervised:
    return dataclasses.replace(two, tasks=two.tasks[:1])


def examples_in(batches: list[Batch]) -> list[Example]:
    """Of rows packed or not; what has no weight is none."""
    found = []
    for batch in batches:
        for row in range(len(batch.encoder_input_tokens)):
            encoder, decoder = batch.encoder_segment_ids[row], batch.decoder_segment_ids[row]
            for id in np.unique(decoder[decoder > 0]):
                assert batch.decoder_loss_weights[row][decoder == id].all()
                source = batch.encoder_input_tokens[row][encoder == id]
                target = batch.decoder_target_tokens[row][decoder == id]
                found.append((tuple(source.tolist()), tuple(target.tolist())))
    return found


def take(pipeline: Pipeline, batches: int, start: int = 0, host: int = 0, hosts: int = 1) -> list[Batch]:
    return list(itertools.islice(pipeline.train(start * pipeline.batch_size, Shard(hosts, (host,))), batches))


def same(first: list[Batch], second: list[Batch]) -> bool:
    equal = jax.tree.map(lambda a, b: a.shape == b.shape and bool((a == b).all()), first, second)
    return all(jax.tree.leaves(equal))


def framed(data: Supervised, split: str) -> list[Example]:
    """The examples of files by the tokenizer alone."""
    tokenizer = prepare(data, 0, 8).tokenizer
    paths = [Path(getattr(task.examples, split)) for task in data.tasks]
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    sources = tokenizer.source([row["source"] for row in rows])
    targets = tokenizer.target([row["target"] for row in rows])
    return [(tuple(source), tuple(target)) for source, target in zip(sources, targets, strict=True)]


# --- Batches ----------------------------------------------------------------------------------------------------------


def test_an_epoch_has_each_example_once_in_a_new_order(one: Supervised) -> None:
    pipeline = prepare(one, 0, 8)
    batches = take(pipeline, math.ceil(2 * pipeline.train_rows / 8))
    rows = [jax.tree.map(lambda field, row=row: field[row : row + 1], batch) for batch in batches for row in range(8)]
    size = pipeline.train_rows
    first, second = examples_in(rows[:size]), examples_in(rows[size : 2 * size])
    assert sorted(first) == sorted(second) == sorted(framed(one, "train"))
    assert first != second
    assert jax.tree.map(lambda rows: (rows.shape, rows.dtype), batches[0]) == jax.tree.map(
        lambda rows: (rows.shape, rows.dtype), pipeline.batch_shapes[0]
    )


def test_threads_starts_and_hosts_decide_nothing(two: Supervised) -> None:
    pipeline = prepare(two, 3, 24)
    whole = take(pipeline, 9)
    assert same(take(prepare(dataclasses.replace(two, threads=4), 3, 24), 9), whole)
    assert same(take(pipeline, 4, start=5), whole[5:])
    parts = [take(pipeline, 4, 5, host, 3) for host in range(3)]
    for index, batch in enumerate(whole[5:]):
        joined = jax.tree.map(lambda *fields: np.concatenate(fields), *(part[index] for part in parts))
        assert same([joined], [batch])
    assert not same(take(prepare(two, 4, 24), 1), whole[:1])


def test_no_held_out_example_is_left_out(two: Supervised) -> None:
    expected = sorted(framed(two, "held_out"))
    for batch_size in (8, 24, 512):
        pipeline = prepare(two, 0, batch_size)
        batches = list(pipeline.held_out(10**6))
        assert sorted(examples_in(batches)) == expected
        assert all(len(batch.encoder_input_tokens) == batch_size for batch in batches)
    assert same(list(pipeline.held_out(10**6)), list(prepare(two, 5, 512).held_out(10**6)))


def test_rates_are_over_examples(two: Supervised) -> None:
    """Each row of b holds fewer examples than one of a."""
    pipeline = prepare(dataclasses.replace(two, mixing=Mixing(limit=100)), 0, 50)
    found = examples_in(take(pipeline, 60))
    first = set(framed(dataclasses.replace(two, tasks=two.tasks[:1]), "train"))
    share = sum(example in first for example in found) / len(found)
    assert share == pytest.approx(0.5, abs=0.01)
    assert mixing.row_weights((400, 100), (100, 50), Mixing()) == (100, 50)
    weights = mixing.row_weights((400, 100), (100, 50), Mixing(temperature=2.0))
    assert weights[0] / weights[1] == pytest.approx(2 * (100 / 400) / (50 / 100))


@pytest.mark.parametrize("batching", [Packed(), Buckets((20, 40))])
def test_tasks_that_are_only_trained_on_or_only_evaluated(two: Supervised, batching: Packed | Buckets) -> None:
    """With the rows of each alone, and rates of those that are trained on."""
    first, second = two.tasks
    apart = (
        dataclasses.replace(first, examples=OnlySplits(first.examples, ("train",))),
        dataclasses.replace(second, examples=OnlySplits(second.examples, ("held_out", "test"))),
    )
    data = dataclasses.replace(two, tasks=apart, batching=batching)
    pipeline = prepare(data, 0, 8)
    trained = examples_in(take(pipeline, pipeline.train_rows // 8 + 1))
    assert set(trained) == set(framed(dataclasses.replace(two, tasks=(first,)), "train"))
    held_out = examples_in(list(pipeline.held_out(10**6)))
    assert sorted(held_out) == sorted(framed(dataclasses.replace(two, tasks=(second,)), "held_out"))
    splits = task_splits(data, pipeline)
    assert [split.split for split in splits] == ["train", "held_out"]
    if isinstance(batching, Packed):
        prepare(dataclasses.replace(data, mixing=Mixing(rates=(5.0,))), 0, 8)
        with pytest.raises(ConfigError, match=r"data\.mixing\.rates has 2 numbers: it must have 1"):
            prepare(dataclasses.replace(data, mixing=Mixing(rates=(5.0, 1.0))), 0, 8)
    with pytest.raises(ConfigError, match=r"None of data\.tasks has examples in the split held_out"):
        prepare(dataclasses.replace(data, tasks=apart[:1]), 0, 8)


# --- Buckets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucketed(two: Supervised) -> Supervised:
    return dataclasses.replace(two, input_length=24, target_length=24, batching=Buckets((6, 8, 12, 24)))


def epoch(pipeline: Pipeline, number: int) -> list[Batch]:
    batches = pipeline.train_rows // pipeline.batch_size
    return take(pipeline, batches, start=number * batches)


def test_an_epoch_of_buckets_has_each_example_once(bucketed: Supervised) -> None:
    pipeline = prepare(bucketed, 0, 8)
    first, second = epoch(pipeline, 0), epoch(pipeline, 1)
    assert sorted(examples_in(first)) == sorted(examples_in(second)) == sorted(framed(bucketed, "train"))
    together = [{frozenset(examples_in([batch])) for batch in batches} for batches in (first, second)]
    assert len(together[0] & together[1]) <= 1  # examples share batches with others than before
    widths = [[batch.encoder_input_tokens.shape[1] for batch in batches] for batches in (first, second)]
    assert sorted(widths[0]) == sorted(widths[1])
    assert widths[0] != widths[1]
    assert widths[0] != sorted(widths[0])
    assert sorted(examples_in(list(pipeline.held_out(10**6)))) == sorted(framed(bucketed, "held_out"))


def test_a_batch_is_as_wide_as_its_examples_want(bucketed: Supervised) -> None:
    pipeline = prepare(bucketed, 0, 8)
    shapes = {batch.encoder_input_tokens.shape: batch for batch in pipeline.batch_shapes}
    assert list(shapes) == [(32, 6), (24, 8), (16, 12), (8, 24)]
    narrower = {6: 0, 8: 6, 12: 8, 24: 12}
    inputs, targets, room = 0, 0, 0
    for batch in epoch(pipeline, 0):
        rows, width = batch.encoder_input_tokens.shape
        assert jax.tree.map(lambda field: (field.shape, field.dtype), batch) == jax.tree.map(
            lambda field: (field.shape, field.dtype), shapes[rows, width]
        )
        lengths = [max(len(source), len(target)) for source, target in examples_in([batch])]
        assert narrower[width] < min(lengths)
        assert max(lengths) <= width
        real = batch.decoder_segment_ids > 0
        assert (batch.decoder_loss_weights == real).all()
        assert (
            batch.decoder_input_tokens[:, 1:][real[:, 1:]] == batch.decoder_target_tokens[:, :-1][real[:, 1:]]
        ).all()
        assert (batch.decoder_input_tokens[:, 0] == pipeline.tokenizer.pad_id).all()
        inputs, targets = inputs + int(batch.encoder_segment_ids.sum()), targets + int(real.sum())
        room += rows * width
    assert f"{1 - inputs / room:.1%} of the inputs and {1 - targets / room:.1%} of the targets" in pipeline.notes[0]
    assert room == pipeline.train_rows * pipeline.inputs


def test_threads_starts_and_hosts_decide_nothing_in_buckets(bucketed: Supervised) -> None:
    pipeline = prepare(bucketed, 3, 24)
    whole = take(pipeline, 30)
    assert same(take(prepare(dataclasses.replace(bucketed, threads=4), 3, 24), 30), whole)
    assert same(take(pipeline, 10, start=20), whole[20:])
    parts = [take(pipeline, 4, 5, host, 3) for host in range(3)]
    for index, batch in enumerate(whole[5:9]):
        joined = jax.tree.map(lambda *fields: np.concatenate(fields), *(part[index] for part in parts))
        assert same([joined], [batch])
    assert not same(epoch(prepare(bucketed, 4, 24), 0), epoch(pipeline, 0))
    assert same(list(pipeline.held_out(10**6)), list(prepare(bucketed, 4, 24).held_out(10**6)))


def test_targets_are_narrower_in_proportion(bucketed: Supervised) -> None:
    data = dataclasses.replace(bucketed, target_length=12, too_long="drop")
    shapes = [batch.decoder_target_tokens.shape for batch in prepare(data, 0, 8).batch_shapes]
    assert shapes[-1] == (8, 12)
    assert all(rows * width == 96 for rows, width in shapes)


def test_bad_buckets(bucketed: Supervised) -> None:
    for lengths, said in (
        ((), "is empty"),
        ((8, 20), "each must divide the last"),
        ((24, 12), "must increase"),
        ((0, 2), ""),
    ):
        with pytest.raises(ConfigError, match=f"batching.lengths.*{said}"):
            Buckets(lengths)
    for fields, said in (
        ({"input_length": 20}, "input_length is 20: it must be the last of data.batching.lengths, 24"),
        ({"target_length": 3}, "target_length is 3: it must be 4 or above"),
        ({"mixing": Mixing(limit=4)}, "use Packed to mix"),
    ):
        with pytest.raises(ConfigError, match=said):
            dataclasses.replace(bucketed, **fields)
    pipeline = prepare(bucketed, 0, 8)
    with pytest.raises(ConfigError, match="row 12: it must be a multiple of batch_size"):
        pipeline.train(12)
    with pytest.raises(ConfigError, match="must be a multiple of the parts"):
        pipeline.train(0, Shard(3))


# --- Too long ---------------------------------------------------------------------------------------------------------


def test_long_examples_are_counted_and_reported(two: Supervised, capsys: pytest.CaptureFixture[str]) -> None:
    data = dataclasses.replace(two, input_length=12, target_length=12)
    whole = framed(two, "train")
    long = sum(len(source) > 12 or len(target) > 12 for source, target in whole)
    pipeline = prepare(data, 0, 8)
    assert 20 < long < 100
    assert f"{long} examples of {two.tasks[1].examples.train} are longer than 12 input or 12 target" in (
        capsys.readouterr().err
    )
    found = examples_in(take(pipeline, math.ceil(pipeline.train_rows / 8)))
    assert {len(source) for source, _ in found} <= set(range(13))
    assert all(source[-1] == pipeline.tokenizer.eos_id == target[-1] for source, target in found)
    dropped = prepare(dataclasses.replace(data, too_long="drop"), 0, 8)
    assert "are left out" in capsys.readouterr().err
    kept = collections.Counter(examples_in(take(dropped, math.ceil(dropped.train_rows / 8))))
    assert set(kept) == {(source, target) for source, target in whole if max(len(source), len(target)) <= 12}


def test_none_fits(two: Supervised) -> None:
    with pytest.raises(ConfigError, match=r"All 400 examples of .* are longer than 4 input or 4 target tokens"):
        prepare(dataclasses.replace(two, input_length=4, target_length=4, too_long="drop"), 0, 8)


# --- Tokens, identity -------------------------------------------------------------------------------------------------


def test_a_joint_vocabulary_is_trained_on_both_sides(tmp_path: Path) -> None:
    """Letters that only one side has are pieces, not bytes."""
    for name, letter in (("en", "α"), ("de", "ω")):
        lines = [f"{letter} {line}".splitlines()[0] for line in sentences(300, seed=5) if line]
        (tmp_path / f"train.{name}").write_text("\n".join(lines) + "\n")
    task = Translation(examples=ParallelText(str(tmp_path / "train.{name}")))
    tokenizer = prepare(Supervised((task,), TrainedSentencePiece(pieces=750), 200, 200), 0, 2).tokenizer
    assert isinstance(tokenizer, SentencePieceTokenizer)
    for letter in "αω":
        assert not any(tokenizer.processor.is_byte(id) for id in tokenizer.encode(letter))
    assert any(tokenizer.processor.is_byte(id) for id in tokenizer.encode("ψ"))


def test_the_languages_frame_both_sides(two: Supervised, tmp_path: Path) -> None:
    (tmp_path / "m.model").write_bytes(sentencepiece_model())
    task = dataclasses.replace(two.tasks[0], languages=("en_XX", "de_DE"))
    data = dataclasses.replace(two, tasks=(task,), tokenizer=MBart(str(tmp_path / "m.model")), input_length=12)
    pipeline = prepare(data, 0, 8)
    english, german = (pipeline.tokenizer.language_id(code) for code in ("en_XX", "de_DE"))
    batches = take(pipeline, math.ceil(pipeline.train_rows / 8))
    for source, target in examples_in(batches):
        assert source[-2:] == (pipeline.tokenizer.eos_id, english)
        assert target[-2:] == (pipeline.tokenizer.eos_id, german)
    first = batches[0].decoder_positions == 0
    assert set(batches[0].decoder_input_tokens[first & (batches[0].decoder_segment_ids > 0)]) == {german}
    with pytest.raises(ConfigError, match="language is 'xx'"):
        prepare(dataclasses.replace(data, tasks=(dataclasses.replace(task, languages=("xx", "de_DE")),)), 0, 8)


def test_the_fingerprint_names_what_changed(two: Supervised) -> None:
    def changed(**fields: Any) -> set[str]:
        before, after = prepare(two, 0, 8).fingerprint, prepare(dataclasses.replace(two, **fields), 0, 8).fingerprint
        assert json.loads(json.dumps(after)) == after
        return {name for name in before if before[name] != after[name]}

    assert changed(threads=5) == set()
    assert changed(tasks=two.tasks[::-1]) == {"data.tasks"}
    assert changed(tasks=(dataclasses.replace(two.tasks[0], prefix="x"), two.tasks[1])) == {"data.tasks"}
    assert changed(input_length=41) == {"data.input_length"}
    assert changed(too_long="drop") == {"data.too_long"}
    assert changed(mixing=Mixing(limit=3)) == {"data.mixing"}
