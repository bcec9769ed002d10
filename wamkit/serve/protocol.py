"""Requests and replies of the server: openpi's keys, and the observations that they encode.

A request is a map: `observation/VIEW` images, `observation/state` values, `prompt` an instruction.
It may hold `seed`, `reset` (a new episode begins with this request), `imagine` (the predicted
frames are wanted too), `step` and `episode` (when the observation was made, so that late, repeated
and dropped ones are distinguished), where the paradigm remembers, `executed` (the actions that the
robot executed), and where the policy takes one, `prefix` (the actions that the chunk begins with).
No other key is taken.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..config.spec import PolicySpec
from ..errors import WamkitError, did_you_mean
from ..policy.moments import Moment
from ..policy.observation import ActionChunk, Imagined, Observation
from ..policy.policy import Policy
from ..policy.session import Session
from .fields import (
    EPISODE,
    IMAGINE,
    PROMPT,
    RESET,
    SEED,
    STEP,
    parse_moment,
    parse_prompt,
    parse_seed,
    parse_switch,
    to_clip,
    to_deep_clip,
    to_vector,
)
from .frames import encode_imagined
from .prefixes import PREFIX, RequestPrefix, act_with_prefix, parse_prefix, prefix_modes
from .quoting import list_values, quote

NUMBER = "request"  # a client that counts its requests can send one again
STATE, EXECUTED = "observation/state", "executed"


def keys_of(spec: PolicySpec, renamed: Mapping[str, str]) -> dict[str, str]:
    """view -> the key of its image in a request, `observation/VIEW` unless renamed.

    Raises WamkitError for a view that the policy does not have.
    """
    views = [view.name for view in spec.cameras.views]
    if unknown := sorted(set(renamed) - set(views)):
        raise WamkitError(
            f"the policy has no view {unknown[0]!r}; it has {', '.join(views)}",
            did_you_mean(unknown[0], views, f"write {views[0]}=KEY"),
        )
    return {view: renamed.get(view, f"observation/{view}") for view in views}


@dataclass(frozen=True)
class ParsedRequest:
    """A request that was validated, of one robot."""

    seen: Observation
    seed: int | None = None
    executed: Tensor | None = None
    prefix: RequestPrefix | None = None
    imagine: bool = False
    moment: Moment | None = None

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for requests that can be computed in one batch."""
        shapes = tuple((name, tuple(x.shape[1:])) for name, x in self.seen.images.items())
        return shapes, self.imagine, None if self.prefix is None else self.prefix.signature

    @property
    def nbytes(self) -> int:
        """Bytes of its images."""
        return sum(x.nbytes for x in self.seen.images.values())


