"""The questions of `wamkit compose`, answered through a pipe as at a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("questionary")
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from wamkit.cli.compose.asked import Asked
from wamkit.cli.compose.offers import list_offers
from wamkit.cli.compose.wizard import ask
from wamkit.config.check import check
from wamkit.config.spec import read
from wamkit.errors import WamkitError

ENTER, DOWN, CLEAR = "\r", "\x1b[B", "\x15"


@pytest.fixture
def keyboard() -> Iterator[Any]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


def test_the_answers_become_a_command_that_writes_what_fits(
    keyboard: Any, tmp_path: Path, capsys: Any, wamkit: Any
) -> None:
    out = tmp_path / "mine.toml"
    keys = ["toy", ENTER]  # typed letters filter the list
    keys += [ENTER, ENTER, ENTER, DOWN, ENTER]  # the VAE, the encoder and the head first offered
    keys += [ENTER]  # no data set
    keys += [CLEAR, "front=64x96", ENTER, CLEAR, "arm:3:delta,grip:1", ENTER]
    keys += [CLEAR, "5", ENTER, ENTER, CLEAR, "8", ENTER]
    keys += [CLEAR, str(out), ENTER]
    keyboard.send_text("".join(keys))
    asked = ask(Asked())
    printed = capsys.readouterr().out
    assert asked.command() in printed and "The same without questions:" in printed
    assert "tokens:" in printed and "backbone 1.4 M" in printed  # parameters so far
    assert asked.parts["backbone"] == "toy" and asked.chunk == 8 and asked.state == "5"
    code, _, err = wamkit(*asked.args()[1:])
    assert code == 0, err
    assert check(read(out)) == [] and read(out)["backbone"]["name"] == "toy"


def test_what_does_not_fit_is_offered_last_with_the_reason() -> None:
    asked = Asked(parts={"backbone": "timm_vit:tiny"})
    fits, *_, last = list_offers(asked, "paradigm", ["joint", "single_pass"])
    assert fits.word == "single_pass" and fits.why_not is None
    assert fits.title.startswith("single_pass  ") and fits.title.endswith(" tokens")
    assert last.word == "joint" and "none is left to imagine" in str(last.why_not)
    (offer,) = list_offers(Asked(), "backbone", ["toy"])
    assert "1.4 M parameters" in offer.title


def test_ctrl_c_ends_the_questions(keyboard: Any) -> None:
    keyboard.send_text("\x03")
    with pytest.raises(KeyboardInterrupt):
        ask(Asked())


def test_without_questionary_the_error_says_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "questionary", None)
    with pytest.raises(WamkitError) as error:
        ask(Asked())
    assert ".[wizard]" in error.value.hint
