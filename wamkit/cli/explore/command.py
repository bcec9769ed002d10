"""`wamkit explore`: a page on which one tries what fits with what, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...errors import WamkitError
from .._options import Json
from .._output import emit, note, say, spinner
from .._sources import resolve_source

EXAMPLE = "wamkit explore examples/fastwam.toml --out wamkit-explore.html"

OUT = Path("wamkit-explore.html")
MARK = b"<title>wamkit explore"
"""What a page begins with; one that is there is made anew."""


def command(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="[SPEC]", help="A spec or a saved policy to begin with."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help=f"The page to write; {OUT} if left out.")] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page on this machine until Ctrl-C.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Where --serve listens; 0 is any free port.")
    ] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a file that is no page of this verb.")
    ] = False,
    json: Json = False,
) -> None:
    """Write a page to explore what fits with what: parts, reasons, attention, one call, its cost.

    The page is one file that loads nothing else: it opens in any browser, also offline. It knows
    the installed parts and the systems of examples/. No weights are needed.
    """
    if serve and out is not None:
        raise WamkitError("--serve and --out both say where the page goes", "leave one out")
    file = out or OUT
    if file.suffix not in {".html", ".htm"}:
        raise WamkitError(f"{file} is not .html", "choose a name that ends in .html")
    if not serve and not force:
        _expect_free(file)
    from .data import page_data
    from .page import page

    with spinner("counting"):
        text = page(page_data(None if spec is None else resolve_source(spec)))
    if serve:
        _serve(text, port)
        return
    from ...files.durable import as_not_written, make_folder, write_text

    with as_not_written(file):
        make_folder(file.parent)
    write_text(file, text)
    if json:
        emit({"page": str(file), "bytes": len(text.encode())})
    else:
        say(f"wrote {file}", whole=True)


def _expect_free(file: Path) -> None:
    """Raise WamkitError if there is something at `file` that this verb did not write."""
    if not file.exists():
        return
    if file.is_file():
        with file.open("rb") as found:
            if MARK in found.read(2**16):
                return
    raise WamkitError(
        f"{file} exists, and is no page of `wamkit explore`",
        "choose another --out, or replace it with --force",
    )


def _serve(text: str, port: int) -> None:
    """Serve one page on 127.0.0.1 until SIGINT (Ctrl-C) or SIGTERM."""
    import signal
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    body = text.encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing about requests."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        raise WamkitError(
            f"port {port} cannot be used: {error.strerror}", "choose another --port"
        ) from None
    with server:
        say(f"http://127.0.0.1:{server.server_port}/", whole=True)
        note("Ctrl-C ends it")
        try:
            for number in (signal.SIGINT, signal.SIGTERM):  # which background jobs ignore
                signal.signal(number, signal.default_int_handler)
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped")
