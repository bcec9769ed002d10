"""Who sees whom in the published systems, what is learned, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_autoregressive import Autoregressive

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, override, parse
from wamkit.config.visibility import Visibility
from wamkit.errors import SpecError
from wamkit.interfaces.types import ModelInputs
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import (
    batch_of,
    compose,
    noised_sample,
    observation,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import float64, same_values

# LingBot-VA, three blocks: | noisy frames | clean frames | noisy actions | clean actions |.
LINGBOT = """
    target.0  1 0 0  0 0 0  0 0 0  0 0 0
    target.1  0 1 0  1 0 0  0 0 0  1 0 0
    target.2  0 0 1  1 1 0  0 0 0  1 1 0
    seen.0    0 0 0  1 0 0  0 0 0  0 0 0
    seen.1    0 0 0  1 1 0  0 0 0  1 0 0
    seen.2    0 0 0  1 1 1  0 0 0  1 1 0
    action.0  0 0 0  1 0 0  1 0 0  0 0 0
    action.1  0 0 0  1 1 0  0 1 0  1 0 0
    action.2  0 0 0  1 1 1  0 0 1  1 1 0
    did.0     0 0 0  1 0 0  0 0 0  1 0 0
    did.1     0 0 0  1 1 0  0 0 0  1 1 0
    did.2     0 0 0  1 1 1  0 0 0  1 1 1
"""
LINGBOT_TWO = """
    target.0  1 0  0 0  0 0  0 0
    target.1  0 1  1 0  0 0  1 0
    seen.0    0 0  1 0  0 0  0 0
    seen.1    0 0  1 1  0 0  1 0
    action.0  0 0  1 0  1 0  0 0
    action.1  0 0  1 1  0 1  1 0
    did.0     0 0  1 0  0 0  1 0
    did.1     0 0  1 1  0 0  1 1
"""
# DreamZero, three blocks: | clean frame 0 | clean blocks | noisy blocks | actions | state |.
DREAMZERO = """
    context   1  0 0 0  0 0 0  0 0 0  0
    seen.0    1  1 0 0  0 0 0  0 0 0  0
    seen.1    1  1 1 0  0 0 0  0 0 0  0
    seen.2    1  1 1 1  0 0 0  0 0 0  0
    target.0  1  0 0 0  1 0 0  1 0 0  1
    target.1  1  1 0 0  0 1 0  0 1 0  1
    target.2  1  1 1 0  0 0 1  0 0 1  1
    action.0  1  0 0 0  1 0 0  1 0 0  1
    action.1  1  1 0 0  0 1 0  0 1 0  1
    action.2  1  1 1 0  0 0 1  0 0 1  1
    state     0  0 0 0  0 0 0  0 0 0  1
