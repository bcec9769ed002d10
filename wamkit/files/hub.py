"""Repositories of the Hugging Face hub, `hf:owner/name[/path][@revision]`, as local folders."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..errors import Note, WamkitError
from .durable import recover
from .install import install_hint
from .paths import expanded

HUB = "hf:"
"""What a path to a repository of the Hugging Face hub begins with."""
SECONDS = 5.0
"""How long the hub may take to say what a repository holds."""
WEIGHTS = ("*.safetensors", "*.json", "*.model")
"""What is fetched of a repository of weights."""
POLICY = (*WEIGHTS, "*.yaml")
CONFIGS = ("*config.json",)
"""What is fetched to know the sizes of weights before the weights."""
TEXT = (*WEIGHTS, "*.txt")
"""What is fetched of a text encoder and its tokenizer."""
_FORM = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?P<path>(?:/[^@]*)?)(?:@(?P<revision>\S+))?")

Kind = Literal["model", "dataset"]
_here: dict[tuple[str, Kind], Path] = {}  # what this process has fetched, and where it is
_commits: dict[tuple[str, Kind], str] = {}  # ... and of which commit it is
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_remote(path: str | Path | None) -> bool:
    """True for `hf:owner/name`."""
    return str(path or "").startswith(HUB)


def local(path: str | Path, kind: Kind = "model", files: Sequence[str] = ()) -> Path:
    """The folder or file that `path` means; one on the hub is fetched if it is not here yet.

    What a replacement that was cut short left aside is put back (`wamkit.files.durable.recover`).
    Before anything is fetched a `Note` says how much it is and under which license. `files` are
    patterns of what is wanted; all if there are none. Raises WamkitError if it cannot be had.
    """
    if not is_remote(path):
        return recover(expanded(path))
    place = _fetched(path, kind, files)
    if not place.exists():
        parts = _parts(path)
        inside = parts["path"].strip("/")
        raise WamkitError(f"{parts['name']} on the hub has no {inside}", "check the path behind it")
    return place


def fetch_configs(path: str) -> None:
    """Fetch the config.json of weights on the hub, if there is one and it is not here yet."""
    _fetched(path, "model", CONFIGS)


def _fetched(path: str | Path, kind: Kind, files: Sequence[str]) -> Path:
    """Where what is fetched of `path` would be; it is there unless the repository lacks it."""
    parts = _parts(path)
    try:
        import huggingface_hub as hub
    except ImportError:
        raise WamkitError(
            f"{path} is on the Hugging Face hub, and huggingface_hub is not installed",
            f"{install_hint(modules=['huggingface_hub'])}, or name a local folder",
        ) from None
    inside = parts["path"].strip("/")
    wanted = [f"{inside}/{pattern}" for pattern in files or ("*",)] + [inside] if inside else files
    where: dict[str, Any] = {"repo_type": kind, "revision": parts["revision"]}
    try:
        _announce(hub, str(path), parts["name"], where, wanted)
        found = hub.snapshot_download(
            parts["name"], allow_patterns=list(wanted) or None, etag_timeout=SECONDS, **where
        )
    except Exception as error:  # of the network, of the hub, of its client: all are reported alike
        try:
            found = hub.snapshot_download(
                parts["name"], allow_patterns=list(wanted) or None, local_files_only=True, **where
            )
        except Exception:
            raise WamkitError(
                f"{path} cannot be fetched, and no copy is here: {_reason(error)}",
                f"copy the repository {parts['name']} by other means and name its local folder, or "
                "check the name and the network",
            ) from None
    place = Path(found) / inside
    _here[str(path), kind] = place
    _commits[str(path), kind] = _commit(where["revision"], Path(found))
    return place


def standing(path: str | Path, kind: Kind = "model") -> Path | None:
    """As `local`, without the network: None for what is on the hub and not here yet.

    Of a repository some files may be here and others not. Raises WamkitError if `path` is no name.
    """
    if not is_remote(path):
        return expanded(path)
    parts = _parts(path)
    place = _here.get((str(path), kind))
    if place is not None and place.exists():
        return place
    try:
        import huggingface_hub as hub

        found = hub.snapshot_download(
            parts["name"], repo_type=kind, revision=parts["revision"], local_files_only=True
        )
    except Exception:  # no client, no copy
        return None
    place = Path(found) / parts["path"].strip("/")
    return place if place.exists() else None


def pinned(path: str, kind: Kind = "model") -> str:
    """`path` with the commit that was read in place of its revision, as far as that is known.

    A branch moves on, and a commit stays. What is behind `#` stays too, and so does a path that is
    not on the hub or of which nothing was read.
    """
    where, mark, prefix = path.partition("#")
    if not is_remote(where) or not (commit := _commits.get((where, kind), "")):
        return path
    parts = _parts(where)
    return f"{HUB}{parts['name']}{parts['path']}@{commit}{mark}{prefix}"


def _commit(revision: str | None, snapshot: Path) -> str:
    """The commit of a snapshot; empty where neither the hub nor the folder names it."""
    return next((n for n in (revision or "", snapshot.name) if _COMMIT.fullmatch(n)), "")


def _parts(path: str | Path) -> re.Match[str]:
    """Name, path and revision. Raises WamkitError if `path` does not have that form."""
    parts = _FORM.fullmatch(str(path))
    if parts is None:
        raise WamkitError(
            f"{path} names no repository of the hub",
            "write hf:owner/name, with /path and @revision behind it if need be",
        )
    return parts


def _announce(hub: Any, path: str, name: str, where: dict[str, Any], wanted: Sequence[str]) -> None:
    """Say what is to be fetched; the revision in `where` becomes the commit it stands for."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set")
    about = hub.HfApi().repo_info(name, files_metadata=True, timeout=SECONDS, **where)
    where["revision"] = about.sha
    missing = [
        file
        for file in about.siblings or ()
        if (not wanted or any(fnmatch(file.rfilename, pattern) for pattern in wanted))
        and not isinstance(
            hub.try_to_load_from_cache(
                name, file.rfilename, revision=about.sha, repo_type=where["repo_type"]
            ),
            str,
        )
    ]
    if missing:
        size = sum(file.size or 0 for file in missing)
        card = about.card_data
        license = (card.get("license") if card is not None else None) or "not stated"
        shown = f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
        files = f"{len(missing)} file" + "s" * (len(missing) != 1)
        warnings.warn(f"fetching {path}: {files}, {shown}, license: {license}", Note, stacklevel=5)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
