"""`--set`: every setting with every kind of value, keys that are none, and quoting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .case import Case, Expected
from .material import ACT, put, table
from .mutate import named, paths

VALUES = {
    "text": "abc",
    "quoted": '"abc"',
    "nothing": "",
    "empty text": '""',
    "list": "[]",
    "lists": "[[[1]]]",
    "table": "{}",
    "inline": '{a = 1, b = {c = "d"}}',
    "true": "true",
    "zero": "0",
    "negative": "-1",
    "fraction": "0.5",
    "nan": "nan",
    "inf": "-inf",
    "huge": "1" + "0" * 12,
    "digits": "1" + "0" * 400,
    "many digits": "9" * 100_000,
    "overflow": "1e999",
    "date": "2020-01-01",
    "deep": "[" * 3000,
    "deep and closed": "[" * 3000 + "]" * 3000,
    "control": "\x1b[31mred\x07",
    "half a character": "\udc80",
    "several lines": "1\nseed = 2",
    "right to left": "\u202ekcab",
    "outside": "../../outside/file",
    "long": "x" * 1_000_000,
    "format": "{0.__class__}%s%n",
}
SOME = ("true", "zero", "fraction", "huge", "list", "table")
KEYS = (
    "",
    ".",
    "..",
    "backbone.",
    ".depth",
    "backbone..depth",
    "backbone.depth.more",
    "backbone.deepth",
    "backbon.depth",
    "nothing",
    "nothing.at.all",
    "actions.groups.5.size",
    "actions.groups.-1.size",
    "actions.groups.x.size",
    "actions.groups.\u0661.size",
    "actions.groups.²",
    "actions.groups.99999999999999999999.size",
    "cameras.views.front.size",
    "__class__",
    "backbone.__class__",
    "backbone.model_config",
    "backbone.tiny",
    "spec.backbone.depth",
    "backbone depth",
    '"backbone".depth',
    "backbone[0].depth",
    "BACKBONE.depth",
    "backbone.depth\n",
    "backbone.depth\x00",
    "\x1b[31m.depth",
    "\udc80.depth",
    "bäckbone.depth",
    "\u202ebackbone.depth",
    "k" * 100_000,
    ".".join("a" * 5000),
    "actions." + ".".join("a" * 5000),
)
FORMLESS = (
    "",
    "=",
    "==",
    "=1",
    "backbone.depth",
    "backbone.depth:1",
    "--depth",
    "\n",
    " ",
    "\udcff",
)
PARTS = ("abc", "", "1", "true", "[]", "{}", "nan", '{name = "toy", depth = []}', "toy.name")


def cases(material: Path) -> Iterator[Case]:
    """Every setting, every key, every form; then overrides that change nothing."""
    spec = table()
    for path, value in paths(spec):
        if isinstance(value, dict) and len(path) == 1:
            continue
        for kind, text in VALUES.items():
            label = path[-1] == "name" and path[0] in ("actions", "cameras")
            part = path[-1] == "name" and not label
            expected: Expected = "either" if label else "same" if kind in SOME else "refused"
            args = (f"{named(path)}={text}",)
            yield case(material, f"{named(path)} {kind}" + " of a part" * part, args, expected)
    for key in KEYS:
        yield case(material, f"key {key[:40]!r} of {len(key)}", (f"{key}=1",))
    for form in FORMLESS:
        yield case(material, f"form {form!r}", (form,))
    for kind in ("backbone", "vae", "text_encoder", "action_head", "paradigm", "actions", "video"):
        for text in PARTS:
            expected = "same" if text in ("{}", "[]") else "refused"
            yield case(material, f"{kind} is {text!r}", (f"{kind}={text}",), expected)
    for name, args in odd(spec).items():
        yield case(material, f"valid: {name}", args, "accepted")


def odd(spec: dict) -> dict[str, tuple[str, ...]]:
    """Overrides that set what is there already, however they are written."""
    found = {
        "spaces": (" backbone.depth = 2 ",),
        "underscore": ("backbone.depth=2_",),
        "hexadecimal": ("backbone.depth=0x2",),
        "binary": ("backbone.depth=0b10",),
        "octal": ("backbone.depth=0o2",),
        "plus": ("backbone.depth=+2",),
        "comment": ("backbone.depth=2 # two",),
        "tabs": ("\tbackbone.depth\t=\t2\t",),
        "twice": ("backbone.depth=9", "backbone.depth=2"),
        "name": ("backbone=toy",),
        "name in quotes": ('backbone="toy"',),
        "name by key": ("backbone.name=toy",),
        "name in literal quotes": ("backbone.name='toy'",),
        "name in triple quotes": ('backbone.name="""toy"""',),
        "escaped": ('backbone.name="\\u0074oy"',),
        "table": (
            'backbone={name = "toy", depth = 2, num_heads = 2, head_dim = 12, text_width = 16}',
        ),
        "list": ("vae.strides=[2, 8, 8]",),
        "list with a comma at its end": ("vae.strides=[2, 8, 8,]",),
        "list over lines": ("vae.strides=[\n2,\n8,\n8\n]",),
        "place in a list": ("vae.strides.0=2",),
        "place in places": ("cameras.views.0.size.1=16",),
        "default": ("seed=0",),
        "default text": ("dtype=float32",),
        "default text in quotes": ('dtype="float32"',),
        "the default in a table that is not there": ("state.size=0",),
        "many": ("seed=0",) * 500,
    }
    del found["underscore"]
    for path, value in paths(spec):
        if isinstance(value, int | str):
            found[f"as it is: {named(path)}"] = (f"{named(path)}={value}",)
    return found


def valid(material: Path) -> Case:
    """The spec without overrides."""
    return case(material, "valid", (), "accepted")


def case(
    material: Path, name: str, overrides: tuple[str, ...], expected: Expected = "refused"
) -> Case:
    """Act from the small spec, with overrides."""
    args = tuple(word for text in overrides for word in ("--set", text))
    return Case(
        name,
        lambda here: put(material, here, ["image.png", "spec.toml"]),
        ("act", "spec.toml", *ACT, *args),
        expected,
    )
