"""Released systems on LIBERO: with the conventions that their specs name, they fit and see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from wamkit_libero import Libero
from wamkit_libero.coding import make_robot, turn_image
from wamkit_libero.conventions import CONVENTIONS

from wamkit.config.spec import parse, read
from wamkit.errors import SpecError
from wamkit.policy.cameras import CameraLayout
from wamkit.simulate.compatibility import conflicts
from wamkit.simulate.environment import choose

EXAMPLES = Path(__file__).parents[4] / "examples"
NAMED = {
    file.stem: found
    for file in sorted(EXAMPLES.glob("*.toml"))
    if (found := read(file).get("conventions"))
}
BRIGHTEST = {"fastwam": 1, "ge_act": 1, "cosmos_policy": 0, "lingbot_va": 0}
"""Conventions -> the quarter of the view, row by row, in which a network sees what is above on the
left: some were trained on images rotated by 180 degrees, left and right exchanged."""


@pytest.mark.parametrize("name", NAMED)
def test_a_system_fits_the_robot_of_its_conventions_and_sees_as_in_training(name: str) -> None:
    spec = parse(read(EXAMPLES / f"{name}.toml"))
    convention = CONVENTIONS[spec.conventions]
    robot = make_robot(convention, (convention.size, convention.size))
    assert not list(conflicts(spec, robot, {}, 1))
    upright = np.zeros((256, 256, 3), np.uint8)
    upright[:128, :128] = 255  # bright above on the left
    seen = {
        view.name: torch.from_numpy(turn_image(convention, upright)).permute(2, 0, 1)[None, None]
        for view in spec.cameras.views
    }
    canvas = CameraLayout(spec.cameras).canvas(seen)
    height, width = spec.cameras.views[0].size
    view = canvas[0, 0, 0, :height, :width]
    quarters = [float(part.float().mean()) for row in view.chunk(2, 0) for part in row.chunk(2, 1)]
    assert int(np.argmax(quarters)) == BRIGHTEST[spec.conventions]


def test_a_policy_brings_its_conventions_unless_others_are_typed() -> None:
    assert choose("libero:libero_goal/8", [], "fastwam").conventions == "fastwam"  # type: ignore[attr-defined]
    typed = choose("libero:libero_goal/8", ["conventions=openvla"], "fastwam")
    assert typed == Libero(task="libero_goal/8", conventions="openvla")
    assert choose("pusht", [], "fastwam") == choose("pusht")
    with pytest.raises(SpecError, match="conventions"):
        choose("libero:libero_goal/8", [], "of_mars")
