"""Prepare an experiment's text: kintsugi prepare experiments/t5/v1_1_c4.py:base --jobs 16

Corpora are found or built, the vocabulary is opened or trained, and all text is tokenised into the cache, from which
training reads it. Training would do the same on one core; this command uses all cores, and several machines.
"""

import argparse
import multiprocessing
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from research import TFDS
from research.config import Denoising, Experiment, Supervised, load, modules, override, require
from research.storage import stop
from research.storage.progress import Progress
from scripts import command_line

if TYPE_CHECKING:
    from research.data.corpora.tokens import Recipe

EPILOG = """
several machines
  They share $KINTSUGI_CACHE, on a file system with locks (NFS, Lustre). Each makes a share of the pieces:
    kintsugi prepare EXPERIMENT.py --shard 3/16
    sbatch scripts/launch/prepare.sbatch             # a SLURM array; its number is the shard
  On Kubernetes, an indexed job: --shard $((JOB_COMPLETION_INDEX + 1))/16. The last one to end joins the pieces.
  A shard that was killed continues if it is started again; finished pieces are not made twice.

data sets that TFDS builds with Apache Beam (c4, wiki40b)
  Once, before any shard, in an environment of its own with pip install 'kintsugi[beam]':
    kintsugi prepare EXPERIMENT.py --beam_runner DirectRunner
    kintsugi prepare EXPERIMENT.py --beam_runner DataflowRunner --beam_options=--project=P --beam_options=...

exit codes
  0 done, this shard at least   1 failed   2 bad input   42 stopped by SIGTERM or Ctrl-C
  After 1 and 42 the same command continues; finished pieces are kept.
"""


class Work(NamedTuple):
    """One piece of one of the streams."""

    stream: int
    piece: int


def main(arguments: list[str] | None = None) -> int:
    parser = command_line.parser("prepare", __doc__, EPILOG)
    parser.add_argument("experiment", help=command_line.EXPERIMENT_HELP)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: the cores, %(default)s)")
    parser.add_argument("--shard", default="1/1", help="which share of how many, such as 3/16 (default: all)")
    parser.add_argument("--beam_runner", help="only build the TFDS data sets that need Apache Beam, with this runner")
    parser.add_argument("--beam_options", action="append", default=[], help="an option of the runner; may be repeated")
    return command_line.run(parser, prepare_experiment, arguments, (command_line.CONFIG,))


