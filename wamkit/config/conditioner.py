"""Frozen models that some backbones were trained with, and where their weights are; without torch.

A conditioner makes `Text.cond_embeds`: tokens of the image (Wan 2.1 image-to-video), or one vector
of the prompt (FLUX.1). A policy holds it next to its backbone, whose weights stay those of the
published transformer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..errors import WamkitError
from ..files.locate import split_prefix
from ..files.paths import expand_home
from .parts import HUB, Conflict


class Published(Protocol):
    """A backbone configuration with the weights of a conditioner."""

    @property
    def name(self) -> str:
        """The name of the backbone, as in a spec."""

    @property
    def weights(self) -> str | None:
        """A file, folder or `hf:` reference of the backbone's weights; None for random ones."""

    @property
    def conditioner_weights(self) -> str | None:
        """A file or folder of the conditioner's weights; None to look next to the backbone's."""


def place(config: Published, folder: str) -> str | None:
    """The folder or file of a conditioner that published checkpoints keep in `folder`.

    None for random weights. Raises WamkitError if the named path holds no conditioner.
    """
    path = config.conditioner_weights or config.weights
    if path is None or path.startswith(HUB):
        return path
    path, _ = split_prefix(path)
    root = expand_home(path)
    if (root / folder).is_dir():
        return str(root / folder)
    if config.conditioner_weights is None:
        raise WamkitError(
            f"{path} holds no {folder}/, which this variant of {config.name} needs next to its "
            "transformer",
            f"name the folder that holds both, or set backbone.conditioner_weights to one with "
            f"{folder}/, or to its file",
        )
    return path


def missing_folder(config: Published, folder: str) -> Iterator[Conflict]:
    """Yield why a policy around this backbone would lack its conditioner, if it would."""
    try:
        path = place(config, folder)
    except WamkitError as error:
        named = config.weights
        if named is not None and expand_home(split_prefix(named)[0]).exists():
            between = ("backbone.weights", "backbone.conditioner_weights")
            yield Conflict(between=between, why=error.what, hint=error.hint, missing=True)
        return
    if path and not path.startswith(HUB) and not expand_home(path).exists():
        yield Conflict(
            between=("backbone.conditioner_weights",),
            why=f"nothing is at {path}",
            hint=f"name a folder with {folder}/, or a safetensors file",
            missing=True,
        )
