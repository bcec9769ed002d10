"""Pickled checkpoints: opcodes that run code, bombs, damage, and odd ones that are data."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .case import Case, Expected
from .material import ACT, put
from .mutate import cut, flipped

RAN = "touch ../outside/ran"
CALLS = {
    "os system": ("os", "system", RAN),
    "posix system": ("posix", "system", RAN),
    "builtins eval": ("builtins", "eval", f"__import__('os').system('{RAN}')"),
    "builtins exec": ("builtins", "exec", "open('../outside/ran', 'w')"),
    "builtins open": ("builtins", "open", "../outside/ran"),
    "py2 builtins": ("__builtin__", "eval", f"__import__('os').system('{RAN}')"),
    "subprocess call": ("subprocess", "getoutput", RAN),
    "pty spawn": ("pty", "spawn", "/bin/sh"),
    "runpy": ("runpy", "run_path", "run.py"),
    "timeit": ("timeit", "timeit", "open('../outside/ran', 'w')"),
    "bdb": ("bdb", "Bdb", "x"),
    "code": ("code", "interact", "x"),
    "cProfile": ("cProfile", "run", "open('../outside/ran', 'w')"),
    "importlib": ("importlib", "import_module", "antigravity"),
    "pydoc": ("pydoc", "pipepager", "x"),
    "torch load": ("torch", "load", "other.pt"),
    "torch jit": ("torch.jit", "load", "other.pt"),
    "torch hub": ("torch.hub", "load", "x"),
    "torch eval": ("torch._utils", "_import_dotted_name", "os.system"),
    "torch storage": ("torch.storage", "_load_from_bytes", "x"),
    "numpy load": ("numpy", "load", "other.npy"),
    "numpy runstring": ("numpy.testing._private.utils", "runstring", "x"),
    "pandas": ("pandas", "read_pickle", "other.pkl"),
    "shutil": ("shutil", "rmtree", "../outside"),
    "os remove": ("os", "remove", "../outside/file"),
    "pathlib": ("pathlib", "Path", "x"),
    "getattr": ("builtins", "getattr", "x"),
    "operator": ("operator", "attrgetter", "system"),
    "functools": ("functools", "partial", "x"),
    "collections": ("collections", "Counter", "x"),
    "types": ("types", "FunctionType", "x"),
    "socket": ("socket", "create_connection", "127.0.0.1"),
    "wamkit": ("wamkit.checkpoints.files", "write", "../outside/ran"),
    "signal": ("signal", "alarm", "1"),
    "sys exit": ("sys", "exit", "0"),
    "os _exit": ("os", "_exit", "0"),
    "ctypes": ("ctypes", "string_at", "0"),
    "nothing": ("no_such_module", "no_such_name", "x"),
    "a dotted name": ("os", "path.os.system", RAN),
}


def cases(material: Path) -> Iterator[Case]:
    """Every call by every opcode and wrapping; damage; then checkpoints that are data."""
    for name, call in CALLS.items():
        for way, data in _programs(*call).items():
            for wrap, whole in {"plain": data, "zip": zipped(data), "tar": b"\0" + data}.items():
                yield case(material, f"{name} by {way}, {wrap}", whole)
    good = (material / "backbone.pt").read_bytes()
    for name, data in cut(good, 12):
        yield case(material, f"zip {name}", data)
    for name, data in flipped(good, [*range(0, 200, 9), *range(200, len(good), len(good) // 12)]):
        yield case(material, f"zip {name}", data, "either")
    for name, data in _damaged(material).items():
        yield case(material, name, data)
        yield case(material, f"inspect: {name}", data, "refused", "inspect")
    yield from _valid(material)


def _programs(module: str, name: str, argument: str) -> dict[str, bytes]:
    """Pickles that call `module.name(argument)`, each with other opcodes."""
    glob = f"c{module}\n{name}\n".encode()
    text = b"X" + struct.pack("<I", len(argument.encode())) + argument.encode()
    short = [b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)]
    stack = b"\x80\x04" + b"".join(short) + b"\x93"
    return {
        "REDUCE": b"\x80\x02" + glob + text + b"\x85R.",
        "STACK_GLOBAL": stack + text + b"\x85R.",
        "INST": b"(" + text + f"i{module}\n{name}\n.".encode(),
        "OBJ": b"(" + glob + text + b"o.",
        "NEWOBJ": b"\x80\x02" + glob + text + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + glob + text + b"\x85}\x92.",
        "BUILD": b"\x80\x02" + glob + text + b"b.",
        "memo": b"\x80\x02" + glob + b"q\x00" + text + b"q\x010h\x00h\x01\x85R.",
        "key of a table": b"\x80\x02}" + glob + text + b"\x85RK\x01s.",
        "value of a table": b"\x80\x02}X\x01\x00\x00\x00a" + glob + text + b"\x85Rs.",
        "list": b"\x80\x02]" + glob + text + b"\x85Ra.",
        "persistent": b"\x80\x02(X\x07\x00\x00\x00storage" + glob + text + b"\x85RtQ.",
        "alone": b"\x80\x02" + glob + b".",
        "after an end": b"\x80\x02}." + b"\x80\x02" + glob + text + b"\x85R.",
    }


def zipped(data: bytes, name: str = "archive/data.pkl", **more: bytes) -> bytes:
    """A pickle in the form of torch's checkpoints."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for entry, content in more.items():
            archive.writestr(entry, content)
    return stream.getvalue()


