"""Which files hold the weights of one model, and what the headers of safetensors say; no torch.

A folder may hold one file, shards with an index, or shards whose index was not copied; the latter
are known by their numbers.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from .errors import WamkitError
from .paths import expanded, inside
from .placeholders import placeholder, refuse_placeholder

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""What diffusers and transformers call their files."""
INDEX = ".index.json"
SUFFIX = ".safetensors"
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
DAMAGED = "the file is damaged or incomplete: download or copy it again"
MOST_SHARDS = 10_000
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d+)-of-(?P<count>\d+)(?P<suffix>\.[a-z]+)")
_OTHER = {
    ".gguf": "a GGUF file, whose numbers are packed into blocks of a few bits",
    ".onnx": "an ONNX graph, not weights",
    ".distcp": "a piece of a checkpoint of torch.distributed (DCP)",
    ".zip": "an archive",
}
_DCP = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pt"


def split(path: str | Path) -> tuple[str, str | None]:
    """`file#prefix` as the path and the prefix of the names that are wanted; None without one."""
    text = str(path)
    place, mark, prefix = text.rpartition("#")
    if not mark or expanded(text).exists():
        return text, None
    return place, prefix


def weight_files(place: Path, folders: Sequence[str] = ()) -> list[Path]:
    """The files at `place`: a file, all shards of a set, or what one of the folders holds.

    `folders` are subfolders to look into, such as "transformer". Raises WamkitError with what was
    looked for and what is there.
    """
    if place.is_file():
        return _named(place)
    if not place.is_dir():
        raise WamkitError(f"no weights at {place}", "name a folder or a safetensors file")
    places = [place, *(place / name for name in folders)]
    for suffixes in ((SUFFIX,), PICKLED):
        for folder in places:
            if found := _in_folder(folder, suffixes):
                return found
    there = sorted(path.name + "/" * path.is_dir() for path in place.iterdir())
    hint = "name the folder that holds *.safetensors, or the file itself"
    if any(name.endswith(".distcp") or name == ".metadata" for name in there):
        hint = f"this is {_OTHER['.distcp']}: make one file of it with `{_DCP}`"
    for path in sorted(place.rglob("*.incomplete")):
        hint = f"{placeholder(path)}"
    raise WamkitError(
        f"no safetensors file in {', '.join(map(str, places))}; "
        f"there is {', '.join(there[:8]) or 'nothing'}" + ", ..." * (len(there) > 8),
        hint,
    )


def _named(file: Path) -> list[Path]:
    """The files that go with one that was named: shards come as a set."""
    if file.name.endswith(INDEX):
        return _indexed(file)
    if file.suffix in _OTHER:
        what = _OTHER[file.suffix]
        hint = _DCP if file.suffix == ".distcp" else "name the weights as safetensors"
        raise WamkitError(f"{file} is {what}, which is not read here", hint)
    if file.suffix not in (SUFFIX, *PICKLED):
        refuse_placeholder(file)
        raise WamkitError(
            f"{file} is no file of weights: its name ends in {file.suffix!r}",
            f"weights are a {SUFFIX} file, or a checkpoint ({', '.join(PICKLED)})",
        )
    told = _SHARD.fullmatch(file.name)
    if told and int(told["count"]) > 1:
        index = file.with_name(told["stem"] + told["suffix"] + INDEX)
        return _indexed(index) if index.is_file() else _set_of(file.parent, told["stem"])
    return [file]


def _in_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """The weights right in `folder`; empty if there are none of these kinds."""
    for suffix in suffixes:
        for stem in STEMS:
            if (folder / f"{stem}{suffix}{INDEX}").is_file():
                return _indexed(folder / f"{stem}{suffix}{INDEX}")
        for stem in STEMS:
            if (folder / f"{stem}{suffix}").is_file():
                return [folder / f"{stem}{suffix}"]
    indexes = [p for suffix in suffixes for p in sorted(folder.glob(f"*{suffix}{INDEX}"))]
    if len(indexes) == 1:
        return _indexed(indexes[0])
    files = [p for suffix in suffixes for p in sorted(folder.glob(f"*{suffix}"))]
    stems = dict.fromkeys(t["stem"] for f in files if (t := _SHARD.fullmatch(f.name)))
    plain = [stem for stem in stems if stem in STEMS]
    if len(stems) > 1 and len(plain) == 1 and all(s.startswith(plain[0]) for s in stems):
        return _set_of(folder, plain[0])  # the others are variants of it, such as .fp16
    if len(stems) == 1 and all(_SHARD.fullmatch(f.name) for f in files):
        return _set_of(folder, next(iter(stems)))
    if len(files) > 1:
        kind = "safetensors files" if SUFFIX in suffixes else "checkpoints"
        sets = f", of {len(stems)} sets of shards ({', '.join(stems)})" if len(stems) > 1 else ""
        raise WamkitError(
            f"{folder} holds several {kind} and no index: {', '.join(f.name for f in files)}{sets}",
            "name one of them; one shard stands for its set",
        )
    return files


