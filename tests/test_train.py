"""Training: it learns, it resumes to the very same weights, and nothing interrupts it harmfully."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import wamkit
from wamkit.config.spec import parse, read
from wamkit.data import Samples, collate, compute_statistics
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of
from wamkit.testing.training import read_log, read_saved_state, recordings, same, short_run, state
from wamkit.train import checkpoints, read_config
from wamkit.train.batches import seed_of, shard
from wamkit.train.config import TrainConfig
from wamkit.train.optim import share_of_peak
from wamkit.train.trainer import Summary

SMALL = Path(__file__).parent / "data" / "small.toml"
RAW = read(SMALL, ["state.size=2", "action_head.state=text"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recordings(tmp_path_factory.mktemp("data") / "set", parse(RAW))


def run(folder: Path, out: Path, policy: Policy | None = None, **settings: Any) -> Summary:
    longer = {"steps": 6, "save_every": 3, "ema": 0.9}
    return short_run(policy or wamkit.build(RAW), folder, out, **{**longer, **settings})


def test_training_lowers_the_loss_on_held_out_samples(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "run", steps=60, save_every=30, warmup_ratio=0.1, lr=1e-2, batch_size=8)
    lines = read_log(tmp_path / "run")
    held = [line["validation"]["loss"] for line in lines if "validation" in line]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(held) == 2 and len(losses) == 60
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert "<svg" in (tmp_path / "run" / "loss.svg").read_text()


def test_a_resumed_run_has_every_weight_of_one_that_was_never_interrupted(
    folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path / "whole", gradient_accumulation_steps=2)

    def stop(step: int, metrics: Any) -> None:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    cut = run(folder, tmp_path / "cut", gradient_accumulation_steps=2, on_step=stop)
    assert (cut.interrupted, cut.step) == (True, 4)
    assert not same(read_saved_state(tmp_path / "cut"), read_saved_state(tmp_path / "whole"))
    done = run(folder, tmp_path / "cut", gradient_accumulation_steps=2, resume=True)
    assert (done.interrupted, done.step) == (False, 6)
    assert same(state(tmp_path / "cut"), state(tmp_path / "whole"))
    assert same(read_saved_state(tmp_path / "cut"), read_saved_state(tmp_path / "whole"))
    timeless = ("samples_per_second", "tokens_per_second", "waiting")
    logs = [read_log(tmp_path / name) for name in ("cut", "whole")]
    for lines in logs:
        for line in lines:
            for key in timeless:
                line.pop(key, None)
    assert logs[0] == logs[1]
    runs = [(tmp_path / n / "checkpoints/last/run.json").read_text() for n in ("cut", "whole")]
    assert runs[0] == runs[1]


def test_a_checkpoint_is_a_policy_with_the_average_and_the_statistics(
    folder: Path, tmp_path: Path
) -> None:
    policy = wamkit.build(RAW)
    run(folder, tmp_path / "run", policy)
    weights, kept = read_saved_state(tmp_path / "run"), state(tmp_path / "run")
    name = "backbone.blocks.0.to_out.weight"
    name = name if name in weights else next(n for n in weights if n.startswith("backbone"))
    assert torch.equal(weights[name], kept[f"ema/{name}"])
    assert torch.equal(policy.state_dict()[name], kept[f"weight/{name}"])
    assert not torch.equal(weights[name], policy.state_dict()[name])
    loaded = Policy.load(tmp_path / "run/checkpoints/last/policy")
    from wamkit.data import LeRobotFolder, split

    recording = LeRobotFolder(folder)
    learn, _ = split(recording, 0.3, 0)
    assert loaded.statistics == compute_statistics(recording, policy.spec, episodes=learn)
    assert loaded.spec == policy.spec


def test_a_saved_policy_can_be_taught_further_and_its_files_stay(
    folder: Path, tmp_path: Path
) -> None:
    wamkit.build(RAW, ["dtype=bfloat16"]).save(tmp_path / "old")
    before = (tmp_path / "old" / "backbone.safetensors").read_bytes()
    policy = Policy.load(tmp_path / "old")
    run(folder, tmp_path / "run", policy, steps=2)
    assert (tmp_path / "old" / "backbone.safetensors").read_bytes() == before
    new = Policy.load(tmp_path / "run/checkpoints/last/policy")
    assert next(new.backbone.parameters()).dtype == torch.bfloat16  # type: ignore[attr-defined]
    assert all(x.dtype == torch.float32 for x in state(tmp_path / "run").values())


def test_frozen_parts_stay_and_parts_have_rates_of_their_own(folder: Path, tmp_path: Path) -> None:
    policy = wamkit.build(RAW)
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    parts = {"backbone": {"freeze": True}, "action_head": {"lr": 1e-3}}
    run(folder, tmp_path / "run", policy, parts=parts, steps=2, weight_decay=0)
    after = policy.state_dict()
    changed = {
        name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])
    }
    assert changed == {"action_head", "text_encoder"}
    rates = read_log(tmp_path / "run")[0]["lr"]
    assert set(rates) == {"action_head", "text_encoder"}
    assert rates["text_encoder"] == pytest.approx(3 * rates["action_head"])


def test_layers_that_run_again_give_the_same_gradients(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "plain", steps=3)
    run(folder, tmp_path / "again", steps=3, gradient_checkpointing=True)
    assert same(state(tmp_path / "plain"), state(tmp_path / "again"))


@pytest.mark.parametrize("head", ["reader", "latent_slot"])
def test_layers_run_again_for_every_way_to_join(head: str) -> None:
    raw = RAW | {"action_head": {"name": head}, "state": {"size": 0}}
    if head == "reader":
        raw["action_head"] = {"name": head, "layers": [0, 1]}
    grads = []
    for again in (False, True):
        policy = wamkit.build(raw)
        batch = batch_of(policy.spec)
        policy.runner.recompute = again
        policy.loss(batch, seed=0).total.backward()
        grads.append({n: p.grad for n, p in policy.named_parameters() if p.grad is not None})
    assert same(*grads)


def test_bfloat16_keeps_weights_in_float32(folder: Path, tmp_path: Path) -> None:
    policy = wamkit.build(RAW)
    run(folder, tmp_path / "half", policy, steps=2, precision="bfloat16")
    run(folder, tmp_path / "full", steps=2)
    assert all(p.dtype == torch.float32 for p in policy.parameters())
    half, whole = (read_log(tmp_path / n)[0]["loss"] for n in ("half", "full"))
    assert half == pytest.approx(whole, rel=2e-2) and half != whole


def test_a_loss_that_is_not_finite_stops_with_the_state_before_and_names_the_samples(
    folder: Path, tmp_path: Path
) -> None:
    policy = wamkit.build(RAW)

    def poison(step: int, metrics: Any) -> None:
        if step == 2:
            kept.update({n: x.clone() for n, x in policy.state_dict().items()})
            policy.schedules["action"] = Broken(policy.schedules["action"])  # type: ignore[assignment]

    class Broken:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            if name == "config":
                return self.real.config.model_copy(update={"loss_weight": float("nan")})
            return getattr(self.real, name)

    kept: dict[str, Tensor] = {}
    with pytest.raises(WamkitError, match="the loss of update 3 is not finite; its samples: ") as e:
        run(folder, tmp_path / "run", policy, on_step=poison, ema=None)
    assert e.value.what.count("episode") == 4 and "wamkit data check" in e.value.hint
    last = tmp_path / "run/checkpoints/last"
    assert last.resolve().name == "step-000002"
    assert same(read_saved_state(tmp_path / "run"), kept)
    done = run(folder, tmp_path / "run", ema=None, resume=True)
    run(folder, tmp_path / "healthy", ema=None)
    assert done.step == 6 and same(state(tmp_path / "run"), state(tmp_path / "healthy"))


@pytest.mark.parametrize("what", ["loss (action)", "gradient (action_head)"])
def test_the_part_whose_loss_or_gradient_is_not_finite_is_named(
    folder: Path, tmp_path: Path, what: str
) -> None:
    policy = wamkit.build(RAW)
    weights = list(policy.action_head.parameters())  # type: ignore[attr-defined]
    if what.startswith("gradient"):
        weights[0].register_hook(lambda gradient: gradient * float("inf"))
    else:
        weights[-1].data[0] = float("nan")  # it decodes actions, and no image
    with pytest.raises(WamkitError) as error:
        run(folder, tmp_path / "run", policy, steps=2, ema=None)
    assert error.value.what.startswith(f"the {what} of update 1 is not finite; its samples: ")


def test_a_kill_while_saving_loses_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = checkpoints.finish

    def die(part: Path, goal: Path) -> None:
        if goal.name == "step-000006":
            raise SystemExit("killed")
        real(part, goal)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "finish", die)
        with pytest.raises(SystemExit):
            run(folder, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints"
    assert [part.is_dir() for part in place.glob(".step-000006.*")] == [True]
    assert (place / "last").resolve().name == "step-000003"
    run(folder, tmp_path / "run", resume=True)
    run(folder, tmp_path / "whole")
    assert same(state(tmp_path / "run"), state(tmp_path / "whole"))
    assert not list(place.glob(".*"))


def test_the_newest_checkpoints_and_the_best_are_kept(folder: Path, tmp_path: Path) -> None:
    run(folder, tmp_path / "run", save_every=1, max_checkpoints=2, lr=1e-3)
    place = tmp_path / "run" / "checkpoints"
    lines = read_log(tmp_path / "run")
    held = {line["step"]: line["validation"]["loss"] for line in lines if "validation" in line}
    best = min(held, key=lambda step: held[step])
    assert (place / "best").resolve().name == f"step-{best:06d}"
    steps = {int(p.name[5:]) for p in place.glob("step-*")}
    assert steps == {5, 6, best}


def test_imagined_futures_are_drawn_next_to_the_real_ones(folder: Path, tmp_path: Path) -> None:
    from PIL import Image

    run(folder, tmp_path / "run", steps=2, imagine_every=2)
    with Image.open(tmp_path / "run/imagined/step-000002.png") as sheet:
        assert sheet.size == (3 * 16, 2 * 16 + 4)


def test_a_run_is_not_overwritten_and_not_resumed_as_another(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WamkitError, match="there is no run in"):
        run(folder, tmp_path / "run", resume=True)
    run(folder, tmp_path / "run", steps=1)
    with pytest.raises(WamkitError, match=r"is not empty\n  hint: go on with --resume"):
        run(folder, tmp_path / "run", steps=1)
    with pytest.raises(WamkitError, match="another seed and another lr"):
        run(folder, tmp_path / "run", resume=True, lr=1e-2, seed=3)
    with pytest.raises(WamkitError, match="another spec"):
        run(folder, tmp_path / "run", wamkit.build(RAW, ["seed=1"]), resume=True)


def test_the_gradient_noise_scale_is_logged_with_several_passes(
    folder: Path, tmp_path: Path
) -> None:
    run(folder, tmp_path / "run", gradient_accumulation_steps=4, steps=4)
    lines = [x for x in read_log(tmp_path / "run") if "loss" in x]
    assert all("noise_scale" in line and line["gradient"] > 0 for line in lines)


def test_a_batch_must_divide_and_data_must_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WamkitError, match="a batch of 4 cannot be cut into 1 processes x 3"):
        run(folder, tmp_path / "run", gradient_accumulation_steps=3)
    other = wamkit.build(RAW | {"state": {"size": 3}})
    with pytest.raises(WamkitError, match="the spec has 3 values"):
        run(folder, tmp_path / "run", other)
    with pytest.raises(WamkitError, match="nothing to learn there"):
        run(folder, tmp_path / "run", parts={"latent_adapter": {"lr": 1}})
    assert not (tmp_path / "run").exists()


def test_values_are_those_of_demonstrations_that_succeed(folder: Path, tmp_path: Path) -> None:
    raw = RAW | {"paradigm": {"name": "planning"}}
    policy = wamkit.build(raw)
    samples = Samples(folder, policy.spec, discount=0.5)
    values = collate([samples[i] for i in (0, 5, 9)]).value
    assert values is not None
    assert values.tolist() == pytest.approx([2 * 0.5**5 - 1, 1.0, 1.0])  # 4 actions, 10 frames
    run(folder, tmp_path / "run", policy, steps=1)
    assert "value" in read_log(tmp_path / "run")[0]["parts"]


def test_shards_together_are_the_batch() -> None:
    batch = batch_of(parse(RAW), size=6)
    parts = [shard(batch, k, 3) for k in range(3)]
    assert [p.observation.prompt for p in parts] == [
        ("task 0", "task 3"),
        ("task 1", "task 4"),
        ("task 2", "task 5"),
    ]
    assert torch.equal(torch.stack([p.actions for p in parts], 1).flatten(0, 1), batch.actions)
    assert seed_of(1, 2) == seed_of(1, 2) != seed_of(12)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("one_cycle", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1]),
    ],
)
def test_learning_rates(schedule: Any, shares: list[float]) -> None:
    config = TrainConfig(steps=6, schedule=schedule, warmup_ratio=1 / 3, min_lr_ratio=0.1)
    assert [share_of_peak(config, step) for step in range(6)] == pytest.approx(shares)


def test_settings_come_from_a_file_and_from_arguments(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("lr = 1e-3\n[parts.backbone]\nfreeze = true\n")
    config = read_config(
        tmp_path / "t.toml", ["lr=2e-3", "max_grad_norm=none", "betas=[0.9, 0.99]"]
    )
    assert (config.lr, config.max_grad_norm, config.betas) == (2e-3, None, (0.9, 0.99))
    assert config.parts.backbone.freeze
    with pytest.raises(WamkitError, match=r"bach: no such key\n?.*did you mean 'batch_size'"):
        read_config(None, ["bach=3"])
    with pytest.raises(WamkitError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
