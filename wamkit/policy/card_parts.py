"""Parts that all model cards have: their header, a command that acts, and the views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ..config.cameras import View

if TYPE_CHECKING:
    from ..config.spec import PolicySpec

LICENSES = {"MIT": "mit", "Apache-2.0": "apache-2.0", "CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0"}
"""Licenses that a model hub knows -> its names for them."""


def card_header(license: str | None = None) -> str:
    """The YAML that model hubs read; a license that they do not know is `other`, with its name."""
    fields: dict[str, Any] = {"library_name": "wamkit", "pipeline_tag": "robotics"}
    if license is not None:
        known = LICENSES.get(license, license if license in LICENSES.values() else None)
        fields |= {"license": known} if known else {"license": "other", "license_name": license}
    fields["tags"] = ["wamkit", "robotics", "world-action-model"]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000)}---\n"


def act_command(spec: PolicySpec) -> str:
    """The command that acts with a saved policy: an image of each view, a state if it has one."""
    options = [f"--image {view.name}=FILE" for view in spec.cameras.views]
    if spec.state.size:
        options.append(f'--state "{" ".join(["0"] * spec.state.size)}"')
    return f'wamkit act FOLDER {" ".join(options)} --prompt "..."'


def describe_view(view: View) -> str:
    """Name and size of a view, and every setting of it that is not the usual one."""
    usual = View(name=view.name)
    settings = [
        f"{key} {_value_text(getattr(view, key))}"
        for key in View.model_fields
        if key not in ("name", "size") and getattr(view, key) != getattr(usual, key)
    ]
    return ", ".join([f"{view.name} {view.size[0]}x{view.size[1]}", *settings])


def _value_text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
