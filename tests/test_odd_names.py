"""Names that look like something else, and text that no encoding can write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wamkit import Observation
from wamkit.config.check import check
from wamkit.data import LeRobotFolder
from wamkit.errors import WamkitError
from wamkit.policy.build import resolve
from wamkit.testing.dataset import record

EXAMPLES = Path(__file__).parent.parent / "examples"
TOY, PHOTO = EXAMPLES / "toy.toml", EXAMPLES / "images/coffee.jpg"
NAMES = [
    "press:v2",
    "file:press",
    "my cups",
    "tasse à café ☕",
    "two\nlines",
    "http:",
    "a#b",
    "50%d",
]

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("image_format", ["video", "image"])
def test_a_data_set_in_a_folder_of_any_name_is_read(
    image_format: str, wamkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tmp_path / "made"
    record(made, resolve(TOY), episodes=2, frames=12, image_format=image_format, size=(48, 64))
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        shutil.copytree(made, name)
        code, out, err = wamkit("data", "check", name)
        assert code == 0, (name, out, err)
    code, _, err = wamkit("data", "show", "press:v2", "--out", "strip:v1.png")
    assert code == 0 and Path("strip:v1.png").is_file(), err


def test_data_sets_policies_and_films_are_written_under_any_name(
    wamkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    record(
        Path("cups:v2"), resolve(TOY), episodes=2, frames=12, image_format="video", size=(48, 64)
    )
    assert len(LeRobotFolder("cups:v2").episodes) == 2
    for name in ("toy:v2", "two\nlines", "mon modèle"):
        assert wamkit("build", TOY, "--out", name)[0] == 0
        look = ("--image", PHOTO, "--prompt", "pick up the cup")
        code, _, err = wamkit("act", name, *look)
        assert code == 0, (name, err)
    code, _, err = wamkit("imagine", "toy:v2", *look, "--out", "future:v2.gif")
    assert code == 0 and Path("future:v2.gif").is_file(), err
    code, _, err = wamkit(
        "train", TOY, "--data", "cups:v2", "--out", "run:v2", "--steps", 1, "--batch", 2
    )
    assert code == 0 and Path("run:v2/checkpoints").is_dir(), err


@pytest.mark.parametrize("prompt", ["pick \udcff\udcfe up", "gr\udcfc\udcdfe", "\ud83d cup"])
def test_an_instruction_with_half_characters_is_refused(prompt: str, wamkit: Run) -> None:
    code, out, err = wamkit("act", TOY, "--image", PHOTO, "--prompt", prompt)
    assert (code, out) == (2, "") and "instruction holds characters that are not UTF-8" in err
    with pytest.raises(WamkitError, match="instruction holds characters"):
        Observation({"front": str(PHOTO)}, ["fine", prompt])


def test_files_of_instructions_are_utf_8(wamkit: Run, tmp_path: Path) -> None:
    prompts, out = tmp_path / "prompts.txt", tmp_path / "text.safetensors"
    prompts.write_bytes("\ufeffgrüße\r\npick up\r\n".encode())
    code, _, err = wamkit("precompute", "text", TOY, "--prompts", prompts, "--out", out)
    assert code == 0, err
    from wamkit.policy.precomputed_text import StoredEncoder

    stored = StoredEncoder(out, resolve(TOY).text_encoder)
    assert set(stored.texts) == {"grüße", "pick up"}
    prompts.write_bytes(b"pick up\ngr\xfc\xdfe\n")
    code, _, err = wamkit("precompute", "text", TOY, "--prompts", prompts, "--out", out)
    assert code == 2 and "line 2 holds the byte 0xfc" in err


def test_specs_cannot_hold_half_characters(tmp_path: Path) -> None:
    raw = {"text_encoder": {"name": "bytes", "negative_prompt": "bl\udcfcr"}}
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(raw))
    with pytest.raises(WamkitError, match=r"text_encoder.negative_prompt holds characters"):
        check(file)


@pytest.mark.parametrize(
    "args",
    [
        ("act", TOY, "--image", "~nobodyhere/x.png", "--prompt", "x"),
        ("data", "check", "~nobodyhere/x"),
        ("data", "show", "~nobodyhere/x", "--out", "x.png"),
        ("weights", "inspect", "~nobodyhere/x.safetensors"),
        ("check", TOY, "--set", "backbone.weights=~nobodyhere/x"),
        ("train", TOY, "--data", "~nobodyhere/x", "--out", "x"),
        ("eval", "~nobodyhere/x", "--env", "pusht"),
        ("serve", "~nobodyhere/x"),
        ("bench", TOY, "--baseline", "~nobodyhere/x.json"),
        ("compare", TOY, "~nobodyhere/x.toml"),
        ("estimate", TOY, "--config", "~nobodyhere/x.toml"),
        ("precompute", "text", TOY, "--prompts", "~nobodyhere/x", "--out", "x"),
    ],
    ids=lambda args: " ".join(map(str, args[:2])),
)
def test_the_home_of_nobody_is_a_path_like_any_other(
    args: tuple[object, ...], wamkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = wamkit(*args)
    assert code in (1, 2) and "nobodyhere" in out + err and "a bug" not in err
