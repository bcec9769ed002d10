"""What test_in_lerobot.py runs, in the interpreter in which LeRobot and the plugin are installed.

    PYTHON in_lerobot.py FOLDER

FOLDER holds `data` (a data set), `spec.toml` and `saved`, a policy of it; results go there too, and
one line of JSON is printed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins

import wamkit
from wamkit.data import Columns, Samples, collate
from wamkit.errors import WamkitError

VIEW = {"top": "observation.images.top"}


def call(program: str, *args: str) -> None:
    """Run one of LeRobot's programs in this process."""
    import importlib

    sys.argv = [f"lerobot-{program}", *args]
    importlib.import_module(f"lerobot.scripts.lerobot_{program}").main()


def compare_batches(home: Path) -> dict[str, Any]:
    """Samples of LeRobot's loader, and of wamkit's, of the same frames."""
    from lerobot_policy_wamkit.batches import to_batch
    from lerobot_policy_wamkit.features import offsets

    config: Any = PreTrainedConfig.from_pretrained(home / "lerobot")
    config.pretrained_path = home / "lerobot"
    plain = LeRobotDataset("local/data", root=home / "data")
    times = resolve_delta_timestamps(config, plain.meta)
    data = LeRobotDataset("local/data", root=home / "data", delta_timestamps=times)
    policy: Any = make_policy(config, ds_meta=data.meta)
    chosen = [0, 9, 12]
    batch = torch.utils.data.default_collate([data[i] for i in chosen])
    pre, _ = make_pre_post_processors(config, str(home / "lerobot"))
    found = to_batch(policy.policy.spec, policy.keys, pre(batch), offsets(policy.policy.spec))
    samples = Samples(home / "data", policy.policy.spec, Columns(VIEW))
    right = collate([samples[i] for i in chosen])
    loss, parts = policy.forward(pre(batch))
    same = {
        name: bool(torch.equal(getattr(found, name), getattr(right, name)))
        for name in ("actions", "step_valid", "frame_valid")
    }
    mine, own = found.observation, right.observation
    assert mine.state is not None and own.state is not None
    same["state"] = bool(torch.equal(mine.state, own.state))
    same["images"] = bool(torch.equal(mine.images["top"], own.images["top"]))
    same["prompt"] = mine.prompt == own.prompt
    return {"same": same, "loss": float(loss.detach()), "parts": sorted(parts)}


def compare_actions(home: Path) -> dict[str, Any]:
    """Actions of two environments, and those of wamkit's own policy for the same seeds."""
    config: Any = PreTrainedConfig.from_pretrained(home / "lerobot")
    from lerobot_policy_wamkit.modeling_wamkit import WamkitPolicy

    mine = WamkitPolicy.from_pretrained(home / "lerobot", config=config)
    own = wamkit.Policy.load(home / "saved")
    images = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8)
    state = torch.rand(2, 2)
    batch = {VIEW["top"]: images.float() / 255, "observation.state": state, "task": ["a", "b"]}
    torch.manual_seed(0)
    with torch.inference_mode():
        actions = [mine.select_action(dict(batch)) for _ in range(10)]
    torch.manual_seed(0)
    seen = wamkit.Observation({"top": images[:, None]}, ["a", "b"], state)
    chunks = [own.act(seen, seed=torch.randint(2**31, (2,)).tolist()).values for _ in range(2)]
    right = torch.cat(chunks, 1)[:, :10].unbind(1)
    left = torch.full((10, 2), 0.5)
    held = mine.predict_action_chunk(batch | {"task": "a"}, 2, left)
    return {
        "difference": max(float((a - b).abs().max()) for a, b in zip(actions, right, strict=True)),
        "shape": list(actions[0].shape),
        "rtc": mine.supports_rtc(),
        "held": float((held[:, :2] - 0.5).abs().max()),
    }


