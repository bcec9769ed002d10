"""The command `wamkit`: one file per verb, imported on first use.

A verb is a module with a function `command`, whose signature is its command line, and an `EXAMPLE`.
"""

from __future__ import annotations

import ast
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import did_you_mean
from ..files.variables import VARIABLES
from ._help import Verb, formatter

# Verb -> its module in this package, in the order of `wamkit --help`.
VERBS = {
    "list": "listing",
    "show": "show",
    "check": "check",
    "explain": "explain",
    "schema": "schema",
    "matrix": "matrix",
    "compose": "compose.command",
    "diff": "diff",
    "explore": "explore.command",
    "compare": "compare",
    "bench": "bench",
    "import": "import_policy",
    "export": "export",
    "build": "build",
    "act": "act",
    "imagine": "imagine",
    "estimate": "estimate",
    "fit": "fit",
    "train": "train",
    "sweep": "sweep.command",
    "precompute": "precompute",
    "data": "data",
    "collect": "collect",
    "eval": "eval",
    "probe": "probe",
    "serve": "serve",
    "demo": "demo.command",
    "weights": "weights",
    "prune": "prune",
    "new": "new.command",
    "doctor": "doctor",
}
_POLICY = re.compile("SPEC|POLICY")  # what may be a saved policy is called so in usage lines


class Verbs(TyperGroup):
    """The verbs as typer commands."""

    def get_help(self, ctx: Any) -> str:
        """The page, folded at spaces."""
        ctx.formatter_class = formatter(type(ctx).formatter_class)
        return super().get_help(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Every verb with its whole summary."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(name)) for name in VERBS])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The environment variables, and the example."""
        with formatter.section("Environment variables"):
            formatter.write_dl(list(VARIABLES.items()))
        super().format_epilog(ctx, formatter)

    def list_commands(self, ctx: Any) -> list[str]:
        """Every verb."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a verb; a misspelt one is refused with the nearest."""
        if cmd_name in VERBS:
            return verb(cmd_name)
        if not ctx.resilient_parsing and not cmd_name.startswith("-"):
            hint = did_you_mean(cmd_name, list(VERBS), f"The commands are {', '.join(VERBS)}.")
            ctx.fail(f"No such command {cmd_name!r}. {hint[0].upper()}{hint[1:]}")
        return None


def summary_of(name: str) -> str:
    """The first sentence of a verb's help, read from its source: its module is not imported."""
    file = Path(__file__).parent / f"{VERBS[name].replace('.', '/')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    named = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    run = next(node for node in named if node.name == "command")
    text = " ".join((ast.get_docstring(run) or "").split())
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0]


def verb(name: str) -> Any:
    """The typer command of one verb."""
    from ._notes import print_notes
    from ._options import trust_paths, wide_tables
    from ._output import polite

    module = import_module(f".{VERBS[name]}", __name__)
    run = polite(print_notes(module.command))
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name, cls=Verb, epilog=f"Example: {module.EXAMPLE}")(run)
    command = typer.main.get_command(single)
    if any(p.name == "spec" or _POLICY.search(p.metavar or "") for p in command.params):
        command.params.append(trust_paths())
    if hasattr(module, "show_table") or getattr(module, "PRINTS_TABLES", False):
        command.params.append(wide_tables())
    return command


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


app = typer.Typer(
    cls=Verbs,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: wamkit act examples/toy.toml --image photo.jpg --prompt 'pick up the cup'",
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Robot policies composed of parts: backbone, VAE, text encoder, action head, paradigm."""


def main() -> None:
    """Run the command line of this process."""
    if "COMP_WORDS" in os.environ:
        from ._completion import complete_behind, join_words

        if lead := join_words(os.environ):
            complete_behind(lead, lambda: app(prog_name="wamkit"))
    app(prog_name="wamkit")
