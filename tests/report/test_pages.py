"""The pages of runs and sweeps: one file that needs nothing else, and what is on it."""

import dataclasses
import html.parser
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_directories import experiment, made

from research import Bytes, JSONExamples, Mixing, PlainText, PrefixLM, Supervised, TextToText, UnlabelledText
from research.config import override
from research.report import page, record, run_page, sweep_page
from research.report.comparison import NOT_COMPARABLE, Group, compared, differing, is_comparable, leaves
from scripts import report


class Checked(html.parser.HTMLParser):
    """Every element is closed, every id once, every picture described, nothing is fetched, and only our scripts run."""

    EMPTY = ("meta", "img", "input", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.alternatives = list[str](), list[str](), list[str]()
        self.classes = list[str | None]()  # of the open elements
        self.scripts, self.data = list[str](), list[dict[str, Any]]()
        self.policy = ""
        self.feed(text)
        assert self.open == []
        assert self.scripts == list(page.SCRIPTS) * bool(self.data)
        directives = dict(one.split(" ", 1) for one in self.policy.split("; "))
        assert directives.pop("default-src") == "'none'"
        assert directives.pop("script-src", "").split() == [page._hash(script) for script in self.scripts]
        assert directives.pop("style-src") == page._hash(page.ALL_STYLE)
        assert directives == {"img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("link", "iframe", "object")
        assert not [name for name in found if name.startswith("on") or name == "style"]
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        self.is_data = found == {"type": "application/json"}
        assert tag != "script" or self.is_data or not found
        for name in ("src", "href"):
            address = found.get(name) or ""
            assert not re.match(r"\w+:", address) or address.startswith("data:image/svg+xml;base64,")
        assert tag != "table" or self.classes[-1] == "scroll"
        if tag == "img":
            self.alternatives.append(found["alt"] or "")
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag not in self.EMPTY:
            self.open.append(tag)
            self.classes.append(found.get("class"))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            if self.is_data:
                self.data.append(json.loads(data))
            else:
                self.scripts.append(data)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.classes.pop()


def test_a_runs_page_says_all_of_it_and_needs_nothing(tmp_path: Path, capsys) -> None:
    run = made(tmp_path / "run", experiment(tmp_path), 3.0)
    (run / "evaluations" / "test-40").mkdir(parents=True)
    scores = {"split": "test", "step": 40, "results": {"task": {"loss": 2.5, "scores": {"bleu": 31.25}}}}
    (run / "evaluations" / "test-40" / "scores.json").write_text(json.dumps(scores))
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    text = (run / "report.html").read_text()
    checked = Checked(text)
    for said in (
        "done, step 40 of 40", "31.25", "tiny &amp; small", "the loss of 9 spikes", "2 checkpoints, to step 20",
        "&lt;script&gt;x", "at <del>20</del><ins>40</ins>", "git checkout abc\n", "2026-01-02 03:04:05",
        "The source differed from that commit.",
    ):  # fmt: skip
        assert said in text
    assert "Negative log-likelihood against the step: training ends at 7" in checked.alternatives[0]
    assert "held out ends at 3." in checked.alternatives[0]
    assert "| test bleu | 31.25 |" in (run / "report.md").read_text()
    assert "held out loss,3.0" in (run / "report.csv").read_text()
    assert r"test bleu & 31.25 \\" in (run / "report.tex").read_text()


def test_what_cannot_be_printed_is_on_no_page(tmp_path: Path) -> None:
    run = made(tmp_path / "run<b>\x1b[31m", experiment(tmp_path), 3.0)
    (run / "launch.json").write_text(json.dumps({"model": "a\x00b\x1b[2Jc\ud800"}))
    assert report.main([str(run)]) == 0
    for ending in ("html", "md", "tex"):
        text = (run / f"report.{ending}").read_text()
        assert all(each.isprintable() or each == "\n" for each in text)
        assert "a\\x00b\\x1b" in text or "a\\x00b" in text.replace("\\textbackslash{}", "\\")
    assert (run / "report.md").read_text().startswith("# Run run&lt;b&gt;\\x1b\\[31m\n")


def test_a_table_that_is_wider_than_the_screen_shows_that_it_continues() -> None:
    """Phones draw no scroll bar before one scrolls."""
    (rule,) = re.findall(r"^\.scroll \{(.*?)\}", page.STYLE, re.DOTALL | re.MULTILINE)
    assert "overflow-x: auto" in rule
    assert rule.count("linear-gradient") == 4  # covers that move with the table, above shadows that do not
    assert "background-attachment: local, local, scroll, scroll" in rule
    assert not re.search("scrollbar-(width|color)", page.STYLE)  # browsers would ignore the next rule
    assert ".scroll::-webkit-scrollbar-thumb { background:" in page.STYLE


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(override.to_json(experiment(tmp_path)))
    Checked(run_page.write(record.read(run)).read_text())
    assert "not started, step 0 of 40" in (run / "report.html").read_text()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three rates of dropout with two seeds each, one run not started, and what a paper says of two of them."""
    directory, names = tmp_path / "sweep", {}
    for number, rate in enumerate((0.15, 0.25, 0.5)):
        for seed in range(2):
            changes = {"model.dropout": str(rate), "seed": str(seed)}
            config = experiment(tmp_path, **changes)
            name = f"dropout={rate},seed={seed}"
            names[name] = json.loads(override.to_json(config))
            if (number, seed) != (2, 1):
                made(directory / name, config, 3.0 + number + seed / 10)
    rows = [
        {"variants": [f"dropout={rate},seed={seed}" for seed in range(2)], "values": [score, None]}
        for rate, score in ((0.15, 80.0), (0.25, 79.0), (0.5, 78.0))
    ]
    published = [{"source": "A paper, table 6", "scores": ["GLUE", "BLEU"], "rows": rows, "lower_is_better": []}]
    (directory / "sweep.json").write_text(json.dumps({"variants": names, "published": published}))
    return directory


def test_a_sweeps_page_has_scores_dimensions_curves_and_the_papers_numbers(sweep: Path) -> None:
    assert report.main([str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    checked = Checked(text)
    assert "5 runs of 3 settings, 5 done; 1 more not started: dropout=0.5,seed=1" in text
    assert "3.0500 ± 0.0707</strong>" in text
    assert "held out loss against dropout. mean: best at 0.15." in checked.alternatives
    assert any(said.startswith("training nll against FLOPs") for said in checked.alternatives)
    assert "order here with each published column: GLUE 1.00." in text  # a lower loss where the paper's score is higher
    assert 'href="dropout=0.15,seed=0/report.html"' in text
    Checked((sweep / "dropout=0.15,seed=0" / "report.html").read_text())
    markdown = (sweep / "report.md").read_text()
    assert "| dropout | done | parameters |" in markdown
    assert "| 0.15 | 3.05 | 80 | - |" in markdown
    (row, *_) = (sweep / "report.csv").read_text().splitlines()[1:]
    assert row.startswith("0.15,2 of 2,")


def test_seeds_of_one_setting_are_named_by_what_they_share(sweep: Path) -> None:
    for rate, seeds in ((0.25, (0, 1)), (0.5, (0,))):
        for seed in seeds:
            shutil.rmtree(sweep / f"dropout={rate},seed={seed}")
    assert report.main([str(sweep)]) == 0
    text, markdown = (sweep / "report.html").read_text(), (sweep / "report.md").read_text()
    assert "2 runs of 1 setting, 2 done; 4 more not started: dropout=0.25,seed=0, " in text
    assert "| dropout=0.15 | 2 of 2 |" in markdown
    assert "held-out loss against steps: dropout=0.15 ends at 3.05." in text
    first, second = (sweep / f"dropout=0.15,seed={seed}" for seed in range(2))
    (group,) = compared([first.rename(sweep / "a"), second.rename(sweep / "b")])
    assert group.label == "2 runs"


def test_steps_tokens_and_flops_are_of_the_same_curve(sweep: Path) -> None:
    found = record.read(sweep / "dropout=0.15,seed=0")
    row = found.config.data.objective.lengths(48)
    scales = {name: scale(found) for name, scale in sweep_page.AXES}
    assert scales["steps"] == 1
    assert scales["tokens"] == 8 * (row.inputs + row.targets)
    assert scales["FLOPs"] == found.flops_per_step
    assert sweep_page.mean_curve([[(1, 2.0), (2, 4.0)], [(2, 6.0), (3, 1.0)], []]) == [(2, 5.0)]


def test_numbers_that_follow_from_others_have_no_plot_and_split_no_line(tmp_path: Path) -> None:
    runs = []
    for width, heads in ((16, 2), (32, 4)):
        for steps in (20, 40):
            changes = {"model.width": str(width), "model.heads": str(heads), "steps": str(steps)}
            runs.append(made(tmp_path / f"{width}-{steps}", experiment(tmp_path, **changes), 3.0 + steps / width))
    groups = compared(runs)
    assert sweep_page.swept_numbers(groups) == ["model.width", "steps"]
    by_width = sweep_page._lines(groups, "model.width", "held_out_loss")
    assert [(line.label, line.x) for line in by_width] == [("steps=20", [16.0, 32.0]), ("steps=40", [16.0, 32.0])]
    by_steps = sweep_page._lines(groups, "steps", "held_out_loss")
    assert [(line.label, line.x) for line in by_steps] == [("width=16", [20.0, 40.0]), ("width=32", [20.0, 40.0])]
    equal = compared([runs[0], runs[3]])  # as many steps as the width asks for
    assert sweep_page.swept_numbers(equal) == ["model.width"]
    assert [line.label for line in sweep_page._lines(equal, "model.width", "held_out_loss")] == ["mean"]


@pytest.mark.parametrize(
    ("change", "comparable"),
    [
        ({"rate": 9.0}, True),
        ({"mixing": Mixing(2.0)}, True),
        ({"objective": PrefixLM()}, False),
        ({"corpora": (PlainText("a.txt", "b.txt"),)}, False),
        (None, False),
    ],
)
def test_losses_of_unlike_text_among_tasks_are_not_compared(change: dict | None, comparable: bool) -> None:
    """Held-out rows are by size, whatever the rates."""
    text = UnlabelledText((PlainText("a.txt"),), rate=5.0)
    other = None if change is None else dataclasses.replace(text, **change)
    tasks = (TextToText(examples=JSONExamples("a.jsonl")),)
    seen = [dict(leaves(Supervised(tasks, Bytes(), unlabelled=each), "data")) for each in (text, other)]
    names = differing(seen)
    groups = [Group(str(number), {name: each.get(name) for name in names}, []) for number, each in enumerate(seen)]
    assert names
    assert is_comparable(groups, "held_out_loss") == comparable


@pytest.mark.slow
def test_any_runs_are_compared(sweep: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", experiment(tmp_path, steps="20"), 9.0)
    assert report.main([str(sweep), str(other), "--out", str(tmp_path / "both")]) == 0
    text = (tmp_path / "both.html").read_text()
    Checked(text)
    assert "Comparison both" in text
    assert 'href="sweep/dropout=0.15,seed=0/report.html"' in text
    assert 'href="other/report.html"' in text


def test_losses_of_unlike_targets_are_shown_and_not_compared(tmp_path: Path) -> None:
    """Neither marked, nor drawn against one another by size, nor ranked beside a paper's scores."""
    directory, names = tmp_path / "sweep", {}
    for loss, objective in enumerate(("ReplaceSpans(0.15)", "ReplaceSpans(0.5)", "PrefixLM()")):
        config = experiment(tmp_path, **{"data.objective": objective})
        names[objective] = json.loads(override.to_json(config))
        made(directory / objective, config, 3.0 + loss)
    rows = [{"variants": [name], "values": [80.0 + number]} for number, name in enumerate(names)]
    published = [{"source": "A paper", "scores": ["GLUE"], "rows": rows}]
    (directory / "sweep.json").write_text(json.dumps({"variants": names, "published": published}))
    assert report.main([str(directory)]) == 0
    markdown, text = (directory / "report.md").read_text(), (directory / "report.html").read_text()
    assert "| 3.0000 |" in markdown
    assert "**" not in markdown
    assert "Kendall" not in markdown
    assert markdown.count(NOT_COMPARABLE) == 2
    assert "lower is better" not in text
    assert "held out loss against noise density" not in text


@pytest.mark.slow
def test_the_same_names_in_two_sweeps_stand_for_their_own_papers_rows(sweep: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(sweep, other)
    for run in other.glob("*/config.json"):
        run.write_text(run.read_text().replace('"batch_size": 8', '"batch_size": 16'))
    assert report.main([str(sweep), str(other), "--out", str(tmp_path / "both")]) == 0
    first, second = (tmp_path / "both.md").read_text().split("A paper, table 6")[1:]
    assert "| 8 | 3.05 | 80 |" in first
    assert "| 16 | 3.05 | 80 |" in second


@pytest.mark.slow
def test_a_page_keeps_the_dots_of_its_name_and_takes_no_file_that_is_not_its_own(sweep: Path, tmp_path: Path) -> None:
    for name in ("lr0.1", "lr0.01"):
        assert report.main([str(sweep), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / f"{name}.csv").is_file()
    (tmp_path / "paper.tex").write_text("mine")
    assert report.main([str(sweep), "--out", str(tmp_path / "paper")]) == 2
    assert (tmp_path / "paper.tex").read_text() == "mine"
    assert not (tmp_path / "paper.html").exists()


def test_a_page_is_made_again_when_something_in_it_is_newer_or_it_was_running(tmp_path: Path) -> None:
    run = made(tmp_path / "run", experiment(tmp_path), 3.0)
    run_page.write(record.read(run))
    later = (run / "report.html").stat().st_mtime + 10
    os.utime(run / "report.html", (later, later))
    assert run_page.is_fresh(record.read(run))
    scores = run / "evaluations" / "test-40" / "scores.json"
    scores.parent.mkdir(parents=True)
    assert run_page.is_fresh(record.read(run))
    scores.write_text("{}")
    os.utime(scores, (later + 10, later + 10))
    assert not run_page.is_fresh(record.read(run))
    shutil.rmtree(scores.parent)
    (run / "RESULT.json").write_text('{"status": "running"}')
    os.utime(run / "RESULT.json", (later - 5, later - 5))
    assert not run_page.is_fresh(record.read(run))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: there is no such directory"),
        (["gs://bucket/x"], "DIR gs://bucket/x is in a bucket: give a path of this machine"),
        (["sweep", "--out", "gs://bucket/x"], "--out gs://bucket/x is in a bucket"),
        (["empty"], "empty has neither config.json nor sweep.json"),
        (["begun"], "begun has no started run: there is nothing to report yet"),
        (["sweep", "sweep"], "Several directories need --out for the comparison"),
        (["sweep", "--out", "no/where"], "there is no directory no"),
        (["sweep", "--out", "mine"], "Refusing to overwrite mine.html, not written as a report"),
    ],
)
def test_bad_input(sweep: Path, monkeypatch, arguments: list[str], said: str, capsys) -> None:
    monkeypatch.chdir(sweep.parent)
    Path("empty").mkdir()
    Path("begun").mkdir()
    Path("begun/sweep.json").write_text('{"variants": {"a": {}}}')
    Path("mine.html").write_text("<html>my own page</html>")
    assert report.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert Path("mine.html").read_text() == "<html>my own page</html>"
