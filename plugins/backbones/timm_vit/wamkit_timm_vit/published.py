"""Read timm's config.json: name of the variant and normalization of pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wamkit.config.config_values import float_tuple, table
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError

PIXELS = {(0.485, 0.456, 0.406): "imagenet", (0.5, 0.5, 0.5): "half"}


def reader(variants: Iterable[str]) -> tuple[Published, ...]:
    """How the configuration of one of these models is read."""
    known = tuple(variants)

    def read(config: Config, folder: Path) -> dict[str, Any]:
        name, about = config["architecture"], table(config, "pretrained_cfg")
        tagged = f"{name}.{about.get('tag')}"
        fields: dict[str, Any] = {"variant": tagged if tagged in known else name}
        if "mean" in about:
            mean = float_tuple(about, "mean")
            if mean not in PIXELS:
                raise WamkitError(
                    f"it was trained on pixels of mean {list(mean)}, expected one of "
                    f"{[list(m) for m in PIXELS]}",
                    "name another of timm's weights for this model",
                )
            fields["pixels"] = PIXELS[mean]
        return fields

    names = tuple(dict.fromkeys([*known, *(variant.partition(".")[0] for variant in known)]))
    return (Published(names, read),)
