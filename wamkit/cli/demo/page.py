"""The report: one HTML file that asks the network for nothing, made of what the stages left."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ...files.durable import write_text
from ...files.printable import escaped
from . import drawing
from .stages import SLOWER, Found, Settings, Way

STYLE = Path(__file__).with_name("page.css")
MEANINGS = {
    "observation": "taking the images, one simulator",
    "policy": "deciding, all episodes of a round together",
    "environment": "carrying out one action",
}


def write(
    file: Path,
    settings: Settings,
    data: Found,
    baselines: Mapping[str, Found],
    ways: Sequence[Way],
    explanation: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write the page; `explanation` maps each built paradigm to its `explain`."""
    done = [way for way in ways if way.result is not None]
    body = [_head(settings, done, ways), _results(settings, baselines, ways)]
    for i, way in enumerate(done):
        inside = _way(way, explanation[way.name])
        if len(ways) > 1:
            opened = ' open="open"' if i == 0 else ""
            inside = f"<details{opened}><summary>{escaped(way.name)}</summary>{inside}</details>"
        body.append(inside)
    body += [_times(data, baselines, ways), _again(settings, ways)]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8"/>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>\n'
        f"<title>wamkit demo: {escaped(settings.task)}</title>\n"
        f'<link rel="icon" href="data:,"/>\n<style>\n{STYLE.read_text()}</style>\n</head>\n'
        "<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )
    write_text(file, page)
    return file


def _head(settings: Settings, done: Sequence[Way], ways: Sequence[Way]) -> str:
    lead = "No policy could be evaluated; the reasons are below."
    if done:
        best = max(done, key=lambda way: _result(way)["success_rate"])
        found = _result(best)
        which = f"The best of {len(ways)}, {best.name}, solved" if len(ways) > 1 else "It solved"
        lead = f"{which} {found['successes']} of {found['episodes']} episodes it had never seen."
        if best.episode is not None:
            lead = f"Instruction: “{best.episode['instruction']}”. {lead}"
    return (
        "<header>\n<p class='soft'>wamkit demo</p>\n"
        f"<h1>A world-action model for {escaped(settings.task)}</h1>\n"
        f'<p class="lead">{escaped(lead)}</p>\n'
        f"<p>It learned from {escaped(settings.episodes)} demonstrations of a scripted expert, in "
        f"{escaped(settings.steps)} updates of {escaped(settings.batch)} samples, beginning with "
        "random weights: to say what to do next and, in the same network, what will be seen then."
        "</p>\n</header>"
    )


def _results(settings: Settings, baselines: Mapping[str, Found], ways: Sequence[Way]) -> str:
    rates = {way.name: way.result for way in ways if way.result is not None} | dict(baselines)
    rows = []
    for name, found in rates.items():
        low, high = found["interval_95"]
        steps = found["steps_to_success"]
        rows.append(
            (
                name,
                f"{found['successes']} of {found['episodes']}",
                f"{low:.0%} to {high:.0%}",
                "never" if steps is None else f"{steps:.0f}",
            )
        )
    titles = ("who acts", "successes", "95 % interval", "actions")
    last = settings.first + settings.eval_episodes - 1
    caption = (
        f"Episodes with seeds {settings.first} to {last}, the same for all. Actions are "
        "those until success, on average."
    )
    failed = "".join(
        f"<p><strong>{escaped(way.name)}</strong> has no result: {escaped(way.problem)}</p>"
        for way in ways
        if way.problem
    )
    return (
        "<section>\n<h2>How well it does</h2>\n<div class='pair'>\n"
        f"<figure>{drawing.success(rates)}<figcaption>Success; the whiskers are Wilson "
        "intervals of 95 %.</figcaption></figure>\n"
        f"<div>{_table(caption, titles, rows)}</div>\n</div>\n{failed}</section>"
    )


def _way(way: Way, explanation: Mapping[str, Any]) -> str:
    """What was built, what it learned, what it does: of one paradigm."""
    return _episode(way) + _built(explanation) + _learned(way) + _latency(way)


def _episode(way: Way) -> str:
    episode, film = way.episode, way.film
    if episode is None or film is None:
        return ""
    end = "success" if episode["success"] else "no success"
    beside = " beside the future that the policy imagines" if episode["imagined"] else ""
    caption = f"Seed {episode['seed']}, {episode['steps']} actions, {end}."
    if episode["imagined"]:
        caption += (
            " Left, what happens, in a green frame from the first success on; right, in an orange "
            "frame, what the policy expects to see at the end of its actions."
        )
    caption += f" {SLOWER} times slower than in truth."
    still = _still(film)
    return (
        "<section>\n<h2>An episode</h2>\n<figure><picture>"
        f'<source media="(prefers-reduced-motion: reduce)" srcset="{still}"/>'
        f'<img src="{_data(film.read_bytes(), "gif")}" alt="An episode of {escaped(way.name)}'
        f'{beside}: {end} after {escaped(episode["steps"])} actions"/></picture>'
        f"<figcaption>{escaped(caption)}</figcaption></figure>\n</section>\n"
    )


