"""One episode of a policy: chunk after chunk, with the frames and actions in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoints.finite import fault
from ..errors import WamkitError
from ..interfaces.types import EpisodeHistory, ModelInputs
from . import preprocessing
from .action_prefix import ActionPrefix, add_prefix, keep_prefix
from .moments import Moment, arrival, expect_episode, refuse_arrival
from .observation import ActionChunk, Observation

if TYPE_CHECKING:
    from .policy import Policy


class Session:
    """An episode of one robot, or of several in lockstep. Made by `Policy.session`.

        session = policy.session()
        session.reset("put the cup on the plate")
        while True:
            chunk = session.act(observation)

    If the paradigm is stateful (`Paradigm.stateful`), an episode begins with `video.num_observed`
    images. Later observations hold the images since the last one, `num_images` of them, oldest
    first. As in training, the state that counts is the one at the beginning of the episode: to it
    actions are relative, and what happened since is known from images and executed actions. Where
    every chunk of a training sample has a state (`ParadigmConfig.states_per_sample`), it is the
    newest one.

    New images are encoded behind those before them, no more of them than in a training sample,
    because a causal VAE looks back: a chunk costs the VAE up to `spec.num_images` images instead of
    the new ones alone. Latents are those of training for as long as the episode is no longer than a
    sample; later on, the oldest image that is kept is encoded as a first one. With
    `video.episode_latents = "stream"` only new images are encoded, behind all before;
    `video.new_clip` and `video.new_images` change that, as DreamZero's server does.

    For other paradigms every chunk is `Policy.act`, and no image is kept.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._prompt: tuple[str, ...] | None = None
        self._episode = 0  # counts resets, also those while a chunk is computed
        self._moment: Moment | None = None  # of the newest observation, if it was given
        self._forget()

    def reset(self, instruction: str | tuple[str, ...] | list[str] | None = None) -> None:
        """Begin a new episode; a given instruction replaces the prompts of observations."""
        if instruction is not None:
            prompt = (instruction,) if isinstance(instruction, str) else tuple(instruction)
            self._prompt = prompt
        self._moment = None
        self._forget()

    def _forget(self) -> None:
        self._episode += 1
        self._first: Observation | None = None  # at the beginning of the episode
        self._felt: Observation | None = None  # whose state counts
        self._clip: dict[str, Tensor] = {}  # camera -> [B, T, 3, height, width] since then
        self._encoded: Any = None  # what the VAE remembers of the images before those in `_clip`
        self._inputs: ModelInputs | None = None  # at the beginning
        self._memory: Any = None
        self._chunks: list[Tensor] = []  # [B, N, A] returned since the last observation

    @property
    def num_images(self) -> int:
        """How many images the next observation must hold, of every camera."""
        video = self.policy.spec.video
        if self._first is None:
            return video.num_observed
        steps = sum(chunk.shape[1] for chunk in self._chunks)
        new = video.new_images or video.num_frames - video.num_observed
        return steps * new // self.policy.spec.actions.chunk_size

    @torch.no_grad()
    def act(
        self,
        observation: Observation | None,
        executed: Tensor | None = None,
        *,
        prefix: ActionPrefix | None = None,
        moment: Moment | None = None,
        seed: int | Sequence[int] | None = None,
        **act_options: Any,
    ) -> ActionChunk:
        """The next actions, in physical units.

        `executed` [B, N, A] are the actions that the robot made of the last chunk, in physical
        units; left out, those of the chunk itself. Without an observation the policy continues as
        if its predicted future had happened; the next observation then holds all images since the
        last one, and `executed` the actions of all chunks since then, one after the other. A new
        instruction begins a new episode at the newest images, of all robots at once.

        `prefix` is as of `Policy.act`; what goes into the memory is what was executed. `moment`
        says when the observation was made: a late one is refused, and so is a repeated or dropped
        one where the policy remembers; one of another episode begins it.

        Raises WamkitError as `Policy.act` does, if images, samples or actions are not as many as
        there must be, and if the session was reset while the chunk was computed.
        """
        if observation is not None and moment is not None:
            self.arrive(moment)
        episode = self._episode
        if not self.policy.paradigm.stateful:
            seen = self._with_prompt(observation)
            chunk = self.policy.act(seen, prefix=prefix, seed=seed, **act_options)
            expect_episode(episode, self._episode, "session")
            self._moment = moment or self._moment
            return chunk
        if self._first is None:
            self._begin(self._with_prompt(observation))
        elif observation is None:
            self._expect(executed is None, "executed actions without images of their effect")
            self._continue(EpisodeHistory(self._memory))
        else:
            self._observe(self._with_prompt(observation), executed)
        assert self._inputs is not None and self._felt is not None
        felt, episode = self._felt, self._episode
        inputs = add_prefix(self.policy, self._inputs, prefix, felt)
        out = self.policy.sample(inputs, seed=seed, **act_options)
        expect_episode(episode, self._episode, "session")
        try:
            chunk = self.policy.to_action_chunk(out, felt)
        except WamkitError as error:
            self._forget()  # the history must not hold a chunk that failed
            hint = f"{error.hint}; the session forgets the episode: go on with a new one"
            raise WamkitError(error.what, hint) from None
        chunk = keep_prefix(self.policy, chunk, prefix, felt)
        self._memory, self._moment = out.memory, moment or self._moment
        self._chunks.append(chunk.values)
        return chunk

    def arrive(self, moment: Moment) -> None:
        """An observation of this moment is there: begin another episode if it is of one.

        `act` does so itself; before it, this says how many images the observation must hold
        (`num_images`), and is all that a policy without a memory needs where it acts without the
        session. Raises WamkitError as `act` does for an observation that comes to no use.
        """
        stateful = self.policy.paradigm.stateful
        remembers = stateful and self._chunks
        steps = sum(chunk.shape[1] for chunk in self._chunks) if remembers else None
        found, last = arrival(moment, self._moment, steps), self._moment
        if last is not None:
            refuse_arrival(found, moment, last, steps)
        if found == "reset":
            self._forget()
            self._moment = None
        if not stateful:  # one that was refused may come again
            self._moment = moment

    def _with_prompt(self, observation: Observation | None) -> Observation:
        """The observation with the prompt of the session. Raises WamkitError if it is None."""
        if observation is None:
            raise WamkitError(
                "no observation, and nothing that was imagined to go on from",
                "pass an observation",
            )
        prompt = self._prompt
        if prompt is None:
            return observation
        return replace(observation, prompt=prompt * (observation.batch if len(prompt) == 1 else 1))

    def _begin(self, observation: Observation) -> None:
        """An episode whose first observation this is."""
        self._inputs = preprocessing.inference_inputs(self.policy, observation)
        self._first = self._felt = observation
        self._clip, self._encoded = dict(observation.images), None
        self._chunks = []

    def _continue(self, past: EpisodeHistory) -> None:
        """The inputs at the beginning, with what happened since the last chunk."""
        assert self._inputs is not None and self._first is not None
        if past.memory is None:
            raise WamkitError(
                "the memory is full, and the network begins anew from images",
                "pass an observation",
            )
        # Looked up again, which also detects changed weights.
        text = preprocessing.embed_prompts(self.policy, tuple(self._first.prompt))
        text = text.with_fresh_chunk_cache(cond_embeds=self._inputs.text.cond_embeds)
        self._inputs = self.policy.action_head.prepare(self._inputs.with_(text=text, past=past))

    def _observe(self, observation: Observation, executed: Tensor | None) -> None:
        """Add the observed frames and executed actions since the last observation."""
        first, spec = self._first, self.policy.spec
        assert first is not None
        self._expect(
            observation.batch == first.batch,
            f"an observation of {observation.batch} robots in an episode of {first.batch}",
        )
        preprocessing.expect_images(observation, self.num_images)
        self.policy.cameras.expect_views(observation.images)
        done = torch.cat(self._chunks, 1) if executed is None else executed
        steps = sum(chunk.shape[1] for chunk in self._chunks)
        wanted = (first.batch, steps, spec.actions.size)
        self._expect(
            tuple(done.shape) == wanted,
            f"executed actions {list(done.shape)}; the session waits for {list(wanted)}",
        )
        if (bad := fault(done)) is not None:
            raise WamkitError(
                f"the executed actions are not finite: {bad} (sample, step, number)",
                "pass the executed actions, in physical units",
            )
        repeats, count = spec.video.repeats, self.num_images * spec.video.repeats
        new = {name: x.repeat_interleave(repeats, 1) for name, x in observation.images.items()}
        clip = {name: torch.cat([old, new[name]], 1) for name, old in self._clip.items()}
        if self._memory is None or observation.prompt != first.prompt:
            newest = {name: images[:, -spec.video.num_observed :] for name, images in clip.items()}
            self._begin(replace(observation, images=newest))
            return
        video = self._latents_of(replace(observation, images=new), clip, count)
        assert self._felt is not None
        state = preprocessing.physical_state(self.policy, self._felt)
        actions = self.policy.actions.encode_executed(done.to(self.policy.device), state)
        if spec.paradigm.states_per_sample > 1:
            assert self._inputs is not None
            state = preprocessing.normalized_state(self.policy, observation)
            self._felt, self._inputs = observation, self._inputs.with_(state=state)
        self._continue(
            EpisodeHistory(
                self._memory, video, preprocessing.to_latent(self.policy, "action", actions)
            )
        )
        self._chunks = []

    def _latents_of(self, observation: Observation, clip: dict[str, Tensor], count: int) -> Tensor:
        """Latents of `count` new images; `clip` are these and those that are kept."""
        spec, policy = self.policy.spec, self.policy
        observed, new = spec.video.num_observed, dict(observation.images)
        if spec.video.episode_latents == "stream":
            pieces = [observation]
            if self._encoded is None:  # the first images, for what the VAE remembers of them
                pieces.insert(0, replace(observation, images=self._clip))
            for piece in pieces:
                video, self._encoded = preprocessing.next_latents(policy, piece, self._encoded)
            self._clip = {name: images[:, -observed:] for name, images in clip.items()}
            return video
        kept = max(spec.num_images, observed + count)
        self._clip = encoded = {name: images[:, -kept:] for name, images in clip.items()}
        if spec.video.new_clip == "apart":
            encoded = {name: torch.cat([x[:, :1], x], 1) for name, x in new.items()}
        return preprocessing.latest_latents(policy, replace(observation, images=encoded), count)

    def _expect(self, right: bool, otherwise: str) -> None:
        if not right:
            raise WamkitError(
                otherwise,
                "pass the actions that the robot executed of the last chunk, or none if it "
                "made them all, and begin a new episode with session.reset()",
            )
