"""Make a folder that LeRobot's programs take as `--policy.path` of a saved policy of wamkit.

python -m lerobot_policy_wamkit POLICY OUT [--camera VIEW=FEATURE ...] [--instruction TEXT]
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from wamkit.config.runs import find
from wamkit.errors import WamkitError
from wamkit.files.durable import replacing_folder

from .configuration_wamkit import WamkitConfig
from .processor_wamkit import make_wamkit_pre_post_processors

POLICY = "policy"


def convert(policy: str | Path, out: str | Path, config: WamkitConfig) -> Path:
    """Write `config.json`, the processors and the policy itself to `out`, a new folder.

    Files of the policy are linked where the file system can, so that weights take no room twice.
    Raises WamkitError if `policy` is no saved policy, if features do not fit, or if `out` exists.
    """
    home, goal = find(policy).policy, Path(out).absolute()
    if goal.exists():
        raise WamkitError(f"{goal} exists", "choose another folder")
    config.source = str(home)
    config.name_features()
    config.validate_features()
    config.source = None
    with replacing_folder(goal) as part:
        shutil.copytree(home, part / POLICY, copy_function=_link)
        config._save_pretrained(part)
        for pipeline in make_wamkit_pre_post_processors(config):
            pipeline.save_pretrained(part)
    return goal


def _link(source: str, goal: str) -> None:
    """A second name for a file, or a copy where there are no such names."""
    try:
        os.link(os.path.realpath(source), goal)
    except OSError:
        shutil.copy2(source, goal)


def main(args: Sequence[str] | None = None) -> int:
    """Convert, and print what to type next."""
    parser = argparse.ArgumentParser(prog="python -m lerobot_policy_wamkit", description=__doc__)
    parser.add_argument("policy", help="a saved policy or a run of wamkit")
    parser.add_argument("out", help="a new folder")
    parser.add_argument("--camera", action="append", default=[], metavar="VIEW=FEATURE")
    parser.add_argument("--instruction", help="for environments that name no task")
    parser.add_argument("--n-action-steps", type=int, help="actions of a chunk that are executed")
    asked = parser.parse_args(args)
    pairs = [pair.partition("=") for pair in asked.camera]
    try:
        if wrong := [name for name, equals, key in pairs if not (name and equals and key)]:
            raise WamkitError(f"--camera {wrong[0]} names no feature", "--camera front=FEATURE")
        config = WamkitConfig(
            cameras={name: key for name, _, key in pairs},
            instruction=asked.instruction,
            n_action_steps=asked.n_action_steps,
            device="cpu",
        )
        made = convert(asked.policy, asked.out, config)
    except WamkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{made}\n\n  lerobot-eval --policy.path={made} --env.type=ENV")
    return 0


if __name__ == "__main__":
    sys.exit(main())
