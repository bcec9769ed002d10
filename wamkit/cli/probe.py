"""`wamkit probe`: whether the future that a policy imagines depends on the action as it should."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.seeds import MOST, expect_seed
from ..errors import WamkitError
from ..files import strict_json
from ..files.durable import recover, replacing_folder
from ..files.paths import expand_home
from ._completion import complete_spec
from ._env_options import EnvSettings, Processes, RequiredEnv, progress
from ._eval_policy import PolicyOptions, load_runner
from ._options import Device, Json, Overrides
from ._output import emit, say, show_table, table, versioned
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..evaluate.probe import Probed, Prober
    from ..simulate.env_pool import EnvPool

EXAMPLE = "wamkit probe runs/press/policy --env metaworld:button-press-topdown-v3 --out probed"

RESPONSE = {
    "separation": "0 to 1: distance between futures of different actions, relative to real ones",
    "direction": "-1 to 1: cosine of imagined and real change",
    "geometry": "-1 to 1: correlation of imagined and real distances between futures",
    "p_value": "of the geometry, by permutation of the actions",
    "error": "RMS difference of imagined and real future",
    "still": "the error of no change at all",
}
RANKING = {
    "spearman": "-1 to 1: rank correlation of imagined and real scores of the actions",
    "pairwise": "0 to 1: share of pairs of actions in the right order",
    "regret": "real score lost by taking the action that is imagined as the best",
}
TABLES = {
    "images": ("imagined images", RESPONSE),
    "state": ("predicted next state, in units of its spread", RESPONSE),
    "goal": ("ranking by nearness to the last image of the demonstration", RANKING),
    "value": ("ranking by predicted value, against returns", RANKING),
}


def command(
    policy: Annotated[
        Path,
        typer.Argument(
            metavar="POLICY", help="A saved policy or a run.", autocompletion=complete_spec
        ),
    ],
    env: RequiredEnv,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to take states from.")] = 4,
    states: Annotated[int, typer.Option(min=1, help="States of each episode.")] = 4,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST, help="Seed of the first episode; the next count up.")
    ] = 1000,
    out: Annotated[
        Path | None, typer.Option(help="Folder for probe.json and a sheet of images a state.")
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            "--camera-map", metavar="VIEW=CAMERA", help="Map a view of the policy to a camera."
        ),
    ] = None,
    env_settings: EnvSettings = None,
    processes: Processes = 2,
    overrides: Overrides = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Imagine and simulate several actions from the same states, and compare their futures.

    The actions: those that the expert takes from the state, none, their mirror image, two random
    ones, and those of the policy. States are of the expert's episodes, or of random ones where
    there is no expert. Metrics are those of the package wamprobe.
    """
    from ..evaluate.probe import probe, summarize
    from ..evaluate.sheets import write_sheet
    from ..simulate.env_pool import EnvPool
    from ..simulate.environment import choose

    config = choose(env, env_settings or [])
    expect_seed(seed, "--seed", room=episodes)
    if out is not None:
        out = recover(expand_home(out))
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise WamkitError(f"{out} is there already", "choose another folder for --out")
    with ExitStack() as stack:
        workers = stack.enter_context(EnvPool(config, max(1, processes), apart=processes > 0))
        prober = _prober(policy, workers, view or [], overrides or [], device)
        workers.ask(0, "has_expert", seed)
        actor = "expert" if workers.answer(0) else "random"
        advance, _ = stack.enter_context(progress("episodes", episodes))
        probed = probe(prober, range(seed, seed + episodes), states, actor, advance)
    found = {
        "policy": str(policy),
        "environment": {"name": env, **config.model_dump(mode="json", exclude={"name"})},
        "states_of": actor,
        "seconds": prober.ahead / prober.robot.control_hz,
        **summarize(probed),
    }
    if out is not None:
        _write(out, found, probed, write_sheet)
    if json:
        emit(found)
        return
    _draw(found)
    if out is not None:
        say(f"wrote {out}", whole=True)


def _prober(
    policy: Path, workers: EnvPool, view: list[str], overrides: list[str], device: str
) -> Prober:
    """The policy in its environment, loaded when everything fits. Raises WamkitError otherwise."""
    from ..config.runs import is_folder
    from ..evaluate.image_quality import expect_metrics
    from ..evaluate.probe import Prober, expect_probing
    from ..policy.build import resolve

    if not is_folder(policy):
        raise WamkitError(f"no saved policy at {policy}", "name the folder of one, or of a run")
    expect_metrics()
    folder = resolve_source(policy)
    expect_probing(resolve(folder, overrides))
    options = PolicyOptions(str(folder), None, [], view, overrides, device)
    runner = load_runner(options, workers.robot())
    return Prober(runner.policy, runner.views, workers)


def _write(out: Path, found: Mapping[str, Any], probed: Sequence[Probed], write_sheet: Any) -> None:
    """Write probe.json and a sheet for each state."""
    with replacing_folder(out) as made:
        for one in probed:
            write_sheet(one, made / f"{one.seed}_{one.step:04d}.png")
        (made / "probe.json").write_text(strict_json.dumps(versioned(found), indent=2) + "\n")


def _draw(found: Mapping[str, Any]) -> None:
    for kind, (title, meaning) in TABLES.items():
        if kind not in found:
            continue
        made = table("metric", "mean", "95 % interval", "meaning", right=("mean", "95 % interval"))
        for name, text in meaning.items():
            one = found[kind][name]
            interval = one["interval_95"]
            both = "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
            made.add_row(name, f"{one['mean']:.3f}", both, text)
        say(title, style="bold")
        show_table(made)
    say(
        f"{found['states']} states of {found['states_of']} episodes, "
        f"{found['seconds']:.3g} s ahead; actions: {', '.join(found['actions'])}"
    )
