"""Every verb that prints a table, at several widths: each number and name of its JSON is whole.

A number stands as JSON has it, with commas, or rounded as one of `ROUNDED` does; a text may be
folded at spaces, so that each of its words has to be there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wamkit.cli import VERBS, verb
from wamkit.cli._folding import brief, cells
from wamkit.cli._output import SCHEMA_VERSION
from wamkit.config.registry import forget, registry
from wamkit.config.spec import parse, read
from wamkit.data import Writer
from wamkit.data.lerobot_format import Feature
from wamkit.testing.dataset import record

Run = Callable[..., tuple[int, str, str]]
At = Callable[..., tuple[Any, list[tuple[int, str]]]]
Drawn = Callable[..., Iterator[tuple[int, str]]]

ROOT = Path(__file__).parent.parent
SMALL = ROOT / "tests" / "data" / "small.toml"
WIDTHS = (40, 60, 80, 120)
CAMERA = "a_camera_with_a_name_of_forty_characters"
JOINTS = ", ".join(f'{{name = "joint_{i}_of_the_left_arm", size = 1}}' for i in range(26))
ROUNDED: tuple[Callable[[float], str], ...] = (
    brief,
    "{:g}".format,
    "{:.1f}".format,
    "{:.2f}".format,
    "{:.4f}".format,
    "{:.6g}".format,
)


def leaves(data: Any, skip: tuple[str, ...] = ()) -> Iterator[Any]:
    """Every value and every key of data from JSON, without those under the keys `skip`."""
    if isinstance(data, dict):
        for key, value in data.items():
            if key not in skip:
                yield from leaves(value, skip)
    elif isinstance(data, list):
        for value in data:
            yield from leaves(value, skip)
    elif data is not None and not isinstance(data, bool):
        yield data


def forms(value: Any) -> set[str]:
    """The ways in which a number may stand in text."""
    if isinstance(value, int):
        return {str(value), f"{value:,}"}
    return {str(value), *(write(value) for write in ROUNDED)}


def tokens_of(text: str) -> set[str]:
    """The words of a text, as they are and without the marks around them."""
    tokens = set(text.split()) | set(re.split(r"[\s,;:(){}=\"'`]+", text))
    return tokens | {word.strip(".") for word in tokens}


def expect_whole(data: Any, text: str, skip: tuple[str, ...] = ()) -> None:
    """Fail unless every number, and every word of every name, is somewhere whole."""
    tokens = tokens_of(text)
    numbers = set(re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]\d+)?", text))
    numbers |= {number.rstrip(",") for number in numbers}
    for value in leaves(data, skip):
        if isinstance(value, str):
            for word in value.split():
                bare = word.strip(".,;:(){}=\"'`")
                assert word in tokens or bare in tokens or word in text, f"{word!r} in\n{text}"
        else:
            assert forms(value) & numbers, f"{value!r} in\n{text}"


@pytest.fixture
def at(wamkit: Run, monkeypatch: pytest.MonkeyPatch) -> At:
    """What a command says as JSON, and its text at each width."""
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*args: Any) -> tuple[Any, list[tuple[int, str]]]:
        report = json.loads(wamkit(*args, "--json")[1])
        assert report.pop("schema_version") == SCHEMA_VERSION
        texts = []
        for columns in WIDTHS:
            monkeypatch.setenv("COLUMNS", str(columns))
            texts.append((columns, wamkit(*args)[1]))
        return report, texts

    return run


@pytest.fixture
def drawn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What a function prints at each width."""

    def run(draw: Callable[..., None], *arguments: Any) -> Iterator[tuple[int, str]]:
        for columns in WIDTHS:
            monkeypatch.setenv("COLUMNS", str(columns))
            draw(*arguments)
            yield columns, capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec with long names, in a folder with a long path."""
    text = SMALL.read_text()
    text = re.sub(r"groups = .*", f"groups = [{JOINTS}]", text)
    text = text.replace('name = "front"', f'name = "{CAMERA}"')
    file = (
        tmp_path_factory.mktemp("a folder whose name has spaces")
        / "a_long_folder"
        / ("a_specification_with_a_long_name.toml")
    )
    file.parent.mkdir()
    file.write_text(text)
    return file


def expect_folded(text: str, columns: int) -> None:
    """Fail if a line that could be folded is longer than the width."""
    for line in text.splitlines():
        longest = max(map(cells, line.split()), default=0)
        assert cells(line) <= columns or longest + 12 > columns / 2, line


KINDS = ["backbone", "vae", "text_encoder", "action_head", "paradigm", "environment"]


@pytest.mark.parametrize("kind", KINDS)
def test_show(at: At, kind: str) -> None:
    for name in registry().names(kind):
        found, texts = at("show", kind, name)
        for columns, text in texts:
            expect_whole(found, text, skip=("missing", "summary"))
            assert set(found.get("tasks", ())) <= tokens_of(text)
            expect_folded(text, columns)


def test_list(at: At) -> None:
    found, texts = at("list")
    for columns, text in texts:
        expect_whole(found, text, skip=("reason",))
        expect_folded(text, columns)
        assert columns < 80 or len(text.splitlines()) < 2.5 * len(found["parts"])


def test_explain(at: At, wide: Path) -> None:
    found, texts = at("explain", wide)
    for columns, text in texts:
        expect_whole(found, text, skip=("spec", "tiny"))
        expect_folded(text, columns)
        assert CAMERA in text


def test_explain_of_many_roles(at: At) -> None:
    args = ["--set", "paradigm.name=autoregressive", "--set", "state.size=3"]
    found, texts = at("explain", SMALL, *args)
    for columns, text in texts:
        expect_whole(found, text, skip=("spec", "tiny"))
        expect_folded(text, columns)
        assert set(found["roles"]) <= set(text.replace(",", " ").split())


def test_check_and_its_conflicts(at: At, wide: Path) -> None:
    found, texts = at("check", wide, "--set", "backbone.latent_channels=1234567890123")
    for _, text in texts:
        expect_whole(found, text, skip=("spec",))
        assert str(wide) in text


def test_matrix(at: At) -> None:
    chosen = ["--backbone", "toy", "--action-head", "mot", "--action-head", "reader"]
    found, texts = at("matrix", *chosen)
    for columns, text in texts:
        expect_whole(found, text, skip=("refused", "between"))
        expect_folded(text, columns)


def test_compare(at: At, wide: Path) -> None:
    found, texts = at("compare", SMALL, wide, "--no-measure")
    for _, text in texts:
        tokens = tokens_of(text)
        for row in found["policies"]:
            assert {row["name"], str(row["passes"])} <= tokens
            assert brief(row["bytes_moved"] / 1e9) in tokens
            assert brief(row["operations"] / 1e12) in tokens
        assert "GB moved" in " ".join(text.split())


def test_doctor(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/a/path/with a space/and/many/more/folders/than/a/line/holds")
    found, texts = at("doctor")
    for _, text in texts:
        assert found["variables"]["HF_HOME"] in text
        expect_whole({**found, "variables": list(found["variables"])}, text)


def test_plan(at: At) -> None:
    found, texts = at("estimate", SMALL, "--gpu", "h100", "--devices", "2")
    for _, text in texts:
        for name, size in found["memory"].items():
            assert {*name.split()} <= tokens_of(text)
            printed = {f"{size / 1e9:.{digits}f}" for digits in range(2, 8)}
            assert printed & tokens_of(text) - {"0.00"}


def test_act_with_26_actions(at: At, wide: Path, photo: Path) -> None:
    found, texts = at("act", wide, "--image", photo, "--prompt", "go")
    for _, text in texts:
        tokens = tokens_of(text)
        assert set(found["names"]) <= tokens
        assert {f"{value:.4f}" for value in np.asarray(found["actions"]).ravel()} <= tokens


def test_build_and_weights(at: At, tmp_path: Path) -> None:
    out = tmp_path / "a policy" / "of_mine"
    found, texts = at("build", SMALL, "--out", out)
    for _, text in texts:
        expect_whole(found["files"], text)
        assert str(out) in text and set(found["files"]) <= tokens_of(text)
    file = out / "backbone.safetensors"
    found, texts = at("weights", "inspect", file)
    for _, text in texts:
        expect_whole({**found, "files": list(found["files"].values())}, text)
        assert str(file) in text


@pytest.fixture(scope="module")
def recording(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with long names, and one instruction in characters of double width."""
    folder = tmp_path_factory.mktemp("data") / "set"
    names = [f"joint_{i}_of_the_left_arm" for i in range(26)]
    features = {
        f"observation.images.{CAMERA}": Feature("image", (16, 16, 3)),
        "action": Feature("float32", (26,), names),
    }
    with Writer(folder, 10, features, "a_robot") as writer:
        for task in ("カップを持ち上げてから皿の横に置いてください", "pick up the cup " * 9):
            rows = [
                {
                    f"observation.images.{CAMERA}": np.zeros((16, 16, 3), np.uint8),
                    "action": np.arange(26) / 7 + t,
                }
                for t in range(3)
            ]
            writer.add_episode(task.strip(), iter(rows))
    return folder


