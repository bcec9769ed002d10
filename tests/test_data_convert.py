"""Demonstrations in LIBERO's HDF5 layout become a data set, as the conventions have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wamkit_libero import Libero

from wamkit.data import LeRobotFolder
from wamkit.data.reader import ColumnStore, FrameReader
from wamkit.errors import WamkitError
from wamkit.simulate.convert import convert
from wamkit.testing.parity import same_values

h5py = pytest.importorskip("h5py")
pytest.importorskip("pyarrow")

NAME = "pick_up_the_milk_and_place_it_in_the_basket"
Change = Callable[[Any], None]


def write_demonstrations(
    file: Path, count: int = 2, steps: int = 5, size: int = 8, change: Change = lambda _: None
) -> Path:
    """Write a file as LIBERO has them, with random values; `change` may damage it."""
    rng = np.random.default_rng(0)
    with h5py.File(file, "w") as made:
        data = made.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": "wave"})
        for number in range(count):
            demo = data.create_group(f"demo_{number}")
            gripper = np.where(np.arange(steps) < 2, -1.0, 1.0)  # open, then closed
            demo["actions"] = np.column_stack([rng.uniform(-1, 1, (steps, 6)), gripper])
            demo["robot_states"] = rng.normal(size=(steps, 9))
            demo["states"] = rng.normal(size=(steps, 30))
            demo["rewards"] = demo["dones"] = np.eye(steps, dtype=np.uint8)[-1]
            seen = demo.create_group("obs")
            for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                shape = (steps, size, size, 3)
                seen[camera] = rng.integers(0, 256, shape, dtype=np.uint8)
            for name, width in (("ee_states", 6), ("gripper_states", 2), ("joint_states", 7)):
                seen[name] = rng.normal(size=(steps, width))
        change(data)
    return file


@pytest.mark.parametrize("conventions", ["openpi", "fastwam", "cosmos_policy", "libero"])
def test_actions_images_and_states_are_as_the_conventions_have_them(
    conventions: Any, tmp_path: Path
) -> None:
    file = write_demonstrations(tmp_path / f"{NAME}_demo.hdf5", count=11)
    config = Libero(conventions=conventions)
    done = convert(config, [file], tmp_path / "set", "image")
    assert (done.episodes, done.frames) == (11, 55)
    assert done.instructions == ("pick up the milk and place it in the basket",)
    folder = LeRobotFolder(tmp_path / "set")
    assert folder.fps == 20 and folder.info["robot_type"] == "panda"
    with h5py.File(file) as made:
        last = made["data/demo_10"]  # behind demo_9, not behind demo_1
        values = ColumnStore(
            folder, folder.episodes, ["action", "observation.state", "next.success"]
        )
        actions = values.episode_values(10, "action")
        same_values(actions[:, :6], np.asarray(last["actions"][:, :6]).tolist(), 1e-5)
        open_gripper = 1.0 if conventions == "fastwam" else -1.0
        closed = 0.0 if conventions == "fastwam" else 1.0
        assert actions[:, 6].tolist() == [open_gripper] * 2 + [closed] * 3
        camera = f"observation.images.{config.convention.cameras[0]}"
        image = FrameReader(folder, 1e-4).read(folder.episodes[10], camera, [3])[0]
        stored = last["obs/agentview_rgb"][3]
        turned = {"openpi": stored[::-1, ::-1], "fastwam": stored[::-1, ::-1]}
        turned |= {"cosmos_policy": stored, "libero": stored}
        assert np.array_equal(image, turned[conventions])
        state = values.episode_values(10, "observation.state")
        parts = {"cosmos_policy": [last["robot_states"][:]]}
        parts["libero"] = [last["obs/gripper_states"][:], last["obs/joint_states"][:]]
        pose = [last["obs/ee_states"][:], last["obs/gripper_states"][:]]
        expected = np.concatenate(parts.get(conventions, pose), 1)
        same_values(state, expected.tolist(), 1e-5)
        solved = values.episode_values(10, "next.success").ravel()
    assert solved.tolist() == [False] * 4 + [True]


def test_it_is_typed_and_checked(wamkit: Any, tmp_path: Path) -> None:
    files = [
        write_demonstrations(tmp_path / f"{NAME}_demo.hdf5"),
        write_demonstrations(tmp_path / "own_demo.hdf5"),
    ]
    out = tmp_path / "set"
    args = ("--image-format", "image", "--env-arg", "conventions=lerobot")
    code, message, _ = wamkit("data", "convert", "libero", *files, "--out", out, *args, "--json")
    report = json.loads(message)
    assert code == 0 and (report["episodes"], report["frames"]) == (4, 20)
    assert report["tasks"] == ["pick up the milk and place it in the basket", "wave"]
    assert set(LeRobotFolder(out).cameras) == {
        "observation.images.image",
        "observation.images.image2",
    }
    code, message, _ = wamkit("data", "check", out)
    assert (code, message) == (0, f"{out} is whole.\n")


def _remove(key: str) -> Change:
    return lambda data: data.__delitem__(key)


def _put(key: str, compute: Callable[[Any], Any]) -> Change:
    """Replace a data set by what `compute` makes of its values."""

    def change(data: Any) -> None:
        values = data[key][:]
        del data[key]
        data[key] = compute(values)

    return change


def _with(value: float) -> Callable[[Any], Any]:
    return lambda values: np.where(np.arange(values.size).reshape(values.shape) == 3, value, values)


def _replace(group: Any, name: str) -> None:
    """Put a data set where there was a group."""
    del group[name]
    group[name] = np.zeros(3)


def _group(group: Any, name: str) -> None:
    """Put a group where there was a data set."""
    del group[name]
    group.create_group(name)


def _link(group: Any, name: str) -> None:
    """Put a link to nothing where there was a group."""
    del group[name]
    group[name] = h5py.SoftLink("/nowhere")


def _cut_short(data: Any) -> None:
    """Store actions whose compressed bytes are none."""
    del data["demo_1/actions"]
    made = data["demo_1"].create_dataset(
        "actions", (5, 7), "float64", chunks=(5, 7), compression="gzip"
    )
    made.id.write_direct_chunk((0, 0), b"nothing")


FRONT = "demo_1/obs/agentview_rgb"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove("demo_1/obs/eye_in_hand_rgb"), "demo_1: no obs/eye_in_hand_rgb"),
        (_remove("demo_0/obs"), "demo_0: no obs/agentview_rgb"),
        (_put("demo_1/actions", lambda old: old[:3]), r"\[3, 7\], states \[5, 8\], images 5, 5"),
        (_put("demo_1/actions", _with(np.nan)), "demo_1: actions hold values that are not finite"),
        (_put("demo_1/obs/ee_states", _with(1e300)), "ee_states hold values that are not finite"),
        (_put("demo_1/actions", lambda old: old.astype("S9")), r"actions are \|S9, expected numb"),
        (_put("demo_1/actions", lambda old: old + 1j), "actions are complex128, expected numbers"),
        (_put("demo_1/actions", lambda old: old[:, :6]), r"are \[5, 6\], expected \[T, 7\]"),
        (_put("demo_1/obs/ee_states", lambda old: old[:, :3]), r"\[5, 3\], expected \[T, 6\]"),
        (
            _put(FRONT, lambda old: (old / 255).astype(np.float32)),
            r"demo_1: obs/agentview_rgb are float32, expected uint8\n.*\(255 \* images\)",
        ),
        (_put(FRONT, lambda old: old.astype(np.int64)), "agentview_rgb are int64, expected uint8"),
        (_put(FRONT, lambda old: old > 127), "agentview_rgb are bool, expected uint8"),
        (
            _put(FRONT, lambda old: np.moveaxis(old, -1, 1)),
            r"\[5, 3, 8, 8\], expected \[T, height, width, 3\]\n.*np.moveaxis\(images, 1, -1\)",
        ),
        (_put(FRONT, lambda old: np.repeat(old, 2, -1)[..., :4]), r"images\[..., :3\]"),
        (_put(FRONT, lambda old: old[:, 0]), r"\[5, 8, 3\], expected \[T, height, width, 3\]"),
        (_put(FRONT, lambda old: old[:, :6]), "the first images of the file are of 8 x 8"),
        (_put(f"demo_0/{FRONT[7:]}", lambda old: old / 255), "demo_0: .* are float64, expected"),
        (lambda data: [data.pop(name) for name in list(data)], "has no data/demo_0"),
        (lambda data: _replace(data.parent, "data"), "has no group data"),
        (lambda data: data.parent.pop("data"), "has no group data"),
        (lambda data: _replace(data, "demo_0"), "data/demo_0: not a group with actions and obs"),
        (lambda data: _link(data, "demo_1"), "data/demo_1: not a group with actions and obs"),
        (lambda data: _replace(data, "demo_1/obs"), "data/demo_1: no obs/agentview_rgb"),
        (lambda data: _group(data, "demo_1/actions"), "data/demo_1: no actions"),
        (lambda data: _group(data, "demo_1/rewards"), "data/demo_1: no rewards"),
        (_put("demo_1/actions", lambda _: 1.0), "data/demo_1: no actions"),
        (_put("demo_1/actions", lambda _: h5py.Empty("f")), "data/demo_1: no actions"),
        (
            _put("demo_1/rewards", lambda old: old[:4]),
            r"rewards are \[4\], and there are 5 actions",
        ),
        (_put("demo_1/dones", lambda old: np.append(old, 1)), r"dones are \[6\], and there are 5"),
        (_put("demo_1/rewards", lambda old: old[:, None]), r"\[5, 1\], expected \[T\]"),
        (_put("demo_1/rewards", lambda old: old * 0.3), "rewards hold 0.3, expected 1 where"),
        (_cut_short, "actions cannot be read"),
    ],
)
def test_a_damaged_file_leaves_no_data_set(change: Change, message: str, tmp_path: Path) -> None:
    good = write_demonstrations(tmp_path / "good_demo.hdf5")
    file = write_demonstrations(tmp_path / f"{NAME}_demo.hdf5", change=change)
    with pytest.raises(WamkitError, match=message):
        convert(Libero(), [good, file], tmp_path / "set", "image")
    assert not (tmp_path / "set").exists()


def _named(text: Any) -> Change:
    """Store an instruction as LIBERO's files do."""

    def change(data: Any) -> None:
        data.attrs["problem_info"] = json.dumps({"language_instruction": text})

    return change


