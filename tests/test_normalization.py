"""Whatever changes is scaled, comes back as it was, and is never cut in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wamkit.config.robot import ActionConfig, Scaling, StateConfig
from wamkit.config.spec import parse, read
from wamkit.data import Feature, LeRobotFolder, Samples, Writer, collate, scaling_notes
from wamkit.errors import WamkitError
from wamkit.policy.actions import ActionSpace, StateSpace, Statistics, read_statistics
from wamkit.policy.normalization import Normalizer, changes
from wamkit.policy.policy import Policy
from wamkit.testing.parity import same_values

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = Path(__file__).parent / "data" / "small.toml"
Run = Callable[..., tuple[int, str, str]]
RNG = np.random.default_rng(0)
RULES = ("min_max", "mean_std", "quantile")
EVENTS = np.where(np.isin(np.arange(400) % 100, (60, 61)), 1.0, 0.0)
KINDS = {
    "suction that is on in 2 % of frames": EVENTS,
    "button of one frame": np.eye(1, 400, 7)[0],
    "button in micrometers": np.eye(1, 400, 7)[0] * 1e-6,
    "nearly constant with one other value": np.where(
        np.arange(400) == 7, 0.0, 1.569 + 0.001 * RNG.random(400)
    ),
    "micrometers in meters": 1e-6 * RNG.normal(size=400),
    "steps of 1 kHz": 0.4 + 5e-5 * RNG.random(400),
    "nanometers": 1e-9 * RNG.random(400),
    "millions": 1e6 * RNG.normal(size=400),
    "encoder counts": 1e7 + RNG.integers(0, 30, 400),
    "wrapped angle": np.angle(np.exp(1j * (np.pi + 0.2 * RNG.normal(size=400)))),
    "on or off": np.arange(400) % 2 == 0,
}


def _space(values: np.ndarray, rule: Any, clip: float | None = None) -> ActionSpace:
    groups: Any = [{"name": "a", "size": 1, "normalization": rule}]
    known = Statistics.of(torch.tensor(values)[:, None])
    return ActionSpace(ActionConfig(groups=groups, clip=clip), known)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", list(KINDS))
def test_what_is_in_the_data_is_scaled_and_comes_back(kind: str, rule: str) -> None:
    values = KINDS[kind]
    x = torch.tensor(values, dtype=torch.float32)[None, :, None]
    space = _space(values, rule)
    encoded = space.encode(x, None)
    assert 0.01 < float(encoded.std()) < 1000
    back = space.decode(encoded, None)
    scale = max(float(np.abs(values.astype(float)).max()), float(np.ptp(x.numpy())))
    same_values(back, x, 1e-6, scale=scale)


@pytest.mark.parametrize("rule", RULES)
def test_a_small_range_far_from_zero_keeps_its_digits_in_float64(rule: str) -> None:
    values = 1.7e9 + RNG.random(400)  # seconds of a clock
    encoded = _space(values, rule).encode(torch.tensor(values)[None, :, None], None)[0, :, 0]
    low, high = encoded.min(), encoded.max()
    expected = torch.tensor((values - values.min()) / np.ptp(values), dtype=torch.float32)
    same_values((encoded - low) / (high - low), expected, 1e-5)


SMALL_UNITS = {
    "a range of 1.5e-4": (0.2, 0.20015),
    "tenths of a millimeter in meters": (0.4, 0.4001),
    "micrometers in meters": (-1e-6, 2e-6),
    "hundredths of a degree in radians": (1.5707, 1.5708745),
    "arc seconds in radians": (0.0, 4.848e-6),
    "nanometers in meters": (1e-9, 3e-9),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("unit", list(SMALL_UNITS))
def test_a_range_in_a_small_unit_is_no_constant(unit: str, rule: str) -> None:
    low, high = SMALL_UNITS[unit]
    values = np.linspace(low, high, 401)
    known = Statistics.of(torch.tensor(values)[:, None])
    assert not known.constant(0)
    encoded = _space(values, rule).encode(torch.tensor([[[low], [high]]]), None)[0, :, 0]
    expected = {"min_max": 1.0, "quantile": 1 / 0.98, "mean_std": 3**0.5}[rule]
    assert encoded.tolist() == pytest.approx([-expected, expected], rel=0.01)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0.0, 0.1, 3.0, -1e-8, 1e9])
def test_a_constant_is_moved_to_zero_and_not_scaled(rule: str, value: float) -> None:
    space = _space(np.full(50, value), rule)
    x = torch.full((1, 2, 1), value, dtype=torch.float64)
    assert float(space.encode(x, None).abs().max()) == 0
    assert float(space.encode(x + 0.5, None).max()) == pytest.approx(0.5, rel=1e-6)


def test_rounding_is_no_change_and_the_next_count_is_one() -> None:
    tenth = np.float32(0.1)
    assert not changes(float(tenth), float(np.nextafter(tenth, np.float32(1))))
    assert not changes(0.3, 0.1 + 0.2) and not changes(2.0, 2.0) and not changes(3.0, 1.0)
    assert changes(0.0, 1e-12) and changes(0.1, 0.1 + 1e-9) and changes(2.0**24, 2.0**24 + 2)
    assert changes(-1.7e308, 1.7e308)


def test_a_clip_cuts_and_no_clip_does_not() -> None:
    x = torch.tensor(EVENTS, dtype=torch.float32)[None, :, None]
    cut = _space(EVENTS, "mean_std", 5.0)
    assert float(cut.decode(cut.encode(x, None), None).max()) == pytest.approx(0.72, abs=1e-3)
    whole = _space(EVENTS, "mean_std")
    assert float(whole.decode(whole.encode(x, None), None).max()) == pytest.approx(1.0, rel=1e-6)


def test_a_state_of_the_data_is_never_cut_and_another_is_bounded() -> None:
    known = Statistics.of(torch.tensor(EVENTS)[:, None])
    space = StateSpace(StateConfig(size=1, normalization="mean_std"), known)
    assert float(space.encode(torch.tensor([[1.0]]))) == pytest.approx(7.0, abs=1e-3)
    assert float(space.encode(torch.tensor([[9.0]]))) == pytest.approx(7.0, abs=1e-3)
    assert float(space.encode(torch.tensor([[-9.0]]))) == -5.0


def _scaled(values: Any, rule: Any, scaling: dict[str, Any], x: Any) -> tuple[Any, Any]:
    """What `x` is encoded to, and what 1 is decoded to, under settings of another system."""
    known = Statistics.of(torch.tensor(values, dtype=torch.float64)[:, None])
    made = Normalizer([rule], known, scaling=Scaling(**scaling))
    encoded = made.encode(torch.tensor(x, dtype=torch.float64)[:, None])[:, 0]
    return encoded.tolist(), float(made.decode(torch.ones(1, 1)))


FAST_WAM = {"constant_range": 1e-4, "constants": "min", "std_epsilon": 1e-8}


def test_thresholds_of_another_system_are_kept_to() -> None:
    small = [0.1, 0.10002, 0.10005]
    # Fast-WAM: below 1e-4 the smallest value is moved to 0, and nothing is scaled.
    encoded, one = _scaled(small, "min_max", FAST_WAM, small)
    same_values(encoded, [0, 2e-5, 5e-5], 2e-5)
    assert one == pytest.approx(1.1)
    encoded, one = _scaled([0.1, 0.10015], "min_max", FAST_WAM, [0.1, 0.10015])
    assert encoded == pytest.approx([-1, 1]) and one == pytest.approx(0.10015)
    encoded, one = _scaled([2.0, 2.0], "mean_std", FAST_WAM, [2.0])
    assert encoded == [0]
    same_values(one, 2.0, 5e-8)
    # The quantiles themselves, where the rule of relative constants falls back to the range.
    rare = [0.0] * 999 + [1.0]
    assert _scaled(rare, "quantile", FAST_WAM, [0.0, 1.0])[0] == [0, 1]
    assert _scaled(rare, "quantile", {}, [0.0, 1.0])[0] == [-1, 1]


def test_a_constant_that_is_held_decodes_to_its_value() -> None:
    encoded, one = _scaled([0.3, 0.3], "min_max", {"constants": "hold"}, [0.3])
    assert encoded == pytest.approx([-1])
    same_values(one, 0.3, 3e-7)
    encoded, one = _scaled([0.3, 0.5], "min_max", {"constants": "hold"}, [0.3, 0.5])
    assert encoded == pytest.approx([-1, 1]) and one == pytest.approx(0.5)


def test_a_constant_that_is_kept_is_not_encoded_and_decodes_to_its_value() -> None:
    keep = {"constant_range": 1e-30, "constants": "keep"}
    rare = [0.3] * 999 + [0.7]
    encoded, one = _scaled(rare, "quantile", keep, [0.3, 0.7])
    same_values(encoded, [0.3, 0.7], 1e-6)
    same_values(one, 0.3, 1e-6)
    encoded, one = _scaled([0.3, 0.5] * 50, "quantile", keep, [0.3, 0.5])
    assert encoded == pytest.approx([-1, 1]) and one == pytest.approx(0.5)


@pytest.mark.parametrize("rule", ["min_max", "quantile"])
def test_an_epsilon_is_added_to_ranges(rule: str) -> None:
    values = [0.1] * 50 + [0.1 + 1e-6] * 50
    encoded, one = _scaled(values, rule, {"range_epsilon": 1e-6}, [0.1, 0.1 + 1e-6])
    same_values(encoded, [-1, 0], 1e-6)
    assert one == pytest.approx(0.1 + 2e-6)
    encoded, one = _scaled([0.1, 0.1], rule, {"range_epsilon": 1e-6}, [0.1])
    same_values(encoded, [-1], 1e-6)
    same_values(one, 0.1, 2e-5)


def test_constants_are_refused_where_no_range_is_constant() -> None:
    scaling = {"range_epsilon": 1e-6, "constants": "min"}
    with pytest.raises(ValueError, match='constants = "min" has no effect'):
        StateConfig(size=2, scaling=Scaling(**scaling))
    StateConfig(size=2, scaling=Scaling(**scaling, constant_range=1e-4))
    StateConfig(size=2, normalization="mean_std", scaling=Scaling(**scaling))
    group = {"name": "arm", "size": 2}
    with pytest.raises(ValueError, match="has no effect"):
        ActionConfig.model_validate({"groups": [group], "scaling": scaling})


def test_settings_of_scaling_are_saved_with_a_policy(tmp_path: Path) -> None:
    settings = ["actions.scaling.constant_range=1e-4", 'actions.scaling.constants="min"']
    policy = Policy.from_spec(parse(read(TOY, settings)))
    again = Policy.load(policy.save(tmp_path / "policy"))
    assert again.spec.actions.scaling == Scaling(constant_range=1e-4, constants="min")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"std": [0.1, 0.0]}, r"number 1 has std 0, and goes from 0 to 2"),
        ({"std": [0.1, -1.0]}, r"number 1 has a negative std"),
        ({"min": [0, 3]}, r"number 1 has min 3 above max 2"),
        ({"q01": [0, 3]}, r"number 1 has q01 3 above q99 2"),
        ({"mean": [0, float("nan")]}, r"it holds NaN"),
        ({"min": [2, 3]}, r"number 0 has min 2 above max 1; number 1 has min 3 above max 2"),
    ],
)
def test_statistics_that_no_data_can_have_are_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    rows = {"min": [0, 0], "max": [1, 2], "mean": [0.5, 1], "std": [0.1, 0.2]}
    file = tmp_path / "statistics.json"
    file.write_text(json.dumps({"action": rows | {"q01": [0, 0], "q99": [1, 2]} | change}))
    with pytest.raises(WamkitError, match=problem):
        read_statistics(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"action": {"min": "01"}}', "min is no list of 1 to 100,000 values"),
        ('{"action": {"min": 0}}', "min is no list"),
        ('{"action": {"min": []}}', "min is no list"),
        ('{"action": {"min": ["0"]}}', "min holds a str, expected numbers"),
        ('{"action": {"min": [true]}}', "min holds a bool, expected numbers"),
        ('{"action": {"min": [null]}}', "min holds a NoneType"),
        ('{"action": {"min": [[0]]}}', "min holds a list"),
        ('{"action": {"min": [1e999]}}', "beyond the largest number"),
        ('{"action": {"min": [%s]}}' % ("9" * 400), "int too large"),
        ('{"action": {"min": [0], "min": [1]}}', "the key 'min' stands twice"),
        ('{"action": [0]}', "holds no statistics"),
        ('{"actoin": {}}', "statistics of 'actoin', expected action and state"),
        ('{"action": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested deeper"),
    ],
)
def test_statistics_that_are_no_numbers_are_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "statistics.json"
    file.write_text(text)
    with pytest.raises(WamkitError, match=message) as error:
        read_statistics(file)
    assert str(file) in error.value.what and error.value.hint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arm, a suction that is rarely on, and a number that never changes."""
    features = {
        "observation.images.front": Feature("image", (48, 64, 3)),
        "action": Feature("float32", (4,)),
    }
    place = tmp_path_factory.mktemp("data") / "suction"
    with Writer(place, 10, features) as writer:
        for episode in range(2):
            for t in range(100):
                arm = RNG.normal(0, 0.05, 2)
                values = np.r_[arm, 3.0, EVENTS[100 * episode + t]]
                image = np.full((48, 64, 3), t, np.uint8)
                writer.add_frame({"observation.images.front": image, "action": values})
            writer.add_episode("pick it with the suction")
    return place


