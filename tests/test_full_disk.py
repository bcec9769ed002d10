"""No room: the error names what was not written and what is safe, and the command works later.

A limit on the size of files imitates a full disk: the operating system refuses further writes,
also those of libraries.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wamkit import load_part
from wamkit.checkpoints import safetensors as weights
from wamkit.cli import app
from wamkit.config.spec import parse, read
from wamkit.data import Feature, Writer
from wamkit.files.durable import NotWrittenError
from wamkit.testing.training import recordings

resource = pytest.importorskip("resource")
SPEC = Path(__file__).parent / "data" / "small.toml"
SMALL = 200  # bytes that a file may have


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def wamkit(*args: object) -> tuple[int, str]:
    """Exit code and what is printed on stderr."""
    message, out = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(message), contextlib.redirect_stdout(out):
        try:
            app([str(word) for word in args], prog_name="wamkit")
        except SystemExit as end:
            return int(end.code or 0), message.getvalue()
    return 0, message.getvalue()


def files(home: Path) -> dict[str, bytes | None]:
    """Everything below a folder, with its content."""
    return {
        str(path.relative_to(home)): None if path.is_dir() else path.read_bytes()
        for path in sorted(home.rglob("*"))
    }


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, prompts, an image and weights."""
    from PIL import Image

    home = tmp_path_factory.mktemp("given")
    recordings(home / "data", parse(read(SPEC)))
    (home / "few.txt").write_text("pick up the cup")
    (home / "prompts.txt").write_text("pick up the cup\npour the milk")
    Image.new("RGB", (16, 16)).save(home / "image.png")
    weights.save(
        load_part("backbone", {"name": "wan", "variant": "tiny"}), home / "wan.safetensors"
    )
    return home


Words = Callable[[Path], tuple[object, ...]]
OVER: dict[str, tuple[Words, Words, str]] = {
    "build": (
        lambda given: ("build", SPEC),
        lambda given: ("build", SPEC, "--set", "seed=1"),
        "policy",
    ),
    "prune": (
        lambda given: ("prune", SPEC, "--layers", 1, "--num-heads", 1),
        lambda given: ("prune", SPEC, "--layers", 1, "--num-heads", 2),
        "student",
    ),
    "precompute text": (
        lambda given: ("precompute", "text", SPEC, "--prompts", given / "few.txt"),
        lambda given: ("precompute", "text", SPEC, "--prompts", given / "prompts.txt"),
        "text.safetensors",
    ),
    "imagine": (
        lambda given: ("imagine", SPEC, "--image", given / "image.png", "--prompt", "a"),
        lambda given: ("imagine", SPEC, "--image", given / "image.png", "--prompt", "b"),
        "future.gif",
    ),
    "schema": (lambda given: ("schema",), lambda given: ("schema",), "schema.json"),
    "matrix": (
        lambda given: ("matrix", "--backbone", "toy", "--paradigm", "single_pass"),
        lambda given: ("matrix", "--backbone", "toy", "--paradigm", "joint"),
        "matrix.md",
    ),
    "data stats": (
        lambda given: ("data", "stats", given / "data"),
        lambda given: ("data", "stats", given / "data"),
        "stats.json",
    ),
    "data show": (
        lambda given: ("data", "show", given / "data"),
        lambda given: ("data", "show", given / "data"),
        "strip.png",
    ),
    "weights convert": (
        lambda given: ("weights", "convert", given / "wan.safetensors", *WAN),
        lambda given: ("weights", "convert", given / "wan.safetensors", *WAN),
        "backbone.safetensors",
    ),
    "compare": (lambda given: ("compare", SPEC), lambda given: ("compare", SPEC), "sizes.svg"),
}
WAN = ("--part", "backbone:wan", "--set", "variant=tiny")


