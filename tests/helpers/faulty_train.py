"""The unchanged scripts.train with a record of the rows that each step saw, and with faults on request.

ROWS=file      file.HOST gets one line of JSON a step: the step, and a digest of each global row that this host had
HANG=1:7       host 1 hangs before step 7
SLOW=0.2       each step waits for its rows this number of seconds
SLOW_EVALUATION=4   an evaluation waits this number of seconds between two batches of the held-out loss
SLOW_PREPARATION=9  the data are prepared for this number of seconds before anything else of it
LEASE=2        another process may take the lock of a bucket after this number of seconds
UNREADABLE=7   the rows of step 7 cannot be read: the thread that makes them raises an error
"""

import hashlib
import json
import os
import runpy
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from research.data.batch import WHOLE, Batch, Shard
from research.data.blocks import BLOCK_ROWS, Block
from research.data.pipeline import Pipeline
from research.decode import evaluate
from research.storage import bucket
from research.storage.progress import Progress
from research.train import run

UNREADABLE = int(os.environ.get("UNREADABLE", 0))
bucket.LEASE = float(os.environ.get("LEASE", bucket.LEASE))
HANG = os.environ.get("HANG", "-1:0").split(":")
real_train, real_block, real_held_out = Pipeline.train, Pipeline._train_block, evaluate.held_out


def train(self: Pipeline, start_row: int = 0, shard: Shard = WHOLE) -> Iterator[Batch]:
    for number, batch in enumerate(real_train(self, start_row, shard), start_row // self.batch_size):
        rows = [number * self.batch_size + row for span in shard.spans(self.batch_size) for row in range(*span)]
        fields = [field for field in batch if field is not None]
        digests = [hashlib.sha256(b"".join(field[row].tobytes() for field in fields)) for row in range(len(rows))]
        line = [number + 1, [(row, digest.hexdigest()[:16]) for row, digest in zip(rows, digests, strict=True)]]
        with open(f"{os.environ['ROWS']}.{jax.process_index()}", "a") as record:
            record.write("\n" + json.dumps(line))
        time.sleep(float(os.environ.get("SLOW", 0)))
        if [str(jax.process_index()), str(number + 1)] == HANG:
            threading.Event().wait()
        yield batch


def block(self: Pipeline, number: int) -> Block:
    if UNREADABLE and number == (UNREADABLE - 1) * self.batch_size // BLOCK_ROWS:
        raise OSError(5, "Input/output error", "the corpus")
    return real_block(self, number)


def held_out(step: Any, params: Any, batches: Any, after_batch: Callable[[], None] = lambda: None) -> dict[str, float]:
    def slowly() -> None:
        time.sleep(float(os.environ.get("SLOW_EVALUATION", 0)))
        after_batch()

    return real_held_out(step, params, batches, slowly)


Pipeline.train, Pipeline._train_block, evaluate.held_out = train, block, held_out


def slow_preparation(*arguments: Any) -> Pipeline:
    until = time.monotonic() + float(os.environ.get("SLOW_PREPARATION", 0))
    with Progress("Waiting", 1, "documents") as progress:
        while time.monotonic() < until:
            time.sleep(0.05)
            progress.advance()
    return real_prepare(*arguments)


real_prepare, run.prepare = run.prepare, slow_preparation

if __name__ == "__main__":
    runpy.run_module("scripts.train", run_name="__main__")
