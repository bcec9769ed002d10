"""Tables and the plot of `paradigms.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from wamkit.errors import WamkitError

USES = ("video", "no_video")
"""Names of what is trained with its video loss, and without."""


def gathered(asked: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """For each paradigm and each use of video, what is known of all seeds."""
    from wamkit.simulate.metrics import wilson

    for paradigm in asked.paradigms:
        for video in USES:
            found = [
                json.loads(file.read_text())
                for file in sorted(asked.out.glob(f"{paradigm}-{video}-*.json"))
                if file.stem.rsplit("-", 1)[-1].isdigit()
            ]
            if not found:
                continue
            known: dict[str, Any] = {"seeds": len(found)}
            for way in ("updates", "compute"):
                results = [one["results"][str(one["at"][way])] for one in found]
                played = [[flag for task in r["tasks"].values() for flag in task] for r in results]
                rates = [mean(flags) for flags in played]
                solved, total = sum(map(sum, played)), sum(map(len, played))
                known[way] = {
                    "rate": solved / total,
                    "interval": wilson(solved, total),
                    "spread": stdev(rates) if len(rates) > 1 else 0.0,
                    "solved": solved,
                    "total": total,
                    "updates": found[0]["at"][way],
                    "ms": min(r["ms"] for r in results),
                    "tasks": {
                        task: mean(flag for r in results for flag in r["tasks"][task])
                        for task in results[0]["tasks"]
                    },
                }
            yield paradigm, video, known


def report(asked: Any) -> None:
    """Print the table, and draw success over computation."""
    found = list(gathered(asked))
    if not found:
        raise WamkitError(f"no cell in {asked.out} is done", "run them first")
    flops = {
        file.name.removesuffix(".flops.json"): json.loads(file.read_text())["operations"]
        for file in asked.out.glob("*.flops.json")
    }
    settings = json.loads((asked.out / "settings.json").read_text())
    head = "paradigm|video loss|seeds|GFLOP an update|ms a chunk|same updates|95 %|over seeds"
    head += "|updates at same compute|same compute|95 %"
    print(f"{settings}\n\n| {head.replace('|', ' | ')} |\n" + "|---" * (head.count("|") + 1) + "|")
    for paradigm, video, known in found:
        one, two = known["updates"], known["compute"]
        line = [
            paradigm,
            "yes" if video == "video" else "no",
            known["seeds"],
            f"{flops[f'{paradigm}-{video}'] / 1e9:.2f}",
            f"{one['ms']:.1f}",
            f"{one['solved']} of {one['total']}, {one['rate']:.0%}",
            "{:.0%} to {:.0%}".format(*one["interval"]),
            f"±{one['spread']:.0%}" if known["seeds"] > 1 else "-",
            two["updates"],
            f"{two['solved']} of {two['total']}, {two['rate']:.0%}",
            "{:.0%} to {:.0%}".format(*two["interval"]),
        ]
        print("| " + " | ".join(map(str, line)) + " |")
    if asked.plot is not None:
        draw(found, flops, settings, asked.plot)
        print(f"\nwrote {asked.plot}")


def draw(found: Any, flops: Any, settings: Any, file: Path) -> None:
    """Success over the computation of a training, and at the same computation, of each paradigm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "wamkit"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.8), sharey=True)
    names = list(dict.fromkeys(paradigm for paradigm, _, _ in found))
    ms = {name: min(k["updates"]["ms"] for p, _, k in found if p == name) for name in names}
    for paradigm, video, known in found:
        place, has_video = names.index(paradigm), video == USES[0]
        style = {"marker": "o" if has_video else "x", "color": f"C{place}"}
        cost = flops[f"{paradigm}-{video}"] / 1e12
        points = sorted(
            {
                known[way]["updates"]: (cost * known[way]["updates"], known[way])
                for way in ("updates", "compute")
            }.items()
        )
        across = [x for _, (x, _) in points]
        up = [100 * one["rate"] for _, (_, one) in points]
        label = f"{paradigm}, {'video loss' if has_video else 'none'}"
        left.plot(across, up, linewidth=1, label=label, **style)
        low, high = (100 * value for value in known["compute"]["interval"])
        middle = 100 * known["compute"]["rate"]
        bars = [[middle - low], [high - middle]]
        at = place - 0.15 if has_video else place + 0.15
        right.errorbar([at], [middle], yerr=bars, capsize=3, linestyle="none", **style)
    left.set_xlabel("TFLOP of training")
    left.set_ylabel("success, %")
    left.legend(fontsize=7, loc="best")
    labels = [f"{name.replace('_', ' ')}\n{ms[name]:.0f} ms" for name in names]
    right.set_xticks(range(len(names)), labels, fontsize=8)
    right.set_xlabel("at the same compute of training (95 %); ms of one core for a chunk")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_ylim(-2, 102)
    total = settings["episodes"] * len(settings["tasks"])
    tasks = ", ".join(task.partition(":")[2].removesuffix("-v3") for task in settings["tasks"])
    figure.suptitle(
        f"{tasks}: {settings['demonstrations']} demonstrations of each, {total} episodes a seed",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})