@pytest.mark.parametrize("verb", OVER)
@pytest.mark.parametrize("size", [0, SMALL, 3000])
@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_is_reported_with_the_place_and_what_is_safe(
    verb: str, size: int, there: bool, given: Path, tmp_path: Path
) -> None:
    first, then, name = OVER[verb]
    option = "--plot" if verb == "compare" else "--out"
    out = tmp_path / "home" / name
    out.parent.mkdir()
    if there:
        assert wamkit(*first(given), option, out)[0] == 0
    before, args = files(out.parent), (*then(given), option, out)
    with room(size):
        code, err = wamkit(*args)
    if code == 0:
        assert size == 3000, "it was to be refused"
        return
    assert code == 2 and f"error: {out} cannot be written: " in err and "File too large" in err
    assert (f"{out} is as it was before" if there else "nothing was left behind") in err
    assert files(out.parent) == before
    code, err = wamkit(*args)
    assert code == 0, err
    assert files(out.parent).keys() >= {name} and not hidden(out.parent)


def hidden(home: Path) -> list[str]:
    """Names that no user gave."""
    return [name for name in files(home) if "/." in f"/{name}"]


@pytest.mark.parametrize("size", [0, SMALL])
def test_a_project_that_found_no_room_is_written_later(size: int, tmp_path: Path) -> None:
    for out in (tmp_path / "mine", tmp_path / "empty"):
        if out.name == "empty":
            out.mkdir()
        with room(size):
            code, err = wamkit("new", "backbone", "mine", "--out", out)
        assert code == 2 and "cannot be written: " in err and str(out) in err
        code, err = wamkit("new", "backbone", "mine", "--out", out)
        assert code == 0 and not hidden(out.parent), err


@pytest.mark.parametrize("size", [0, SMALL])
def test_latents_go_on_where_there_was_no_room(size: int, given: Path, tmp_path: Path) -> None:
    args = ("precompute", "latents", SPEC, "--data", given / "data", "--out", tmp_path / "z")
    with room(size):
        code, err = wamkit(*args)
    assert code == 2 and str(tmp_path / "z") in err and "cannot be written: " in err
    assert wamkit(*args)[0] == 0 and not hidden(tmp_path)


def episode(folder: Path, kind: str, number: int) -> None:
    """Add an episode to a data set."""
    import numpy as np

    features = {"observation.images.front": Feature(kind, (32, 32, 3))}
    features["action"] = Feature("float32", (2,))
    with Writer(folder, 10, features, codec="h264") as writer:
        rng = np.random.default_rng(number)
        for _ in range(12):
            image = rng.integers(0, 256, (32, 32, 3), np.uint8)
            frame: dict[str, Any] = {"observation.images.front": image}
            writer.add_frame(frame | {"action": np.zeros(2, np.float32)})
        writer.add_episode("wave")


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("size", [0, SMALL, 2000, 9000])
def test_a_data_set_that_found_no_room_is_as_it_was(kind: str, size: int, tmp_path: Path) -> None:
    folder = tmp_path / "demos"
    with room(size), pytest.raises(NotWrittenError) as caught:
        episode(folder, kind, 0)
    assert str(folder) in caught.value.what and "nothing was left behind" in caught.value.hint
    assert files(tmp_path) == {}
    episode(folder, kind, 0)
    before = files(tmp_path)
    with room(size), pytest.raises(NotWrittenError) as caught:
        episode(folder, kind, 1)
    assert f"{folder} is as it was before" in caught.value.hint
    assert files(tmp_path) == before
    episode(folder, kind, 1)
    assert not hidden(tmp_path)


@pytest.mark.parametrize("size", [0, SMALL, 3000])
@pytest.mark.parametrize("film", ["mp4", "gif"])
def test_a_record_that_found_no_room_is_made_later(film: str, size: int, tmp_path: Path) -> None:
    pytest.importorskip("gym_pusht")
    args = ("eval", "random", "--env", "pusht", "--episodes", 1, "--env-arg", "max_steps=3")
    args += ("--processes", 0, "--video-format", film, "--record", tmp_path / "record")
    with room(size):
        code, err = wamkit(*args)
    assert code == 2 and f"{tmp_path / 'record'} cannot be written: " in err
    assert files(tmp_path) == {}
    assert wamkit(*args)[0] == 0 and not hidden(tmp_path)