def test_data_show_and_stats(at: At, recording: Path) -> None:
    found, texts = at("data", "show", recording)
    for _, text in texts:
        expect_whole(found, text, skip=("seconds",))
        assert f"observation.images.{CAMERA}" in text and str(recording) in text
    names = found["features"]["action"]["names"]
    found, texts = at("data", "stats", recording)
    printed = {key: found["action"][key] for key in ("min", "q01", "mean", "q99", "max", "std")}
    for _, text in texts:
        assert set(names) <= tokens_of(text)
        expect_whole(printed, text)


def test_data_check(at: At, wide: Path, tmp_path: Path) -> None:
    folder = record(tmp_path / "a set", parse(read(SMALL)), frames=6, image_format="image")
    found, texts = at("data", "check", folder, "--spec", wide)
    assert found["findings"]
    for _, text in texts:
        expect_whole(found["findings"], text)
        assert str(folder) in text


def test_bench(drawn: Drawn) -> None:
    from wamkit.bench import measure
    from wamkit.cli.bench import _draw
    from wamkit.policy.policy import Policy

    report = measure(Policy.from_spec(parse(read(SMALL))), iters=2, name="small")
    for columns, text in drawn(_draw, report, {"chunk": "all of it"}, {"chunk": 1234.5}, None):
        for row in report.rows:
            assert row.stage in text
            assert {brief(row.median_ms), brief(row.p95_ms)} <= tokens_of(text)
        expect_folded(text, columns)


