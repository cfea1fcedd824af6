"""Tables in files of every format that is read."""

import json
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


def save(folder: Path, table: pa.Table, files: int = 2) -> Path:
    """Write the directory that save_to_disk of `datasets` writes: streams, and a list of them."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{files:05}.arrow" for number in range(files)]
    each = -(-len(table) // files)
    for number, name in enumerate(names):
        _stream(table.slice(number * each, each), folder / name)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "a", "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder
