"""The pages of runs and sweeps: one file that needs nothing else, and what is on it."""

import html.parser
import json
import re
from pathlib import Path

import pytest
from run_directories import experiment, made

from research import override, record, run_page, sweep_page
from research.data.objective import lengths
from scripts import report


class Checked(html.parser.HTMLParser):
    """Every element is closed, every id once, every picture described, and nothing is fetched."""

    EMPTY = ("meta", "img", "input", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.alternatives = list[str](), list[str](), list[str]()
        self.feed(text)
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href"):
            address = found.get(name) or ""
            assert not re.match(r"\w+:", address) or address.startswith("data:image/svg+xml;base64,")
        if tag == "img":
            self.alternatives.append(found["alt"] or "")
        if "id" in found:
            self.ids.append(found["id"] or "")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


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
        "&lt;script&gt;x", "at 40", "git checkout abc\n", "The source differed from that commit.",
        "2026-01-02 03:04:05",
    ):  # fmt: skip
        assert said in text
    assert "Loss against the step: training ends at 7" in checked.alternatives[0]
    assert "held out ends at 3." in checked.alternatives[0]
    assert "| test bleu | 31.25 |" in (run / "report.md").read_text()
    assert "held out loss,3.0" in (run / "report.csv").read_text()
    assert r"test bleu & 31.25 \\" in (run / "report.tex").read_text()


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(override.to_json(experiment(tmp_path)))
    Checked(run_page.write(record.read(run)).read_text())
    assert "not begun, step 0 of 40" in (run / "report.html").read_text()


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three noise densities with two seeds each, one run not begun, and what a paper says of two of them."""
    directory, names = tmp_path / "sweep", {}
    for number, density in enumerate((0.15, 0.25, 0.5)):
        for seed in range(2):
            changes = {"data.objective": f"ReplaceSpans({density})", "seed": str(seed)}
            config = experiment(tmp_path, **changes)
            name = f"noise_density={density},seed={seed}"
            names[name] = json.loads(override.to_json(config))
            if (number, seed) != (2, 1):
                made(directory / name, config, 3.0 + number + seed / 10)
    rows = [
        {"variants": [f"noise_density={density},seed={seed}" for seed in range(2)], "values": [score, None]}
        for density, score in ((0.15, 80.0), (0.25, 79.0), (0.5, 78.0))
    ]
    published = [{"source": "A paper, table 6", "scores": ["GLUE", "BLEU"], "rows": rows, "lower_is_better": []}]
    (directory / "sweep.json").write_text(json.dumps({"variants": names, "published": published}))
    return directory


def test_a_sweeps_page_has_scores_dimensions_curves_and_the_papers_numbers(sweep: Path) -> None:
    assert report.main([str(sweep)]) == 0
    text = (sweep / "report.html").read_text()
    checked = Checked(text)
    assert "3 variants, 5 runs, 5 of them done; 1 not begun: noise_density=0.5,seed=1" in text
    assert "3.0500 ± 0.0707</strong>" in text
    assert "held out loss against noise density. mean: best at 0.15." in checked.alternatives
    assert any(said.startswith("training loss against FLOPs") for said in checked.alternatives)
    assert "order here with each published column: GLUE 1.00." in text  # a lower loss where the paper's score is higher
    assert 'href="noise_density=0.15,seed=0/report.html"' in text
    Checked((sweep / "noise_density=0.15,seed=0" / "report.html").read_text())
    markdown = (sweep / "report.md").read_text()
    assert "| noise density | done | parameters |" in markdown
    assert "| 0.15 | 3.05 | 80 | - |" in markdown
    (row, *_) = (sweep / "report.csv").read_text().splitlines()[1:]
    assert row.startswith("0.15,2 of 2,")


def test_steps_tokens_and_flops_are_of_the_same_curve(sweep: Path) -> None:
    found = record.read(sweep / "noise_density=0.15,seed=0")
    row = lengths(found.config.data.objective, 48)
    scales = {name: scale(found) for name, scale in sweep_page.AXES}
    assert scales["steps"] == 1
    assert scales["tokens"] == 8 * (row.inputs + row.targets)
    assert scales["FLOPs"] == found.flops_per_step
    assert sweep_page.mean_curve([[(1, 2.0), (2, 4.0)], [(2, 6.0), (3, 1.0)], []]) == [(2, 5.0)]


def test_any_runs_are_compared(sweep: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", experiment(tmp_path, steps="20"), 9.0)
    assert report.main([str(sweep), str(other), "--out", str(tmp_path / "both")]) == 0
    text = (tmp_path / "both.html").read_text()
    Checked(text)
    assert "Comparison both" in text
    assert 'href="sweep/noise_density=0.15,seed=0/report.html"' in text
    assert 'href="other/report.html"' in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: there is no such directory"),
        (["empty"], "empty holds neither a run (config.json) nor a sweep (sweep.json)"),
        (["begun"], "begun holds no run that has begun: there is nothing to report yet"),
        (["sweep", "sweep"], "Several directories are compared: say by --out where"),
        (["sweep", "--out", "no/where"], "there is no directory no"),
        (["sweep", "--out", "mine"], "mine.html is there already and is no report"),
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
