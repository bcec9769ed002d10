"""Where slots and frames stand in time: the published orders, and what must not move them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from wamkit_latent_slot import LatentSlot

from wamkit.config.parts import HeadContext
from wamkit.config.registry import registry
from wamkit.interfaces.types import Frames, ModelInputs, NoisyVectors, Text, counted

Order = list[tuple[str, float]]

LIBERO = [
    ("context", 0),  # blank
    ("state", 1),
    ("context", 2),  # wrist
    ("context", 3),  # primary
    ("action", 4),
    ("next_state", 5),
    ("target", 6),
    ("target", 7),
    ("value", 8),
]
ROBOCASA = [
    ("context", 0),  # blank
    ("state", 1),
    ("context", 2),  # wrist
    ("context", 3),  # primary
    ("context", 4),  # secondary; in ALOHA: left wrist, right wrist, primary
    ("action", 5),
    ("next_state", 6),
    ("target", 7),
    ("target", 8),
    ("target", 9),
    ("value", 10),
]


def head_for(
    views: int, state: int = 9, latent: tuple[int, int, int] = (4, 2, 2), **how: Any
) -> Any:
    backbone: Any = registry().parts["backbone"]["toy"]().tiny()  # type: ignore[call-arg]
    sizes = HeadContext(
        backbone=backbone,
        chunk=4,
        action=4,
        state=state,
        latent=latent,
        frames=(views, views),
        predicts=("action", "next_state", "value"),
    )
    return LatentSlot(**how).build(sizes)


def inputs_for(head: Any, views: int, *, chunks: int = 1, state: int = 9) -> ModelInputs:
    """Everything there can be, of as many chunks, in the order in which a policy gives it."""
    latent, length = head.sizes.latent, views * (1 + chunks)
    room = latent[0] * latent[1] * latent[2]
    roles = ("context",) * views
    names: list[str] = []
    for k in range(chunks):
        roles += (f"target.{k}" if chunks > 1 else "target",) * views
        names += [f"action.{k}" if chunks > 1 else "action"] * head.count
    one = torch.ones(1)
    return ModelInputs(
        Text(torch.zeros(1, 2, 8)),
        Frames(
            torch.zeros(1, latent[0], length, *latent[1:]),
            roles,
            counted(length),
            torch.zeros(1, length),
        ),
        NoisyVectors(torch.zeros(1, len(names), room), one, tuple(names)),
        state=torch.zeros(1, state) if state else None,
        next_state=NoisyVectors(torch.zeros(1, 1, room), one) if state else None,
        value=NoisyVectors(torch.zeros(1, 1, room), one),
    )


def order(head: Any, inputs: ModelInputs, known: tuple[str, ...] = ()) -> Order:
    """All frames of a pass, as they stand in time."""
    clips = list(head.slots(inputs, known).values())
    if inputs.video is not None:
        clips.append(replace(inputs.video, times=head.frame_times(inputs.video.times)))
    found = [pair for c in clips for pair in zip(c.roles, c.times, strict=True)]
    return sorted(found, key=lambda pair: pair[1])


@pytest.mark.parametrize(("views", "published"), [(2, LIBERO), (3, ROBOCASA)])
def test_the_order_is_the_published_one(views: int, published: Order) -> None:
    head = head_for(views)
    assert order(head, inputs_for(head, views)) == published


@pytest.mark.parametrize(("views", "published"), [(2, LIBERO), (3, ROBOCASA)])
def test_what_is_left_out_leaves_its_place_free(views: int, published: Order) -> None:
    head = head_for(views, blank="none")
    assert order(head, inputs_for(head, views)) == published[1:]
    inputs = inputs_for(head, views)
    assert inputs.video is not None
    seen = inputs.with_(
        video=inputs.video.only("context"), action=None, next_state=None, value=None
    )
    assert order(head, seen) == [p for p in published[1:] if p[0] in ("state", "context")]
    rest = inputs.with_(video=None, next_state=None)
    assert order(head, rest, ("text", "context", "state")) == [
        p for p in published if p[0] in ("action", "value")
    ]


def test_the_blank_frame_comes_with_the_first_observation_only() -> None:
    head = head_for(2)
    inputs = inputs_for(head, 2)
    assert "blank" in head.slots(inputs, ("text",))
    assert "blank" not in head.slots(inputs, ("text", "context"))
    assert "blank" not in head.slots(inputs, ("context.0",))


def test_chunks_follow_each_other() -> None:
    head = head_for(2)
    inputs = inputs_for(head, 2, chunks=2).with_(next_state=None)
    assert order(head, inputs) == [
        *[(role, time) for role, time in LIBERO if time < 4],
        ("action.0", 4),
        ("target.0", 6),
        ("target.0", 7),
        ("value", 8),
        ("action.1", 9),
        ("target.1", 11),
        ("target.1", 12),
    ]
    assert inputs.video is not None and inputs.action is not None
    second = inputs.with_(
        video=inputs.video.only("target.1"),
        action=NoisyVectors(inputs.action.x[:, 1:], inputs.action.sigma, ("action.1",), (1.0,)),
        state=None,
        value=None,
    )
    assert order(head, second, ("context",)) == [
        ("action.1", 9),
        ("target.1", 11),
        ("target.1", 12),
    ]


def test_appended_slots_leave_the_frames_of_the_first_chunk_where_they_were_trained() -> None:
    head = head_for(1, layout="append", slots=2)
    assert order(head, inputs_for(head, 1)) == [
        ("context", 0),
        ("target", 1),
        ("state", 2),
        ("action", 3),
        ("action", 4),
        ("next_state", 5),
        ("value", 6),
    ]
    two = order(head, inputs_for(head, 1, chunks=2).with_(next_state=None, value=None))
    assert two == [
        ("context", 0),
        ("target.0", 1),
        ("state", 2),
        ("action.0", 3),
        ("action.0", 4),
        ("target.1", 7),
        ("action.1", 8),
        ("action.1", 9),
    ]


def test_without_a_state_nothing_is_kept_free_for_one() -> None:
    head = head_for(1, state=0)
    assert order(head, inputs_for(head, 1, state=0)) == [
        ("context", 0),
        ("context", 1),
        ("action", 2),
        ("target", 3),
        ("value", 4),
    ]