GROUPS = (
    'actions.groups=[{name="arm",size=3,normalization="mean_std"},'
    '{name="suction",size=1,normalization="mean_std"}]'
)


def test_clipped_dimensions_are_reported_with_name_share_and_hint(
    wamkit: Run, folder: Path, tmp_path: Path
) -> None:
    cut = "action suction is cut in {} of {} frames (2 %): from 1 to 0.72"
    hint = "--set actions.groups.1.normalization=min_max, or --set actions.clip=none"
    still = "action arm.2 (3) never changes"
    args = ["--set", GROUPS, "--set", "actions.clip=5"]
    for verb in ("check", "stats"):
        code, _, err = wamkit("data", verb, folder, "--spec", TOY, *args)
        assert code == 0 and cut.format(4, 200) in err and hint in err and still in err
    run = ["--out", tmp_path / "run", "--steps", 1, "--batch", 2, "--train", "val_fraction=0"]
    code, _, err = wamkit("train", TOY, "--data", folder, *run, *args)
    assert code == 0 and cut.format(4, 200) in err and hint in err and still in err
    for setting in ("actions.groups.1.normalization=min_max", "actions.clip=none"):
        code, _, err = wamkit("data", "check", folder, "--spec", TOY, *args, "--set", setting)
        assert code == 0 and "is cut" not in err


