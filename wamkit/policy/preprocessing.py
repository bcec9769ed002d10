"""Model inputs from observations and batches: latents, embeddings and normalized vectors.

A policy's two ways in. `blank`: what is observed, with room at noise level 1 for what is not.
`clean`: a training sample before any noise. And one way out, `decoded`.
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
from ..interfaces.types import Frames, ModelInputs, NoisyVectors, Text, counted
from .observation import Batch, Observation

if TYPE_CHECKING:
    from ..config.spec import PolicySpec
    from .policy import Policy


def blank(policy: Policy, observation: Observation, *, ahead: bool = True) -> ModelInputs:
    """What is observed, with room at noise level 1 for one chunk and its future.

    Without the future if not `ahead`, for paradigms that act without one.
    """
    spec = policy.spec
    expect_pictures(observation, spec.video.context)
    state = _state(policy, physical_state(policy, observation))  # before the expensive part
    canvas = canvas_of(policy, observation)
    z = latents(policy, canvas)
    batch, channels = z.shape[:2]
    frames = spec.latent_frames[1] if ahead else 0
    future = z.new_zeros(batch, channels, frames, *spec.target_size)
    shapes = {"action": (batch, spec.actions.chunk_size, spec.actions.size)}
    if len(spec.predicts) > 1:
        sizes = spec.sizes
        shapes |= {part: (batch, 1, sizes.numbers(part)) for part in spec.predicts[1:]}
    numbers = {part: z.new_zeros(shape) for part, shape in shapes.items()}
    shown = guide(policy, canvas, spec.video.frames)
    return _inputs(policy, observation, z, future, shown, numbers, state, 1.0, canvas)


def clean(policy: Policy, batch: Batch) -> ModelInputs:
    """A training sample before any noise: as many chunks and pictures as the paradigm learns from.

    Raises WamkitError if the batch does not fit the spec.
    """
    spec = policy.spec
    if batch.latents is None:
        expect_pictures(batch.observation, spec.pictures)
    n, a = spec.steps, spec.actions.size
    if tuple(batch.actions.shape[1:]) != (n, a):
        raise WamkitError(
            f"actions {list(batch.actions.shape)}; this policy learns [B, {n}, {a}]",
            "change actions.chunk_size or actions.groups in the spec, or the data",
        )
    physical = physical_state(policy, batch.observation)
    actions = batch.actions  # made ready where they are, which is mostly the host
    valid = None if batch.step_valid is None else batch.step_valid.to(actions.device)
    actions = policy.actions.encode(actions, physical, valid)
    numbers = {"action": to_device(actions, policy.device)}
    state = _state(policy, physical)
    for part in spec.predicts[1:]:
        numbers[part] = _outcome(policy, part, batch)
    observed = spec.latent_frames[0]
    if batch.latents is not None:
        if spec.backbone.traits.guide_channels:
            raise WamkitError(
                f"stored latents; this variant of {spec.backbone.name} is guided by the pictures "
                "themselves",
                "leave the latents out",
            )
        z = to_device(batch.latents, policy.device).float()
        clip = z[:, :, :observed], z[:, :, observed:], None
        return _inputs(policy, batch.observation, *clip, numbers, state, 0.0)
    canvas = canvas_of(policy, batch.observation)
    z = latents(policy, canvas)
    future = z[:, :, observed:]
    if spec.video.coarser > 1:
        future = latents(policy, smaller(canvas, spec.video.coarser))[:, :, observed:]
    shown = guide(policy, canvas, spec.pictures)
    seen = z[:, :, :observed]
    return _inputs(policy, batch.observation, seen, future, shown, numbers, state, 0.0, canvas)


def _outcome(policy: Policy, part: str, batch: Batch) -> Tensor:
    """The state to come, or the value, as numbers to learn [B, 1, P] or [B, 1, 1]."""
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
    shown: Tensor | None,
    numbers: Mapping[str, Tensor],
    state: Tensor | None,
    level: float,
    canvas: Tensor | None = None,
) -> ModelInputs:
    text = words(policy, tuple(observation.prompt))
    if canvas is not None and (extra := picture(policy, canvas)) is not None:
        text = text.with_fresh_chunk_cache(extra=extra)
    lifted_numbers = {part: lifted(policy, part, x) for part, x in numbers.items()}
    clips = arranged(policy.spec, z, future, shown, level)
    inputs = assembled(text, clips, lifted_numbers, state, level)
    return policy.action_head.prepare(inputs)


def arranged(
    spec: PolicySpec, z: Tensor, future: Tensor, shown: Tensor | None, level: float
) -> tuple[Frames, Frames | None]:
    """Observed and imagined latents as one clip, or as two where targets have their own grid."""
    observed, imagined = z.shape[2], future.shape[2]
    times = counted(observed + imagined)
    levels = (CLEAN,) * observed + (level_of(level),) * imagined
    roles = ("context",) * observed, ("target",) * imagined
    if not imagined:
        seen = None if shown is None else shown[:, :, :observed]
        return Frames(z, roles[0], times, levels, seen), None
    if spec.video.coarser == 1:
        return Frames(torch.cat([z, future], 2), roles[0] + roles[1], times, levels, shown), None
    start = 0 if spec.video.times == "restart" else observed
    theirs = times[start : start + imagined]
    return (
        Frames(z, roles[0], times[:observed], levels[:observed], shown),
        Frames(future, roles[1], theirs, levels[observed:]),
    )


def assembled(
    text: Text,
    clips: tuple[Frames, Frames | None],
    numbers: Mapping[str, Tensor],
    state: Tensor | None,
    level: float,
) -> ModelInputs:
    """Inputs of clips (`arranged`) and lifted numbers [B, N, A], all numbers at one level."""
    video, future = clips
    parts: dict[str, Any] = {part: NoisyVectors(x, level_of(level)) for part, x in numbers.items()}
    return ModelInputs(text, video, state=state, future=future, **parts)


def lifted(policy: Policy, part: str, x: Tensor) -> Tensor:
    """Numbers as the action head wants noise added to them, chunk by chunk."""
    if part != "action" or policy.spec.paradigm.chunks_per_sample == 1:
        return policy.action_head.to_latent(part, x)
    n = policy.spec.actions.chunk_size
    chunks = policy.action_head.to_latent(part, x.unflatten(1, (-1, n)).flatten(0, 1))
    return chunks.unflatten(0, (x.shape[0], -1)).flatten(1, 2)


def canvas_of(policy: Policy, observation: Observation) -> Tensor:
    """All pictures of an observation on their canvas, in [-1, 1].

    [B, 3, T, height, width]; where views are frames of their own, [B * V, ...], samples outermost.
    """
    device = policy.device
    policy.cameras.expect_units(observation.images)
    images = {name: to_device(value, device) for name, value in observation.images.items()}
    return policy.cameras.canvas(images)


@torch.no_grad()
def latents(policy: Policy, canvas: Tensor) -> Tensor:
    """Pictures as latents [B, C, T, h, w] float32; views that are frames follow each other in T."""
    z = policy.vae.encode(canvas.to(vae_dtype(policy.vae))).float()
    views = policy.spec.cameras.apart
    if views == 1:
        return z
    return z.unflatten(0, (-1, views)).movedim(1, 3).flatten(2, 3)


def newest(policy: Policy, clip: Observation, pictures: int) -> Tensor:
    """Latents [B, C, T, h, w] of the last `pictures` of a clip, as they are in the whole clip.

    On the grid of target frames; the pictures are a multiple of the VAE's stride.
    """
    spec = policy.spec
    canvas = canvas_of(policy, clip)
    if spec.video.coarser > 1:
        canvas = smaller(canvas, spec.video.coarser)
    count = pictures // spec.vae.stride[0] * spec.cameras.apart
    return latents(policy, canvas)[:, :, -count:]


def decoded(policy: Policy, clip: Frames, observation: Observation) -> Tensor:
    """A clip as pictures on the canvas [B, 3, frames, height, width] (views: [B * V, ...]).

    Of what was observed the pictures themselves are shown. Coarser targets give coarser pictures.
    Infinite numbers become NaN, which no bound hides.
    """
    spec = policy.spec
    canvas, z = canvas_of(policy, observation), clip.z
    if spec.video.coarser > 1:
        canvas = smaller(canvas, spec.video.coarser)
        z = torch.cat([latents(policy, canvas), z], 2)
    views = spec.cameras.apart
    if views > 1:
        z = z.unflatten(2, (-1, views)).movedim(3, 1).flatten(0, 1)
    raw = policy.vae.decode(z.to(vae_dtype(policy.vae))).float()
    known = raw.isfinite() & z.isfinite().flatten(1).all(1)[:, None, None, None, None]
    pictures = raw.clamp(-1, 1).where(known, torch.nan)
    pictures[:, :, : spec.video.context] = canvas
    return pictures.cpu()


def smaller(canvas: Tensor, times: int) -> Tensor:
    """Pictures [B, 3, T, height, width] so many times smaller, each the mean of what it covers."""
    size = [n // times for n in canvas.shape[-2:]]
    flat = F.interpolate(canvas.transpose(1, 2).flatten(0, 1), size, mode="area")
    return flat.unflatten(0, (canvas.shape[0], -1)).transpose(1, 2)


def guide(policy: Policy, canvas: Tensor, pictures: int) -> Tensor | None:
    """What is observed, as extra channels [B, G, T, h, w] beside every frame of a clip.

    For each picture a latent stands for, a mask that is 1 where it was observed; then the latents
    of the clip with gray for what was not (Wan 2.1 image-to-video, `wan/image2video`).
    """
    spec = policy.spec
    if not spec.backbone.traits.guide_channels:
        return None
    shown = canvas.new_zeros(*canvas.shape[:2], pictures, *canvas.shape[3:])
    shown[:, :, : spec.video.context] = canvas[:, :, : spec.video.context]
    z = latents(policy, shown)
    mask = z.new_zeros(z.shape[0], spec.vae.stride[0], *z.shape[2:])
    mask[:, :, : spec.latent_frames[0]] = 1
    return torch.cat([mask, z], 1)


def picture(policy: Policy, canvas: Tensor) -> Tensor | None:
    """What the backbone's conditioner makes of the first picture [B, L', extra width], if any."""
    look = policy.conditioner
    if look is None or look.reads != "picture":
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
                f"a state of {state.shape[-1]} numbers, and this policy reads none",
                "leave the state out",
            )
        return None
    if state is None:
        raise WamkitError(
            f"no state; this policy expects {size} numbers",
            f"pass them: --state {','.join(['0'] * size)}",
        )
    return state  # type: ignore[no-any-return]


def _state(policy: Policy, state: Tensor | None) -> Tensor | None:
    """A physical state [B, P] as the network reads it, on the policy's device.

    Normalized where it is, which is mostly the host: a device would be sent the statistics too.
    """
    if state is None:
        return None
    return to_device(policy.states.encode(state), policy.device)


def words(policy: Policy, prompts: tuple[str, ...], template: str | None = None) -> Text:
    """Instructions, in the spec's template or another, at the width that the backbone reads.

    In use, a policy that is asked for the same ones again knows what its network made of them.
    """
    if torch.is_grad_enabled() or policy.training:
        return _words(policy, prompts, template)
    kind = policy.device.type
    lowered = None
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        lowered = torch.get_autocast_dtype(kind)
    key = prompts, template, policy.device, lowered
    found = policy.instructions.get(policy, key, lambda: _words(policy, prompts, template))
    known, runner = policy.instructions, policy.runner
    runner.renew(known.generation, known.structure() if runner.compile is not None else None)
    return found


def _words(policy: Policy, prompts: tuple[str, ...], template: str | None) -> Text:
    text = policy.prompts.encode(prompts, template)
    tokens = text.tokens.to(policy.device)
    if isinstance(policy.text_adapter, nn.Linear):
        tokens = policy.text_adapter(tokens.to(policy.text_adapter.weight.dtype))
    valid, repeats = (
        None if x is None else x.to(policy.device) for x in (text.valid, text.repeats)
    )
    extra = None
    if policy.pooled is not None:
        extra = policy.pooled.encode(prompts, template).tokens.to(policy.device)
    follows = policy.spec.backbone.traits.text_follows
    return Text(tokens, valid, extra, repeats, follows=follows)


def expect_pictures(observation: Observation, count: int) -> None:
    """Raise WamkitError unless every camera gives `count` pictures."""
    for name, image in observation.images.items():
        if image.shape[1] != count:
            raise WamkitError(
                f"camera {name!r} gives {image.shape[1]} pictures, expected {count}",
                "video.context pictures to act, video.frames to learn",
            )


def vae_dtype(vae: Any) -> torch.dtype:
    """What a VAE is given, which is the dtype of its weights; float32 if it has none."""
    parameter = next(iter(vae.parameters()), None)
    return torch.float32 if parameter is None else parameter.dtype