def prepare_experiment(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    require(options.jobs > 0, f"--jobs is {options.jobs}: it must be above 0.")
    shard = share(options.shard)
    file = load.open_experiment(options.experiment)
    config = override.apply(file.config, overrides)
    try:
        with stop.listening(), stop.stoppable():
            if options.beam_runner is not None:
                build(config, options.beam_runner, options.beam_options)
            else:
                prepare(config, options.jobs, *shard, file=file)
    except BrokenProcessPool:
        print(
            "error: a process was killed, perhaps for lack of memory: lower --jobs and repeat.",
            file=sys.stderr,
        )
        return 1
    return 0


def share(text: str) -> tuple[int, int]:
    """Parse "3/16" into a shard's number, from 1, and the number of shards. Raises ConfigError."""
    numbers = re.fullmatch(r"(\d+)/(\d+)", text)
    number, count = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    require(1 <= number <= count, f"--shard is {text}: it must be NUMBER/COUNT, such as 3/16, from 1/16 to 16/16.")
    return number, count


def build(config: Experiment, runner: str, runner_options: Sequence[str]) -> None:
    """Let TFDS build the experiment's data sets with Apache Beam."""
    require(
        find_spec("apache_beam") is not None,
        "--beam_runner needs Apache Beam: pip install 'kintsugi[beam]' in an environment of its own.",
    )
    from apache_beam.options.pipeline_options import PipelineOptions

    from research.data.corpora.corpus import open_builder

    text = config.data if isinstance(config.data, Denoising) else config.data.unlabelled
    require(text is not None, "--beam_runner builds corpora of text, and the experiment has none.")
    corpora = [corpus for corpus in getattr(text, "corpora", ()) if isinstance(corpus, TFDS)]
    require(len(corpora) > 0, "--beam_runner builds TFDS data sets, and the experiment has none.")
    for corpus in corpora:
        beam = {"beam_runner": runner, "beam_options": PipelineOptions(list(runner_options))}
        builder = open_builder(corpus.name, beam=beam)
        print(f"{corpus.name}: {builder.data_dir}")


def prepare(config: Experiment, jobs: int, number: int, count: int, file: load.ExperimentFile | None = None) -> None:
    """Make every `count`-th piece of text from the `number`-th on; once all exist, join them, and pack examples."""
    from research.data import pipeline

    data = config.data
    streams = pipeline.text_recipes(data)
    require(count == 1 or len(streams) > 0, "--shard is for text: the few examples of tasks are prepared without it.")
    if streams and not make(data, streams, jobs, number, count, file):
        return
    if isinstance(data, Supervised):
        made = pipeline.prepare(data, config.seed, config.batch_size, config.model.zero_token, config.model.prompt)
        print(f"{made.train_rows:,} rows to train on, {made.held_out_rows:,} held out")


def make(
    data: Denoising | Supervised,
    streams: "Sequence[Recipe]",
    jobs: int,
    number: int,
    count: int,
    file: load.ExperimentFile | None,
) -> bool:
    """Make a share of the pieces; tell whether all exist, which are then joined."""
    from research.data.corpora.documents import left_out_notes

    mine = [Work(stream, piece) for stream, recipe in enumerate(streams) for piece in recipe.missing()]
    mine = [work for work in mine if work.piece % count == number - 1]
    began = time.monotonic()
    if jobs == 1 or len(mine) == 1:
        with Progress("Tokenising", len(mine), "pieces") as progress:
            for stream, piece in mine:
                streams[stream].make(piece)
                progress.advance()
    elif mine:
        make_in_processes(data, mine, min(jobs, len(mine)), file)
    missing = sum(len(recipe.missing()) for recipe in streams)
    print(f"{len(mine)} pieces made in {time.monotonic() - began:.0f} s, {missing} are missing")
    if missing:
        print("Other shards make them; the last one to end joins all, or run this command without --shard.")
        return False
    for note in left_out_notes([recipe.documents for recipe in streams]):
        print(note)
    for recipe in streams:
        name, tokens, *_ = recipe.stream()
        print(f"{name}: {len(tokens):,} tokens, {tokens.nbytes / 1e9:.2f} GB")
    return True


def make_in_processes(
    data: Denoising | Supervised, mine: Sequence[Work], jobs: int, file: load.ExperimentFile | None
) -> None:
    spawned = multiprocessing.get_context("spawn")
    pickled = pickle.dumps(data)
    own = None if file is None or not modules.are_in(pickled) else file.path
    with (
        ProcessPoolExecutor(jobs, mp_context=spawned, initializer=_open, initargs=(pickled, own)) as pool,
        Progress(f"Tokenising in {jobs} processes", len(mine), "pieces") as progress,
    ):
        waiting: set[Future[None]] = {pool.submit(_make, work) for work in mine}
        processes = list((pool._processes or {}).values())  # the executor has no way to stop work that has begun
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=stop.EVERY, return_when=FIRST_COMPLETED)
                stop.check()
                for future in done:
                    future.result()
                    progress.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:  # a killed build leaves nothing that could be taken for a piece
                process.kill()
            raise


def _open(pickled: bytes, own: Path | None) -> None:
    """Prepare a process, in which each library may use only one core.

    `own` is the experiment's file if the data has classes of it, which must be loaded to be unpickled.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a Ctrl-C, which reaches all, the first process takes care
    if own is not None:
        modules.load(own)
    data: Denoising | Supervised = pickle.loads(pickled)
    from research.data.pipeline import text_recipes
    from research.data.tokenizer import sentencepiece

    os.environ["RAYON_NUM_THREADS"] = "1"  # threads of Hugging Face's tokenizers
    sentencepiece.THREADS = 1
    _streams[:] = text_recipes(data)


def _make(work: Work) -> None:
    _streams[work.stream].make(work.piece)


_streams: list[Any] = []


if __name__ == "__main__":
    sys.exit(main())
