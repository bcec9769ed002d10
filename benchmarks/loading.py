"""Load a sharded checkpoint of random weights, and say what memory that took at most.

    python benchmarks/loading.py [GB]

Writes a toy backbone of about so many gigabytes (2) in bfloat16 as a diffusers-style folder of
shards, loads it in a fresh process, reads every weight once, and compares the most memory of that
process with what it had before. Needs twice the size in disk and memory, or says so and ends.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHARD = 2**29  # bytes

LOADING = """
import json, resource, sys, time
import torch
import wamkit
from wamkit.weights import cast
config = json.loads(sys.argv[1])
wamkit.load_part("backbone", {"name": "toy", "latent_channels": 16})
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
checked = sum(float(p.float().sum()) for p in part.parameters())
took = time.perf_counter() - start
print(json.dumps({"bytes": total, "peak": peak() - before, "mapped": mapped, "seconds": took}))
"""


def shards(folder: Path, heads: int, depth: int) -> dict[str, object]:
    """Write the checkpoint shard by shard, and return the table of the part that reads it."""
    import torch

    from wamkit.spec import parse_part
    from wamkit.weights import write

    table = {"name": "toy", "heads": heads, "head_size": 64, "depth": depth, "latent_channels": 16}
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


def main() -> None:
    goal = float(sys.argv[1]) * 1e9 if len(sys.argv) > 1 else 2e9
    free = shutil.disk_usage(tempfile.gettempdir()).free
    memory = 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
    if min(free, memory) < 2 * goal:
        print(f"{goal / 1e9:g} GB needs twice that, and {min(free, memory) / 1e9:.1f} GB are free")
        return
    heads = 24  # a width of 1536
    block = (6 + 8 + 8) * (heads * 64) ** 2 * 2  # bytes of one, about
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = shards(folder, heads, max(1, round(goal / block)))
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        done = subprocess.run(
            [sys.executable, "-c", LOADING, json.dumps(table)], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(done.stderr)
        found = json.loads(done.stdout.splitlines()[-1])
    print("| checkpoint | shards | peak memory over size | mapped in | every weight read after |")
    print("|---|---|---|---|---|")
    print(
        f"| {size / 1e9:.2f} GB | {len(files)} | {found['peak'] / size:.2f}x | "
        f"{found['mapped']:.2f} s | {found['seconds']:.1f} s |"
    )


if __name__ == "__main__":
    main()
