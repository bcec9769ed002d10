"""The page as one file: data, style and scripts in a template, with nothing to load."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import WamkitError
from ...files import strict_json
from ...files.install import install_hint

HERE = Path(__file__).parent
MODEL = ("sizes", "views", "rules", "cost", "noise", "layers", "spec")
"""Scripts that compute; they touch no page, and tests run them alone."""
VIEW = ("dom", "controls", "results", "timeline", "attention", "map", "main")
"""Scripts that draw."""


def script(*names: str) -> str:
    """Scripts of the page in a row."""
    return "\n".join((HERE / "js" / f"{name}.js").read_text(encoding="utf-8") for name in names)


def page(data: Mapping[str, Any]) -> str:
    """The page about `data` (`data.page_data`). Raises WamkitError without Jinja2."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise WamkitError(
            "the page is made with Jinja2, which is not installed", install_hint("plots")
        ) from None
    made = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, keep_trailing_newline=True
    ).get_template("page.html.j2")
    style, code = (HERE / "page.css").read_text(encoding="utf-8"), script(*MODEL, *VIEW)
    text = strict_json.dumps(data, separators=(",", ":"), ensure_ascii=True)
    return made.render(
        version=__version__,
        style=style,
        script=code,
        style_hash=_hash(style),
        script_hash=_hash(code),
        data=text.replace("<", "\\u003c"),
    )


def _hash(text: str) -> str:
    """What a Content-Security-Policy knows an inline style or script by."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
