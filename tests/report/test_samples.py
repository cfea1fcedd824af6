"""Changes in a run's samples between evaluations: every word of both texts is there, and marked if it changed."""

import html
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_directories import experiment, made

from research.report import record
from research.report.samples import MOST_EVALUATIONS, changes, samples


def sides(markup: str) -> tuple[str, str]:
    """The texts before and after a change."""
    before = re.sub(r"<ins>.*?</ins>", "", markup, flags=re.S)
    after = re.sub(r"<del>.*?</del>", "", markup, flags=re.S)
    return tuple(html.unescape(re.sub("</?(ins|del)>", "", text)) for text in (before, after))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("the cat sat", "the cat sat", "the cat sat"),
        ("the cat sat", "the dog sat", "the <del>cat</del><ins>dog</ins> sat"),
        ("the cat", "the cat sat", "the cat<ins> sat</ins>"),
        ("", "a <b>", "<ins>a &lt;b&gt;</ins>"),
        ("a <del>", "a", "a<del> &lt;del&gt;</del>"),
        ("天気が好い", "天気が悪い", "天気が<del>好</del><ins>悪</ins>い"),
    ],
)
def test_new_words_are_inserted_and_old_ones_deleted(before: str, after: str, shown: str) -> None:
    assert changes(before, after) == shown


@given(st.text("ab <>&\n"), st.text("ab <>&\n"))
def test_both_texts_can_be_read(before: str, after: str) -> None:
    assert sides(changes(before, after)) == (before, after)


def run_with(folder: Path, outputs: list[str], **more: str) -> Path:
    run = made(folder / "run", experiment(folder), 3.0)
    lines = [
        {"step": 10 * number, "input": "a [] b", "filled": text, "original": "a x b"} | more
        for number, text in enumerate(outputs, 1)
    ]
    (run / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_evaluations_that_change_nothing_are_one_row(tmp_path: Path) -> None:
    outputs = ["a [<i>] b", "a [<i>] b", "a [<i>] b", "a [x] b", "a [<i>] b"]
    (text,) = samples(record.read(run_with(tmp_path, outputs, task="mine")))
    assert "<summary>Held-out example 1 of mine</summary>" in text
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", text)
    assert rows == [
        ("input", "a [] b"),
        ("original", "a x b"),
        ("step 10", "a [&lt;i&gt;] b"),
        ("to step 30", "unchanged in 2 more evaluations"),
        ("step 40", "a [<del>&lt;i&gt;</del><ins>x</ins>] b"),
        ("step 50", "a [<del>x</del><ins>&lt;i&gt;</ins>] b"),
    ]
    assert "are underlined" in text


def test_of_many_evaluations_some_are_shown_the_first_and_the_last_among_them(tmp_path: Path) -> None:
    (text,) = samples(record.read(run_with(tmp_path, [f"a [{number}] b" for number in range(100)])))
    steps = re.findall(r"<td>step ([\d,]+)</td>", text)
    assert (len(steps), steps[0], steps[-1]) == (MOST_EVALUATIONS, "10", "1,000")
    assert f"{MOST_EVALUATIONS} of 100 evaluations are shown." in text


def test_one_evaluation_has_no_changes(tmp_path: Path) -> None:
    (text,) = samples(record.read(run_with(tmp_path, ["a [x] b"])))
    assert "underlined" not in text
    assert not {"<ins>", "<del>"} & set(re.findall("<(?:ins|del)>", text))
