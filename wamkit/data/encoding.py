"""Images of training clips through a policy's VAE, once, into the files of `latents`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.files import write_tensors
from ..checkpoints.finite import fault
from ..checkpoints.random_weights import build_seeded
from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files import strict_json
from ..files.durable import as_not_written, make_folder, sweep, write_text
from ..files.placeholders import refuse_placeholder
from ..policy.cameras import CameraLayout, expect_channels
from ..policy.clips import encode_canvas
from ..policy.devices import expect_device
from ..policy.policy import DTYPES
from .latent_files import (
    INDEX,
    MOST_CLIPS,
    MOST_SHARDS,
    Index,
    expect_form,
    expect_starts,
    name_of,
    open_latents,
    read_index,
    shape_of,
)
from .latents import expect_storable, hash_weights, settings
from .lerobot_format import TOLERANCE, Columns, LeRobotFolder
from .needs import expect
from .reader import FrameReader, expect_rows
from .samples import clip_frames, select_episodes

Moment = tuple[int, int]  # episode, frame


def sample_index(
    recording: LeRobotFolder, stride: int = 1, episodes: Sequence[int] | None = None
) -> list[Moment]:
    """The moments whose clips are encoded: every `stride`-th frame of each episode.

    Raises WamkitError if the tables lack frames of an episode, or if there are too many clips.
    """
    chosen_ones = select_episodes(recording, episodes)
    expect_rows(chosen_ones)
    if (clips := sum(-(-e.length // stride) for e in chosen_ones)) > MOST_CLIPS:
        raise WamkitError(
            f"{clips:,} clips would be encoded, at most {MOST_CLIPS:,} are stored in one folder",
            f"take fewer of them: --stride {stride * -(-clips // MOST_CLIPS)}",
        )
    return [(e.index, t) for e in chosen_ones for t in range(0, e.length, stride)]


@torch.no_grad()
def precompute(
    recording: LeRobotFolder,
    spec: PolicySpec,
    folder: Path,
    columns: Columns | None = None,
    *,
    stride: int = 1,
    episodes: Sequence[int] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    batch: int = 4,
    shard: int = 512,
    tolerance: float = TOLERANCE,
    advance: Callable[[int], None] = lambda _: None,
) -> int:
    """Encode what `folder` lacks, `shard` clips a file; return how many clips were encoded.

    Files are written atomically, so an interrupted run resumes where it stopped.
    `advance` is called with the number of clips encoded. Raises WamkitError if the data set is not
    what the spec needs, or the folder was made of other data or with other settings.
    """
    columns = columns or Columns()
    expect_device(device)
    expect(recording, spec, columns)
    expect_storable(spec)
    wanted = sample_index(recording, stride, episodes)
    if len(wanted) > shard * MOST_SHARDS:
        raise WamkitError(
            f"{len(wanted):,} clips in files of {shard} are more than {MOST_SHARDS:,} files",
            f"store at least {-(-len(wanted) // MOST_SHARDS)} clips in a file",
        )
    pieces = [wanted[i : i + shard] for i in range(0, len(wanted), shard)]
    vae = build_seeded(spec, "vae", spec.vae.build, device)
    vae.eval().to(device)
    about = {
        "settings": settings(recording, spec, columns),
        "weights": hash_weights(vae),
        "dtype": dtype,
        "moments": [list(moment) for moment in (wanted[0], wanted[-1])],
        "stride": stride,
        "episodes": sorted({episode for episode, _ in wanted}),
        "shards": len(pieces),
        "clips": len(wanted),
    }
    _claim(folder, about)
    images, layout = FrameReader(recording, tolerance), CameraLayout(spec.cameras)
    known = {episode.index: episode for episode in recording.episodes}
    encoded = 0

    def canvas(part: list[Moment]) -> Tensor:
        """The clips of some moments, [n, 3, frames, height, width]."""
        views: dict[str, Tensor] = {}
        for view in spec.cameras.views:
            clips = []
            for index, t in part:
                frames, _ = clip_frames(spec, t, known[index].length)
                images_read = images.read(known[index], columns.view(view.name), frames)
                where = f"{columns.view(view.name)!r} of episode {index} at frame {frames[0]}"
                expect_channels(spec.cameras, view.name, images_read.shape[-1], images_read, where)
                clips.append(torch.from_numpy(images_read).permute(0, 3, 1, 2))
            stacked = torch.stack(clips)
            views[view.name] = stacked if view.is_8bit else stacked.to(device)
        return layout.canvas(views, device)

    for number, piece in enumerate(pieces):
        file = folder / name_of(number, len(pieces))
        if file.is_file():
            source = open_latents(file)
            expect_form(source, file, dtype, shape_of(spec))
            expect_starts(source, file, np.array(piece, dtype=np.int64))
            advance(len(piece))
            continue
        made = []
        for i in range(0, len(piece), batch):
            part = piece[i : i + batch]
            z = encode_canvas(spec, vae, canvas(part))  # as `wamkit.policy.preprocessing` does
            made.append(z.to(DTYPES[dtype]).cpu())
            if (bad := fault(made[-1])) is not None:
                raise WamkitError(
                    f"VAE {spec.vae.name!r} in {spec.vae.dtype} makes latents that are not finite "
                    f"of episode {part[0][0]}, frames {part[0][1]} to {part[-1][1]}: {bad}",
                    "set vae.dtype=float32, or look at the VAE's weights",
                )
            encoded += len(part)
            advance(len(part))
        write_tensors({"starts": torch.tensor(piece), "latents": torch.cat(made)}, file)
    return encoded


def _claim(folder: Path, about: dict[str, object]) -> None:
    """Make the folder, or find that it was begun with the very same settings."""
    file = folder / INDEX
    sweep(folder)
    if file.is_file():
        refuse_placeholder(file)
        text = strict_json.dumps(about)
        if read_index(folder) != Index.model_validate_json(text, strict=True):
            raise WamkitError(
                f"{folder} was made of other data, with other settings or by another VAE",
                "choose another folder, or remove this one",
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WamkitError(f"{folder} holds something else", "choose another folder")
    with as_not_written(folder):
        make_folder(folder)
    write_text(file, strict_json.dumps(about, indent=1) + "\n")
