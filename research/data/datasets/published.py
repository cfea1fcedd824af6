"""Published data files: located in a directory or downloaded by TFDS, and verified either way."""

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
    url: str | None = None  # None: not downloaded
    sha256: str | None = None  # of the decompressed text; None: unknown, so that any content is accepted


class LocalFiles(NamedTuple):
    """Local paths of published files, by their names without .gz, and digests of their texts."""

    paths: Mapping[str, Path]
    digests: Mapping[str, str]


def find(what: str, files: Sequence[PublishedFile], manual_dir: str | None) -> LocalFiles:
    """Locate `files` in `manual_dir` or its folder `what`, either compressed as .gz or decompressed.

    Raises:
        ConfigError: a file differs from the published one.
    """
    paths: dict[str, Path] = {}
    for folder in () if manual_dir is None else (Path(manual_dir).expanduser(), Path(manual_dir).expanduser() / what):
        require(folder.parent.is_dir(), f"data.manual_dir is {manual_dir}: there is no such directory.")
        for file in files:
            for path in (folder / file.name, folder / f"{file.name}.gz", folder / plain_name(file.name)):
                if path.is_file():
                    paths.setdefault(file.name, path)
    return verify_files(what, files, paths)


def verify_files(what: str, files: Sequence[PublishedFile], local: Mapping[str, Path]) -> LocalFiles:
    """Verify the digests of local files and decompress them. Raises ConfigError if a file differs from the published
    one.
    """
    expected = {file.name: file.sha256 for file in files}
    paths, digests = {}, {}
    for name, path in local.items():
        plain = plain_file(path, known_digest(path))
        paths[plain_name(name)], digests[plain_name(name)] = plain, known_digest(plain)
        require(
            expected[name] in (None, digests[plain_name(name)]),
            f"{path} is not the {name} that {what} published: the SHA-256 of its text is"
            f" {digests[plain_name(name)]}, not {expected[name]}.",
        )
    return LocalFiles(paths, digests)


def download(what: str, files: Sequence[PublishedFile], folder: Path) -> LocalFiles:
    """Download those of `files` that have a digest, with TFDS's download manager.

    Raises:
        ConfigError: there is no network, or a file differs from the published one.
    """
    verifiable = [file for file in files if file.url and file.sha256]
    manager = tfds.download.DownloadManager(download_dir=folder, dataset_name=what)
    try:
        paths = manager.download({file.name: file.url for file in verifiable})
    except Exception as error:  # any error of the network, the server or the disk
        raise ConfigError(
            f"The files of {what} could not be downloaded ({type(error).__name__}): connect to a network, or put"
            f" {', '.join(file.name for file in files)} into a directory and give --config.data.manual_dir=PATH."
        ) from error
    # The copies have the published names, which errors about them give.
    named = {name: shutil.copyfile(path, folder / name) for name, path in paths.items()}
    return verify_files(what, files, named)


def plain_name(name: str) -> str:
    return name.removesuffix(".gz")


class FilesBuilder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder over local files; `fingerprint` identifies their texts."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, files: Mapping[str, Path], fingerprint: str, data_dir: Path) -> None:
        self.files, self.fingerprint = files, fingerprint
        super().__init__(data_dir=data_dir, file_format="array_record")


def open_files(
    name: str, builder: type[FilesBuilder], files: Sequence[PublishedFile], local: LocalFiles, format: int
) -> FilesBuilder:
    """Open the builder over local files or, if there are none, over downloaded ones. The data set is built once and
    cached.
    """
    digests = dict(local.digests) or {plain_name(file.name): file.sha256 for file in files if file.url and file.sha256}
    require(
        len(digests) > 0,
        f"{name} cannot be downloaded: put {' or '.join(file.name for file in files)} into a directory and give"
        " --config.data.manual_dir=PATH.",
    )
    fingerprint = digest([format, str(builder.VERSION), sorted(digests.items())])
    tfds.disable_progress_bar()

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as temporary, contextlib.redirect_stdout(io.StringIO()):
            paths = local.paths or download(name, files, Path(temporary)).paths
            builder(paths, fingerprint, folder).download_and_prepare()

    folder = cache.entry(name.replace("/", "_"), fingerprint, fill, lambda name: True)  # its records have hashes
    return builder({file: Path() for file in digests}, fingerprint, folder)
