"""Latents of training clips, written once by `wamkit precompute latents` and read ever after.

A causal VAE encodes the first image of a clip by itself and later ones in groups, so a latent
depends on where its clip begins: there is one clip for each stored moment t. Files:
`wamkit.data.latent_files`.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.finite import fault
from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files.paths import expand_home
from ..files.placeholders import refuse_placeholder
from .latent_files import (
    AGAIN,
    INDEX,
    expect_form,
    expect_starts,
    name_of,
    open_latents,
    read_index,
    shape_of,
    starts_of,
)
from .lerobot_format import Columns, LeRobotFolder


def settings(recording: LeRobotFolder, spec: PolicySpec, columns: Columns) -> dict[str, Any]:
    """Return the settings that determine the latents, besides the weights of the VAE."""
    return {
        "vae": spec.vae.model_dump(
            mode="json", exclude={"weights", "lora", "lora_scale", "adapter"}
        ),
        "cameras": spec.cameras.model_dump(mode="json", exclude_none=True),
        "video": spec.video.model_dump(mode="json", exclude={"target_pooling"})
        | {"num_images": spec.num_images},
        "views": {view.name: columns.view(view.name) for view in spec.cameras.views},
        "data": recording.fingerprint(),
    }


def expect_storable(spec: PolicySpec) -> None:
    """Raise WamkitError if one clip of latents is not all that training needs of the images."""
    if spec.video.target_downscale > 1 and spec.video.target_pooling == "images":
        raise WamkitError(
            "latents of two sizes are not stored, and video.target_downscale asks for them",
            'train from images, or set video.target_downscale=1 or video.target_pooling="latents"',
        )
    if spec.backbone.traits.cond_channels:
        raise WamkitError(
            f"this variant of {spec.backbone.name} is guided by the images themselves",
            "train from images",
        )


def hash_weights(vae: Any) -> str:
    """Return a hash of a VAE's weights, independent of their path."""
    total = hashlib.sha256()
    if isinstance(vae, nn.Module):
        for name, value in sorted(vae.state_dict().items()):
            total.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            total.update(value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


class StoredLatents:
    """The latents in a folder, by episode and frame."""

    def __init__(self, folder: str | Path) -> None:
        """Raises WamkitError if the folder holds none, or a file is missing or damaged."""
        self.folder = expand_home(folder)
        file = self.folder / INDEX
        if not file.is_file():
            raise WamkitError(
                f"{self.folder} holds no stored latents: it has no {INDEX}",
                "make them: `wamkit precompute latents SPEC --data DIR --out FOLDER`",
            )
        refuse_placeholder(file)
        self.about = read_index(self.folder)
        shards = self.about.shards
        self.files = [self.folder / name_of(shard, shards) for shard in range(shards)]
        if missing := [path.name for path in self.files if not path.is_file()]:
            raise WamkitError(
                f"{self.folder} lacks {len(missing)} of {shards} files, first {missing[0]}",
                f"{AGAIN}: it resumes where it stopped",
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
            self._open[shard] = open_latents(self.files[shard])
        found: Tensor = self._open[shard].get_slice("latents")[row]
        if (bad := fault(found)) is not None:
            raise WamkitError(
                f"{self.files[shard]}: the latents of episode {moment[0]}, frame {moment[1]} are "
                f"not finite: {bad}",
                f"remove the file and {AGAIN}",
            )
        return found

    def expect(self, recording: LeRobotFolder, spec: PolicySpec, columns: Columns) -> None:
        """Raises WamkitError if they were made of other data, or with other settings.

        Every file must hold the clips, and latents of the shape, that follow from these; and the
        spec must need no more than them (`expect_storable`).
        """
        expect_storable(spec)
        now, then = settings(recording, spec, columns), self.about.settings.model_dump()
        if changed := [name for name in now if now[name] != then[name]]:
            raise WamkitError(
                f"{self.folder} was made with another {' and another '.join(changed)}",
                f"{AGAIN} into another folder, or restore the old settings",
            )
        about, wrong = self.about, f"{self.folder / INDEX} is damaged: it names"
        hint = f"remove the folder, and {AGAIN}"
        lengths = {episode.index: episode.length for episode in recording.episodes}
        if unknown := [index for index in about.episodes if index not in lengths]:
            raise WamkitError(f"{wrong} episode {unknown[0]}, which the data set lacks", hint)
        mine = [(index, lengths[index]) for index in about.episodes]
        (first, _), (last, length) = mine[0], mine[-1]
        clips = sum(-(-frames // about.stride) for _, frames in mine)
        ends = ((first, 0), (last, (length - 1) // about.stride * about.stride))
        if clips != about.clips or ends != about.moments:
            raise WamkitError(
                f"{wrong} {about.clips} clips from {about.moments[0]} to {about.moments[1]}; the "
                f"data set has {clips} from {ends[0]} to {ends[1]}",
                hint,
            )
        starts = starts_of(mine, about.stride)
        seen = 0
        for file in self.files:
            source = open_latents(file)
            count = expect_form(source, file, about.dtype, shape_of(spec))
            expect_starts(source, file, starts[seen : seen + count])
            seen += count
        if seen != about.clips:
            raise WamkitError(f"{self.folder} holds {seen} of {about.clips} clips", hint)

    def expect_weights(self, vae: Any) -> None:
        """Raises WamkitError if they were made by a VAE with other weights."""
        if hash_weights(vae) != self.about.weights:
            raise WamkitError(
                f"{self.folder} was made by a VAE with other weights",
                f"{AGAIN} into another folder, or name those weights in vae.weights",
            )

    @cached_property
    def _places(self) -> dict[tuple[int, int], tuple[int, int]]:
        """(episode, frame) -> file and row."""
        places: dict[tuple[int, int], tuple[int, int]] = {}
        for shard, file in enumerate(self.files):
            source = open_latents(file)
            expect_form(source, file, self.about.dtype, None)
            starts = source.get_tensor("starts").tolist()
            places |= {(episode, t): (shard, row) for row, (episode, t) in enumerate(starts)}
        return places
