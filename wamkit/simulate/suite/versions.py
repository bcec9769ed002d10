"""What an evaluation was computed with: versions of packages, rendering, machine, command."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from ... import __version__
from ...config.parts import EnvironmentConfig

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def describe_start(
    policy: str,
    config: EnvironmentConfig,
    rendering: Mapping[str, str],
    command: Sequence[str],
    device: str,
) -> dict[str, Any]:
    """The facts of one start of the command, as plain data."""
    return {
        "policy": policy,
        "versions": versions_of(config),
        "rendering": dict(rendering),
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "command": list(command),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def versions_of(config: EnvironmentConfig) -> dict[str, str]:
    """Versions of wamkit, torch and numpy, of the environment's packages and what they require."""
    owners = metadata.packages_distributions()
    names = ["torch", "numpy"]
    for module in type(config).requires:
        for distribution in owners.get(module, []):
            names.append(distribution)
            for text in metadata.requires(distribution) or []:
                if "extra ==" not in text and (required := _NAME.match(text)):
                    names.append(required[0])
    found = {"wamkit": __version__}
    for name in names:
        try:
            found[name.lower()] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
