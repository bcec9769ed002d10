"""Record what DreamZero's own code computes at tiny size, for `test_dreamzero.py`.

Run it inside a checkout of https://github.com/dreamzero0/dreamzero (commit ab790c1) as
`PYTHONPATH=.:WAMKIT python make_dreamzero_tiny.py OUT.safetensors`, where WAMKIT is a checkout of
wamkit, with torch, torchvision, diffusers, transformers, accelerate, peft, hydra-core, einops,
gymnasium, opencv-python, pandas, ftfy and regex.

The file holds the weights of `CausalWanModel` under the names of a released checkpoint, one
training sample with what the network and the loss make of it, the visibility of a training pass,
the levels of the sampler, and an episode of four chunks as `GrootSimPolicy` runs it, from images,
state and instruction to actions in physical units. All but the images' steps is computed in
float64, where the published code writes bfloat16 or float32.

Authors' code: network, loss, noise schedules, sampler, the loop of chunks with its caches, its
guidance and its skipped evaluations, the transforms of images, states, actions and language, and
their inverse. Replaced: flash attention by torch's attention, CUDA by the CPU, compilation by
nothing, the width of CLIP tokens (1280) by 16, noise by recorded noise; VAE, CLIP tower and text
encoder by wamkit's, whose parity is shown elsewhere. Stubbed, as nothing of it is computed:
albumentations, decord, tianshou, tree.
"""

from __future__ import annotations

import sys

from make_dreamzero_stubs import CLIP, Sampler, dit, fill, on_cpu, submodule  # isort: skip

import torch
from groot.vla.model.dreamzero.modules.flow_match_scheduler import FlowMatchScheduler
from make_dreamzero_episode import ACTION, BLOCKS, FRAMES, STATE, STEPS, WIDTH, agibot, episode
from safetensors.torch import save_file
from torch import Tensor
from wamkit_toy.text_encoder import ByteEncoder

from wamkit.testing.tolerance import to_float64

TEXT = 16


def unguided(model: dit.CausalWanModel, text_len: int, frame_seqlen: int) -> dit.CausalWanModel:
    """The same weights without those of conditioning latents, as on Wan 2.2 TI2V-5B."""
    other = network(text_len, frame_seqlen, "ti2v")
    state = dict(model.state_dict())
    state["patch_embedding.weight"] = state["patch_embedding.weight"][:, :16]
    other.load_state_dict(state)
    return other


def network(
    text_len: int,
    frame_seqlen: int = 4,
    model_type: str = "i2v",
    slots: tuple[int, int] = (ACTION, STATE),
) -> dit.CausalWanModel:
    """The network with random weights, for so many values of an action and of a state."""
    torch.manual_seed(0)
    model = dit.CausalWanModel(
        model_type=model_type, frame_seqlen=frame_seqlen, text_len=text_len,
        in_dim=36 if model_type == "i2v" else 16, dim=WIDTH, ffn_dim=32,
        concat_first_frame_latent=model_type == "i2v",
        text_dim=TEXT, out_dim=16, num_heads=2, num_layers=2, max_chunk_size=BLOCKS,
        num_frame_per_block=FRAMES, action_dim=slots[0], max_state_dim=slots[1], hidden_size=20,
        num_action_per_block=STEPS,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            spread = 0.5 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * spread)
    return model.eval()


# --- one training sample -----------------------------------------------------------------------


def sample() -> dict[str, Tensor]:
    """A training sample, drawn in float32."""
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    frames, count = 1 + FRAMES * BLOCKS, BLOCKS * STEPS
    actions, states = normal(1, count, ACTION).tanh(), normal(1, BLOCKS, STATE).tanh()
    actions[..., 8:], states[..., 8:] = 0, 0
    return {
        "latents": normal(1, 16, frames, 4, 4),
        "noise_video": normal(1, 16, frames, 4, 4),
        "guide": normal(1, 20, frames, 4, 4),
        "actions": actions,
        "noise_action": normal(1, count, ACTION),
        "states": states,
        "text": normal(1, 8, TEXT),
        "clip": normal(1, 257, CLIP),
        "index": torch.tensor([[300, 100, 700, 950]]),  # of the first frame and of the blocks
    }


