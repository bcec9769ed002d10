"""Folders of text encoders: tokenizer files and config.json by every value; and right ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .changes import Change, damages, written
from .material import ACT, put
from .mutate import documents, text

TOKENIZER, SETTINGS = "t5/tokenizer/tokenizer.json", "t5/tokenizer/tokenizer_config.json"
CONFIG, WEIGHTS = "t5/text_encoder/config.json", "t5/text_encoder/model.safetensors"
KINDS = ("null", "text", "empty text", "list", "table", "true", "zero", "negative", "fraction")
KINDS += ("huge", "digits", "nan", "inf", "deep", "NUL", "surrogate", "without", "twice", "escape")
KINDS += ("absolute", "format")
FATAL = ("deep", "nan", "inf")
SIZES = ("d_model", "d_kv", "d_ff", "num_heads", "num_layers", "vocab_size")


def cases(material: Path) -> Iterator[Case]:
    """Every value of the three files, the files themselves, and folders that are right."""
    made = json.loads((material / TOKENIZER).read_text())
    short = {**made, "model": {**made["model"], "vocab": made["model"]["vocab"]}}
    for file, document in (
        (TOKENIZER, short),
        (SETTINGS, json.loads((material / SETTINGS).read_text())),
        (CONFIG, json.loads((material / CONFIG).read_text())),
    ):
        for name, path, kind, content in documents(document, KINDS):
            if path[:2] == ("model", "vocab") and len(path) > 2 and path[2] not in (0, 5):
                continue
            expected: Expected = "refused" if kind in FATAL else "either"
            if file == CONFIG and path[-1] in SIZES and kind not in ("without", "twice"):
                expected = "refused"
            label = f"{Path(file).name} {name}"
            yield case(material, label, written(file, content), expected)
    for file in (TOKENIZER, SETTINGS, CONFIG, WEIGHTS):
        for name, change in _damaged(file).items():
            loose = file == SETTINGS and name in ("missing", "a table of nothing")
            label = f"{Path(file).name} {name}"
            yield case(material, label, change, "either" if loose else "refused")
    for name, change in _remote().items():
        yield case(material, name, change, "either")
    for name, change in _right(made).items():
        yield case(material, f"valid: {name}", change, "accepted")


def _damaged(file: str) -> dict[str, Change]:
    """name -> a file that is missing, damaged, or no file."""
    return damages(file) | {
        "null": written(file, "null"),
        "a table of nothing": written(file, "{}"),
        "deep": written(file, '{"a":' * 100_000),
        "deep and closed": written(file, '{"a": ' + "[" * 5000 + "]" * 5000 + "}"),
        "in UTF-16": written(file, '{"a": 1}'.encode("utf-16")),
        "a git-lfs pointer": written(
            file, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
        ),
        "a web page": written(file, b"<!DOCTYPE html><html></html>"),
    }


CODE = "open('../outside/ran', 'w').write('x')\nclass Tokenizer: pass\nclass Model: pass\n"


def _remote() -> dict[str, Change]:
    """name -> folders that want code of their own to be run, or other files to be read."""

    def both(here: Path, **values: Any) -> None:
        for file in (SETTINGS, CONFIG):
            found = json.loads((here / file).read_text())
            (here / file).write_text(text({**found, **values}))
            (here / file).with_name("mine.py").write_text(CODE)

    mapped = {"AutoTokenizer": ["mine.Tokenizer", None], "AutoModel": "mine.Model"}
    mapped |= {"AutoConfig": "mine.Model"}
    outside = {"AutoTokenizer": ["owner/name--mine.Tokenizer", None]}
    return {
        "code: auto_map": lambda here: both(here, auto_map=mapped),
        "code: auto_map of another": lambda here: both(here, auto_map=outside),
        "code: auto_map of texts": lambda here: both(here, auto_map="mine.Tokenizer"),
        "code: trust_remote_code": lambda here: both(here, auto_map=mapped, trust_remote_code=True),
        "code: class": lambda here: both(here, tokenizer_class="mine.Tokenizer"),
        "code: class of os": lambda here: both(here, tokenizer_class="os.system"),
        "code: kernels": lambda here: both(
            here, attn_implementation="owner/name", use_kernels=True
        ),
        "code: processor": lambda here: both(here, processor_class="mine.Tokenizer"),
        "code: template": lambda here: both(
            here, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"
        ),
        "code: init": lambda here: written("t5/tokenizer/__init__.py", CODE)(here),
        "path: vocab_file": lambda here: both(here, vocab_file="/etc/passwd"),
        "path: tokenizer_file": lambda here: both(here, tokenizer_file="../../../outside/file"),
        "path: name_or_path": lambda here: both(here, name_or_path="/etc", _name_or_path="/etc"),
        "path: gguf_file": lambda here: both(here, gguf_file="/dev/zero"),
        "path: adapter": lambda here: written(
            "t5/text_encoder/adapter_config.json", '{"base_model_name_or_path": "/etc"}'
        )(here),
        "quantized": lambda here: both(here, quantization_config={"quant_method": "gptq"}),
        "a pickle next to it": lambda here: (
            here / "t5/text_encoder/pytorch_model.bin"
        ).write_bytes(b"\x80\x02cos\nsystem\nX\x13\x00\x00\x00touch ../outside/ran\x85R."),
        "only a pickle": lambda here: [
            (here / WEIGHTS).unlink(),
            (here / "t5/text_encoder/pytorch_model.bin").write_bytes(
                b"\x80\x02cos\nsystem\nX\x13\x00\x00\x00touch ../outside/ran\x85R."
            ),
        ],
    }


def _right(made: Any) -> dict[str, Change]:
    """name -> a folder that says the same."""

    def dumped(document: str, **options: Any) -> Change:
        def change(here: Path) -> None:
            found = json.loads((here / document).read_text())
            (here / document).write_text(json.dumps(found, **options))

        return change

    def first(file: str, key: str) -> Change:
        def change(here: Path) -> None:
            found = json.loads((here / file).read_text())
            (here / file).write_text(json.dumps({key: found[key], **found}))

        return change

    def linked(here: Path) -> None:
        for place, file in enumerate([p for p in (here / "t5").rglob("*") if p.is_file()]):
            file.rename(here / f"blob-{place}")
            file.symlink_to(here / f"blob-{place}")

    found: dict[str, Change] = {"as it is": lambda here: None, "links, as in a cache": linked}
    for file in (TOKENIZER, SETTINGS, CONFIG):
        name = Path(file).name
        found[f"{name} on one line"] = dumped(file)
        found[f"{name} indented"] = dumped(file, indent=7)
        found[f"{name} in unicode"] = dumped(file, ensure_ascii=False)
    for key in made:
        found[f"tokenizer.json {key} first"] = first(TOKENIZER, key)
    for key in ("d_model", "vocab_size", "model_type", "num_heads", "is_encoder_decoder"):
        found[f"config.json {key} first"] = first(CONFIG, key)
    found["notes"] = written("t5/tokenizer/notes.txt", b"mine")
    found["a card"] = written("t5/README.md", b"# mine")
    found["hidden files"] = written("t5/text_encoder/.DS_Store", bytes(50))
    found["all in one folder"] = lambda here: [
        [shutil.move(f, here / "t5" / f.name) for f in (here / "t5" / d).iterdir()]
        and (here / "t5" / d).rmdir()
        for d in ("tokenizer", "text_encoder")
    ]
    return found


def valid(material: Path, key: str = "") -> Case:
    """The folder that all are made from."""
    return case(material, "valid", lambda here: None, "accepted")


def case(material: Path, name: str, change: Change, expected: Expected = "refused") -> Case:
    """Act with the changed text encoder."""

    def make(here: Path) -> None:
        put(material, here, ["image.png", "frozen.toml", "t5"])
        change(here)

    return Case(
        name, make, ("act", "frozen.toml", *ACT, "--set", "text_encoder.weights=t5"), expected
    )
