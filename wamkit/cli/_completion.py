"""What a shell completes: parts, variants and files. Imports no torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from ..config.composing.candidates import variants_of
from ..config.parts import KINDS
from ..config.registry import registry
from ..files.documents import SUFFIXES

SPLIT = re.compile("[:=]+")
"""What bash holds to be a word of its own."""


def join_words(environ: MutableMapping[str, str]) -> str:
    """Put words together again that bash has split at `:` and `=`, before they are completed.

    Returns what stands before the last of those: bash puts completions behind it, not in its place.
    """
    if environ.get("_WAMKIT_COMPLETE") != "complete_bash":
        return ""
    place = int(environ.get("COMP_CWORD", 0))
    args = environ.get("COMP_WORDS", "").split()[: place + 1]
    first = min(place, len(args) - 1)
    while first > 0 and any(SPLIT.fullmatch(word) for word in args[first - 1 : first + 1]):
        first -= 1
    whole = "".join(args[first:])
    last = "" if SPLIT.fullmatch(args[-1]) else args[-1]
    if whole == last:
        return ""
    environ["COMP_WORDS"] = "\n".join([*args[:first], whole])
    environ["COMP_CWORD"] = str(first)
    return whole.removesuffix(last)


def complete_behind(lead: str, run: Callable[[], None]) -> None:
    """Print what `run` prints, each line without `lead`."""
    with redirect_stdout(StringIO()) as printed:
        try:
            run()
        finally:
            lines = [line.removeprefix(lead) for line in printed.getvalue().splitlines()]
            print("\n".join(lines), file=sys.__stdout__)


def filter_prefix(candidates: Iterable[str], incomplete: str) -> list[str]:
    """Those of `candidates` that begin like `incomplete`."""
    return [word for word in candidates if word.startswith(incomplete)]


def part_labels(kind: str, incomplete: str) -> Iterator[str]:
    """The names of a kind, and behind a colon the variants of one."""
    for name in registry().names(kind):
        yield name
        if incomplete.startswith(f"{name}:"):
            cls = registry().get(kind, name)
            yield from (f"{name}:{variant}" for variant in variants_of(cls))


def part_completion(kind: str) -> Callable[[str], list[str]]:
    """The completion of an option that takes `NAME[:VARIANT]` of a kind."""

    def complete(incomplete: str) -> list[str]:
        return filter_prefix(part_labels(kind, incomplete), incomplete)

    return complete


def name_completion(kind: str) -> Callable[[str], list[str]]:
    """The completion of an option that takes the name of a part of a kind."""

    def complete(incomplete: str) -> list[str]:
        return filter_prefix(registry().names(kind), incomplete)

    return complete


def complete_gpu(incomplete: str) -> list[str]:
    """The devices whose peaks are known."""
    from ..train.devices import PEAKS

    return filter_prefix(PEAKS, incomplete)


def complete_gpu_or_here(incomplete: str) -> list[str]:
    """The same, and the word for this machine."""
    return [*complete_gpu(incomplete), *filter_prefix(["here"], incomplete)]


def complete_paradigm_or_all(incomplete: str) -> list[str]:
    """The paradigms, and the word for every one."""
    return filter_prefix([*registry().names("paradigm"), "all"], incomplete)


def complete_layout(incomplete: str) -> list[str]:
    """How views may share a canvas."""
    from ..config.cameras import CameraConfig
    from ..config.mistakes import allowed_values

    known = allowed_values(CameraConfig.model_fields["layout"].annotation)
    return filter_prefix(map(str, known), incomplete)


def complete_weighted(incomplete: str) -> list[str]:
    """`KIND:NAME` of a part that has weights."""
    kinds = [kind for kind in KINDS if kind != "paradigm"]
    return filter_prefix((f"{k}:{n}" for k in kinds for n in registry().names(k)), incomplete)


def complete_swap(incomplete: str) -> list[str]:
    """`KIND=NAME[:VARIANT]`."""
    kind, equals, name = incomplete.partition("=")
    if not equals or kind not in KINDS:
        return filter_prefix((f"{kind}=" for kind in KINDS), incomplete)
    return filter_prefix((f"{kind}={word}" for word in part_labels(kind, name)), incomplete)


def complete_spec(incomplete: str) -> list[str]:
    """Specs and folders here, and the examples."""
    examples = [str(file) for file in sorted(Path("examples").glob("*.toml"))]
    return filter_prefix(dict.fromkeys([*_files(incomplete, SUFFIXES), *examples]), incomplete)


def complete_policy(incomplete: str) -> list[str]:
    """Folders, and what acts without one."""
    return filter_prefix(["random", "expert", *_files(incomplete, ())], incomplete)


def complete_folder(incomplete: str) -> list[str]:
    """Folders, such as those of data sets."""
    return filter_prefix(_files(incomplete, ()), incomplete)


def _files(incomplete: str, suffixes: Iterable[str]) -> list[str]:
    """Folders, and files with one of the suffixes, where the incomplete path leads."""
    lead = incomplete[: incomplete.rfind("/") + 1]
    try:
        inside = sorted(Path(lead or ".").iterdir())
    except OSError:
        return []
    found = [f"{lead}{p.name}/" for p in inside if p.is_dir() and not p.name.startswith(".")]
    return found + [f"{lead}{p.name}" for p in inside if p.is_file() and p.suffix in suffixes]
