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
from .paths import expand_home

HUB = "hf:"
"""Prefix of a path to a repository of the Hugging Face hub."""
SECONDS = 5.0
"""Seconds that the hub may take to list a repository."""
WEIGHTS = ("*.safetensors", "*.json", "*.model")
"""Files fetched from a repository of weights."""
POLICY = (*WEIGHTS, "*.yaml")
CONFIGS = ("*config.json",)
"""Files fetched to learn the sizes of a model before its weights."""
TEXT = (*WEIGHTS, "*.txt")
"""Files fetched for a text encoder and its tokenizer."""
_FORM = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?P<path>(?:/[^@]*)?)(?:@(?P<revision>\S+))?")

Kind = Literal["model", "dataset"]
_here: dict[tuple[str, Kind], Path] = {}  # folders this process has fetched, by path
_commits: dict[tuple[str, Kind], str] = {}  # ... and of which commit it is
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_remote(path: str | Path | None) -> bool:
    """True for `hf:owner/name`."""
    return str(path or "").startswith(HUB)


def local_path(path: str | Path, kind: Kind = "model", files: Sequence[str] = ()) -> Path:
    """Return the local folder or file of `path`; fetch it from the hub if it is not cached.

    A replacement that was interrupted is undone (`wamkit.files.durable.recover`).
    A `Note` states size and license before anything is fetched. `files` are
    patterns of file names to fetch; () fetches all. Raises WamkitError if that fails.
    """
    if not is_remote(path):
        return recover(expand_home(path))
    place = _fetch(path, kind, files)
    if not place.exists():
        parts = _parse_path(path)
        inside = parts["path"].strip("/")
        raise WamkitError(f"{parts['name']} on the hub has no {inside}", "check the path behind it")
    return place


def fetch_configs(path: str) -> None:
    """Fetch the config.json of weights on the hub, if there is one and it is not here yet."""
    _fetch(path, "model", CONFIGS)


def _fetch(path: str | Path, kind: Kind, files: Sequence[str]) -> Path:
    """Fetch `path` and return its local place, which exists unless the repository lacks it."""
    parts = _parse_path(path)
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
    _commits[str(path), kind] = _commit_of(where["revision"], Path(found))
    return place


def cached_path(path: str | Path, kind: Kind = "model") -> Path | None:
    """Like `local_path`, without the network: None for a hub path that is not cached.

    Of a repository some files may be here and others not. Raises WamkitError if `path` is no name.
    """
    if not is_remote(path):
        return expand_home(path)
    parts = _parse_path(path)
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


def pin_revision(path: str, kind: Kind = "model") -> str:
    """Replace the revision in `path` by the commit that was read, if it is known.

    A branch moves on; a commit does not. The `#prefix` is kept, and so is a path that is
    not on the hub or of which nothing was read.
    """
    where, mark, prefix = path.partition("#")
    if not is_remote(where) or not (commit := _commits.get((where, kind), "")):
        return path
    parts = _parse_path(where)
    return f"{HUB}{parts['name']}{parts['path']}@{commit}{mark}{prefix}"


def license_of(path: str | Path, kind: Kind = "model") -> str | None:
    """The license that the card of a repository states; None if there is no card, or it has none.

    It is read from the copy that is here, without the network.
    """
    parts = _parse_path(str(path).partition("#")[0])
    place = cached_path(f"{HUB}{parts['name']}" + f"@{parts['revision']}" * bool(parts["revision"]))
    card = place / "README.md" if place is not None else None
    if card is None or not card.is_file():
        return None
    found = re.search(r"^license:[ ]*([\w.+ -]+)$", card.read_text(errors="replace"), re.MULTILINE)
    return found[1].strip() if found else None


def _commit_of(revision: str | None, snapshot: Path) -> str:
    """The commit of a snapshot; empty where neither the hub nor the folder names it."""
    return next((n for n in (revision or "", snapshot.name) if _COMMIT.fullmatch(n)), "")


def _parse_path(path: str | Path) -> re.Match[str]:
    """Name, path and revision. Raises WamkitError if `path` does not have that form."""
    parts = _FORM.fullmatch(str(path))
    if parts is None:
        raise WamkitError(
            f"{path} names no repository of the hub",
            "write hf:owner/name, with /path and @revision behind it if need be",
        )
    return parts


def _announce(hub: Any, path: str, name: str, where: dict[str, Any], wanted: Sequence[str]) -> None:
    """Announce the download; replace the revision in `where` by its commit."""
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
        size_text = f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
        files = f"{len(missing)} file" + "s" * (len(missing) != 1)
        warnings.warn(
            f"fetching {path}: {files}, {size_text}, license: {license}", Note, stacklevel=5
        )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
