"""A policy: five parts that act, learn, imagine, and can be saved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from .actions import ActionSpace, StateSpace, Statistics
from .adapters import AdaptedBackbone, LatentAdapter
from .cameras import CameraLayout
from .errors import WamkitError
from .interfaces import VAE, ActionHead, Paradigm, TextEncoder, VideoBackbone
from .observation import ActionChunk, Batch, Imagined, Losses, Observation
from .prompts import PromptCache
from .schedule import NoiseSchedule
from .spec import PolicySpec
from .stored import StoredEncoder
from .types import Frames, KVCache, Noisy, Scene, Target, Text, Velocity
from .weights import cast

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Policy(nn.Module):
    """Observations to action chunks, and to the future it imagines.

    Made by `wamkit.build(spec)` or `Policy.load(folder)`.
    """

    backbone: VideoBackbone
    vae: VAE
    text_encoder: TextEncoder
    action_head: ActionHead
    paradigm: Paradigm

    def __init__(
        self,
        spec: PolicySpec,
        parts: Mapping[str, object],
        statistics: Mapping[str, Statistics] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        for kind, part in parts.items():
            setattr(self, kind, part)
        self.text_adapter: nn.Module = nn.Identity()
        if spec.text_encoder.adapter == "linear":
            width = spec.backbone.traits.text_width
            self.text_adapter = nn.Linear(spec.text_encoder.width, width)
        self.latent_adapter: nn.Module = nn.Identity()
        if spec.vae.adapter == "linear":
            channels = spec.backbone.traits.latent_channels
            self.latent_adapter = LatentAdapter(spec.vae.channels, channels)
        self.schedules = {
            "video": NoiseSchedule(spec.schedules.video),
            "action": NoiseSchedule(spec.schedules.action),
        }
        self.cameras = CameraLayout(spec.cameras)
        self.set_statistics(statistics or {})
        self.prompts = PromptCache(self.text_encoder, spec.text_encoder.template)
        for kind in ("backbone", "action_head"):
            if isinstance(module := getattr(self, kind), nn.Module):
                cast(module, DTYPES[spec.dtype])
        for frozen in (self.vae, None if self.text_encoder.trainable else self.text_encoder):
            if isinstance(frozen, nn.Module):
                frozen.requires_grad_(False)
        self.eval()

    @staticmethod
    def from_spec(
        spec: PolicySpec,
        *,
        device: str = "cpu",
        statistics: Mapping[str, Statistics] | None = None,
    ) -> Policy:
        """Build every part of a checked spec; on device "meta" without a single weight."""
        parts = {
            "vae": _seeded(spec, "vae", spec.vae.build, device),
            "text_encoder": _seeded(spec, "text_encoder", lambda: _text_encoder(spec), device),
            "backbone": _seeded(spec, "backbone", spec.backbone.build, device),
            "action_head": _seeded(
                spec, "action_head", lambda: spec.action_head.build(spec.sizes), device
            ),
            "paradigm": spec.paradigm.build(),
        }
        with torch.device("meta" if device == "meta" else "cpu"):
            policy = _seeded(spec, "policy", lambda: Policy(spec, parts, statistics), device)
        if device != "meta":
            policy.action_head.initialize_from(policy.backbone)
            policy.to(device)
        return policy

    @property
    def device(self) -> torch.device:
        """Where the policy runs."""
        return next(self.action_head.parameters()).device

    def set_statistics(self, statistics: Mapping[str, Statistics]) -> None:
        """Normalize `action` and `state` by these from now on."""
        if unknown := sorted(set(statistics) - {"action", "state"}):
            raise WamkitError(
                f"statistics of {', '.join(unknown)}; expected action and state",
                "rename the tables",
            )
        self.actions = ActionSpace(self.spec.actions, statistics.get("action"))
        self.states = StateSpace(self.spec.state, statistics.get("state"))

    @property
    def statistics(self) -> dict[str, Statistics]:
        """What `set_statistics` was given."""
        found = {"action": self.actions.statistics, "state": self.states.normalizer.statistics}
        return {name: value for name, value in found.items() if value is not None}

    def model(
        self, scene: Scene, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> Velocity:
        """One pass of backbone and head under the paradigm's visibility."""
        backbone = self.backbone
        if isinstance(self.latent_adapter, LatentAdapter):
            backbone = AdaptedBackbone(backbone, self.latent_adapter)
        return self.action_head.join(backbone, scene, self.paradigm.sees, cache, keep)

    @torch.no_grad()
    def act(self, observation: Observation, *, seed: int | None = None) -> ActionChunk:
        """The next actions, in physical units. The same seed gives the same chunk.

        Raises WamkitError if cameras, pictures or state are not what the policy expects.
        """
        scene = self._blank(observation)
        values = self.paradigm.act(self.model, scene, self.schedules, _generator(seed))
        chunk = self.actions.decode(values.float(), self._raw_state(observation))
        return ActionChunk(
            values=chunk.cpu(),
            hertz=self.spec.actions.hertz,
            names=self.actions.names,
            normalized=self.actions.statistics is None,
        )

    @torch.no_grad()
    def imagine(self, observation: Observation, *, seed: int | None = None) -> Imagined:
        """The future pictures the policy expects, observed ones first.

        Raises WamkitError if the policy imagines nothing (video.frames equals video.context).
        """
        if self.spec.latent_frames[1] == 0:
            raise WamkitError(
                "this policy imagines nothing: video.frames equals video.context",
                "set video.frames above video.context",
            )
        scene = self._blank(observation)
        video = self.paradigm.imagine(self.model, scene, self.schedules, _generator(seed))
        canvas = self.vae.decode(video.z.to(self._vae_dtype)).float().clamp(-1, 1).cpu()
        seen = self.spec.video.context  # of what was observed, the picture itself and no decoding
        canvas[:, :, :seen] = self._canvas(observation).cpu()
        views = self.cameras.split(canvas)
        return Imagined(canvas, self.spec.video.context, views)

    def loss(self, batch: Batch, *, seed: int | None = None) -> Losses:
        """Velocity losses of one batch, weighted by noise level and masked where data is padding.

        Each modality is the mean over samples of the weighted mean squared error of what is real in
        the sample (Fast-WAM, arXiv 2603.16666). Raises WamkitError if the batch does not fit.
        """
        scene = self._clean(batch)
        noisy, target = self.paradigm.corrupt(scene, self.schedules, _generator(seed))
        velocity = self.model(noisy)
        parts = {}
        if target.action is not None and velocity.action is not None:
            parts["action"] = _action_loss(velocity.action, target, batch)
        if target.video is not None and velocity.video is not None:
            valid = self._latent_valid(batch, target)
            parts["video"] = _video_loss(velocity.video, target, valid)
        weights = {name: self.schedules[name].config.loss_weight for name in parts}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    def save(self, folder: str | Path) -> Path:
        """Write the policy to `folder`, whole or not at all; see `wamkit.folder`."""
        from .folder import save

        return save(self, folder)

    @staticmethod
    def load(folder: str | Path, overrides: Iterable[str] = (), *, device: str = "cpu") -> Policy:
        """Read a saved policy, with `overrides` such as "schedules.action.steps=5".

        Raises WamkitError if anything in the folder is wrong.
        """
        from .folder import load

        return load(folder, overrides, device=device)

    # What a scene is made of -------------------------------------------------------------------

    @property
    def _vae_dtype(self) -> torch.dtype:
        parameter = next(iter(self.vae.parameters()), None)  # type: ignore[attr-defined]
        return torch.float32 if parameter is None else parameter.dtype

    def _canvas(self, observation: Observation) -> Tensor:
        """All pictures of an observation on their canvas [B, 3, T, height, width] in [-1, 1]."""
        return self.cameras.canvas({k: v.to(self.device) for k, v in observation.images.items()})

    @torch.no_grad()
    def _latents(self, canvas: Tensor) -> Tensor:
        """Pictures as latents [B, C, T, h, w] float32."""
        return self.vae.encode(canvas.to(self._vae_dtype)).float()

    def _guide(self, canvas: Tensor) -> Tensor | None:
        """What is observed, as extra channels [B, G, T, h, w] beside every frame of the clip.

        For each picture a latent stands for, a mask that is 1 where it was observed; then the
        latents of the clip with gray for what was not (Wan 2.1 image-to-video, `wan/image2video`).
        """
        if not self.spec.backbone.traits.guide_channels:
            return None
        context, frames = self.spec.video.context, self.spec.video.frames
        shown = canvas.new_zeros(*canvas.shape[:2], frames, *canvas.shape[3:])
        shown[:, :, :context] = canvas[:, :, :context]
        z = self._latents(shown)
        mask = z.new_zeros(z.shape[0], self.spec.vae.stride[0], *z.shape[2:])
        mask[:, :, : self.spec.latent_frames[0]] = 1
        return torch.cat([mask, z], 1)

    def _raw_state(self, observation: Observation) -> Tensor | None:
        size, state = self.spec.state.size, observation.state
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
        return state.to(self.device)  # type: ignore[no-any-return]

    def _text(self, observation: Observation) -> Text:
        text = self.prompts.encode(tuple(observation.prompt))
        tokens = text.tokens.to(self.device)
        if isinstance(self.text_adapter, nn.Linear):
            tokens = self.text_adapter(tokens.to(self.text_adapter.weight.dtype))
        valid, copies = (
            None if x is None else x.to(self.device) for x in (text.valid, text.copies)
        )
        return Text(tokens, valid, text.image, copies)

    def _scene(
        self,
        observation: Observation,
        z: Tensor,
        guide: Tensor | None,
        actions: Tensor,
        level: float,
    ) -> Scene:
        observed, imagined = self.spec.latent_frames
        batch, device = z.shape[0], z.device
        sigma = torch.zeros(batch, observed + imagined, device=device)
        sigma[:, observed:] = level
        roles = ("context",) * observed + ("target",) * imagined
        times = torch.arange(observed + imagined, device=device, dtype=torch.float32)
        state = self._raw_state(observation)
        return Scene(
            text=self._text(observation),
            video=Frames(z, roles, times, sigma, guide),
            action=Noisy(actions, torch.full((batch,), level, device=device)),
            state=None if state is None else self.states.encode(state),
        )

    def _blank(self, observation: Observation) -> Scene:
        """What is observed, with room at noise level 1 for what is not."""
        self._expect_pictures(observation, self.spec.video.context)
        state = self._raw_state(observation)
        if state is not None:
            self.states.encode(state)  # before the expensive part: is it of the right size?
        canvas = self._canvas(observation)
        z = self._latents(canvas)
        batch, channels, _, height, width = z.shape
        future = z.new_zeros(batch, channels, self.spec.latent_frames[1], height, width)
        size = (batch, self.spec.actions.chunk, self.spec.actions.size)
        clip, guide = torch.cat([z, future], 2), self._guide(canvas)
        return self._scene(observation, clip, guide, z.new_zeros(size), 1.0)

    def _clean(self, batch: Batch) -> Scene:
        """A training sample before any noise."""
        self._expect_pictures(batch.observation, self.spec.video.frames)
        n, a = self.spec.actions.chunk, self.spec.actions.size
        if tuple(batch.actions.shape[1:]) != (n, a):
            raise WamkitError(
                f"actions {list(batch.actions.shape)}; this policy learns [B, {n}, {a}]",
                "change actions.chunk or actions.groups in the spec, or the data",
            )
        state = self._raw_state(batch.observation)
        actions = batch.actions.to(self.device)
        valid = None if batch.step_valid is None else batch.step_valid.to(self.device)
        values = self.actions.encode(actions, state, valid)
        canvas = self._canvas(batch.observation)
        z, guide = self._latents(canvas), self._guide(canvas)
        return self._scene(batch.observation, z, guide, values, 0.0)

    def _expect_pictures(self, observation: Observation, count: int) -> None:
        for name, image in observation.images.items():
            if image.shape[1] != count:
                raise WamkitError(
                    f"camera {name!r} gives {image.shape[1]} pictures, expected {count}",
                    "video.context pictures to act, video.frames to learn",
                )

    def _latent_valid(self, batch: Batch, target: Target) -> Tensor | None:
        """[B, F] for the predicted frames: padding only if all of a latent's pictures are."""
        if batch.frame_valid is None:
            return None
        valid, stride = batch.frame_valid.to(self.device), self.spec.vae.stride[0]
        rest = valid[:, 1:].unflatten(1, (-1, stride)).any(-1)
        return torch.cat([valid[:, :1], rest], 1)[:, list(target.frames)]


