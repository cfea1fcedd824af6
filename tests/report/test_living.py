"""Charts of pages in a real Chromium: what the mouse and the keyboard show, and what text cannot do."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from run_directories import experiment, made

from research.report import page, record, run_page, sweep_page
from research.report.chart import LivingCurve, living
from research.report.plot import smoothed

pytestmark = pytest.mark.slow

STEPS = range(1, 101)
NARROW = LivingCurve(
    "narrow", [(step, 200.0 - step) for step in STEPS], "width=16", fields={"width": "16"}, scales=(1000, 10**12),
    clock=[(0, 0.0), (50, 3600.0), (100, 3660.0)],
)  # fmt: skip
WIDE = NARROW._replace(
    name="wide", points=[(step, 100.0 - step / 2 + 5 * (step % 7)) for step in STEPS], group="width=256",
    fields={"width": "256"}, smooth=True,
)  # fmt: skip
PICTURE = page.picture('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "a picture")
HOSTILE = (
    "</script><script>window.ran = 1</script>",
    '<img src=x onerror="window.ran = 1">\'"`${window.ran = 1}',
    "<!--<script>",
)


def written(path: Path, *curves: LivingCurve, body: str = "", title: str = "loss", **options: Any) -> Path:
    data = living(curves, title=title, y_label=title, **options)
    path.write_text(page.document("A page", page.charts(page.living(PICTURE, data, title, f"{title}.")) + body))
    return path


@pytest.fixture
def shown(opened, tmp_path: Path) -> Any:
    return opened(written(tmp_path / "page.html", NARROW, WIDE))


def plot(shown: Any) -> Any:
    shown.wait_for_selector("figure[data-drawn]")
    return shown.locator(".plot")


def reading(shown: Any) -> list[str]:
    """The lines beside the cursor."""
    shown.wait_for_selector(".tip:not([hidden])")
    return shown.locator(".tip").text_content().split("\n")


def pressed(shown: Any, *keys: str) -> list[str]:
    for key in keys:
        plot(shown).press(key)
    return reading(shown)


def moved(shown: Any, across: float, down: float) -> None:
    """Move the mouse to a place inside the axes, in shares of their size."""
    plot(shown)
    box = shown.locator(".u-over").bounding_box()
    shown.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"], steps=3)


def place(shown: Any) -> tuple[float, float]:
    """The place of the dot, in pixels from the left and the top of the axes."""
    style = shown.locator(".dot").get_attribute("style")
    left, top = re.findall(r"(-?[\d.]+)px", style)[:2]
    return float(left), float(top)


def test_hover_names_the_nearest_curve_its_step_and_its_value(shown) -> None:
    moved(shown, 49 / 99, 0.05)
    assert reading(shown) == ["narrow", "step 50", "loss: 150"]
    moved(shown, 1 / 99, 0.95)
    assert reading(shown)[0] == "wide"
    shown.locator(".chart .readout", has_text="wide, step ").wait_for()
    assert shown.locator(".chart .readout").get_attribute("role") == "status"


def test_dragging_zooms_and_a_double_click_or_escape_shows_all(shown) -> None:
    def drag() -> None:
        moved(shown, 0.25, 0.5)
        shown.mouse.down()
        moved(shown, 0.5, 0.5)
        shown.mouse.up()

    for reset in ("dblclick", "Escape", "button"):
        drag()
        first, last = (int(pressed(shown, key)[1].split()[1]) for key in ("Home", "End"))
        assert (25 <= first <= 27, 49 <= last <= 51) == (True, True)
        if reset == "dblclick":
            shown.locator(".u-over").dblclick(position={"x": 5, "y": 5})
        elif reset == "button":
            shown.get_by_role("button", name="Reset the zoom of loss").click()
        else:
            plot(shown).press(reset)
        assert pressed(shown, "Home")[1] == "step 1"
        assert shown.locator("button", has_text="Reset").is_disabled()


def test_a_box_zooms_both_axes(shown) -> None:
    moved(shown, 0.2, 0.1)
    shown.mouse.down()
    moved(shown, 0.6, 0.5)
    shown.mouse.up()
    top = place_of(shown, "Home")[1]
    plot(shown).press("Escape")
    assert place_of(shown, "Home")[1] != pytest.approx(top, abs=1)
    assert pressed(shown, "Home")[1] == "step 1"


def place_of(shown: Any, *keys: str) -> tuple[float, float]:
    pressed(shown, *keys)
    return place(shown)


def test_the_keyboard_moves_along_curves_and_zooms(shown) -> None:
    plot(shown).focus()
    assert pressed(shown, "Home") == ["narrow", "step 1", "loss: 199"]
    assert pressed(shown, "ArrowRight", "ArrowRight")[1] == "step 3"
    assert pressed(shown, "Shift+ArrowRight")[1] == "step 13"
    assert pressed(shown, "ArrowDown")[:2] == ["wide", "step 13"]
    assert pressed(shown, "ArrowUp", "ArrowLeft")[:2] == ["narrow", "step 12"]
    assert pressed(shown, "End")[1:] == ["step 100", "loss: 100"]
    plot(shown).press("Escape")
    pressed(shown, "Home", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "+", "+")
    assert pressed(shown, "Home")[1] == "step 31"  # step 41 remained in its place
    assert pressed(shown, "End")[1] == "step 55"
    assert pressed(shown, "-", "Home")[1] == "step 7"


def test_logarithmic_axes(opened, tmp_path: Path) -> None:
    powers = LivingCurve("powers", [(1, 1.0), (10, 10.0), (100, 1000.0), (1000, -1.0)])
    shown = opened(written(tmp_path / "page.html", powers))
    shown.get_by_label("log x").check()
    places = [place_of(shown, "Home"), *(place_of(shown, "ArrowRight") for _ in range(2))]
    assert places[1][0] - places[0][0] == pytest.approx(places[2][0] - places[1][0], abs=0.5)
    shown.get_by_label("log y").check()
    places = [place_of(shown, "Home"), *(place_of(shown, "ArrowRight") for _ in range(2))]
    rises = [before[1] - after[1] for before, after in itertools.pairwise(places)]
    assert rises[1] == pytest.approx(2 * rises[0], abs=1)
    shown.get_by_label("log x").uncheck()
    places = [place_of(shown, "Home"), *(place_of(shown, "ArrowRight") for _ in range(2))]
    assert places[2][0] - places[0][0] == pytest.approx(11 * (places[1][0] - places[0][0]), rel=0.02)


def test_a_logarithmic_axis_ends_where_its_points_do(opened, tmp_path: Path) -> None:
    shown = opened(written(tmp_path / "page.html", LivingCurve("rates", [(3, 1.0), (40, 2.0)])))
    shown.get_by_label("log x").check()
    spread = place_of(shown, "End")[0] - place_of(shown, "Home")[0]
    assert spread > 0.85 * shown.locator(".u-over").bounding_box()["width"]


def test_smoothing_is_the_running_mean_of_the_pictures(shown) -> None:
    for percent in (0, 4, 10, 30):
        shown.get_by_label("smoothing").fill(str(percent))
        smooth, _ = smoothed(WIDE.points, percent / 100)
        value = float(pressed(shown, "Home", "ArrowDown", *["Shift+ArrowRight"] * 4)[2].split()[1])
        assert value == pytest.approx(smooth[40][1], rel=1e-4)
        assert pressed(shown, "Home", "ArrowUp", "End")[2] == "loss: 100"  # is an evaluation: never smoothed
        plot(shown).press("Escape")


def test_x_is_steps_tokens_flops_or_wall_time(shown) -> None:
    for axis, there in (("tokens", "tokens 75,000"), ("FLOPs", "FLOPs 7.5e13"), ("time", "wall time 01:00:30")):
        shown.get_by_label("x:").select_option(axis)
        moved(shown, 0.05, 0.05)
        plot(shown).press("Escape")
        read = pressed(shown, "Home", *["Shift+ArrowRight"] * 7, *["ArrowRight"] * 4)
        assert (read[0], read[1]) == ("narrow", there)


def test_curves_are_switched_off_by_the_legend_and_by_their_fields(shown) -> None:
    entry = shown.get_by_role("button", name="width=16")
    entry.press("Enter")
    assert entry.get_attribute("aria-pressed") == "false"
    assert pressed(shown, "Home")[0] == "wide"
    assert shown.get_by_text("1 of 2 curves shown").count() == 1
    entry.click()
    words = shown.get_by_label("filter")
    for text, found in (
        ("width=16", "narrow"), ("width>16", "wide"), ("width<=16", "narrow"), ("width!=16", "wide"), ("WIDE", "wide"),
        ("width>=16 narrow", "narrow"),
    ):  # fmt: skip
        words.fill(text)
        assert pressed(shown, "Escape", "ArrowDown", "ArrowDown")[0] == found, text
        assert shown.get_by_text("1 of 2 curves shown").count() == 1
    words.fill("widht=16")
    assert shown.get_by_text("There is no field widht: width.").count() == 1
    words.fill("width=17")
    assert shown.get_by_text("0 of 2 curves shown").count() == 1


def test_every_seed_takes_the_place_of_the_mean(opened, tmp_path: Path) -> None:
    mean = NARROW._replace(name="mean of 2 seeds", each=False)
    seeds = [
        NARROW._replace(name=f"run {seed}", each=True, fields={"width": "16", "seed": str(seed)}) for seed in (1, 2)
    ]
    shown = opened(written(tmp_path / "page.html", mean, *seeds))
    assert pressed(shown, "Home", "ArrowDown")[0] == "mean of 2 seeds"
    shown.get_by_label("every seed").check()
    assert pressed(shown, "Home", "ArrowDown")[0] == "run 2"
    shown.get_by_label("filter").fill("seed=1")
    assert pressed(shown, "Home", "ArrowDown")[0] == "run 1"


def test_print_and_readers_without_scripts_see_pictures(opened, tmp_path: Path) -> None:
    path = written(tmp_path / "page.html", NARROW)
    shown = opened(path)
    plot(shown)
    assert not shown.locator(".picture").is_visible()
    shown.emulate_media(media="print")
    assert shown.locator(".picture img").is_visible()
    assert not shown.locator(".chart").is_visible()
    still = opened(path, java_script_enabled=False)
    assert still.locator(".picture img").is_visible()
    assert still.locator(".chart").count() == 0


def test_hostile_text_stays_text(opened, tmp_path: Path) -> None:
    curves = [NARROW._replace(name=text, group=text, fields={text: text}) for text in HOSTILE]
    for number, text in enumerate(HOSTILE):
        shown = opened(written(tmp_path / f"{number}.html", *curves, title=text))
        assert pressed(shown, "Home")[0] == HOSTILE[0]
        assert [entry.text_content() for entry in shown.locator(".legend button").all()[2:]] == list(HOSTILE)
        assert shown.locator(".tools strong").text_content() == text
        assert shown.locator("img[src=x]").count() == 0
        assert shown.evaluate("window.ran") is None


def test_the_policy_refuses_any_other_script(opened, tmp_path: Path) -> None:
    """Markup that a forgotten escape would let in."""
    body = '<script>window.ran = 1</script><img src="data:," onerror="window.ran = 1"><p style="color: red">x</p>'
    shown = opened(written(tmp_path / "page.html", NARROW, body=body))
    plot(shown)
    assert shown.evaluate("window.ran") is None
    assert sum("Content Security Policy" in message for message in opened.messages) >= 3
    opened.messages.clear()


def test_a_page_asks_for_nothing(chromium, tmp_path: Path) -> None:
    asked = list[str]()
    shown = chromium.new_page()
    shown.on("request", lambda request: asked.append(request.url))
    path = written(tmp_path / "page.html", NARROW)
    shown.goto(path.as_uri())
    plot(shown)
    assert [address for address in asked if not address.startswith("data:")] == [path.as_uri()]
    shown.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pages of a run and of a sweep with two seeds."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        made(folder / f"width={width},seed={seed}", experiment(folder, **changes), 3.0 + seed)
        for width in (16, 32)
        for seed in (0, 1)
        if (changes := {"model.width": str(width), "seed": str(seed)})
    ]
    return [run_page.write(record.read(runs[0])), sweep_page.write(folder / "report", "Sweep", runs)]


@pytest.mark.parametrize("width", [1200, 420])
def test_real_pages_pass_the_rules_of_accessibility_and_fit(opened, pages: list[Path], width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for path in pages:
        shown = opened(path, width, bypass_csp=True)  # for axe's own script
        shown.wait_for_selector("figure[data-drawn]", state="attached")
        found = Axe().run(shown).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
        assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_a_thousand_runs_of_ten_thousand_points_are_drawn_at_once(opened, tmp_path: Path) -> None:
    """Within two seconds of processor time, which other work on the machine does not lengthen as it does the clock."""
    steps = range(1, 10_001)
    curves = [
        NARROW._replace(
            name=f"run {number}", group=f"run {number}", smooth=True,
            points=[(step, number / 1000 + 1e4 / (step + 1000) + (step * 7919 % 101) / 1000) for step in steps],
        )
        for number in range(1000)
    ]  # fmt: skip
    path = written(tmp_path / "page.html", *curves)
    assert path.stat().st_size < 8e6
    shown = opened("about:blank")
    counters = shown.context.new_cdp_session(shown)
    counters.send("Performance.enable", {"timeDomain": "threadTicks"})
    shown.goto(path.as_uri())
    plot(shown)
    spent = {one["name"]: one["value"] for one in counters.send("Performance.getMetrics")["metrics"]}
    assert spent["TaskDuration"] < 2.0
    shown.get_by_label("filter").fill("run 99")
    assert shown.get_by_text("19 of 1000 curves shown").count() == 1
