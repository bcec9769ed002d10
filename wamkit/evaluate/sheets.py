"""Sheets of what was imagined and simulated from one state, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from ..files.durable import write_bytes
from .probe import Probed

HEIGHT, GAP, LINE = 128, 4, 16  # pixels
PAPER, INK = "white", "black"


def write_sheet(found: Probed, file: Path) -> None:
    """Write a column for each action: its name, the imagined future, the simulated one.

    The first column is the state; views are side by side.
    """
    columns: list[tuple[str, Image.Image, Image.Image | None]] = [
        ("state", _row(found.start), None)
    ]
    for place, name in enumerate(found.returns):
        ours = _row({view: images[place] for view, images in found.imagined.items()})
        theirs = _row({view: images[place] for view, images in found.real.items()})
        columns.append((name, ours, theirs))
    width = columns[0][1].width + GAP
    left = 64  # of the labels of the rows
    sheet = Image.new("RGB", (left + len(columns) * width, LINE + 2 * (HEIGHT + GAP)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, label in enumerate(("imagined", "simulated")):
        draw.text((2, LINE + row * (HEIGHT + GAP) + HEIGHT // 2), label, INK)
    for number, (name, *images) in enumerate(columns):
        x = left + number * width
        draw.text((x, 2), name, INK)
        for row, image in enumerate(images):
            if image is not None:
                sheet.paste(image, (x, LINE + row * (HEIGHT + GAP)))
    made = BytesIO()
    sheet.save(made, format="PNG")
    write_bytes(file, made.getvalue())


def _row(views: Mapping[str, Tensor]) -> Image.Image:
    """Views [3, height, width] in [-1, 1] side by side, HEIGHT pixels high."""
    images = []
    for image in views.values():
        pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
        made = Image.fromarray(pixels.contiguous().numpy())
        size = (round(HEIGHT * made.width / made.height), HEIGHT)
        images.append(made.resize(size, Image.Resampling.NEAREST))
    row = Image.new("RGB", (sum(one.width for one in images), HEIGHT), PAPER)
    x = 0
    for one in images:
        row.paste(one, (x, 0))
        x += one.width
    return row
