"""Tables at any width: no number and no name is cut or split, no line is too long."""

from __future__ import annotations

import random
import sys
from collections import Counter

import pytest

from wamkit.cli._folding import PIPE, brief, cells, count, fold, fold_items, width
from wamkit.cli._output import table
from wamkit.cli._tables import Table

HEADS = ("name", "depth", "a long head", "mlp_dim", "what it is for", "weights", "sees")
WORDS = ["a", "video", "transformer", "that", "reads", "observed,", "2.2-ti2v-5b", "and", "text"]


def made(seed: int, rows: int, columns: int) -> Table:
    """A table of names, numbers and text that a seed decides."""
    draw = random.Random(seed)
    heads = [f"{draw.choice(HEADS)}{'_' * draw.randrange(3)}{i}" for i in range(columns)]
    kinds = [draw.choice(["right", "keep", "text", "center", "same"]) for _ in heads]
    kinds[0] = "keep"
    found = table(
        *heads,
        right=[h for h, kind in zip(heads, kinds, strict=True) if kind == "right"],
        keep=[h for h, kind in zip(heads, kinds, strict=True) if kind in ("keep", "same")],
        center=[h for h, kind in zip(heads, kinds, strict=True) if kind == "center"],
    )
    for i in range(rows):
        texts = {
            "right": lambda: str(draw.randrange(10 ** draw.randrange(1, 13))),
            "keep": lambda i=i: f"name-{i}-{draw.randrange(10**6)}",
            "text": lambda: " ".join(draw.choices(WORDS, k=draw.randrange(12))),
            "center": lambda: draw.choice("■·"),
            "same": lambda: "Apache-2.0",
        }
        found.add_row(*(texts[kind]() for kind in kinds))
    return found


def word_counts(found: Table) -> Counter[str]:
    """Every word of every cell; what each row says alike counts once."""
    counted: Counter[str] = Counter()
    for i in range(len(found.columns)):
        column = [row.cells[i] for row in found.rows]
        for text in column[:1] if i and len(set(column)) == 1 else column:
            counted.update(text.split())
    return counted


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_every_word_of_every_cell_is_uncut_at_any_width(seed: int, columns: int) -> None:
    found = made(seed, rows=1 + seed % 9, columns=1 + seed % 13)
    lines = [line.text for line in found.lines(columns)]
    message = Counter(word.strip(",;:") for line in lines for word in line.split())
    for word, times in word_counts(found).items():
        assert message[word.strip(",;:")] >= times, (word, lines)
    for column in found.columns:
        for word in column.name.split():
            assert word in message, (word, lines)
    assert max(map(cells, lines)) <= columns, lines


def test_a_table_that_fits_is_drawn_as_it_is() -> None:
    found = table("variant", "width", right=("width",), keep=("variant",))
    found.add_row("2.1-t2v-1.3b", "1536")
    found.add_row("tiny", "72")
    assert [line.text for line in found.lines(80)] == [
        "variant       width",
        "─" * 19,
        "2.1-t2v-1.3b   1536",
        "tiny             72",
    ]


def test_values_shared_by_every_row_are_printed_once_in_narrow_tables() -> None:
    found = table("plugin", "from", "offers", keep=("plugin", "from"))
    for name in ("toy", "wan"):
        found.add_row(name, "a-distribution", f"backbone {name}, vae {name} and an encoder")
    texts = [line.text for line in found.lines(50)]
    assert texts[0] == "in every row: from a-distribution" and "from" not in texts[1]
    assert "a-distribution" in found.lines(80)[2].text


def test_marks_stand_below_letters_that_are_explained() -> None:
    paradigms = ["adaptive", "autoregressive", "conditional", "image_edit", "single_pass"]
    found = table("head", *paradigms, keep=("head",), center=paradigms)
    for name in ("mot", "reader"):
        found.add_row(name, *"■■1■■")
    texts = [line.text for line in found.lines(40)]
    assert texts[0].startswith("a adaptive, b autoregressive,")
    assert texts[-2].split() == ["mot", *"■■1■■"]


def test_a_table_of_many_numbers_is_split_or_transposed() -> None:
    numbers = [f"left_arm.joint_{i}" for i in range(26)]
    found = table("seconds", *numbers, right=("seconds", *numbers))
    for step in range(3):
        found.add_row(f"0.{step}0", *(f"-{i}.{step}123" for i in range(26)))
    texts = [line.text for line in found.lines(60)]
    for i, name in enumerate(numbers):
        assert any(name in text.split() for text in texts)
        for step in range(3):
            assert any(f"-{i}.{step}123" in text.split() for text in texts)


def test_a_name_longer_than_a_line_makes_the_line_longer() -> None:
    path = "a_folder_with_a_name/" * 5 + "model.safetensors"
    found = table("tensor", "shape", keep=("tensor", "shape"))
    found.add_row(path, "13824 x 5120")
    found.add_row("bias", "1234567890123")
    text = "\n".join(line.text for line in found.lines(60))
    assert path in text and "13824 x 5120" in text and "1234567890123" in text


def test_wide_characters_count_as_two_columns() -> None:
    found = table("task", "instruction", keep=("task",))
    found.add_row("コップを取る", "pick up the cup and put it on the table next to the sink")
    lines = [line.text for line in found.lines(40)]
    assert max(map(cells, lines)) <= 40 and "コップを取る" in lines[2]
    assert cells("コップを取る") == 12


def test_text_folds_at_spaces_and_keeps_a_quoted_command_on_one_line() -> None:
    text = "choose another one (`wamkit list action_head`), or leave it out"
    lines = fold(text, 44, "  ")
    assert any("`wamkit list action_head`" in line for line in lines)
    assert " ".join(" ".join(lines).split()) == text and max(map(len, lines)) <= 44
    assert fold("", 20) == [""] and fold("x" * 30, 20) == ["x" * 30]
    assert fold_items(["width 3072", "heads 24", "depth 30"], 22).split("\n") == [
        "width 3072, heads 24,",
        "depth 30",
    ]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [("80", 80), ("5", 20), ("0", PIPE), ("wide", PIPE), ("", PIPE), ("²", PIPE), (None, PIPE)],
)
def test_the_width_is_that_of_columns_or_of_a_pipe(
    columns: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert width() == expected


def test_values_keep_all_digits_before_the_point() -> None:
    assert [brief(x) for x in (0, 0.01234, 12.345, 999.9, 1234.5, 1234567.8)] == [
        "0",
        "0.0123",
        "12.3",
        "1000",
        "1234",
        "1,234,568",
    ]
    assert [count(n) for n in (0, 14336, 99_999, 1_436_160, 1234567890123)] == [
        "0",
        "14336",
        "99999",
        "1,436,160",
        "1,234,567,890,123",
    ]
