"""A sample gets in a batch what it gets alone: prompts are padded and noise is drawn for many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import wamkit
from wamkit.config.registry import registry
from wamkit.engine.layers import masked_mean
from wamkit.engine.noise_schedule import (
    BatchedGenerator,
    SubsetGenerator,
    clone_generator,
    draw_noise,
    draw_uniform,
    spawn_generators,
)
from wamkit.interfaces.types import Text
from wamkit.policy.policy import Policy, generator
from wamkit.policy.text_cache import TextEmbeddingCache, stack_texts, trim_padding
from wamkit.testing.batch_independence import (
    PROMPTS,
    OneTokenPerWord,
    expect_batch_independent,
    take_sample,
)
from wamkit.testing.fixtures import (
    batch_of,
    observation,
    randomize_weights,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import same_values


def moved(*changes: str, head: dict[str, Any] | None = None, **names: str) -> Policy:
    """A policy without zeros around parts that are named, with some settings changed."""
    given = [registry().get("action_head", head.pop("name"))(**head)] if head else []
    return randomize_weights(wamkit.build(with_overrides(spec_with(*given, **names), *changes)))


STREAMS = ("flux1", "flux2", "omnigen2", "qwen_image")


@pytest.mark.parametrize("backbone", STREAMS)
@pytest.mark.parametrize("state", ["text", "token"])
def test_the_state_token_follows_the_text_of_its_own_sample(backbone: str, state: str) -> None:
    policy = moved(head={"name": "mot", "state": state}, backbone=backbone, paradigm="single_pass")
    expect_batch_independent(policy)
    expect_batch_independent(policy, ("a", "b c d e f g", "h i j"), index=2)


@pytest.mark.parametrize("backbone", ["flux2", "qwen_image"])
def test_a_state_token_behind_the_padding_of_the_batch_is_found(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def append_behind_padding(text: Text) -> Text:
        suffix = text.suffix
        if suffix is None:
            return text
        valid, repeats = (
            None if x is None else torch.cat([x, x.new_ones(suffix.shape[:2])], 1)
            for x in (text.valid, text.repeats)
        )
        tokens = torch.cat([text.tokens, suffix], 1)
        return Text(tokens, valid, text.cond_embeds, repeats, follows=text.follows)

    policy = moved(backbone=backbone, action_head="mot", paradigm="single_pass")
    expect_batch_independent(policy)
    monkeypatch.setattr(Text, "whole", property(append_behind_padding))
    with pytest.raises(AssertionError, match="the chunk of a sample differs by"):
        expect_batch_independent(policy)


@pytest.mark.parametrize("backbone", ["qwen_image", "wan"])
def test_negative_prompts_may_be_longer_or_shorter(backbone: str) -> None:
    for negative in ("", "worst quality of all the images"):
        changes = (
            "schedules.action.guidance_scale=2.0",
            f'text_encoder.negative_prompt="{negative}"',
        )
        expect_batch_independent(
            moved(*changes, backbone=backbone, action_head="mot", paradigm="joint")
        )


@pytest.mark.parametrize("paradigm", ["adaptive", "planning"])
def test_copies_of_a_sample_have_the_noise_of_the_sample(paradigm: str) -> None:
    changes = ("paradigm.threshold=0.01",) if paradigm == "adaptive" else ()
    policy = moved(*changes, backbone="toy", action_head="mot", paradigm=paradigm)
    expect_batch_independent(policy, (*PROMPTS, "and again"), index=2)


def test_a_sample_deliberates_alike_whichever_others_do() -> None:
    policy = moved(backbone="toy", action_head="mot", paradigm="adaptive")
    paradigm: Any = policy.paradigm
    seen = observation(policy.spec, batch=3)
    apart = policy.act(seen, seed=[0, 1, 2]).notes["disagreement"]
    most = int(apart.argmax())
    threshold = float(apart.sort().values[1:].mean())  # the one that is least sure deliberates
    paradigm.config = paradigm.config.model_copy(update={"threshold": threshold})
    chunk = policy.act(seen, seed=[0, 1, 2])
    assert chunk.notes["deliberated"].tolist() == [i == most for i in range(3)]
    alone = policy.act(take_sample(seen, most), seed=[most]).values[0]
    same_values(chunk.values[most], alone)


def test_a_session_of_two_robots_is_two_sessions() -> None:
    policy = moved(backbone="qwen_image", action_head="mot", paradigm="autoregressive")
    policy.text_embeddings = TextEmbeddingCache(OneTokenPerWord(policy.spec.text_encoder.width))
    whole = replace(observation(policy.spec, frames=5), prompt=PROMPTS)
    episodes = []
    for row in (None, 0, 1):
        session, start, chunks = policy.session(), 0, []
        for k in range(2):
            images = {n: x[:, start : start + session.num_images] for n, x in whole.images.items()}
            start += session.num_images
            seen = replace(whole, images=images)
            seed = [k, k + 5] if row is None else [k + 5 * row]
            one = seen if row is None else take_sample(seen, row)
            chunks.append(session.act(one, seed=seed).values)
        episodes.append(torch.stack(chunks))
    together, *alone = episodes
    same_values(together, torch.cat(alone, 1))


DENSITIES = ("uniform", "indexed", "beta", "sqrt", "logit_normal", "lognormal_mix")


@pytest.mark.parametrize("density", DENSITIES)
def test_training_levels_are_drawn_for_each_sample(density: str) -> None:
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "conditional"}
    policy = wamkit.build(
        with_overrides(spec_with(**names), f"schedules.action.timestep_sampling={density}")
    )
    flow, like = policy.schedules["action"], torch.zeros(1)
    both = flow.sample((2, 3), like, generator([3, 4]))
    assert torch.equal(both[1:], flow.sample((1, 3), like, generator([4])))
    assert not torch.equal(both[0], both[1])


def test_a_batch_with_a_seed_for_each_sample_loses_what_its_samples_lose() -> None:
    policy = moved(backbone="toy", action_head="mot", paradigm="conditional")
    batch = batch_of(policy.spec)
    with torch.no_grad():
        both = policy.loss(batch, seed=[3, 4]).parts["action"]
        rows = [policy.loss(take_sample(batch, i), seed=[3 + i]).parts["action"] for i in range(2)]
    same_values(both, torch.stack(rows).mean())


def test_tokens_are_appended_behind_the_last_real_one() -> None:
    tokens, new = torch.arange(1.0, 9).view(2, 4, 1), torch.tensor([[[-1.0]], [[-2.0]]])
    valid = torch.tensor([[True, True, False, False], [True, False, True, True]])
    text = Text(tokens * valid[..., None], valid, repeats=torch.full((2, 4), 3.0)).append(new).whole
    assert text.tokens[..., 0].tolist() == [[1, 2, -1, 0, 0], [5, 0, 7, 8, -2]]
    assert text.valid is not None and text.repeats is not None
    assert text.valid.tolist() == [
        [True, True, True, False, False],
        [True, False, True, True, True],
    ]
    assert text.repeats[0, 2] == text.repeats[1, 4] == 1 and text.repeats[0, 0] == 3
    nothing = Text(tokens, torch.zeros(2, 4, dtype=torch.bool)).append(new.expand(-1, 2, -1)).whole
    assert nothing.tokens[0, :2, 0].tolist() == [-1, -1]
    plain = Text(tokens).append(new).whole
    assert plain.valid is None and plain.tokens[:, -1, 0].tolist() == [-1, -2]


@pytest.mark.parametrize("backbone", ["toy", "flux2", "omnigen2", "qwen_image"])
def test_a_prompt_without_tokens_works_by_itself_and_in_a_batch(backbone: str) -> None:
    policy = moved(backbone=backbone, action_head="regression", paradigm="single_pass")
    width = policy.spec.text_encoder.width
    policy.text_embeddings = TextEmbeddingCache(OneTokenPerWord(width), template="")
    empty = policy.act(take_sample(observation(policy.spec), 0), seed=[0]).values
    assert empty.isfinite().all()
    text = policy.text_embeddings.encode(["a"])
    assert text.tokens.shape == (1, 1, width) and text.valid is not None and not text.valid.any()
    both = stack_texts([text, trim_padding(Text(torch.randn(1, 3, width)))])
    assert masked_mean(both.tokens, both.mask)[0].abs().max() == 0


def test_generators_of_samples_give_every_copy_its_samples_noise() -> None:
    like = torch.zeros(1)
    rng = generator([3, 4])
    assert isinstance(rng, BatchedGenerator)
    two = draw_noise((4, 5), like, rng)  # two copies of two samples, copy by copy
    same_values(two[1::2], draw_noise((2, 5), like, generator([4])))
    children = spawn_generators(generator([3, 4]), 2)
    alone = spawn_generators(generator([4]), 2)
    assert torch.equal(
        draw_noise((2, 5), like, children[1])[1:], draw_noise((1, 5), like, alone[1])
    )
    whole, index = draw_noise((3, 5), like, generator(7)), torch.tensor([2, 0])
    assert torch.equal(
        draw_noise((2, 5), like, SubsetGenerator(generator(7), index, 3)), whole[index]
    )
    before = generator([3, 4])
    assert torch.equal(
        draw_noise((2, 2), like, clone_generator(before)), draw_noise((2, 2), like, before)
    )
    assert draw_uniform((), generator([3, 4])) == draw_uniform((), generator(3))