def test_what_lies_far_out_is_reported(folder: Path) -> None:
    spec = parse(
        read(TOY, [GROUPS.replace('1,normalization="mean_std"', '1,normalization="none"')])
    )
    assert len(scaling_notes(LeRobotFolder(folder), spec)) == 1  # the constant
    spec = parse(read(TOY, [GROUPS, "actions.clip=0.5"]))
    assert sum("is cut" in line for line in scaling_notes(LeRobotFolder(folder), spec)) == 3


def test_values_that_float32_would_round_stay_float64(tmp_path: Path) -> None:
    spec = parse(read(SMALL, ["state.size=2"]))
    features = {
        "observation.images.front": Feature("image", (16, 16, 3)),
        "observation.state": Feature("float64", (2,)),
        "action": Feature("float64", (spec.actions.size,)),
    }
    with Writer(tmp_path / "set", spec.actions.control_hz, features) as writer:
        for t in range(8):
            values = {"observation.state": [1.7e9 + t / 10, t], "action": [t] * spec.actions.size}
            image = np.zeros((16, 16, 3), np.uint8)
            writer.add_frame({"observation.images.front": image, **values})
        writer.add_episode("count")
    samples = Samples(tmp_path / "set", spec)
    batch = collate([samples[0], samples[3]])
    assert batch.actions.dtype == torch.float32
    state = batch.observation.state
    assert state is not None and float(state[1, 0] - state[0, 0]) == pytest.approx(0.3, abs=1e-5)


def test_differences_of_an_angle_that_wraps_are_reported(tmp_path: Path) -> None:
    arm: Any = {"name": "arm", "size": 2, "kind": "relative", "state": 0}
    actions = {"chunk_size": 4, "groups": [arm]}
    spec = parse(read(SMALL, ["state.size=2"]) | {"actions": actions})
    features = {
        "observation.images.front": Feature("image", (8, 8, 3)),
        "observation.state": Feature("float32", (2,)),
        "action": Feature("float32", (2,)),
    }
    turning = np.angle(np.exp(1j * 0.05 * np.arange(201)))
    with Writer(tmp_path / "set", 10, features) as writer:
        for t in range(200):
            values = {
                "observation.state": [turning[t], 0.05 * t],
                "action": [turning[t + 1], 0.05 * (t + 1)],
            }
            writer.add_frame({"observation.images.front": np.zeros((8, 8, 3), np.uint8), **values})
        writer.add_episode("turn")
    (line,) = scaling_notes(LeRobotFolder(tmp_path / "set"), spec)
    assert line.startswith("action arm.0 jumps by a turn of 6.283 rad in ")
