"""What every command prints with `--json` has a version and is as its schema in docs/schemas says.

A new command needs a schema and a command line below. The fixture `wamkit` validates what all
other tests print with `--json` as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import released
from schemas import FOLDER, expect_valid, validator, verbs_with_json

from wamkit.cli._output import SCHEMA_VERSION
from wamkit.config.spec import parse, read
from wamkit.testing.dataset import record

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
SMALL = ROOT / "tests" / "data" / "small.toml"

# command -> its command lines; {home} is a folder with spec.toml, a broken one, a data set, a saved
# policy and an image. The exit code is 0 or 1.
COMMANDS: dict[str, list[str]] = {
    "list": ["", "vae"],
    "show": [
        "backbone toy --params",
        "paradigm joint",
        "environment pusht",
        "schedules",
        "train",
        "{home}/spec.toml",
    ],
    "check": ["{home}/spec.toml", "{home}/broken.toml"],
    "explain": ["{home}/spec.toml", "{home}/broken.toml"],
    "explore": ["{home}/spec.toml --out {home}/explore.html"],
    "matrix": ["--backbone toy --action-head mot --action-head reader"],
    "compose": [
        "--backbone toy --head mot --paradigm single_pass --actions a:2 --views front=32x32",
        "--backbone toy --head mot --paradigm single_pass --actions a:2 --views front=33x32",
    ],
    "diff": ["{home}/spec.toml {home}/spec.toml --set seed=1"],
    "compare": ["{home}/spec.toml {home}/spec.toml --no-measure"],
    "bench": ["{home}/spec.toml --iters 2"],
    "import": [
        "{home}/fastwam/libero_uncond_2cam224.pt --dry-run {sizes}",
        "{home}/fastwam/libero_uncond_2cam224.pt --random-parts --out {home}/imported {sizes}",
    ],
    "export": ["lerobot {home}/lerobot/policy --out {home}/exported --trust-paths"],
    "build": ["{home}/spec.toml --out {home}/built"],
    "act": ["{home}/saved --image {home}/image.png --prompt go"],
    "imagine": ["{home}/saved --image {home}/image.png --prompt go --out {home}/future.gif"],
    "estimate": [
        "{home}/spec.toml",
        "{home}/spec.toml --gpu h100 --memory 1MB",
        "--act {home}/spec.toml",
    ],
    "fit": ["{home}/spec.toml --memory 1MB"],
    "train": ["{home}/spec.toml --data {home}/data --out {home}/run --steps 1 --batch 2"],
    "sweep": ["{home}/spec.toml --vary paradigm=joint,image_edit --out {home}/sweep"],
    "precompute": [
        "text {home}/spec.toml --data {home}/data --out {home}/text.safetensors",
        "latents {home}/spec.toml --data {home}/data --out {home}/latents --stride 4",
    ],
    "data": [
        "show {home}/data",
        "stats {home}/data",
        "check {home}/data --spec {home}/spec.toml",
        "check {home}/faulty",
    ],
    "collect": ["metaworld:reach-v3 --episodes 1 --out {home}/episodes --size 16 --processes 1"],
    "probe": [
        "{home}/probed --env pusht --env-arg max_steps=8 --env-arg size=32 --env-arg candidates=2 "
        "--episodes 1 --states 1 --processes 0"
    ],
    "eval": [
        "{home}/saved --data {home}/data --episodes 1",
        "random --env pusht --episodes 1 --processes 0 --env-arg max_steps=4 --env-arg size=32",
    ],
    "demo": ["--out {home}/demo"],
    "weights": [
        "inspect {home}/saved/backbone.safetensors",
        "convert {home}/saved/backbone.safetensors --part backbone:toy --set depth=2 "
        "--set num_heads=2 --set head_dim=12 --set text_width=16 --set latent_channels=384 "
        "--out {home}/converted.safetensors",
    ],
    "prune": ["{home}/spec.toml --layers 1 --num-heads 1 --out {home}/student"],
    "doctor": [""],
}
NEEDS = {"collect": "metaworld", "eval": "gym_pusht", "probe": "gym_pusht"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs of the commands."""
    from PIL import Image

    import wamkit

    folder = tmp_path_factory.mktemp("home")
    (folder / "spec.toml").write_text(SMALL.read_text())
    (folder / "broken.toml").write_text(SMALL.read_text().replace('"byt', '"bit'))
    Image.new("RGB", (16, 16)).save(folder / "image.png")
    spec = parse(read(SMALL))
    record(folder / "data", spec, episodes=2, frames=8, image_format="image")
    shutil.copytree(folder / "data", folder / "faulty")
    next((folder / "faulty" / "data").rglob("*.parquet")).unlink()
    wamkit.build(folder / "spec.toml").save(folder / "saved")
    if find_spec("gym_pusht") is not None:
        raw = read(SMALL, ["paradigm.name=conditional", "state.size=2", "actions.control_hz=10"])
        raw["actions"]["groups"] = [{"name": "disk", "size": 2}]
        wamkit.build(raw).save(folder / "probed")
    (folder / "demo").mkdir()
    released.fastwam(folder / "fastwam")
    released.exportable(folder / "lerobot")
    return folder


