"""Spec files: every value replaced, every syntax broken, and odd ones that are right."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .material import ACT, put, table
from .mutate import DEEP, documents

Write = Callable[[Path], Any]

SOME = ("true", "zero", "fraction", "huge", "list", "table", "null")
"""Kinds of values that some settings may have, where they change nothing."""
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n"
    for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
MERGES = "a: &a {k0: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 30)}]}}\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
PYTHON = {
    "object": "!!python/object/apply:os.system ['touch ../outside/ran']",
    "new": "!!python/object/new:os.system ['touch ../outside/ran']",
    "module": "!!python/module:os",
    "name": "!!python/name:os.system",
    "tuple": "!!python/tuple [1, 2]",
    "binary": "!!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "own": "!own {a: 1}",
    "timestamp": "2001-12-14t21:59:43.10-05:00",
}


def cases(material: Path) -> Iterator[Case]:
    """Specs in JSON with one value changed; then files of each syntax that are wrong or odd."""
    spec = table()
    for name, path, kind, text in documents(spec):
        expected = expect(path, kind)
        yield _case(material, name, "spec.json", text, expected)
    yaml = _yaml(spec)
    for name, value in PYTHON.items():
        yield _case(material, f"yaml tag {name}", "spec.yaml", f"{yaml}seed: {value}\n")
        yield _case(material, f"yaml tag {name} alone", "spec.yaml", value)
    for name, (file, text) in _broken(spec, yaml).items():
        yield _case(material, name, file, text)
    for name, make in _special().items():
        yield Case(name, _with(material, make), ("act", "spec.toml", *ACT))
    for name, (file, text) in _odd(material, spec, yaml).items():
        yield _case(material, f"valid: {name}", file, text, "accepted")


def expect(path: Sequence[str | int], kind: str) -> Expected:
    """What has to come of a value of this kind at a place of a spec."""
    if kind == "without" or (path[-1] == "name" and path[0] in ("actions", "cameras")):
        return "either"  # what is left out has a default; a group may have any name
    return "same" if kind in SOME else "refused"


def valid(material: Path) -> Case:
    """The spec that all are made from."""
    return _case(material, "valid", "spec.json", json.dumps(table()), "accepted")


def _case(
    material: Path, name: str, file: str, content: str | bytes, expected: Expected = "refused"
) -> Case:
    def make(here: Path) -> None:
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (here / file).write_bytes(data)

    return Case(name, _with(material, make), ("act", file, *ACT), expected)


def _with(material: Path, make: Write) -> Write:
    def write(here: Path) -> None:
        put(material, here, ["image.png"])
        make(here)

    return write


def _yaml(spec: Any) -> str:
    import yaml

    return yaml.safe_dump(spec)


def _broken(spec: Any, yaml: str) -> dict[str, tuple[str, str | bytes]]:
    """name -> file and content, none of which is a spec."""
    toml = (Path(__file__).parents[2] / "tests" / "data" / "small.toml").read_text()
    plain = json.dumps(spec)
    found: dict[str, tuple[str, str | bytes]] = {
        "yaml aliases": ("spec.yaml", BOMB + yaml),
        "yaml aliases, few": ("spec.yaml", yaml + "x: &x 1\ny: *x\n"),
        "yaml alias of itself": ("spec.yaml", yaml + "x: &x [*x]\n"),
        "yaml merge keys": ("spec.yaml", MERGES + yaml),
        "yaml alias unknown": ("spec.yaml", yaml + "x: *nothing\n"),
        "yaml two documents": ("spec.yaml", f"{yaml}---\n{yaml}"),
        "yaml key twice": ("spec.yaml", f"{yaml}backbone: toy\n"),
        "yaml key of a list": ("spec.yaml", f"{yaml}? [a, b]\n: 1\n"),
        "yaml key of a number": ("spec.yaml", f"{yaml}1: 1\n"),
        "yaml tabs": ("spec.yaml", yaml.replace("  ", "\t")),
        "yaml deep": ("spec.yaml", f"{yaml}x: {'[' * DEEP}"),
        "yaml deep and closed": ("spec.yaml", f"{yaml}x: {'[' * 3000}{']' * 3000}"),
        "yaml deep tables": ("spec.yaml", "{a: " * 3000 + "1" + "}" * 3000),
        "yaml directive": ("spec.yaml", f"%YAML 9.9\n---\n{yaml}seed: [\n"),
        "yaml sexagesimal": ("spec.yaml", f"{yaml}seed: 1:2:3:\n"),
        "yaml digits": ("spec.yaml", f"{yaml}seed: 1{'0' * 5000}\n"),
        "yaml many digits": ("spec.yaml", f"{yaml}seed: {'9' * 1_000_000}\n"),
        "json many digits": ("spec.json", plain[:-1] + f', "seed": {"9" * 1_000_000}}}'),
        "toml many digits": ("spec.toml", f"seed = {'9' * 1_000_000}\n{toml}"),
        "toml deep": ("spec.toml", f"x = {'[' * 5000}\n{toml}"),
        "toml deep and closed": ("spec.toml", f"x = {'[' * 5000}{']' * 5000}\n{toml}"),
        "toml deep keys": ("spec.toml", f"{'.'.join('a' * 20000)} = 1\n{toml}"),
        "toml key twice": ("spec.toml", f"seed = 1\nseed = 2\n{toml}"),
        "toml table twice": ("spec.toml", f"{toml}\n[backbone]\nname = 'toy'\n"),
        "toml date": ("spec.toml", f"seed = 2020-01-01\n{toml}"),
        "toml nan": ("spec.toml", f"seed = nan\n{toml}"),
        "toml control": ("spec.toml", f"seed = '\x1b[31m'\n{toml}"),
        "json trailing comma": ("spec.json", plain[:-1] + ",}"),
        "json comment": ("spec.json", "// spec\n" + plain),
        "json single quotes": ("spec.json", plain.replace('"', "'")),
        "json of a list": ("spec.json", f"[{plain}]"),
        "json of a number": ("spec.json", "1"),
        "json of null": ("spec.json", "null"),
        "json deep": ("spec.json", '{"a":' * DEEP),
        "json half a surrogate in a key": ("spec.json", plain[:-1] + ', "\\ud800": 1}'),
        "10 MB of spaces": ("spec.json", " " * 10_000_000),
        "10 MB of braces": ("spec.json", "{" * 10_000_000),
        "10 MB of a text": ("spec.json", plain[:-1] + f', "seed": "{"x" * 10_000_000}"}}'),
        "100,000 sections": (
            "spec.json",
            json.dumps({**spec, **{f"key{i}": i for i in range(100_000)}}),
        ),
        "100,000 keys of a part": (
            "spec.json",
            json.dumps({**spec, "vae": {**spec["vae"], **{f"k{i}": i for i in range(100_000)}}}),
        ),
        "another ending": ("spec.ini", toml),
        "no ending": ("spec", toml),
        "zeros": ("spec.toml", bytes(1000)),
        "an image": ("spec.toml", b"\x89PNG\r\n\x1a\n" + bytes(range(256))),
        "a git-lfs pointer": ("spec.toml", "version https://git-lfs.github.com/spec/v1\nsize 1\n"),
        "a web page": ("spec.yaml", "<!DOCTYPE html>\n<html><body>404</body></html>\n"),
        "utf-16": ("spec.toml", toml.encode("utf-16")),
        "utf-32": ("spec.json", plain.encode("utf-32")),
        "utf-16 yaml without a mark": ("spec.yaml", yaml.encode("utf-16-le")),
        "latin-1": ("spec.toml", toml.encode() + "# käse".encode("latin-1")),
        "surrogates in utf-8": ("spec.toml", toml.encode() + b"# \xed\xa0\x80"),
        "overlong utf-8": ("spec.yaml", yaml.encode() + b"# \xc0\xaf"),
        "NUL within": ("spec.toml", toml.replace("toy", "to\x00y", 1)),
    }
    for ending, text in (("toml", toml), ("yaml", yaml), ("json", plain)):
        data = text.encode()
        for part in range(1, 5):
            cut = data[: len(data) * part // 6]
            found[f"{ending} cut after {part} of 6"] = (f"spec.{ending}", cut)
        found[f"{ending} empty"] = (f"spec.{ending}", b"")
    return found


def _special() -> dict[str, Write]:
    """What is no file, under the name of one."""
    return {
        "a folder": lambda here: (here / "spec.toml").mkdir(),
        "a pipe": lambda here: os.mkfifo(here / "spec.toml"),
        "a link to itself": lambda here: (here / "spec.toml").symlink_to("spec.toml"),
        "a link to nothing": lambda here: (here / "spec.toml").symlink_to("nothing"),
        "a link to zeros": lambda here: (here / "spec.toml").symlink_to("/dev/zero"),
        "a link to the terminal": lambda here: (here / "spec.toml").symlink_to("/dev/tty"),
        "nothing": lambda here: None,
        "a sparse file of 64 GiB": lambda here: _sparse(here / "spec.toml"),
    }


def _sparse(file: Path) -> None:
    with file.open("wb") as stream:
        stream.truncate(2**36)


def _odd(material: Path, spec: Any, yaml: str) -> dict[str, tuple[str, str | bytes]]:
    """name -> file and content, all of which say the same."""
    toml = (material / "spec.toml").read_text()
    plain = json.dumps(spec)
    turned = json.dumps(dict(reversed(spec.items())))
    found: dict[str, tuple[str, str | bytes]] = {
        "toml": ("spec.toml", toml),
        "yaml": ("spec.yaml", yaml),
        "yml": ("spec.yml", yaml),
        "json turned round": ("spec.json", turned),
        "json escapes": ("spec.json", plain.replace("toy", "\\u0074oy")),
        "json indented": ("spec.json", json.dumps(spec, indent=7)),
        "json in yaml": ("spec.yaml", plain),
        "crlf": ("spec.toml", toml.replace("\n", "\r\n")),
        "yaml crlf": ("spec.yaml", yaml.replace("\n", "\r\n")),
        "yaml with a start": ("spec.yaml", f"%YAML 1.1\n---\n{yaml}...\n"),
        "yaml comments": ("spec.yaml", yaml.replace("\n", "  # note\n")),
        "yaml quoted": ("spec.yaml", yaml.replace("toy", '"toy"')),
        "a name with spaces": ("a spec.toml", toml),
        "a name in unicode": ("späc ☕.toml", toml),
        "a name with brackets": ("[a]{b}#c.toml", toml),
        "a name that begins with a dot": (".spec.toml", toml),
        "comments in unicode": ("spec.toml", f"# käse ☕ \U0001f916\n{toml}"),
        "no last line": ("spec.toml", toml.rstrip()),
        "blank lines": ("spec.toml", toml.replace("\n", "\n\n\n")),
        "numbers with underscores": ("spec.toml", toml.replace("= 16", "= 1_6")),
        "hexadecimal": ("spec.toml", toml.replace("= 16", "= 0x10")),
        "defaults written out": ("spec.toml", f'dtype = "float32"\nseed = 0\nformat = 1\n{toml}'),
        "literal quotes": ("spec.toml", toml.replace('"toy"', "'toy'")),
        "triple quotes": ("spec.toml", toml.replace('"toy"', '"""toy"""')),
    }
    for part in ("backbone", "vae", "text_encoder", "action_head", "paradigm"):
        other = {**spec, part: dict(reversed(spec[part].items()))}
        found[f"{part} turned round"] = ("spec.json", json.dumps(other))
    for section in spec:
        first = {section: spec[section], **spec}
        found[f"{section} first, yaml"] = ("spec.yaml", _yaml_in_order(first))
    return found


def _yaml_in_order(spec: Any) -> str:
    import yaml

    return yaml.safe_dump(spec, sort_keys=False)
