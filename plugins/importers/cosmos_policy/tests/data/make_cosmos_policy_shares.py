"""Record which kinds of samples an epoch of Cosmos Policy's own data sets has.

    python make_cosmos_policy_shares.py CHECKOUT OUT.json

CHECKOUT is github.com/NVlabs/cosmos-policy at commit 18a2acc, of which NumPy alone is needed. What
is theirs: `calculate_epoch_structure` and `determine_sample_type`, run over each index of an epoch,
with the shares that the experiments' configurations state; and the share of rollouts that teach
futures, `p_world_model`, read in the source of each data set, since it stands inside `__getitem__`.
What is not: the numbers of steps, which stand in for demonstrations and rollouts.
"""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

STEPS = ((1000, 400, 300), (200, 900, 700), (37, 11, 5), (500, 0, 80), (500, 80, 0))
"""Of demonstrations, of rollouts that succeeded, and of those that failed."""
SHARES = ("demonstration_sampling_prob", "success_rollout_sampling_prob")
POLICIES = {"libero": "libero_dataset", "aloha": "aloha_dataset", "robocasa": "robocasa_dataset"}


def load(file: Path) -> Any:
    """A module from a file, without its package."""
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def constants(file: Path, *names: str) -> list[tuple[float, ...]]:
    """The numbers that a call, a signature or an assignment gives to all `names`."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        values = {}
        if isinstance(node, ast.Call):
            values = {k.arg: k.value for k in node.keywords}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values = {node.targets[0].id: node.value}
        elif isinstance(node, ast.FunctionDef):
            given = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            values = {a.arg: d for a, d in zip(given, node.args.defaults, strict=True)}
        numbers = [values.get(name) for name in names]
        if all(isinstance(one, ast.Constant) for one in numbers):
            found.append(tuple(one.value for one in numbers))  # type: ignore[union-attr]
    return found


def main(checkout: Path, out: Path) -> None:
    """Write the record."""
    home = checkout / "cosmos_policy"
    common = load(home / "datasets" / "dataset_common.py")
    stated = constants(
        home / "config" / "experiment" / "cosmos_policy_experiment_configs.py", *SHARES
    )
    epochs = []
    for shares in sorted(set(stated)):
        for steps in STEPS:
            made = common.calculate_epoch_structure(*steps, *shares)
            borders = made["adjusted_demo_count"], made["adjusted_success_rollout_count"]
            kinds = Counter(
                common.determine_sample_type(index, *borders)
                for index in range(made["epoch_length"])
            )
            epochs.append({"shares": shares, "steps": steps, "kinds": kinds})
    world = {
        name: sorted({x for (x,) in constants(home / "datasets" / f"{file}.py", "p_world_model")})
        for name, file in POLICIES.items()
    }
    record = {"stated": stated, "epochs": epochs, "p_world_model": world}
    out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
