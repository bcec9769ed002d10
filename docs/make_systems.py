"""Write the table of published systems into README.md and docs/systems.md, and a line a section.

python docs/make_systems.py

Each importer states in `verified.toml` what was compared with the authors' code, and the largest
difference found; its tests measure these again. What no test can repeat, because it needs their
library, is under `by_hand`, with their commit and the day.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

from wamkit.config.importing import describe_difference

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- systems: docs/make_systems.py -->", "<!-- /systems -->"
HEAD = "| system | specs in `examples/` | verified against the authors' code: largest difference |"


def records() -> list[dict[str, Any]]:
    """What each importer states, by the name of the system."""
    files = sorted(ROOT.glob("plugins/importers/*/wamkit_*/verified.toml"))
    found = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(found, key=lambda record: str(record["system"]).lower())


def row(record: dict[str, Any], page: str) -> str:
    """One row of the table; `page` is the way to docs/systems.md."""
    system = str(record["system"])
    anchor = re.sub(r"[^a-z0-9 -]", "", system.lower()).replace(" ", "-")
    specs = ", ".join(f"`{name}`" for name in record.get("specs", []))
    missing = ", ".join(record.get("open", {}))
    cell = compared(record) + (f"; open: {missing}" if missing else "")
    return f"| [{system}]({page}#{anchor}) | {specs} | {cell} |"


def compared(record: dict[str, Any]) -> str:
    """What was compared, each with its largest difference."""
    found = (
        f"{name.replace('_', ' ')} {describe_difference(value)}"
        for name, value in record["compared"].items()
    )
    return ", ".join(found) or "nothing yet"


def with_sections(text: str) -> str:
    """A page that says in the section of each system what was verified of it, and what was not."""
    for record in records():
        before, heading, rest = text.partition(f"\n## {record['system']}\n")
        assert heading, record["system"]
        section, bar, after = rest.partition("\n## ")
        section = re.sub(r"- Verified: .*?\n(?=- |\n)", "", section, flags=re.DOTALL)
        filled = textwrap.fill(f"- Verified: {compared(record)}.", 100, subsequent_indent="  ")
        lines = [
            f"  - by hand, {name}: {what}." for name, what in record.get("by_hand", {}).items()
        ]
        lines += [f"  - open, {name}: {why}." for name, why in record.get("open", {}).items()]
        for line in lines:
            filled += "\n" + textwrap.fill(line, 100, subsequent_indent="    ")
        place = section.index("- Published: ")
        text = f"{before}{heading}{section[:place]}{filled}\n{section[place:]}{bar}{after}"
    return text


def with_table(text: str, page: str) -> str:
    """A page with its table as the records have it."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = "\n".join(row(record, page) for record in records())
    return f"{before}{BEGIN}\n{HEAD}\n|---|---|---|\n{rows}\n{END}{after}"


PAGES = {ROOT / "README.md": "docs/systems.md", ROOT / "docs" / "systems.md": ""}
"""File -> the way from it to docs/systems.md."""

if __name__ == "__main__":
    for file, page in PAGES.items():
        made = with_table(file.read_text(encoding="utf-8"), page)
        file.write_text(made if page else with_sections(made), encoding="utf-8")
