"""Record what Cosmos Policy's own code computes at tiny size, for `test_cosmos_policy.py`.

Run it inside a checkout of https://github.com/NVlabs/cosmos-policy (commit 18a2acc) as
`PYTHONPATH=. python make_cosmos_policy_tiny.py OUT.safetensors`, with torch, torchvision, einops,
megatron-core, hydra-core and wamkit, on a CPU.

What is theirs: the network (`MinimalV1LVGDiT`), conditioning, slots, losses and sampler
(`CosmosPolicyVideo2WorldModel`, `CosmosPolicySampler`, `HybridEDMSDE`) and the whole way from
camera images to actions (`cosmos_utils.get_action` and its two stages of planning). What is not:
modules that compute nothing here are stubs; Transformer Engine's RMSNorm and rotary embedding are
written below in torch; the VAE is wamkit's tiny one, and text embeddings are random. Everything
runs in float64 with images of 32 pixels; `.cuda()` returns the tensor itself. Normalized states and
text embeddings are exact in bfloat16, to which their code rounds both.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import diffusers  # noqa: F401  (before anything is a stub)
import megatron.core  # noqa: F401
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel  # noqa: F401

from wamkit.config.spec import parse_part
from wamkit.testing.tolerance import to_float64

SIZE, CHUNK, ACTIONS, STATE, TEXT = 32, 6, 4, 3, 16
TASK = "put the bowl on the plate"
SEED = 0


class Stub(types.ModuleType):
    """A module whose every name is an empty class."""

    __version__ = "2.8.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stub(name: str, **content: Any) -> None:
    module = Stub(name)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__dict__.update(content)
    sys.modules[name] = module


def rotate(x: Tensor, angles: Tensor, tensor_format: str, fused: bool) -> Tensor:
    """Rotary embedding of x [B, S, H, E] by angles [S, 1, 1, E], halves paired."""
    angles = angles.squeeze(1).squeeze(1)[None, :, None].to(x.dtype)
    first, second = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-second, first], -1) * angles.sin()


def load_theirs() -> None:
    """Import their modules, with stubs for what is missing."""
    norm = type("RMSNorm", (torch.nn.RMSNorm,), {})
    stub("transformer_engine.pytorch", RMSNorm=norm)
    stub("transformer_engine", pytorch=sys.modules["transformer_engine.pytorch"])
    stub("transformer_engine.pytorch.attention")
    stub("transformer_engine.pytorch.attention.rope", apply_rotary_pos_emb=rotate)
    theirs = "cosmos_policy._src.predict2"
    stub(f"{theirs}.text_encoders.text_encoder")
    stub(f"{theirs}.networks.clip")
    stub(f"{theirs}.models.video2world_wan2pt1_model")
    torch.Tensor.cuda = lambda self, *given, **named: self  # type: ignore[method-assign, assignment]
    while True:
        try:
            import cosmos_policy._src.predict2.networks.minimal_v1_lvg_dit
            import cosmos_policy.config.conditioner.video2world_conditioner
            import cosmos_policy.experiments.robot.cosmos_utils
            import cosmos_policy.models.policy_video2world_model  # noqa: F401

            return
        except ModuleNotFoundError as error:
            stub(str(error.name))


class Tokenizer:
    """wamkit's tiny Wan 2.1 VAE in the form of their tokenizer."""

    latent_ch, spatial_compression_factor = 16, 8

    def __init__(self) -> None:
        from wamkit.checkpoints.random_weights import build_seeded  # as a policy makes it
        from wamkit.config.spec import parse

        self.spec = parse(spec())
        make = self.spec.vae.build
        self.vae: Any = to_float64(build_seeded(self.spec, "vae", make, "cpu"))

    def encode(self, pixels: Tensor) -> Tensor:
        return self.vae.encode(pixels)

    def decode(self, z: Tensor) -> Tensor:
        return self.vae.decode(z)

    def get_latent_num_frames(self, images: int) -> int:
        return 1 + (images - 1) // 4

    def get_pixel_num_frames(self, frames: int) -> int:
        return 1 + (frames - 1) * 4