def test_eval_and_demo(drawn: Drawn) -> None:
    from wamkit.cli._eval_task import draw as draw_eval
    from wamkit.cli.demo.command import _draw as draw_demo
    from wamkit.cli.demo.stages import Demo, Settings, Way

    found = {
        "successes": 17,
        "episodes": 20,
        "success_rate": 0.85,
        "interval_95": [0.64, 0.948],
        "return": 1234.56,
        "steps": 81.5,
        "steps_to_success": 77.25,
        "seeds": [1000, 1019],
        "latency_ms": {"policy": {"p50": 12.5, "p95": 1234.5}},
        "control_rate": 98.0,
        "control_hz": 80,
        "execute_steps": 4,
        "chunk_size": 8,
    }
    for _, text in drawn(draw_eval, found):
        expect_whole({**found, "success_rate": None, "interval_95": None}, text)
        assert {"85.0%", "[64.0%", "94.8%]"} <= tokens_of(text)
    name = "a_paradigm_of_a_stranger_with_a_long_name"
    way = Way(name, None, training={"seconds": 1234.0}, result=found)
    demo = Demo(Settings("a task", 20, 100, 20, 0), {}, {"random": found}, (way,))
    for _, text in drawn(draw_demo, Path("a/long/path/of/a/folder/report.html"), demo):
        assert {name, "1234", "random", "17", "64%"} <= tokens_of(text)
        assert "a/long/path/of/a/folder/report.html" in text


