"""Model cards: hubs can read them, their command runs, and they say what becomes of images."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import released
import yaml
from PIL import Image
from small_specs import small_spec

import wamkit as package
from wamkit.config.cameras import View
from wamkit.policy.card_parts import card_header, describe_view
from wamkit.policy.importing import plan_import

Run = Callable[..., tuple[int, str, str]]


def _header(text: str) -> dict[str, Any]:
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


@pytest.mark.parametrize(
    ("license", "known", "name"),
    [
        ("MIT", "mit", None),
        ("apache-2.0", "apache-2.0", None),
        ("not stated; code MIT", "other", "not stated; code MIT"),
        ("MIT; FLUX.2 klein 4B: Apache-2.0", "other", "MIT; FLUX.2 klein 4B: Apache-2.0"),
        ("# no\n[license", "other", "# no\n[license"),
    ],
)
def test_the_header_is_yaml_with_a_license_that_hubs_know(
    license: str, known: str, name: str | None
) -> None:
    found = _header(card_header(license))
    assert found["license"] == known and found.get("license_name") == name
    assert found["library_name"] == "wamkit" and "robotics" in found["tags"]


def _run_command(card: str, folder: Path, wamkit: Run, images: Path) -> tuple[int, str, str]:
    line = next(x for x in card.splitlines() if x.strip().startswith("wamkit act FOLDER"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(images)
    args = shlex.split(line.replace("=FILE", f"={images}").replace("FOLDER", str(folder)))
    return wamkit(*args[1:])


def test_the_command_of_a_saved_policy_runs_as_it_is_written(wamkit: Run, tmp_path: Path) -> None:
    views = [{"name": name, "size": [32, 32]} for name in ("left", "right")]
    spec = small_spec(cameras={"views": views}, state={"size": 3, "normalization": "none"})
    folder = package.build(spec).save(tmp_path / "policy")
    card = (folder / "README.md").read_text()
    assert _header(card)
    code, out, err = _run_command(card, folder, wamkit, tmp_path / "black.png")
    assert code == 0, out + err


def test_the_command_of_an_imported_policy_runs_as_it_is_written(
    wamkit: Run, tmp_path: Path
) -> None:
    plan = plan_import(released.fastwam(tmp_path / "released"), None, released.SIZES)
    folder = plan.write(tmp_path / "policy", random_parts=True)
    card = (folder / "README.md").read_text()
    header = _header(card)
    assert header["license"] == "other" and header["license_name"] == "not stated; code MIT"
    code, out, err = _run_command(card, folder, wamkit, tmp_path / "black.png")
    assert code == 0, out + err


def test_a_view_is_described_with_every_setting_that_is_not_usual() -> None:
    assert describe_view(View(name="front", size=(224, 320))) == "front 224x320"
    view = View(
        name="wrist",
        size=(224, 224),
        flip="vertical",
        recorded_size=(256, 256),
        jpeg=95,
        filter="bicubic",
        center_crop=0.9,
        rounding="uint8",
    )
    assert describe_view(view) == (
        "wrist 224x224, flip vertical, recorded_size 256x256, jpeg 95, filter bicubic, "
        "center_crop 0.9, rounding uint8"
    )
