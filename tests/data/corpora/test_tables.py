"""Parquet, arrow and feather: the same documents as of JSON lines, and one clear sentence for each bad input."""

import json
from pathlib import Path

import compressed
import datasets
import numpy as np
import pyarrow as pa
import pytest
import tables
from pyarrow import parquet

from research import CorpusBySplit, JSONLines, Parquet
from research.config import ConfigError, override
from research.data.corpora.documents import Documents, open_documents
from research.storage.tables import TablePart, table_lines

LANGUAGES = ("de", "en")
ROWS = [
    {"text": f"document {number}", "title": f"title {number}", "meta": {"language": LANGUAGES[number % 2]}, "n": number}
    for number in range(20)
]


def table(rows: list[dict] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows)


def write(path: Path, rows: list[dict] = ROWS, kind: str = "parquet") -> str:
    tables.WRITE[kind](table(rows), path)
    return str(path)


def texts(documents: Documents) -> list[str]:
    return documents.read(np.arange(len(documents)))


def opened(path: str, **fields: str | tuple[str, ...]) -> list[str]:
    return texts(open_documents(Parquet(path, path, **fields), "train"))


# --- What is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tables.WRITE)
def test_the_documents_of_every_format_are_those_of_json_lines(tmp_path: Path, kind: str) -> None:
    rows = [{"text": text} for text in ["first", "zwei\nlines", "", "  ", "drei 😀", "<>&\\", "\u2028", *"abcdefghij"]]
    rows += [{"text": f"document number {number}"} for number in range(300)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = write(tmp_path / "a", rows, kind)
    for split in ("train", "held_out"):  # by the same hash
        expected = texts(open_documents(JSONLines(f"{tmp_path}/a.jsonl"), split))
        assert texts(open_documents(Parquet(path), split)) == expected


def test_rows_are_copied_as_json_writes_them(tmp_path: Path) -> None:
    """Data sets of the Hub are known by the bytes of their copies, which must not change."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    rows = [{"100 % of it": "".join(characters), "list": characters[:300]}, {"100 % of it": None, "list": ["", None]}]
    write(tmp_path / "a", rows)
    lines = b"".join(table_lines(tmp_path / "a", TablePart(("100 % of it", "list")), "a"))
    assert lines == "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


FILTERS = (
    *("n > 3", "n != 3", "not n > 3", "n == None", "n != None", "3 < n <= 7", "n in [1, 3, 5]", "not n in [1, 3]"),
    *("n not in [1, 3]", "on", "not on", "on == True", "on and n > 3", "on or n > 3", "not (on and n > 3)"),
    *("not (on or n > 3)", "meta/language == 'de'", "meta.language != 'de'", "meta.language in ['de', 'fr'] or n == 2"),
    *("n == meta.n", "n > -1.5", "meta.language < 'e' and not n == None"),
)


@pytest.mark.parametrize("where", FILTERS)
def test_filters_of_json_lines_select_as_those_of_tables(tmp_path: Path, where: str) -> None:
    """Also where values are missing."""
    languages, truths = ("de", "en", None), (True, None, False, True)
    rows = [
        {
            "text": f"document {number}",
            "n": None if number % 5 == 4 else number,
            "on": truths[number % 4],
            "meta": {"language": languages[number % 3], "n": number - number % 2},
        }
        for number in range(40)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = opened(write(tmp_path / "a", rows), where=where)
    path = f"{tmp_path}/a.jsonl"
    assert texts(open_documents(JSONLines(path, path, where=where), "train")) == expected
    assert 0 < len(expected) < len(rows)


def test_several_files_compressed_too(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.parquet", ROWS[number : number + 2])
    packed = tmp_path / "1.parquet"
    packed.write_bytes(compressed.PACK["zst"](packed.read_bytes()))
    assert opened(f"{tmp_path}/*.parquet") == [f"document {number}" for number in (0, 1, 1, 2, 2, 3)]


def test_columns_within_columns_and_several_joined(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet")
    assert opened(path, text="meta/language")[:3] == ["de", "en", "de"]
    assert opened(path, text="meta.language")[:3] == ["de", "en", "de"]
    assert opened(path, text=("title", "text"), join=": ")[1] == "title 1: document 1"


@pytest.mark.parametrize("kind", tables.WRITE)
@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("meta/language == 'de' and n < 4", [0, 2]),
        ("meta.language != 'de' and not n > 3", [1, 3]),
        ("n in (3, 18) or 7 <= n < 9", [3, 7, 8, 18]),
        ("n not in [3] and n <= 4 and n is not None and text == 'document 4'", [4]),
    ],
)
def test_filters(tmp_path: Path, kind: str, where: str, numbers: list[int]) -> None:
    path = write(tmp_path / "a", kind=kind)
    assert opened(path, where=where) == [f"document {number}" for number in numbers]


def test_row_groups_that_cannot_match_are_not_read(tmp_path: Path) -> None:
    """Three groups of 7, 7 and 6 rows: what damages the first two is not noticed."""
    path = Path(write(tmp_path / "a.parquet"))
    groups = parquet.ParquetFile(path).metadata
    content = bytearray(path.read_bytes())
    for group in range(2):
        column = groups.row_group(group).column(0)
        start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
        content[start : start + column.total_compressed_size] = b"\0" * column.total_compressed_size
    path.write_bytes(content)
    assert opened(str(path), where="n >= 16") == [f"document {number}" for number in range(16, 20)]
    with pytest.raises(ConfigError, match="row group 2 of 3 is damaged"):
        opened(str(path), where="n >= 13")


def test_directories_that_datasets_saved(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    whole = datasets.Dataset(table())
    both = datasets.DatasetDict(train=whole, validation=whole.select(range(12, 20)))
    both.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "validation": 2})
    assert len(list((tmp_path / "saved" / "train").glob("*.arrow"))) == 3
    assert opened(f"{tmp_path}/saved/train") == [row["text"] for row in ROWS]
    assert opened(f"{tmp_path}/saved/validation", text="meta/language", where="n > 12") == ["en", "de"] * 3 + ["en"]
    with pytest.raises(
        ConfigError, match=rf"saved has splits: name one of them, {tmp_path}/saved/train or {tmp_path}/saved/val"
    ):
        opened(f"{tmp_path}/saved")
    (tmp_path / "saved" / "train" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(ConfigError, match=r"train lacks data-00001-of-00003\.arrow, which its state\.json names"):
        opened(f"{tmp_path}/saved/train")
    (tmp_path / "saved" / "train" / "state.json").write_text('{"_data_files": [{"filename": "../../a.arrow"}]}')
    with pytest.raises(ConfigError, match=r"state\.json is not as `datasets` writes it"):
        opened(f"{tmp_path}/saved/train")


def test_rows_that_datasets_has_selected_are_those_that_it_saves(tmp_path: Path) -> None:
    datasets.Dataset(table()).shuffle(seed=0).select(range(5, 15)).save_to_disk(tmp_path / "saved", num_shards=4)
    assert opened(f"{tmp_path}/saved") == datasets.load_from_disk(tmp_path / "saved")["text"][:]


def test_missing_texts_are_refused_or_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.parquet", [*ROWS[:2], {**ROWS[2], "text": None}, ROWS[3]])
    with pytest.raises(ConfigError, match=r'a\.parquet, row 3 has no text in its column "text": .*empty="skip"'):
        opened(path)
    with pytest.raises(ConfigError, match=r"a\.parquet, selected row 2 has no text"):
        opened(path, where="n > 0")
    assert opened(path, empty="skip") == ["document 0", "document 1", "document 3"]
    assert f"1 of 4 documents of {path} have no text: they are left out." in capsys.readouterr().err


def test_documents_are_read_from_their_copy_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet")
    first = opened(path)
    monkeypatch.setattr("research.data.corpora.tables.table_lines", lambda *_: pytest.fail("read again"))
    assert opened(path) == first


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tables.WRITE)
def test_files_cut_short(tmp_path: Path, kind: str) -> None:
    content = Path(write(tmp_path / "whole", kind=kind)).read_bytes()
    stops = [content.rfind(b"\xff\xff\xff\xff"), len(content) - 4, len(content) // 2, 10, 3]
    for stop in stops if kind == "stream" else stops[1:]:  # the first one is between two batches
        (tmp_path / "a").write_bytes(content[:stop])
        with pytest.raises(ConfigError, match=r"/a is (not a complete \w+ file|no parquet, arrow or feather file)"):
            opened(f"{tmp_path}/a")
    assert not list(tmp_path.rglob("tables/*/text"))


def test_columns_by_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    (tmp_path / "b.jsonl").write_text('{"body": "held out"}\n')
    held_out = JSONLines("none", f"{tmp_path}/b.jsonl", text="body")
    corpus = CorpusBySplit(train=Parquet(path, path, text="title"), held_out=held_out)
    assert texts(open_documents(corpus, "train")) == [f"title {number}" for number in range(20)]
    assert texts(open_documents(corpus, "held_out")) == ["held out"]
    assert override.from_json(override.to_json(corpus), CorpusBySplit) == corpus


def test_damaged_row_groups_are_named_or_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, rows = tmp_path / "a.parquet", [{"text": f"document {number} " * 20} for number in range(40)]
    plain = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    parquet.write_table(table(rows), path, row_group_size=10, **plain)
    content = bytearray(path.read_bytes())
    chunk = parquet.ParquetFile(path).metadata.row_group(2).column(0)
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.parquet: row group 3 of 4 is damaged \(.*\): .* set damaged='skip'"):
        opened(str(path))
    expected = [row["text"] for row in rows[:20] + rows[30:]]
    assert opened(str(path), damaged="skip") == expected
    assert f"{path}: 10 rows of damaged row groups are left out." in capsys.readouterr().err
    path.write_bytes(content[:-9])
    with pytest.raises(ConfigError, match=r"is not a complete parquet file"):
        opened(str(path), damaged="skip")


def test_a_flipped_bit_in_a_file_with_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(table(), path, write_page_checksum=True, compression="none", use_dictionary=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"document 3", b"document 2", 1))
    assert content != path.read_bytes()
    with pytest.raises(ConfigError, match=r"a\.parquet: row group 1 of 1 is damaged \(.*CRC"):
        opened(str(path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "body"}, r"""a\.parquet has no column "body": its columns are 'text', 'title', 'meta', 'n'\."""),
        ({"text": "meta/x"}, r"""has no column "meta/x": its columns are 'language'\."""),
        ({"text": "n"}, r'the column "n" is int64, not a string'),
        ({"text": "meta"}, r'the column "meta" is struct<language: string>, not a string'),
        ({"where": "m == 1"}, r'has no column "m"'),
        ({"where": "n == 'a'"}, r"""where="n == 'a'" does not fit the columns"""),
        ({"where": "text"}, r"where='text' does not fit the columns"),
        ({"where": "n =="}, r"where='n ==' is no filter \(invalid syntax\): it may have columns"),
        (
            {"where": "__import__('os').system('x') == 1"},
            r"is no filter \(__import__.*no column and no constant",
        ),
        ({"where": "n == " + "9" * 30}, r"is no filter"),
        ({"where": "not " * 100_000 + "n"}, r"is no filter"),
        ({"where": "n == 1000"}, r"is empty"),
    ],
)
def test_selections_that_do_not_fit(tmp_path: Path, fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(write(tmp_path / "a.parquet"), **fields)


def test_lists_are_no_documents_and_text_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'row 1: the column "text" holds lists, not strings'):
        opened(write(tmp_path / "a.parquet", [{"text": ["a", "b"]}]))
    (tmp_path / "b.parquet").write_text("some text")
    with pytest.raises(ConfigError, match=r"b\.parquet is no parquet, arrow or feather file: .* b'some'"):
        opened(f"{tmp_path}/b.parquet")
    bad = pa.array([b"\xff\xfe"]).view(pa.string())
    parquet.write_table(pa.table({"text": bad}), tmp_path / "c.parquet")
    with pytest.raises(ConfigError, match=r"c\.parquet holds text that is not UTF-8"):
        opened(f"{tmp_path}/c.parquet")
