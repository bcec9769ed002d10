"""The autoregressive paradigm: chunk after chunk, with a cache of frames and actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.noise_schedule import joint_passes
from wamkit.config.parts import Conflict, ParadigmConfig, Part, Stage
from wamkit.config.visibility import Visibility

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

OBSERVED = frozenset({"text", "context"})
FIRST = "target.first"
"""Role of the noisy copy of a sample's first frames (`denoise_first`)."""


class Autoregressive(ParadigmConfig):
    """An episode goes block by block; a block is the frames of one chunk and its actions.

    A block is denoised against the clean blocks before it: in training the true ones, in one pass
    with all blocks of a sample, each block or frame at a noise level of its own (teacher forcing,
    diffusion forcing); in use their KV cache. LingBot-VA (arXiv 2601.21998) and DreamZero (arXiv
    2602.15922) are two settings of it.
    """

    source = "https://github.com/robbyant/lingbot-va and https://github.com/dreamzero0/dreamzero"

    stateful = True
    system_options = ("first_frames", "training_frames", "training_window")

    name: Literal["autoregressive"] = "autoregressive"
    chunks: int = Field(4, ge=2)
    """Blocks in a training sample, whose frames `training_frames` may divide into others; in use,
    the blocks that the visibility table tells apart."""
    action: Literal["inverse_dynamics", "mutual"] = "inverse_dynamics"
    """Frames of its own block that an action sees: a clean copy, so that the frames are
    denoised first (LingBot-VA: inverse dynamics), or the noisy frames, which see it too
    (DreamZero)."""
    past_actions: Literal["everyone", "actions", "none"] | None = None
    """Roles that see the actions of past blocks: frames and actions (LingBot-VA), actions alone, or
    none (DreamZero). Left open, as published with `action`; none where the action head has no
    tokens that could be seen."""
    window: int | None = Field(None, gt=0)
    """How far a block sees, in `window_unit`: at most chunks - 1 past blocks, or 2 chunks - 3 half
    blocks. Left open, chunks - 1 past blocks. First frames that are `apart` are always visible."""
    window_unit: Literal["blocks", "half_blocks"] = "blocks"
    """What `window` counts: blocks, or the frames and the actions of a block apart, so that frames
    may see actions of a block whose frames they do not see (`half_blocks`: LingBot-VA). A server
    that keeps M blocks, the present one included, has a window of 2 M - 1 halves."""
    on_full_memory: Literal["slide", "restart"] = "restart"
    """Behavior when an episode has as many blocks as a training sample: the network begins
    anew at the newest frames and with the newest state (`restart`: DreamZero), or the oldest block
    leaves the memory (`slide`: LingBot-VA). First frames that are `apart` and the state of an
    episode stay, at distances in time and of an age that no sample of so few blocks has."""
    first_frames: Literal["apart", "in_block"] = "apart"
    """The observed frames of an episode: a context that every block sees, without noise in training
    too (`apart`); or frames of the first block like its others (`in_block`: LingBot-VA). These are
    learned too, and leave the memory with the first block; a first chunk has as many fewer new
    frames, and fewer actions, before which actions of zero stand."""
    levels_per: Literal["block", "frame"] = "block"
    """What has a noise level of its own in training: every block, or every frame with the actions
    that lead to it (`frame`: LingBot-VA)."""
    training_frames: tuple[int, int] | None = None
    """Latent frames of a block in training: drawn for each batch, at least and at most so many.
    Left open, as many as in use. Asks for frames `in_block` with levels of their own (LingBot-VA: 1
    to 4)."""
    training_window: tuple[int, int] | None = None
    """The window in training: drawn for each batch, in `window_unit`, at least and at most so far.
    Left open, `window`. Asks for `training_frames` (LingBot-VA: 4 to 64)."""
    context_noise_prob: float = Field(0, ge=0, le=1)
    """Share of training samples in which the clean copies of frames are noised, each block or frame
    at a level from the lower half of the schedule's grid; actions never. LingBot-VA: 0.5;
    DreamZero: 0."""

    state: Literal["episode", "block"] | None = None
    """Whether an episode has one state of the robot, at its beginning, or every block its own,
    which replaces the one before (`block`: DreamZero). Relative actions are relative to it. Left
    open, `block` where first frames are `apart` and the action head makes a token of the state."""
    state_sees: Literal["itself", "block", "block_in_use"] = "itself"
    """What the state of a block attends to: itself, or what its actions attend to; or itself in
    training and the latter in use (DreamZero, whose use has no mask)."""
    state_level: Literal["clean", "action"] = "clean"
    """Noise level that the blocks are modulated by at the state of a block, which has no noise: 0,
    or that of its actions (DreamZero)."""
    guides: Literal["block", "sample"] = "block"
    """For backbones that want conditioning latents with every frame: those of a clip of one block,
    the same for all, or those of a whole training sample (`sample`: DreamZero)."""
    denoise_first: bool = False
    """Whether a sample has a noisy copy of its first frames too, which only itself sees, so that
    their loss counts (DreamZero). Asks for first frames `apart`."""

    @model_validator(mode="after")
    def _check_drawn(self) -> Autoregressive:
        for name, given in (
            ("training_frames", self.training_frames),
            ("training_window", self.training_window),
        ):
            if given is not None and not 1 <= given[0] <= given[1]:
                raise ValueError(f"{name} is the least and the most, from 1 on; found {given}")
        each = self.first_frames == "in_block" and self.levels_per == "frame"
        if self.training_frames is not None and not each:
            raise ValueError(
                "training_frames draws the frames of a block, which must be alike: write "
                'first_frames = "in_block" and levels_per = "frame"'
            )
        if self.training_window is not None and self.training_frames is None:
            raise ValueError("training_window is drawn with training_frames: write that too")
        return self

    @model_validator(mode="after")
    def _check_consistency(self) -> Autoregressive:
        if self.state != "block" and (self.state_sees, self.state_level) != ("itself", "clean"):
            raise ValueError(
                "state_sees and state_level are about the state of a block, and an episode has one "
                'state; write state = "block" or leave them out'
            )
        if self.observed_in_block and (self.state == "block" or self.denoise_first):
            raise ValueError(
                "a state of every block, and first frames that are denoised besides, are for first "
                'frames that stand apart; write first_frames = "apart"'
            )
        if self.window is not None and self.window_unit == "half_blocks":
            if self.window > 2 * self.chunks - 3:
                raise ValueError(
                    f"a window of {self.window} half blocks is never full in samples of "
                    f"{self.chunks} blocks; write window = {2 * self.chunks - 3} or "
                    f"chunks = {(self.window + 4) // 2}"
                )
        elif self.window_unit == "half_blocks" and self.training_window is None:
            raise ValueError(
                "window_unit is the unit of window, which is left open; write window = "
                f"{2 * self.chunks - 3}, or leave window_unit out"
            )
        elif self.window is not None and self.window >= self.chunks:
            raise ValueError(
                f"a window of {self.window} past blocks is never full in samples of {self.chunks}; "
                f"write window = {self.chunks - 1} or chunks = {self.window + 1}"
            )
        return self

    @property
    def chunks_per_sample(self) -> int:
        return self.chunks

    @property
    def observed_in_block(self) -> bool:
        return self.first_frames == "in_block"

    @property
    def states_per_sample(self) -> int:
        return self.chunks if self.state == "block" else 1

    @property
    def guided_chunks(self) -> int:
        return self.chunks if self.guides == "sample" else 1

    @property
    def reach(self) -> int:
        """The number of past blocks whose frames are visible to frames."""
        if self.window is not None and self.window_unit == "half_blocks":
            return self.window // 2
        return self.window or self.chunks - 1

    @property
    def reach_of_actions(self) -> int:
        """The number of past blocks whose actions are visible to frames.

        With a window of an odd number of half blocks it is one more than `reach`.
        """
        return self.reach + (self.counts_halves and self.window % 2)  # type: ignore[operator]

    @property
    def counts_halves(self) -> bool:
        """Whether frames and actions of a block are counted apart."""
        return self.window is not None and self.window_unit == "half_blocks"

    @property
    def remembers_actions(self) -> bool:
        """Whether any token sees the actions of past blocks."""
        return self._past_actions != "none"

    @property
    def _past_actions(self) -> str:
        published = "everyone" if self.action == "inverse_dynamics" else "none"
        return self.past_actions or published

    @property
    def sees(self) -> Visibility:
        """The visibility table of all blocks.

        In block k, `target.k` and `action.k` are noisy frames and actions, `seen.k` and `did.k`
        clean ones. Rows without a number repeat those of the first block for a policy that makes
        one block: `target`, `action`, `state`, and `target'` for its clean frames.
        """
        table: dict[str, frozenset[str]] = dict.fromkeys(("text", "context"), OBSERVED)
        if self.observed_in_block:
            table["text"] = frozenset({"text"})
            table["context"] = OBSERVED | {"state", "target.0", "target"}
        if self.state != "block":
            table["state"] = frozenset({"state"})
        if self.denoise_first:
            table[FIRST] = frozenset({"text", FIRST})
        for k in range(self.chunks):
            table |= self._block(k)
        for role, plain in self._plain.items():
            table[plain] = frozenset(self._plain.get(seen, seen) for seen in table[role])
        return table

    @property
    def _plain(self) -> dict[str, str]:
        """Roles of the first block -> what they are called where there is only one."""
        names = {"target.0": "target", "action.0": "action"}
        if self.state == "block":
            names |= dict.fromkeys(self.states_of("0"), "state")
        return names if self.action == "mutual" else {**names, "seen.0": "target'"}

    def states_of(self, block: str) -> tuple[str, ...]:
        """Names of the state of a block: that of training, and that of use where it differs."""
        if self.state != "block":
            return ("state",)
        name = f"state.{block}"
        return (name, f"{name}'") if self.state_sees == "block_in_use" else (name,)

    def _block(self, k: int) -> dict[str, frozenset[str]]:
        """The rows of block k."""
        known = frozenset({"text"}) if self.observed_in_block else OBSERVED

        def past(kind: str, reach: int) -> frozenset[str]:
            return frozenset(f"{kind}.{i}" for i in range(max(0, k - reach), k))

        def did_up_to(reach: int) -> frozenset[str]:
            return past("did", reach) if self.remembers_actions else frozenset()

        frames = known | past("seen", self.reach)
        if self._past_actions == "everyone":
            frames |= did_up_to(self.reach_of_actions)
        # Half a block farther on, actions see frames of one block less if the window is even.
        less = int(self.counts_halves and self.window % 2 == 0)  # type: ignore[operator]
        seen, did = known | past("seen", self.reach - less), did_up_to(self.reach)
        states = frozenset(self.states_of(str(k)))
        asks, own = frames | states, {f"target.{k}", f"action.{k}"}
        if self.observed_in_block and k == 0:  # those of the first block, which are no target
            own.add("context")
        table = {f"seen.{k}": frames | {f"seen.{k}"}, f"target.{k}": asks | own - {f"action.{k}"}}
        if self.action == "mutual":
            table[f"target.{k}"] = asks | own
            table[f"action.{k}"] = seen | did | states | own
        else:
            table[f"action.{k}"] = seen | did | states | {f"seen.{k}", f"action.{k}"}
        if self.remembers_actions:
            table[f"did.{k}"] = seen | did | {f"seen.{k}", f"did.{k}"}
        if self.state == "block":
            *alone, last = self.states_of(str(k))
            table |= {name: frozenset({name}) for name in alone}
            looks = self.state_sees != "itself"
            table[last] = table[f"action.{k}"] if looks else frozenset({last})
        return table

    def tiny(self) -> Autoregressive:
        chunks = min(self.chunks, 2)
        return self.model_copy(update={"chunks": chunks, "window": self.window and chunks - 1})

    def resolve(self, spec: PolicySpec) -> Autoregressive:
        published = self._past_actions if spec.action_head.exposes_tokens else "none"
        token = spec.state.size and spec.action_head.tokens(spec.sizes).get("state")
        state = "block" if token and not self.observed_in_block else "episode"
        update = {"past_actions": self.past_actions or published, "state": self.state or state}
        return self.model_copy(update=update)

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        from .conflicts import conflicts

        yield from super().conflicts(spec)
        yield from conflicts(self, spec)

    def program(self, spec: PolicySpec) -> tuple[Stage, ...]:
        state = ("state",) if spec.state.size else ()
        observed = ("text", "context", *(state if self.state != "block" else ()))
        state = state if self.state == "block" else ()
        schedules = spec.schedules
        video, action = schedules.video.evaluations, schedules.action.evaluations
        if spec.action_head.is_regression:
            action = 1
        first = Stage(
            roles=observed,
            passes=1,
            does="prefill the observation; from the second chunk on, in its place, "
            "the frames seen" + (" and the actions done" if self.remembers_actions else ""),
        )
        if self.action == "mutual":
            does = "denoise video and action together against the memory"
            roles = (*state, "target", "action")
            together = [schedules.video]
            if not spec.action_head.is_regression:
                together.append(schedules.action)
            return first, Stage(roles=roles, passes=joint_passes(*together), does=does)
        if self.observed_in_block:
            first = Stage(
                roles=("context", "target"),
                passes=video,
                does="denoise the video, after a first chunk against the memory: before it, the "
                "frames seen and the actions done are read",
            )
            return first, *self._inverse_dynamics(action)
        return (
            first,
            Stage(
                roles=(*state, "target"),
                passes=video,
                does="denoise the video against the memory",
            ),
            *self._inverse_dynamics(action, state),
        )

    def _inverse_dynamics(self, steps: int, state: tuple[str, ...] = ()) -> tuple[Stage, ...]:
        """From the finished video to the action."""
        return (
            Stage(roles=("target'",), passes=1, does="read the finished video, keep its keys"),
            Stage(roles=(*state, "action"), passes=steps, does="denoise the action against both"),
        )

    def build(self) -> Any:
        from .drawn_blocks import DrawnBlocks
        from .paradigm import AutoregressiveParadigm

        return (AutoregressiveParadigm if self.training_frames is None else DrawnBlocks)(self)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Autoregressive)
