"""The page of `wamkit explore`: it agrees with Python, loads nothing, and works with a keyboard."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import browser as browser
from exploring import ask as ask
from exploring import data as data
from exploring import html as html

from wamkit.bench.counts.solving import Design
from wamkit.cli._params import parameters
from wamkit.cli.explore.choices import WITHOUT_SPEC, choices
from wamkit.cli.explore.record import recorded
from wamkit.config.check import check
from wamkit.config.spec import parse, read
from wamkit.policy.cost import cost

ROOT = Path(__file__).parent.parent
Run = Callable[..., tuple[int, str, str]]
SIZES = (64, 96, 128, 160, 224, 240, 252, 256, 320)


def _random(data: dict[str, Any], rng: random.Random, *, fits: bool = False) -> dict[str, Any]:
    """A system in which some parts and sizes are others."""
    preset = rng.randrange(len(data["presets"]))
    system = data["presets"][preset]
    parts = {
        kind: rng.randrange(len(data["parts"][kind]))
        if rng.random() < (0.25 if fits else 0.35)
        else place
        for kind, place in system["parts"].items()
    }
    raw = json.loads(json.dumps(system["raw"]))
    cameras, video = raw["cameras"], raw.setdefault("video", {})
    if rng.random() < 0.5:
        size = [rng.choice(SIZES), rng.choice(SIZES)]
        cameras["views"] = [{**view, "size": size} for view in cameras["views"]]
    if rng.random() < 0.3:
        names = [f"camera_{i}" for i in range(rng.randint(1, 4))]
        sizes = [[rng.choice(SIZES[:3]), rng.choice(SIZES[:3])] for _ in names]
        sizes = sizes if rng.random() < 0.4 else [sizes[0]] * len(names)
        cameras["views"] = [{"name": n, "size": s} for n, s in zip(names, sizes, strict=True)]
    if rng.random() < 0.3:
        cameras["layout"] = rng.choice(
            ["side_by_side", "t_shape", "inverted_t", "grid", "frame_per_view"]
        )
    if rng.random() < 0.5:
        video["num_frames"] = rng.choice([1, 2, 5, 9, 13, 17, 25, rng.randint(1, 40)])
        video["num_observed"] = rng.choice([1, 1, 1, 5, 9])
    if rng.random() < 0.2:
        video["target_downscale"] = rng.choice([1, 2, 4])
    if rng.random() < 0.5:
        raw["actions"]["chunk_size"] = rng.randint(1, 64)
    if rng.random() < 0.4:
        raw.setdefault("state", {})["size"] = rng.choice([0, 3, 8, 14])
    schedules = raw.setdefault("schedules", {})
    for modality in ("video", "action"):
        if rng.random() < 0.5:
            schedules.setdefault(modality, {})["steps"] = rng.randint(1, 30)
    return {"preset": preset, "parts": parts, "raw": raw}


def _said(conflicts: Any) -> set[tuple[str, str, str]]:
    return {(" ".join(c["between"]), c["why"], c["hint"]) for c in conflicts}


def test_thousands_of_random_choices_fit_or_not_as_python_says_and_have_its_tokens(
    data: dict[str, Any], ask: Callable[[Any], Any]
) -> None:
    rng = random.Random(0)
    given = [_random(data, rng, fits=i % 2 == 0) for i in range(2000)]
    fitting = 0
    for found in ask(given):
        expected = [c.model_dump() for c in check(found["spec"]) if not c.missing]
        places = [
            [" ".join(c["between"]) for c in conflicts]
            for conflicts in (found["conflicts"], expected)
        ]
        assert set(places[0]) == set(places[1]), found["toml"]
        assert _said(found["conflicts"]) == _said(expected), found["toml"]
        if not expected:
            fitting += 1
            spec = parse(found["spec"])
            assert found["tokens"] == spec.tokens(), found["toml"]
    assert fitting > 200


def test_too_many_observed_frames_are_refused_in_the_words_of_check_with_every_vae(
    data: dict[str, Any], ask: Callable[[Any], Any]
) -> None:
    preset = data["presets"][0]
    limited = [i for i, rules in enumerate(data["clip_rules"]) if rules]
    given = []
    for backbone, vae in itertools.product(limited, range(len(data["parts"]["vae"]))):
        stride = data["parts"]["vae"][vae]["stride"][0]
        for latents, views, latent in (
            (6, 1, "clip"),
            (9, 1, "images"),
            (4, 2, "clip"),
            (1, 6, "clip"),
        ):
            observed = latents if latent == "images" else 1 + (latents - 1) * stride
            video = {"num_observed": observed, "num_frames": observed, "observed_latents": latent}
            names = [{"name": f"camera_{i}", "size": [224, 224]} for i in range(views)]
            layout = "side_by_side" if views == 1 else "frame_per_view"
            raw = {**preset["raw"], "video": video, "cameras": {"views": names, "layout": layout}}
            parts = {**preset["parts"], "backbone": backbone, "vae": vae}
            given.append({"preset": 0, "parts": parts, "raw": raw})
    for found in ask(given):
        place = ("video.num_observed", "backbone")
        ours = [c for c in found["conflicts"] if tuple(c["between"]) == place]
        theirs = [c for c in check(found["spec"]) if c.between == place]
        assert len(theirs) == 1, found["toml"]
        assert _said(ours) == _said(c.model_dump() for c in theirs), found["toml"]


def test_parameters_of_heads_are_those_of_python(
    data: dict[str, Any], ask: Callable[[Any], Any]
) -> None:
    rng, seen = random.Random(1), 0
    for found in ask([_random(data, rng, fits=True) for _ in range(400)]):
        if not found["parameters"] or found["parameters"]["action_head"] is None:
            continue
        spec = parse(found["spec"])
        assert found["parameters"]["action_head"] == parameters(spec.action_head, spec.sizes)
        if (seen := seen + 1) == 40:
            break
    assert seen > 10


def test_passes_of_every_recorded_pair_are_polynomials(data: dict[str, Any]) -> None:
    assert recorded()["pairs"]
    assert not [name for name, found in recorded()["pairs"].items() if found["unsolved"]]


def test_work_and_bytes_of_a_chunk_are_those_of_python(
    data: dict[str, Any], ask: Callable[[Any], Any]
) -> None:
    rng, left = random.Random(2), {"any": 10, "toy": 3, "shared_stream": 3}
    given = [{**_random(data, rng, fits=True), "cost": True} for _ in range(300)]
    for found in ask(given):
        if not found["cost"]:
            continue
        spec = parse(found["spec"])
        kinds = {"any", spec.backbone.name, spec.action_head.name} & set(left)
        if not any(left[kind] for kind in kinds):
            continue
        expected = cost(spec, **spec.paradigm.variants[found["mode"]])
        if expected.left_out:
            continue
        assert found["cost"]["passes"] == expected.passes, found["toml"]
        assert found["cost"]["operations"] == pytest.approx(expected.operations, rel=0.01)
        assert found["cost"]["bytes"] == pytest.approx(expected.bytes, rel=0.02), found["toml"]
        left |= {kind: max(0, left[kind] - 1) for kind in kinds}
    assert not any(left.values())


def test_every_system_fits_and_its_toml_is_its_spec(
    data: dict[str, Any], ask: Callable[[Any], Any], tmp_path: Path
) -> None:
    given = [
        {"preset": i, "parts": preset["parts"], "raw": {}, "cost": True}
        for i, preset in enumerate(data["presets"])
    ]
    for preset, found in zip(data["presets"], ask(given), strict=True):
        assert not found["conflicts"] and found["cost"], preset["name"]
        (tmp_path / "spec.toml").write_text(found["toml"])
        theirs = parse(read(ROOT / "examples" / f"{preset['name']}.toml"))
        assert parse(read(tmp_path / "spec.toml")).dump() == theirs.dump()


def test_options_that_a_system_brings_are_shown_as_python_has_them_or_left_out(
    data: dict[str, Any], ask: Callable[[Any], Any]
) -> None:
    presets = [(i, p) for i, p in enumerate(data["presets"]) if p["whole"]]
    assert {"light_wam", "lingbot_va", "dreamzero_14b"} <= {p["name"] for _, p in presets}
    whole = [{"preset": i, "parts": p["parts"], "raw": {}, "cost": True} for i, p in presets]
    more = [{**given, "raw": {"seed": 1}} for given in whole]
    for (_, preset), found, changed in zip(presets, ask(whole), ask(more), strict=True):
        spec = parse(read(ROOT / "examples" / f"{preset['name']}.toml"))
        expected = cost(spec, **spec.paradigm.variants[found["mode"]])
        spent = {key: getattr(expected, key) for key in ("passes", "operations", "bytes")}
        assert (found["tokens"], found["cost"]) == (spec.tokens(), spent), preset["name"]
        assert found["parameters"]["action_head"] == parameters(spec.action_head, spec.sizes)
        for option in preset["whole"]["options"]:
            section, key = option.rsplit(".", 1)
            assert key in str(found["spec"][section.split(".")[0]]), option
            assert f"'{key}'" not in str(changed["spec"][section.split(".")[0]]), option
        theirs = [c.model_dump() for c in check(changed["spec"]) if not c.missing]
        assert _said(changed["conflicts"]) == _said(theirs), preset["name"]


def test_the_page_says_which_options_it_does_not_follow(
    data: dict[str, Any], browser: Any, html: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(html)
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    names = [preset["name"] for preset in data["presets"]]
    tab.select_option("#preset", index=names.index("light_wam"))
    message = tab.inner_text("#verdict")
    assert "does not follow" in message and "paradigm.target_context" in message
    tab.fill("#action-steps", "7")
    tab.press("#action-steps", "Tab")
    message = tab.inner_text("#verdict")
    assert "Left out" in message and "paradigm.target_context" in message
    assert "target_context" not in tab.text_content("#toml")
    tab.close()


def test_a_spec_is_what_the_page_begins_with(tmp_path: Path) -> None:
    text = (ROOT / "examples/fastwam.toml").read_text().replace("chunk_size = 32", "chunk_size = 8")
    (tmp_path / "mine.toml").write_text(text)
    offered, presets = choices(tmp_path / "mine.toml")
    assert presets[0].name == "mine" and presets[0].raw["actions"]["chunk_size"] == 8
    assert len(offered["backbone"]) > 30


def test_systems_that_no_spec_says_are_named() -> None:
    text = (ROOT / "docs/systems.md").read_text().partition("## Systems without an importer")[2]
    rows = re.findall(r"^\| \[([^\]]+)\]\(#[^)]*\) \| ([^|]*) \|", text, re.M)
    own = {name for name, spec in rows if re.sub(r"[- ].*", "", name).lower() in spec}
    assert {"mimic-video", "Simple-WAM"} <= own
    assert tuple(name for name, _ in rows if name not in own) == WITHOUT_SPEC


def test_a_wheel_holds_every_system() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    held = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for file in (ROOT / "examples").glob("*.toml"):
        goal = f"wamkit/cli/explore/examples/{file.name}"
        assert held[f"examples/{file.name}"] == goal


def test_the_page_loads_nothing_from_elsewhere(html: str) -> None:
    assert len(html.encode()) < 3_000_000
    shell = re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.S)
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', shell)
    assert "@import" not in shell and "fetch(" not in shell and "import(" not in shell
    assert not re.findall(r"url\((?!data:)", shell)
    assert "default-src 'none'" in shell


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_has_no_errors_and_is_no_wider_than_the_window(
    browser: Any, html: str, tmp_path: Path, width: int
) -> None:
    (tmp_path / "page.html").write_text(html)
    tab, printed = browser.new_page(viewport={"width": width, "height": 900}), []
    tab.on("console", lambda message: printed.append(message.text))
    tab.on("pageerror", lambda error: printed.append(str(error)))
    tab.on(
        "request", lambda request: printed.append(request.url) if "http" in request.url else None
    )
    tab.goto((tmp_path / "page.html").as_uri())
    count = tab.evaluate("document.getElementById('preset').options.length")
    for place in range(count):
        tab.select_option("#preset", index=place)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert "It fits" in tab.inner_text("#verdict")
    tab.fill("#frames", "6")
    tab.press("#frames", "Tab")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert not printed
    tab.close()


def test_the_steps_of_a_call_are_walked_with_the_keyboard(
    browser: Any, html: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(html)
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())

    def place() -> str:
        return str(tab.inner_text("#step-label"))

    last = int(place().split("/")[1])
    assert place() == f"1 / {last}"
    assert tab.get_attribute("#previous", "aria-disabled") == "true"
    tab.focus("#next")
    tab.keyboard.press("Enter")
    assert place() == f"2 / {last}"
    tab.keyboard.press("ArrowRight")
    assert place() == f"3 / {last}"
    tab.keyboard.press("ArrowLeft")
    assert place() == f"2 / {last}"
    tab.keyboard.press("End")
    assert place() == f"{last} / {last}"
    tab.keyboard.press("Home")
    assert place() == f"1 / {last}"
    tab.focus("#attention th[tabindex]")
    assert "attends to" in tab.inner_text("#attention-note")
    tab.close()


def test_a_number_that_a_field_does_not_take_is_marked_and_changes_nothing(
    browser: Any, html: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(html)
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    fields = tab.evaluate("[...document.querySelectorAll('#numbers input')].map((x) => x.id)")
    before, toml = tab.input_value("#frames"), tab.text_content("#toml")
    given = [(field, number) for field in fields for number in ("1e9", "-3")]
    for field, number in [*given, ("frames", "2.5"), ("frames", "")]:
        tab.fill(f"#{field}", number)
        tab.press(f"#{field}", "Tab")
        assert tab.input_value(f"#{field}") == number
        assert tab.get_attribute(f"#{field}", "aria-invalid") == "true"
        assert "Not taken: expected a whole number from" in tab.inner_text(f"#{field}-note")
        assert tab.text_content("#toml") == toml
    assert f"from 1 to 999. The page still shows {before}." in tab.inner_text("#frames-note")
    tab.fill("#frames", "13")
    tab.press("#frames", "Tab")
    assert "num_frames = 13" in tab.text_content("#toml")
    assert tab.get_attribute("#frames", "aria-invalid") is None
    assert tab.text_content("#frames-note") == ""
    tab.close()


def test_a_cure_is_applied_and_a_backbone_brings_what_it_needs(
    browser: Any, html: str, tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(html)
    tab = browser.new_page()
    tab.goto((tmp_path / "page.html").as_uri())
    tab.evaluate("document.getElementById('preset').value")
    tab.fill("#frames", "6")
    tab.press("#frames", "Tab")
    assert "does not fit" in tab.inner_text("#verdict")
    tab.click(".apply >> nth=0")
    assert "It fits" in tab.inner_text("#verdict")
    for place in range(tab.evaluate("Explore.data.parts.backbone.length")):
        channels = "Explore.channelConflicts(Explore.withBackbone(Explore.choice, %d)).length"
        assert tab.evaluate(channels % place) == 0, place
    tab.close()


def test_the_command_writes_the_page(wamkit: Run, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    code, message, _ = wamkit("explore", ROOT / "examples/toy.toml", "--out", out)
    assert code == 0 and "wrote" in message
    assert out.read_text().startswith("<!doctype html>")
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]


def test_what_cannot_be_written_or_read_is_refused(wamkit: Run, tmp_path: Path) -> None:
    code, _, message = wamkit("explore", "--out", tmp_path / "page.txt")
    assert code == 2 and "is not .html" in message
    code, _, message = wamkit("explore", "--serve", "--out", tmp_path / "page.html")
    assert code == 2 and "leave one out" in message
    code, _, message = wamkit("explore", tmp_path / "none.toml")
    assert code == 2 and "no spec at" in message


def test_a_page_is_made_anew_and_no_other_file_is_replaced(wamkit: Run, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    out.write_text("<title>mine</title>")
    code, _, message = wamkit("explore", "--out", out)
    assert code == 2 and "exists, and is no page of `wamkit explore`" in message
    assert "--force" in message and out.read_text() == "<title>mine</title>"
    assert wamkit("explore", "--out", out, "--force")[0] == 0 and out.stat().st_size > 10**5
    assert wamkit("explore", "--out", out)[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_a_signal(number: int) -> None:
    command = [sys.executable, "-m", "wamkit", "explore", "--serve"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        try:
            assert run.stdout is not None
            address = run.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            with urllib.request.urlopen(address) as answer:
                assert answer.read().startswith(b"<!doctype html>")
            run.send_signal(number)
            assert run.wait(60) == 0
        finally:
            run.kill()


def test_polynomials_are_solved_exactly_or_not_at_all() -> None:
    design = Design([[1, x, x * x] for x in (1, 2, 5, 7)])
    assert design.solve([3 + 2 * x + 5 * x * x for x in (1, 2, 5, 7)]) == [3, 2, 5]
    assert design.solve([x**3 for x in (1, 2, 5, 7)]) is None
