"""Plugins: broken ones are set aside with their reason, and the others work."""

from __future__ import annotations

import pickle
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import create_model

from wamkit.config.hooks import API, hookimpl
from wamkit.config.parts import BackboneConfig, Part, Traits
from wamkit.config.registry import Registry, qualified, registry
from wamkit.errors import WamkitError

TRAITS = Traits(
    depth=1, width=8, num_heads=1, num_kv_heads=1, head_dim=8, latent_channels=4, text_width=8
)


class Sound(BackboneConfig):
    """What every sound backbone states."""

    name: Literal["sound"] = "sound"

    @property
    def traits(self) -> Traits:
        return TRAITS

    def build(self) -> Any:
        raise WamkitError("it is never built here")


class Mine(Sound):
    """A backbone of my own."""

    name: Literal["mine"] = "mine"  # type: ignore[assignment]


def plugin(*parts: type[Part], **attributes: Any) -> Any:
    """What importing a plugin's package gives."""

    @hookimpl
    def register(add: Any) -> None:
        for part in parts:
            add(part)

    return SimpleNamespace(register=register, **{"WAMKIT_API": API, **attributes})


class Point(EntryPoint):
    """An entry point that returns a given object, or raises a given error."""

    def load(self) -> Any:
        found = self.__dict__["gives"]
        if isinstance(found, BaseException):
            raise found
        return found


def point(name: str, distribution: str, gives: Any) -> Point:
    made = Point(name=name, value=f"{name}_plugin", group="wamkit")
    vars(made).update(
        gives=gives, dist=SimpleNamespace(metadata={"Name": distribution, "Version": "1.2"})
    )
    return made


def test_every_first_party_plugin_is_found() -> None:
    assert [p.name for p in registry().plugins if p.status != "ok"] == []
    assert not registry().clashes
    assert {"toy", "wan"} <= set(registry().names("backbone"))


def test_a_plugin_that_fails_to_import_is_set_aside_with_its_reason() -> None:
    bad = point("bad", "dist-bad", ImportError("No module named 'flash'"))
    found = Registry().load([bad, point("good", "dist-good", plugin(Mine))])
    status = {p.name: (p.status, p.reason) for p in found.plugins}
    assert status["bad"] == ("broken", "ImportError: No module named 'flash'")
    assert status["good"] == ("ok", "") and found.get("backbone", "mine") is Mine


def test_a_plugin_that_fails_while_registering_leaves_nothing_behind() -> None:
    @hookimpl
    def register(add: Any) -> None:
        add(Mine)
        raise RuntimeError("half way")

    half = SimpleNamespace(register=register, WAMKIT_API=API)
    found = Registry().load([point("half", "dist", half)])
    assert found.plugins[0].reason == "RuntimeError: half way"
    assert found.names("backbone") == []


def test_a_plugin_without_the_hook_reports_it() -> None:
    found = Registry().load([point("empty", "dist", SimpleNamespace(WAMKIT_API=API))])
    assert found.plugins[0].status == "broken"
    assert "it registers no part; does it implement `register(add)`?" in found.plugins[0].reason


def test_a_name_offered_twice_names_both_distributions_and_spoils_nothing_else() -> None:
    class Other(Sound):
        """Another one of that name."""

        name: Literal["mine"] = "mine"  # type: ignore[assignment]

    class Third(Sound):
        """A bystander."""

        name: Literal["third"] = "third"  # type: ignore[assignment]

    found = Registry().load(
        [point("a", "dist-a", plugin(Mine)), point("b", "dist-b", plugin(Other, Third))]
    )
    with pytest.raises(WamkitError) as error:
        found.get("backbone", "mine")
    assert str(error.value) == (
        "backbone 'mine' is offered by dist-a and by dist-b\n"
        "  hint: write 'dist-a:mine' or 'dist-b:mine', uninstall one of them, or set "
        "WAMKIT_BLOCK_PLUGINS to the one to leave out"
    )
    assert found.names("backbone") == ["dist-a:mine", "dist-b:mine", "third"]
    made = found.get("backbone", "dist_b:mine")
    assert issubclass(made, Other) and made().name == "dist-b:mine"
    assert found.get("backbone", "dist-b:third")().name == "dist-b:third"


@pytest.mark.parametrize("block", ["mine", "dist-mine", "Dist_Mine"])
def test_a_blocked_plugin_is_listed_and_not_imported(block: str) -> None:
    poison = point("mine", "dist-mine", SystemExit("imported"))
    found = Registry().load([poison], blocked=[block])
    assert (found.plugins[0].status, found.plugins[0].reason) == (
        "blocked",
        "named in WAMKIT_BLOCK_PLUGINS",
    )


def test_a_plugin_for_another_contract_is_set_aside() -> None:
    found = Registry().load([point("old", "dist", plugin(Mine, WAMKIT_API=99))])
    assert found.plugins[0].status == "incompatible"
    assert found.plugins[0].reason == "written for plugin API 99, this wamkit has 1"


def test_misspelt_names_and_kinds_get_a_suggestion() -> None:
    with pytest.raises(WamkitError, match="did you mean 'toy'"):
        registry().get("backbone", "toi")  # codespell:ignore toi
    with pytest.raises(WamkitError, match="did you mean 'backbone'"):
        registry().get("backbon", "toy")
    with pytest.raises(WamkitError, match="pip install a plugin that offers 'zzzzzz'"):
        registry().get("backbone", "zzzzzz")


def test_a_part_under_its_owner_s_name_goes_to_another_process() -> None:
    part: Any = qualified(Mine, "dist-a")()
    again = pickle.loads(pickle.dumps(part))
    assert again == part and type(again) is type(part) and again.name == "dist-a:mine"


def test_an_error_does_not_list_hundreds_of_names() -> None:
    many = [
        create_model(f"Mine{i}", __base__=Sound, name=(Literal[f"mine_{i}"], f"mine_{i}"))  # type: ignore[valid-type]
        for i in range(60)
    ]
    for cls in many:
        cls.__doc__ = "One of many."
    found = Registry().load([point("many", "dist", plugin(*many))])
    with pytest.raises(WamkitError) as error:
        found.get("backbone", "mine_59x")
    assert "installed: 60 of them, see `wamkit list backbone`" in str(error.value)
    assert "did you mean 'mine_59'?" in str(error.value)