def training(model: dit.CausalWanModel, wide: dict[str, Tensor]) -> dict[str, Tensor]:
    """What network and loss make of a sample, with and without conditioning latents."""
    index, frames = wide["index"], 1 + FRAMES * BLOCKS
    flow = FlowMatchScheduler(shift=5, sigma_min=0.0, extra_one_step=True)
    flow.set_timesteps(1000, training=True)
    first, rest = index[:, :1], index[:, 1:].repeat_interleave(FRAMES, 1)
    times = flow.timesteps[torch.cat([first, rest], 1)]
    times_action = flow.timesteps[index[:, 1:].repeat_interleave(STEPS, 1)]

    def noised(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        flat = flow.add_noise(x.flatten(0, 1), noise.flatten(0, 1), t.flatten(0, 1))
        return flat.unflatten(0, t.shape)

    video, noise = (wide[k].transpose(1, 2) for k in ("latents", "noise_video"))
    noisy = noised(video, noise, times).transpose(1, 2)
    noisy_actions = noised(wide["actions"], wide["noise_action"], times_action)
    outputs = {"timesteps": times, "timesteps_action": times_action}
    for name, network in (("14b", model), ("5b", to_float64(unguided(model, 8, 4)))):
        with torch.enable_grad():  # without gradients, the published training pass fails
            velocity, velocity_action = network._forward_train(
                noisy, timestep=times, timestep_action=times_action, context=wide["text"],
                seq_len=4 * frames, clean_x=wide["latents"], y=wide["guide"],
                clip_feature=wide["clip"], action=noisy_actions, state=wide["states"],
                embodiment_id=torch.zeros(1, dtype=torch.long),
            )  # fmt: skip
        outputs |= {f"{name}/video": velocity.detach(), f"{name}/action": velocity_action.detach()}
    return outputs | losses(flow, outputs, wide, times, times_action)


def losses(
    flow: FlowMatchScheduler,
    outputs: dict[str, Tensor],
    wide: dict[str, Tensor],
    times: Tensor,
    acted: Tensor,
) -> dict[str, Tensor]:
    """As the end of `WANPolicyHead.forward` has them."""
    error = (outputs["14b/video"] - (wide["noise_video"] - wide["latents"])).square()
    weight = flow.training_weight(times.flatten(0, 1)).unflatten(0, times.shape)
    mask = (torch.arange(ACTION) < 8).double()
    missed = (outputs["14b/action"] - (wide["noise_action"] - wide["actions"])).square() * mask
    weight_action = flow.training_weight(acted.flatten(0, 1)).unflatten(0, acted.shape)
    return {
        "loss_video": (error.mean((1, 3, 4)) * weight).mean(),
        "loss_action": (missed.mean(2) * weight_action).mean(),
    }


# --- who attends to whom -----------------------------------------------------------------------


def visibility() -> Tensor:
    """The mask of a training pass, read off the published attention.

    Queries and keys are zero, so that a token's output is the mean of the values it sees, and
    values are one-hot. Order: clean frames, noisy frames, actions, states; one token a frame.
    """
    frames = 1 + FRAMES * BLOCKS
    register = BLOCKS * (STEPS + 1)
    size = 2 * frames + register
    size += size % 2
    layer = dit.CausalWanSelfAttention(
        size, 1, 1, local_attn_size=BLOCKS * FRAMES + 1, num_frame_per_block=FRAMES,
        num_action_per_block=STEPS,
    )  # fmt: skip
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
        for projection in (layer.v, layer.o):
            projection.weight.copy_(torch.eye(size))
    turn = submodule.rope_params(64, size)
    x = torch.eye(size)[None, : 2 * frames + register]
    with torch.no_grad():
        seen, _ = layer(x, turn[:frames, None], turn, turn, register)
    return (seen[0, :, : 2 * frames + register] > 0).to(torch.uint8)


def levels() -> dict[str, Tensor]:
    """The grid of the sampler, and the timesteps that the network is given."""
    found: dict[str, Tensor] = {}
    for steps in (4, 16):
        flow = Sampler(num_train_timesteps=1000, shift=1)
        flow.set_timesteps(steps, device="cpu", shift=5.0)
        found |= {f"{steps}/sigmas": flow.sigmas, f"{steps}/timesteps": flow.timesteps}
    return found


def main(out: str) -> None:
    model, encoder = network(8), fill(ByteEncoder(TEXT, 511), 13)
    groups: dict[str, dict[str, Tensor]] = {}
    groups["train"] = sample()
    with on_cpu():
        groups["trained"] = training(to_float64(model), to_float64(groups["train"]))
        groups["levels"] = levels()
        groups["mask"] = {"train": visibility()}
    model.text_len = 512
    groups["run"], groups["ran"], groups["statistics"] = episode(model, encoder)
    small, made, _ = episode(unguided(model, 512, 1), encoder, canvas=16)
    groups["run"]["noise_video_5b"] = small["noise_video"]
    groups["ran"] |= {f"5b/{name}": value for name, value in made.items() if "actions" in name}
    groups["agibot"] = agibot(groups["run"]["images"][:, 0])
    groups["weights"] = {f"action_head.model.{k}": v for k, v in model.state_dict().items()}
    state = {f"{group}/{k}": v for group, found in groups.items() for k, v in found.items()}
    for name, value in state.items():
        if value.dtype == torch.float64 and name.startswith("ran/"):
            state[name] = value.float()
    save_file({k: v.contiguous() for k, v in state.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
