"""The unchanged scripts.train with a record of the rows that each step saw, and with faults on request.

ROWS=file      file.HOST gets one line of JSON a step: the step, and a digest of each global row that this host had
HANG=1:7       host 1 hangs before step 7
SLOW=0.2       each step waits for its rows this number of seconds
LEASE=2        another process may take the lock of a bucket after this number of seconds
UNREADABLE=7   the rows of step 7 cannot be read: the thread that makes them raises an error
"""

import hashlib
import json
import os
import runpy
import threading
import time
from collections.abc import Iterator

import jax

from research.data.batch import WHOLE, Batch, Shard
from research.data.blocks import BLOCK_ROWS, Block
from research.data.pipeline import Pipeline
from research.storage import bucket

UNREADABLE = int(os.environ.get("UNREADABLE", 0))
bucket.LEASE = float(os.environ.get("LEASE", bucket.LEASE))
HANG = os.environ.get("HANG", "-1:0").split(":")
real_train, real_block = Pipeline.train, Pipeline._train_block


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


Pipeline.train, Pipeline._train_block = train, block

if __name__ == "__main__":
    runpy.run_module("scripts.train", run_name="__main__")
