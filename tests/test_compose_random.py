"""Random requests: what is written passes the check, and what is refused names a fix."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest

from wamkit.cli.compose.asked import Asked
from wamkit.cli.compose.short_forms import FLAGS
from wamkit.config.check import check
from wamkit.config.composing import Composition, compose_spec, find_remedy
from wamkit.config.composing.candidates import variants_of
from wamkit.config.composing.document import spec_text
from wamkit.config.registry import registry
from wamkit.files.documents import parse_toml

COUNT = 200
VIEWS = (
    ("front=224x224",),
    ("front=224x224", "wrist=224x224"),
    ("front=200x300", "left=100x150", "right=100x150"),
    ("front=225x224", "wrist"),
    ("a", "b", "c", "d"),
    ("top=37x41",),
)
ACTIONS = (
    ("joints:14:quantile",),
    ("pose:6:delta", "gripper:1"),
    ("arm:7:relative",),
    ("base:2:mean_std", "arm:6:relative:quantile"),
)


def some_request(rng: random.Random) -> Asked:
    """Any parts and variants, and some views, actions and other values, each as often left out."""
    parts = {}
    for flag, kind in FLAGS.items():
        if rng.random() < 0.5:
            name = rng.choice(registry().names(kind))
            variants = variants_of(registry().get(kind, name)) if kind == "backbone" else []
            variant = rng.choice(variants) if variants and rng.random() < 0.5 else None
            parts[flag] = f"{name}:{variant}" if variant else name
    like = rng.choice(EXAMPLES) if rng.random() < 0.2 else None
    settings = ["video.num_frames=6", "action_head.state=none", "video.num_observed=2"]
    return Asked(
        parts=parts,
        views=rng.choice(VIEWS) if rng.random() < 0.5 else (),
        layout=rng.choice(["side_by_side", "t_shape", "grid"]) if rng.random() < 0.1 else None,
        actions=rng.choice(ACTIONS) if rng.random() < 0.5 else (),
        state=rng.choice(["0", "7", "14:quantile"]) if rng.random() < 0.5 else None,
        chunk=rng.choice([1, 6, 16, 30, 32]) if rng.random() < 0.5 else None,
        hz=rng.choice([5.0, 12.5, 50.0]) if rng.random() < 0.3 else None,
        like=like,
        settings=(rng.choice(settings),) if rng.random() < 0.15 else (),
    )


EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.toml"))
SEEDS = range(0, COUNT, 20)


def written(made: Composition) -> None:
    """The spec as a file passes the check."""
    raw = parse_toml(spec_text(made.raw))
    assert [c for c in check(raw) if not c.missing] == []


@pytest.mark.parametrize("first", SEEDS)
def test_what_is_composed_passes_the_check_and_what_is_refused_names_a_cure(first: int) -> None:
    for seed in range(first, first + COUNT // len(SEEDS)):
        asked = some_request(random.Random(seed))
        request = asked.request()
        made = compose_spec(request)
        if not made.conflicts:
            written(made)
            continue
        remedy = find_remedy(request, made)
        assert remedy.settings, f"{asked.command()}\n{made.conflicts}"
        fixed = asked.with_overrides(remedy.settings)
        assert shlex.split(fixed.command()) == fixed.args()
        again = compose_spec(fixed.request())
        assert not again.conflicts, f"{asked.command()}\n{fixed.command()}\n{again.conflicts}"
        written(again)
