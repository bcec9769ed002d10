"""YAML without its traps: the types of YAML 1.2, no alias, no tag of its own, no key twice.

An alias (`*name`) lets 430 bytes stand for gigabytes; in YAML 1.1 `on`, `1:30` and `010` are true,
90 and 8. What `dumps` writes, `loads` reads back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

DEPTH = 60
"""How deep tables and lists may be nested."""

# The core schema of YAML 1.2.2, section 10.3.2, with the underscores in integers that TOML has.
_BASE = "tag:yaml.org,2002:"
_FORMS: tuple[tuple[str, str, str], ...] = (
    ("null", r"(?:~|null|Null|NULL|)", "~nN\0"),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", "tTfF"),
    ("int", r"(?:[-+]?[0-9]+(?:_[0-9]+)*|0o[0-7]+|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        "-+.0123456789",
    ),
)
_RESOLVERS: dict[Any, list[tuple[str, re.Pattern[str]]]] = {}
for _name, _form, _first in _FORMS:
    for _letter in _first:
        _RESOLVERS.setdefault(_letter.strip("\0"), []).append(
            (f"{_BASE}{_name}", re.compile(rf"\A{_form}\Z"))
        )

_QUOTED = {**_RESOLVERS, "<": [(f"{_BASE}merge", re.compile(r"\A<<\Z"))]}  # others merge at <<


def loads(text: str) -> Any:
    """Parse `text`, which is not trusted: tables, lists, text, numbers, booleans and null.

    Raises ValueError, with line and column where there is one, if `text` is no YAML, or if it holds
    an alias, a tag of another type, a key that is no text or stands twice, or more than `DEPTH`
    levels.
    """
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise ValueError(_describe(error)) from None
    except ReaderError as error:
        place = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"line {place}: it holds the character {error.character:#06x}, which no YAML may hold"
        ) from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from None


def dumps(data: Any) -> str:
    """`data` as YAML that `loads` reads back, keys in their order.

    Raises ValueError if it holds anything but plain data.
    """
    try:
        return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=False)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _describe(error: yaml.MarkedYAMLError) -> str:
    """Return position and problem of an error in one line."""
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    message = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{place}{' '.join(message.split()) or 'it is no YAML'}"


def _fault(node: Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _unread(event: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.composer.ComposerError(None, None, problem, event.start_mark)


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML, with fewer types and bounds."""

    yaml_implicit_resolvers = _RESOLVERS
    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event: Any = self.peek_event()
        if self.depth > DEPTH:
            raise _unread(event, f"it is nested deeper than {DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise _unread(event, f"the alias *{event.anchor} is not read: write its value out")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def table(self, node: Node) -> Iterator[dict[str, Any]]:
        """A mapping whose keys are text and stand once."""
        if not isinstance(node, MappingNode):
            raise _fault(node, "this is tagged a table and is none")
        found: dict[str, Any] = {}
        yield found
        for key_node, value_node in node.value:
            if key_node.tag != f"{_BASE}str":
                kind = key_node.tag.removeprefix(_BASE)
                message = repr(key_node.value) if isinstance(key_node, ScalarNode) else "this"
                raise _fault(key_node, f"a key is text, and {message} is {kind}: put it in quotes")
            if key_node.value == "<<" and key_node.style is None:
                raise _fault(key_node, "<< is not read: write the merged keys out")
            if key_node.value in found:
                raise _fault(key_node, f"the key {key_node.value!r} stands twice in one table")
            found[key_node.value] = self.construct_object(value_node)

    def sequence(self, node: Node) -> Iterator[list[Any]]:
        """A list."""
        if not isinstance(node, SequenceNode):
            raise _fault(node, "this is tagged a list and is none")
        found: list[Any] = []
        yield found
        found.extend(self.construct_object(child) for child in node.value)

    def scalar(self, node: Node) -> Any:
        """Text, a number, a boolean or null, by its tag."""
        kind = node.tag.removeprefix(_BASE)
        if not isinstance(node, ScalarNode):
            raise _fault(node, f"this is tagged {kind} and holds more than one value")
        text: str = node.value
        if kind == "str":
            return text
        if not any(re.fullmatch(form, text) for name, form, _ in _FORMS if name == kind):
            raise _fault(node, f"{text[:40]!r} is no {kind}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        try:
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        except ValueError:  # Python converts no more than 4,300 digits
            raise _fault(node, f"a number of {len(text):,} digits is not read") from None

    def refuse(self, node: Node) -> Any:
        """Any other tag."""
        raise _fault(node, f"the tag {node.tag[:60]} is not read: write a plain value")


_Loader.yaml_constructors = {
    f"{_BASE}map": _Loader.table,
    f"{_BASE}seq": _Loader.sequence,
    **{f"{_BASE}{kind}": _Loader.scalar for kind in ("str", "int", "float", "bool", "null")},
    None: _Loader.refuse,
}
_Loader.yaml_multi_constructors = {}


class _Dumper(yaml.SafeDumper):
    """The safe dumper of PyYAML, without aliases, quoting what `_Loader` would not read as text."""

    yaml_implicit_resolvers = _QUOTED

    def ignore_aliases(self, data: Any) -> bool:
        return True