def _built(explanation: Mapping[str, Any]) -> str:
    parts = [
        (part["kind"].replace("_", " "), part["name"], _count(part["parameters"]))
        for part in explanation["parts"]
    ]
    program = [
        (", ".join(stage["roles"]), str(stage["passes"]), str(stage["tokens"]), stage["does"])
        for stage in explanation["program"]
    ]
    latent, actions = explanation["latent"], explanation["actions"]
    sizes = (
        f"An image is {latent['channels']} channels of {latent['size'][0]} x {latent['size'][1]}; "
        f"{actions['chunk_size']} actions of {actions['size']} numbers are chosen at once, for "
        f"{actions['chunk_size'] / actions['control_hz']:g} s."
    )
    return (
        "<section>\n<h2>What was built</h2>\n<div class='pair'>\n"
        f"<figure>{drawing.streams(explanation)}<figcaption>Roles with their numbers of tokens. "
        f"{escaped(sizes)}</figcaption></figure>\n<div>"
        + _table("Its parts", ("part", "name", "parameters"), parts, right=(2,))
        + _table(
            "What one decision runs",
            ("roles", "passes", "tokens", "what for"),
            program,
            right=(1, 2),
        )
        + "</div>\n</div>\n</section>\n"
    )


def _learned(way: Way) -> str:
    figures = ""
    for part, svg in drawing.losses(way.log).items():
        name = escaped(part.replace("_", " "))
        named = svg.replace("<svg ", f'<svg role="img" aria-label="Loss of {name}" ', 1)
        figures += f"<figure>{named}<figcaption>{name}</figcaption></figure>\n"
    return (
        "<section>\n<h2>How it learned</h2>\n<p>The loss of each part, on a logarithmic scale: of "
        "the batches it learned from, and of demonstrations that were held out.</p>\n"
        f"<div class='pair'>\n{figures}</div>\n</section>\n"
    )


def _latency(way: Way) -> str:
    found = _result(way)
    rows = [
        (stage, f"{times['p50']:.1f}", f"{times['p95']:.1f}", MEANINGS.get(stage, ""))
        for stage, times in found["latency_ms"].items()
    ]
    caption = (
        f"Milliseconds on this machine, for {found['batch']} episodes side by side. Of each "
        f"{found['chunk_size']} actions {found['execute_steps']} are carried out; the robot takes "
        f"{found['control_hz']:g} a second."
    )
    titles = ("stage", "median", "95 % below", "what it is")
    return (
        "<section>\n<h2>How long a decision takes</h2>\n"
        f"{_table(caption, titles, rows, right=(1, 2))}</section>\n"
    )


def _times(data: Found, baselines: Mapping[str, Found], ways: Sequence[Way]) -> str:
    count = f"{data['episodes']} demonstrations, {data['frames']} images"
    rows = [(count, _spent(data))]
    rows += [(f"evaluation of {name}", _spent(found)) for name, found in baselines.items()]
    for way in ways:
        for label, found in (
            ("training", way.training),
            ("evaluation", way.result),
            ("film", way.episode),
        ):
            if found is not None:
                rows.append((f"{label} of {way.name}", _spent(found)))
    table = _table("", ("stage", "time"), rows, right=(1,))
    return f"<section>\n<h2>How long it all took</h2>\n{table}</section>"


def _again(settings: Settings, ways: Sequence[Way]) -> str:
    return (
        "<section>\n<h2>On from here</h2>\n"
        "<p>The policy lies in the folder of this page; it can be "
        "evaluated, explained, or trained on other data:</p>\n<pre><code>"
        + escaped(
            f"wamkit eval {ways[0].name}/training/checkpoints/last/policy --env {settings.task}\n"
            f"wamkit explain {ways[0].name}/training/checkpoints/last/policy\n"
            "wamkit data show data"
        )
        + "</code></pre>\n</section>"
    )


def _table(
    caption: str,
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Sequence[int] = (),
) -> str:
    """A table whose first column names its rows; the columns in `right` are numbers."""
    css = ['class="right"' if i in right else "" for i in range(len(titles))]
    head = "".join(
        f'<th scope="col" {c}>{escaped(t)}</th>' for c, t in zip(css, titles, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{escaped(row[0])}</th>'
        + "".join(f"<td {c}>{escaped(cell)}</td>" for c, cell in zip(css[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    said = f"<caption>{escaped(caption)}</caption>" if caption else ""
    return (
        f"<div class='scroll'><table>{said}<thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _result(way: Way) -> Found:
    assert way.result is not None, "asked only of ways that were evaluated"
    return way.result


def _count(parameters: int | str) -> str:
    return f"{parameters:,}" if isinstance(parameters, int) else parameters


def _spent(found: Found) -> str:
    """Seconds in words."""
    seconds = found["seconds"]
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _data(raw: bytes, ending: str) -> str:
    return f"data:image/{ending};base64,{b64encode(raw).decode()}"


def _still(film: Path) -> str:
    """The image in the middle of an animation."""
    from ...files.images import open_image

    with open_image(film, str(film)) as moving:
        moving.seek(getattr(moving, "n_frames", 1) // 2)
        buffer = BytesIO()
        moving.convert("RGB").save(buffer, "PNG")
    return _data(buffer.getvalue(), "png")