def _set_of(folder: Path, stem: str) -> list[Path]:
    """Every shard of a set that has no index. Raises WamkitError naming those that are missing."""
    found: dict[int, Path] = {}
    counts = set()
    for file in sorted(folder.iterdir()):
        told = _SHARD.fullmatch(file.name)
        if told and told["stem"] == stem and told["suffix"] in (SUFFIX, *PICKLED):
            found[int(told["number"])] = file
            counts.add(int(told["count"]))
    if len(counts) > 1:
        raise WamkitError(
            f"{folder} holds shards {stem}-* of {' and of '.join(map(str, sorted(counts)))} files, "
            "which do not belong together",
            "remove those that do not belong, or copy the folder again",
        )
    (count,) = counts
    if count > MOST_SHARDS:
        raise WamkitError(
            f"{folder} holds {len(found)} shards of {count}, and at most {MOST_SHARDS:,} are read",
            "download the whole set again, or rename the file if it is no shard",
        )
    first = 0 if 0 in found else 1
    missing = [i for i in range(first, first + count) if i not in found]
    if missing:
        width = max(len(t["count"]) for f in found.values() if (t := _SHARD.fullmatch(f.name)))
        suffix = next(iter(found.values())).suffix
        names = [f"{stem}-{i:0{width}d}-of-{count:0{width}d}{suffix}" for i in missing]
        raise WamkitError(
            f"{folder} lacks {len(missing)} of {count} shards: {', '.join(names[:8])}, and has no "
            f"index ({stem}{suffix}{INDEX})",
            "download the missing files",
        )
    return [found[i] for i in sorted(found)]


def _indexed(index: Path) -> list[Path]:
    """The shards of an index, every tensor of which is where it says."""
    refuse_placeholder(index)
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(table.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WamkitError(f"{index} is no index of shards: {error}", "download it again") from None
    files = [inside(index.parent, name, str(index)) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not file.is_file()]
    if missing or not names:
        raise WamkitError(
            f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}",
            "download the missing files",
        )
    if not all(file.suffix == SUFFIX for file in files):
        return files
    held = {file.name: header(file).keys() for file in files}
    lost = [name for name, file in table.items() if name not in held[Path(file).name]]
    if lost:
        raise WamkitError(
            f"{index} names {len(lost)} tensors that their shards do not hold: "
            f"{', '.join(lost[:8])}" + ", ..." * (len(lost) > 8),
            "index and shards are of different checkpoints: download them again, together",
        )
    return files


def header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """name -> shape, dtype; the file's size must be what its header says (format: safetensors)."""
    refuse_placeholder(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start[:4] == b"GGUF":
            raise WamkitError(f"{file} is {_OTHER['.gguf']}", "name the weights as safetensors")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            known = _pickle(start)
            raise WamkitError(
                f"{file} is no safetensors file: its header does not fit into it"
                + (f"; it is {known}" if known else ""),
                "give it its own ending (.pt), or convert it" if known else DAMAGED,
            )
        try:
            table = json.loads(stream.read(length))
            tensors = {k: v for k, v in table.items() if k != "__metadata__"}
            ends = [entry["data_offsets"][1] for entry in tensors.values()]
            found = {k: (tuple(v["shape"]), str(v["dtype"])) for k, v in tensors.items()}
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            raise WamkitError(
                f"{file} is no safetensors file: its header is garbled ({error})", DAMAGED
            ) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        state = "truncated" if size < expected else "too long"
        off = f"{abs(expected - size):,} bytes {'missing' if size < expected else 'too many'}"
        raise WamkitError(
            f"{file} is {state}: found {size} bytes, its header says {expected} ({off})", DAMAGED
        )
    return found


def _pickle(start: bytes) -> str | None:
    if start[:4] == b"PK\x03\x04":
        return "a pickled checkpoint of torch, under the name of a safetensors file"
    return "a pickle, under the name of a safetensors file" if start[:1] == b"\x80" else None
