"""Text is made into tokens anew in every round, by both tokenizers."""

import json
from pathlib import Path

from scripts.benchmark.tokenize import main


def test_rounds_are_counted_and_worked_out(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("KINTSUGI_CACHE", str(tmp_path / "cache"))
    words = Path(json.__file__).read_text().split()
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(words[start : start + 50]) for start in range(0, 900, 7)))
    arguments = ["--text", str(tmp_path / "text.txt"), "--unigram", "350", "--bpe", "300", "--rounds", "2"]
    assert main([*arguments, "--json", str(tmp_path / "result.json")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["bytes"] > 10_000
    assert result["ids"] == {"unigram 350": 450, "byte-level BPE 300": 300}
    for rounds in result["rounds"].values():
        assert len(rounds) == 2
        assert all(result["bytes"] > one["tokens"] > result["bytes"] / 10 for one in rounds)
        assert all(one["seconds"] > 0 for one in rounds)
    assert "| unigram 350 |" in capsys.readouterr().out
    assert not (tmp_path / "cache" / "tokens").exists()


def test_rounds_that_are_none_are_refused(capsys) -> None:
    assert main(["--rounds", "0"]) == 2
    assert "--rounds is 0" in capsys.readouterr().err
