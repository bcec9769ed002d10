"""What `crash_points.py` kills besides training: what else replaces or adds to what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crash_scenarios import SPEC, Command, Scenario, digest, loaded, recorded

WARM = (
    "av",
    "wamkit.cli.precompute",
    "wamkit.cli.schema",
    "wamkit.cli.prune",
    "wamkit.data.encoding",
    "wamkit.data.writer",
    "wamkit.checkpoints.prune",
    "wamkit.policy.precomputed_text",
)


def typed(*commands: Callable[[Path], Command]) -> Callable[[Path], None]:
    """Commands that are typed one after the other, to prepare a scenario."""

    def act(home: Path) -> None:
        from wamkit.cli import app

        for command in commands:
            try:
                app([str(word) for word in command(home)], prog_name="wamkit")
            except SystemExit as end:
                assert not end.code

    return act


def build(home: Path, *more: object) -> Command:
    """A policy from the spec, into its folder."""
    return ["build", SPEC, "--out", home / "policy", *more]


def build_over(home: Path) -> Command:
    """Other weights over those that are there."""
    return build(home, "--set", "seed=1")


def save_again(home: Path) -> Command:
    """A saved policy with other steps, over itself."""
    policy = home / "policy"
    return ["build", policy, "--out", policy, "--set", "schedules.action.steps=3"]


def policy(home: Path) -> str:
    """The saved policy, as `act` reads it."""
    loaded(home / "policy")
    return digest(home / "policy")


def cut(heads: int) -> Callable[[Path], Command]:
    """A student with one block, and so many heads."""
    command: Command = ["prune", SPEC, "--layers", 1, "--num-heads", heads]
    return lambda home: [*command, "--out", home / "student"]


def student(home: Path) -> str:
    """The sliced policy, as `build` reads it."""
    from wamkit.policy.build import build

    build(home / "student" / "spec.yaml")
    return digest(home / "student")


def prompts(count: int) -> Callable[[Path], Command]:
    """Embeddings of the first so many prompts."""

    def command(home: Path) -> Command:
        file = home.parent / f"prompts-{count}.txt"
        file.write_text("\n".join(f"pick up cup {i}" for i in range(count)))
        return ["precompute", "text", SPEC, "--prompts", file, "--out", home / "text.safetensors"]

    return command


def embeddings(home: Path) -> str:
    """The stored embeddings, all of them read."""
    from wamkit.config.spec import parse, read
    from wamkit.policy.precomputed_text import StoredEncoder

    StoredEncoder(home / "text.safetensors", parse(read(SPEC)).text_encoder)
    return digest(home / "text.safetensors")


def encode(home: Path) -> Command:
    """The latents of a data set."""
    data, out = home / "data", home / "latents"
    return ["precompute", "latents", SPEC, "--data", data, "--out", out]


def latents(home: Path) -> str:
    """The stored latents, all of them read."""
    from wamkit.data.latents import StoredLatents
    from wamkit.errors import WamkitError

    try:
        stored = StoredLatents(home / "latents")
    except WamkitError:
        return "not all of them yet"
    for place in stored._places:
        stored[place]
    return digest(home / "latents")


def episode(number: int) -> Callable[[Path], None]:
    """Open a data set, and add an episode with a film unless it is there."""

    def act(home: Path) -> None:
        import numpy as np

        from wamkit.data import Feature, Writer

        features = {
            "observation.images.front": Feature("video", (32, 32, 3)),
            "observation.state": Feature("float32", (2,)),
            "action": Feature("float32", (2,)),
        }
        with Writer(home / "demos", 10, features, codec="h264") as writer:
            if writer.notes.get("episodes") == number + 1:
                return
            writer.notes["episodes"] = number + 1
            for k in range(4):
                image = np.full((32, 32, 3), 20 * k + number, np.uint8)
                pair = np.full(2, k + number, np.float32)
                frame = {"observation.images.front": image, "observation.state": pair}
                writer.add_frame(frame | {"action": pair})
            writer.add_episode(f"task {number}")

    return act


def demos(home: Path) -> str:
    """The data set, its frames and its images read."""
    from wamkit.data import LeRobotFolder
    from wamkit.data.reader import ColumnStore, FrameReader

    recording = LeRobotFolder(home / "demos")
    episodes = recording.episodes
    ColumnStore(recording, episodes, ["action"])["action"]
    for one in episodes:
        FrameReader(recording).read(one, "observation.images.front", [0, one.length - 1])
    return f"{len(episodes)} episodes {digest(home / 'demos')}"


def schema(home: Path) -> Command:
    """A file that is written over another."""
    return ["schema", "--out", home / "schema.json"]


SAVING = (
    Scenario("build over", typed(build), build_over, policy, build_over),
    Scenario("save again", typed(build), save_again, policy, save_again),
    Scenario("slice over", typed(cut(1)), cut(2), student, cut(2)),
    Scenario("precompute text", typed(prompts(2)), prompts(4), embeddings, prompts(4)),
    Scenario("precompute latents", recorded, encode, latents, encode, standing=False),
    Scenario(
        "add",
        prepare=episode(0),
        command=lambda home: lambda: episode(1)(home),
        found=demos,
        again=lambda home: lambda: episode(1)(home),
    ),
    Scenario(
        "schema",
        prepare=lambda home: (home / "schema.json").write_text("{}"),
        command=schema,
        found=lambda home: digest(home / "schema.json"),
        again=schema,
    ),
)
