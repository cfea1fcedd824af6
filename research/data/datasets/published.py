"""Files as somebody published them: found in a directory, or downloaded by TFDS, and checked either way."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from research.config import ConfigError, require
from research.config.base import digest
from research.data.corpora.text_files import known_digest, plain_file
from research.storage import cache


class PublishedFile(NamedTuple):
    name: str
    url: str | None = None  # None: it is not downloaded
    sha256: str | None = None  # of its text, decompressed; None: it has not been seen here, and is taken as it is


class Found(NamedTuple):
    """Files on this machine by their published names, without their .gz, and digests of their texts."""

    paths: Mapping[str, Path]
    digests: Mapping[str, str]


def find(what: str, files: Sequence[PublishedFile], manual_dir: str | None) -> Found:
    """Those of `files` that lie in `manual_dir` or its folder `what`, as published, compressed by .gz or decompressed.

    Raises:
        ConfigError: one of them is not what was published.
    """
    found: dict[str, Path] = {}
    for folder in () if manual_dir is None else (Path(manual_dir).expanduser(), Path(manual_dir).expanduser() / what):
        require(folder.parent.is_dir(), f"data.manual_dir is {manual_dir}: there is no such directory.")
        for file in files:
            for path in (folder / file.name, folder / f"{file.name}.gz", folder / plain_name(file.name)):
                if path.is_file():
                    found.setdefault(file.name, path)
    return checked(what, files, found)


def checked(what: str, files: Sequence[PublishedFile], found: Mapping[str, Path]) -> Found:
    expected = {file.name: file.sha256 for file in files}
    paths, digests = {}, {}
    for name, path in found.items():
        plain = plain_file(path, known_digest(path))
        paths[plain_name(name)], digests[plain_name(name)] = plain, known_digest(plain)
        require(
            expected[name] in (None, digests[plain_name(name)]),
            f"{path} is not the {name} that {what} published: the SHA-256 of its text is"
            f" {digests[plain_name(name)]}, not {expected[name]}.",
        )
    return Found(paths, digests)


def download(what: str, files: Sequence[PublishedFile], folder: Path) -> Found:
    """All of `files` that can be checked, by TFDS's download manager.

    Raises:
        ConfigError: there is no network, or one of them is not what was published.
    """
    wanted = [file for file in files if file.url and file.sha256]
    manager = tfds.download.DownloadManager(download_dir=folder, dataset_name=what)
    try:
        paths = manager.download({file.name: file.url for file in wanted})
    except Exception as error:  # whatever the network, the server or the disk had to say
        raise ConfigError(
            f"The files of {what} could not be downloaded ({type(error).__name__}): connect to a network, or put"
            f" {', '.join(file.name for file in files)} into a directory and give --config.data.manual_dir=PATH."
        ) from error
    named = {name: shutil.copyfile(path, folder / name) for name, path in paths.items()}  # .gz tells by the name
    return checked(what, files, named)


def plain_name(name: str) -> str:
    return name.removesuffix(".gz")


class FilesBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder over local files; `fingerprint` is that of their texts."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, files: Mapping[str, Path], fingerprint: str, data_dir: Path) -> None:
        self.files, self.fingerprint = files, fingerprint
        super().__init__(data_dir=data_dir, file_format="array_record")


def open_files(
    name: str, builder: type[FilesBuilder], files: Sequence[PublishedFile], found: Found, format: int
) -> FilesBuilder:
    """The builder over the files found or, where there are none, over what a download gives; made once and cached."""
    digests = dict(found.digests) or {plain_name(file.name): file.sha256 for file in files if file.url and file.sha256}
    require(
        len(digests) > 0,
        f"{name} is not downloaded: put {' or '.join(file.name for file in files)} into a directory and give"
        " --config.data.manual_dir=PATH.",
    )
    fingerprint = digest([format, str(builder.VERSION), sorted(digests.items())])
    tfds.disable_progress_bar()

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
            paths = found.paths or download(name, files, Path(temporary)).paths
            builder(paths, fingerprint, folder).download_and_prepare()

    folder = cache.entry(name.replace("/", "_"), fingerprint, fill)
    return builder({file: Path() for file in digests}, fingerprint, folder)
