"""Text tokens at the noise level of the target: caching, refusals and reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import wamkit
from wamkit.cli.explain import explain_spec
from wamkit.config.check import check
from wamkit.config.programs import program_of
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.engine.levels import CLEAN, Level
from wamkit.interfaces.streams import text_level
from wamkit.interfaces.types import ModelInputs, ModelOutput
from wamkit.policy.policy import Policy
from wamkit.testing.batch_independence import expect_batch_independent
from wamkit.testing.contract import gives_words_the_noise_level_it_states
from wamkit.testing.fixtures import (
    compose,
    default,
    random_frames,
    randomize_weights,
    run_head,
    run_paradigm,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import other_values, same_values
from wamkit.testing.uncached import uncached
from wamkit.train.plan import kept

STREAMS = ("flux1", "flux2", "omnigen2", "qwen_image")


def around(
    backbone: str = "qwen_image",
    paradigm: str = "joint",
    head: str = "mot",
    level: str = "target",
    **settings: Any,
) -> PolicySpec:
    part: Any = registry().get("backbone", backbone)
    chosen: Any = registry().get("paradigm", paradigm)
    parts = [
        part(text_sigma=level),
        chosen(**settings),
        default(registry().get("action_head", head)),
    ]
    return compose(*parts)


def passes(policy: Policy) -> list[tuple[frozenset[str], float | None, float]]:
    """The passes of one chunk: roles, the level of target frames, and that of words."""
    found = []
    model: Any = policy.model

    def watched(inputs: ModelInputs, **given: Any) -> ModelOutput:
        clip = inputs.clip
        if inputs.video is not None and (given.get("cache") is None):
            stated = text_level(policy.backbone, inputs)
            assert isinstance(stated, Level)
            level = float(torch.tensor(stated.sigma))
            target = None
            if clip is not None and clip.targets:
                target = float(clip.sigma[0, clip.where("target")[0]])
            found.append((inputs.roles, target, level))
        return model(inputs, **given)  # type: ignore[no-any-return]

    run_paradigm(policy, watched)
    return found


HEADS = ("mot", "shared_stream", "latent_slot", "reader", "regression")


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["flux2", "omnigen2", "qwen_image"])
def test_text_passes_with_the_target_in_every_step(backbone: str, head: str) -> None:
    policy = randomize_weights(wamkit.build(around(backbone, head=head)))
    seen = passes(policy)
    assert len(seen) > 1 and all(target == level for _, target, level in seen)
    assert all({"text", "context", "target"} <= roles for roles, _, _ in seen)
    fast, slow = run_paradigm(policy), run_paradigm(policy, uncached(policy.model))
    same_values(fast.action, slow.action)
    expect_batch_independent(policy)


@pytest.mark.parametrize("settings", [{"refresh": (0, 1)}, {"attends": "mutual"}])
def test_every_way_to_denoise_jointly_keeps_the_level(settings: dict[str, Any]) -> None:
    policy = randomize_weights(wamkit.build(around(**settings)))
    assert all(target == level for _, target, level in passes(policy))
    if "refresh" not in settings:  # there, words are as old as the frames they passed with
        fast, slow = run_paradigm(policy), run_paradigm(policy, uncached(policy.model))
        same_values(fast.action, slow.action)


@pytest.mark.parametrize("paradigm", ["conditional", "planning"])
def test_copies_and_conditions_keep_the_level(paradigm: str) -> None:
    policy = randomize_weights(wamkit.build(around("flux2", paradigm)))
    assert all(target == level for _, target, level in passes(policy))
    expect_batch_independent(policy)


@pytest.mark.parametrize("backbone", STREAMS)
def test_targets_in_a_separate_stream_give_the_text_their_level(backbone: str) -> None:
    names = {"backbone": backbone, "action_head": "mot", "paradigm": "joint"}
    wide = ("video.target_downscale=2", 'cameras.views=[{name="front",size=[128,192]}]')
    spec = with_overrides(spec_with(**names), *wide, 'backbone.text_sigma="target"')
    policy = randomize_weights(wamkit.build(spec))
    seen = passes(policy)
    assert all(target == level and level > 0 for _, target, level in seen[:2])
    frames, text = random_frames(spec.backbone.traits, spec.latent_size)
    context, future = frames.only("context"), frames.only("target")
    one, other = (
        run_head(
            policy.action_head,
            policy.backbone,
            ModelInputs(replace(text, follows=True), context, future=target),
            policy.paradigm.sees,
        )
        for target in (future, future.at(0.25, "target"))
    )
    assert one.video is not None and other.video is not None
    other_values(one.video, other.video, 0.0001)  # the context sees the words


def why(spec: PolicySpec) -> list[str]:
    return [conflict.why for conflict in check(spec) if "backbone.text_sigma" in conflict.between]


@pytest.mark.parametrize("backbone", STREAMS)
def test_acting_without_the_target_is_refused_or_asked_for(backbone: str) -> None:
    names = {"backbone": backbone, "action_head": "mot"}
    for paradigm in ("single_pass", "image_edit"):
        spec = spec_with(paradigm=paradigm, **names)
        (found,) = why(with_overrides(spec, 'backbone.text_sigma="target"'))
        assert "acts in passes that have none" in found and "denoise the action" in found
        asked = with_overrides(spec, 'backbone.text_sigma="target_or_clean"')
        assert not check(asked)
        policy = randomize_weights(wamkit.build(asked))
        assert next(level for _, _, level in passes(policy)) == 0
        assert explain_spec(asked)["cacheable"] == explain_spec(spec)["cacheable"]
        expect_batch_independent(policy)
    for paradigm in ("idm", "autoregressive"):
        for level in ("target", "target_or_clean"):
            spec = with_overrides(
                spec_with(paradigm=paradigm, **names), f'backbone.text_sigma="{level}"'
            )
            assert "frames of one pass have several" in why(spec)[0]
    assert not why(
        with_overrides(spec_with(paradigm="joint", **names), 'backbone.text_sigma="target"')
    )


def test_without_target_frames_text_is_clean_everywhere() -> None:
    spec = spec_with(backbone="qwen_image", action_head="mot", paradigm="single_pass")
    alone = with_overrides(spec, "video.num_frames=1", 'backbone.text_sigma="target"')
    assert not check(alone)
    assert "text" in explain_spec(alone)["cacheable"]


def test_explain_and_plan_report_that_nothing_is_kept() -> None:
    clean, spec = around(level="clean"), around()
    assert {"text", "context"} <= set(explain_spec(clean)["cacheable"])
    explanation = explain_spec(spec)
    assert explanation["cacheable"] == [] and explanation["text_level"] == "target"
    assert {"text", "context", "target"} <= set(explanation["program"][0]["roles"])
    assert len(program_of(clean)) == len(program_of(spec)) + 1
    assert kept(clean) > kept(spec) == 0


def test_explain_states_it(tmp_path: Any) -> None:
    import json

    from wamkit.cli import app

    file = tmp_path / "spec.json"
    file.write_text(json.dumps(around().dump()))
    out = CliRunner().invoke(app, ["explain", str(file)]).output
    assert "text has the noise level of the target frames" in out
    assert "nothing can be computed once and kept" in out


def test_a_plugin_whose_text_follows_the_target_undeclared_is_detected(tmp_path: Any) -> None:
    spec = around(level="clean")
    built = type(spec.backbone).build

    class Secret(type(spec.backbone)):  # type: ignore[misc]
        def build(self) -> Any:
            model = built(self)
            model.traits = model.traits.model_copy(update={"text_level": "target"})
            return model

    part = Secret.model_validate(spec.backbone.model_dump())
    secret = spec.model_copy(update={"backbone": part})
    gives_words_the_noise_level_it_states(spec, tmp_path)
    with pytest.raises(AssertionError):
        gives_words_the_noise_level_it_states(secret, tmp_path)


def test_text_of_a_backbone_alone_follows_its_traits() -> None:
    config = around().backbone
    model = config.build()
    frames, text = random_frames(config.traits, (4, 6))
    expected = frames.sigma[:, 1:2]
    for prompt in (text, replace(text, follows=True)):
        level = text_level(model, ModelInputs(prompt, frames))
        assert isinstance(level, torch.Tensor)
        same_values(level, expected)
    clean = text_level(around(level="clean").backbone.build(), ModelInputs(text, frames))
    assert clean == CLEAN