class RequestHandler:
    """Parses requests to one policy and serializes its replies."""

    def __init__(self, policy: Policy, name: str, renamed: Mapping[str, str]) -> None:
        self.policy, self.name = policy, name
        self.images = keys_of(policy.spec, renamed)
        self.prefix_modes = prefix_modes(policy)
        self.imagines = policy.spec.latent_frames[1] > 0 and policy.spec.backbone.traits.imagines
        state = [STATE] if policy.spec.state.size else []
        self.wanted = (*dict.fromkeys(self.images.values()), *state, PROMPT)
        self.optional = (
            SEED,
            RESET,
            STEP,
            EPISODE,
            *([EXECUTED] if policy.paradigm.stateful else []),
            *([IMAGINE] if self.imagines else []),
            *([PREFIX] if self.prefix_modes else []),
        )

    def metadata(self) -> dict[str, Any]:
        """The greeting: keys and shapes of requests and replies."""
        spec = self.policy.spec
        return {
            "policy": self.name,
            "cameras": {
                view.name: {"key": self.images[view.name], "size": list(view.size)}
                | ({} if view.value_range is None else {"value_range": list(view.value_range)})
                for view in spec.cameras.views
            },
            "num_images": spec.video.num_observed,
            "image_steps": list(spec.video.moments(spec.video.num_observed)),
            "image_stride": spec.video.frame_stride * spec.video.repeats,
            "state": {"key": STATE, "size": spec.state.size},
            "actions": [self.policy.actions.names[i] for i in self.policy.actions.executed],
            "differences": list(spec.actions.deltas),
            "chunk_size": spec.actions.chunk_size,
            "control_hz": spec.actions.control_hz,
            "normalized": self.policy.actions.statistics is None,
            "stateful": self.policy.paradigm.stateful,
            "moments": True,
            "imagines": self.imagines,
            "prefix": list(self.prefix_modes),
            "max_delay": spec.actions.max_delay,
            "wamkit": __version__,
        }

    def answer(self, session: Session, request: Any) -> dict[str, Any]:
        """Return the next actions for a session, and the time the policy took.

        Raises WamkitError for a request that the policy cannot take.
        """
        return self.act(session, self.parse_next(session, request))

    def parse_next(self, session: Session, request: Any) -> ParsedRequest:
        """Validate the next request of a session, which begins anew if that is asked for."""
        self.expect_keys(request)
        self.arrive(session, request)
        return self.parse(request, session.num_images)

    def arrive(self, session: Session, request: Mapping[str, Any]) -> None:
        """Begin a new episode if a request asks for it, or is of another one.

        Raises WamkitError for an observation that is late, or that a memory cannot go on with.
        """
        moment = parse_moment(request)
        if parse_switch(request, RESET):
            session.reset()
        if moment is not None:
            session.arrive(moment)

    def act(self, session: Session, parsed: ParsedRequest) -> dict[str, Any]:
        """The reply to one request of a session."""
        begun = perf_counter()
        chunk = act_with_prefix(
            session.act,
            parsed.prefix,
            parsed.seen,
            parsed.executed,
            moment=parsed.moment,
            seed=parsed.seed,
        )
        future = self.imagine([parsed], parsed.seed) if parsed.imagine else None
        reply = {**_to_reply(chunk, future), "num_images": session.num_images}
        return {**reply, "policy_timing": {"infer_ms": 1000 * (perf_counter() - begun)}}

    def answer_batch(self, requests: Sequence[ParsedRequest]) -> list[dict[str, Any]]:
        """The replies to requests of one signature, computed in one batch.

        For policies without memory of an episode. Each request gets what it would get alone, up
        to rounding. Raises WamkitError if one of them cannot be computed.
        """
        first, begun = requests[0], perf_counter()
        seeds = [secrets.randbits(63) if one.seed is None else one.seed for one in requests]
        seed = seeds[0] if len(requests) == 1 else seeds
        seen = _stack([one.seen for one in requests])
        prefix = None if first.prefix is None else first.prefix.stack([o.prefix for o in requests])
        chunk = act_with_prefix(self.policy.act, prefix, seen, seed=seed)
        future = self.imagine(requests, seed) if first.imagine else None
        timing = {"infer_ms": 1000 * (perf_counter() - begun)}
        more = {"num_images": self.policy.spec.video.num_observed, "policy_timing": timing}
        return [{**_to_reply(chunk, future, row), **more} for row in range(len(requests))]

    def imagine(self, requests: Sequence[ParsedRequest], seed: Any) -> Imagined:
        """The futures that the policy imagines after the newest images of requests."""
        seen, count = _stack([one.seen for one in requests]), self.policy.spec.video.num_observed
        images = {name: clip[:, -count:] for name, clip in seen.images.items()}
        return self.policy.imagine(Observation(images, seen.prompt, seen.state), seed=seed)

    def parse(self, request: Any, count: int) -> ParsedRequest:
        """Validate a request with `count` images of each camera. Raises WamkitError."""
        self.expect_keys(request)
        parse_switch(request, RESET)
        executed = None
        if EXECUTED in request:
            executed = to_vector(EXECUTED, request[EXECUTED], (-1, self.policy.spec.actions.size))
        prefix = parse_prefix(request, self.policy, self.prefix_modes)
        seed, imagine = parse_seed(request), parse_switch(request, IMAGINE)
        seen = self._parse_observation(request, count)
        return ParsedRequest(seen, seed, executed, prefix, imagine, parse_moment(request))

    def expect_keys(self, request: Any) -> None:
        """Raise WamkitError if a request is no map, or has not the keys that it must have."""
        if not isinstance(request, dict):
            raise WamkitError(
                f"a request that is a {type(request).__name__}, not a map",
                f"send a map of {', '.join(self.wanted)}",
            )
        missing = [key for key in self.wanted if key not in request]
        unknown = [key for key in request if key not in (*self.wanted, *self.optional)]
        if not missing and not unknown:
            return
        faults = [f"has no {key!r}" for key in missing]
        faults += [f"has {list_values(unknown)}"] if unknown else []
        hint = f"optional keys are {', '.join(self.optional)}"
        if missing and unknown:
            hint = f"if {quote(unknown[0])} is meant, call it {missing[0]!r}"
            for view, key in self.images.items():
                if key == missing[0] and isinstance(unknown[0], str):
                    hint += f", or serve with --camera-map {view}={quote(unknown[0])[1:-1]}"
        raise WamkitError(
            f"the request {' and '.join(faults)}; found {list_values(request)}; "
            f"expected {', '.join(map(repr, self.wanted))}",
            hint,
        )

    def _parse_observation(self, request: Mapping[str, Any], count: int) -> Observation:
        ranged = {view.name for view in self.policy.spec.cameras.views if view.value_range}
        images = {
            view: (to_deep_clip if view in ranged else to_clip)(key, request[key], count)
            for view, key in self.images.items()
        }
        size = self.policy.spec.state.size
        state = to_vector(STATE, request[STATE], (size,)) if size else None
        return Observation(images, parse_prompt(request[PROMPT]), state)


def check_request_number(found: Any, before: int | None) -> int:
    """Validate the number of a request. Raises WamkitError if it is none, or decreases."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise WamkitError(
            f"'{NUMBER}' is {quote(found)}; expected a count", "count requests from 1"
        )
    if before is not None and found < before:
        raise WamkitError(
            f"request {found} came after request {before}", "count on in the same session"
        )
    return found


def _stack(seen: Sequence[Observation]) -> Observation:
    """Observations of several robots as one batch."""
    if len(seen) == 1:
        return seen[0]
    images = {name: torch.cat([one.images[name] for one in seen]) for name in seen[0].images}
    states = [one.state for one in seen]
    state = None if states[0] is None else torch.cat(states)
    return Observation(images, [prompt for one in seen for prompt in one.prompt], state)


def _to_reply(chunk: ActionChunk, future: Imagined | None, row: int = 0) -> dict[str, Any]:
    """A chunk of one robot as plain data: `actions` [N, A] float32."""
    found: dict[str, Any] = {"actions": chunk.values[row].numpy()}
    if chunk.value is not None:
        found["value"] = float(chunk.value[row])
    if chunk.notes:
        found["notes"] = {name: float(note[row]) for name, note in chunk.notes.items()}
    if future is not None:
        found["imagined"] = encode_imagined(future, row)
    return found
