"""A checkpoint of DreamZero for AgiBot, imported, acts as the authors' policy does.

`data/dreamzero_agibot.safetensors` was recorded from the published code by
`data/make_dreamzero_agibot.py`, with their configuration of AgiBot's data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from wamkit_dreamzero import DreamZero

import wamkit.interfaces.paradigm as interface
from wamkit.config.prompts import fill_template
from wamkit.policy.importing import plan_import
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import same_values
from wamkit.testing.recorded import read_record

RECORD = Path(__file__).parent / "data" / "dreamzero_agibot.safetensors"
VIEWS = ("top_head", "hand_left", "hand_right")
INSTRUCTION = "Put the Cup on the plate"


@pytest.fixture(scope="module")
def agibot() -> dict[str, Tensor]:
    """The record."""
    return read_record(RECORD)


@pytest.fixture(scope="module")
def policy(agibot: dict[str, Tensor], release: Any, tmp_path_factory: Any) -> Policy:
    """The policy that is imported from a checkpoint in the published layout."""
    tables: dict[str, Any] = {"statistics": {}, "modalities": {}}
    for place, values in agibot.items():
        if place.startswith("statistics/"):
            _, kind, key, row = place.split("/")
            rows = tables["statistics"].setdefault(kind, {}).setdefault(key, {})
            rows[row] = values.tolist()
            tables["modalities"].setdefault(kind, {})[key] = {"shape": [len(values)]}
    folder = tmp_path_factory.mktemp("agibot")
    options = [*release.SIZES, *(f"cameras.views.{i}.size=[16, 16]" for i in range(3))]
    files = release.checkpoint(agibot, folder / "released", facts={"agibot": tables})
    return release.equipped(plan_import(files, None, options), folder / "policy")  # type: ignore[no-any-return]


def test_an_episode_acts_as_the_published_policy(
    policy: Policy, agibot: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = {5: agibot["run/noise_video"], 3: agibot["run/noise_action"]}
    monkeypatch.setattr(interface, "draw_noise", lambda shape, *_, **__: noise[len(shape)])
    template = policy.spec.text_encoder.prompt_template
    assert template is not None
    prompt = fill_template(template, INSTRUCTION)
    assert [256, *prompt.encode()] == agibot["ran/prompt"].tolist()
    session = policy.session()
    for chunk, images in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        seen = {name: agibot["run/images"][i, images][None] for i, name in enumerate(VIEWS)}
        state = agibot["run/states"][chunk : chunk + 1]
        values = session.act(Observation(seen, INSTRUCTION, state)).values[0]
        same_values(
            values.double(), agibot[f"ran/actions.{chunk}"], DreamZero.verified["run"], scale=1.0
        )
    canvas = policy.cameras.canvas(seen)[0].permute(1, 2, 3, 0)
    same_values((canvas + 1) * 127.5, agibot["ran/canvas"][0].float(), 1e-6)
