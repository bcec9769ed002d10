"""Imagined frames measured against real ones: metrics, baseline, recorded episodes, closed loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_specs import small_spec

from wamkit.cli._imagined import describe_means
from wamkit.data import Columns, LeRobotFolder, Samples, split
from wamkit.errors import WamkitError
from wamkit.evaluate import image_quality, recorded
from wamkit.evaluate.action_error import ActionError
from wamkit.evaluate.horizon import HorizonQuality
from wamkit.evaluate.image_quality import METRICS, frame_quality
from wamkit.evaluate.intervals import mean_interval
from wamkit.evaluate.recorded import evaluate_recorded, pick_clips
from wamkit.evaluate.rollouts import RolloutQuality
from wamkit.policy.build import build
from wamkit.policy.policy import Policy
from wamkit.simulate import EnvObservation, Frame, Rollout
from wamkit.testing.dataset import record
from wamkit.testing.parity import same_values
from wamkit.train import TrainConfig
from wamkit.train.logs import read as read_log
from wamkit.train.trainer import Data, train

Wamkit = Callable[..., tuple[int, str, str]]
SIZE = 32


@pytest.fixture(scope="module")
def policy() -> Policy:
    return build(small_spec(SIZE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(
        tmp_path_factory.mktemp("data") / "d", small_spec(SIZE), episodes=4, image_format="image"
    )


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_frames_have_the_best_value_and_psnr_is_its_formula() -> None:
    one = noise(2, 3, 4, SIZE, SIZE)
    for name, values in frame_quality(one, one).items():
        same_values(values, torch.full((2, 4), METRICS[name].best))
    other = noise(2, 3, 4, SIZE, SIZE, seed=1)
    found = frame_quality(one, other)
    error = ((one - other) / 2).square().mean((1, 3, 4))
    same_values(found["psnr"], -10 * error.log10())
    assert set(found) == set(METRICS)


def test_more_blur_is_worse_in_every_metric() -> None:
    one = torch.nn.functional.avg_pool2d(noise(4, 3, 64, 64), 5, 1, 2) * 3
    found = []
    for width in (3, 7, 15):
        blurred = torch.nn.functional.avg_pool2d(one, width, 1, width // 2)
        found.append(frame_quality(blurred[:, :, None], one[:, :, None]))
    for name in METRICS:
        means = [float(values[name].mean()) for values in found]
        assert means == sorted(means, reverse=True), name


def test_small_or_different_frames_are_refused() -> None:
    with pytest.raises(WamkitError, match="8 x 8 pixels are too small"):
        frame_quality(noise(1, 3, 1, 8, 8), noise(1, 3, 1, 8, 8))
    with pytest.raises(WamkitError, match="as many and as large"):
        frame_quality(noise(1, 3, 1, SIZE, SIZE), noise(1, 3, 2, SIZE, SIZE))


def test_an_absent_package_is_one_line_with_the_command(
    monkeypatch: pytest.MonkeyPatch, wamkit: Wamkit, policy: Policy, folder: Path, tmp_path: Path
) -> None:
    saved = policy.save(tmp_path / "policy")
    monkeypatch.setattr(image_quality, "find_spec", lambda name: None)
    code, _, err = wamkit("eval", saved, "--data", folder)
    assert code == 2 and "need piqa and wamprobe, not installed here" in err
    assert 'pip install -e ".[quality]"' in err


def test_an_interval_holds_the_mean_and_is_the_same_again() -> None:
    values = [1.0, 2.0, 4.0, 3.0]
    found = mean_interval(values)
    low, high = found["interval_95"]
    assert found["mean"] == 2.5 and 1 <= low < 2.5 < high <= 4
    assert found == mean_interval(values)
    assert mean_interval([3.0]) == {"mean": 3.0, "interval_95": None}


def test_the_unit_is_the_episode_and_frames_outside_do_not_count() -> None:
    real = {"a": noise(3, 2, SIZE, SIZE)}
    last = {"a": noise(3, SIZE, SIZE, seed=1)}
    quality = HorizonQuality([0.1, 0.2])
    quality.add(0, real, real, last)
    for _ in range(3):
        quality.add(1, {"a": -real["a"]}, real, last, torch.tensor([True, False]))
    first, second = quality.summary()
    worst = float(frame_quality(-real["a"][None], real["a"][None])["psnr"][0, 0])
    assert first["psnr"]["policy"]["mean"] == pytest.approx((80 + worst) / 2, rel=1e-4)
    assert (first["episodes"], first["clips"], first["seconds"]) == (2, 4, 0.1)
    assert (second["episodes"], second["clips"], second["seconds"]) == (1, 1, 0.2)
    better = second["ssim"]["policy"]["mean"] - second["ssim"]["copy"]["mean"]
    assert second["ssim"]["difference"]["mean"] == pytest.approx(better) and better > 0


def test_clips_are_spread_over_episodes_and_end_inside(policy: Policy, folder: Path) -> None:
    samples = Samples(folder, policy.spec)
    found = [samples.moment(index) for index in pick_clips(samples, 3)]
    assert found == [(e, t) for e in range(4) for t in (0, 4, 7)]  # of 12 frames, 4 ahead


def test_the_copy_is_the_last_observed_frame(policy: Policy, folder: Path) -> None:
    samples = Samples(folder, policy.spec)
    found = evaluate_recorded(policy, samples, clips=2)
    assert (found["episodes"], found["clips"]) == (4, 8)
    near, far = found["imagined"]
    assert (near["seconds"], far["seconds"]) == (0.2, 0.4)
    for row, frames in ((near, 2), (far, 4)):  # images brighten by 18 of 255 a frame
        assert row["psnr"]["copy"]["mean"] == pytest.approx(
            -20 * np.log10(18 * frames / 255), rel=1e-3
        )
    assert far["psnr"]["policy"]["interval_95"] is not None
    assert found["actions"]["rmse"]["mean"] > 0 and set(found["actions"]["groups"]) == {"arm"}


def test_a_clip_is_measured_the_same_in_any_batch(
    policy: Policy, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Samples(folder, policy.spec, episodes=[1, 2])
    together = evaluate_recorded(policy, samples, clips=2, seed=5)
    draw = recorded.draw_clips
    monkeypatch.setattr(recorded, "draw_clips", lambda *given: draw(*given, size=1))
    alone = evaluate_recorded(policy, samples, clips=2, seed=5)
    for one, other in zip(together["imagined"], alone["imagined"], strict=True):
        for name in METRICS:
            assert one[name]["policy"]["mean"] == pytest.approx(
                other[name]["policy"]["mean"], rel=1e-3
            )


def test_the_mean_action_has_an_error_of_one(policy: Policy) -> None:
    recorded_actions = noise(6, 4, 2).double()
    error = ActionError(policy)
    mean = recorded_actions.flatten(0, 1).mean(0).expand(6, 4, 2)
    error.add([0] * 6, mean, recorded_actions, torch.ones(6, 4, dtype=torch.bool))
    assert error.summary()["rmse"]["mean"] == pytest.approx(1, rel=1e-6)
    error = ActionError(policy)
    error.add([0] * 6, recorded_actions, recorded_actions, torch.ones(6, 4, dtype=torch.bool))
    assert error.summary()["rmse"]["mean"] == 0


def test_a_policy_without_imagined_frames_is_refused(folder: Path) -> None:
    blind = build(small_spec(SIZE, video={"num_frames": 1}))
    with pytest.raises(WamkitError, match="imagines no frames"):
        evaluate_recorded(blind, Samples(folder, blind.spec))


def test_a_run_is_evaluated_on_what_it_held_out(
    wamkit: Wamkit, folder: Path, tmp_path: Path
) -> None:
    config = TrainConfig(steps=1, batch_size=2, val_fraction=0.5, seed=3)
    train(build(small_spec(SIZE)), Data(folder, Columns()), tmp_path / "run", config)
    code, out, _ = wamkit("eval", tmp_path / "run", "--data", folder, "--json")
    found = json.loads(out)
    assert code == 0 and found["held_out"]
    assert tuple(found["episode_indexes"]) == split(LeRobotFolder(folder), 0.5, 3)[1]
    other = record(tmp_path / "other", small_spec(SIZE), episodes=3, image_format="image")
    policy = tmp_path / "run" / "checkpoints" / "step-000001" / "policy"
    code, out, err = wamkit("eval", policy, "--data", other, "--episodes", 2)
    assert code == 0 and "not known to be held out" in err
    assert "seconds ahead" in out and "2 episodes, 16 clips" in out and "action error" in out


def test_training_measures_what_is_imagined_of_held_out_episodes(
    folder: Path, tmp_path: Path
) -> None:
    config = TrainConfig(
        steps=3, batch_size=2, val_fraction=0.5, validate_every=0, validate_imagined_every=2
    )
    done = train(build(small_spec(SIZE)), Data(folder, Columns()), tmp_path / "run", config)
    lines = {
        line["step"]: line["imagined"]
        for line in read_log(tmp_path / "run" / "log.jsonl")
        if "imagined" in line
    }
    assert set(lines) == {2, 3}  # and at the end
    assert done.imagined == {who: lines[3][who] for who in ("policy", "copy")}
    rows = lines[3]["by_horizon"]
    assert [row["seconds"] for row in rows] == [0.2, 0.4] and rows[0]["episodes"] == 2
    for who in ("policy", "copy"):
        means = [row["ssim"][who]["mean"] for row in rows]
        assert lines[3][who]["ssim"] == pytest.approx(sum(means) / 2)
    assert lines[2]["copy"] == lines[3]["copy"] and lines[2]["policy"] != lines[3]["policy"]
    assert "PSNR" in describe_means(done.imagined) and "(copy" in describe_means(done.imagined)


def test_training_without_held_out_episodes_measures_nothing(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(steps=1, batch_size=2, val_fraction=0, validate_imagined_every=1)
    with pytest.raises(WamkitError, match="no episode is held out"):
        train(build(small_spec(SIZE)), Data(folder, Columns()), tmp_path / "run", config)


def test_eval_takes_a_simulator_or_a_data_set(wamkit: Wamkit, folder: Path) -> None:
    code, _, err = wamkit("eval", "random")
    assert code == 2 and "none of --env, --suite and --data" in err and "--data DIR" in err
    code, _, err = wamkit("eval", "random", "--data", folder, "--env", "pusht")
    assert code == 2 and "several of --env, --suite and --data" in err
    code, _, err = wamkit("eval", "random", "--data", folder)
    assert code == 2 and "random imagines nothing" in err


def test_frames_imagined_in_closed_loop_are_compared_with_what_came(policy: Policy) -> None:
    def seen(step: int) -> EnvObservation:
        image = np.full((SIZE, SIZE, 3), 20 * step, np.uint8)
        return EnvObservation({"camera": image}, np.zeros(2, np.float32), "go")

    frames = tuple(Frame(seen(t), np.zeros(2, np.float32), 0.0, False) for t in range(5))
    right = np.stack([seen(2).images["camera"], seen(4).images["camera"]])
    rollout = Rollout(7, False, 0.0, 5, "go", frames, imagined={0: {"camera": right}}, last=seen(5))
    quality = RolloutQuality(policy, {"side": "camera"})
    quality.add(rollout)
    near, far = quality.quality.summary()
    assert near["psnr"]["policy"]["mean"] == pytest.approx(80, rel=1e-3)
    assert far["psnr"]["copy"]["mean"] == pytest.approx(-20 * np.log10(80 / 255), rel=1e-3)
    late = replace(rollout, imagined={3: {"camera": right}, 5: {"camera": right}})
    quality = RolloutQuality(policy, {"side": "camera"})
    quality.add(late)
    (only,) = quality.quality.summary()
    assert (only["frame"], only["clips"]) == (1, 1)
