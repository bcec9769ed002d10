"""Untrusted specs and settings: bounded, unique keys, plain types, mistakes with their place."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.overrides import override
from wamkit.config.spec import read
from wamkit.errors import WamkitError
from wamkit.files import strict_json, strict_yaml
from wamkit.files.documents import BYTES, parse_toml, read_table

BOMB = "a: &a [x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)

BAD_YAML = {
    BOMB: "line 2, column 8: the alias *a is not read",
    "a: 1\na: 2\n": "line 2, column 1: the key 'a' stands twice",
    "a: {<<: {b: 1}}": "line 1, column 5: << is not read",
    "1: 2": "a key is text, and '1' is int",
    "? [1]\n: 2": "a key is text, and this is seq",
    "a: !!python/object/apply:os.system [x]": "line 1, column 4: the tag",
    "a: !!binary aGk=": "is not read: write a plain value",
    "a: !!int ''": "'' is no int",
    "a: !!map 3": "is tagged a table and is none",
    "a: [1,\nb: }": "line 2, column 4",
    "x\ny: \x00": "line 2: it holds the character 0x0000",
    "---\na: 1\n---\nb: 2\n": "line 3, column 1: expected a single document",
    "[" * 100_000: "nested deeper than 60 levels",
    "- " * 2_000: "nested deeper than 60 levels",
    f"a: {'9' * 5_000}": "a number of 5,000 digits is not read",
}
BAD_JSON = {
    '{"a": 1,\n "a": 2}': "line 2, column 2: the key 'a' stands twice",
    '{"x": {"a": 1}, "y": {"a": 1}, "a": 1, "a": 2}': "the key 'a' stands twice",
    '{"a": 1e999}': "1e999, which is beyond",
    '{"a": -Infinity}': "-Infinity, which is no number",
    '{"a":\n': "line 2, column 1: Expecting value",
    "[" * 100_000: "nested deeper than 100 levels",
    '{"a":' * 20_000: "nested deeper than 100 levels",
    "9" * 5_000: "more than 4,300 digits",
    " ": "Expecting value",
}
BAD_TOML = {
    "a = 1\na = 2": "line 2, column 6: Cannot overwrite a value",
    "[a]\nb = [1,": "Invalid value",
    f"{'.'.join('a' * 100_000)} = 1": "line 1: a key of more than 60 parts",
    "x = 1\n[" + ".".join(['"a"'] * 1_000) + "]": "line 2: a key of more than 60 parts",
    f"a = {'[' * 100_000}": "nested deeper than 60 levels",
    f"a = {'{b = ' * 30_000}": "nested deeper than 60 levels",
    f"a = {'9' * 5_000}": "more than 4,300 digits",
}


@pytest.mark.parametrize(
    ("suffix", "text", "found"),
    [
        *((".yaml", text, found) for text, found in BAD_YAML.items()),
        *((".json", text, found) for text, found in BAD_JSON.items()),
        *((".toml", text, found) for text, found in BAD_TOML.items()),
        (".toml", "a = 1979-05-27", "a is a date (1979-05-27)"),
        (".toml", f"a = '{'x' * BYTES}'", "a spec has at most 262,144"),
        (".yaml", "# none", "holds nothing, a spec is a table"),
        (".json", '{"a": "\\ud83d"}', "not UTF-8"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else None,
)
def test_a_bad_document_is_refused_with_a_message(
    suffix: str, text: str, found: str, tmp_path: Path
) -> None:
    file = tmp_path / f"spec{suffix}"
    file.write_text(text)
    with pytest.raises(WamkitError) as error:
        read_table(file, "spec", "start from an example")
    assert found in error.value.what and str(file) in error.value.what
    assert error.value.hint


def test_strings_full_of_brackets_and_dots_are_text() -> None:
    dots, brackets = "." * 1_000, "[{" * 500
    text = f"a = \"{dots}\" # {brackets}\nb = '''\n{brackets}'''\nc = \"\\\"{brackets}\"\n"
    assert parse_toml(text) == {"a": dots, "b": brackets, "c": f'"{brackets}'}


def test_yaml_has_the_types_of_its_newest_version() -> None:
    text = "a: on\nb: 1:30\nc: 010\nd: 1e-4\ne: 0o17\nf: ~\ng:\nh: 'true'\ni: true\nj: 1_000\n"
    assert strict_yaml.loads(text) == {
        "a": "on", "b": "1:30", "c": 10, "d": 1e-4, "e": 15, "f": None, "g": None, "h": "true",
        "i": True, "j": 1000,
    }  # fmt: skip


def test_yaml_that_is_written_is_read_back_as_it_was() -> None:
    generator = random.Random(0)
    texts = [
        "on", "1e-4", "010", "", "null", "~", "0x1", "1_0", "a: b\n#c", "é\u2028\x07😀", "<<", "=",
        "-", "[", " lead", ".5", "NaN", ".nan", ".INF", "2026-01-01", "- x", "*a", "&a", "!x", "%",
        "@", "`", "yes", "1:30", "\t", "a\r\nb", "'", '"',
    ]  # fmt: skip
    values: list[Any] = [1e-5, 1e300, -0.0, 0.1, 2**70, -3, True, None, float("inf"), 1e22]

    def tree(depth: int) -> Any:
        kind = generator.random()
        if depth and kind < 0.3:
            return {generator.choice(texts): tree(depth - 1) for _ in range(4)}
        if depth and kind < 0.5:
            return [tree(depth - 1) for _ in range(3)]
        return generator.choice([*texts, *values])

    for _ in range(200):
        data = {"v": tree(4)}
        assert strict_yaml.loads(strict_yaml.dumps(data)) == data


def test_a_list_that_stands_twice_is_written_twice() -> None:
    shared = ["x"]
    data = {"a": shared, "b": shared}
    assert "&" not in strict_yaml.dumps(data)
    assert strict_yaml.loads(strict_yaml.dumps(data)) == data


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seed=1\nstate.size = 7", "goes on in another line: state"),
        (f"seed={'[' * 100_000}", "nested deeper than 60 levels"),
        (f"{'.'.join('a' * 100_000)}=1", "has 100,000 parts"),
        ("cameras.views.²=1", "'²' is no place in a list"),
        (f"cameras.views.{'9' * 5_000}=1", "is no place in a list"),
    ],
    ids=["two lines", "deep", "long", "superscript", "digits"],
)
def test_a_bad_override_is_refused_with_a_message(text: str, found: str) -> None:
    raw = {"seed": 0, "cameras": {"views": [{"name": "front"}]}}
    with pytest.raises(WamkitError) as error:
        override(raw, [text])
    assert found in error.value.what and len(error.value.what) < 10_000


def test_a_date_in_an_override_is_text() -> None:
    assert override({}, ["note=2026-01-01"]) == {"note": "2026-01-01"}


def test_json_bounds_apply_to_files_too(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_text('{"a": 1}')
    assert strict_json.read(file, "copy it again") == {"a": 1}
    with pytest.raises(WamkitError, match="at most 4 are read"):
        strict_json.read(file, "copy it again", most=4)
    file.write_bytes(b"\xff\xfe{")
    with pytest.raises(WamkitError, match="no text in UTF-8"):
        strict_json.read(file, "copy it again")
    with pytest.raises(WamkitError, match="cannot be read"):
        strict_json.read(tmp_path / "none.json", "copy it again")


def test_the_examples_still_read() -> None:
    for file in (Path(__file__).parent.parent / "examples").glob("*.toml"):
        assert read(file)
