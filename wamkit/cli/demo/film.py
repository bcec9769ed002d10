"""The films of the report: the expert, a success and a failure, in images larger than a policy's.

What a film shows:

    +-----------------------+   what happens, rendered anew by carrying out the same actions;
    |         now           |   in a green frame from the first success on
    +-----------+-----------+
    | imagined  | seen then |   the last frame that the policy imagined, and what its own camera
    +-----------+-----------+   saw at that moment
    |======|----^-----------|   time: played so far, and the moment of the imagined frame
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ...config.parts import EnvironmentConfig
from ...files.durable import write_bytes
from ...simulate.env_pool import EnvPool, Progress
from ...simulate.environment import EnvObservation
from ...simulate.episodes import Rollout
from .stages import Found, OpenProgress, Way, keep_result, policy_runner

SIDE, GAP, STRIP, BAR = 384, 8, 24, 36  # pixels
LONGEST = 160  # images of a film
HELD = 12  # images that the last one stays
LARGEST = 1_100_000  # bytes of a film
SLOWER = 4
"""How many times slower than in truth a film runs."""
BACK, TEXT, TRACK = "#1d2125", "#f2efe9", "#4a5158"
PLAYED, SOLVED, IMAGINED = "#d5d2ca", "#2fbf8f", "#56b4e9"


def record_films(out: Path, way: Way, workers: Any, progress: OpenProgress) -> Found:
    """Film the expert, an episode that the policy solved and one that it did not.

    The policy plays them again, looking at every step and imagining at every decision. Where it
    solved all, the failure is that of the same network before it learned.
    """
    from ...policy.build import build
    from ...simulate.rollout import evaluate, play

    place, result = out / way.name, way.result
    assert result is not None and way.spec is not None, "only an evaluated policy is filmed"
    spec = way.spec

    def make() -> Found:
        runner = policy_runner(place, workers, imagine=True)
        seeds = {one["success"]: one["seed"] for one in reversed(result["per_episode"])}
        takes = [(way.name, runner, seeds[end]) for end in (True, False) if end in seeds]
        if False not in seeds:
            untrained = policy_runner(place, workers, imagine=True)
            untrained.policy.load_state_dict(build(spec).state_dict())
            takes.append((f"{way.name} before it learned", untrained, seeds[True]))
        with progress(f"films of {way.name}", 2 + len(takes)) as report:
            rollouts = [next(play(workers, [takes[0][2]], "expert", keep=True))]
            for done, (_, actor, seed) in enumerate(takes, 1):
                report(done, "")
                rollouts += evaluate(workers, [seed], actor, {}, keep=True)
            report(1 + len(takes), "")
            large = render(workers.config, rollouts)
            solved = [rollout.steps for rollout in rollouts if rollout.success]
            count = 1 + min(LONGEST, max(solved, default=LONGEST))
            video, hz = spec.video, workers.robot().control_hz
            ahead = video.frame_stride * (video.num_frames - video.num_observed)
            clips = []
            names = ["expert", *(name for name, _, _ in takes)]
            for i, (who, rollout, images) in enumerate(zip(names, rollouts, large, strict=True)):
                write(place / f"film_{i}.webp", rollout, images, count, ahead, hz)
                clip = {name: getattr(rollout, name) for name in ("seed", "success", "steps")}
                clip |= {"who": who, "file": f"film_{i}.webp", "imagined": bool(rollout.imagined)}
                clips.append(clip | {"shown": min(rollout.steps, count - 1)})
            report(2 + len(takes), "")
        return {"instruction": rollouts[0].instruction, "ahead": ahead, "clips": clips}

    return keep_result(place / "film.json", make)


def render(config: EnvironmentConfig, rollouts: Sequence[Rollout]) -> list[list[Any]]:
    """The images [height, width, 3] uint8 of each rollout, large: a seed and its actions again."""
    size, made = getattr(config, "size", None), []
    if isinstance(size, int):
        config = config.model_copy(update={"size": max(size, SIDE)})
    with EnvPool(config, 1) as studio:
        for rollout in rollouts:
            studio.ask(0, "reset", rollout.seed)
            looks: dict[int, EnvObservation] = {0: studio.answer(0)}
            studio.ask(0, "advance", [frame.action for frame in rollout.frames[:LONGEST]], 1)
            progress: Progress = studio.answer(0)
            looks |= progress.observations
            made.append([next(iter(seen.images.values())) for seen in looks.values()])
    return made


def write(
    file: Path, rollout: Rollout, large: Sequence[Any], count: int, ahead: int, hz: float
) -> None:
    """Write a film of `count` images as animated WebP, the last one held where there are fewer.

    `ahead`: actions from a decision to the last image it imagines. `hz`: actions a second; the film
    shows SLOWER times fewer. The quality is the best that stays below LARGEST bytes.
    """
    images = [_composed(rollout, large, step, count, ahead, hz) for step in range(count)]
    images += images[-1:] * HELD
    for quality in (75, 50, 25, 5):
        made = BytesIO()
        images[0].save(
            made,
            "WEBP",
            save_all=True,
            append_images=images[1:],
            duration=round(1000 * SLOWER / hz),
            loop=0,
            quality=quality,
            method=2,
        )
        if made.tell() <= LARGEST:
            break
    write_bytes(file, made.getvalue())


def _composed(
    rollout: Rollout, large: Sequence[Any], moment: int, count: int, ahead: int, hz: float
) -> Any:
    """One image: what is there at `moment`, in actions; what was imagined last; the time."""
    from PIL import Image, ImageDraw

    step = min(moment, len(large) - 1)
    half = (SIDE - GAP) // 2
    low = SIDE + GAP + (STRIP + half + GAP if rollout.imagined else 0)
    image = Image.new("RGB", (SIDE, low + BAR), BACK)
    draw = ImageDraw.Draw(image)
    image.paste(_scaled(large[step], SIDE), (0, 0))
    if any(frame.success for frame in rollout.frames[:step]):
        draw.rectangle((0, 0, SIDE - 1, SIDE - 1), outline=SOLVED, width=6)
    scale, top = (SIDE - 1) / max(1, count - 1), low + 19
    draw.rectangle((0, top, SIDE, top + 7), fill=TRACK)
    draw.rectangle((0, top, step * scale, top + 7), fill=PLAYED)
    _label(draw, (3, low - 3), f"{1000 * step / hz:.0f} ms", TEXT)
    if rollout.imagined:
        decided = max(d for d in rollout.imagined if d <= step)
        seen = [frame.seen for frame in rollout.frames]
        seen += [rollout.last] if rollout.last is not None else []
        camera, clip = next(iter(rollout.imagined[decided].items()))
        then, y = decided + ahead, SIDE + GAP
        truth = seen[min(then, len(seen) - 1)].images[camera]
        image.paste(_scaled(clip[-1], half), (0, y + STRIP))
        image.paste(_scaled(truth, half), (half + GAP, y + STRIP))
        _label(draw, (3, y), f"imagined for {1000 * then / hz:.0f} ms", IMAGINED)
        _label(draw, (half + GAP, y), "seen then" if then < len(seen) else "seen at the end", TEXT)
        x = min(then * scale, SIDE - 4)
        draw.polygon([(x, top + 6), (x - 6, top + 16), (x + 6, top + 16)], fill=IMAGINED)
        draw.rectangle((x - 1, top, x + 1, top + 7), fill=IMAGINED)
    return image


def _scaled(pixels: Any, side: int) -> Any:
    from PIL import Image

    image = Image.fromarray(pixels)
    kind = Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS
    return image if image.size == (side, side) else image.resize((side, side), kind)


def _label(draw: Any, place: tuple[int, int], text: str, color: str) -> None:
    from PIL import ImageFont

    draw.text(place, text, fill=color, font=ImageFont.load_default(15))
