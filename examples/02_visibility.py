"""What one learns: a published system is a table of who sees whom; what it caches follows from it.

Tokens have roles: context (what is seen), target (what will be), action, and so on. A paradigm says
which roles each role attends to, and nothing else decides what may be computed once: roles that
attend to nothing outside themselves are the same at every denoising step, so one prefill is enough.

    python examples/02_visibility.py --out figures     # writes figures/visibility.svg

A filled cell: the row attends to the column. Rows with a bold name are computed once, the others at
every step, or in training only, where nothing that leads to the action attends to them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from wamkit.config.spec import PolicySpec, parse, read
from wamkit.config.visibility import cacheable_subset
from wamkit.files.plots import attention_table, style, write
from wamkit.interfaces.types import base

HERE = Path(__file__).parent
SYSTEMS = {
    "Fast-WAM": "fastwam",
    "Fast-WAM-Joint": "fastwam_joint",
    "Fast-WAM-IDM": "fastwam_idm",
    "Efficient-WAM": "efficient_wam",
    "ImageWAM": "image_wam_4b",
    "LingBot-VA, by blocks": "lingbot_va",
}
# What tokens of a role stand for: frames and actions that are over are as many as those to come.
OF = {"seen": "target", "did": "action"}
ORDER = ("text", "context", "state", "target", "seen", "action", "did")
DENOISED = ("target", "action")  # the roles that change from step to step, unless they are copies


def roles_of(spec: PolicySpec) -> list[str]:
    """The roles that have tokens in this system, block after block, in the order of an episode."""
    tokens, sees = spec.tokens(), spec.paradigm.sees
    if spec.backbone.traits.text != "stream":
        tokens["text"] = 0  # such backbones read text by cross-attention
    present = [r for r in sees if tokens[OF.get(base(r), base(r))]]
    if "target.1" in present:  # the first of several blocks goes by two names: draw the numbered
        present = [r for r in present if "." in r or base(r) not in ("target", "action")]
    return sorted(present, key=lambda r: (r.partition(".")[2], ORDER.index(base(r)), r))


def computed_once(spec: PolicySpec, roles: Sequence[str]) -> frozenset[str]:
    """The roles that need one pass: clean, and closed under the table."""
    clean = [r for r in roles if r.endswith("'") or base(r) not in DENOISED]
    return cacheable_subset(clean, spec.paradigm.sees, roles)


def needed_roles(spec: PolicySpec, roles: Sequence[str]) -> set[str]:
    """The roles that reach the action, itself included: what acting cannot do without."""
    sees, found = spec.paradigm.sees, {r for r in roles if base(r) == "action"}
    while more := {r for row in found for r in sees[row] if r in roles} - found:
        found |= more
    # A copy is made of what was denoised: target' of target, seen.2 of target.2.
    return found | {r for r in roles if {f"{r}'", r.replace("target", "seen")} & found}


def figure(systems: dict[str, PolicySpec]) -> Figure:
    """All tables, three in a row; bold rows are computed once a chunk."""
    cell, wide, high = 0.2, 2.2, 1.9  # inches of a cell, and from one table to the next
    drawn = Figure(figsize=(3 * wide, 2 * high))
    for i, (title, spec) in enumerate(systems.items()):
        roles = roles_of(spec)
        once, size = computed_once(spec, roles), cell * len(roles)
        left, bottom = wide * (i % 3), high * (2 - i // 3) - size
        place = (left / wide / 3, bottom / high / 2, size / wide / 3, size / high / 2)
        axes = drawn.add_axes(place)
        attention_table(axes, roles, spec.paradigm.sees, cell=cell, bold=once)
        axes.set_title(title, loc="left")
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw every table, and print what of each system needs one pass only."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path(), help="folder for visibility.svg")
    given = options.parse_args(arguments)
    systems = {title: parse(read(HERE / f"{name}.toml"), name) for title, name in SYSTEMS.items()}
    for title, spec in systems.items():
        roles = roles_of(spec)
        once = [role for role in roles if role in computed_once(spec, roles)]
        needed = needed_roles(spec, roles)
        again = [role for role in roles if role in needed and role not in once]
        print(f"{title:26} once: {', '.join(once) or 'nothing'}")
        print(f"{'':26} at every step: {', '.join(again)}")
        if unneeded := [role for role in roles if role not in needed]:
            print(f"{'':26} only to learn from: {', '.join(unneeded)}")
    with style():
        print(f"wrote {write(given.out / 'visibility.svg', figure(systems))}")


if __name__ == "__main__":
    main()
