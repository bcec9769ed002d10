"""A saved policy that names paths outside its folder: asked for, remembered, not read silently."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit import Policy, WamkitError, build, check, trusting_paths
from wamkit.cli import VERBS, verb
from wamkit.config.spec import read
from wamkit.config.trust import memory, named_paths, remember, trusted_paths
from wamkit.files import strict_yaml

TOY = Path(__file__).parent.parent / "examples/toy.toml"
PHOTO = TOY.parent / "images/coffee.jpg"
Wamkit = Callable[..., tuple[int, str, str]]


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A saved policy."""
    return build(TOY, device="cpu").save(tmp_path / "policy")


def changed(policy: Path, **weights: str) -> Path:
    """The saved policy with other values of `weights`, as an attacker may write them."""
    raw = strict_yaml.loads((policy / "spec.yaml").read_text())
    for kind, path in weights.items():
        raw[kind]["weights"] = path
    (policy / "spec.yaml").write_text(strict_yaml.dumps(raw))
    return policy


def test_a_policy_that_names_nothing_outside_is_read_without_a_question(policy: Path) -> None:
    assert Policy.load(policy)
    assert not memory().exists()


@pytest.mark.parametrize("path", ["/etc/secret.safetensors", "../other", "~/x", "C:\\x", "here"])
def test_every_path_outside_is_listed_and_none_is_opened(path: str, policy: Path) -> None:
    changed(policy, backbone=path, action_head="/other")
    for take in (Policy.load, build, read, lambda p: check(read(p))):
        with pytest.raises(WamkitError) as error:
            take(policy)
        assert f"backbone.weights = {path}" in error.value.what
        assert "action_head.weights = /other" in error.value.what
        assert "--trust-paths" in error.value.hint and "--set backbone.weights" in error.value.hint


def test_a_path_within_the_folder_is_its_own(policy: Path) -> None:
    changed(policy, backbone=str(policy / "backbone.safetensors"))
    assert read(policy)


def test_what_the_user_sets_is_the_users(policy: Path) -> None:
    own = str(policy.parent / "mine.safetensors")
    changed(policy, backbone="/etc/secret.safetensors")
    assert read(policy, [f"backbone.weights={own}"])["backbone"]["weights"] == own
    with pytest.raises(WamkitError, match="= /etc/secret"):
        read(policy, ["seed=3"])


def test_a_trusted_path_is_remembered_for_the_next_time(policy: Path) -> None:
    changed(policy, backbone="/models/a")
    with trusting_paths():
        read(policy)
    assert trusted_paths() == {"/models/a"}
    assert read(policy)
    changed(policy, backbone="/models/b")
    with pytest.raises(WamkitError, match="/models/b"):
        read(policy)


def test_the_variable_trusts_as_the_option_does(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(policy, backbone="/models/a")
    monkeypatch.setenv("WAMKIT_TRUST_PATHS", "1")
    assert read(policy)


def test_a_home_that_cannot_be_written_loses_only_the_memory(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    changed(policy, backbone="/models/a")
    with trusting_paths():
        assert read(policy)
    assert trusted_paths() == set()


def test_a_damaged_memory_trusts_nothing_more() -> None:
    remember(["/models/a"])
    with memory().open("ab") as stream:
        stream.write(b'"/models/b\n[1]\n"/models/c"\n')
    assert trusted_paths() == {"/models/a", "/models/c"}
    memory().write_bytes(b"\xff\xfe")
    assert trusted_paths() == set()


def test_the_command_line_asks_and_takes_the_answer(policy: Path, wamkit: Wamkit) -> None:
    changed(policy, backbone="/etc/\x1b[2Jsecret")
    args = ("act", policy, "--image", PHOTO, "--prompt", "go")
    code, out, err = wamkit(*args)
    assert code and not out
    assert "names paths outside its folder" in err and "--trust-paths" in err
    assert "\x1b" not in err
    changed(policy, backbone=str(policy.parent / "none.safetensors"))
    code, _, err = wamkit(*args, "--trust-paths")
    assert "outside its folder" not in err


def test_every_verb_that_takes_a_policy_has_the_option() -> None:
    having = {name for name in VERBS if "trust_paths" in {p.name for p in verb(name).params}}
    assert having == {
        "check", "explain", "compare", "bench", "build", "act", "imagine", "estimate", "train",
        "precompute", "data", "eval", "serve", "prune", "show", "diff", "sweep", "compose",
        "explore", "fit", "export", "probe",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        ({"vae": {"weights": "hf:owner/name"}}, {}),
        ({"vae": {"weights": "wan"}}, {"vae.weights": "wan"}),
        ({"vae": {"derived_from": "/x"}, "text_encoder": {"prompt_template": "/{prompt}"}}, {}),
        ({"paradigm": {"inner": {"files": ["a", "/b"]}}}, {"paradigm.inner.files.1": "/b"}),
        ({"backbone": {"table": "..\\..\\x"}}, {"backbone.table": "..\\..\\x"}),
        ({"cameras": {"views": [{"name": "/x"}]}}, {}),
        ({"vae": "toy"}, {}),
    ],
)
def test_paths_are_known_by_their_field_or_by_their_form(
    raw: dict[str, Any], found: dict[str, str]
) -> None:
    assert named_paths(raw) == found


def test_a_saved_policy_remembers_the_paths_of_its_maker(tmp_path: Path) -> None:
    remember(["/models/t5"])
    assert Path("/models/t5").as_posix() in trusted_paths()
    remember(["/models/t5", "/models/t5/../t5"])
    assert memory().read_text().count("/models/t5") == 1
