"""Load a sharded checkpoint of random weights, and say what memory and what time that took.

    python benchmarks/loading.py             the published size of Wan 2.2 TI2V 5B: 10 GB
    python benchmarks/loading.py tiny        the same on a megabyte, where memory tells nothing

Writes the published layout in bfloat16 as a diffusers-style folder of shards, loads it in a fresh
process from a disk that holds nothing in memory any more, touches every page of every weight, and
compares the most memory of that process with what it had before, and its time with that of reading
the files and nothing else. Needs the size in disk and twice the size in memory, or ends.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHARD = 2**30  # bytes
VARIANTS = {"published": "2.2-ti2v-5b", "tiny": "tiny"}

LOADING = """
import json, resource, sys, time
import torch
import wamkit
from wamkit.checkpoints.safetensors import cast
config = json.loads(sys.argv[1])
wamkit.load_part("backbone", {"name": "wan", "variant": "tiny"})  # imports are not what is measured
def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def now():
    fields = open("/proc/self/statm").read().split()
    return 4096 * int(fields[1])
before, start = now(), time.perf_counter()
part = wamkit.load_part("backbone", config)
mapped = time.perf_counter() - start
part = cast(part, torch.bfloat16)
total = sum(p.numel() * p.element_size() for p in part.parameters())
touched = sum(int(p.flatten().view(torch.uint8)[::4096].sum()) for p in part.parameters())
took = time.perf_counter() - start
print(json.dumps({"bytes": total, "peak": peak() - before, "mapped": mapped, "seconds": took}))
"""


def shards(folder: Path, variant: str) -> dict[str, object]:
    """Write the checkpoint shard by shard, and return the table of the part that reads it."""
    import torch

    from wamkit.checkpoints.safetensors import write
    from wamkit.config.spec import parse_part

    table = {"name": "wan", "variant": variant}
    with torch.device("meta"):
        empty = parse_part("backbone", table).build()  # type: ignore[attr-defined]
    index: dict[str, str] = {}
    held: dict[str, torch.Tensor] = {}
    number = 0

    def flush() -> None:
        nonlocal number, held
        number += 1
        name = f"diffusion_pytorch_model-{number:05d}.safetensors"
        write(held, folder / name)
        index.update(dict.fromkeys(held, name))
        held = {}

    for name, p in empty.state_dict().items():
        held[name] = torch.randn(p.shape, dtype=torch.bfloat16)
        if sum(2 * t.numel() for t in held.values()) > SHARD:
            flush()
    flush()
    listing = folder / "diffusion_pytorch_model.safetensors.index.json"
    listing.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return {**table, "weights": str(folder)}


def forget(files: list[Path]) -> None:
    """Have the system give up what it holds of the files in memory, as far as it lets itself."""
    for file in files:
        with file.open("rb") as reader:
            os.fsync(reader.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(reader.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(files: list[Path]) -> float:
    """Seconds that reading the files takes, into one buffer and in their order."""
    forget(files)
    buffer, start = bytearray(2**24), time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as reader:
            while reader.readinto(buffer):
                pass
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Load a sharded checkpoint of random weights.")
    parser.add_argument("size", nargs="?", default="published", choices=list(VARIANTS))
    variant = VARIANTS[parser.parse_args().size]
    size = 10.1e9 if variant != "tiny" else 1e7
    free = shutil.disk_usage(tempfile.gettempdir()).free
    memory = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    if free < 1.2 * size or memory < 2 * size:
        print(
            f"{size / 1e9:.1f} GB are to be written and read; {free / 1e9:.1f} GB of disk and "
            f"{memory / 1e9:.1f} GB of memory are free"
        )
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = shards(folder, variant)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        plain = read(files)
        forget(files)
        done = subprocess.run(
            [sys.executable, "-c", LOADING, json.dumps(table)], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
    titles = "checkpoint | shards | peak memory over size | mapped in | every page touched after"
    print(f"| {titles} | files read after |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {size / 1e9:.2f} GB | {len(files)} | {found['peak'] / size:.2f}x | "
        f"{found['mapped']:.2f} s | {found['seconds']:.1f} s | {plain:.1f} s |"
    )


if __name__ == "__main__":
    main()
