"""Measure how fast one core reads each format: python -m scripts.benchmark.formats

The noun here is a file of text; scripts.benchmark.data measures rows made of tokens that are in memory or in the cache.
Engines, each in its own process on the same core, taking turns:
  ours FORMAT       the documents of a file: the first read, with an empty cache, and another in the order of training
  datasets FORMAT   the same file by load_dataset(..., streaming=True) of Hugging Face's `datasets`, which has no cache
  pipeline          rows of span corruption from the tokens in the cache, as a run reads them
  prepared          the same from an empty cache: plain JSON lines are read, tokenised and made into one epoch of rows
  collator FORMAT   the same rows by the usual scripts, as run_t5_mlm_flax.py makes them: streaming, a fast tokenizer on
                    batches, texts put together and cut into rows, a collator that corrupts them; all in Python
"""

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from research import TFDS, PlainText, SpanCorruption
from research.config import ConfigError, TrainedSentencePiece, require
from research.data.corpora.documents import open_documents
from research.data.corpora.tokens import document_order
from research.data.tokenizer import Tokenizer, open_tokenizer, sentencepiece, train_sentencepiece
from research.storage import run_directory
from research.storage.extras import data_library
from research.storage.files import write_json
from scripts import command_line
from scripts.benchmark.data import collate
from scripts.benchmark.format_files import INPUT_LENGTH, FormatFiles, repeated, write_files
from scripts.benchmark.rounds import cell, hardware, ratios, receive, spread

