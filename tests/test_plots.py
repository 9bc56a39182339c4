"""The shared panels: what they draw, in which colour, in which order, and what a figure leaves on disk."""

from __future__ import annotations

import json

import matplotlib
import numpy as np
import pandas as pd
import pytest

from earlib import plots
from earlib.errors import UserError
from earlib.evaluate.rate import Estimate, Rate
from earlib.plots.series import drawn, has_value

matplotlib.use("agg")
TABLE = pd.DataFrame(
    {
        "recipe": [None, "ear", "uce", "rmu"],
        "direct": [Rate(80, 100), Rate(10, 100), Rate(2, 100), None],
        "neighbours": [Rate(95, 100), Rate(20, 100), Rate(94, 100), None],
        "direct_by_seed": [{}, {0: Rate(4, 50), 1: Rate(6, 50)}, {0: Rate(1, 50), 1: Rate(1, 50)}, {}],
    }
)


@pytest.fixture(autouse=True)
def style():
    import matplotlib.pyplot as plt

    plots.setup()
    yield
    plt.close("all")


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_values_are_drawn_with_their_intervals():
    assert drawn(Rate(1, 4))[0] == 25 and drawn(Rate(1, 4))[1:] == (100 * Rate(1, 4).low, 100 * Rate(1, 4).high)
    assert drawn(Estimate(0.5, 3, 0.4, 0.6), 100) == (50, 40, 60)
    assert drawn(0.5) == (0.5, 0.5, 0.5) == drawn(Estimate(0.5, 1))
    assert not any(map(has_value, (None, float("nan"), Rate(0, 0), Estimate(None, 0)))) and has_value(Rate(0, 3))


def test_a_series_of_a_table_leaves_out_what_diverged_and_finds_its_base():
    series = plots.Series.of(TABLE, "recipe", "direct")
    assert [x for x, _ in series.points] == ["ear", "uce"] and series.base == Rate(80, 100)
    assert series.seeds == [[Rate(4, 50), Rate(6, 50)], [Rate(1, 50), Rate(1, 50)]]
    assert series.called == "the concept" and series.look() == (plots.style.VERMILION, "o")


def test_a_thing_has_one_colour_and_its_family_another_marker():
    found = plots.series.looks([plots.Series(name, {0: 1.0}) for name in ("ear", "ear-shared", "direct", "uce")])
    assert [colour for colour, _ in found] == [plots.style.look(n)[0] for n in ("ear", "ear-shared", "direct", "uce")]
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]


def test_lines_over_ticks():
    series = plots.concept_and_neighbours(TABLE, "recipe")
    figure = plots.lines({"a": series, "b": series}, "recipe", ticks={"uce": "UCE", "ear": "EAR"})
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["UCE", "EAR"]
    assert sorted(texts(figure)) == ["before", "its neighbours", "the concept"]
    assert figure.get_figwidth() <= plots.style.WIDTH
    plots.lines({"a": [plots.Series("x", {1.0: 3.0, 0.0: 2.0}, line="bar")]}, xscale="root", ylim=None)


def test_marks_at_one_place_stand_side_by_side_at_their_values():
    marks = [plots.Series(name, {"b": 16}, line="") for name in "xyzw"]
    for i, mark in enumerate(marks):
        mark.beside = 0.1 * i
    axis = plots.lines({"": marks}, ticks={"a": "A", "b": "B"}, ylim=None).axes[0]
    drawn = [tuple(map(float, (*line.get_xdata(), *line.get_ydata()))) for line in axis.lines if len(line.get_xdata())]
    assert {(round(x, 3), y) for x, y in drawn} == {(1.0, 16), (1.1, 16), (1.2, 16), (1.3, 16)}


def test_dots_are_sorted_by_the_first_series():
    figure = plots.dots({"church": plots.concept_and_neighbours(TABLE, "recipe")}, families=True)
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == ["uce", "ear"]
    assert labels[1].get_color() == plots.style.BLUE
    as_they_are = plots.dots({"": plots.concept_and_neighbours(TABLE, "recipe")}, sort=False)
    assert [label.get_text() for label in as_they_are.axes[0].get_yticklabels()] == ["ear", "uce"]


