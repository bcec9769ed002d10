"""Names and prose use the field's terms: no retired word is an identifier or stands in a text.

Every word of a table is followed by the term that replaces it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("wamkit", "plugins", "integrations", "examples", "tests", "benchmarks", "docs")
FILES = sorted(
    file
    for folder in FOLDERS
    for pattern in ("*.py", "*.md", "*.toml")
    for file in (ROOT / folder).rglob(pattern)
    if file != Path(__file__)
)
PAGES = sorted(ROOT.glob("*.md"))

# Parts of identifiers between underscores, in names of functions, classes, parameters, variables,
# attributes, modules and keys of specs.
NAME_PARTS = {
    "told": "report, values, ... (a noun for the content)",
    "untold": "missing",
    "heard": "attended, exposes_tokens",
    "hears": "attends_to",
    "hearing": "query group",
    "hearings": "query groups",
    "rung": "timestep",
    "rungs": "timesteps",
    "ladder": "sigma table",
    "lap": "layer plan",
    "laps": "layer plans",
    "levelled": "match_context_sigma",
    "absorb": "post_attention",
    "leaning": "with_cfg",
    "picture": "image, frame",
    "pictures": "images, frames",
    "beside": "next_to, or the name of the other thing",
    "lasting": "prompt_cache",
    "laid": "arranged",
    "unslot": "decode_slot",
    "hertz": "control_hz",
    "cured": "fixed",
    "mended": "fixed",
    "squeezes": "conv_to_linear",
    "strangers": "third_party",
}
# Whole identifiers.
NAMES = {
    "words": "text_tokens, prompt, args, message",
    "said": "message, text",
    "shown": "images, cond_latents, printed",
    "sentence": "prompt",
    "sentences": "prompts",
    "in_words": "message, describe",
    "cure": "hint",
    "company": "batch",
    "opened": "open_...",
    "guide_channels": "cond_channels",
    "extra_width": "cond_embeds_width",
    "shares_blocks": "uses_backbone_blocks",
    "by_reference": "external_weights",
    "state_word": "state_encoder",
    "Placed": "FrameTimes, DeviceModule",
    "Repeats": "RepeatedPassCache",
    "redrawn": "randomize_weights",
    "corrupted": "noised_sample",
    "composed": "spec_with",
}
# Texts: docstrings, comments, messages, help and pages.
PROSE = {
    r"\brungs?\b": "timestep",
    r"\b(is|are|was|were) told\b": "gets, is given, is reported",
    r"\btold (apart|from)\b": "distinguished, detected",
    r"\bnever heard\b": "exposes no tokens",
    r"\b(who|that|it|video|head) hears?\b": "attends to",
    r"\bhears who\w*": "the attention mask",
    r"\bwho hears\b": "the attention mask",
    r"\blevelled\b": "at the same sigma",
    r"\bpictures?\b": "image, frame",
    r"\bin (a few )?words\b": "with a message, as text",
    r"\bbeside\b": "next to, besides",
    r"\bleans? away\b": "classifier-free guidance",
    r"\bat one stroke\b": "atomically",
    r"\bwhole or not at all\b": "atomically",
    r"\bis not looked at\b": "is ignored",
    r"\b(what|who)ever (asks|reaches|writes|reads|measures)\b": "any client, the reader, ...",
    r"\bstrangers?\b": "third party, untrusted",
    r"\bcures? (it|that|for)\b": "fixes",
}
# Identifiers with another meaning: what torch, transformers or a published file calls so.
ALLOWED = {
    ("tests/test_escaping.py", "picture"),  # an element of HTML
    ("wamkit/cli/demo/stages.py", "opened"),
}
UNTOUCHED = (
    "wamkit/cli/estimate.py",
    "wamkit/train/plan.py",
)


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a module defines or binds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def keys(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every key and table of a TOML file."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[*([\w.]+)\]*\s*(=|$)", line):
            yield from ((number, part) for part in found[1].split("."))


def retired(name: str) -> str | None:
    """The term that replaces an identifier; None if it is in use."""
    if name in NAMES:
        return NAMES[name]
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)
    return next((NAME_PARTS[p.lower()] for p in parts if p.lower() in NAME_PARTS), None)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment and string of a module, paragraphs in one piece."""
    comment: list[str] = []
    begin = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            begin = begin if comment else token.start[0]
            comment.append(token.string.lstrip("# "))
            continue
        if comment and token.type not in (tokenize.NL, tokenize.NEWLINE):
            yield begin, " ".join(comment)
            comment = []
        if token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            yield token.start[0], " ".join(token.string.split())


def faults(file: Path) -> Iterator[str]:
    """Every retired word of a file, with its line and its replacement."""
    path, source = file.relative_to(ROOT).as_posix(), file.read_text()
    if path.startswith(UNTOUCHED):
        return
    found: list[tuple[int, str]] = []
    prose: list[tuple[int, str]] = []
    if file.suffix == ".py":
        found, prose = list(names(ast.parse(source))), list(texts(source))
    elif file.suffix == ".toml":
        found = list(keys(source))
    else:
        prose = list(enumerate(source.splitlines(), 1))
    for line, name in found:
        if (path, name) not in ALLOWED and (instead := retired(name)) is not None:
            yield f"{path}:{line}: the name {name}; say {instead}"
    for line, text in prose:
        for pattern, instead in PROSE.items():
            hit = re.search(pattern, text, re.IGNORECASE)
            if hit and (path, hit[0]) not in ALLOWED:
                yield f"{path}:{line}: {hit[0]!r} in {text[:60]!r}...; say {instead}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_and_texts_hold_no_retired_word(folder: str) -> None:
    mine = [file for file in FILES if file.relative_to(ROOT).parts[0] == folder]
    wrong = [fault for file in mine for fault in faults(file)]
    modules = [
        f"{file.relative_to(ROOT)}: the name of the file; say {instead}"
        for file in mine
        if (instead := retired(file.stem)) is not None
    ]
    assert not wrong and not modules, "\n".join([*wrong, *modules])


def test_pages_of_the_repository_hold_no_retired_word() -> None:
    wrong = [fault for file in PAGES if file.name != "CHANGELOG.md" for fault in faults(file)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def told(x): pass", 1),
        ("def report(words): pass", 1),
        ("class Heard: pass", 1),
        ("self.rung_of = 1", 1),
        ('"""What a robot is told."""', 1),
        ("x = 1  # a picture beside it", 2),
        ("def attended(tokens): pass  # images next to each other", 0),
    ],
)
def test_a_retired_word_is_found_in_names_and_texts(
    source: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(source)
    assert len(list(faults(tmp_path / "module.py"))) == count
