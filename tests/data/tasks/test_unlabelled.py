"""Text denoised among the examples of tasks: its rate, its rows, the loss of both together, runs that resume."""

import dataclasses
import itertools
import json
import re
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run as tiny

from research import (
    Buckets,
    Bytes,
    JSONExamples,
    JSONLines,
    Learned,
    Mixing,
    Mixture,
    PlainText,
    PrefixLM,
    PromptTuning,
    Relative,
    SpanCorruption,
    Supervised,
    TextToText,
    UnlabelledText,
)
from research.config import ConfigError, Denoiser
from research.data import mixing
from research.data.batch import Batch, Shard, interleave
from research.data.corpora import tokens
from research.data.corpora.tokens import Recipe
from research.data.packing.packing import PackedRows
from research.data.pipeline import Pipeline, prepare, text_recipes
from research.model.transformer import initial_params
from research.parallel.rules import flatten
from research.pretrained import find as pretrained
from research.storage import manifest
from research.train.loop import train
from research.train.step import summed_loss
from scripts import data as data_command
from scripts import prepare as prepare_command

EVERYTHING = frozenset(Batch._fields)
EXAMPLES = {"a": (400, 14), "b": (100, 30)}  # and their longest texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("multitask"), np.random.default_rng(0)
    for name, (count, longest) in EXAMPLES.items():
        for split, rows in (("train", count), ("held_out", count // 4)):
            texts = [f"{split[0]}{name}{row:03}" + "x" * int(draw.integers(0, longest - 6)) for row in range(rows)]
            lines = [json.dumps({"source": text, "target": text[::-1]}) + "\n" for text in texts]
            (folder / f"{name}_{split}.jsonl").write_text("".join(lines))
    for name, passages in (("train", 60), ("held_out", 20), ("more", 30), ("more_held_out", 10)):
        words = draw.choice(["one", "two", "three", "four"], (passages, 60))
        text = "\n\n".join(" ".join([name, *passage]) for passage in words)
        (folder / f"{name}.txt").write_text(text)
    (folder / "more.jsonl").write_text('{"source": "other"}\n')
    return folder


@pytest.fixture
def data(folder: Path) -> Supervised:
    """Two tasks, and a text under span corruption."""
    files = [JSONExamples(str(folder / f"{name}_train.jsonl"), str(folder / f"{name}_held_out.jsonl")) for name in "ab"]
    text = UnlabelledText((PlainText(f"{folder}/train.txt", f"{folder}/held_out.txt"),), rate=250.0)
    return Supervised(tuple(TextToText(examples=each) for each in files), Bytes(), 48, 48, unlabelled=text)


def with_text(data: Supervised, **changes) -> Supervised:
    assert data.unlabelled is not None
    return dataclasses.replace(data, unlabelled=dataclasses.replace(data.unlabelled, **changes))


def examples_read(pipeline: Pipeline, rows: int) -> dict[str, int]:
    """Count the examples of each task, and the rows of each text, among the first rows."""
    counts = dict.fromkeys((source.name for source in pipeline.sources), 0)
    for part in pipeline.order(0, rows):
        source = pipeline.sources[part.source]
        batch = source(part.rows, np.random.default_rng(0))
        segments = batch.decoder_segment_ids
        counts[source.name] += len(part.rows) if segments is None else int(segments.max(axis=1).sum())
    return counts


# --- Rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixture", "rate", "expected"),
    [
        (Mixing(), 250.0, (400, 100, 250)),
        (Mixing(limit=150), 250.0, (150, 100, 250)),
        (Mixing(temperature=2.0), 5.0, (20, 10, 5)),
        (Mixing(temperature=2.0, limit=144), 5.0, (12, 10, 5)),
        (Mixing(rates=(30.0, None)), 250.0, (30, 100, 250)),
        (Mixing(rates=(None, 700.0), limit=500), 250.0, (400, 500, 250)),
    ],
)
def test_examples_come_at_the_rates(data, mixture, rate, expected):
    """The text has its rate, whatever the limit and the temperature: seqio's rates, and T5's rate_unsupervised."""
    pipeline = prepare(with_text(dataclasses.replace(data, mixing=mixture), rate=rate), 0, 8)
    counts = list(examples_read(pipeline, 4000).values())
    np.testing.assert_allclose(np.divide(counts, sum(counts)), np.divide(expected, sum(expected)), rtol=0.03)


@pytest.mark.parametrize("mixture", [Mixing(), Mixing(limit=60), Mixing(temperature=2.0, limit=60)])
def test_without_a_rate_a_row_of_text_is_an_example(data, mixture):
    pipeline = prepare(with_text(dataclasses.replace(data, mixing=mixture), rate=None), 0, 8)
    counts, sizes = list(examples_read(pipeline, 4000).values()), (400, 100, len(pipeline.sources[2]))
    expected = [min(size, mixture.limit or size) ** (1 / mixture.temperature) for size in sizes]
    np.testing.assert_allclose(np.divide(counts, sum(counts)), np.divide(expected, sum(expected)), rtol=0.03)


def test_corpora_and_denoisers_share_the_rate_of_the_text(data, folder):
    both = (
        PlainText(f"{folder}/train.txt", f"{folder}/held_out.txt"),
        PlainText(f"{folder}/more.txt", f"{folder}/more_held_out.txt"),
    )
    objective = Mixture((Denoiser(SpanCorruption(), weight=3), Denoiser(PrefixLM())))
    given = with_text(data, corpora=both, objective=objective, mixing=Mixing(rates=(4.0, 1.0)))
    pipeline = prepare(given, 0, 8)
    shares = np.array(pipeline.order.weights[2:]) / sum(pipeline.order.weights[2:])
    np.testing.assert_allclose(shares, [0.6, 0.2, 0.15, 0.05], atol=1e-6)
    counts = examples_read(pipeline, 4000)
    assert sum(list(counts.values())[2:]) / sum(counts.values()) == pytest.approx(250 / 750, rel=0.03)


def test_weights_of_tasks_alone_are_as_before(data):
    plain = dataclasses.replace(data, unlabelled=None)
    sizes = tuple(map(len, prepare(plain, 0, 8).sources))
    assert prepare(plain, 0, 8).order.weights == mixing.weights(sizes, Mixing())
    assert not any("unlabelled" in name for name in prepare(plain, 0, 8).fingerprint)


# --- Rows -------------------------------------------------------------------------------------------------------------


def test_rows_of_text_are_those_of_pretraining(data):
    """With equal random numbers each row is the one that `Denoising` reads, padded to the length of targets."""
    pipeline, alone = prepare(data, 0, 8), prepare(data.denoising, 0, 8)
    mixed, source = pipeline.sources[2], alone.sources[0]
    assert mixed.digest == source.digest
    found, expected = (each(np.arange(16), np.random.default_rng(3)) for each in (mixed, source))
    for name in found._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("positions", [Relative(), Learned(48)])
def test_the_loss_of_a_mixed_batch_is_that_of_its_parts(data, folder, positions):
    """Sums and gradients: rows of text, without masks and positions alone, are not changed by those of a block."""
    experiment = tiny.experiment(folder, data=data)
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, positions=positions))
    pipeline, params = prepare(data, 3, 8), initial_params(experiment.model, jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def sums_and_gradients(params, batch):
        return summed_loss(experiment, params, batch, None).loss

    parts, order = [], pipeline.order(0, 16)
    for part in order:
        parts.append(pipeline.sources[part.source](part.rows, np.random.default_rng(0)))
    assert len(parts) == 3
    assert parts[2].decoder_segment_ids is None
    assert parts[2].widths[1] < data.target_length
    block = interleave([(part.where, batch) for part, batch in zip(order, parts, strict=True)], 48, 48, 0, EVERYTHING)
    whole, gradient = sums_and_gradients(params, block)
    alone = [sums_and_gradients(params, batch) for batch in parts]
    np.testing.assert_allclose(whole, sum(value for value, _ in alone), rtol=1e-6)
    expected = jax.tree.map(lambda *leaves: sum(leaves), *(tree for _, tree in alone))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient, expected)


