"""What reaches a terminal, a log or a page: shown, never obeyed."""

from __future__ import annotations

import io
import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wamkit import WamkitError
from wamkit.cli import _output as output
from wamkit.cli._notes import print_notes
from wamkit.config.spec import parse, read
from wamkit.errors import OBEYED, printable
from wamkit.files.printable import OneLine
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
Run = Callable[..., tuple[int, str, str]]
OBEYED_TEXTS = {
    "color": "\x1b[31m",
    "title": "\x1b]0;gone\x07",
    "link": "\x1b]8;;http://x\x1b\\",
    "c1": "\x9b31m",
    "del": "\x7f",
    "bell": "\a",
    "return": "\r",
    "backspace": "\b\b",
    "null": "\0",
    "bidi": "\u202e",
    "isolate": "\u2066",
    "separator": "\u2028",
    "surrogate": "\udc9b",
    "mark": "\ufeff",
}


def clean(text: str) -> bool:
    return OBEYED.search(text) is None


@pytest.mark.parametrize("kind", OBEYED_TEXTS)
def test_what_a_terminal_obeys_is_written_out(kind: str) -> None:
    found = printable(f"a{OBEYED_TEXTS[kind]}b")
    assert clean(found) and found.startswith("a\\") and found.endswith("b")
    found.encode()


@pytest.mark.parametrize(
    "text", ["", "pick up", "a\n\tb", "Größe 50 %", "杯を取る", "👩‍🚀", "می‌خواهم"]
)
def test_what_is_printable_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_what_is_one_line_stays_one_line() -> None:
    assert printable("a\nerror: b\tc", lines=False) == "a\\nerror: b\\tc"


@pytest.mark.parametrize("kind", OBEYED_TEXTS)
def test_every_way_out_of_the_command_line_is_printable(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = f"[red]x[/y]{OBEYED_TEXTS[kind]}[link=http://x]"
    output.say(bad)
    output.say(bad, whole=True)
    output.note(bad)
    output.error(bad, bad, bad)
    output.emit_raw({bad: bad})
    made = output.table("key", bad)
    made.add_row(bad, bad)
    output.show_table(made)
    with output.spinner(bad):
        output.console(stderr=True).print(bad)
    out, err = capfd.readouterr()
    assert clean(out) and clean(err)
    assert "[red]x[/y]" in out and "[link=http://x]" in err  # text, and no markup
    assert json.loads(out[out.index("{") : out.index("}") + 1]) == {bad: bad}


def test_errors_and_warnings_are_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = WamkitError("a\x1b[2J", "b\u202e")
    assert clean(str(problem)) and clean(problem.what) and clean(problem.hint)
    printed: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning", lambda text, *_, **__: printed.append(str(text))
        )
        print_notes(lambda: warnings.warn("a\x1b[2J", stacklevel=2))()
    assert printed == ["a\\x1b[2J"]


def test_a_bar_on_a_terminal_takes_names_as_they_are() -> None:
    from rich.progress import Progress, TextColumn

    stream = io.StringIO()
    terminal = output._console_class()(file=stream, force_terminal=True, markup=False)
    with Progress(TextColumn("{task.description}", markup=False), console=terminal) as bar:
        bar.add_task("[/x]\x1b[31m[red]\u202e")
    assert "[/x]\\x1b[31m[" in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue() and "\u202e" not in stream.getvalue()


def test_no_column_of_a_bar_reads_markup() -> None:
    for file in (Path(__file__).parent.parent / "wamkit" / "cli").glob("*.py"):
        for line in file.read_text().splitlines():
            assert "TextColumn(" not in line or "markup=False" in line, f"{file}: {line}"


def test_a_log_has_a_printable_line_for_each_record() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine("%(asctime)s %(message)s"))
    logger = logging.Logger("untrusted")
    logger.addHandler(handler)
    logger.info("%s left", "a\n2026-01-01 b\x1b[31m")
    try:
        raise ValueError("c\x1b[31m")
    except ValueError:
        logger.exception("d")
    lines = stream.getvalue().splitlines()
    assert clean(stream.getvalue()) and lines[0].endswith("a\\n2026-01-01 b\\x1b[31m left")


@pytest.mark.parametrize("kind", ["color", "title", "c1", "bidi", "surrogate"])
def test_names_of_files_and_keys_are_printable(wamkit: Run, tmp_path: Path, kind: str) -> None:
    bad = OBEYED_TEXTS[kind]
    for name in (f"no{bad}such.toml", f"[/x]{bad}.toml"):
        for verb in ("check", "estimate", "explain"):
            code, out, err = wamkit(verb, tmp_path / name)
            assert code == 2 and clean(out) and clean(err) and "a bug" not in err
    if kind != "surrogate":
        text = SMALL.read_text() + f"\n[extra]\n{json.dumps('k' + bad, ensure_ascii=True)} = 1\n"
        (tmp_path / "s.toml").write_text(text)
        code, out, err = wamkit("check", tmp_path / "s.toml")
        assert code != 0 and clean(out) and clean(err)


def test_a_folder_whose_name_looks_like_markup_is_read(wamkit: Run, tmp_path: Path) -> None:
    (tmp_path / "[" / "x]").mkdir(parents=True)
    shutil.copy(SMALL, tmp_path / "[" / "x]" / "[red].toml")
    code, _, err = wamkit("estimate", tmp_path / "[" / "x]" / "[red].toml")
    assert code == 0, err


def test_instructions_of_a_data_set_are_printable(wamkit: Run, tmp_path: Path) -> None:
    made = record(tmp_path / "set", parse(read(SMALL, []), "small"))
    import pyarrow.parquet as pq

    for file in [*made.rglob("tasks.parquet"), *made.glob("meta/episodes/**/*.parquet")]:
        table = pq.read_table(file).to_pylist()
        _rewrite(file, table)
    code, out, err = wamkit("data", "show", made)
    assert code == 0 and clean(out) and clean(err) and "\\x1b[31m" in out


def _rewrite(file: Path, rows: list[dict[str, Any]]) -> None:
    """The same rows with a color in every instruction."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def bad(value: Any) -> Any:
        if isinstance(value, list):
            return [bad(each) for each in value]
        return f"\x1b[31m{value}" if isinstance(value, str) and "/" not in value else value

    pq.write_table(
        pa.Table.from_pylist([{k: bad(v) for k, v in row.items()} for row in rows]), file
    )
