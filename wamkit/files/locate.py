"""Which files hold the weights of one model; no torch.

A folder may hold one file, shards with an index, or shards whose index was not copied; the latter
are found by the numbers in their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import WamkitError
from .paths import expand_home
from .placeholders import placeholder_error, refuse_placeholder
from .shards import INDEX, PICKLED, SHARD, SUFFIX, few, find_numbered_shards, shards_of_index

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""What diffusers and transformers call their files."""
_OTHER = {
    ".gguf": "a GGUF file, whose weights are quantized in blocks",
    ".onnx": "an ONNX graph, not weights",
    ".distcp": "a piece of a checkpoint of torch.distributed (DCP)",
    ".zip": "an archive",
}
DCP = ".metadata"
"""What describes a folder of such pieces."""


def split_prefix(path: str | Path) -> tuple[str, str | None]:
    """Split `file#prefix` into the path and the prefix of tensor names; None without one."""
    text = str(path)
    place, mark, prefix = text.rpartition("#")
    if not mark or expand_home(text).exists():
        return text, None
    return place, prefix


def weight_files(place: Path, folders: Sequence[str] = ()) -> list[Path]:
    """Return the weight files at `place`: a file, all shards of a set, or those of a subfolder.

    `folders` are subfolders to look into, such as "transformer". Raises WamkitError listing what
    was looked for and what is there.
    """
    if place.is_file():
        return [place] if place.name == DCP else _with_shards(place)
    if not place.is_dir():
        raise WamkitError(f"no weights at {place}", "name a folder or a safetensors file")
    places = [place, *(place / name for name in folders)]
    for suffixes in ((SUFFIX,), PICKLED):
        for folder in places:
            if found := _in_folder(folder, suffixes):
                return found
    for folder in places:
        if (folder / DCP).is_file():
            return [folder / DCP]
    there = sorted(path.name + "/" * path.is_dir() for path in place.iterdir())
    hint = "name the folder that holds *.safetensors, or the file itself"
    if any(name.endswith(".distcp") for name in there):
        hint = f"pieces of a checkpoint of torch.distributed need their {DCP}: copy it too"
    for path in sorted(place.rglob("*.incomplete")):
        hint = f"{placeholder_error(path)}"
    raise WamkitError(
        f"no safetensors file in {', '.join(map(str, places))}; "
        f"there is {', '.join(there[:8]) or 'nothing'}" + ", ..." * (len(there) > 8),
        hint,
    )


def _with_shards(file: Path) -> list[Path]:
    """Return the named file, with the other shards of its set."""
    if file.name.endswith(INDEX):
        return shards_of_index(file)
    if file.suffix in _OTHER:
        what = _OTHER[file.suffix]
        hint = "name the weights as safetensors"
        hint = "name the folder they are in" if file.suffix == ".distcp" else hint
        raise WamkitError(f"{file} is {what}, which is not read here", hint)
    if file.suffix not in (SUFFIX, *PICKLED):
        refuse_placeholder(file)
        raise WamkitError(
            f"{file} is no file of weights: its name ends in {file.suffix!r}",
            f"weights are a {SUFFIX} file, or a checkpoint ({', '.join(PICKLED)})",
        )
    parts = SHARD.fullmatch(file.name)
    if parts and int(parts["count"]) > 1:
        stem, suffix = parts["stem"], parts["suffix"]
        index = file.with_name(stem + suffix + INDEX)
        return (
            shards_of_index(index)
            if index.is_file()
            else find_numbered_shards(file.parent, stem, suffix)
        )
    return [file]


def _in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The weight files directly in `folder`, of these kinds."""
    for suffix in suffixes:
        for stem in STEMS:
            if (folder / f"{stem}{suffix}{INDEX}").is_file():
                return shards_of_index(folder / f"{stem}{suffix}{INDEX}")
        for stem in STEMS:
            if (folder / f"{stem}{suffix}").is_file():
                return [folder / f"{stem}{suffix}"]
    indexes = [p for suffix in suffixes for p in _files(folder, f"{suffix}{INDEX}")]
    if len(indexes) == 1:
        return shards_of_index(indexes[0])
    files = [p for suffix in suffixes for p in _files(folder, suffix)]
    parts = [p for f in files if (p := SHARD.fullmatch(f.name))]
    sets = list(dict.fromkeys((p["stem"], p["suffix"]) for p in parts))
    plain = [(stem, suffix) for stem, suffix in sets if stem in STEMS]
    if len(sets) > 1 and len(plain) == 1 and all(s.startswith(plain[0][0]) for s, _ in sets):
        return find_numbered_shards(
            folder, *plain[0]
        )  # the others are variants of it, such as .fp16
    if len(sets) == 1 and len(parts) == len(files):
        return find_numbered_shards(folder, *sets[0])
    if len(files) > 1:
        kind = "safetensors files" if SUFFIX in suffixes else "checkpoints"
        of = f", of {len(sets)} sets of shards ({few([s for s, _ in sets])})" * (len(sets) > 1)
        raise WamkitError(
            f"{folder} holds several {kind} and no index: {few([f.name for f in files])}{of}",
            "name one of them; one shard stands for its set",
        )
    return files


def _files(folder: Path, ending: str) -> list[Path]:
    """The plain files directly in `folder` with this ending."""
    return sorted(path for path in folder.glob(f"*{ending}") if path.is_file())
