"""Time published systems at their sizes with random weights on a GPU, each against its floor.

    python benchmarks/published_sizes.py                        # all, within ten minutes
    python benchmarks/published_sizes.py fastwam --modes eager,graph --profile
    python benchmarks/published_sizes.py --tiny --seconds 3600  # at toy size on the CPU

Needs a CUDA device; without one it says so and ends. A row for each spec of examples/ and each
mode: the VAE, prefill and all steps by themselves, both together (`network`: from latents to
normalized actions), and the whole chunk as `wamkit bench` measures it, against what this device
could do at best. Recorded chunks are one graph; that of Fast-WAM is split by recording half the
steps. `difference` is that of the actions, relative: in eager mode from those of a network without
any cache, in other modes from eager, for two observations. Fast-WAM also runs as its published
code is written (`baseline.py`), with the same weights and words.

All systems run in eager and graph first, then in compile+graph, then in compile. Nothing goes on
after `--seconds`, and what failed or does not fit is a row that says so. Below each table: where a
goal is missed, or with `--profile` for every row, the kernels that take the time; then the goals
with their figures. The text is 16 random words, padded as the published encoder pads; encoding
them runs once for an instruction and is part of no published latency.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from wamkit.policy.run_mode import MODES, captures, compiler, compiles

SYSTEMS = (
    "fastwam",
    "image_wam_4b",
    "efficient_wam",
    "fastwam_joint",
    "fastwam_idm",
    "light_wam",
    "cosmos_policy",
    "fastwam_on_ltx",
    "fastwam_on_cosmos",
)


def possible(device: str) -> Iterator[str]:
    """The modes that this machine can run in."""
    for mode in MODES:
        if (device == "cuda" or not captures(mode)) and (compiler() or not compiles(mode)):
            yield mode


def asked(arguments: Sequence[str] | None) -> Any:
    """The arguments; ends with a message if one names no system or no mode."""
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SYSTEMS))
    given.add_argument("--tiny", action="store_true", help="at toy size on the CPU")
    given.add_argument("--modes", help=f"some of {','.join(MODES)}; all that are possible")
    given.add_argument("--seconds", type=float, default=540.0, help="nothing goes on after them")
    given.add_argument("--profile", action="store_true", help="the kernels of every row")
    found = given.parse_args(arguments)
    found.modes = found.modes.split(",") if found.modes else None
    for kind, named, known in (("system", found.names, SYSTEMS), ("mode", found.modes, MODES)):
        if unknown := [word for word in named or () if word not in known]:
            given.error(f"no {kind} is called {unknown[0]!r}; there are {', '.join(known)}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    given = asked(arguments)
    if not given.tiny and not torch.cuda.is_available():
        print("no CUDA device: nothing to time")
        return
    from published.run import Run

    device = "cpu" if given.tiny else "cuda"
    run = Run(device, tiny=given.tiny, seconds=given.seconds, profiles=given.profile)
    run.all(given.names or SYSTEMS, given.modes or list(possible(device)))


if __name__ == "__main__":
    main()