EPILOG = """
reading the tables
  MB/s are megabytes of UTF-8 text, whatever its size in the file; medians over the rounds, with the slowest and the
  fastest in brackets. Ratios are medians of those within a round. The first read finds, checks and hashes the text, and
  copies what is compressed or a table into the cache; files are in the system's memory for all engines.
  Rows are of 512 input tokens. The vocabulary is one, trained on this text; `collator` has it as a fast tokenizer.

examples
  python -m scripts.benchmark.formats                                     24 MB made of the embedded corpus
  python -m scripts.benchmark.formats --text 'news/*.txt' --rounds 5      blank lines between documents
"""
FORMATS = {"jsonl": "json", "jsonl.gz": "json", "jsonl.zst": "json", "parquet": "parquet", "arrow": "arrow"}
STREAMED = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")  # that `datasets` streams
COLLATED = ("jsonl", "parquet")
BATCH_ROWS, TEXTS_AT_ONCE = 128, 1000
# Of the engines' processes: libraries read them when they are imported.
VARIABLES = {"RAYON_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
Measured = dict[str, float]


# --- Engines: each measures itself once a round -----------------------------------------------------------------------


def read_ours(settings: FormatFiles, suffix: str) -> Measured:
    """Read a file with an empty cache, then again in the order of training."""
    rates = {}
    with tempfile.TemporaryDirectory(dir=settings.folder) as cache:
        os.environ["KINTSUGI_CACHE"] = cache
        for what in ("first read", "again"):
            began = time.perf_counter()
            documents = open_documents(settings.corpus(suffix), "train")
            size = sum(len(text.encode()) for texts in document_order(documents) for text in texts)
            rates[what] = size / 1e6 / (time.perf_counter() - began)
            assert size == settings.bytes
    return rates


def streamed(settings: FormatFiles, suffix: str) -> Any:
    load = data_library("datasets", suffix).load_dataset
    return load(FORMATS[suffix], data_files=str(settings.file(suffix)), split="train", streaming=True)


def read_datasets(settings: FormatFiles, suffix: str) -> Measured:
    began = time.perf_counter()
    size = sum(len(example["text"].encode()) for example in streamed(settings, suffix))
    assert size == settings.bytes
    return {"again": size / 1e6 / (time.perf_counter() - began)}


def collated(settings: FormatFiles, suffix: str) -> Iterator[int]:
    """Make batches of rows as the usual scripts do; yield their sizes."""
    import transformers

    fast = transformers.AutoTokenizer.from_pretrained(settings.folder / "fast")
    tokenizer, rng = open_tokenizer(settings.vocabulary), np.random.default_rng(0)
    lengths = SpanCorruption().lengths(INPUT_LENGTH)

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return fast(examples["text"], return_attention_mask=False)

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = list(itertools.chain.from_iterable(examples["input_ids"]))
        ends = range(lengths.raw, len(ids) + 1, lengths.raw)
        return {"input_ids": [ids[end - lengths.raw : end] for end in ends]}

    rows = streamed(settings, suffix).map(tokenize, batched=True, batch_size=TEXTS_AT_ONCE, remove_columns=["text"])
    rows = iter(rows.map(group_texts, batched=True, batch_size=TEXTS_AT_ONCE))
    while batch := list(itertools.islice(rows, BATCH_ROWS)):
        yield len(collated_batch(batch, lengths, tokenizer, rng))


def collated_batch(
    batch: list[dict[str, list[int]]], lengths: Any, tokenizer: Tokenizer, rng: np.random.Generator
) -> Any:
    ids = np.array([example["input_ids"] for example in batch])
    return collate(ids, lengths, tokenizer, rng).encoder_input_tokens


def prepared(settings: FormatFiles) -> Iterator[int]:
    """Read the rows of the tokens in the cache, which are made if there are none."""
    from research.data.pipeline import prepare

    for batch in prepare(settings.data, seed=0, batch_size=BATCH_ROWS).train(0):
        yield len(batch.encoder_input_tokens)


def rows_a_second(steps: Iterator[int], seconds: float) -> Measured:
    rows, began = 0, time.perf_counter()
    for count in steps:
        rows += count
        if time.perf_counter() - began >= seconds:
            break
    return {"rows/s": rows / (time.perf_counter() - began)}


def epoch_from_nothing(settings: FormatFiles) -> Measured:
    from research.data.pipeline import prepare

    with tempfile.TemporaryDirectory(dir=settings.folder) as cache:
        os.environ["KINTSUGI_CACHE"] = cache
        began = time.perf_counter()
        pipeline = prepare(settings.data, seed=0, batch_size=BATCH_ROWS)
        batches = -(-pipeline.train_rows // BATCH_ROWS)
        rows = sum(len(batch.encoder_input_tokens) for batch in itertools.islice(pipeline.train(0), batches))
        return {"rows/s": rows / (time.perf_counter() - began)}


def measure_engine(engine: str, settings: FormatFiles) -> Measured:
    kind, _, suffix = engine.partition(" ")
    match kind:
        case "ours":
            return read_ours(settings, suffix)
        case "datasets":
            return read_datasets(settings, suffix)
        case "collator":
            return rows_a_second(collated(settings, suffix), settings.seconds)
        case "prepared":
            return epoch_from_nothing(settings)
    os.environ["KINTSUGI_CACHE"] = str(settings.folder / "cache")
    steps = prepared(settings)
    next(steps)  # builds the cache, once
    return rows_a_second(steps, settings.seconds)


ENGINES = (
    *(f"ours {suffix}" for suffix in FORMATS), *(f"datasets {suffix}" for suffix in STREAMED),
    "pipeline", "prepared", *(f"collator {suffix}" for suffix in COLLATED),
)  # fmt: skip


# --- Measuring --------------------------------------------------------------------------------------------------------


def work(pipe: Connection, engine: str, settings: FormatFiles, core: int | None) -> None:
    """Measure an engine in its own process, once for every True that is received."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    sentencepiece.THREADS = 1
    pipe.send("ready")
    while pipe.recv():
        pipe.send(measure_engine(engine, settings))


def measure(engines: list[str], settings: FormatFiles, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return {engine: {measure: its value in each round}}."""
    os.environ |= VARIABLES
    context = multiprocessing.get_context("spawn")
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else None
    pipes: dict[str, Connection] = {}
    for engine in engines:
        pipes[engine], theirs = context.Pipe()
        context.Process(target=work, args=(theirs, engine, settings, core), daemon=True).start()
        theirs.close()
        receive(pipes[engine], engine)
    found: dict[str, dict[str, list[float]]] = {engine: {} for engine in engines}
    for number in range(rounds + 1):  # the first one warms up: libraries are imported, and the pipeline's cache built
        for engine in engines:
            pipes[engine].send(True)
            for name, value in receive(pipes[engine], engine).items():
                if number:
                    found[engine].setdefault(name, []).append(value)
    for pipe in pipes.values():
        pipe.send(False)
    return found


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    corpus = TFDS("python_docs") if options.text is None else PlainText(options.text, held_out=options.text)
    documents = open_documents(corpus, "train")
    texts = [text for batch in document_order(documents) for text in batch]
    with tempfile.TemporaryDirectory(prefix="formats-", dir=options.directory) as name:
        folder = Path(name)
        size = write_files(repeated(texts), folder, options.megabytes)
        train_sentencepiece(texts, TrainedSentencePiece(options.pieces), folder / "unigram.model")
        settings = FormatFiles(folder, size, options.seconds)
        if any(engine.startswith("collator") for engine in options.engines):
            from research.pretrained.tokenizer_files import write_tokenizer

            write_tokenizer(open_tokenizer(settings.vocabulary), folder / "fast")
        before = os.getloadavg()[0]
        found = measure(options.engines, settings, options.rounds)
        files = {suffix: settings.file(suffix).stat().st_size for suffix in FORMATS}
    environment = run_directory.environment()
    environment.pop("host")
    loads = [before, os.getloadavg()[0]]
    settled = {"bytes": size, "files": files, "rounds": options.rounds, "pieces": options.pieces}
    return {"environment": environment, "hardware": hardware(), **settled, "engines": found, "load averages": loads}


# --- Reporting --------------------------------------------------------------------------------------------------------


def tables(result: dict[str, Any]) -> str:
    found, machine = result["engines"], result["hardware"]
    load = " and ".join(f"{load:.1f}" for load in result["load averages"])
    lines = [
        f"{result['bytes'] / 1e6:.0f} MB of text; one core of {machine['cpu']}; {result['rounds']} rounds; load average"
        f" on {machine['cores']} cores: {load}; commit {result['environment']['commit']}", "",
        "| format | file, MB | first read, MB/s | again, MB/s | `datasets`, MB/s | first / plain | again / plain |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    plain = found.get("ours jsonl", {})
    for suffix, size in result["files"].items():
        ours, theirs = found.get(f"ours {suffix}", {}), found.get(f"datasets {suffix}", {})
        if ours or theirs:
            rates = [_cell(ours.get("first read")), _cell(ours.get("again")), _cell(theirs.get("again"))]
            shares = [_ratio(ours.get(name), plain.get(name)) for name in ("first read", "again")]
            lines.append(f"| {' | '.join([suffix, f'{size / 1e6:.1f}', *rates, *shares])} |")
    rows = {engine: measures["rows/s"] for engine, measures in found.items() if "rows/s" in measures}
    if rows:
        compared = [engine for engine in rows if engine.startswith("collator")]
        lines += ["", f"| end to end | rows/s | {' | '.join(f'/ {engine}' for engine in compared)} |"]
        lines.append("| --- " * (2 + len(compared)) + "|")
        for engine, values in rows.items():
            cells = [engine, _cell(values), *(_ratio(values, rows[other]) for other in compared)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float] | None) -> str:
    return cell(None if values is None else spread(values), 1).replace("  ", " ")


def _ratio(values: list[float] | None, others: list[float] | None) -> str:
    return "" if values is None or others is None else f"{spread(ratios(values, others))[0]:.2f}"


def main(arguments: list[str] | None = None) -> int:
    made = command_line.parser("benchmark.formats", __doc__, EPILOG)
    made.add_argument("--text", help="files of text, blank lines between documents (default: the embedded corpus)")
    made.add_argument("--megabytes", type=float, default=24, help="of text in every file (%(default)s)")
    made.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE", help="(all)")
    made.add_argument("--pieces", type=int, default=8000, help="pieces of the vocabulary (%(default)s)")
    made.add_argument("--rounds", type=int, default=3, help="rounds, after one to warm up (%(default)s)")
    made.add_argument("--seconds", type=float, default=5, help="that rows are counted in a round (%(default)s)")
    made.add_argument("--directory", type=Path, help="directory for the files and caches (the system's temporary one)")
    made.add_argument("--json", type=Path, help="write all rounds, hardware and commit into this file")
    options = made.parse_args(arguments)
    try:
        for name in ("rounds", "megabytes", "seconds"):
            value = getattr(options, name)
            require(value > 0, f"--{name} is {value}: it must be above 0.")
        for folder in (options.directory or Path(), (options.json or Path("-")).absolute().parent):
            require(folder.is_dir(), f"--directory or --json: there is no directory {folder}.")
        result = benchmark(options)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(tables(result))
    if options.json:
        write_json(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