def test_labels_of_a_plane_stand_apart():
    crowd = [(Rate(hits, 30), Rate(30 - hits, 30)) for hits in (0, 0, 1, 2, 4, 8)]
    names = ["first", "ablation-at-words", "third", "", "", ""]
    before = plots.Series("before", [(Rate(24, 30), Rate(28, 30))])
    more = plots.Series("next-scale", [(0.5, 99.0), (1.0, 98.0)], labels=["recommended", "npo"], line="")
    figure = plots.plane(dict.fromkeys("abc", [before, plots.Series("ours", crowd, labels=names, line=""), more]))
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [matplotlib.text.Text.get_window_extent(text) for text in axis.texts]  # without their arrows
        assert len(boxes) == 5 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_coloured_words_can_be_read():
    assert all(plots.style.contrast(plots.style.ink(colour)) >= 4.5 for colour in plots.style.PALETTE)
    assert plots.style.ink(plots.style.BLUE) == plots.style.BLUE and round(plots.style.contrast("black")) == 21


def test_bars_before_and_after_pool_seeds_and_count_the_base_once():
    record = {"metric": "concept_rate", "subject": "church", "kind": "direct", "n": 10}
    base, erased = record | {"condition": "base", "value": 0.8}, record | {"condition": "erased", "value": 0.1}
    seeds = [one | {"seed": seed} for one in (base, base, erased) for seed in (0, 1)]
    others = [record | {"metric": m, "condition": "base", "value": 1.0} for m in ("kid", "object_rate", "second_rate")]
    before, after = plots.before_after([*seeds, *others])
    assert before.points == [("church", Rate(16, 20))] and after.points == [("church", Rate(2, 20))]
    figure = plots.bars({"ear": [before, after]}, horizontal=True, bold=["church"])
    assert {text.get_text() for text in figure.axes[0].texts} == {"80", "10"}
    assert figure.axes[0].get_yticklabels()[0].get_fontweight() == "bold"
    with pytest.raises(UserError, match="no rate of 'boat'"):
        plots.before_after(seeds, ["boat"])


def test_curves_and_nothing_to_draw():
    rows = [{"step": i, "loss": 1.0 / (i + 1)} for i in range(30)]
    assert len(plots.curves(rows, "step", {"loss": "loss"}, smooth=5, log=True).axes[0].lines) == 2
    with pytest.raises(UserError, match="no panels"):
        plots.lines({})


def test_pictures_fit_the_page():
    images = np.zeros((20, 8, 8, 3), np.uint8)
    figure = plots.pictures.grid(images, columns=10, row_labels=["a long label", "b"], titles=["t"] * 20)
    assert figure.get_figwidth() < plots.style.WIDTH
    with pytest.raises(UserError, match="3 row labels for a grid of 2 rows"):
        plots.pictures.grid(images, columns=10, row_labels=["a", "b", "c"])
    with pytest.raises(UserError, match="no pictures"):
        plots.pictures.grid([])
    faded = plots.pictures.cover(np.full((8, 8, 3), 200, np.uint8), 4, 2, (2, 4), dim=1.0)
    assert np.isclose(faded[4:, :4], 200 / 255).all() and np.isclose(faded[:4], 0.94).all()
    values = np.random.default_rng(0).random((2, 8))
    assert plots.pictures.token_maps(images[:2], values, (2, 4), ["a", "b"], "loss", log=True).axes


def test_save_leaves_picture_text_and_data(tmp_path):
    figure = plots.lines({"a": [plots.Series("ear", {0: Rate(1, 2)})]})
    png = plots.save(figure, "one", [{"x": 1}], tmp_path, caption="what it is", alt="what it shows")
    assert png == tmp_path / "one.png" and sorted(p.suffix for p in tmp_path.iterdir()) == [
        ".csv",
        ".json",
        ".png",
        ".svg",
    ]
    assert json.loads((tmp_path / "one.json").read_text()) == {"caption": "what it is", "alt": "what it shows"}
    again = plots.save(figure, "two", folder=tmp_path)
    assert again.read_bytes() == png.read_bytes(), "the same figure gives the same file"
    with pytest.raises(UserError, match="file's stem"):
        plots.save(figure, "a/b")
