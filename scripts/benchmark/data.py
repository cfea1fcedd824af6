"""Measure how fast one core makes rows: python -m scripts.benchmark.data

Engines, each in its own process on the same core, taking turns:
  collator    the per-example algorithm of the usual collators: a noise mask for each row, drawn by shuffles, then
              sentinels by cumulative sums over the batch (the baseline; written here)
  objective   corrupt() of the objective of the options, on blocks of rows in memory
  bart ...    corrupt() of the other objectives, each as published
  pipeline    research.data.pipeline: token cache -> mixing, shuffling, corruption, batches (reading threads included)
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from research import (
    BART,
    UL2,
    BERTStyle,
    Deshuffling,
    DropTokens,
    LanguageModelling,
    Lengths,
    MASSStyle,
    PrefixLM,
    ReplaceSpans,
    SpanCorruption,
    TextInfilling,
    TokenDeletion,
    TokenMasking,
)
from research.config import Bytes, ConfigError, Denoiser, Denoising, Objective, require
from research.config.load import open_experiment
from research.data.batch import Batch
from research.data.tokenizer import Tokenizer, open_tokenizer
from research.storage import run_directory
from research.storage.files import write_json
from scripts import command_line
from scripts.benchmark.rounds import cell, hardware, receive, spread

EPILOG = """
reading the table
  rows/s and raw tokens/s are medians over the rounds, with the slowest and the fastest in brackets; "x collator" is the
  median over the rounds of the ratio within a round. Raw tokens are those before corruption (568 a row of 512/114). The
  objectives named after their papers have their own row lengths.
  Other work on the machine shows in the spread and in the load average: read the ratios, and repeat odd results.

examples
  python -m scripts.benchmark.data                                   span corruption, 7 rounds, about a minute
  python -m scripts.benchmark.data --engines objective bart ul2 prefix_lm --rounds 3 --seconds 0.5
  python -m scripts.benchmark.data --engines collator objective --density 0.5
  python -m scripts.benchmark.data --experiment experiments/t5/v1_1_c4.py:base --json results.json

  The pipeline reads the corpora of --experiment, with the objective and input length given here. Corpus, vocabulary and
  tokens are built before the clock starts, and kept in the cache.
"""
BASELINE = ("collator", "objective", "pipeline")
RESERVE_ROWS = 4096  # in memory: enough that no block is still in the processor's cache
WARM_SECONDS = 0.5


@dataclass(frozen=True)
class Settings:
    data: Denoising
    block_rows: int
    batch_size: int
    seconds: float  # that one engine runs in a round


# --- Engines: each yields the number of rows it has just made, endlessly ----------------------------------------------


def run_objective(settings: Settings, denoisers: tuple[Denoiser, ...]) -> Iterator[int]:
    """Corrupt a block of each denoiser in turn."""
    tokenizer = bytes_with_words()
    lengths = [denoiser.objective.lengths(settings.data.input_length) for denoiser in denoisers]
    reserves = [in_memory(row.raw, settings.block_rows) for row in lengths]
    rng = np.random.default_rng(0)
    while True:
        for blocks in zip(*reserves, strict=True):
            for denoiser, row, block in zip(denoisers, lengths, blocks, strict=True):
                yield len(denoiser.objective.corrupt(block, row, tokenizer, rng).encoder_input_tokens)


def run_collator(settings: Settings) -> Iterator[int]:
    lengths, tokenizer = row_lengths(settings.data), open_tokenizer(BYTES)
    blocks = in_memory(lengths.raw, settings.block_rows)
    rng = np.random.default_rng(0)
    while True:
        for block in blocks:
            yield len(collate(block.astype(np.int64), lengths, tokenizer, rng).encoder_input_tokens)


def run_pipeline(settings: Settings) -> Iterator[int]:
    from research.data.pipeline import prepare

    for batch in prepare(settings.data, seed=0, batch_size=settings.batch_size).train(0):
        yield len(batch.encoder_input_tokens)


# Each as published. The seven denoisers of UL2 take turns.
OBJECTIVES: dict[str, Objective] = {
    "bart": BART(),
    "mbart": BART(TextInfilling(0.35), sentence_ends=()),
    "text_infilling": BART(TextInfilling(), 0.0),
    "token_masking": BART(TokenMasking(), 0.0),
    "token_deletion": BART(TokenDeletion(), 0.0),
    "sentence_permutation": BART(None, 1.0),
    "document_rotation": BART(None, 0.0, rotate=1.0),
    "replace_spans": ReplaceSpans(),
    "drop_tokens": DropTokens(),
    "bert_style": BERTStyle(),
    "mass_style": MASSStyle(),
    "deshuffling": Deshuffling(),
    "prefix_lm": PrefixLM(),
    "language_modelling": LanguageModelling(),
}
OURS = {"objective": None, **{name: (Denoiser(each),) for name, each in OBJECTIVES.items()}, "ul2": UL2().components()}


def denoisers_of(engine: str, data: Denoising) -> tuple[Denoiser, ...]:
    """Return the denoisers of an engine: those that it is named after, or else the objective of the options."""
    return OURS.get(engine) or data.denoisers


def steps_of(engine: str, settings: Settings) -> Iterator[int]:
    if engine in OURS:
        return run_objective(settings, denoisers_of(engine, settings.data))
    return {"collator": run_collator, "pipeline": run_pipeline}[engine](settings)


ENGINES = ("collator", *OURS, "pipeline")


def raw_length(engine: str, data: Denoising) -> float:
    """Return the mean number of raw tokens a row."""
    denoisers = denoisers_of(engine, data)
    return statistics.mean(each.objective.lengths(data.input_length).raw for each in denoisers)


BYTES = Bytes(sentinels=259)


def bytes_with_words() -> Tokenizer:
    """Open a byte vocabulary in which two of three ids begin a word, like English pieces. Its size is irrelevant."""
    tokenizer = open_tokenizer(BYTES)
    tokenizer.word_starts = np.arange(tokenizer.size) % 3 > 0
    return tokenizer


def in_memory(raw: int, block_rows: int) -> list[np.ndarray]:
    """Draw blocks of random rows of `raw` tokens, of which one in 26 ends a sentence."""
    tokenizer, rng = open_tokenizer(BYTES), np.random.default_rng(1)
    text = tokenizer.text_ids.astype(np.uint16)
    shape = (max(RESERVE_ROWS // block_rows, 1), block_rows, raw)
    ends = rng.random(shape, np.float32) < 1 / 26
    return list(np.where(ends, np.uint16(tokenizer.encode(".")[0]), rng.choice(text, shape)))


def row_lengths(data: Denoising) -> Lengths:
    (denoiser,) = data.denoisers
    lengths = denoiser.objective.lengths(data.input_length)
    denoiser.objective.check(lengths, open_tokenizer(BYTES))
    return lengths


def collate(tokens: np.ndarray, lengths: Lengths, tokenizer: Tokenizer, rng: np.random.Generator) -> Batch:
    """Corrupt a batch by T5's algorithm as collators implement it: a mask for each row, the rest over the batch."""
    is_noise = np.stack([noise_mask(lengths, rng) for _ in tokens])
    inputs = with_sentinels(tokens, is_noise, tokenizer)
    targets = with_sentinels(tokens, ~is_noise, tokenizer)
    shifted = np.zeros_like(targets)
    shifted[:, 1:] = targets[:, :-1]
    return Batch(inputs, shifted, targets)


