"""Compiled layers against layers as written, over columns of the matrix at toy size.

    python benchmarks/compiled.py

Every backbone under `mot` and `single_pass`, every head and every paradigm next to `toy`: the same
seeds in mode `eager` and, with generated code, in mode `compile`. Takes minutes, nearly all of them
the compiler's; the tests do the same for all of them without generating code, and for one with it.
"""

from __future__ import annotations

import argparse
import time

import torch

from wamkit.bench import machine
from wamkit.config.compositions import Cell, matrix
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation

COLUMN = {"backbone": "toy", "action_head": "mot", "paradigm": "single_pass"}


def chosen(cell: Cell) -> bool:
    """Whether a cell differs from the column's in one part at most."""
    return sum(getattr(cell, kind) != name for kind, name in COLUMN.items()) <= 1


def difference(cell: Cell) -> float:
    """The largest of two chunks, over the largest action."""
    policy, found = Policy.from_spec(cell.spec), {}
    for mode in ("eager", "compile"):
        policy.set_mode(mode)
        seen = [observation(cell.spec, seed=seed) for seed in (0, 1)]
        found[mode] = torch.cat([policy.act(x, seed=i).values for i, x in enumerate(seen)])
    return float((found["compile"] - found["eager"]).abs().max() / found["eager"].abs().max())


def main() -> None:
    argparse.ArgumentParser(description="Compiled layers against layers as written.").parse_args()
    about = machine(torch.device("cpu"))
    print(
        f"{about['name']}, torch {about['torch']}, wamkit {about['wamkit']}, {about['date']}\n\n"
        "| backbone | head | paradigm | difference | seconds |\n|---|---|---|---|---|"
    )
    for cell in matrix():
        if cell.runs and chosen(cell):
            begin = time.perf_counter()
            apart = difference(cell)
            took = time.perf_counter() - begin
            parts = f"{cell.backbone} | {cell.action_head} | {cell.paradigm}"
            print(f"| {parts} | {apart:.0e} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    main()