def _action_loss(predicted: Tensor, target: Target, batch: Batch) -> Tensor:
    assert target.action is not None and target.action_weight is not None
    error = (predicted.float() - target.action).square()  # [B, N, A]
    real = torch.ones_like(error)
    if batch.step_valid is not None:
        real = real * batch.step_valid.to(error)[..., None]
    if batch.dim_valid is not None:
        real = real * batch.dim_valid.to(error).reshape(-1, 1, error.shape[-1])
    sample = (error * real).sum((1, 2)) / real.sum((1, 2)).clamp(min=1)
    return (sample * target.action_weight).mean()


def _video_loss(predicted: Tensor, target: Target, valid: Tensor | None) -> Tensor:
    assert target.video is not None and target.video_weight is not None
    velocity = predicted[:, :, list(target.frames)].float()
    error = (velocity - target.video).square().mean((1, 3, 4)) * target.video_weight  # [B, F]
    if valid is None:
        return error.mean()
    real = valid.to(error)
    return ((error * real).sum(1) / real.sum(1).clamp(min=1)).mean()


def _generator(seed: int | None) -> torch.Generator:
    """A generator on the CPU, so that a seed means the same on every device."""
    rng = torch.Generator()
    if seed is None:
        rng.seed()
    else:
        rng.manual_seed(seed)
    return rng


def _text_encoder(spec: PolicySpec) -> Any:
    """The encoder, or in its place what it said once."""
    if spec.text_encoder.embeddings is None:
        return spec.text_encoder.build()
    return StoredEncoder(spec.text_encoder.embeddings, spec.text_encoder)


def _seeded(spec: PolicySpec, kind: str, make: Callable[[], Any], device: str) -> Any:
    """`make()` with torch's own generator seeded for this part, and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed + crc32(kind.encode()))
        if device != "meta":
            return make()
        with torch.device("meta"):
            return make()