def noise_mask(lengths: Lengths, rng: np.random.Generator) -> np.ndarray:
    """Draw T5's random_spans_noise_mask for one row."""
    noise = random_segments(lengths.noise_tokens, lengths.spans, rng)
    kept = random_segments(lengths.raw - lengths.noise_tokens, lengths.spans, rng)
    starts = np.cumsum(np.stack([kept, noise], axis=1).reshape(-1))[:-1]
    indicator = np.zeros(lengths.raw, np.int8)
    indicator[starts] = 1
    return np.cumsum(indicator) % 2 == 1


def random_segments(items: int, segments: int, rng: np.random.Generator) -> np.ndarray:
    opens = np.arange(items - 1) < segments - 1
    rng.shuffle(opens)
    return np.bincount(np.cumsum(np.pad(opens, (1, 0))), minlength=segments)


def with_sentinels(tokens: np.ndarray, hidden: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    starts = hidden & ~np.pad(hidden, ((0, 0), (1, 0)))[:, :-1]
    replaced = np.where(starts, tokenizer.size - np.cumsum(starts, axis=1), tokens)
    replaced[hidden & ~starts] = -1
    rows = replaced[replaced >= 0].reshape(len(tokens), -1)
    end = np.full((len(tokens), 1), tokenizer.eos_id)
    return np.concatenate([rows, end], axis=1).astype(np.int32)


# --- Measuring --------------------------------------------------------------------------------------------------------


def work(pipe: Connection, engine: str, settings: Settings, core: int | None) -> None:
    """Run an engine in its own process: send its rows a second for every True that is received."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    steps = steps_of(engine, settings)
    rows_per_second(steps, WARM_SECONDS)
    pipe.send("ready")
    while pipe.recv():
        pipe.send(rows_per_second(steps, settings.seconds))


def rows_per_second(steps: Iterator[int], seconds: float) -> float:
    rows, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        rows += next(steps)
    return rows / elapsed


def measure(engines: list[str], settings: Settings, rounds: int) -> tuple[dict[str, list[float]], list[float]]:
    """Measure rows a second of each engine in each round, and the load average before each round."""
    context = multiprocessing.get_context("spawn")
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
    pipes: dict[str, Connection] = {}
    rates: dict[str, list[float]] = {engine: [] for engine in engines}
    loads = []
    for engine in engines:
        pipes[engine], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, engine, settings, core), daemon=True).start()
        theirs.close()  # otherwise recv() would not end if the process dies
        receive(pipes[engine], engine)
    for _ in range(rounds):
        loads.append(os.getloadavg()[0])
        for engine in engines:
            pipes[engine].send(True)
            rates[engine].append(receive(pipes[engine], engine))
    for pipe in pipes.values():
        pipe.send(False)
    return rates, loads


def summary(rates: dict[str, list[float]], raw: dict[str, float]) -> dict[str, dict[str, list[float]]]:
    """Return {engine: {measure: [median, lowest, highest]}}."""
    result = {}
    for engine, rows in rates.items():
        result[engine] = {"rows/s": spread(rows), "raw tokens/s": spread([rate * raw[engine] for rate in rows])}
        if "collator" in rates and engine in ("objective", "pipeline"):
            ratios = [rate / yardstick for rate, yardstick in zip(rows, rates["collator"], strict=True)]
            result[engine]["x collator"] = spread(ratios)
    return result


# --- Reporting --------------------------------------------------------------------------------------------------------


def print_table(result: dict[str, Any]) -> None:
    lengths, machine = result["lengths"], result["hardware"]
    title = f"{lengths['raw']} raw -> {lengths['inputs']}/{lengths['targets']}, one core of {machine['cpu']}"
    table = Table("engine", title=title)
    for heading in ("rows/s", "raw tokens/s", "x collator"):
        table.add_column(heading, justify="right")
    for engine, measures in result["summary"].items():
        cells = [cell(measures.get(heading), digits) for heading, digits in (("rows/s", 0), ("raw tokens/s", 0))]
        table.add_row(engine, *cells, cell(measures.get("x collator"), 1))
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    loads = ", ".join(f"{load:.1f}" for load in result["load averages"])
    console.print(
        f"{len(result['load averages'])} rounds; load average before each, on {machine['cores']} cores: {loads}"
    )
    console.print(f"commit {result['environment']['commit']}")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        require(options.rounds > 0, f"--rounds is {options.rounds}: it must be above 0.")
        require(options.seconds > 0, f"--seconds is {options.seconds}: it must be above 0.")
        require(options.block_rows > 0, f"--block_rows is {options.block_rows}: it must be above 0.")
        folder = (options.json or Path("-")).absolute().parent
        require(folder.is_dir(), f"--json {options.json}: there is no directory {folder}.")
        result = benchmark(options.engines, settings_of(options), options.rounds)
        print_table(result)
        if options.json:
            write_json(options.json, result)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.parser("benchmark.data", __doc__, EPILOG)
    defaults = SpanCorruption()
    add = parser.add_argument
    engines = f"engines to run (default: {' '.join(BASELINE)})"
    add("--engines", nargs="+", choices=ENGINES, default=list(BASELINE), help=engines)
    add(
        "--rounds",
        type=int,
        default=7,
        help="rounds, each with every engine (default: %(default)s)",
    )
    add("--seconds", type=float, default=1.0, help="time of an engine in a round (default: %(default)s)")
    add("--input_length", type=int, default=512, help="encoder tokens a row (default: %(default)s)")
    add("--density", type=float, default=defaults.noise_density, help="noise density (default: %(default)s)")
    add("--mean_span", type=float, default=defaults.mean_span_length, help="tokens a span (default: %(default)s)")
    add("--block_rows", type=int, default=128, help="rows corrupted at once, in memory (default: %(default)s)")
    add(
        "--experiment",
        default="experiments/quickstart.py",
        help="FILE.py or FILE.py:SIZE with the pipeline's data (default: %(default)s)",
    )
    add("--batch_size", type=int, default=128, help="rows a batch of the pipeline (default: %(default)s)")
    add("--json", type=Path, metavar="PATH", help="keep every round, with hardware, versions and commit")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    noise = SpanCorruption(options.density, options.mean_span)
    data = open_experiment(options.experiment).config.data
    require(
        isinstance(data, Denoising), f"{options.experiment} has no text to corrupt: its data is {type(data).__name__}."
    )
    assert isinstance(data, Denoising)
    data = replace(data, objective=noise, input_length=options.input_length)
    return Settings(data, options.block_rows, options.batch_size, options.seconds)


def benchmark(engines: list[str], settings: Settings, rounds: int) -> dict[str, Any]:
    """Run all rounds; return the measurements with hardware, versions and settings."""
    lengths = row_lengths(settings.data)
    if "pipeline" in engines:
        from research.data.pipeline import prepare

        prepare(settings.data, seed=0, batch_size=settings.batch_size)  # builds the cache that the processes read
    rates, loads = measure(engines, settings, rounds)
    environment = run_directory.environment()
    environment.pop("host")
    return {
        "environment": environment,
        "hardware": hardware(),
        "settings": asdict(settings),
        "lengths": lengths._asdict(),
        "summary": summary(rates, {engine: raw_length(engine, settings.data) for engine in engines}),
        "rows/s by round": rates,
        "load averages": loads,
    }


if __name__ == "__main__":
    sys.exit(main())
