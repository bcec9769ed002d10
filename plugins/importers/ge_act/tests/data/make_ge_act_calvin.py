"""Record a run of GE-Act's own evaluation on CALVIN at tiny size, for `test_ge_act_calvin.py`.

Run it as `make_ge_act_tiny.py`, with opencv, omegaconf and hydra too. The authors' code:
`load_policy` and `rollout` of `experiments/eval_calvin.py`, `MVActor` with the models it loads, and
the pipeline, by their settings of CALVIN with the sizes of `TINY`. Not theirs: the VAE
(`LinearVAE`), the text encoder (wamkit's bytes), the statistics, and the simulator, which shows
images drawn by `image_of`, as large as CALVIN's. All is computed in float64 on a CPU, where the
authors' actor chooses bfloat16 and a GPU.

The record holds the weights, 8 actions of each of four chunks in physical units, and what their
evaluation makes of images before the network has them at the published size.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import yaml
from make_ge_act_tiny import CHANNELS, MEMORY, PROMPT, TEXT, TextEncoder, Vae, build
from safetensors.torch import save_file
from torch import Tensor
from wamkit_toy.text_encoder import ByteEncoder

from wamkit.testing.tolerance import float64, to_float64

for name in ("decord", "calvin_agent", "calvin_agent.evaluation", "pytorch_lightning", "av"):
    sys.modules[name] = MagicMock()
for name in ("multistep_sequences", "utils"):
    sys.modules[f"calvin_agent.evaluation.{name}"] = MagicMock()
sys.modules["utils.calvin_env_wrapper"] = MagicMock()

from experiments import eval_calvin  # noqa: E402

MODELS = sys.modules[eval_calvin.MVActor.__module__]
SETTINGS = "configs/ltx_model/calvin/action_model_calvin.yaml"
TINY = {
    "diffusion_model.config.num_attention_heads": 2,
    "diffusion_model.config.attention_head_dim": 10,
    "diffusion_model.config.cross_attention_dim": 20,
    "diffusion_model.config.num_layers": 4,
    "diffusion_model.config.caption_channels": TEXT,
    "diffusion_model.config.action_num_attention_heads": 2,
    "diffusion_model.config.action_attention_head_dim": 4,
    "data.train.sample_size": [64, 64],
    "data.val.sample_size": [64, 64],
}
ACTION, STATE, CHUNKS = 7, 15, 4
SIZES = {"rgb_static": 200, "rgb_gripper": 84}


def image_of(camera: int, step: int, size: int) -> Tensor:
    """An image [size, size, 3] uint8 that needs no file."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (size, size, 3)), indexing="ij")
    return ((5 * y + 3 * x + 41 * c + (x * y) // 70 + 60 * camera + 9 * step) % 256).to(torch.uint8)


def observation(step: int, states: Tensor) -> dict[str, Any]:
    """What the simulator shows at a step."""
    images = {n: image_of(i, step, size).numpy() for i, (n, size) in enumerate(SIZES.items())}
    return {"rgb_obs": images, "robot_obs": states[step].numpy()}


class Simulator:
    """What `rollout` calls of the simulator."""

    def __init__(self, states: Tensor) -> None:
        self.states, self.taken = states, []

    def get_obs(self) -> dict[str, Any]:
        return observation(len(self.taken), self.states)

    def get_info(self) -> dict[str, Any]:
        return {}

    def step(self, action: Any) -> Any:
        self.taken.append(torch.from_numpy(action.copy()))
        return self.get_obs(), 0.0, False, {}


def statistics(rng: torch.Generator) -> dict[str, dict[str, list[float]]]:
    """The tables of the data set, as in the authors' file."""
    found = {}
    for name, size in (("calvin_eef", ACTION), ("calvin_state_eef", STATE)):
        low, wide = torch.randn(size, generator=rng), torch.rand(size, generator=rng) + 0.1
        rows = {"mean": low + wide / 2, "std": wide / 4, "min": low - wide, "max": low + 2 * wide}
        rows |= {"q01": low, "q99": low + wide}
        found[name] = {row: values.tolist() for row, values in rows.items()}
    return found


def load(folder: Path, vae: Vae, text: TextEncoder, tables: Any, weights: Any) -> Any:
    """The authors' actor, from their settings at tiny size."""
    settings = yaml.safe_load(Path(SETTINGS).read_text())
    files = {"data.val.stat_file": str(folder / "stats.json")}
    for dotted, value in {**TINY, **files}.items():
        *parents, last = dotted.split(".")
        table = settings
        for key in parents:
            table = table[key]
        table[last] = value
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    (folder / "stats.json").write_text(json.dumps(tables))
    save_file(weights, folder / "weights.safetensors")

    def stays(module: Any) -> Any:
        module.to = lambda *_, **__: module
        return module

    vae.enable_slicing = vae.enable_tiling = lambda: None  # type: ignore[assignment]
    made = MODELS.load_diffusion_model
    MODELS.load_diffusion_model = lambda **options: stays(made(**options))
    MODELS.load_condition_models = lambda *_, **__: {
        "tokenizer": text.tokenizer, "text_encoder": stays(text)
    }  # fmt: skip
    MODELS.load_latent_models = lambda *_, **__: {"vae": stays(vae)}
    actor = eval_calvin.load_policy(
        str(folder / "settings.yaml"), str(folder / "weights.safetensors"), "cpu"
    )
    actor.device, actor.dtype = "cpu", torch.float64
    return actor


def ran(actor: Any, states: Tensor) -> dict[str, Tensor]:
    """The chunks of an episode."""
    played: list[Tensor] = []
    play, executed = actor.play, inspect.signature(eval_calvin.run_eval).parameters
    steps = executed["execution_step"].default

    def keep(*args: Any, **kwargs: Any) -> Any:
        played.append(torch.from_numpy(play(*args, **kwargs)))
        return played[-1].numpy().copy()

    actor.play = keep
    oracle = SimpleNamespace(get_task_info_for_set=lambda *_: ())
    simulator, prompts = Simulator(states), {"task": [f"{PROMPT}\nand another"]}
    eval_calvin.rollout(
        simulator, actor, oracle, "task", prompts, 0, 0, CHUNKS * steps, execution_step=steps
    )
    taken = torch.stack(simulator.taken).unflatten(0, (CHUNKS, steps))
    return {"outputs/actions": torch.stack(played), "outputs/executed": taken}


def resized(states: Tensor) -> Tensor:
    """Images as the evaluation gives them to its actor, at the published size."""
    seen: list[Any] = []
    size = yaml.safe_load(Path(SETTINGS).read_text())["data"]["val"]["sample_size"]
    actor = SimpleNamespace(
        args=SimpleNamespace(data={"val": {"sample_size": size}}), action_dim=ACTION + STATE,
        play=lambda images, *_, **__: seen.append(images),
    )  # fmt: skip
    eval_calvin.get_action_func(observation(3, states), actor, PROMPT)
    return torch.from_numpy(seen[0])[:, ::5, ::5]  # [V, 52, 52, 3]


def main(out: str) -> None:
    rng = torch.Generator().manual_seed(1)
    weights = {k: v.bfloat16() for k, v in build(ACTION + STATE).state_dict().items()}
    torch.manual_seed(5)
    bytes_ = ByteEncoder(TEXT, 16).bfloat16().float()
    matrix, states = torch.randn(CHANNELS, 12, generator=rng), torch.randn(33, STATE, generator=rng)
    tables = statistics(rng)
    with TemporaryDirectory() as folder, float64():
        vae, text = Vae(matrix.double()), TextEncoder(to_float64(bytes_))
        actor = load(Path(folder), vae, text, tables, weights)
        found = ran(actor, states)
        shapes = (1, 54, ACTION + STATE), (2, CHANNELS, MEMORY + 2, 2, 2)
        noise = [torch.randn(s, generator=torch.Generator().manual_seed(42)) for s in shapes]
    found |= {f"weights/{k}": v for k, v in weights.items()}
    found |= {f"text/{k}": v.bfloat16() for k, v in bytes_.state_dict().items()}
    for name, rows in tables.items():
        found |= {f"statistics/{name}/{row}": torch.tensor(x) for row, x in rows.items()}
    found |= {
        "vae": matrix, "inputs/states": states, "inputs/noise_action": noise[0],
        "inputs/noise_video": noise[1][:, :, MEMORY:], "outputs/resized": resized(states),
    }  # fmt: skip
    save_file({k: v.contiguous().clone() for k, v in found.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