def spec() -> dict[str, Any]:
    """A spec with this VAE; the rest does not matter here."""
    return {
        "backbone": {"name": "cosmos", "variant": "tiny"},
        "vae": {"name": "wan2.1", "width": "tiny"},
        "text_encoder": "bytes",
        "action_head": "latent_slot",
        "paradigm": "conditional",
        "actions": {"chunk_size": CHUNK, "groups": [{"name": "arm", "size": ACTIONS}]},
        "cameras": {"views": [{"name": "a", "size": [SIZE, SIZE]}]},
        "seed": SEED,
    }


def network() -> Any:
    from cosmos_policy._src.predict2.networks.minimal_v1_lvg_dit import MinimalV1LVGDiT

    torch.manual_seed(0)
    net = MinimalV1LVGDiT(
        max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
        patch_spatial=2, patch_temporal=1, concat_padding_mask=True, model_channels=24,
        num_blocks=2, num_heads=2, mlp_ratio=2.0, atten_backend="torch",
        crossattn_emb_channels=TEXT, pos_emb_cls="rope3d", pos_emb_learnable=True,
        pos_emb_interpolation="crop", use_adaln_lora=True, adaln_lora_dim=4,
        rope_h_extrapolation_ratio=3.0, rope_w_extrapolation_ratio=3.0,
        rope_t_extrapolation_ratio=1.0, rope_enable_fps_modulation=False,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
    return net.eval()


def published() -> dict[str, Tensor]:
    """Shapes of the tensors of the released 2B network, of one block and around the blocks."""
    from cosmos_policy._src.predict2.networks.minimal_v1_lvg_dit import MinimalV1LVGDiT

    with torch.device("meta"):
        net = MinimalV1LVGDiT(
            max_img_h=240, max_img_w=240, max_frames=128, in_channels=16, out_channels=16,
            patch_spatial=2, patch_temporal=1, concat_padding_mask=True, model_channels=2048,
            num_blocks=28, num_heads=16, atten_backend="torch", pos_emb_cls="rope3d",
            pos_emb_learnable=True, pos_emb_interpolation="crop", use_adaln_lora=True,
            adaln_lora_dim=256, rope_h_extrapolation_ratio=3.0, rope_w_extrapolation_ratio=3.0,
            rope_t_extrapolation_ratio=1.0, rope_enable_fps_modulation=False,
        )  # fmt: skip
    state = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    first = {name for name in state if name.startswith("blocks.0.")}
    for name in first:
        assert all(state[name.replace("s.0.", f"s.{i}.", 1)] == state[name] for i in range(28))
    kept = first | {name for name in state if not name.startswith("blocks.")}
    return {f"net.{name}": torch.tensor(state[name], dtype=torch.int32) for name in kept}


def model(net: Any, tokenizer: Tokenizer) -> Any:
    """Their model around the network, as the LIBERO configuration sets it up for acting."""
    from cosmos_policy._src.imaginaire.modules.denoiser_scaling import RectifiedFlowScaling
    from cosmos_policy._src.predict2.conditioner import BooleanFlag, ReMapkey, TextAttr
    from cosmos_policy.config.conditioner.video2world_conditioner import Video2WorldConditioner
    from cosmos_policy.models.policy_video2world_model import CosmosPolicyVideo2WorldModel
    from cosmos_policy.modules.cosmos_sampler import CosmosPolicySampler
    from cosmos_policy.modules.hybrid_edm_sde import HybridEDMSDE

    class Text(TextAttr):
        """Text embeddings, which `get_action` makes bfloat16, in the network's dtype."""

        def forward(self, token: Tensor) -> dict[str, Tensor]:
            return super().forward(token.double())

    made: Any = CosmosPolicyVideo2WorldModel.__new__(CosmosPolicyVideo2WorldModel)
    torch.nn.Module.__init__(made)
    made.config = types.SimpleNamespace(
        sigma_data=1.0, sigma_conditional=0.0, state_t=9, state_ch=16, scaling="rectified_flow",
        min_num_conditional_frames=4, max_num_conditional_frames=4, conditional_frames_probs=None,
        denoise_replace_gt_frames=True, use_flowunipc_scheduler=False, use_wan_fp32_strategy=False,
        high_sigma_strategy="none", mask_loss_for_action_future_state_prediction=False,
        mask_value_prediction_loss_for_policy_prediction=False,
        mask_current_state_action_for_value_prediction=False,
        mask_future_state_for_qvalue_prediction=False, action_loss_multiplier=1,
        input_image_key="images", input_data_key="video",
    )  # fmt: skip
    made.tensor_kwargs = {"device": "cpu", "dtype": torch.float64}
    made.precision, made.sigma_data = torch.float64, 1.0
    made.input_image_key, made.input_data_key = "images", "video"
    made.sde = HybridEDMSDE(
        hybrid_sigma_distribution=True, p_mean=1.3862943611198906, p_std=1.2, sigma_max=80,
        sigma_min=4, uniform_lower=1.0, uniform_upper=85.0,
    )  # fmt: skip
    made.scaling, made.sampler = RectifiedFlowScaling(1.0), CosmosPolicySampler()
    made.tokenizer, made.net = tokenizer, to_float64(net)
    made.net.disable_context_parallel = lambda: None  # it would make a CUDA stream
    made.conditioner = Video2WorldConditioner(
        fps=ReMapkey(input_key="fps", output_key="fps", dropout_rate=0.0, dtype=None),
        padding_mask=ReMapkey(
            input_key="padding_mask", output_key="padding_mask", dropout_rate=0.0, dtype=None
        ),
        text=Text(input_key=["t5_text_embeddings"], dropout_rate=0.0),
        use_video_condition=BooleanFlag(
            input_key="fps", output_key="use_video_condition", dropout_rate=0.0
        ),
    )
    return made


def settings(suite: str = "libero", **changes: Any) -> Any:
    """The settings of their evaluation that the published results were made with."""
    given = {
        "suite": suite, "use_proprio": True, "normalize_proprio": True, "unnormalize_actions": True,
        "use_wrist_image": True, "num_wrist_images": 1, "use_third_person_image": True,
        "num_third_person_images": 1, "use_jpeg_compression": True, "trained_with_image_aug": True,
        "use_variance_scale": False, "chunk_size": CHUNK,
        "mask_current_state_action_for_value_prediction": False,
        "value_ensemble_aggregation_scheme": "majority_mean",
    }  # fmt: skip
    return types.SimpleNamespace(**(given | changes))


def smooth_image(rng: np.random.RandomState, size: int) -> np.ndarray[Any, Any]:
    """A smooth 8-bit image."""
    from PIL import Image

    small = (rng.rand(6, 6, 3) * 255).astype(np.uint8)
    return np.array(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))


