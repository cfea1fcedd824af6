"""Data sets by name: versions are commits, what is copied is read offline, and errors are one sentence."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import fake_hub
import huggingface_hub
import numpy as np
import pytest

from research import HFDataset, Parquet
from research.config import ConfigError
from research.data.corpora.documents import open_documents

NAME, OTHER_COMMIT = "group/captions", "f" * 40


@pytest.fixture
def hub(own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub with one data set: two files of training rows, and one of validation."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets_cache"))
    monkeypatch.setattr(datasets.config, "USE_PARQUET_EXPORT", False)
    folder = tmp_path / "hub" / "datasets" / NAME
    folder.mkdir(parents=True)
    for name, numbers in (("train-0", range(4)), ("train-1", range(4, 6)), ("validation", range(6, 8))):
        write(folder / f"{name}.parquet", numbers)
    with fake_hub.served(tmp_path / "hub", tmp_path / "hub_cache", monkeypatch) as served:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", huggingface_hub.constants.ENDPOINT)
        served.files = folder
        yield served


def write(path: Path, numbers: range) -> None:
    datasets.Dataset.from_dict({"text": [f"document {number}" for number in numbers]}).to_parquet(path)


def go_offline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def numbers(part: Any = "train", name: str = NAME, **fields: Any) -> list[int]:
    documents = open_documents(HFDataset(name, **fields), part)
    return [int(text.removeprefix("document ")) for text in documents.read(np.arange(len(documents)))]


def identity(**fields: Any) -> str:
    return open_documents(HFDataset(NAME, **fields), "train").identity


@pytest.mark.parametrize("streaming", [True, False])
def test_rows_are_downloaded_once_for_each_commit(hub: Any, streaming: bool) -> None:
    assert numbers(streaming=streaming) == [0, 1, 2, 3, 4, 5]
    assert numbers("held_out", streaming=streaming) == [6, 7]
    asked, first = len(hub.requests), identity(streaming=streaming)
    assert sum(name.endswith(".parquet") for name in hub.requests[:asked]) >= 3
    assert (
        f"datasets/{NAME}/train-1.parquet" not in hub.requests[asked:]
    )  # of the first file `datasets` asks the schema
    hub.commit = OTHER_COMMIT
    write(hub.files / "train-1.parquet", range(14, 16))
    assert numbers(streaming=streaming) == [0, 1, 2, 3, 14, 15]
    assert identity(streaming=streaming) != first
    hub.commit = "e" * 40
    write(hub.files / "train-1.parquet", range(4, 6))
    assert identity(streaming=streaming) == first


def test_a_revision(hub: Any) -> None:
    assert numbers(revision=fake_hub.COMMIT) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ConfigError, match=r"captions \(train\) \(Revision 'v9' doesn't exist for dataset"):
        numbers(revision="v9")


def test_copies_are_read_offline(
    hub: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    first = identity()
    go_offline(monkeypatch)
    assert identity() == first
    assert f"note: {NAME} (train) cannot be reached: its copy in the cache is read." in capsys.readouterr().err
    refused = rf"^{NAME} \(validation\) cannot be reached \(.*\), and the cache has no copy of it\.$"
    with pytest.raises(ConfigError, match=refused):
        numbers("held_out")
    with pytest.raises(ConfigError, match=r"cannot be reached .*no copy"):
        numbers(text="title")
    (copy, _) = own_cache.glob("datasets/*/text")
    copy.unlink()
    with pytest.raises(ConfigError, match=r"cannot be reached .*no copy"):
        identity()


def test_what_datasets_itself_has_cached_is_read_offline(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.load_dataset(NAME)
    go_offline(monkeypatch)
    assert numbers() == [0, 1, 2, 3, 4, 5]
    assert numbers("held_out", revision=fake_hub.COMMIT, streaming=False) == [6, 7]
    with pytest.raises(ConfigError, match=rf"at {OTHER_COMMIT} cannot be reached \(`datasets` has another revision"):
        numbers(revision=OTHER_COMMIT)


def test_names_that_are_not_there(hub: Any) -> None:
    with pytest.raises(ConfigError, match=r"nothing \(train\) \(Dataset 'group/nothing' doesn't exist on the Hub"):
        numbers(name="group/nothing")
    with pytest.raises(ConfigError, match=r"captions/de \(train\) \(BuilderConfig 'de' not found\. Available: \['defa"):
        numbers(config="de")
    (hub.files / ".gated").touch()
    with pytest.raises(ConfigError, match=r"gated dataset on the Hub"):
        numbers()


def test_files_of_a_hub_by_their_address(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened() -> list[str]:
        documents = open_documents(Parquet(f"hf://datasets/{NAME}/train-*.parquet", "x"), "train")
        return documents.read(np.arange(len(documents)))

    assert opened() == [f"document {number}" for number in range(6)]
    write(hub.files / "train-1.parquet", range(14, 16))
    assert opened()[4:] == ["document 14", "document 15"]
    with pytest.raises(ConfigError, match=r"There is no file hf://datasets/group/nothing/a\.parquet"):
        open_documents(Parquet("hf://datasets/group/nothing/a.parquet"), "train")
    go_offline(monkeypatch)
    assert opened()[4:] == ["document 14", "document 15"]
