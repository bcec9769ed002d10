"""Conflicts of the autoregressive paradigm with the other parts of a spec."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wamkit.config.parts import Conflict

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

    from . import Autoregressive


def conflicts(config: Autoregressive, spec: PolicySpec) -> Iterator[Conflict]:
    """Yield the conflicts of the paradigm with a spec."""
    head, backbone, video = spec.action_head, spec.backbone, spec.video
    if config.remembers_actions and not head.exposes_tokens:
        yield Conflict(
            between=("paradigm.past_actions", "action_head"),
            why=f"past actions are to be seen, but {head.name} only reads the video and "
            "exposes no tokens",
            hint='set paradigm.past_actions = "none", or choose an action_head with tokens of '
            "its own (`wamkit list action_head`)",
        )
    if config.state == "block" and spec.state.size and not head.tokens(spec.sizes).get("state"):
        yield Conflict(
            between=("paradigm.state", "action_head"),
            why=f"every block is to have a state as a token, and {head.name} makes none of it",
            hint='set paradigm.state = "episode", or choose a head whose state is a token '
            '(action_head.state = "token")',
        )
    yield from _unread_options(config, spec)
    if not backbone.traits.imagines:
        yield Conflict(
            between=("paradigm", "backbone"),
            why=f"{config.name} goes from block to block of imagined frames, and "
            f"{backbone.name} has no velocity to imagine them with",
            hint="choose a backbone that was trained to denoise, or a paradigm whose action "
            'needs no future, such as single_pass: set paradigm.name = "single_pass"',
        )
    elif config.observed_in_block and spec.latent_frames[1]:
        yield from _first_block_conflicts(spec)
    elif not spec.latent_frames[1]:
        yield Conflict(
            between=("paradigm", "video.num_frames"),
            why=f"{config.name} goes from block to block of imagined frames, and of "
            f"{video.num_frames} images none is left to imagine",
            hint=f"set video.num_frames = {video.num_observed + spec.time_stride}",
        )


def _first_block_conflicts(spec: PolicySpec) -> Iterator[Conflict]:
    """What keeps observed frames from being frames of the first block."""
    chunk, (observed, imagined) = spec.actions.chunk_size, spec.latent_frames
    why = None
    if imagined <= observed:
        why = f"of {imagined} frames of a block {observed} are observed, and none is left"
    elif chunk * observed % imagined:
        why = f"{chunk} actions are not as many for each of {imagined} frames"
    elif spec.action_head.tokens(spec.sizes).get("action", 0) != chunk:
        why = f"{spec.action_head.name} has no token for every action"
    elif spec.video.target_downscale > 1:
        why = "imagined frames have a grid of their own"
    if why is not None:
        yield Conflict(
            between=("paradigm.first_frames", "video"),
            why=f"the observed frames are to be frames of the first block, and {why}",
            hint='set paradigm.first_frames = "apart"',
        )


def _unread_options(config: Autoregressive, spec: PolicySpec) -> Iterator[Conflict]:
    """Options that are written and that nothing would read."""
    if config.state == "block" and not spec.state.size:
        yield Conflict(
            between=("paradigm.state", "state.size"),
            why="every block is to have a state, and the policy has none",
            hint='set paradigm.state = "episode", or state.size to the values of the state',
        )
    if config.guides == "sample" and not spec.backbone.traits.cond_channels:
        yield Conflict(
            between=("paradigm.guides", "backbone"),
            why=f"this variant of {spec.backbone.name} reads no conditioning latents",
            hint='set paradigm.guides = "block", or choose a variant that is guided by them',
        )
    if config.denoise_first and spec.video.target_downscale > 1:
        yield Conflict(
            between=("paradigm.denoise_first", "video.target_downscale"),
            why="the first frames are to be denoised among those of the blocks, which have a "
            "smaller grid",
            hint="set paradigm.denoise_first = false, or video.target_downscale = 1",
        )
