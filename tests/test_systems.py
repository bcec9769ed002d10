"""The table of published systems says what the importers state, and their specs are those here."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import released

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


OWN = {"libero.toml", "metaworld.toml", "toy.toml"}
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


BOTH = {"vae", "text_encoder"}
NEEDED = {
    "cosmos_policy": BOTH,
    "dreamzero": {"text_encoder"},
    "fastwam": BOTH,
    "ge_act": BOTH,
    "imagewam": BOTH,
    "light_wam": BOTH,
    "lingbot_va": set(),
}
"""Importer -> parts that its released checkpoints lack; the plugins' tests compare them."""
SYSTEMS = {
    "Cosmos-Policy": "cosmos_policy",
    "DreamZero": "dreamzero",
    "fastwam": "fastwam",
    "ge_act": "ge_act",
    "ImageWAM": "imagewam",
    "CHECKPOINT.pt": "light_wam",
    "lingbot-va": "lingbot_va",
}
"""Part of the name of a checkpoint -> its importer."""
PAGES = [PAGE, ROOT / "README.md", *sorted(ROOT.glob("plugins/importers/*/README.md"))]
COMMANDS = sorted(
    {
        (command.strip(), page.relative_to(ROOT).as_posix())
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
        for command in block.splitlines()
        if command.strip().startswith("wamkit import ")
    }
)


def places_of(args: list[str]) -> dict[str, str]:
    """Part -> the place of its weights that a command names."""
    pairs = [args[i + 1].partition("=") for i, arg in enumerate(args) if arg == "--set"]
    files = (".weights", ".embeddings_file")
    return {key.partition(".")[0]: value for key, _, value in pairs if key.endswith(files)}


@pytest.mark.parametrize(("command", "page"), COMMANDS)
def test_a_printed_command_names_every_part_that_the_checkpoint_lacks(
    command: str, page: str
) -> None:
    args = shlex.split(command)
    (system,) = {system for name, system in SYSTEMS.items() if name in args[2]}
    assert set(places_of(args)) == NEEDED[system], f"{page}: {command}"


def test_every_system_has_a_command() -> None:
    printed = [command for command, page in COMMANDS if page == "docs/systems.md"]
    assert all(any(name in command for command in printed) for name in SYSTEMS)
    text = PAGE.read_text(encoding="utf-8").partition("## Systems without")[0]
    inline = re.findall(r"(?<!`)`(wamkit import [^`]*)`(?!`)", text)
    assert [command for command in inline if "--out DIR" in command] == []


@pytest.mark.parametrize("name", ["fastwam/libero", "lerobot/fastwam_base"])
def test_the_commands_for_fastwam_plan_an_import_as_printed(
    name: str, tmp_path: Path, wamkit: Callable[..., tuple[int, str, str]]
) -> None:
    (command,) = {c for c, _ in COMMANDS if name in c and "--out DIR" in c}
    args = shlex.split(command)
    if name.startswith("lerobot"):
        place = released.lerobot(tmp_path / "released")
        sizes = ["backbone.variant=tiny"]
    else:
        place = released.fastwam(tmp_path)
        sizes = [size for size in released.SIZES if not size.startswith("text_encoder")]
    tiny = [part for size in (*sizes, "text_encoder.embedding=16") for part in ("--set", size)]
    where = {hub: str(tmp_path) for hub in places_of(args).values()}
    rest = [next((a.replace(h, p) for h, p in where.items() if h in a), a) for a in args[3:]]
    rest[rest.index("DIR")] = str(tmp_path / "policy")
    code, out, err = wamkit(args[1], place, *rest, *tiny, "--dry-run")
    assert code == 0 and "missing" not in out, err
