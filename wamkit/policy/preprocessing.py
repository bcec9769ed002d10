"""Model inputs from observations and batches: latents, embeddings and normalized vectors.

`inference_inputs`: the observation, and zeros at noise level 1 for the modalities to denoise.
`training_inputs`: a training sample before any noise. `decode_video` goes back to images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engine.device import to_device
from ..engine.levels import CLEAN, level_of
from ..errors import WamkitError
from ..interfaces.types import Frames, ModelInputs, NoisyVectors, Text
from .clips import decode_latents, encode_canvas, vae_dtype
from .frame_order import join_views, places_of_frames
from .observation import Batch, Observation
from .view_latents import encode_by_view

if TYPE_CHECKING:
    from ..config.spec import PolicySpec
    from .policy import Policy


def inference_inputs(
    policy: Policy, observation: Observation, *, with_future: bool = True
) -> ModelInputs:
    """Build the inputs of one chunk: observed latents, and placeholders at noise level 1.

    Without target frames if not `with_future`, for paradigms that act without any.
    """
    spec = policy.spec
    expect_images(observation, spec.video.num_observed)
    state = normalized_state(policy, observation)  # before the expensive part
    canvas = canvas_of(policy, observation)
    z = encode_images(policy, canvas)
    batch, channels = z.shape[:2]
    frames = spec.latent_frames[1] if with_future else 0
    future = z.new_zeros(batch, channels, frames, *spec.target_size)
    if frames and spec.paradigm.targets_see_downscaled:
        future = torch.cat([target_latents(policy, canvas, z), future], 2)
    shapes = {"action": (batch, spec.actions.chunk_size, spec.actions.size)}
    if len(spec.predicts) > 1:
        sizes = spec.sizes
        shapes |= {part: (batch, 1, sizes.token_dim(part)) for part in spec.predicts[1:]}
    vectors = {part: z.new_zeros(shape) for part, shape in shapes.items()}
    cond = cond_latents(policy, canvas, spec.guided_images)
    return _inputs(policy, observation, z, future, cond, vectors, state, 1.0, canvas)


def training_inputs(policy: Policy, batch: Batch) -> ModelInputs:
    """Build clean training inputs: all chunks and images that the paradigm trains on.

    Raises WamkitError if the batch does not fit the spec.
    """
    spec = policy.spec
    if batch.latents is None:
        expect_images(batch.observation, spec.num_images)
    n, a = spec.steps, spec.actions.size
    if tuple(batch.actions.shape[1:]) != (n, a):
        raise WamkitError(
            f"actions {list(batch.actions.shape)}; this policy learns [B, {n}, {a}]",
            "change actions.chunk_size or actions.groups in the spec, or the data",
        )
    physical = _states_of_sample(policy, batch)
    actions = batch.actions  # made ready where they are, which is mostly the host
    valid = None if batch.step_valid is None else batch.step_valid.to(actions.device)
    actions = policy.actions.encode(actions, physical, valid)
    if spec.lead_steps:  # before the episode nothing moved
        rest = actions.new_zeros(len(actions), spec.lead_steps, a)
        actions = torch.cat([policy.actions.normalizer.encode(rest), actions], 1)
    vectors = {"action": to_device(actions, policy.device)}
    state = _state(policy, physical)
    for part in spec.predicts[1:]:
        vectors[part] = _learned_value(policy, part, batch)
    observed = spec.leading_frames + spec.latent_frames[0]
    if batch.latents is not None:
        if spec.backbone.traits.cond_channels:
            raise WamkitError(
                f"stored latents; this variant of {spec.backbone.name} is guided by the images "
                "themselves",
                "leave the latents out",
            )
        z = to_device(batch.latents, policy.device).float()
        z = policy.leading_frame.before(spec, policy.vae, z)
        clip = z[:, :, :observed], _future(policy, None, z), None
        return _inputs(policy, batch.observation, *clip, vectors, state, 0.0)
    canvas = canvas_of(policy, batch.observation)
    z = encode_images(policy, canvas)
    future = _future(policy, canvas, z)
    cond = cond_latents(policy, canvas, spec.num_images)
    seen = z[:, :, :observed]
    return _inputs(policy, batch.observation, seen, future, cond, vectors, state, 0.0, canvas)


def _future(policy: Policy, canvas: Tensor | None, z: Tensor) -> Tensor:
    """The latents of the future [B, C, T', h', w'], after the observed ones if targets see these.

    `z` are the latents of the whole clip.
    """
    if policy.spec.video.target_downscale > 1:
        z = target_latents(policy, canvas, z)
    spec = policy.spec
    observed = spec.leading_frames + spec.latent_frames[0]
    return z[:, :, 0 if spec.paradigm.targets_see_downscaled else observed :]


def target_latents(policy: Policy, canvas: Tensor | None, z: Tensor) -> Tensor:
    """The latents [B, C, T, h', w'] of a clip on the grid of target frames; `z` are its own."""
    times = policy.spec.video.target_downscale
    if policy.spec.video.target_pooling == "latents":
        return F.avg_pool3d(z, (1, times, times))
    if canvas is None:
        raise WamkitError(
            "stored latents; this policy learns from images that are made smaller",
            'leave the latents out, or set video.target_pooling = "latents"',
        )
    return encode_images(policy, downscale(canvas, times))


def _states_of_sample(policy: Policy, batch: Batch) -> Tensor | None:
    """The state at the beginning of a sample [B, P], or that of each chunk [B, n, P]; physical."""
    first, count = physical_state(policy, batch.observation), policy.spec.paradigm.states_per_sample
    if first is None or count == 1:
        return first
    found = None if batch.states is None else tuple(batch.states.shape[1:])
    if batch.states is None or found != (count, policy.spec.state.size):
        raise WamkitError(
            f"states of {found}; this policy learns from the state at the beginning of each of "
            f"{count} chunks",
            f"give Batch(states=...) as [B, {count}, {policy.spec.state.size}]",
        )
    return batch.states


def _learned_value(policy: Policy, part: str, batch: Batch) -> Tensor:
    """The next state or the value, as a vector to learn [B, 1, P] or [B, 1, 1]."""
    given: Tensor | None = getattr(batch, part)
    if given is None:
        raise WamkitError(
            f"this policy learns to predict the {part}, and the batch holds none",
            f"give Batch({part}=...), or choose a paradigm that does not predict it",
        )
    if part == "next_state":
        return to_device(policy.states.encode(given)[:, None], policy.device)
    # NaN: not known, and not learned from
    return to_device(given.float().nan_to_num().reshape(-1, 1, 1), policy.device)


def _inputs(
    policy: Policy,
    observation: Observation,
    z: Tensor,
    future: Tensor,
    cond: Tensor | None,
    vectors: Mapping[str, Tensor],
    state: Tensor | None,
    level: float,
    canvas: Tensor | None = None,
) -> ModelInputs:
    text = embed_prompts(policy, tuple(observation.prompt))
    if canvas is not None and (cond_embeds := image_embeds(policy, canvas)) is not None:
        text = text.with_fresh_chunk_cache(cond_embeds=cond_embeds)
    latent = {part: to_latent(policy, part, x) for part, x in vectors.items()}
    clips = build_clips(policy.spec, z, future, cond, level)
    inputs = build_inputs(text, clips, latent, state, level)
    return policy.action_head.prepare(inputs)


def build_clips(
    spec: PolicySpec, z: Tensor, future: Tensor, cond: Tensor | None, level: float
) -> tuple[Frames, Frames | None]:
    """Observed and imagined latents as one clip, or as two where targets have their own grid.

    Where targets see the observed frames at their own size, `future` begins with these.
    """
    again = z.shape[2] if spec.paradigm.targets_see_downscaled and future.shape[2] else 0
    observed, imagined = z.shape[2], future.shape[2] - again
    times, views = places_of_frames(spec, observed, imagined)
    levels = (CLEAN,) * observed + (level_of(level),) * imagined
    roles = ("context",) * observed, ("target",) * imagined
    if not imagined:
        seen = None if cond is None else cond[:, :, :observed]
        return Frames(z, roles[0], times, levels, seen, views), None
    if spec.video.target_downscale == 1:
        both = torch.cat([z, future], 2)
        return Frames(both, roles[0] + roles[1], times, levels, cond, views), None
    first = Frames(z, roles[0], times[:observed], levels[:observed], cond, views[:observed])
    if again:
        return first, Frames(future, ("seen",) * observed + roles[1], times, levels, views=views)
    theirs = times[observed:]
    if spec.video.target_times == "restart":
        theirs = tuple(time - theirs[0] for time in theirs)
    return first, Frames(future, roles[1], theirs, levels[observed:], views=views[observed:])


def build_inputs(
    text: Text,
    clips: tuple[Frames, Frames | None],
    vectors: Mapping[str, Tensor],
    state: Tensor | None,
    level: float,
) -> ModelInputs:
    """Inputs of clips (`build_clips`) and noised vectors [B, N, A], all at one noise level."""
    video, future = clips
    parts: dict[str, Any] = {part: NoisyVectors(x, level_of(level)) for part, x in vectors.items()}
    return ModelInputs(text, video, state=state, future=future, **parts)


def to_latent(policy: Policy, part: str, x: Tensor) -> Tensor:
    """Vectors [B, N, A] in the form to which noise is added, chunk by chunk."""
    n = policy.spec.actions.chunk_size
    one = policy.spec.paradigm.chunks_per_sample == 1 or policy.spec.lead_steps  # action by action
    if part != "action" or one:
        return policy.action_head.to_latent(part, x)
    chunks = policy.action_head.to_latent(part, x.unflatten(1, (-1, n)).flatten(0, 1))
    return chunks.unflatten(0, (x.shape[0], -1)).flatten(1, 2)


def canvas_of(policy: Policy, observation: Observation) -> Tensor:
    """All images of an observation on their canvas, in [-1, 1].

    [B, 3, T, height, width]; where views are frames of their own, [B * V, ...], samples outermost.
    """
    device = policy.device
    policy.cameras.expect_units(observation.images)
    on_host = {view.name for view in policy.spec.cameras.views if view.is_8bit}
    images = {
        name: value if name in on_host else to_device(value, device)
        for name, value in observation.images.items()
    }
    return policy.cameras.canvas(images, device)


@torch.no_grad()
def encode_images(policy: Policy, canvas: Tensor) -> Tensor:
    """Latents [B, C, T, h, w] float32 of a canvas, behind the leading frames.

    Views that are frames are consecutive in T.
    """
    z = encode_canvas(policy.spec, policy.vae, canvas)
    return policy.leading_frame.before(policy.spec, policy.vae, z)


def latest_latents(policy: Policy, clip: Observation, images: int) -> Tensor:
    """Latents [B, C, T, h, w] of the last `images` images of a clip, encoded as the whole clip.

    On the grid of target frames; `images` is a multiple of the VAE's stride.
    """
    spec = policy.spec
    canvas = canvas_of(policy, clip)
    by_images = spec.video.target_downscale > 1 and spec.video.target_pooling == "images"
    z = encode_images(
        policy, downscale(canvas, spec.video.target_downscale) if by_images else canvas
    )
    if spec.video.target_downscale > 1 and not by_images:
        z = target_latents(policy, canvas, z)
    count = images // spec.time_stride * spec.cameras.apart
    return z[:, :, -count:]


def next_latents(policy: Policy, images: Observation, past: Any) -> tuple[Tensor, Any]:
    """Latents [B, C, T, h, w] of the next images of an episode, and what to pass with those after.

    `past` is None for the first images.
    """
    spec, vae, canvas = policy.spec, policy.vae, canvas_of(policy, images)
    found: list[Any] = []  # of each canvas that is a clip

    def encode(pixels: Tensor) -> Tensor:
        before = None if past is None else past[len(found)]
        z, after = vae.encode_next(pixels.to(vae_dtype(vae)), before)  # type: ignore[attr-defined]
        found.append(after)
        return z.float()  # type: ignore[no-any-return]

    if spec.cameras.encode == "views":
        return encode_by_view(spec, encode, canvas), found
    return join_views(spec, encode(canvas)), found


def decode_video(policy: Policy, clip: Frames, observation: Observation) -> Tensor:
    """The images of a clip on the canvas [B, 3, frames, height, width] (views: [B * V, ...]).

    Observed frames are the given images. Downscaled targets give downscaled images. Values that are
    not finite become NaN.
    """
    spec = policy.spec
    canvas, z = canvas_of(policy, observation), clip.z
    if spec.video.target_downscale > 1:
        if not spec.paradigm.targets_see_downscaled:
            z = torch.cat([target_latents(policy, canvas, encode_images(policy, canvas)), z], 2)
        canvas = downscale(canvas, spec.video.target_downscale)
    z = z[:, :, spec.leading_frames :]
    raw = decode_latents(spec, policy.vae, z, canvas)
    finite = z.isfinite().flatten(1).all(1).repeat_interleave(spec.cameras.apart)
    known = raw.isfinite() & finite[:, None, None, None, None]
    images = raw.clamp(-1, 1).where(known, torch.nan)
    images[:, :, : spec.video.num_observed] = canvas
    return images.cpu()


def downscale(canvas: Tensor, times: int) -> Tensor:
    """Images [B, 3, T, height, width] downscaled `times` times by area averaging."""
    size = [n // times for n in canvas.shape[-2:]]
    flat = F.interpolate(canvas.transpose(1, 2).flatten(0, 1), size, mode="area")
    return flat.unflatten(0, (canvas.shape[0], -1)).transpose(1, 2)


def cond_latents(policy: Policy, canvas: Tensor, images: int) -> Tensor | None:
    """Conditioning channels [B, G, T, h, w] of the observed frames, for every frame of a clip.

    For each image of a latent, a mask that is 1 where it was observed; then the latents
    of the clip with gray for the others (Wan 2.1 image-to-video, `wan/image2video`).
    """
    spec = policy.spec
    if not spec.backbone.traits.cond_channels:
        return None
    cond = canvas.new_zeros(*canvas.shape[:2], images, *canvas.shape[3:])
    cond[:, :, : spec.video.num_observed] = canvas[:, :, : spec.video.num_observed]
    z = encode_images(policy, cond)
    mask = z.new_zeros(z.shape[0], spec.vae.stride[0], *z.shape[2:])
    mask[:, :, : spec.leading_frames + spec.latent_frames[0]].fill_(1)
    return torch.cat([mask, z], 1)


def image_embeds(policy: Policy, canvas: Tensor) -> Tensor | None:
    """Embed the first image with the backbone's conditioner: [B, L', cond_embeds_width] or None."""
    look = policy.conditioner
    if look is None or look.reads != "image":
        return None
    tokens, views = look((), canvas[:, :, 0]), policy.spec.cameras.apart
    return tokens.unflatten(0, (-1, views)).flatten(1, 2)


def physical_state(policy: Policy, observation: Observation) -> Tensor | None:
    """The robot's state [B, P] in physical units, on the device where it was given.

    WamkitError if it is missing or not wanted.
    """
    size, state = policy.spec.state.size, observation.state
    if size == 0:
        if state is not None:
            raise WamkitError(
                f"a state of {state.shape[-1]} values, and this policy reads none",
                "leave the state out",
            )
        return None
    if state is None:
        raise WamkitError(
            f"no state; this policy expects {size} values",
            f"pass them: --state {','.join(['0'] * size)}",
        )
    return state  # type: ignore[no-any-return]


def normalized_state(policy: Policy, observation: Observation) -> Tensor | None:
    """The robot's state [B, P] as the network reads it. WamkitError as `physical_state`."""
    return _state(policy, physical_state(policy, observation))


