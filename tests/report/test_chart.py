"""Curves: what is drawn is what was given, and smoothing is the mean that it is said to be."""

import base64
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from research.report.chart import LivingCurve, extremes, living, means
from research.report.plot import COLOURS, MOST_POINTS, Series, curves, dots, smoothed, thinned

LINES = [Series(f"variant {number}", [0, 1, 2], [number, number + 1, number + 2]) for number in range(9)]


def test_a_running_mean_is_over_the_last_points() -> None:
    points = [(step, float(step % 5)) for step in range(100)]
    smooth, window = smoothed(points, share=0.1)
    assert window == 10
    assert [x for x, _ in smooth] == [x for x, _ in points]
    assert smooth[0][1] == points[0][1]
    assert smooth[50][1] == pytest.approx(np.mean([y for _, y in points[41:51]]))
    assert smoothed(points, share=0.0) == (points, 1)
    assert smoothed([]) == ([], 1)


def test_thinning_keeps_the_mean() -> None:
    points = [(float(step), float(step**2)) for step in range(10 * MOST_POINTS)]
    few = thinned(points)
    assert len(few) == MOST_POINTS
    assert np.mean([y for _, y in few]) == pytest.approx(np.mean([y for _, y in points]))
    assert thinned(points[:7]) == points[:7]


def test_every_series_has_a_colour_and_a_marker_of_its_own_and_twice_drawn_is_the_same() -> None:
    drawn = curves(LINES, title="loss", x_label="step", y_label="nats")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert drawn == curves(LINES, title="loss", x_label="step", y_label="nats")
    assert {colour for colour in COLOURS if colour.lower() in drawn.lower()} == set(COLOURS)
    pale = curves(
        [Series("a", [1, 2], [3, 4], pale=True), Series("a", [1, 2], [3, 4])], title="", x_label="", y_label=""
    )
    assert pale.count(COLOURS[0].lower()) > 1
    assert COLOURS[1].lower() not in pale.lower()


def test_a_label_is_neither_mathematics_nor_a_control_character() -> None:
    """Names such as "$\\foo$", which is wrong mathematics, and NUL, which is no XML."""
    name = "lr=$\\foo$\x00\x1b"
    drawn = curves([Series(name, [1, 2], [3, 4]), Series("b", [1], [2])], title=name, x_label=name, y_label=name)
    for svg in (drawn, dots([name, "b"], [[1.0], [2.0]], title=name, x_label=name)):
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert "lr=$\\foo$\\x00\\x1b" in svg  # in a comment beside the shapes of the letters


def test_dots_grow_with_the_labels() -> None:
    few, many = (dots(["a"] * count, [[1.0, 2.0]] * count, title="t", x_label="x") for count in (2, 20))
    heights = [float(ElementTree.fromstring(svg).attrib["height"].removesuffix("pt")) for svg in (few, many)]
    assert heights[1] > 3 * heights[0]


def test_living_curves_are_thinned_and_not_cut() -> None:
    """Ends, the spike and the dip of one step remain, and running means are over all points."""
    values = np.sin(np.arange(10_000) / 500)
    values[4321], values[7777] = 50.0, -50.0
    points = np.stack([np.arange(10_000.0), values], axis=1)
    few = extremes(points, 300)
    assert len(few) <= 300
    assert few[0].tolist() == points[0].tolist()
    assert few[-1].tolist() == points[-1].tolist()
    assert [4321.0, 50.0] in few.tolist()
    assert [7777.0, -50.0] in few.tolist()
    assert (np.diff(few[:, 0]) > 0).all()
    assert extremes(points[:300], 300) is not few
    assert extremes(points[:300], 300).tolist() == points[:300].tolist()
    assert means(points, 100).mean(axis=0) == pytest.approx(points.mean(axis=0))


def test_living_data_is_float32_of_the_points_with_equal_arrays_once() -> None:
    curve = LivingCurve("a", [(1, 0.5), (2, 1e300)], scales=(3, 5))
    text = living([curve, curve._replace(name="</script>", points=[(1, 2.5), (2, 3.5)])], title="<t>", y_label="y")
    assert "<" not in text
    data = json.loads(text)
    first, second = data["curves"]
    assert (first["name"], second["name"], data["title"]) == ("a", "</script>", "<t>")
    assert first["points"][0] == second["points"][0]  # the same steps
    arrays = [np.frombuffer(base64.b64decode(one), "<f4").tolist() for one in data["arrays"]]
    assert arrays[first["points"][0]] == [1.0, 2.0]
    assert arrays[second["points"][1]] == [2.5, 3.5]
    assert arrays[first["points"][1]][1] > 1e38  # the most that float32 can hold
    assert data["axes"] == ["step", "tokens", "FLOPs"]
