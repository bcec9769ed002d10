"""A setting that is not stated, or of another kind, is refused with its file and name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wamkit.checkpoints.setting_values import Settings
from wamkit.errors import WamkitError

TABLE: dict[str, Any] = {
    "height": 128,
    "shift": "5e0",
    "name": "left",
    "used": [0, 2],
    "views": ["a", "b"],
    "loss": {"weight": 0.5},
}
READ: dict[str, Callable[[Settings], Any]] = {
    "height": lambda own: own.whole_number("height"),
    "shift": lambda own: own.number("shift"),
    "name": lambda own: own.text("name"),
    "used": lambda own: own.whole_numbers("used", 2, least=0),
    "views": lambda own: own.texts("views"),
    "loss": lambda own: own.table("loss").number("weight"),
}


def test_settings_are_read() -> None:
    found = {name: read(Settings(TABLE, "config.json")) for name, read in READ.items()}
    assert found == {**TABLE, "shift": 5.0, "loss": 0.5}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("value", [None, [None], {"x": 1}, True])
def test_a_setting_of_another_kind_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(WamkitError, match=rf"config\.json.*{name}"):
        READ[name](Settings({**TABLE, name: value}, "config.json"))


@pytest.mark.parametrize("name", TABLE)
def test_a_setting_that_is_not_stated_is_refused_by_name(name: str) -> None:
    rest = {key: value for key, value in TABLE.items() if key != name}
    with pytest.raises(WamkitError, match=rf"config\.json does not state {name}"):
        READ[name](Settings(rest, "config.json"))
    with pytest.raises(WamkitError, match=r"does not state loss\.weight"):
        READ["loss"](Settings({"loss": {}}, "config.json"))
