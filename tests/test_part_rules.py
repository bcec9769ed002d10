"""A part that would fail in a command that lists all is set aside, with its distribution named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import make_dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from wamkit.config.compositions import matrix
from wamkit.config.installation import installed
from wamkit.config.part_rules import behavior_faults, faults, schema_fault
from wamkit.config.parts import BackboneConfig, Part, Traits, VAEConfig
from wamkit.config.registry import Registry

TRAITS = Traits(
    depth=1, width=8, num_heads=1, num_kv_heads=1, head_dim=8, latent_channels=4, text_width=8
)


def backbone(label: str = "mine", **members: Any) -> type[Part]:
    """A backbone's configuration class with these members besides or instead of the usual ones."""
    body = {
        "__annotations__": {"name": Literal[label]},
        "__module__": __name__,
        "__doc__": "Made for a test.",
        "name": label,
        "traits": property(lambda self: TRAITS),
        "build": lambda self: None,
    }
    body["__annotations__"].update(members.pop("annotations", {}))
    return type("Mine", (BackboneConfig,), {**body, **members})


def fails(*_: Any) -> Any:
    raise KeyError("a size")


def without(*names: str) -> type[Part]:
    members = {"traits": BackboneConfig.traits, "build": BackboneConfig.build}
    return backbone(**{name: members[name] for name in names})


BROKEN: dict[str, tuple[Any, str]] = {
    "no traits": (without("traits"), "Mine does not define traits"),
    "neither traits nor build": (without("traits", "build"), "does not define build"),
    "a name that is any string": (
        backbone(annotations={"name": str}),
        'write `name: Literal["mine"] = "mine"`',
    ),
    "two names": (backbone(annotations={"name": Literal["a", "b"]}), "a Literal with one value"),
    "another default name": (
        backbone(annotations={"name": Literal["other"]}),
        "has the default name 'mine'; expected 'other'",
    ),
    "a name with a space": (backbone("Bad Name"), "such as 'bad_name'"),
    "a name with a colon": (backbone("wan:mine"), "cannot name a part"),
    "an endless name": (backbone("m" * 65), "at most 64 characters"),
    "requires as one string": (backbone(requires="torch"), "expected a tuple of module names"),
    "a license that is none": (backbone(license=None), "license is None; expected a string"),
    "an unknown kind": (backbone(kind="engine"), "the kind 'engine'; expected one of backbone"),
    "the kind of another base": (backbone(kind="vae"), "must be derived from VAEConfig"),
    "no class": (SimpleNamespace(name="mine"), "add() takes a configuration class"),
    "a class that is no part": (make_dataclass("Mine", []), "add() takes a configuration class"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_class_that_is_no_sound_part_is_named_with_what_it_lacks(case: str) -> None:
    offered, expected = BROKEN[case]
    assert expected in "; ".join(faults(offered))


def test_every_fault_is_reported_at_once() -> None:
    found = faults(backbone("Bad Name", requires="torch", build=BackboneConfig.build))
    assert len(found) == 3


FAILING: dict[str, tuple[type[Part], str]] = {
    "a field without default": (backbone(annotations={"size": int}), "give it defaults: size"),
    "traits that fail": (backbone(traits=property(fails)), "Mine.traits fails: KeyError"),
    "traits of another type": (
        backbone(traits=property(lambda self: {"depth": 1})),
        "expected Traits",
    ),
    "tiny that fails": (backbone(tiny=fails), "Mine.tiny() fails: KeyError"),
    "tiny that is nothing": (backbone(tiny=lambda self: None), "tiny() returns None"),
    "a type pydantic does not know": (
        backbone(annotations={"device": type("Device", (), {})}, device=None),
        "cannot be made from its name alone",
    ),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_part_that_fails_when_asked_for_its_facts_is_named(case: str) -> None:
    offered, expected = FAILING[case]
    assert faults(offered) == [] and expected in "; ".join(behavior_faults(offered))


def test_a_sound_part_has_no_fault() -> None:
    assert faults(backbone()) == behavior_faults(backbone()) == []
    assert schema_fault(backbone()) == ""


def test_a_field_that_json_cannot_describe_is_reported() -> None:
    odd = backbone(annotations={"hook": Callable[[int], int]}, hook=abs)
    assert "Mine has no JSON schema" in schema_fault(odd)


def test_a_plugin_with_one_broken_part_is_set_aside_whole() -> None:
    class Plain(VAEConfig):
        """A VAE without a stride."""

        name: Literal["plain"] = "plain"

        @property
        def channels(self) -> int:
            return 4

        def _build(self) -> Any: ...

    found = Registry()
    plugin = SimpleNamespace(__name__="mine", register=None)
    from wamkit.config.hooks import hookimpl

    @hookimpl
    def register(add: Any) -> None:
        add(backbone())
        add(Plain)

    plugin.register = register
    found.plug(plugin, "mine", "wamkit-mine")
    assert found.plugins[0].status == "broken"
    assert found.plugins[0].reason == "Plain does not define stride"
    assert list(found) == []


def test_parts_that_fail_only_when_asked_leave_the_others_usable(tmp_path: Path) -> None:
    from wamkit.config.hooks import hookimpl

    def plugin(cls: type[Part]) -> Any:
        @hookimpl
        def register(add: Any) -> None:
            add(cls)

        return SimpleNamespace(__name__="some", register=register)

    found = Registry()
    found.plug(plugin(backbone("good")), "good", "dist-good")
    found.plug(plugin(backbone("late", traits=property(fails))), "late", "dist-late")
    assert [cls.model_fields["name"].default for cls in found] == ["good"]
    assert {p.name: p.status for p in found.plugins} == {"good": "ok", "late": "broken"}


def installed_with(*classes: type[Part]) -> Registry:
    """A registry with what is installed and a plugin of each of `classes`."""
    from wamkit.config.hooks import hookimpl

    found = Registry().load(installed())
    for index, cls in enumerate(classes):

        @hookimpl
        def register(add: Any, cls: type[Part] = cls) -> None:
            add(cls)

        module = SimpleNamespace(__name__=__name__.partition(".")[0], register=register)
        found.plug(module, f"buggy{index}", f"dist-buggy{index}")
    return found


def test_a_rule_that_fails_is_the_conflict_of_its_plugin_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Buggy(VAEConfig):
        """Fits four channels, and fails when it is asked."""

        name: Literal["aaa_buggy"] = "aaa_buggy"

        @property
        def channels(self) -> int:
            return 4

        @property
        def stride(self) -> tuple[int, int, int]:
            return (1, 8, 8)

        def resolve(self, spec: Any) -> Any:
            raise TypeError("a rule broke")

        def _build(self) -> Any: ...

    rules = backbone("ruleful", conflicts=fails)
    found = installed_with(Buggy, rules)
    monkeypatch.setattr(import_module("wamkit.config.registry"), "_found", [found])
    cells = list(matrix(("toy", "ruleful"), ("mot",), ("joint",)))
    assert [cell.runs for cell in cells] == [True, False]
    bugs = [conflict.why for conflict in cells[1].conflicts]
    assert all("a bug in buggy" in why for why in bugs)
    assert any("KeyError: 'a size'" in why for why in bugs)
