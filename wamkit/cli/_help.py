"""Help pages for the width of the terminal: words are never cut, summaries are complete."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from typer.core import TyperCommand

from ._folding import cells, fold, width

WIDEST = 100  # columns; longer lines are hard to read


class Verb(TyperCommand):
    """A command whose help page is folded at spaces."""

    def get_help(self, ctx: Any) -> str:
        """The page."""
        ctx.formatter_class = formatter(type(ctx).formatter_class)
        return super().get_help(ctx)


@cache
def formatter(base: Any) -> Any:
    """A formatter of help pages like `base` that folds as tables do."""

    class Help(base):  # type: ignore[misc]
        """Writes usage, text and lists of options."""

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.width = min(width(), WIDEST)

        def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
            """One line, or several with the arguments below each other."""
            lines = fold(f"{prefix or 'Usage: '}{prog} {args}", self.width, " " * 4)
            self.write("\n".join(lines) + "\n")

        def write_text(self, text: str) -> None:
            """Paragraphs, folded anew."""
            indent = " " * self.current_indent
            for i, paragraph in enumerate(text.strip().split("\n\n")):
                text_line = indent + " ".join(paragraph.split())
                self.write(
                    ("\n" if i else "") + "\n".join(fold(text_line, self.width, indent)) + "\n"
                )

        def write_dl(
            self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
        ) -> None:
            """Names and their descriptions in two columns, or below each other for long names."""
            most = min(col_max, self.width // 3)
            first = min(most, max((cells(name) for name, _ in rows), default=0)) + col_spacing
            indent, column = " " * self.current_indent, " " * (self.current_indent + first)
            for name, text in rows:
                begin = f"{indent}{name}"
                if cells(begin) + col_spacing > len(column):
                    self.write(begin + "\n")
                    begin = ""
                paragraph = " ".join(text.split())
                lines = fold(paragraph, max(1, self.width - len(column))) if paragraph else [""]
                lead = begin + " " * max(0, len(column) - cells(begin))
                for i, line in enumerate(lines):
                    self.write(((lead if i == 0 else column) + line).rstrip() + "\n")

    return Help