@pytest.mark.parametrize("text", ["pick up the x", '"pick up the x"', ["pick up the x"], [*"a b"]])
def test_an_instruction_is_read_as_libero_reads_it(text: Any, tmp_path: Path) -> None:
    file = write_demonstrations(tmp_path / "own_demo.hdf5", 1, change=_named(text))
    done = convert(Libero(), [file], tmp_path / "set", "image")
    assert done.instructions == ("".join(text).strip('"'),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_named(["pick", "up"]), r"\['pick', 'up'\], words without spaces"),
        (
            _named([1, 2]),
            r"language_instruction of data.problem_info is \[1, 2\], expected text",
        ),
        (_named({"en": "wave"}), r"is \{'en': 'wave'\}, expected text"),
        (_named(None), "is None, expected text"),
        (_named([]), "is an empty instruction"),
        (_named('" "'), "is an empty instruction"),
        (_named("None"), "is 'None', a null that was written as text"),
        (lambda data: data.attrs.pop("problem_info"), "neither its name nor data.problem_info"),
        (lambda data: data.attrs.create("problem_info", [1, 2]), "neither its name nor"),
        (lambda data: data.attrs.create("problem_info", "[" * 10_000), "neither its name nor"),
    ],
)
def test_a_file_without_an_instruction_is_refused_by_name(
    change: Change, message: str, tmp_path: Path
) -> None:
    file = write_demonstrations(tmp_path / "own_demo.hdf5", 1, 2, change=change)
    with pytest.raises(WamkitError, match=rf"own_demo.hdf5.*{message}[^\0]*instruction="):
        convert(Libero(), [file], tmp_path / "set", "image")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("libero", "none.hdf5", "--out", "OUT"), "there is no such file"),
        (("libero", "TEXT", "--out", "OUT"), "cannot be read as HDF5"),
        (("libero", "--out", "OUT"), "no file to convert"),
        (("libero", "GOOD"), "no folder to write to"),
        (("libero", "GOOD", "--out", "FULL"), "is there already"),
        (("libero", "GOOD", "LARGE", "--out", "OUT"), "not of the same robot and image size"),
        (("liberro", "GOOD", "--out", "OUT"), "liberro"),
        (("pusht", "GOOD", "--out", "OUT"), "has no format of demonstrations"),
        (("libero", "GOOD", "--out", "OUT", "--spec", "x.toml"), "--spec has no meaning"),
    ],
)
def test_mistakes_are_answered(
    wamkit: Any, args: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    paths = {
        "GOOD": write_demonstrations(tmp_path / "good_demo.hdf5", 1, 2),
        "LARGE": write_demonstrations(tmp_path / "large_demo.hdf5", 1, 2, size=16),
        "TEXT": tmp_path / "text",
        "OUT": tmp_path / "set",
        "FULL": tmp_path,
    }
    paths["TEXT"].write_text("hello")
    code, _, err = wamkit("data", "convert", *[paths.get(word, word) for word in args])
    assert code == 2 and message in " ".join(err.split())
    assert not paths["OUT"].exists()
