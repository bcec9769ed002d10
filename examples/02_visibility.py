"""What one learns: a published system is a table of who sees whom; what it caches follows from it.

Tokens have roles: context (what is seen), target (what will be), action, and so on. A paradigm says
which roles each role attends to, and nothing else decides what may be computed once: roles that
attend to nothing outside themselves are the same at every denoising step, so one prefill is enough.

    python examples/02_visibility.py --out figures     # writes figures/visibility.svg

A filled cell: the row attends to the column. Orange rows are computed once, blue ones at every
step, or in training only, where nothing that leads to the action attends to them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from wamkit.config.spec import PolicySpec, parse, read
from wamkit.config.visibility import cacheable_subset
from wamkit.files.charts import COLORS, FONT, write
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
CELL = 15  # pixels


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


def grid(title: str, spec: PolicySpec, left: float, top: float) -> str:
    """One table as SVG."""
    roles = roles_of(spec)
    once, x0, y0 = computed_once(spec, roles), left + 74, top + 26
    found = [_text(left, top + 15, title, 14, "start", "600")]
    for i, row in enumerate(roles):
        color = COLORS[1] if row in once else COLORS[0]
        found.append(_text(x0 - 5, y0 + CELL * i + 11, row, 11, "end", "400", color))
        for k, column in enumerate(roles):
            fill = color if column in spec.paradigm.sees[row] else "#eee"
            place = f'x="{x0 + CELL * k}" y="{y0 + CELL * i}" width="{CELL - 2}"'
            found.append(f'<rect {place} height="{CELL - 2}" rx="2" fill="{fill}"/>')
    return "\n".join(found)


def figure(systems: dict[str, PolicySpec]) -> str:
    """All tables, three in a row; the last and largest has room to its right and below."""
    drawn = (
        grid(title, spec, 20 + 215 * (i % 3), 16 + 120 * (i // 3))
        for i, (title, spec) in enumerate(systems.items())
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 430">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, size: int, end: str, weight: str, fill: str = "#222"
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{end}" fill="{fill}" {FONT}'
    return f'<text x="{x}" y="{y}" {style}>{text}</text>'


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
    print(f"wrote {write(given.out / 'visibility.svg', figure(systems))}")


if __name__ == "__main__":
    main()
