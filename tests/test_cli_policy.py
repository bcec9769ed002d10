"""The verbs that build: build, act and imagine, as a user types them and mistypes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from specs import TOY as LARGER

from wamkit.cli.imagine import OBSERVED
from wamkit.policy.actions import Statistics

STEPS = """
[schedules.video]
steps = 2
[schedules.action]
steps = 2
"""
TOY = LARGER.replace("depth = 2", "depth = 1").replace("chunk_size = 8", "chunk_size = 4") + STEPS
TWO_CAMERAS = TOY.replace(
    '[{name = "front", size = [32, 32]}]',
    '[{name = "front", size = [32, 32]}, {name = "wrist", size = [32, 32]}]',
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    file = tmp_path / "toy.toml"
    file.write_text(TOY)
    return file


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    Image.new("RGB", (48, 40), (200, 30, 30)).save(file)
    return file


def test_act_prints_a_row_for_each_step_and_states_what_is_random(
    wamkit: Run, toy: Path, photo: Path
) -> None:
    code, out, err = wamkit(
        "act", toy, "--image", photo, "--state", "0.5,-1", "--prompt", "pick up the cup"
    )
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["seconds", "arm.0", "arm.1", "arm.2", "gripper"]
    assert [line.split()[0] for line in lines[2:6]] == ["0.00", "0.10", "0.20", "0.30"]
    assert lines[6].startswith("1 x 4 x 4 at 10 Hz, seed 0; ")
    assert "note: random weights: backbone, text_encoder, action_head" in err
    assert "note: no statistics yet: actions are in normalized units" in err


def test_the_same_seed_gives_the_same_actions(wamkit: Run, toy: Path, photo: Path) -> None:
    def act(seed: int) -> Any:
        args = ["--image", f"front={photo}", "--state", "0 1", "--prompt", "go", "--seed", seed]
        code, out, _ = wamkit("act", toy, *args, "--json")
        assert code == 0
        return json.loads(out)

    first, again, other = act(3), act(3), act(4)
    assert first == again and first["actions"] != other["actions"]
    assert first["shape"] == [1, 4, 4] and first["normalized"] is True
    assert first["names"] == ["arm.0", "arm.1", "arm.2", "gripper"]
    assert (first["control_hz"], first["seed"]) == (10.0, 3)


def test_at_toy_size_what_is_left_out_is_filled_in_and_reported(
    wamkit: Run, toy: Path, photo: Path
) -> None:
    toy.write_text(TWO_CAMERAS)
    code, _, err = wamkit("act", toy, "--tiny", "--image", photo, "--prompt", "go")
    assert code == 0
    assert "note: the same image for every camera: front, wrist" in err
    assert "note: no --state: 2 zeros" in err
    assert "note: tiny backbone: toy, tiny" in err and "cameras: canvas" not in err


def test_several_moments_are_given_by_repeating_the_camera(
    wamkit: Run, toy: Path, photo: Path
) -> None:
    common = ["--state", "0,0", "--prompt", "go", "--set", "video.num_observed=5"]
    one = ["--image", f"front={photo}"]
    assert wamkit("act", toy, *one * 5, *common)[0] == 0
    code, _, err = wamkit("act", toy, *one, *common)
    assert code == 2 and "camera 'front' is given 1 images; this policy observes 5" in err
    code, _, err = wamkit("act", toy, *one, *common, "--tiny")
    assert code == 0 and "note: the same image 5 times: front" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--image", "nowhere.png"], "no image at nowhere.png"),
        (["--image", "{text}"], "is not an image"),
        (["--image", "{half}"], "is a damaged image"),
        (["--image", "top={photo}"], "unknown camera 'top'; this policy has front"),
        (["--image", "{photo}", "--state", "1,2,3"], "the state has 3 values"),
        (["--image", "{photo}", "--state", "1,x"], "is no list of numbers"),
        (["--image", "{photo}", "--state", "nan,0"], "not finite"),
        (["--image", "{photo}", "--prompt", "  "], "the instruction is empty"),
        (["--image", "{photo}", "--device", "toaster"], "there is no device 'toaster'"),
        (["--image", "{photo}", "--set", "backbone.depth=0"], "1. backbone.depth: "),
        (["--image", "front={photo}", "--image", "{photo}"], "which camera sees"),
    ],
)
def test_bad_input_is_refused_with_a_message(
    wamkit: Run, toy: Path, photo: Path, args: list[str], message: str
) -> None:
    text, half = photo.with_name("notes.txt"), photo.with_name("half.png")
    text.write_text("not an image")
    Image.effect_noise((64, 64), 50).save(half)
    half.write_bytes(half.read_bytes()[:900])
    args = [word.format(text=text, half=half, photo=photo) for word in args]
    given = {"--state": "0,0", "--prompt": "go"}
    rest = [x for pair in given.items() if pair[0] not in args for x in pair]
    code, out, err = wamkit("act", toy, *args, *rest)
    assert (code, out) == (2, "")
    assert message in err and "error: " in err and "hint: " in err


def test_a_missing_state_is_asked_for(wamkit: Run, toy: Path, photo: Path) -> None:
    code, _, err = wamkit("act", toy, "--image", photo, "--prompt", "go")
    assert code == 2
    assert "error: no state; this policy expects 2 values\nhint: pass them: --state 0,0" in err


def test_a_missing_image_is_asked_for(wamkit: Run, toy: Path) -> None:
    code, _, err = wamkit("act", toy, "--prompt", "go")
    assert code == 2 and "--image" in err


def test_build_writes_a_folder_that_acts_like_the_spec(
    wamkit: Run, toy: Path, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    code, out, err = wamkit("build", toy, "--out", folder, "--json")
    report = json.loads(out)
    assert code == 0 and err == "" and report["folder"] == str(folder)
    assert report["files"]["backbone.safetensors"] > 0 and "spec.yaml" in report["files"]
    args = ["--image", photo, "--state", "0,1", "--prompt", "go", "--json"]
    from_spec = json.loads(wamkit("act", toy, *args)[1])
    from_folder = json.loads(wamkit("act", folder, *args)[1])
    assert from_folder["actions"] == from_spec["actions"]
    assert not any("random" in line for line in from_folder["notes"])
    code, _, err = wamkit("act", folder, *args, "--tiny")
    assert code == 2 and "--tiny is for specs" in err


def test_build_takes_statistics_so_that_actions_have_units(
    wamkit: Run, toy: Path, photo: Path, tmp_path: Path
) -> None:
    file, folder = tmp_path / "statistics.json", tmp_path / "policy"
    rows = dict.fromkeys(Statistics.__dataclass_fields__, [1.0] * 4)
    file.write_text(json.dumps({"action": rows}))
    code, out, err = wamkit("build", toy, "--tiny", "--out", folder, "--statistics", file)
    assert code == 0 and "statistics.json" in out and "note: tiny backbone" in err
    args = ["--image", photo, "--state", "0,1", "--prompt", "go", "--json"]
    assert json.loads(wamkit("act", folder, *args)[1])["normalized"] is False
    file.write_text(json.dumps({"action": {key: [1.0] for key in rows}}))
    code, _, err = wamkit("build", toy, "--out", folder, "--statistics", file)
    assert code == 2 and "statistics of 1 values for actions of 4" in err


def test_build_does_not_touch_a_folder_of_somebody_else(
    wamkit: Run, toy: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    code, _, err = wamkit("build", toy, "--out", tmp_path / "mine")
    assert code == 2 and "is not a saved policy" in err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["diary.txt"]


def test_imagine_writes_an_animation_with_a_border_around_observed_frames(
    wamkit: Run, toy: Path, photo: Path, tmp_path: Path
) -> None:
    out_file = tmp_path / "future.gif"
    args = ["--image", photo, "--state", "0,1", "--prompt", "go"]
    code, out, _ = wamkit("imagine", toy, *args, "--out", out_file)
    assert code == 0 and out.startswith(f"wrote {out_file}: 1 observed and 8 imagined images")
    with Image.open(out_file) as movie:
        corners = []
        for i in range(9):
            movie.seek(i)
            corners.append(movie.convert("RGB").getpixel((0, 0)))
            assert movie.size == (136, 136)  # 32 pixels four times as large, and the border
        assert movie.info["duration"] == 400  # milliseconds: every 4th step at 10 Hz
    assert corners[0] == OBSERVED and corners[1] != OBSERVED
    assert set(corners[1:]) == {corners[1]}


def test_imagine_writes_a_strip(wamkit: Run, toy: Path, photo: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "future.png"
    args = ["--image", photo, "--state", "0,1", "--prompt", "go", "--scale", 2, "--json"]
    code, out, _ = wamkit("imagine", toy, *args, "--out", out_file)
    report = json.loads(out)
    assert code == 0 and (report["images"], report["observed"]) == (9, 1)
    with Image.open(out_file) as strip:
        assert strip.size == (9 * 72, 72)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "future.png",
        "photo.png",
        "toy.toml",
    ]


@pytest.mark.parametrize(
    ("out", "message"),
    [("future.mp4", "ends in '.mp4'"), ("nowhere/future.gif", "there is no folder")],
)
def test_imagine_refuses_before_it_computes(
    wamkit: Run, toy: Path, photo: Path, tmp_path: Path, out: str, message: str
) -> None:
    args = ["--image", photo, "--state", "0,1", "--prompt", "go", "--out", tmp_path / out]
    code, _, err = wamkit("imagine", toy, *args)
    assert code == 2 and message in err and "hint: " in err


def test_a_policy_without_future_imagines_nothing(
    wamkit: Run, toy: Path, photo: Path, tmp_path: Path
) -> None:
    args = ["--image", photo, "--state", "0,1", "--prompt", "go", "--out", tmp_path / "a.gif"]
    code, _, err = wamkit("imagine", toy, *args, "--set", "video.num_frames=1")
    assert code == 2 and "this policy imagines nothing" in err