STATS = {
    "actions_min": [-1.0, -0.5, -2.0, 0.0], "actions_max": [1.0, 0.75, 2.5, 1.0],
    "proprio_min": [-2.0, 0.0, -1.0], "proprio_max": [2.0, 4.0, 1.0],
}  # fmt: skip


def act(theirs: Any, given: dict[str, Tensor], noise: list[Tensor]) -> dict[str, Tensor]:
    """Actions from images, the future of the action, and its value."""
    from cosmos_policy._src.imaginaire.utils import misc
    from cosmos_policy.experiments.robot import cosmos_utils as utils

    left = [one.double() for one in noise]
    misc.arch_invariant_rand = lambda *given, **named: left.pop(0)
    utils.COSMOS_IMAGE_SIZE, utils.ACTION_DIM = SIZE, ACTIONS
    utils.t5_text_embeddings_cache[TASK] = given["text"]
    stats = {name: np.array(value) for name, value in STATS.items()}
    cameras = {name: np.flipud(given[name].numpy()) for name in ("wrist_image", "primary_image")}
    seen = {**cameras, "proprio": given["proprio"].numpy()}
    cfg = settings()
    out = utils.get_action(cfg, theirs, stats, seen, TASK, num_denoising_steps_action=5)
    found = {
        "pixels": torch.from_numpy(out["all_camera_images"]),
        "latent": out["generated_latent"].float(),
        "clean": out["orig_clean_latent_frames"].float(),
        "actions": torch.from_numpy(np.stack(out["actions"])),
        "value": torch.tensor(out["value_prediction"]),
    }
    found |= {k: torch.from_numpy(v) for k, v in out["future_image_predictions"].items()}
    places = {k: v for k, v in out["latent_indices"].items() if k.startswith("future")}
    future = utils.get_future_state_prediction(
        cfg, theirs, out["data_batch"], out["generated_latent"], out["orig_clean_latent_frames"],
        **places, num_denoising_steps_future_state=1,
    )  # fmt: skip
    found["planned_latent"] = future["future_state_samples_list"][0].float()
    value = utils.get_value_prediction(
        cfg, theirs, out["data_batch"], future["future_state_samples_list"],
        num_denoising_steps_value=5,
    )  # fmt: skip
    found["planned_value"] = torch.tensor(value["value_prediction"])
    assert not left
    return found