def _damaged(material: Path) -> dict[str, bytes]:
    """name -> files that are no checkpoint, or one that no policy can have."""
    import torch

    def saved(value: Any, **options: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    good = torch.load(material / "backbone.pt", weights_only=True)
    first = next(iter(good))
    itself: dict[str, Any] = {}
    itself["a"] = itself
    deep: Any = {"a": torch.zeros(1)}
    for _ in range(400):
        deep = {"a": deep}
    squeezed = io.BytesIO()
    with zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**9))
    with_eval = pickle.dumps({"a": 1})[:-1] + b"0" + _programs("builtins", "eval", "1+1")["REDUCE"]
    slipped = zipped(pickle.dumps({}), **{"archive/../../outside/ran": b"x", "/outside": b"x"})
    return {
        "empty": b"",
        "zeros": bytes(5000),
        "text": b"a checkpoint\n",
        "a zip of nothing": b"PK\x05\x06" + bytes(18),
        "a zip without a pickle": zipped(b"", "archive/other"),
        "a zip bomb": squeezed.getvalue(),
        "a zip with paths that lead out": slipped,
        "a pickle of a number": pickle.dumps(1, 2),
        "a pickle of a text": pickle.dumps("abc", 2),
        "a pickle of a list": pickle.dumps([1, 2], 2),
        "a pickle of an empty table": pickle.dumps({}, 2),
        "a pickle with an end too early": b"\x80\x02}",
        "a pickle of protocol 9": b"\x80\x09}.",
        "a pickle after another": with_eval,
        "many marks": b"\x80\x02" + b"(" * 10**6 + b".",
        "many lists": b"\x80\x02" + b"]" * 10**6 + b".",
        "tuples of tuples": b"\x80\x02)" + b"\x85" * 10**6 + b".",
        "doubling": b"\x80\x02K\x01\x85" + b"q\x002" * 0 + b"2\x86" * 60 + b".",
        "a text of 4 GiB": b"\x80\x02X\xff\xff\xff\xffabc.",
        "a long of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
        "bytes of 2 ** 60": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
        "memo 2 ** 31": b"\x80\x02}r\xff\xff\xff\x7f.",
        "memo that is not there": b"\x80\x02h\x05.",
        "a number of 200,000 digits": b"L" + b"9" * 200_000 + b"L\n.",
        "a table of itself": saved(itself),
        "a deep table": saved(deep),
        "no tensors": saved({"a": 1, "b": "c"}),
        "a list of tensors": saved([torch.zeros(2)]),
        "one tensor": saved(torch.zeros(2)),
        "NaN": saved({**good, first: torch.full_like(good[first], float("nan"))}),
        "integers": saved({name: value.int() for name, value in good.items()}),
        "complex": saved({name: value.to(torch.complex64) for name, value in good.items()}),
        "sparse": saved({**good, first: good[first].to_sparse()}),
        "another shape": saved({**good, first: good[first].flatten()[None, None]}),
        "a tensor less": saved({name: good[name] for name in good if name != first}),
        "a tensor more": saved({**good, "more": torch.zeros(3)}),
        "on meta": saved({name: value.to("meta") for name, value in good.items()}),
        "expanded to 4 TiB": saved({**good, first: torch.zeros(1).expand(2**40)}),
        "names of numbers": saved({1: torch.zeros(2), 2: torch.zeros(2)}),
        "names of tuples": saved({(1, 2): torch.zeros(2)}),
        "names with controls": saved({"\x1b[31m\x07": torch.zeros(2)}),
        "names of half characters": saved({"a\x00": torch.zeros(2)}),
        "a whole module": saved(torch.nn.Linear(2, 2)),
        "a safetensors file": (material / "policy" / "backbone.safetensors").read_bytes(),
    }


def _valid(material: Path) -> Iterator[Case]:
    """The same weights in other checkpoints that are data alone."""
    import torch

    good = torch.load(material / "backbone.pt", weights_only=True)
    whole = (material / "backbone.pt").read_bytes()

    def saved(value: Any, **options: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    same = {
        "as it is": whole,
        "before torch 1.6": saved(good, _use_new_zipfile_serialization=False),
        "ordered": saved(OrderedDict(good)),
        "turned round": saved(dict(reversed(good.items()))),
        "parameters": saved({n: torch.nn.Parameter(v) for n, v in good.items()}),
        "with a step": saved({"step": 3, **good}),
        "views": saved({n: torch.stack([v, v])[1] for n, v in good.items()}),
        "transposed": saved({n: v.T.contiguous().T if v.ndim == 2 else v for n, v in good.items()}),
    }
    for name, data in same.items():
        for ending in ("pt", "pth", "bin", "ckpt"):
            yield case(material, f"valid, {ending}: {name}", data, "accepted", "act", ending)


def valid(material: Path, way: str) -> Case:
    """The weights that all are made from, in safetensors."""
    data = (material / "policy" / "backbone.safetensors").read_bytes()
    return case(material, "valid", data, "accepted", "act", "safetensors")


def case(
    material: Path,
    name: str,
    data: bytes,
    expected: Expected = "refused",
    way: str = "act",
    ending: str = "pt",
) -> Case:
    """Read a checkpoint with these bytes."""
    file = f"w.{ending}"

    def make(here: Path) -> None:
        put(material, here, ["spec.toml", "image.png"])
        (here / file).write_bytes(data)

    args = {
        "act": ("act", "spec.toml", *ACT, "--set", f"backbone.weights={file}"),
        "inspect": ("weights", "inspect", file, "--json"),
    }
    return Case(name, make, args[way], expected, way)
