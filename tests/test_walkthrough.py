"""docs/walkthrough.md names what runs in one chunk of Fast-WAM, in the order in which it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "walkthrough.md"
LINK = re.compile(r"\[`([^`]+)`\]\(\.\./([^)]+\.py)\)")
MAX_FILES = 16
"""What a reader is asked to open to follow one chunk."""


class Call(NamedTuple):
    """A function of the project that ran."""

    file: str  # relative to the repository
    name: str  # qualified: `Policy.act`


def _links(section: str) -> list[Call]:
    """Links to code in order, each once: functions, and files under their own names."""
    return list(dict.fromkeys(Call(file, name) for name, file in LINK.findall(section)))


def _is_function(link: Call) -> bool:
    return not link.name.endswith(".py")


TEXT = PAGE.read_text()
PATH, ALSO = TEXT.split("\n## Also runs\n")
FUNCTIONS = [link for link in _links(PATH) if _is_function(link)]
NAMED = {link.file for link in _links(PATH)}
EXPLAINED = {link.file for link in _links(ALSO)}


def trace() -> list[Call]:
    """Functions of wamkit and of plugins that run in one `Policy.act`, in order of first calls."""
    from wamkit.config.spec import parse, read
    from wamkit.policy.policy import Policy
    from wamkit.testing.fixtures import observation

    spec, _ = parse(read(ROOT / "examples" / "fastwam.toml")).tiny()
    policy, seen = Policy.from_spec(spec), observation(spec)
    found: dict[Call, None] = {}
    folders = tuple(str(ROOT / name) + "/" for name in ("wamkit", "plugins"))

    def profile(frame: Any, event: str, arg: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(folders):
            found[Call(str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname)] = None

    sys.setprofile(profile)
    try:
        policy.act(seen, seed=0)
    finally:
        sys.setprofile(None)
    return list(found)


@pytest.fixture(scope="module")
def calls() -> list[Call]:
    """`trace` in a process of its own, in which nothing has been computed before."""
    run = [sys.executable, __file__]
    done = subprocess.run(run, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [Call(*call) for call in json.loads(done.stdout)]


def test_every_function_that_is_named_runs_in_a_chunk(calls: list[Call]) -> None:
    silent = [link for link in FUNCTIONS if link not in calls]
    assert not silent, f"named in the walkthrough, but not called in a chunk: {silent}"
    assert len(FUNCTIONS) > 40


def test_functions_are_named_in_the_order_of_their_first_calls(calls: list[Call]) -> None:
    order = [(calls.index(link), link) for link in FUNCTIONS if link in calls]
    late = [later for (one, _), (two, later) in pairwise(order) if one > two]
    assert not late, f"named after something that is called later: {late}"


def test_every_file_that_runs_is_on_the_path_or_explained(calls: list[Call]) -> None:
    runs = {call.file for call in calls}
    missing = sorted(runs - NAMED - EXPLAINED)
    assert not missing, f"explain these under 'Also runs': {missing}"
    assert not EXPLAINED - runs, f"explained, but none of it runs: {sorted(EXPLAINED - runs)}"
    assert not EXPLAINED & NAMED


def test_the_path_is_short_and_states_how_short() -> None:
    assert len(NAMED) <= MAX_FILES
    assert f"{len(NAMED)} files" in PATH
    assert f"{len(EXPLAINED)} other files" in ALSO
    listed = [link.file for link in _links(PATH) if not _is_function(link)]
    assert set(listed) == NAMED == {link.file for link in FUNCTIONS}
    for file in EXPLAINED:
        (line,) = [line for line in ALSO.splitlines() if f"(../{file})" in line]
        assert len(line.rpartition("|")[0].rpartition("|")[2].split()) > 2, f"{file}: say what for"


def test_every_link_to_code_leads_to_the_named_object() -> None:
    for link in [*_links(PATH), *_links(ALSO)]:
        text = (ROOT / link.file).read_text()
        if _is_function(link):
            *owners, name = link.name.split(".")
            assert re.search(rf"^\s*def {name}\(", text, re.M), link
            assert all(re.search(rf"^class {owner}\b", text, re.M) for owner in owners), link
        else:
            assert link.file.endswith(link.name), link


def test_sizes_are_those_of_the_spec() -> None:
    from wamkit.config.spec import parse, read

    spec = parse(read(ROOT / "examples" / "fastwam.toml"))
    traits, actions = spec.backbone.traits, spec.actions
    height, width = spec.cameras.canvas
    h, w = spec.latent_size
    tokens = traits.tokens(spec.latent_frames[0], h, w)
    heads = f"{traits.num_heads}, "
    steps = spec.schedules.action.steps
    shapes = [
        f"[1, 3, 1, {height}, {width}]",
        f"[1, {traits.latent_channels}, 1, {h}, {w}]",
        f"[1, {tokens}, {traits.width}]",
        f"[1, {heads}{tokens}, {traits.head_dim}]",
        f"[1, {heads}{tokens + actions.chunk_size}, {traits.head_dim}]",
        f"[1, {heads}{actions.chunk_size}, {traits.head_dim}]",
        f"[1, {actions.chunk_size}, {actions.size}]",
        f"[R, {traits.depth}, 6, {traits.width}]",
        f"[{steps + 1}, {traits.depth}, 6, 1024]",
        f"[1, L, {traits.text_width}]",
    ]
    assert not [shape for shape in shapes if f"`{shape}`" not in PATH]


if __name__ == "__main__":
    print(json.dumps(trace()))