def test_collect(drawn: Drawn) -> None:
    from wamkit.cli.collect import _draw

    found = {
        "episodes": 17,
        "there_already": 5,
        "frames": 123456,
        "attempts": 20,
        "seeds": [1000, 1019],
        "control_hz": 12.5,
        "seconds": 1234.5,
    }
    for columns, text in drawn(_draw, found, 98765):
        expect_whole(found, text)
        expect_folded(text, columns)


def test_serve(drawn: Drawn) -> None:
    from wamkit.cli.serve import _draw

    names = [f"joint_{i}_of_the_left_arm" for i in range(26)]
    camera = {"key": f"observation/{CAMERA}", "size": [224, 224]}
    state = {"key": "observation/state", "size": 1234}
    metadata = {
        "policy": "mine",
        "chunk_size": 32,
        "actions": names,
        "control_hz": 10.0,
        "num_images": 1,
        "cameras": {CAMERA: camera},
        "state": state,
        "stateful": True,
    }
    for _, text in drawn(_draw, metadata, "0.0.0.0", 8000, None):
        expect_whole([names, camera, state], text)
        copied = f'"observation/{CAMERA}": np.zeros((224, 224, 3), np.uint8),'
        assert copied in text and "ws://0.0.0.0:8000" in text


LONG = """
from typing import Literal
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import VAEConfig

WAMKIT_API = 1

class Long(VAEConfig):
    '''A part of a third party.'''
    license = "A-License-Whose-Name-Is-As-Long-As-A-Line-Of-A-Small-Terminal-1.0"
    name: Literal["a_variational_autoencoder_with_a_name_of_fifty_one"] = (
        "a_variational_autoencoder_with_a_name_of_fifty_one"
    )
    size: int = 1234567890123

    @property
    def channels(self):
        return 16

    @property
    def stride(self):
        return 4, 8, 8

    def _build(self):
        raise NotImplementedError

@hookimpl
def register(add):
    add(Long)
"""


def test_a_part_with_a_long_name(at: At, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    info = tmp_path / "a_distribution_of_a_stranger-1.0.dist-info"
    info.mkdir()
    about = "Metadata-Version: 2.1\nName: a_distribution_of_a_stranger\nVersion: 1.0\n"
    (info / "METADATA").write_text(about)
    (info / "entry_points.txt").write_text("[wamkit]\nlong = long_name_plugin\n")
    (tmp_path / "long_name_plugin.py").write_text(LONG)
    forget()
    try:
        name = "a_variational_autoencoder_with_a_name_of_fifty_one"
        for args in (["list", "vae"], ["show", "vae", name], ["doctor"]):
            found, texts = at(*args)
            for _, text in texts:
                expect_whole(found, text, skip=("missing", "summary", "variables"))
                assert name in text
    finally:
        forget()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    file = tmp_path / "photo.png"
    Image.new("RGB", (16, 16)).save(file)
    return file


@pytest.mark.parametrize("columns", WIDTHS)
def test_help_pages_fold_at_spaces_and_cut_no_summary(
    wamkit: Run, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = wamkit("--help")[1]
    expect_folded(page, columns)
    assert "..." not in page.replace("[ARGS]...", "")
    for name in VERBS:
        text = wamkit(name, "--help")[1]
        expect_folded(text, columns)
        for option in verb(name).params:
            tokens = [*option.opts[:1], *(getattr(option, "help", None) or "").split()]
            assert option.param_type_name == "argument" or set(tokens) <= tokens_of(text)
