"""Tars of text as WebDataset has them: members KEY.txt, KEY.json and so on, one sample for each key.

The members that are read are copied into the cache once, as lines of JSON, in the order of the tar. Nothing of a tar is
extracted.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from research.config import ConfigError, require
from research.config.base import digest
from research.data.corpora.tables import RowTexts
from research.data.corpora.text_files import Span, Storage, TextCorpus, find_files, plain_file, stored_text
from research.storage import stop
from research.storage.cache import CHUNK_BYTES
from research.storage.copies import origin_of, reason_of
from research.storage.lines import BYTE_ORDER_MARK, Line, is_unicode, json_value_at

FORMAT = 1  # increment when the same files would give other lines
END_BYTES = 1024  # of zeros, with which a tar ends


@dataclass(frozen=True)
class WebDataset(TextCorpus):
    """Text in tars, plain or compressed, with members such as KEY.txt. `train` and `held_out` are paths or patterns.

    `text` is the extension of the member with the document's text, or several; "json/field" is a field in KEY.json.
    """

    text: str | tuple[str, ...] = "txt"
    join: str = "\n\n"  # between the texts of several members
    empty: Literal["refuse", "skip"] = "refuse"  # effect of a sample without a text

    @cached_property
    def texts(self) -> RowTexts:
        return RowTexts((self.text,) if isinstance(self.text, str) else self.text, self.join, self.empty)

    @property
    def rule(self) -> str:
        return repr((FORMAT, *self.texts))

    @property
    def storage(self) -> Storage:
        return tar_storage(self.texts.columns, self.empty == "skip")

    def spans(self, name: str, lines: Iterator[Line]) -> Iterator[Span]:
        return self.texts.spans(name, lines, "sample")

    def text_of(self, content: bytes) -> str:
        return self.texts.parse(content)


def tar_storage(names: tuple[str, ...], may_lack: bool, missing: str | None = None) -> Storage:
    """Find tars, and copy the named texts of one into the cache, `missing` for those that may be lacking."""

    def text(path: Path, content: str) -> Path:
        def lines() -> Iterator[bytes]:
            return sample_lines(plain_file(path, content), names, origin_of(path), may_lack, missing)

        return stored_text("tars", digest([FORMAT, content, names, may_lack, missing]), lines)

    return Storage(find_files, text)


class Member(NamedTuple):
    """A file of a tar that is read: its key, its extension, and its bytes."""

    key: str
    extension: str
    content: bytes


def sample_lines(
    path: Path, names: tuple[str, ...], called: str, may_lack: bool, missing: str | None
) -> Iterator[bytes]:
    """Yield a JSON object for each sample; the tar is `called` in messages.

    Raises:
        ConfigError: it is cut short or no tar, it has a member that is a link, a device or outside, or a sample lacks
            a member.
    """
    extensions = {name.partition("/")[0] for name in names}
    for key, group in groupby(_members(path, extensions, called), lambda member: member.key):
        stop.check()
        members: dict[str, bytes] = {}
        for _, extension, content in group:
            require(extension not in members, f"{called} has two members {key}.{extension} one after the other.")
            members[extension] = content
        for extension in sorted(extensions - members.keys()):
            require(
                may_lack, f'{called} has no member {key}.{extension}: give it empty="skip" to leave such samples out.'
            )
        texts = {name: _text(members, name, missing, f"{called}, {key}.{name.partition('/')[0]}") for name in names}
        yield json.dumps(texts, ensure_ascii=False).encode() + b"\n"


def _members(path: Path, extensions: set[str], called: str) -> Iterator[Member]:
    """Yield the members with the extensions that are wanted, and with no content one of each other sample."""
    damaged = f"{called} is not a complete tar"
    with path.open("rb") as file:
        file.seek(-min(END_BYTES, path.stat().st_size), 2)
        require(file.read() == bytes(END_BYTES), f"{damaged}: it does not end with {END_BYTES:,} bytes of zeros.")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # those that were read would fill the memory
                    if _is_file(member, called):
                        key, extension = _parts(member.name)
                        opened = tar.extractfile(member) if extension in extensions else None
                        yield Member(key, extension, opened.read() if opened else b"")
                file.seek(tar.offset)
                while rest := file.read(CHUNK_BYTES):
                    require(not any(rest), f"{called} is damaged, or has another tar behind its end.")
        except ConfigError:
            raise
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise ConfigError(f"{damaged} ({reason_of(error)}).") from None


def _is_file(member: tarfile.TarInfo, called: str) -> bool:
    """Tell files from directories. Raises ConfigError for all else, and for paths outside."""
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts
    require(not outside, f"{called} has a member outside of its own directory, {member.name}.")
    plain = member.isdir() or (member.isreg() and not member.issparse())
    require(plain, f"{called} has a member that is no plain file, {member.name}: links and devices are not read.")
    return member.isreg()


def _parts(name: str) -> tuple[str, str]:
    """Split the name of a member into the key of its sample and its extension, at the first dot of its last part."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension


def _text(members: dict[str, bytes], name: str, missing: str | None, where: str) -> Any:
    """Return the text of a member, or the texts of a field of one in JSON; `missing` if there is none."""
    extension, _, field = name.partition("/")
    if extension not in members:
        return missing
    try:
        text = members[extension].removeprefix(BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8 text (at byte {error.start}).") from None
    if not field:
        return text.rstrip("\r\n")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON ({reason_of(error)}).") from None
    value = json_value_at(value, field, where)
    for text in value if isinstance(value, list) else [value]:
        kind = f'{where}: the value of "{field}" is {type(text).__name__}, not a string or a list of strings.'
        require(isinstance(text, str) or (text is None and value is None), kind)
        require(text is None or is_unicode(text), f'{where}: the value of "{field}" holds half of a surrogate pair.')
    return missing if value is None else value