def test_batches_do_not_depend_on_hosts_or_the_start(data):
    pipeline = prepare(data, 0, 8)
    batches = list(itertools.islice(pipeline.train(), 6))
    assert {batch.widths for batch in batches} == {(48, 48)}
    later = next(pipeline.train(40))
    halves = [next(pipeline.train(40, Shard(2, (host,)))) for host in (0, 1)]
    for name, field in batches[5]._asdict().items():
        np.testing.assert_array_equal(field, getattr(later, name))
        np.testing.assert_array_equal(field, np.concatenate([getattr(half, name) for half in halves]))


def test_all_held_out_examples_are_read(data):
    pipeline = prepare(data, 0, 8)
    assert pipeline.held_out_rows % 8 == 0
    batches = list(pipeline.held_out(10**6))
    assert sum(len(batch.encoder_input_tokens) for batch in batches) == pipeline.held_out_rows
    packed = [source for source in pipeline.held_out_sources if isinstance(source, PackedRows)]
    assert sum(source.examples for source in packed) == 125


def test_documents_and_examples_that_repeat_others_are_left_out(data, folder, tmp_path):
    text = (folder / "train.txt").read_text()
    (tmp_path / "twice.txt").write_text(f"{text}\n\n{text}")
    twice = with_text(data, corpora=(PlainText(str(tmp_path / "twice.txt"), f"{folder}/held_out.txt"),))
    kept = prepare(dataclasses.replace(twice, duplicates="leave_out"), 0, 8)
    assert any("60" in note for note in kept.notes[2:])
    assert len(kept.sources[2]) == len(prepare(data, 0, 8).sources[2])
    assert len(prepare(twice, 0, 8).sources[2]) > 1.9 * len(kept.sources[2])


