"""How fast linear layers are in 8 bits on this CPU: `python benchmarks/linears.py`.

Two layers, there and back. Processor time, the shortest of 25 runs: what others on the machine
disturb least.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from wamkit.acceleration.int8_linear import fits
from wamkit.acceleration.quantize import Kind, round_in_place
from wamkit.bench.machine import machine

SIZES = ((512, 1024, 100), (1024, 4096, 128), (1024, 4096, 32), (1024, 4096, 8))
"""Inputs, outputs of the first layer, and tokens."""
WAYS: tuple[tuple[str, Kind, bool], ...] = (
    ("as it is", "none", False),
    ("int8", "int8", True),
    ("int8 by torchao", "int8", False),
    ("int8_weights", "int8_weights", False),
)


@torch.no_grad()
def main() -> None:
    """Print a line for each size and way: eager and compiled milliseconds, and the error."""
    own = fits(torch.device("cpu"))
    for key, value in machine(torch.device("cpu")).items():
        print(f"{key}: {value}")
    for inputs, hidden, tokens in SIZES:
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(inputs, hidden), nn.Linear(hidden, inputs))
        x = torch.randn(1, tokens, inputs)
        exact = plain(x)
        for name, kind, ours in WAYS:
            if ours and not own:
                continue
            layers = deepcopy(plain)
            round_in_place([layers], list(layers), kind, own=ours)
            error = float((layers(x) - exact).norm() / exact.norm())
            torch.compiler.reset()
            compiled = torch.compile(layers, fullgraph=True, dynamic=False)
            print(
                f"{inputs} to {hidden} and back, {tokens} tokens, {name}: "
                f"{_milliseconds(layers, x):.2f} ms, compiled {_milliseconds(compiled, x):.2f} ms, "
                f"relative error {error:.3f}",
                flush=True,
            )


def _milliseconds(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    found = []
    for _ in range(4 + 25):
        start = time.process_time()
        run(x)
        found.append(time.process_time() - start)
    return 1000 * min(found[4:])


if __name__ == "__main__":
    main()
