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
        "Working: 200 of 1,000 things, 20/s, 0:40 left",
        "Working: 400 of 1,000 things, 20/s, 0:30 left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    with Progress("Working", 10, "things") as shown:
        shown.console = progress.Console(force_terminal=True, file=io.StringIO())
        shown.advance(4)
        assert shown.bar is not None
        assert shown.bar.tasks[0].completed == 4
        assert "Working" in shown.console.file.getvalue()


def test_a_continued_count_has_the_rate_of_this_start_and_the_text_of_the_moment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("Training", 10_000, "steps", done=9_000, quiet=0.0) as shown:
        assert shown.line(now) == "Training: 9,000 of 10,000 steps, 0/s, time left unknown"
        shown.note("loss 4.0")
        now += 100.0
        shown.advance(200)
        shown.say("step 9200: held out loss 3.5")
        now += 1.0
        shown.advance(800)
        shown.note("loss 3.0", last=True)
    assert capsys.readouterr().err.splitlines() == [
        "Training: 9,200 of 10,000 steps, 2/s, 6:40 left, loss 4.0",
        "step 9200: held out loss 3.5",
        "Training: 10,000 of 10,000 steps, 9.9/s, 0:00 left, loss 3.0",
    ]


def test_other_hosts_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("Training", 10, "steps", quiet=0.0, hidden=True) as shown:
        shown.advance(10)
        shown.note("loss 3.0", last=True)
        shown.say("done")
    assert capsys.readouterr() == ("", "")