"""


def drawn(sees: Visibility, image: str) -> str:
    """The table in the form, and with the roles, of an image."""
    rows = [line.split()[0] for line in image.strip().splitlines()]
    return "".join(f"{row} {[int(c in sees[row]) for c in rows]}\n" for row in rows)


def literal(image: str) -> str:
    lines = (line.split() for line in image.strip().splitlines())
    return "".join(f"{row} {[int(x) for x in cells]}\n" for row, *cells in lines)


def spec_for(
    *changes: str, backbone: str = "toy", head: str = "mot", chunks: int = 3, **settings: Any
) -> PolicySpec:
    paradigm = Autoregressive(**({"on_full_memory": "slide"} | settings))
    spec = spec_with(paradigm, backbone=backbone, action_head=head)
    window = settings.get("window")
    sizes = f"paradigm.chunks={chunks}", *([f"paradigm.window={window}"] if window else ())
    return with_overrides(spec, *sizes, *changes)


def test_the_table_is_the_published_mask() -> None:
    three, two = Autoregressive(chunks=3).sees, Autoregressive(chunks=2).sees
    assert drawn(three, LINGBOT) == literal(LINGBOT)
    assert drawn(two, LINGBOT_TWO) == literal(LINGBOT_TWO)
    dreamzero = Autoregressive(chunks=3, action="mutual").sees
    assert drawn(dreamzero, DREAMZERO) == literal(DREAMZERO)
    assert not any(role.startswith("did") for role in dreamzero)
    assert all("context" in seen for row, seen in three.items() if row != "state")


def test_a_window_hides_what_is_older() -> None:
    sees = Autoregressive(chunks=5, window=2).sees
    past = {"seen.1", "seen.2", "did.1", "did.2"}
    assert sees["target.3"] == {"text", "context", "state", "target.3"} | past
    assert sees["seen.3"] == {"text", "context", "seen.3"} | past
    assert sees["action.3"] - sees["target.3"] == {"seen.3", "action.3"}
    assert sees["did.3"] == {"text", "context", "seen.3", "did.3"} | past


def test_frames_need_not_see_actions() -> None:
    sees = Autoregressive(chunks=3, past_actions="actions").sees
    assert sees["target.2"] == {"text", "context", "state", "seen.0", "seen.1", "target.2"}
    assert {"did.0", "did.1"} <= set(sees["action.2"])
    assert not any(role.startswith("did") for role in sees["seen.2"])


@pytest.mark.parametrize("action", ["inverse_dynamics", "mutual"])
@float64()
def test_every_block_has_a_level_of_its_own_and_its_clean_copies_stand_where_it_does(
    action: str,
) -> None:
    policy = Policy.from_spec(spec_for(action=action, context_noise_prob=0))
    inputs, noisy, target = noised_sample(policy)
    video, numbers = noisy.video, noisy.action
    assert video is not None and numbers is not None
    own = action == "inverse_dynamics"
    blocks, copies = (0, 0, 1, 1, 2, 2), (0, 0, 1, 1, *((2, 2) if own else ()))
    assert video.roles == (
        "context",
        *(f"target.{k}" for k in blocks),
        *(f"seen.{k}" for k in copies),
    )
    assert list(video.times) == [*range(7), *range(1, 1 + len(copies))]
    assert target["video"].places == (1, 2, 3, 4, 5, 6)
    assert torch.equal(video.only("seen.1").z, inputs.take("video")[:, :, 2:4])
    assert not video.only("seen.0", "seen.1").sigma.any()
    level = video.sigma[:, 1:7].unflatten(1, (3, 2))
    assert torch.equal(level[..., 0], level[..., 1]) and len(level.unique()) == 6
    done = numbers.x[:, 18:]
    assert done.shape[1] == (12 if own else 0)
    assert torch.equal(done, inputs.take("action")[:, : done.shape[1]])
    assert list(numbers.places()[18:]) == list(range(done.shape[1]))
    assert target["action"].places == tuple(range(18))
    sigma = numbers.sigma[:, :18].unflatten(1, (3, 6))
    assert torch.equal(sigma[..., 0], sigma[..., 5]) and len(sigma.unique()) == 6
    back = numbers.x[:, :18] - numbers.sigma[:, :18, None] * target["action"].velocity
    same_values(back, inputs.take("action"))


def test_a_tied_action_has_the_level_of_the_frames_of_its_block() -> None:
    policy = Policy.from_spec(spec_for("schedules.action.shared_sigma=true", action="mutual"))
    _, noisy, _ = noised_sample(policy)
    assert noisy.video is not None and noisy.action is not None
    levels = noisy.video.only("target.0", "target.1", "target.2").sigma
    assert torch.equal(levels.repeat_interleave(3, 1), noisy.action.sigma)
    free = Policy.from_spec(spec_for(action="mutual"))
    _, noisy, _ = noised_sample(free)
    assert noisy.video is not None and noisy.action is not None
    assert not (noisy.video.only("target.1").sigma[:, :1] == noisy.action.sigma).any()


@pytest.mark.parametrize(("share", "low", "high"), [(0.5, 0.35, 0.65), (0, 0, 0), (1, 1, 1)])
def test_copies_of_frames_are_noised_in_a_share_of_samples_from_the_lower_half_of_the_grid(
    share: float, low: float, high: float
) -> None:
    policy = Policy.from_spec(spec_for(context_noise_prob=share))
    inputs, noisy, _ = noised_sample(policy, size=128)
    assert noisy.video is not None and noisy.action is not None
    copies = noisy.video.only("seen.0", "seen.1", "seen.2")
    noised = (copies.sigma > 0).unflatten(1, (3, 2))
    assert torch.equal(noised.any(-1).any(-1), noised.all(-1).all(-1))
    assert low <= noised.float().mean() <= high
    assert copies.sigma.max() <= 5 / 6  # half of the grid, under shift 5
    assert share == 0 or copies.sigma.max() > 0.8
    changed = (copies.z - inputs.take("video")).abs().flatten(1).amax(1) > 0
    assert torch.equal(changed, noised.flatten(1).any(1))
    done = [i for i, role in enumerate(noisy.action.roles) if role.startswith("did")]
    assert not noisy.action.sigma[:, done].any()


def test_losses_are_of_all_blocks_and_of_no_copy() -> None:
    policy = Policy.from_spec(spec_for())
    _, noisy, target = noised_sample(policy)
    with torch.no_grad():
        found = policy.model(noisy)
    weights = {part: goal.weight.shape for part, goal in target.items()}
    assert weights == {"video": (2, 6), "action": (2, 18)}
    assert found.video is not None and found.action is not None
    assert found.video.shape[2] == 13 and found.action.shape[1] == 30
    batch = batch_of(policy.spec)
    losses = policy.loss(batch, seed=0)
    losses.total.backward()
    assert losses.parts["video"] > 0 and losses.parts["action"] > 0


@pytest.mark.parametrize("backbone", ["wan", "flux2"])
@torch.no_grad()
def test_coarser_targets_are_remembered_on_their_own_grid(backbone: str) -> None:
    tiny = spec_for(backbone=backbone)
    height, width = tiny.cameras.canvas
    size = f"cameras.views.0.size=[{height * 2}, {width * 4}]"
    policy = Policy.from_spec(with_overrides(tiny, size, "video.target_downscale=2"))
    assert check(policy.spec) == []
    _, noisy, _ = noised_sample(policy)
    assert noisy.video is not None and noisy.future is not None
    assert noisy.video.roles == ("context",)
    assert {role.partition(".")[0] for role in noisy.future.roles} == {"target", "seen"}
    assert policy.loss(batch_of(policy.spec), seed=0).total.isfinite()
    session = policy.session()
    for seed in range(3):
        seen = observation(policy.spec, frames=session.num_images, seed=seed)
        assert session.act(seen, seed=0).values.isfinite().all()


@torch.no_grad()
def test_guides_are_those_of_the_first_block_in_training_and_in_use() -> None:
    wan = registry().get("backbone", "wan")(variant="2.2-i2v-a14b")  # type: ignore[call-arg]
    spec = compose(wan, Autoregressive())
    assert spec.backbone.traits.cond_channels
    policy = Policy.from_spec(spec)
    _, noisy, _ = noised_sample(policy)
    assert noisy.video is not None and noisy.video.cond_latents is not None
    guide = {role: noisy.video.only(role).cond_latents for role in dict.fromkeys(noisy.video.roles)}
    first = guide["target.0"]
    assert first is not None
    for role, cond in guide.items():
        assert cond is not None
        assert role == "context" or torch.equal(cond, first)
    session = policy.session()
    for seed in range(3):
        seen = observation(spec, frames=session.num_images, seed=seed)
        assert session.act(seen, seed=0).values.isfinite().all()


@pytest.mark.parametrize(
    ("head", "expected"), [("mot", "everyone"), ("reader", "none"), ("regression", "none")]
)
def test_who_sees_past_actions_follows_from_the_head_if_left_open(head: str, expected: str) -> None:
    spec = spec_for(head=head)
    assert isinstance(spec.paradigm, Autoregressive)
    assert spec.paradigm.past_actions == expected and check(spec) == []
    assert any(role.startswith("did") for role in spec.paradigm.sees) == (expected != "none")


def test_past_actions_of_a_head_without_tokens_cannot_be_seen() -> None:
    spec = spec_for("paradigm.past_actions=actions", head="reader")
    (found,) = check(spec)
    assert found.why == (
        "past actions are to be seen, but reader only reads the video and exposes no tokens"
    )
    assert found.hint.startswith('set paradigm.past_actions = "none", or choose an action_head')
    fixed = override(spec.dump(), ["paradigm.past_actions=none"])
    assert check(parse(fixed)) == []


def test_frames_cannot_hear_a_head_without_tokens() -> None:
    (found,) = check(spec_for("paradigm.action=mutual", head="reader"))
    assert found.why == (
        "autoregressive lets target attend to the action, but reader only reads the video and "
        "exposes no tokens"
    )


def test_without_frames_to_imagine_there_is_no_block() -> None:
    (found,) = check(spec_for("video.num_frames=1"))
    assert found.why == (
        "autoregressive goes from block to block of imagined frames, and of 1 images none is "
        "left to imagine"
    )
    frames = found.hint.removeprefix("set video.num_frames = ")
    assert check(spec_for(f"video.num_frames={frames}")) == []


def test_a_window_that_is_never_full_in_training_is_refused() -> None:
    with pytest.raises(SpecError) as refused:
        spec_for("paradigm.window=3")
    assert (
        "a window of 3 past blocks is never full in samples of 3; write window = 2 or chunks = 4"
    ) in str(refused.value)


def test_the_unit_of_a_window_left_open_is_refused() -> None:
    with pytest.raises(ValueError, match="write window = 5, or leave window_unit out"):
        Autoregressive(window_unit="half_blocks")


@pytest.mark.parametrize(
    ("written", "hint", "why"),
    [
        (
            {"paradigm": {"state": "block"}, "state": {"size": 0}},
            {"state": "episode"},
            "every block is to have a state, and the policy has none",
        ),
        (
            {"paradigm": {"guides": "sample"}},
            {"guides": "block"},
            "this variant of toy reads no conditioning latents",
        ),
        (
            {"paradigm": {"denoise_first": True}, "video": {"target_downscale": 2}},
            {"denoise_first": False},
            "the first frames are to be denoised among those of the blocks",
        ),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(
    written: dict[str, Any], hint: dict[str, Any], why: str
) -> None:
    raw = {
        "backbone": "toy",
        "vae": "pixel_shuffle",
        "text_encoder": "bytes",
        "action_head": {"name": "mot", "state": "token"},
        "paradigm": {"name": "autoregressive", "chunks": 3, **written["paradigm"]},
        "actions": {"chunk_size": 4, "groups": [{"name": "arm", "size": 4}]},
        "state": {"size": 3, **written.get("state", {})},
        "cameras": {"views": [{"name": "front", "size": [64, 64]}]},
        "video": {"num_frames": 9, **written.get("video", {})},
    }
    (found,) = check(raw)
    assert found.why.startswith(why)
    assert all(f"set paradigm.{name} = " in found.hint for name in hint)
    assert check({**raw, "paradigm": {**raw["paradigm"], **hint}}) == []


@pytest.mark.parametrize("action", ["inverse_dynamics", "mutual"])
@pytest.mark.parametrize("chunk", [0, 1])
def test_the_program_counts_every_pass(action: str, chunk: int) -> None:
    spec = spec_for(action=action)
    policy, found = Policy.from_spec(spec), []

    def model(inputs: ModelInputs, cache: Any = None, keep: Any = ()) -> Any:
        found.append({role.partition(".")[0] for role in inputs.roles} - {"text", "state"})
        return Policy.model(policy, inputs, cache, keep)

    session = policy.session()
    for seed in range(chunk + 1):
        found.clear()
        policy.model = model  # type: ignore[method-assign]
        session.act(observation(spec, frames=session.num_images, seed=seed), seed=0)
    roles_by_pass = [
        {role.replace("target'", "seen") for role in stage.roles} - {"text", "state"}
        for stage in spec.paradigm.program(spec)
        for _ in range(stage.passes)
    ]
    if chunk:
        roles_by_pass[0] = {"seen", "did"} if action == "inverse_dynamics" else {"seen"}
    assert found == roles_by_pass
