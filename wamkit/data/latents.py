"""Latents of training clips, written once by `wamkit precompute latents` and read ever after.

latents.json                          what they were made of, and how many files there are
latents-00000-of-00007.safetensors    `starts` [n, 2], episode and frame; `latents` [n, C, t, h, w]

A causal VAE encodes the first picture of a clip by itself and later ones in groups, so a latent
depends on where its clip begins: there is one clip for each stored moment t.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .. import strict_json
from ..errors import WamkitError
from ..finite import fault
from ..paths import expanded
from ..placeholders import refuse_placeholder
from ..spec import PolicySpec
from .layout import Columns, Recording

INDEX = "latents.json"
AGAIN = "run `wamkit precompute latents` again"


def settings(recording: Recording, spec: PolicySpec, columns: Columns) -> dict[str, Any]:
    """What decides the latents besides the weights of the VAE."""
    return {
        "vae": spec.vae.model_dump(mode="json", exclude={"weights", "adapter"}),
        "cameras": spec.cameras.model_dump(mode="json", exclude_none=True),
        "video": spec.video.model_dump(mode="json") | {"pictures": spec.pictures},
        "views": {view.name: columns.view(view.name) for view in spec.cameras.views},
        "data": recording.fingerprint(),
    }


def weights_mark(vae: Any) -> str:
    """A hash of a VAE's weights, wherever their file is."""
    total = hashlib.sha256()
    if isinstance(vae, nn.Module):
        for name, value in sorted(vae.state_dict().items()):
            total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            total.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def name_of(shard: int, shards: int) -> str:
    """The name of a file."""
    return f"latents-{shard:05d}-of-{shards:05d}.safetensors"


class StoredLatents:
    """The latents in a folder, by episode and frame."""

    def __init__(self, folder: str | Path) -> None:
        """Raises WamkitError if the folder holds none, or a file is missing or damaged."""
        self.folder = expanded(folder)
        file = self.folder / INDEX
        refuse_placeholder(file)
        try:
            self.about = strict_json.loads(file.read_text())
            shards = int(self.about["shards"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WamkitError(
                f"{self.folder} holds no stored latents: {error}",
                "make them: `wamkit precompute latents SPEC --data DIR --out FOLDER`",
            ) from None
        self.files = [self.folder / name_of(shard, shards) for shard in range(shards)]
        if missing := [path.name for path in self.files if not path.is_file()]:
            raise WamkitError(
                f"{self.folder} lacks {len(missing)} of {shards} files, first {missing[0]}",
                f"{AGAIN}: it goes on where it stopped",
            )
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def __contains__(self, moment: tuple[int, int]) -> bool:
        return moment in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, moment: tuple[int, int]) -> Tensor:
        """The latents [C, t, h, w] of the clip at (episode, frame), float32 or as stored."""
        shard, row = self._places[moment]
        if shard not in self._open:
            self._open[shard] = opened(self.files[shard])
        found: Tensor = self._open[shard].get_slice("latents")[row]
        if (bad := fault(found)) is not None:
            raise WamkitError(
                f"{self.files[shard]}: the latents of episode {moment[0]}, frame {moment[1]} are "
                f"not finite: {bad}",
                f"remove the file and {AGAIN}",
            )
        return found

    def expect(self, recording: Recording, spec: PolicySpec, columns: Columns) -> None:
        """Raises WamkitError if they were made of other data, or with other settings."""
        now, then = settings(recording, spec, columns), self.about["settings"]
        if changed := [name for name in now if now[name] != then[name]]:
            raise WamkitError(
                f"{self.folder} was made with another {' and another '.join(changed)}",
                f"{AGAIN} into another folder, or restore what has changed",
            )

    def expect_weights(self, vae: Any) -> None:
        """Raises WamkitError if they were made by a VAE with other weights."""
        if weights_mark(vae) != self.about["weights"]:
            raise WamkitError(
                f"{self.folder} was made by a VAE with other weights",
                f"{AGAIN} into another folder, or name those weights in vae.weights",
            )

    @cached_property
    def _places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(episode, frame) -> file and row."""
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for shard, file in enumerate(self.files):
            starts = opened(file).get_tensor("starts").tolist()
            places |= {(episode, t): (shard, row) for row, (episode, t) in enumerate(starts)}
        return places


def opened(file: Path) -> Any:
    """A safetensors file, mapped into memory. Raises WamkitError if it is damaged."""
    refuse_placeholder(file)
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WamkitError(f"{file} is damaged: {error}", f"remove it and {AGAIN}") from None
