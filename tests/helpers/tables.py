"""Tables in files of every format that is read."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import feather, parquet

ROWS_TOGETHER = 7  # in a row group or a batch: few, so that files have several


def _arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=ROWS_TOGETHER)


def _stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(str(path), table.schema) as file:
        file.write_table(table, max_chunksize=ROWS_TOGETHER)


WRITE: dict[str, Callable[[pa.Table, Path], None]] = {
    "parquet": lambda table, path: parquet.write_table(table, path, row_group_size=ROWS_TOGETHER),
    "feather": lambda table, path: feather.write_feather(table, str(path), chunksize=ROWS_TOGETHER),
    "arrow": _arrow,
    "stream": _stream,
}


def _save(table: pa.Table, folder: Path) -> None:
    """Write a directory by save_to_disk of `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset(table).save_to_disk(folder, num_shards=2)


ANY = WRITE | {"saved": _save}  # directories too
