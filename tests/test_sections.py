"""`wamkit show SECTION` lists every key with type, default and meaning, as docs/spec.md does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wamkit.cli._options import SECTION_NAMES
from wamkit.cli._sections import keys_of, markdown, sections
from wamkit.config.spec import SECTIONS, schema

Run = Callable[..., tuple[int, str, str]]
PAGE = Path(__file__).parent.parent / "docs" / "spec.md"


def test_the_sections_are_those_of_a_spec_and_the_training_settings() -> None:
    assert tuple(sections()) == SECTION_NAMES == ("spec", *SECTIONS, "train")


@pytest.mark.parametrize("name", SECTION_NAMES)
def test_every_key_of_a_section_has_a_type_and_a_meaning(name: str) -> None:
    keys = keys_of(sections()[name])
    assert len({key.key for key in keys}) == len(keys)
    for key in keys:
        assert key.type and key.meaning, key


def test_keys_of_tables_inside_a_section_are_listed(wamkit: Run) -> None:
    for name, wanted in {
        "cameras": {"views[].name", "views[].value_range", "columns"},
        "actions": {"chunk_size", "groups[].normalization"},
        "schedules": {"video", "value", "*.steps", "*.sampling_args.mean"},
        "train": {"lora.rank", "parts.*.freeze", "precision"},
    }.items():
        code, out, _ = wamkit("show", name, "--json")
        found = json.loads(out)
        assert code == 0 and found["section"] == name
        assert wanted <= {key["key"] for key in found["keys"]}
    keys = {key["key"]: key for key in json.loads(wamkit("show", "video", "--json")[1])["keys"]}
    assert keys["num_frames"] == {
        "key": "num_frames",
        "type": "int >= 1",
        "default": 9,
        "required": False,
        "meaning": "Images in a clip, the observed ones included.",
    }


def test_no_key_of_the_schema_of_a_spec_is_missing() -> None:
    defined = schema()["$defs"]
    for name, cls in SECTIONS.items():
        own = {key.key for key in keys_of(cls)}
        assert set(defined[cls.__name__]["properties"]) - own <= {"video", "action"}, name
    listed = {key.key.rpartition(".")[2] for cls in sections().values() for key in keys_of(cls)}
    for model in ("View", "ActionGroup", "ScheduleConfig", "SamplingArgs"):
        assert set(defined[model]["properties"]) <= {key.partition("[")[0] for key in listed}


def test_the_page_of_keys_is_what_the_code_says(wamkit: Run) -> None:
    code, out, _ = wamkit("show", "--markdown")
    assert code == 0 and out == markdown()
    assert PAGE.read_text() == out, "write it again: wamkit show --markdown > docs/spec.md"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["videos"], "did you mean 'video'?"),
        (["backbone"], "name a part too: `wamkit list backbone` lists them"),
        ([], "a kind and a part, or a section: spec, actions"),
        (["video", "--params"], "--params has no meaning for a section"),
        (["video", "--markdown"], "--markdown prints all sections"),
    ],
)
def test_mistyped_sections(wamkit: Run, args: list[str], message: str) -> None:
    code, _, err = wamkit("show", *args)
    assert code == 2 and message in err


def test_showing_a_section_imports_no_torch() -> None:
    script = (
        "import sys; sys.argv = ['wamkit', 'show', 'train']\n"
        "from wamkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "gradient_checkpointing" in done.stdout, done.stderr
