"""Draw the packages of wamkit and their imports, read from the code, as docs/architecture.svg.

python docs/make_architecture.py

A package stands above all that it imports. An arrow is an import; one that follows from two others
is left out. The dashed arrow is an import inside functions only, upwards.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
CORE = ROOT / "wamkit"
FILE = ROOT / "docs" / "architecture.svg"

CONTENT = {
    "cli": "the command line",
    "testing": "contract tests for plugins",
    "train": "training runs",
    "evaluate": "imagined futures, measured",
    "simulate": "environments, evaluation",
    "bench": "benchmarks",
    "data": "LeRobot data sets",
    "serve": "the policy server",
    "runtime": "the loop on the robot",
    "policy": "Policy, Session, losses",
    "interfaces": "the contract of plugins",
    "checkpoints": "weights in files",
    "engine": "attention, KV cache, samplers",
    "config": "specs and their check",
    "acceleration": "compiled, fused, 8-bit layers",
    "files": "reading and writing files",
    "errors": "WamkitError",
}
LEFT = {"cli", "simulate", "data", "policy", "checkpoints", "config", "files", "errors"}
LATE = {("config", "checkpoints")}  # `build` of a part imports what needs torch
WIDTH, BOX, HEIGHT, ROW = 660, 250, 44, 74


def imported() -> dict[str, set[str]]:
    """Package -> the packages that its modules import, at the top or inside functions."""
    found: dict[str, set[str]] = {name: set() for name in CONTENT}
    for file in sorted(CORE.rglob("*.py")):
        parts = file.relative_to(CORE).parts
        name = parts[0].removesuffix(".py")
        if name.startswith("__") or "templates" in parts:
            continue
        others = {other for other in _targets(file, parts) if other != name and other in found}
        found[name] |= others
    return found


def _targets(file: Path, parts: tuple[str, ...]) -> Iterator[str]:
    """The first name below `wamkit` of everything that a file imports."""
    package = ["wamkit", *parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "wamkit" and rest:
                yield rest[0]


def levels(edges: dict[str, set[str]]) -> dict[str, int]:
    """How many packages stand below each, on the longest chain of imports."""

    @cache
    def level(name: str) -> int:
        return max((1 + level(other) for other in edges[name]), default=0)

    return {name: level(name) for name in edges}


def reduced(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from others."""

    @cache
    def below(name: str) -> frozenset[str]:
        found = set(edges[name])
        for other in edges[name]:
            found |= below(other)
        return frozenset(found)

    return [
        (name, other)
        for name, others in edges.items()
        for other in sorted(others)
        if not any(other in below(between) for between in others)
    ]


def draw() -> str:
    """The drawing as SVG."""
    every = imported()
    late = [(a, b) for a, b in LATE if b in every[a]]
    down = {a: {b for b in others if (a, b) not in late} for a, others in every.items()}
    level = levels(down)
    top = max(level.values())
    corner = {
        name: (20 if name in LEFT else WIDTH - BOX - 20, 20 + (top - height) * ROW)
        for name, height in level.items()
    }
    body = []
    for a, b in reduced(down):
        (x1, y1), (x2, y2) = corner[a], corner[b]
        start = x1 + BOX / 2 + (x2 - x1) / 4, y1 + HEIGHT
        end = x2 + BOX / 2 - (x2 - x1) / 4, y2 - 3
        body.append(_arrow(start, end))
    for a, b in late:
        (x1, y1), (x2, y2) = corner[a], corner[b]
        body.append(_arrow((x1 + 30, y1), (x2 + 30, y2 + HEIGHT + 3), ' stroke-dasharray="4 3"'))
    for name, (x, y) in corner.items():
        body.append(
            f'<rect x="{x}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6" fill="#f0f4f8" '
            f'stroke="#9fb3c8"/>'
        )
        body.append(_text(x + BOX / 2, y + 18, name, ' font-weight="600"'))
        body.append(_text(x + BOX / 2, y + 35, CONTENT[name], ' font-size="12" fill="#52606d"'))
    height = 20 + top * ROW + HEIGHT + 20
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#1f2933">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n'
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#52606d"/></marker></defs>'
        "\n" + "\n".join(body) + "\n</svg>\n"
    )


def _arrow(start: tuple[float, float], end: tuple[float, float], more: str = "") -> str:
    (x1, y1), (x2, y2) = start, end
    return (
        f'<path d="M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}" stroke="#52606d" fill="none" '
        f'marker-end="url(#a)"{more}/>'
    )


def _text(x: float, y: float, text: str, more: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle"{more}>{escape(text)}</text>'


if __name__ == "__main__":
    FILE.write_text(draw())
    print(f"wrote {FILE.relative_to(ROOT)}")