def compare_memory(home: Path) -> dict[str, Any]:
    """Actions of a policy that remembers, and those of a session that is shown every image."""
    from lerobot_policy_wamkit.configuration_wamkit import WamkitConfig
    from lerobot_policy_wamkit.modeling_wamkit import WamkitPolicy

    changes = ["paradigm.name=autoregressive", "paradigm.chunks=2"]
    spec = home / "spec.toml"
    mine = WamkitPolicy(WamkitConfig(device="cpu", source=str(spec), overrides=changes))
    mine.eval()
    session = wamkit.build(spec, changes).session()
    images = torch.randint(0, 256, (2, 9, 3, 32, 32), dtype=torch.uint8)
    state = torch.rand(2, 2)
    worst = 0.0
    for clips in (False, True):  # a second episode begins anew, in environments that clip
        mine.reset()
        session.reset()
        torch.manual_seed(clips)
        actions: list[Any] = []
        for step in range(9):
            batch = {VIEW["top"]: images[:, step] / 255, "observation.state": state, "task": "a"}
            executed = actions[-1].clip(-0.1, 0.1) if clips and actions else None
            actions.append(mine.select_action(batch, executed))
        torch.manual_seed(clips)
        values = None
        for looks, row in ((images[:, :1], 0), (images[:, 1:], 8)):
            seen = wamkit.Observation({"top": looks}, ["a", "a"], state)
            past = values.clip(-0.1, 0.1) if clips and values is not None else None
            draws = torch.randint(2**31, (2,)).tolist()
            values = session.act(seen, past, seed=draws).values
            worst = max(worst, float((values[:, 0] - actions[row]).abs().max()))
    return {"memory": worst, "memory_rtc": mine.supports_rtc()}


def roll_out(home: Path) -> dict[str, int]:
    """Actions that a robot executes, without and with real-time chunking."""
    from robot_in_memory import InMemoryRobot

    found = {}
    for inference in ("sync", "rtc"):
        InMemoryRobot.executed = 0
        robot = ["--robot.type=robot_in_memory", "--fps=10", "--duration=2", "--task=push"]
        robot += ["--play_sounds=false", f"--inference.type={inference}", "--policy.device=cpu"]
        call("rollout", f"--policy.path={home / 'lerobot'}", *robot)
        found[inference] = InMemoryRobot.executed
    return found


def refusals(home: Path) -> dict[str, str]:
    """Messages about what does not fit."""
    from lerobot_policy_wamkit.configuration_wamkit import WamkitConfig, policy_features

    found = {}

    def attempt(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except WamkitError as error:
            found[name] = str(error)

    attempt("no policy", lambda: WamkitConfig(device="cpu").spec)
    config = WamkitConfig(device="cpu", source=str(home / "saved"))
    cameras = {f"observation.images.{name}": ("VISUAL", (3, 8, 8)) for name in "ab"}
    config.input_features = policy_features(cameras)
    config.output_features = policy_features({"action": ("ACTION", (7,))})
    attempt("features", config.validate_features)
    return found


def main(home: Path) -> None:
    """Convert, compare, train, and evaluate what was trained."""
    from lerobot_policy_wamkit.__main__ import main as convert

    register_third_party_plugins()
    found: dict[str, Any] = {"types": "wamkit" in PreTrainedConfig.get_known_choices()}
    found["converted"] = convert([str(home / "saved"), str(home / "lerobot")])
    found["again"] = convert([str(home / "saved"), str(home / "lerobot")])
    found |= compare_batches(home) | compare_actions(home) | compare_memory(home)
    found["refused"] = refusals(home)
    data = ["--dataset.repo_id=local/data", f"--dataset.root={home / 'data'}", "--batch_size=4"]
    data += ["--steps=2", "--save_freq=2", "--log_freq=1", "--num_workers=0", "--env_eval_freq=0"]
    device = ["--policy.device=cpu", "--policy.push_to_hub=false"]
    spec = f"--policy.source={home / 'spec.toml'}"
    call("train", "--policy.type=wamkit", spec, *device, *data, f"--output_dir={home / 'run'}")
    trained = home / "run" / "checkpoints" / "last" / "pretrained_model"
    call("train", f"--policy.path={trained}", *device, *data, f"--output_dir={home / 'more'}")
    found["files"] = sorted(p.name for p in trained.iterdir())
    own = wamkit.Policy.load(trained)
    found["statistics"] = sorted(own.statistics)
    before = wamkit.build(home / "spec.toml").state_dict()
    found["learned"] = any(not torch.equal(x, before[n]) for n, x in own.state_dict().items())
    rename = json.dumps({"observation.image": VIEW["top"]})
    evaluate = ["--env.type=pusht", "--env.episode_length=9", "--eval.n_episodes=2"]
    evaluate += ["--eval.batch_size=2", "--eval.use_async_envs=false"]
    evaluate += ["--policy.instruction=push the T onto the goal", "--policy.device=cpu"]
    more = home / "more" / "checkpoints" / "last" / "pretrained_model"
    named = {"path": [f"--policy.path={more}", f"--rename_map={rename}"]}
    named["type"] = ["--policy.type=wamkit", f"--policy.source={home / 'saved'}"]
    found["episodes"] = {}
    for name, policy in named.items():
        call("eval", *policy, *evaluate, f"--output_dir={home / name}")
        result = json.loads((home / name / "eval_info.json").read_text())
        found["episodes"][name] = result["overall"]["n_episodes"]
    found["executed"] = roll_out(home)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
