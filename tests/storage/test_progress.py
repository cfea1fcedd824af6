"""Progress is silent while work is short, and says rate and time left when it is long."""

import io

import pytest

from research.storage import progress
from research.storage.progress import Progress


@pytest.mark.parametrize("terminal", [False, True])
def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
    with Progress("Working", 3, "things") as shown:
        shown.console = progress.Console(stderr=True, force_terminal=terminal)
        for _ in range(3):
            shown.advance()
    assert capsys.readouterr().err == ""


def test_long_work_is_told_in_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("Working", 1000, "things") as shown:
        for _ in range(10):
            now += 2.5
            shown.advance(50)
    assert capsys.readouterr().err.splitlines() == [
        "Working: 200 of 1,000 things, 20/s, 40 s left",
        "Working: 400 of 1,000 things, 20/s, 30 s left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    with Progress("Working", 10, "things") as shown:
        shown.console = progress.Console(force_terminal=True, file=io.StringIO())
        shown.advance(4)
        assert shown.bar is not None
        assert shown.bar.tasks[0].completed == 4
        assert "Working" in shown.console.file.getvalue()