def made_without_simulator(out: Path, settings: Any, *_: Any) -> Any:
    """What `wamkit demo` has made when it writes its page, without making it."""
    from wamkit.cli.demo.stages import Demo, Way

    result = {"episodes": 4, "successes": 3, "interval_95": [0.3, 0.95]}
    ways = (
        Way("one", training={"steps": 20, "seconds": 300.0}, result=result),
        Way("two", problem="no room"),
    )
    return Demo(settings, {"episodes": 4, "seconds": 3.0}, {"expert": result}, ways)


def lines() -> Iterator[Any]:
    for name, found in COMMANDS.items():
        for line in found:
            yield pytest.param(name, line, id=f"{name} {line.partition('--')[0]}".strip())


@pytest.mark.parametrize("name", verbs_with_json())
def test_every_command_with_json_has_a_schema_and_is_run(name: str) -> None:
    schema = validator(name).schema
    assert name in COMMANDS, f"add a command line of `wamkit {name}` to COMMANDS, at tiny size"
    assert schema["title"].startswith(f"wamkit {name}") and schema["description"]
    for kind in schema.get("anyOf", [schema]):
        assert kind["properties"]["schema_version"] == {"const": SCHEMA_VERSION}
        assert "schema_version" in kind["required"]


def test_there_is_no_schema_of_a_command_that_is_not() -> None:
    assert {file.stem for file in FOLDER.glob("*.json")} == set(verbs_with_json())
    page = (ROOT / "docs" / "json.md").read_text()
    assert [n for n in verbs_with_json() if f"(schemas/{n}.json)" not in page] == []


@pytest.mark.parametrize(("name", "line"), lines())
def test_a_command_prints_what_its_schema_says(
    wamkit: Run, home: Path, name: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (module := NEEDS.get(name)) is not None and find_spec(module) is None:
        pytest.skip(f"{module} is missing")
    if name == "demo":
        monkeypatch.setattr("wamkit.cli.demo.command._made", made_without_simulator)
        monkeypatch.setattr("wamkit.cli.demo.page.write", lambda file, *_: file)
    args = line.format(home=home, sizes=" ".join(released.set_options())).split()
    code, out, err = wamkit(name, *args, "--json")
    assert code in (0, 1), err
    assert expect_valid(name, out)["schema_version"] == SCHEMA_VERSION


def test_a_deviation_from_a_schema_is_found() -> None:
    with pytest.raises(AssertionError, match=r"\$: 'folder' is a required property"):
        expect_valid("build", json.dumps({"schema_version": 1}))
    with pytest.raises(AssertionError, match=r"write docs/schemas/nothing.json"):
        expect_valid("nothing", "{}")
