"""Seeds: every one of 64 bits works, and what is none is refused with a message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import wamkit as package
from wamkit import Observation, WamkitError
from wamkit.config.seeds import MOST, expect_seed, fold_seed, to_32_bits
from wamkit.serve.fields import parse_seed
from wamkit.simulate.policy_runner import RunningEpisode
from wamkit.train.config import read_config

SMALL = Path(__file__).parent / "data" / "small.toml"
SEEDS = [0, 2**31, 2**32, 2**63 - 1, 2**63, MOST]
NONE = [-1, MOST + 1, 2**200, 10**5000, 1.5, "7", float("nan"), [1]]
Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_of_64_bits_acts_imagines_and_builds(seed: int) -> None:
    policy = package.build(SMALL, [f"seed={seed}"])
    seen = Observation({"front": np.zeros((16, 16, 3), np.uint8)}, "go")
    one, two = policy.act(seen, seed=seed).values, policy.act(seen, seed=seed).values
    assert one.equal(two)
    assert not one.equal(policy.act(seen, seed=seed ^ 1).values)
    assert policy.act(seen, seed=[seed]).values.isfinite().all()
    assert policy.imagine(seen, seed=np.uint64(seed)).canvas.isfinite().all()
    assert parse_seed({"seed": seed}) == seed


@pytest.mark.parametrize("seed", NONE, ids=lambda seed: str(type(seed).__name__))
def test_what_is_no_seed_is_refused_with_a_message(seed: Any) -> None:
    policy = package.build(SMALL)
    seen = Observation({"front": np.zeros((16, 16, 3), np.uint8)}, "go")
    ways: list[Callable[[], Any]] = [lambda: expect_seed(seed), lambda: parse_seed({"seed": seed})]
    if not isinstance(seed, str | list):
        ways += [lambda: policy.act(seen, seed=seed), lambda: policy.imagine(seen, seed=[seed])]
    for way in ways:
        with pytest.raises(WamkitError, match="seed") as error:
            way()
        assert str(MOST) in error.value.hint and len(error.value.what) < 200


@pytest.mark.parametrize("seed", ["-1", str(MOST + 1), "9" * 5000, "1.5", "x", "nan"])
def test_settings_and_specs_refuse_what_is_no_seed(seed: str) -> None:
    for way in (
        lambda: package.build(SMALL, [f"seed={seed}"]),
        lambda: read_config(None, [f"seed={seed}"]),
    ):
        with pytest.raises(WamkitError, match="seed") as error:
            way()
        assert "bug" not in str(error.value)
    assert read_config(None, [f"seed={MOST}"]).seed == MOST


def test_seeds_that_are_derived_stay_seeds() -> None:
    assert fold_seed(MOST * 100_003 + 7) <= MOST and fold_seed(12) == 12
    assert RunningEpisode(3, {}, decisions=5).chunk_seed == 3 * 100_003 + 5
    assert 0 <= RunningEpisode(MOST, {}, decisions=5).chunk_seed <= MOST
    assert to_32_bits(2**32 - 1) == 2**32 - 1
    wide = {to_32_bits(2**32 + i) for i in range(100)}
    assert len(wide) == 100 and max(wide) < 2**32
    with pytest.raises(WamkitError, match="9 more seeds from there on go beyond 64 bits"):
        expect_seed(MOST - 8, room=10)


@pytest.mark.parametrize("seed", [2**63, MOST, MOST + 1, -1, "9" * 5000, "x"])
def test_the_command_line_takes_every_seed_and_no_other(
    wamkit: Run, tmp_path: Path, seed: Any
) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    seen = ("--image", tmp_path / "a.png", "--prompt", "go")
    code, _, err = wamkit("act", SMALL, *seen, f"--seed={seed}")
    assert code == (0 if seed in (2**63, MOST) else 2), err
    assert "Traceback" not in err and "a bug" not in err
    if seed == 2**63:  # works, and takes its time
        return
    collecting = ("collect", "pusht", "--out", tmp_path / "set")
    for verb in (("eval", "random", "--env", "pusht"), collecting):
        code, _, err = wamkit(*verb, "--episodes", "3", f"--seed={seed}")
        assert code == 2 and ("--seed" in err or "the seed is" in err), err
        assert "Traceback" not in err and "a bug" not in err
