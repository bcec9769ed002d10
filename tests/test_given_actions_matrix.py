"""Every composition that says it imagines the future of given actions does so."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from wamkit.config.check import check
from wamkit.config.compositions import Cell, matrix
from wamkit.config.spec import PolicySpec
from wamkit.errors import Note
from wamkit.testing.fixtures import spec_with, with_overrides
from wamkit.testing.policy_contract import imagines_what_follows_from_given_actions

CHANGES = ("paradigm.attends=mutual", "paradigm.attends=full", "paradigm.inner.name=planning")
"""Settings with which paradigms condition on actions that do not by default."""


def conditions(spec: PolicySpec) -> bool:
    """Whether imagined frames depend on given actions."""
    frames = spec.backbone.traits.imagines and spec.latent_frames[1] > 0
    return frames and spec.paradigm.conflict_with_given_actions(spec) is None


def changed(cell: Cell) -> dict[str, PolicySpec]:
    """Specs of a cell that condition on actions: as it is, or else with one of the changes."""
    assert cell.spec is not None
    name = f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"
    if conditions(cell.spec):
        return {name: cell.spec}
    found = {}
    for change in CHANGES if cell.backbone == "toy" else ():
        place, _, _ = change.removeprefix("paradigm.").partition("=")
        if place.partition(".")[0] in type(cell.spec.paradigm).model_fields:
            extra = ("paradigm.context_level=target",) if "full" in change else ()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Note)  # of settings that the change drops
                spec = with_overrides(cell.spec, change, *extra)
            if conditions(spec) and not check(spec):
                found[f"{name}-{change}"] = spec
    return found


SPECS = {name: spec for cell in matrix() if cell.runs for name, spec in changed(cell).items()}


def test_several_paradigms_and_heads_condition_on_actions() -> None:
    for names in (("conditional", "planning", "joint"), ("mot", "shared_stream", "latent_slot")):
        assert all(any(f"-{part}" in name for name in SPECS) for part in names)


@pytest.mark.parametrize("name", SPECS)
def test_a_cell_imagines_what_follows_from_given_actions(name: str, tmp_path: Path) -> None:
    imagines_what_follows_from_given_actions(SPECS[name], tmp_path)


def test_a_future_that_ignores_the_action_breaks_the_contract(tmp_path: Path) -> None:
    """A head without tokens has nothing that frames could attend to; `check` refuses it here."""
    spec = spec_with(backbone="toy", action_head="reader", paradigm="joint")
    blind = with_overrides(spec, "paradigm.attends=mutual")
    assert check(blind) and blind.paradigm.conflict_with_given_actions(blind) is None
    with pytest.raises(AssertionError, match="differs by 0"):
        imagines_what_follows_from_given_actions(blind, tmp_path)
