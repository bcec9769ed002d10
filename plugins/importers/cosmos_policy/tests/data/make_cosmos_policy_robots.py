"""Record whole runs of Cosmos Policy's own code on RoboCasa and ALOHA, at tiny size.

Run it as `make_cosmos_policy_tiny.py`, which holds what both need, in the same checkout (commit
18a2acc), with iopath and draccus besides: `PYTHONPATH=. python make_cosmos_policy_robots.py
OUT.safetensors`. The network has the weights that the other script records.

What is theirs: the sizes of the experiments' configurations, the settings that the evaluations
start with, RoboCasa's loop of an episode (`run_episode`), ALOHA's client (`prepare_observation`)
and server (`PolicyServer.get_server_action`), and all that they call, apart from what the other
script names. What is not: a kitchen that shows the same images and state at every step stands in
for the simulator, and the payload goes from client to server without HTTP. (Their client reads
`value_predictions`, which their server calls `value_prediction`.) Images have 48 pixels for
RoboCasa; ALOHA's cameras have 480 x 640, its policy 64. Chunks, actions and states have the
published sizes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import make_cosmos_policy_tiny as tiny
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

PIXELS = {"robocasa": 48, "aloha": 64}
EXPERIMENTS = {
    "robocasa": "cosmos_predict2_2b_480p_robocasa_50_demos_per_task__inference",
    "aloha": "cosmos_predict2_2b_480p_aloha_185_demos_4_tasks_mixture_foldshirt15_candiesinbowl45_"
    "candyinbag45_eggplantchickenonplate80__inference_only",
}
WAIT = 10
"""Steps that RoboCasa's loop waits before it acts."""


def imported(name: str) -> Any:
    """One of their modules, with stubs for what is missing."""
    while True:
        try:
            return import_module(f"cosmos_policy.{name}")
        except ModuleNotFoundError as error:
            tiny.stub(str(error.name))


def image_of(camera: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """An image [height, width, 3] uint8 that needs no file."""
    y, x, c = np.meshgrid(*(np.arange(n) for n in (height, width, 3)), indexing="ij")
    found = 7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera
    return np.asarray(found % 256, dtype=np.uint8)


def inherited(configs: Any, name: str, *keys: str) -> Any:
    """A setting of one of their experiments, or of the one that it says it starts from."""
    found: Any = getattr(configs, name)
    parent = found["defaults"][0].removeprefix("/experiment/")
    for key in keys:
        found = found.get(key) if found is not None else None
    return inherited(configs, parent, *keys) if found is None else found


def statistics(rng: torch.Generator, actions: int, state: int) -> dict[str, Tensor]:
    """Ranges of a data set; those of a state are powers of two, for states that stay exact."""
    found = {}
    for kind, size in (("actions", actions), ("proprio", state)):
        low = torch.randint(-8, 8, (size,), generator=rng).double() / 8
        width = 2.0 ** torch.randint(-2, 2, (size,), generator=rng).double()
        if kind == "actions":
            width = width * torch.rand(size, generator=rng).double()
        found |= {f"{kind}_min": low, f"{kind}_max": low + width}
    return found


class Kitchen:
    """Stands in for RoboCasa: shows the same at every step, and ends once `steps` were made."""

    action_dim = 12
    action_spec = (np.zeros(12), np.zeros(12))

    def __init__(self, seen: dict[str, Any], steps: int) -> None:
        self.seen, self.steps = seen, steps
        self.received: list[Any] = []

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, dict[str, Any]]:
        self.received.append(action)
        return self.seen, 0.0, False, {}

    def _check_success(self) -> bool:
        return len(self.received) == self.steps


def kept(module: Any) -> list[dict[str, Any]]:
    """What their `get_action` returns to the code of a module, from now on."""
    found, inner = [], module.get_action

    def call(*given: Any, **named: Any) -> Any:
        found.append(inner(*given, **named))
        return found[-1]

    module.get_action = call
    return found