def train(theirs: Any, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss of one sample of each kind: policy, world model and value function."""
    from cosmos_policy.experiments.robot import cosmos_utils as utils

    cfg, batch = settings(), 3
    frames = []
    for i in range(batch):
        views = [given[f"train_{when}_{view}"][i].numpy() for when in "ab" for view in "wp"]
        wrist, primary, next_wrist, next_primary = utils.prepare_images_for_model(
            [np.flipud(one) for one in views], cfg
        )
        black = np.zeros_like(wrist)
        order = [black, wrist, primary, black, black, next_wrist, next_primary, black]
        frames.append(np.stack([black, *(one for one in order for _ in range(4))]))
    video = torch.from_numpy(np.stack(frames)).permute(0, 4, 1, 2, 3).contiguous()

    def places(at: int) -> Tensor:
        return torch.full((batch,), at)

    data = {
        "video": video, "t5_text_embeddings": given["text"].double().repeat(batch, 1, 1),
        "fps": torch.full((batch,), 16.0), "padding_mask": torch.zeros(batch, 1, SIZE, SIZE),
        "actions": given["train_actions"].double(), "proprio": given["train_proprio"].double(),
        "future_proprio": given["train_next_proprio"].double(),
        "value_function_return": given["train_value"].double(),
        "rollout_data_mask": torch.tensor([0, 1, 1]),
        "world_model_sample_mask": torch.tensor([0, 1, 0]),
        "value_function_sample_mask": torch.tensor([0, 0, 1]),
        "current_proprio_latent_idx": places(1), "current_wrist_image_latent_idx": places(2),
        "current_image_latent_idx": places(3), "action_latent_idx": places(4),
        "future_proprio_latent_idx": places(5), "future_wrist_image_latent_idx": places(6),
        "future_image_latent_idx": places(7), "value_latent_idx": places(8),
    }  # fmt: skip
    with torch.no_grad():
        _, x0, condition = theirs.get_data_and_condition(data)
        mask = condition.condition_video_input_mask_B_C_T_H_W.clone()
        named = {
            "action_chunk": "actions", "action_indices": "action_latent_idx",
            "proprio": "proprio", "current_proprio_indices": "current_proprio_latent_idx",
            "future_proprio": "future_proprio",
            "future_proprio_indices": "future_proprio_latent_idx",
            "future_wrist_image_indices": "future_wrist_image_latent_idx",
            "future_image_indices": "future_image_latent_idx",
            "rollout_data_mask": "rollout_data_mask",
            "world_model_sample_mask": "world_model_sample_mask",
            "value_function_sample_mask": "value_function_sample_mask",
            "value_function_return": "value_function_return", "value_indices": "value_latent_idx",
        }  # fmt: skip
        out, loss, _, _ = theirs.compute_loss_with_epsilon_and_sigma(
            x0.double(), condition, given["train_noise"].double(), given["train_sigma"].double(),
            future_wrist_image2_indices=None, future_image2_indices=None,
            **{theirs_: data[ours] for theirs_, ours in named.items()},
        )  # fmt: skip
    return {
        "mask": mask[:, 0, :, 0, 0].to(torch.uint8),
        "x0": out["x0"].float(), "predicted": out["model_pred"].x0.float(),
        "loss": loss.mean() * 10.0, "loss_per_frame": out["edm_loss_per_frame"],
    }  # fmt: skip


def levels() -> dict[str, Tensor]:
    """Sampling levels for 5 and 10 evaluations, and quantiles of a million training levels."""
    from cosmos_policy._src.imaginaire.modules.res_sampler import get_rev_ts
    from cosmos_policy.modules.hybrid_edm_sde import HybridEDMSDE

    found = {f"levels_{n}": get_rev_ts(4, 80, n - 1, 7.0) for n in (5, 10)}
    made: Any = HybridEDMSDE(
        hybrid_sigma_distribution=True, p_mean=1.3862943611198906, p_std=1.2, sigma_max=80,
        sigma_min=4, uniform_lower=1.0, uniform_upper=85.0,
    )  # fmt: skip
    torch.manual_seed(0)
    np.random.seed(0)
    rand, zeros, empty, tensor = torch.rand, torch.zeros, torch.empty, torch.tensor
    for name, plain in (("rand", rand), ("zeros", zeros), ("empty", empty), ("tensor", tensor)):
        made_on_cpu = lambda *a, _f=plain, **k: _f(*a, **(k | {"device": "cpu"}))  # noqa: E731
        setattr(torch, name, made_on_cpu)
    drawn = made.sample_t(200_000).double() * 3.0
    for name, plain in (("rand", rand), ("zeros", zeros), ("empty", empty), ("tensor", tensor)):
        setattr(torch, name, plain)
    sigma = drawn / (1 + drawn)
    found["quantiles"] = torch.quantile(sigma, torch.arange(1, 100).double() / 100)
    return found


def main(out: str) -> None:
    load_theirs()
    rng = np.random.RandomState(0)
    draws = torch.Generator().manual_seed(1)

    def exact(*shape: int, high: int = 64) -> Tensor:
        """Values in [-1, 1) that bfloat16 holds."""
        return torch.randint(-high, high, shape, generator=draws).float() / high

    half = [torch.tensor(STATS[f"proprio_{end}"]) for end in ("min", "max")]
    inputs = {
        "text": exact(1, 5, TEXT).bfloat16(),
        "proprio": ((exact(STATE) + 1) / 2 * (half[1] - half[0]) + half[0]).double(),
        "wrist_image": torch.from_numpy(smooth_image(rng, 40)),
        "primary_image": torch.from_numpy(smooth_image(rng, 40)),
        "noise": torch.randn(3, 1, 16, 9, 4, 4, generator=draws),
        "train_noise": torch.randn(3, 16, 9, 4, 4, generator=draws),
        "train_sigma": torch.tensor([[2.5], [30.0], [0.4]]),
        "train_actions": torch.rand(3, CHUNK, ACTIONS, generator=draws) * 2 - 1,
        "train_proprio": torch.rand(3, STATE, generator=draws) * 2 - 1,
        "train_next_proprio": torch.rand(3, STATE, generator=draws) * 2 - 1,
        "train_value": torch.tensor([0.5, -0.25, -1.0]),
    }
    for when in "ab":
        for view in "wp":
            some = np.stack([smooth_image(rng, SIZE) for _ in range(3)])
            inputs[f"train_{when}_{view}"] = torch.from_numpy(some)
    net = network()
    weights = {f"weights/net.{k}": v.clone() for k, v in net.state_dict().items()}
    theirs = model(net, Tokenizer())
    outputs = act(theirs, inputs, list(inputs["noise"]))
    outputs |= {f"train_{k}": v for k, v in train(theirs, inputs).items()}
    outputs |= levels()
    state = weights | {f"inputs/{k}": v for k, v in inputs.items()}
    state |= {f"outputs/{k}": v for k, v in outputs.items()}
    state |= {f"published/{k}": v for k, v in published().items()}
    state |= {f"statistics/{k}": torch.tensor(v, dtype=torch.float64) for k, v in STATS.items()}
    save_file({k: v.contiguous() for k, v in state.items()}, out)


if __name__ == "__main__":
    assert parse_part  # the import that registers wamkit's parts
    main(sys.argv[1])
