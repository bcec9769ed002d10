"""Prompts: on the command line and in files, for encoders that learn and for frozen ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .case import Case, Expected, Outcome
from .material import PROMPT, put
from .verdict import answer, finite

BYTES = 64
"""Bytes of a prompt that the byte encoder of the small spec takes."""
TEXTS = {
    "nothing": "",
    "a space": " ",
    "spaces": " " * 1000,
    "lines": "\n\n\n",
    "tabs": "\t\t",
    "a word": "go",
    "an emoji": "\U0001f916",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a flag": "\U0001f1e9\U0001f1ea",
    "right to left": "\u202epick up",
    "hebrew": "\u05d4\u05e8\u05dd",
    "arabic": "\u0627\u0644\u0643\u0648\u0628",
    "chinese": "\u62ff\u8d77\u676f\u5b50",
    "combining": "e" + "\u0301" * 20,
    "no width": "pick\u200bup",
    "a mark of order": "\ufeffpick up",
    "not a character": "\ufffe\uffff",
    "private": "\ue000\uf8ff",
    "replacement": "\ufffd",
    "the last one": "\U0010ffff",
    "controls": "\x01\x02\x1b[31mred\x07",
    "delete": "\x7f",
    "c1": "\x85\x9b31m",
    "NUL": "pick\x00up",
    "half a pair": "pick \ud83e up",
    "the other half": "\udd16",
    "halves turned round": "\udd16\ud83e",
    "a byte": "pick \udcff up",
    "braces": "{instruction}",
    "format": "{0.__class__.__mro__}{x!r:>99999999}",
    "percent": "%s%n%(x)s",
    "special tokens": "<pad></s><unk>",
    "markup": "[bold red]pick[/bold red]",
    "html": "<script>alert(1)</script>",
    "shell": "$(touch ../outside/ran); `touch ../outside/ran`",
    "a path": "../../outside/file",
    "an option": "--device",
    "quotes": "\"'`\\",
    "just enough": "x" * 60,
    "too long": "x" * 100,
    "a kilobyte": "x" * 1000,
    "100 KB": "pick " * 20_000,
    "1 MB": "x" * 1_000_000,
    "1 MB of emoji": "\U0001f916" * 250_000,
    "1 MB of spaces, and a word": " " * 1_000_000 + "go",
    "1 MB of lines": "a\n" * 500_000,
}
UNWRITABLE = ("half a pair", "the other half", "halves turned round", "a byte")
"""No text: UTF-8 has no bytes for half characters."""


def cases(material: Path) -> Iterator[Case]:
    """Every text in every way a prompt is given."""
    for name, text in TEXTS.items():
        long = len(text.strip().encode("utf-8", "replace")) > BYTES
        refused = name in UNWRITABLE or long
        expected: Expected = "refused" if refused else "either"
        yield act(material, f"act: {name}", text, expected)
        around = f" \t{PROMPT}\n" if name == "nothing" else f"{PROMPT} {text}"
        short = len(around.encode("utf-8", "replace")) <= BYTES and name not in UNWRITABLE
        yield act(material, f"act after others: {name}", around, "either" if short else "refused")
        yield stored(material, f"stored: {name}", text)
        yield frozen(material, f"frozen: {name}", text, name)
        yield of_file(material, f"file: {name}", text.encode("utf-8", "surrogatepass"), name)
        yield imagine(material, f"imagine: {name}", text, expected)
    yield from _files(material)
    yield from _valid(material)


def _files(material: Path) -> Iterator[Case]:
    """Files of prompts that are no text files."""
    plain = f"{PROMPT}\nopen it\n"
    found: dict[str, bytes] = {
        "utf-16": plain.encode("utf-16"),
        "utf-32": plain.encode("utf-32"),
        "latin-1": "k\xe4se\n".encode("latin-1"),
        "zeros": bytes(1000),
        "overlong": b"a\xc0\xaf\n",
        "cut within a character": "pick \U0001f916".encode()[:-1],
        "an image": (material / "image.png").read_bytes(),
        "safetensors": (material / "embeddings" / "text.safetensors").read_bytes(),
        "only lines": b"\n\r\n\r\n",
        "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "one line of 2 MB": b"x" * 2_000_000,
        "a mark of order and nothing": b"\xef\xbb\xbf",
    }
    for name, data in found.items():
        yield of_file(material, f"no text file: {name}", data, "", "refused")


def _valid(material: Path) -> Iterator[Case]:
    """Prompts with the same tokens, and files with the same lines."""
    same = {
        "as it is": PROMPT,
        "spaces around": f"   {PROMPT}  ",
        "lines around": f"\n{PROMPT}\n",
        "a tab before": f"\t{PROMPT}",
        "a space that does not break, around": f"\xa0{PROMPT}\u2003",
    }
    for name, text in same.items():
        yield act(material, f"valid: {name}", text, "accepted")
        yield stored(material, f"valid, stored: {name}", text, "accepted")
        yield frozen(material, f"valid, frozen: {name}", text, "", "accepted")
        yield imagine(material, f"valid, imagine: {name}", text, "accepted")
    files = {
        "crlf": f"{PROMPT}\r\nopen it\r\n",
        "no last line": f"{PROMPT}\nopen it",
        "twice": f"{PROMPT}\n{PROMPT}\nopen it\n",
        "blank lines": f"\n\n{PROMPT}\n\n\nopen it\n\n",
        "spaces": f"  {PROMPT}  \n\topen it\n",
        "turned round": f"open it\n{PROMPT}\n",
        "many times": f"{PROMPT}\nopen it\n" * 20_000,
    }
    for name, text in files.items():
        yield of_file(material, f"valid file: {name}", text.encode(), "", "accepted")


def valid(material: Path, key: str) -> Case:
    """The plain prompt, in each way."""
    if key == "file":
        return of_file(material, "valid", f"{PROMPT}\nopen it\n".encode(), "", "accepted")
    return {"act": act, "stored": stored, "imagine": imagine}[key](material, "valid", PROMPT)


def act(material: Path, name: str, text: str, expected: Expected = "either") -> Case:
    """A prompt for the byte encoder."""
    args = ("act", "spec.toml", "--image", "image.png", "--json", "--prompt", text)
    files = ["image.png", "spec.toml"]
    return Case(name, lambda here: put(material, here, files), args, expected, "act")


def imagine(material: Path, name: str, text: str, expected: Expected = "either") -> Case:
    """A prompt to imagine after."""
    args = ("imagine", "spec.toml", "--image", "image.png", "--out", "out.png")
    args += ("--json", "--prompt", text)
    files = ["image.png", "spec.toml"]
    out = ("out.png",)
    return Case(name, lambda here: put(material, here, files), args, expected, "imagine", out=out)


def stored(material: Path, name: str, text: str, expected: Expected = "refused") -> Case:
    """A prompt whose embedding is looked for in a file that has two others."""
    files = ["image.png", "frozen.toml", "embeddings"]
    args = ("act", "frozen.toml", "--image", "image.png", "--json", "--prompt", text)
    args += ("--set", "text_encoder.embeddings_file=embeddings/text.safetensors")
    return Case(name, lambda here: put(material, here, files), args, expected, "stored")


def frozen(material: Path, name: str, text: str, kind: str, expected: Expected = "either") -> Case:
    """A prompt for a frozen encoder with a tokenizer of its own."""
    files = ["image.png", "frozen.toml", "t5"]
    args = ("act", "frozen.toml", "--image", "image.png", "--json", "--prompt", text)
    args += ("--set", "text_encoder.weights=t5")
    refused = kind in UNWRITABLE or (len(text.strip()) > 1000 and name[-5:] != "emoji")
    wanted: Expected = "refused" if refused else expected
    return Case(name, lambda here: put(material, here, files), args, wanted, "stored")


def of_file(
    material: Path, name: str, data: bytes, kind: str, expected: Expected = "either"
) -> Case:
    """A file of prompts, whose embeddings are to be stored."""

    def make(here: Path) -> None:
        put(material, here, ["frozen.toml", "t5"])
        (here / "prompts.txt").write_bytes(data)

    args = ("precompute", "text", "frozen.toml", "--prompts", "prompts.txt", "--json")
    args += ("--out", "out/text.safetensors", "--set", "text_encoder.weights=t5")
    wanted: Expected = "refused" if kind in UNWRITABLE else expected
    return Case(name, make, args, wanted, "file", _whole_or_nothing)


def _whole_or_nothing(here: Path, outcome: Outcome) -> str | None:
    """What is wrong with the file that was written."""
    from safetensors import safe_open

    if not finite(answer(outcome)):
        return "an answer that is not finite"
    with safe_open(here / "out" / "text.safetensors", framework="pt") as reader:
        names = list(reader.keys())
        good = all(bool(reader.get_tensor(name).isfinite().all()) for name in names)
    return None if names and good else "embeddings that are missing or not finite"