def robocasa(theirs: Any, stats: Any, state: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    evaluation, side = imported("experiments.robot.robocasa.run_robocasa_eval"), PIXELS["robocasa"]
    names = ("eye_in_hand", "agentview_left", "agentview_right")
    seen = {f"robot0_{name}_image": image_of(i, side, side) for i, name in enumerate(names)}
    ends = {"gripper_qpos": state[:2], "eef_pos": state[2:5], "eef_quat": state[5:]}
    seen |= {f"robot0_{name}": value for name, value in ends.items()}
    cfg = evaluation.PolicyEvalConfig(env_img_res=side)
    kitchen, outputs = Kitchen(seen, WAIT + cfg.num_open_loop_steps), kept(evaluation)
    evaluation.run_episode(cfg, kitchen, tiny.TASK, theirs, None, stats, None, 0)
    (out,) = outputs
    return out, {"executed": torch.from_numpy(np.stack(kitchen.received[WAIT:]))}


def aloha(theirs: Any, stats: Any, state: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    deploy = imported("experiments.robot.aloha.deploy")
    client = imported("experiments.robot.aloha.run_aloha_eval")
    names = ("cam_left_wrist", "cam_right_wrist", "cam_high")
    images = {name: image_of(i, 480, 640) for i, name in enumerate(names)}
    deploy.JSONResponse = lambda content: content
    server = deploy.PolicyServer.__new__(deploy.PolicyServer)
    server.cfg, server.model, server.planning_model = deploy.DeployConfig(), theirs, None
    server.dataset_stats, server.worker_pool = stats, None
    outputs, cfg = kept(deploy), client.PolicyEvalConfig(input_image_size=PIXELS["aloha"])
    observed = SimpleNamespace(observation={"images": images, "qpos": state})
    payload = client.prepare_observation(observed, resize_size=cfg.input_image_size)[0]
    payload["task_description"] = tiny.TASK
    response = server.get_server_action(payload)
    (out,) = outputs
    executed = response["actions"][: cfg.num_open_loop_steps]
    return out, {"executed": torch.from_numpy(np.stack(executed))}


def run(
    suite: str, play: Callable[..., tuple[dict[str, Any], dict[str, Tensor]]], text: Tensor
) -> dict[str, Tensor]:
    """A whole run on one robot, from images, state and prompt to what the robot receives."""
    configs = imported("config.experiment.cosmos_policy_experiment_configs")
    sizes = getattr(imported("constants"), f"{suite.upper()}_CONSTANTS")
    utils, misc = imported("experiments.robot.cosmos_utils"), imported("_src.imaginaire.utils.misc")
    rng, side = torch.Generator().manual_seed(len(suite)), PIXELS[suite]
    theirs = tiny.model(tiny.network(), tiny.Tokenizer())
    for name in ("state_t", "min_num_conditional_frames", "max_num_conditional_frames"):
        value = inherited(configs, EXPERIMENTS[suite], "model", "config", name)
        setattr(theirs.config, name, value)
    frames = theirs.config.state_t
    noise = torch.randn(1, 16, frames, side // 8, side // 8, generator=rng)
    left = [noise.double()]
    misc.arch_invariant_rand = lambda *given, **named: left.pop(0)
    utils.COSMOS_IMAGE_SIZE, utils.ACTION_DIM = side, sizes["ACTION_DIM"]
    utils.t5_text_embeddings_cache[tiny.TASK] = text
    stats = statistics(rng, sizes["ACTION_DIM"], sizes["PROPRIO_DIM"])
    low, high = stats["proprio_min"], stats["proprio_max"]
    exact = torch.randint(-64, 64, (sizes["PROPRIO_DIM"],), generator=rng).double() / 64
    state = (exact + 1) / 2 * (high - low) + low
    out, found = play(theirs, {k: v.numpy() for k, v in stats.items()}, state.numpy())
    chunk = inherited(configs, EXPERIMENTS[suite], "dataloader_train", "dataset", "chunk_size")
    assert not left and len(out["actions"]) == chunk == sizes["NUM_ACTIONS_CHUNK"]
    found |= {
        "state": state, "noise": noise, "frames": torch.tensor(frames),
        "pixels": torch.from_numpy(out["all_camera_images"]),
        "actions": torch.from_numpy(np.stack(out["actions"])),
        "value": torch.tensor(out["value_prediction"], dtype=torch.float64),
    }  # fmt: skip
    found |= {k: torch.from_numpy(v) for k, v in out["future_image_predictions"].items()}
    found |= {f"statistics/{k}": v for k, v in stats.items()}
    return {f"{suite}/{k}": v.contiguous() for k, v in found.items()}


def main(out: str) -> None:
    tiny.load_theirs()
    imported("_src.imaginaire.utils.checkpoint_db").get_checkpoint_path = str  # nothing is loaded
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(-64, 64, (1, 5, tiny.TEXT), generator=draws).float() / 64
    state = {"text": text.bfloat16()}
    for suite, play in (("robocasa", robocasa), ("aloha", aloha)):
        state |= run(suite, play, state["text"])
    save_file(state, out)


if __name__ == "__main__":
    main(sys.argv[1])
