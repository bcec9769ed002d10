"""The table of published systems says what the importers state, and their specs are those here."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "systems.md"


def _script() -> Any:
    found = importlib.util.spec_from_file_location("make_systems", ROOT / "docs/make_systems.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


SCRIPT = _script()


@pytest.mark.parametrize("file", SCRIPT.PAGES, ids=lambda file: file.name)
def test_the_table_of_systems_is_that_of_the_records(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text == SCRIPT.with_table(text, SCRIPT.PAGES[file]), "run python docs/make_systems.py"


@pytest.mark.parametrize("record", SCRIPT.records(), ids=lambda record: record["system"])
def test_a_system_has_a_section_and_its_specs_exist(record: dict[str, Any]) -> None:
    assert f"\n## {record['system']}\n" in PAGE.read_text(encoding="utf-8")
    assert record["repository"].startswith("https://")
    for name in record.get("specs", []):
        text = (ROOT / "examples" / name).read_text(encoding="utf-8")
        assert record["commit"] in text, f"examples/{name} names another commit"


@pytest.mark.parametrize("record", SCRIPT.records(), ids=lambda record: record["system"])
def test_every_stated_difference_is_a_bound_of_a_test(record: dict[str, Any]) -> None:
    file = next(
        file
        for file in ROOT.glob("plugins/importers/*/wamkit_*/verified.toml")
        if f'system = "{record["system"]}"' in file.read_text(encoding="utf-8")
    )
    tests = [*(file.parent.parent / "tests").glob("test_*.py")]
    tests += [ROOT / "tests" / "test_fastwam.py"] if record["system"] == "Fast-WAM" else []
    text = "".join(test.read_text(encoding="utf-8") for test in tests)
    read = set(re.findall(r"""\b(?:verified|VERIFIED|LIMIT)\["(\w+)"\]""", text))
    unread = {name for name, value in record["compared"].items() if value} - read
    assert not unread, f"no test compares with {', '.join(sorted(unread))} of {file.name}"


OWN = {"metaworld.toml", "toy.toml"}
"""Compositions of our own, of no published system."""
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_the_published_system_or_says_what_differs(file: Path) -> None:
    header = re.match(r"(#.*\n)+", file.read_text(encoding="utf-8"))
    assert header is not None
    text = re.sub(r"\n# ?", " ", header[0])
    is_variant = text.startswith("# A variant of ")
    compared = any(file.name in record.get("specs", []) for record in SCRIPT.records())
    assert [is_variant, compared, file.name in OWN].count(True) == 1
    assert not is_variant or "What differs" in text


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_list_of_examples_marks_variants_of_published_systems(file: Path) -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    published, _, others = page.partition("\nVariants that nobody has published")
    row = re.search(rf"^\| `{re.escape(file.name)}` \| (.*?) \|", published, re.M)
    is_variant = file.read_text(encoding="utf-8").startswith("# A variant of ")
    if row is None:
        assert f"| `{file.name}` |" in others
    else:
        assert row[1].startswith("variant of ") == is_variant