def _state(policy: Policy, state: Tensor | None) -> Tensor | None:
    """A physical state [B, P] or [B, n, P] as the network reads it, on the policy's device.

    Normalized where it is, which is mostly the host: a device would be sent the statistics too.
    """
    if state is None:
        return None
    return to_device(policy.states.encode(state), policy.device)


def embed_prompts(policy: Policy, prompts: tuple[str, ...], template: str | None = None) -> Text:
    """Text embeddings of prompts, in the spec's template or another, at the backbone's width.

    At inference the last prompts are cached, with the caches that the network computed from them.
    """
    if torch.is_grad_enabled() or policy.training:
        return _embed_prompts(policy, prompts, template)
    kind = policy.device.type
    lowered = None
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        lowered = torch.get_autocast_dtype(kind)
    key = prompts, template, policy.device, lowered
    found = policy.prompt_state.get(policy, key, lambda: _embed_prompts(policy, prompts, template))
    known, runner = policy.prompt_state, policy.runner
    if runner.compile is None:
        runner.renew(known.generation)
    else:
        runner.renew(known.generation, known.structure(), known.are_plain)
    return found


def _embed_prompts(policy: Policy, prompts: tuple[str, ...], template: str | None) -> Text:
    text = policy.text_embeddings.encode(prompts, template)
    tokens = text.tokens.to(policy.device)
    if isinstance(policy.text_adapter, nn.Linear):
        tokens = policy.text_adapter(tokens.to(policy.text_adapter.weight.dtype))
    valid, repeats = (
        None if x is None else x.to(policy.device) for x in (text.valid, text.repeats)
    )
    cond_embeds = None
    if policy.pooled_text is not None:
        cond_embeds = policy.pooled_text.encode(prompts, template).tokens.to(policy.device)
    follows = policy.spec.backbone.traits.text_follows
    return Text(tokens, valid, cond_embeds, repeats, follows=follows)


def expect_images(observation: Observation, count: int) -> None:
    """Raise WamkitError unless every camera gives `count` images."""
    for name, image in observation.images.items():
        if image.shape[1] != count:
            raise WamkitError(
                f"camera {name!r} gives {image.shape[1]} images, expected {count}",
                "video.num_observed images to act, video.num_frames to learn",
            )
