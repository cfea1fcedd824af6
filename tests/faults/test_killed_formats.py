"""A run on compressed text or a table that is killed, continues bit for bit, as one on plain text."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import compressed
import pyarrow as pa
import pytest
import tables
from real_runs import (
    assert_as_if_nothing_had_happened,
    began_at,
    log,
    newest_save,
    newest_step,
    run,
    start,
    until,
)

pytestmark = pytest.mark.slow


def json_lines(texts: list[str], path: Path) -> None:
    lines = (json.dumps({"text": text}) + "\n" for text in texts)
    path.write_bytes(compressed.PACK["zst"]("".join(lines).encode()))


def parquet(texts: list[str], path: Path) -> None:
    tables.WRITE["parquet"](pa.table({"id": range(len(texts)), "text": texts}), path)


@pytest.mark.parametrize(
    ("corpus", "ending", "write"),
    [("JSONLines", "jsonl.zst", json_lines), ("Parquet", "parquet", parquet)],
    ids=["jsonl.zst", "parquet"],
)
def test_killed_while_it_starts_and_at_a_random_step(
    folder: Path, corpus: str, ending: str, write: Callable[[list[str], Path], None]
) -> None:
    for split in ("train", "held_out"):
        write((folder / f"{split}.txt").read_text().split("\n\n"), folder / f"{split}.{ending}")
    train, held_out = (f"{folder}/{split}.{ending}" for split in ("train", "held_out"))
    override = f'--config.data.corpora=[{corpus}("{train}", held_out="{held_out}")]'
    checkpoints = folder / ending / "checkpoints"

    process = start(folder, ending, override)
    time.sleep(random.uniform(0, 5))
    process.kill()
    process.wait()
    wanted = began_at(folder, ending) + random.randrange(2, 12)
    process = start(folder, ending, override)
    until(process, lambda: newest_step(folder, ending) >= wanted and newest_save(checkpoints) > 0)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert run(folder, ending, override) == 0
    assert "Resuming from the checkpoint of step" in log(folder, ending)
    assert_as_if_nothing_had_happened(folder, ending)