# --- Runs and commands ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_resumes_to_the_bit(data, folder, tmp_path):
    made = tiny.experiment(folder, data=data)
    assert train(made, tmp_path / "whole") == 0
    assert train(dataclasses.replace(made, steps=1), tmp_path / "resumed") == 0
    assert train(made, tmp_path / "resumed") == 0
    whole, resumed = (flatten(pretrained.find(tmp_path / name).params()) for name in ("whole", "resumed"))
    assert all(np.array_equal(leaf, resumed[path]) for path, leaf in whole.items())
    record = manifest.record(tmp_path / "whole" / "checkpoints" / "2")
    assert record["data"]["data.unlabelled.rate"] == "250.0"
    changed = dataclasses.replace(made, data=with_text(data, rate=251.0), steps=3)
    with pytest.raises(ConfigError, match=r"data\.unlabelled\.rate"):
        train(changed, tmp_path / "resumed")


EXPERIMENT = """
from research import *

def get_config():
    examples = JSONExamples("{folder}/a_train.jsonl", "{folder}/a_held_out.jsonl")
    text = PlainText("{folder}/train.txt", "{folder}/held_out.txt")
    return Experiment(
        model=Model(512, 16, 2, 8, 32, 2, 2),
        data=Supervised(
            (TextToText(examples=examples),), {tokenizer}, 48, 48, unlabelled=UnlabelledText((text,), rate=200.0)
        ),
        optimizer=Adafactor(),
        steps=1,
        batch_size=8,
    )
"""


def test_the_text_is_prepared_by_shards_and_processes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "PIECE", 20)
    file = tmp_path / "experiment.py"
    file.write_text(EXPERIMENT.format(folder=folder, tokenizer="TrainedSentencePiece(pieces=330, sentinels=20)"))
    assert prepare_command.main([str(file), "--jobs", "1", "--shard", "1/2"]) == 0
    assert "3 pieces made" in (said := capsys.readouterr().out)
    assert "rows to train on" not in said
    assert prepare_command.main([str(file), "--jobs", "1", "--shard", "2/2"]) == 0
    said = capsys.readouterr().out
    assert "0 are missing" in said
    assert re.search(r"train\.txt.*: [\d,]+ tokens", said)
    assert re.search(r"\d+ rows to train on, \d+ held out", said)
    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "make", None)  # everything is in the cache
        assert prepare_command.main([str(file)]) == 0
    monkeypatch.setattr(tokens, "PIECE", 1 << 20)  # as in new processes
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "another"))
    assert prepare_command.main([str(file), "--jobs", "2"]) == 0
    assert "2 pieces made" in capsys.readouterr().out


def test_the_data_command_shows_text_and_examples(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    file, out = tmp_path / "experiment.py", tmp_path / "data.json"
    file.write_text(EXPERIMENT.format(folder=folder, tokenizer="Bytes()"))
    assert data_command.main([str(file), "--json", str(out)]) == 0
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert [line for line in said if line in ("Text", "Examples", "Rows", "Objective")] == [
        *("Text", "Examples", "Rows", "Objective")
    ]
    found = json.loads(out.read_text())
    assert [split["split"] for split in found["texts"]] == ["train", "held_out"]
    assert [split["split"] for split in found["tasks"]] == ["train", "held_out"]
    (denoiser,) = found["denoisers"]
    assert denoiser["objective"].startswith("SpanCorruption")
    text, task = found["texts"][0]["epoch"], found["tasks"][0]["epoch"]
    assert denoiser["share"] == pytest.approx(text / (text + task))
    assert any(row["objective"] for row in found["rows"])
    assert any(not row["objective"] for row in found["rows"])


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused(data, folder):
    with pytest.raises(ConfigError, match=r"data\.unlabelled\.corpora is empty"):
        with_text(data, corpora=())
    for rate in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"data\.unlabelled\.rate is .* above 0 and finite, or None"):
            with_text(data, rate=rate)
    with pytest.raises(ConfigError, match=r"data\.unlabelled is mixed with examples in packed rows"):
        dataclasses.replace(data, batching=Buckets((24, 48)))
    with pytest.raises(
        ConfigError, match=r"objective has \d+ target tokens for 48 of input, and data\.target_length is 8"
    ):
        prepare(dataclasses.replace(data, target_length=8), 0, 8)
    model = tiny.experiment(folder).model
    prompted = dataclasses.replace(model, adapter=PromptTuning(tokens=4))
    with pytest.raises(ConfigError, match=r"data must be Supervised, without unlabelled"):
        tiny.experiment(folder, data=data, model=prompted)


def test_text_held_out_that_is_trained_on_is_found_over_tasks_and_text(data, folder):
    held_out = str(folder / "a_held_out.jsonl")
    with pytest.raises(ConfigError, match=r"Held-out data are trained on too, in 1 files.*a_held_out"):
        prepare(with_text(data, corpora=(JSONLines(held_out, f"{folder}/more.jsonl", text="source"),)), 0, 8)
    assert text_recipes(dataclasses.replace(data, unlabelled=None)) == []
