"""The robot's side: observations, cameras, action spaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from wamkit import Observation, WamkitError
from wamkit.config.cameras import CameraConfig, View
from wamkit.config.robot import ActionConfig, ActionGroup, StateConfig
from wamkit.policy.actions import ActionSpace, StateSpace, Statistics, read_statistics
from wamkit.policy.cameras import CameraLayout
from wamkit.policy.view_steps import fit_to_view
from wamkit.testing.parity import same_values

RED = np.full((8, 12, 3), (255, 0, 0), np.uint8)


def test_images_of_every_kind_become_one_kind(tmp_path: Path) -> None:
    Image.fromarray(RED).save(tmp_path / "red.png")
    tensor = torch.from_numpy(RED.copy()).permute(2, 0, 1)
    for value in (
        RED,
        tensor,
        Image.fromarray(RED),
        tmp_path / "red.png",
        str(tmp_path / "red.png"),
    ):
        seen = Observation(images={"front": value}, prompt="go")
        assert torch.equal(seen.images["front"], tensor[None, None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  "}, "the instruction is empty"),
        ({"images": {}}, "the observation has no image"),
        ({"images": {"front": "nowhere.png"}}, "no image at nowhere.png"),
        ({"images": {"front": RED.astype(np.float32)}}, "expected uint8"),
        ({"images": {"front": torch.zeros(4, 8, 8)}}, r"expected \[3, height, width\]"),
        ({"images": {"front": torch.full((3, 8, 8), 7.0)}}, r"values up to 7; expected \[-1, 1\]"),
        ({"images": {"front": 3}}, "is a int"),
        ({"state": [1.0, float("nan")]}, "not finite"),
        ({"state": "abc"}, "no list of values"),
        ({"state": [[1.0], [2.0]]}, "batch sizes differ: image 'front' 1, prompt 1, state 2"),
    ],
)
def test_bad_observations_are_refused_with_the_reason(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WamkitError, match=message):
        Observation(**({"images": {"front": RED}, "prompt": "go"} | change))


def test_files_that_are_no_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(WamkitError, match="is not an image"):
        Observation(images={"front": tmp_path / "text.png"}, prompt="go")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        tmp_path / "whole.png"
    )
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(WamkitError, match="is a damaged image"):
        Observation(images={"front": tmp_path / "cut.png"}, prompt="go")


def _plain(value: float, size: tuple[int, int]) -> torch.Tensor:
    return torch.full((1, 1, 3, *size), value)


def test_a_t_shape_puts_the_first_view_above_the_others() -> None:
    views = (
        View(name="head", size=(4, 8)),
        View(name="l", size=(2, 4)),
        View(name="r", size=(2, 4)),
    )
    layout = CameraLayout(CameraConfig(layout="t_shape", views=views))
    canvas = layout.canvas(
        {"head": _plain(1, (9, 9)), "l": _plain(0, (5, 7)), "r": _plain(-1, (2, 4))}
    )
    assert canvas.shape == (1, 3, 1, 6, 8)
    expected = torch.cat([torch.ones(4, 8), torch.cat([torch.zeros(2, 4), -torch.ones(2, 4)], 1)])
    same_values(canvas, expected.expand(1, 3, 1, 6, 8), 1e-6)
    assert torch.equal(layout.split(canvas)["r"], canvas[..., 4:, 4:])


def test_a_grid_fills_rows_of_columns() -> None:
    views = tuple(View(name=n, size=(2, 3)) for n in "abcd")
    config = CameraConfig(layout="grid", views=views, columns=2)
    assert config.canvas == (4, 6) and config.boxes()["c"] == (2, 0, 2, 3)


def test_images_are_turned_flipped_and_fitted() -> None:
    image = torch.arange(6.0).reshape(1, 1, 2, 3).expand(1, 3, 2, 3) / 10
    turned = fit_to_view(image, View(name="a", size=(3, 2), rotate=90))
    assert torch.equal(turned, torch.rot90(image, 1, (-2, -1)))
    flipped = fit_to_view(image, View(name="a", size=(2, 3), flip="horizontal"))
    assert torch.equal(flipped, image.flip(-1))
    wide = torch.ones(1, 3, 4, 8)
    wide[..., :2] = wide[..., 6:] = 0
    assert (fit_to_view(wide, View(name="a", size=(4, 4), fit="crop")) == 1).all()
    padded = fit_to_view(torch.ones(1, 3, 4, 8), View(name="a", size=(8, 8), fit="pad"))
    assert (padded[..., :2, :] == -1).all() and (padded[..., 2:6, :] == 1).all()


def test_unknown_and_missing_cameras_are_named() -> None:
    layout = CameraLayout(CameraConfig(views=(View(name="front"), View(name="wrist"))))
    with pytest.raises(WamkitError, match=r"unknown camera 'frnt'.*\n.*did you mean 'front'"):
        layout.canvas({"frnt": _plain(0, (4, 4)), "wrist": _plain(0, (4, 4))})
    with pytest.raises(WamkitError, match="no image from camera 'wrist'"):
        layout.canvas({"front": _plain(0, (4, 4))})


def _space(kind: Any, normalization: Any = "min_max", clip: Any = None, **more: Any) -> ActionSpace:
    group = ActionGroup(name="arm", size=2, kind=kind, normalization=normalization, **more)
    grip = ActionGroup(name="grip", size=1, normalization="none")
    data = torch.stack([torch.linspace(-4, 4, 101), torch.linspace(0, 1, 101), torch.ones(101)], -1)
    config = ActionConfig(chunk_size=2, groups=(group, grip), clip=clip)
    return ActionSpace(config, Statistics.of(data))


@pytest.mark.parametrize("normalization", ["min_max", "mean_std", "quantile", "none"])
def test_normalization_comes_back_exactly(normalization: str) -> None:
    space = _space("absolute", normalization)
    actions = torch.tensor([[[1.0, 0.5, 1.0], [-3.0, 0.25, 0.0]]])
    values = space.encode(actions, None)
    same_values(space.decode(values, None), actions, 1e-6)
    expected = {"min_max": 0.25, "mean_std": 1 / 2.3324, "quantile": 1 / 3.92, "none": 1.0}
    assert float(values[0, 0, 0]) == pytest.approx(expected[normalization], abs=1e-3)
    assert space.names == ("arm.0", "arm.1", "grip")


def test_values_are_clipped_and_constant_dimensions_only_shifted() -> None:
    space = _space("absolute", clip=5.0)
    assert float(space.encode(torch.full((1, 1, 3), 100.0), None)[0, 0, 0]) == 5.0
    assert float(_space("absolute").encode(torch.full((1, 1, 3), 100.0), None)[0, 0, 0]) == 25.0
    still = StateSpace(StateConfig(size=1), Statistics.of(torch.full((9, 1), 3.0)))
    assert float(still.encode(torch.tensor([[3.5]]))) == 0.5


def test_relative_actions_are_differences_to_the_state() -> None:
    space = _space("relative", "none", state=1)
    actions, state = torch.tensor([[[1.0, 2.0, 0.5]]]), torch.tensor([[9.0, 0.25, 0.5]])
    values = space.encode(actions, state)
    assert values.tolist() == [[[0.75, 1.5, 0.5]]]
    same_values(space.decode(values, state), actions, 1e-6)
    with pytest.raises(WamkitError, match="relative actions need the state"):
        space.decode(values, None)


def test_padded_steps_of_delta_actions_stand_still_in_physical_units() -> None:
    space = _space("delta")
    actions = torch.full((1, 2, 3), 0.5)
    valid = torch.tensor([[True, False]])
    decoded = space.decode(space.encode(actions, None, valid), None)
    same_values(decoded, torch.tensor([[[0.5, 0.5, 0.5], [0.0, 0.0, 0.5]]]), 1e-6)


def test_statistics_are_exact_and_checked(tmp_path: Path) -> None:
    stats = Statistics.of(torch.arange(101.0)[:, None])
    assert (stats.min, stats.max, stats.mean, stats.q01, stats.q99) == (
        (0,),
        (100,),
        (50,),
        (1,),
        (99,),
    )
    file = tmp_path / "statistics.json"
    file.write_text('{"action": {"min": [0]}}')
    with pytest.raises(WamkitError, match="holds no statistics: 'max'"):
        read_statistics(file)
    with pytest.raises(WamkitError, match="statistics of 1 values for a state of 2"):
        StateSpace(StateConfig(size=2), stats)


@pytest.mark.parametrize("text", ["[]", "0", "null", '"action"'])
def test_a_statistics_file_that_is_no_table_is_not_taken_for_none(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "statistics.json").write_text(text)
    with pytest.raises(WamkitError, match="not a table of action and state"):
        read_statistics(tmp_path / "statistics.json")


def test_the_center_is_cut_out_before_an_image_is_resized() -> None:
    image = torch.zeros(1, 3, 20, 40)
    image[..., 1:-1, 2:-2] = 1  # the inner nine tenths
    view = View(name="a", size=(4, 6), center_share=0.9)
    same_values(fit_to_view(image, view), torch.ones(1, 3, 4, 6), 1e-6)


def test_whole_levels_are_cut_down_as_torch_casts() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 1, 3, 9, 12), dtype=torch.uint8, generator=rng)
    cameras = CameraConfig(views=(View(name="a", size=(6, 8), rounding="floor"),))
    canvas = CameraLayout(cameras).canvas({"a": image})[:, :, 0]
    resized = F.interpolate(
        image[0].float() / 255, (6, 8), mode="bilinear", antialias=True, align_corners=False
    )
    same_values((canvas + 1) * 127.5, (resized * 255).to(torch.uint8).float(), 1e-6)


def test_the_resize_of_opencv_is_the_same_to_the_last_bit() -> None:
    image = (torch.arange(35).view(1, 1, 5, 7) ** 2 * 37 % 256).to(torch.uint8).expand(1, 3, 5, 7)
    found = fit_to_view(image, View(name="a", size=(8, 5), rounding="opencv", antialias=False))
    # cv2.resize(image, (5, 8)) of OpenCV 4.10
    expected = [
        [7, 103, 77, 111, 73], [17, 117, 94, 131, 97], [34, 129, 121, 157, 132],
        [74, 78, 172, 149, 161], [127, 89, 155, 138, 155], [193, 161, 72, 124, 114],
        [139, 112, 157, 76, 69], [92, 68, 229, 40, 36],
    ]  # fmt: skip
    assert torch.equal(((found[0, 0] + 1) * 127.5).round(), torch.tensor(expected).float())
    for changes in ({"antialias": True}, {"filter": "bicubic"}, {"center_crop": 0.9}):
        with pytest.raises(ValueError, match="between the nearest pixels"):
            View(name="a", rounding="opencv", **{"antialias": False, **changes})


def test_repeated_columns_and_averaged_squares_follow_the_resize() -> None:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 8, 8, generator=rng)
    wide = fit_to_view(image, View(name="a", size=(8, 16), repeat_columns=2))
    same_values(wide, image.repeat_interleave(2, -1))
    small = fit_to_view(image, View(name="a", size=(4, 4), average=2))
    same_values(small, F.interpolate(image, (4, 4), mode="bilinear", align_corners=False), 1e-6)
    with pytest.raises(ValueError, match="whole number of columns"):
        View(name="a", size=(8, 9), repeat_columns=2)


def test_short_rows_are_refused_or_filled_with_black() -> None:
    views = tuple(View(name=name, size=(2, 2)) for name in "abc")
    refused = CameraConfig(layout="grid", views=views)
    assert any("equally wide" in found.why for found in refused.conflicts())
    filled = CameraConfig(layout="grid", views=views, fill=True)
    assert not list(filled.conflicts())
    canvas = CameraLayout(filled).canvas({name: torch.ones(1, 1, 3, 2, 2) for name in "abc"})
    assert (canvas[..., 2:, 2:] == -1).all() and (canvas[..., :2, :] == 1).all()
