"""`wamkit imagine`: the future a policy expects, as an animation or a strip of images."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import WamkitError
from ..files.durable import write_bytes
from ._folding import unbroken
from ._options import Device, Images, Json, Overrides, Prompt, Seed, Source, State, Tiny
from ._output import emit, note, say, spinner
from ._sources import resolve_source

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..policy.observation import Imagined

EXAMPLE = "wamkit imagine examples/toy.toml --image photo.jpg --prompt 'pour the milk' --out a.gif"

ENDINGS = (".gif", ".png")
OBSERVED, IMAGINED = (120, 120, 120), (230, 140, 30)  # colors of the frames: gray and orange
BORDER = 4  # pixels
READABLE = 128  # the height in pixels that small images are enlarged to


def command(
    source: Source,
    image: Images,
    prompt: Prompt,
    out: Annotated[
        Path, typer.Option(help="File to write: an animation (.gif) or a strip (.png).")
    ],
    state: State = None,
    seed: Seed = 0,
    scale: Annotated[
        int | None,
        typer.Option(min=1, help="Enlargement factor; by default small images are enlarged."),
    ] = None,
    tiny: Tiny = False,
    overrides: Overrides = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Let a policy imagine: write the images it expects to see.

    Images that were observed have a gray border, those that are imagined an orange one.
    """
    from ._inputs import build_observation, chosen, load_policy

    _writable(out)
    begin = perf_counter()
    source = resolve_source(source)
    spec, notes = chosen(source, overrides or [], tiny=tiny)
    seen, filled = build_observation(spec, image, state, prompt, tiny=tiny)
    policy, untrained = load_policy(source, spec, device, overrides or [])
    ready = perf_counter()
    with spinner("imagining"):
        future = policy.imagine(seen, seed=seed)
    done = perf_counter()
    notes += filled + untrained
    times = scale or max(1, -(-READABLE // future.canvas.shape[-2]))
    images = add_borders(future, times)
    write(images, out, milliseconds=round(1000 * spec.video.frame_stride / spec.actions.control_hz))
    if json:
        size = [images[0].height, images[0].width]
        count = {"images": len(images), "observed": future.observed}
        emit({"out": str(out), **count, "size": size, "seed": seed, "notes": notes})
        return
    for line in notes:
        note(line)
    imagined = len(images) - future.observed
    say(
        f"wrote {unbroken(out)}: {future.observed} observed and {imagined} imagined images, "
        f"seed {seed}; {(ready - begin) * 1000:.0f} ms to load, "
        f"{(done - ready) * 1000:.0f} ms to imagine"
    )


def _writable(out: Path) -> None:
    if out.suffix.lower() not in ENDINGS:
        raise WamkitError(
            f"{out} ends in {out.suffix!r}; an animation ends in .gif, a strip in .png",
            f"--out {out.with_suffix('.gif')}",
        )
    if not out.parent.is_dir():
        raise WamkitError(f"there is no folder {out.parent}", f"mkdir -p {out.parent}")


def add_borders(future: Imagined, scale: int) -> list[Image]:
    """The images of the first sample, enlarged, each with a border that marks its kind."""
    from PIL import Image, ImageOps

    pixels = ((future.canvas[0] + 1) * 127.5).round().byte()  # [3, T, height, width]
    images = []
    for i, image in enumerate(pixels.permute(1, 2, 3, 0).numpy()):
        made = ImageOps.scale(Image.fromarray(image), scale, Image.Resampling.NEAREST)
        color = OBSERVED if i < future.observed else IMAGINED
        images.append(ImageOps.expand(made, BORDER, color))
    return images


def write(images: list[Image], out: Path, milliseconds: int) -> None:
    """Write an animation or a strip atomically."""
    from PIL import Image

    made = BytesIO()
    if out.suffix.lower() == ".gif":
        first, *rest = images
        options: dict[str, Any] = {"append_images": rest, "duration": milliseconds, "loop": 0}
        first.save(made, format="GIF", save_all=True, **options)
    else:
        width, height = images[0].size
        strip = Image.new("RGB", (width * len(images), height))
        for i, image in enumerate(images):
            strip.paste(image, (i * width, 0))
        strip.save(made, format="PNG")
    write_bytes(out, made.getvalue())
