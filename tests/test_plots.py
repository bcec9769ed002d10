"""Figures: every label has room, names are text, the same data give the same file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex

from wamkit.errors import WamkitError
from wamkit.files import plots
from wamkit.train.logs import draw_losses

NAMES = [
    "image_wam_4b",
    "wwwwwwwwwwmmmmmmmmmm",
    "WAM of many capital LETTERS",
    "a" * 90,
    "<b> & $x^2$",
    "ロボットの方策",
]
MEASURES = ["parameters, billions", "TFLOP a chunk", "GB moved a chunk", "ms a chunk at toy size"]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    with plots.style():
        yield


def expect_room(figure: Any) -> None:
    """Fail if two labels overlap, or one leaves what is written to a file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    whole = figure.get_tightbbox(canvas.get_renderer()).padded(0.01)
    boxes = []
    for text in figure.findobj(lambda one: isinstance(one, Text) and one.get_visible()):
        if text.get_text() and not text.get_rotation() % 90:
            box = text.get_window_extent()
            assert whole.x0 * figure.dpi <= box.x0 and box.x1 <= whole.x1 * figure.dpi
            boxes.append((box.shrunk(0.98, 0.9), text.get_text()))
    for i, (one, name) in enumerate(boxes):
        for other, second in boxes[:i]:
            assert not one.overlaps(other), (name, second)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("measures", [1, 2, 4])
def test_names_of_bars_and_measures_are_whole(measures: int) -> None:
    series = {m: {n: 1234.5 * i for i, n in enumerate(NAMES)} for m in MEASURES[:measures]}
    expect_room(plots.bars(series))
    expect_room(plots.bars({"a measure with a very long name and its unit, ms": {"a": 1.0}}))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("log", [False, True])
def test_names_of_lines_and_their_values_are_whole(log: bool) -> None:
    points = [(0.0, 1e-7), (123456.0, 123456.0)]
    expect_room(plots.lines(dict.fromkeys(NAMES, points), x="update", y="loss", log=log))


def test_labels_of_an_attention_table_are_whole() -> None:
    for roles in (["context", "action"], [*"abcdefghijklmnop", "a_role_with_a_long_name"]):
        cell = 0.4 if len(roles) < 8 else 0.2
        figure, (axes,) = plots.panels(1, cell * len(roles), cell * len(roles))
        plots.attention_table(axes, roles, dict.fromkeys(roles, roles), cell=cell)
        expect_room(figure)
        assert len(axes.patches) == len(roles) ** 2


def test_report_and_explore_page_have_the_colors_of_roles_in_light_and_dark() -> None:
    cli = Path(plots.__file__).parent.parent / "cli"
    light, dark = {}, {}
    for page in ("demo", "explore"):
        style = (cli / page / "page.css").read_text()
        found = re.findall(r"--([\w-]+): (#\w{6})", style)
        names = [name for name, _ in found]
        light[page] = {
            name: color for i, (name, color) in enumerate(found) if name not in names[:i]
        }
        dark[page] = dict(found)
    for role, color in plots.ROLE_COLORS.items():
        place = f"color-{plots.COLORS.index(color)}"
        assert light["demo"][place] == light["explore"][role] == color
        assert dark["demo"][place] == dark["explore"][role] != color


def test_each_role_of_an_attention_table_has_a_color_of_its_own() -> None:
    roles = [*plots.ROLE_COLORS, "target'", "seen.2", "did.0"]
    _, (axes,) = plots.panels(1, 2, 2)
    plots.attention_table(axes, roles, dict.fromkeys(roles, roles), cell=0.2, bold=["context"])
    drawn = [to_hex(patch.get_facecolor()) for patch in axes.patches[: len(roles)]]
    assert drawn[:7] == list(plots.ROLE_COLORS.values()) and len(set(drawn)) == 7
    assert drawn[7:] == [plots.ROLE_COLORS[role] for role in ("target", "target", "action")]
    weights = {x.get_text(): x.get_fontweight() for x in axes.get_yticklabels()}
    assert [role for role, weight in weights.items() if weight == "bold"] == ["context"]


def test_a_logarithmic_axis_shows_values_and_no_exponents() -> None:
    for top, expected in ((1.0, {"1", "0.1", "0.01"}), (0.012, {"0.01"})):
        series = {"loss": [(0, top), (1, 0.01), (2, 0.0), (3, math.inf)]}
        figure = plots.lines(series, x="update", y="loss", log=True)
        (axes,) = figure.axes
        labels = {label.get_text() for label in axes.get_yticklabels()}
        assert expected <= labels and not any("e" in label or "$" in label for label in labels)
        assert len(axes.lines[0].get_xdata()) == 2  # what is not finite or not positive is left out


def test_a_file_is_well_formed_keeps_its_text_and_depends_on_its_data_alone(tmp_path: Path) -> None:
    series = {"one <measure>": {name: float(i) for i, name in enumerate(NAMES)}}
    one, two = (plots.write(tmp_path / name / "a.svg", plots.bars(series)) for name in "xy")
    assert one.read_bytes() == two.read_bytes()
    found = {text.text for text in ElementTree.parse(one).iter(f"{SVG}text")}
    assert {*NAMES, "one <measure>"} <= found
    assert plots.write(tmp_path / "a.png", plots.bars(series)).read_bytes()[1:4] == b"PNG"
    with pytest.raises(WamkitError, match="neither"):
        plots.write(tmp_path / "a.jpg", plots.bars(series))
    plots.write(tmp_path / "empty.svg", plots.lines({}, x="x", y="y"))
    plots.write(tmp_path / "none.svg", plots.bars({}))


def test_a_figure_in_a_page_takes_the_colors_of_the_page() -> None:
    text = plots.inline(plots.lines({"a": [(0, 1), (1, 2)]}, x="x", y="y"), 'of "a" <b>')
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg" and root.get("aria-label") == 'of "a" <b>'
    for name in ("--ink", "--card", "--color-0"):
        assert f"var({name}, #" in text
    assert "metadata" not in text and 'id="axes_1"' not in text


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(WamkitError, match="need matplotlib and jinja2") as found:
        plots.expect_plots()
    assert 'pip install -e ".[plots]"' in found.value.hint
    notes: list[str] = []
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    draw_losses(tmp_path, notes.append)
    assert not (tmp_path / "loss.svg").exists() and '".[plots]"' in notes[0]
