"""The verbs about whole specs: `show SPEC` resolves one, `diff` compares two."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from specs import TOY

from wamkit.config.difference import Difference, differences
from wamkit.config.spec import parse, read
from wamkit.errors import WamkitError
from wamkit.files import strict_yaml
from wamkit.files.documents import parse_toml
from wamkit.files.toml_text import drop_none, inline, toml_text

Run = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).parent.parent / "examples"
IDM, JOINT = EXAMPLES / "fastwam_idm.toml", EXAMPLES / "fastwam_joint.toml"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda p: p.stem)
def test_a_spec_as_toml_reads_back_as_it_was(file: Path) -> None:
    raw, whole = read(file), parse(read(file)).dump()
    assert parse_toml(toml_text(raw)) == raw
    assert parse(parse_toml(toml_text(drop_none(whole)))).dump() == whole


def test_toml_holds_every_plain_value() -> None:
    tables: dict[str, Any] = {
        "text": 'a "quote"\\ \n\x07\x7f é 😀',
        "list": [1, 2.5, True, "x", [], {"a": {"b": 1}}],
        "numbers": [1e-7, 1e22, -0.0, 2**62],
        "empty": {},
        "a b": {"c d": {"e": {"f": {"g": []}}}, "g": 1},
    }
    assert parse_toml(toml_text(tables)) == tables
    assert toml_text(drop_none({"a": None, "b": {"c": None, "d": 1}})) == "[b]\nd = 1\n"
    assert inline({"a": [1, "x"], "b": {}}) == '{ a = [1, "x"], b = {} }'
    with pytest.raises(WamkitError, match="cannot be written as TOML"):
        toml_text({"a": None})


def test_show_prints_the_resolved_spec_which_is_a_spec_itself(wamkit: Run, tmp_path: Path) -> None:
    code, out, err = wamkit("show", IDM, "--set", "schedules.action.steps=3")
    assert code == 0 and err == "" and "extends" not in parse_toml(out)
    heading = out.splitlines()[0]
    assert heading.startswith(f"# {IDM}, which extends {EXAMPLES / 'fastwam.toml'}")
    assert "--set schedules.action.steps=3" in heading
    expected = parse(read(IDM, ["schedules.action.steps=3"])).dump()
    file = tmp_path / "whole.toml"
    file.write_text(out)
    assert parse(read(file)).dump() == expected
    found = json.loads(wamkit("show", IDM, "--json", "--set", "schedules.action.steps=3")[1])
    assert found["tables"] == expected and found["extends"] == str(EXAMPLES / "fastwam.toml")


def test_show_without_defaults_prints_what_the_files_say(wamkit: Run) -> None:
    code, out, _ = wamkit("show", IDM, "--no-defaults")
    assert code == 0 and parse_toml(out) == read(IDM)


def test_show_of_a_saved_policy_prints_its_spec(wamkit: Run, tmp_path: Path) -> None:
    whole = parse(parse_toml(TOY)).dump()
    (tmp_path / "spec.yaml").write_text(strict_yaml.dumps(whole))
    code, out, _ = wamkit("show", tmp_path)
    assert code == 0 and parse(parse_toml(out)).dump() == whole


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (("backbone",), "each part has keys of its own"),
        (("bakbone",), "hint: did you mean 'backbone'?"),
        (("nowhere/x.toml",), "no spec at nowhere/x.toml"),
    ],
)
def test_show_of_what_is_no_spec_is_refused(wamkit: Run, args: tuple[str, ...], found: str) -> None:
    code, _, err = wamkit("show", *args)
    assert code == 2 and found in err


def test_show_lists_every_mistake_of_a_spec(wamkit: Run, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(TOY.replace("depth", "dept").replace("size = 2", "sizes = 2"))
    code, _, err = wamkit("show", file)
    assert code == 2 and "backbone.dept" in err and "state.sizes" in err


def test_differences_name_keys_and_take_an_exchanged_part_as_one() -> None:
    a = {"x": 1, "part": {"name": "a", "p": 1}, "t": {"k": 1, "only": 2}, "views": [{"name": "v"}]}
    b = {"x": 2, "part": {"name": "b", "q": 1}, "t": {"k": 1, "new": {"z": 1}}}
    assert differences(a, {**b, "views": [{"name": "v", "size": 3}]}) == [
        Difference("x", 1, 2),
        Difference("part", a["part"], b["part"], block=True),
        Difference("t.only", 2, None),
        Difference("t.new", None, {"z": 1}, block=True),
        Difference("views.0.size", None, 3),
    ]
    assert differences(a, a) == []


def test_of_an_exchanged_part_only_the_keys_that_differ_are_listed(
    wamkit: Run, tmp_path: Path
) -> None:
    text = (EXAMPLES / "fastwam.toml").read_text()
    other = tmp_path / "other.toml"
    other.write_text(text.replace('name = "umt5-xxl"', 'name = "t5-xxl"'))
    args = ("diff", EXAMPLES / "fastwam.toml", other)
    code, out, _ = wamkit(*args)
    assert code == 0 and "umt5-xxl" in out and "t5-xxl" in out and "1 difference" in out
    assert "prompt_template" not in out and "max_length" not in out
    (found,) = json.loads(wamkit(*args, "--json")[1])["differences"]
    assert found["key"] == "text_encoder" and found["block"]
    assert found["a"]["name"] == "umt5-xxl" and found["b"]["name"] == "t5-xxl"
    assert not {"prompt_template", "embedding", "weights"} & (found["a"].keys() | found["b"].keys())


def test_diff_compares_what_the_policies_see(wamkit: Run, tmp_path: Path) -> None:
    code, out, _ = wamkit("diff", IDM, JOINT)
    assert code == 0 and out.splitlines()[0].split() == ["key", "fastwam_idm", "fastwam_joint"]
    assert 'name = "idm"' in out and 'attends = "action_sees_video"' in out
    assert "1 difference\n" in out and "schedules" not in out
    whole = tmp_path / "whole.toml"
    whole.write_text(wamkit("show", IDM)[1])
    code, out, _ = wamkit("diff", IDM, whole, "--exit-code")
    assert code == 0 and "are the same policy" in out


def test_diff_as_json_and_with_an_exit_code(wamkit: Run) -> None:
    toy, change = EXAMPLES / "toy.toml", ("--json", "--exit-code")
    code, out, _ = wamkit("diff", toy, EXAMPLES / "metaworld.toml", *change)
    found = json.loads(out)
    assert code == 1 and not found["same"]
    assert {"key": "backbone.depth", "a": 4, "b": 3, "block": False} in found["differences"]
    code, out, _ = wamkit("diff", toy, toy, *change)
    assert code == 0 and json.loads(out)["same"]
