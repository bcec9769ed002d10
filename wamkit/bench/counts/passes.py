"""What passes cost for each backbone with each action head, as polynomials of their sizes.

Operations and bytes of a pass are those of self-attention, which the page computes from the
attention plan, and the rest, a polynomial of a few sizes. Its coefficients are solved for from
passes on the meta device, exactly; passes beyond those needed check that it is one.

All is counted in bfloat16, of which float32 takes twice the bytes. Networks compute a few things in
float32 in any case, such as levels; in a small one they are a tenth of all bytes, so it is counted
in float32 too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from ...checkpoints.safetensors import cast, parameters
from ...config.parts import ActionHeadConfig, BackboneConfig, HeadContext
from ...config.visibility import everyone
from ...engine.kv_cache import KVCache
from ...engine.levels import CLEAN, level_of
from ...interfaces import ExpertHead, ReaderHead
from ...interfaces.action_head import is_prefill
from ...interfaces.streams import all_streams, embed_videos, velocities
from ...interfaces.types import Frames, ModelInputs, ModelOutput, NoisyVectors, Text
from ...policy.cost import without_weights
from .runner import CountingRunner, no_random_weights
from .solving import Design

FRAMES = ("1", "F", "n", "nG", "nL", "L")
"""Of F frames of G tokens each, n = F G, with L text tokens."""
VECTORS = (
    *("1", "n", "NA", "A", "nn", "M", "nM", "nL", "L"),
    *("state", "state P", "state NP", "next", "next P", "value"),
)
"""Of n tokens of a head, N actions of size A among them, that read M tokens and L of text."""
OWN = ("1", "n", "nL", "L", "state P")
"""Of n tokens of a head that are passed to be kept."""
ORDERS = (
    ("n", "NA", "nL", "nM", "nn", "M", "L", "1", "state P", "state NP", "next P", "value"),
    ("n", "NA", "nL", "nM", "nn", "M", "L", "1", "state", "state P", "next", "next P", "value"),
    ("1", "n", "nL", "L", "M", "nM", "nn", "value", "state", "next", "A", "state P", "next P"),
)
"""Where few sizes were tried, several polynomials go through all counts: terms that come first are
tried first, and the polynomial with the fewest terms is kept."""
PLAIN = ("1", "n", "nL", "L", "M", "nM", "nn")
"""Terms of what comes nearest, where every polynomial found has large terms that cancel."""
MEMORY = ("1", "M", "L", "state", "state P")
"""Of what a head makes of M tokens that it reads, as long as these stay the same."""
KINDS = ("first", "kept", "whole", "noisy")
"""Passes of frames: a prefill with the text or with it cached, and the same with a velocity."""

# Frames, rows and columns of tokens, text tokens.
FRAME_POINTS = (
    *((1, 1, 2, 8), (2, 1, 2, 8), (1, 2, 2, 8), (2, 2, 3, 8)),
    *((1, 1, 2, 20), (2, 2, 2, 16), (3, 2, 3, 12)),
)
# Actions, their size, size of the state: heads that are built.
BUILDS = ((4, 3, 0), (7, 3, 0), (12, 5, 0), (4, 3, 2), (9, 4, 5))
# Which build; next state, value present; rows of tokens of the context; text tokens.
VECTOR_POINTS = (
    *((0, 0, 0, 1, 8), (1, 0, 0, 1, 8), (2, 0, 0, 1, 8), (0, 0, 0, 2, 8), (1, 0, 0, 3, 8)),
    *((0, 0, 0, 1, 16), (1, 0, 0, 1, 16), (0, 0, 1, 1, 8), (2, 0, 1, 3, 16)),
    *((3, 0, 0, 1, 8), (4, 0, 0, 1, 8), (3, 0, 0, 2, 16)),
    *((3, 1, 0, 1, 8), (4, 1, 0, 1, 8), (4, 1, 1, 2, 16)),
)
MEMORY_POINTS = ((0, 1, 8), (0, 2, 8), (0, 3, 16), (3, 1, 8), (4, 1, 16))
# More heads that are built for their parameters alone, as in BUILDS, with the rows of latents and
# what is predicted besides the action.
PARAMETER_POINTS = (
    *((4, 3, 0, 8, ()), (4, 3, 2, 8, ()), (4, 3, 5, 8, ())),
    *((4, 3, 0, 16, ("value",)), (4, 5, 0, 8, ("value",))),
)
PARAMETERS = ("1", "N", "A", "NA", "hw", "state", "P", "value", "next", "next P")
"""Of a head for N actions of size A and a state of size P, on latents of h x w."""
OWN_POINTS = ((0, 8), (0, 12), (3, 8), (4, 8), (3, 16), (4, 20))

Spent = tuple[int, int]  # operations, bytes
Polynomial = dict[str, list[int | float]]  # "operations" and "bytes" -> coefficients


@dataclass
class Costs:
    """What the page needs to know of the passes of one backbone with one head."""

    frames: dict[str, Polynomial] = field(default_factory=dict)
    """Kind of pass -> coefficients of FRAMES."""
    vectors: dict[str, Polynomial] = field(default_factory=dict)
    """"noisy", "kept" and "memory" -> coefficients of VECTORS, OWN and MEMORY."""
    suffix: Spent = (0, 0)
    """Of a text token for the state, once a chunk."""
    parameters: list[int | float] = field(default_factory=list)
    """Coefficients of PARAMETERS."""
    joins: str = "frames"
    """"tokens" where the head has a stream, "reads" where it reads hidden states."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Besides those of the actions in a pass: "always", "state_noisy", "state", "text", and
    "suffix" of the prompt."""
    awake: list[int] | None = None
    """Layers at which the head has blocks of its own."""
    reads: list[int] | None = None
    """Layers that the head reads."""
    unsolved: list[str] = field(default_factory=list)
    """What is no such polynomial."""
    float32: dict[str, Any] | None = None
    """The same `frames`, `vectors` and `suffix` in float32, of small networks."""

    def add_vectors(self, rows: list[list[int]], spent: list[Spent]) -> None:
        """Solve for the polynomial of VECTORS, with as few terms as go."""
        found: Polynomial = {}
        for place, kind in enumerate(("operations", "bytes")):
            found[kind] = fewest_terms(rows, [pair[place] for pair in spent])
        self.vectors["noisy"] = found

    def add(
        self, group: dict[str, Polynomial], name: str, design: Design, spent: list[Spent]
    ) -> None:
        """Solve for one polynomial."""
        found: Polynomial = {}
        for place, kind in enumerate(("operations", "bytes")):
            solved = design.solve([pair[place] for pair in spent])
            if solved is None:
                self.unsolved.append(f"{name} {kind}")
                solved = [Fraction(0)] * design.width
            found[kind] = [int(x) if x.denominator == 1 else float(x) for x in solved]
        group[name] = found


def fewest_terms(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[float]:
    """Coefficients of VECTORS through all values with few terms, or else near them."""
    best: tuple[int, list[float]] | None = None
    for order in ORDERS:
        columns = [VECTORS.index(name) for name in order]
        columns += [i for i in range(len(VECTORS)) if i not in columns]
        solved = Design([[row[i] for i in columns] for row in rows]).solve(values)
        if solved is None:
            continue
        found = [0.0] * len(VECTORS)
        for column, x in zip(columns, solved, strict=True):
            found[column] = float(x)
        loss = sum(-min(0.0, x) * y for x, y in zip(found, rows[2], strict=True))
        terms = sum(x != 0 for x in found)
        if loss < 0.01 * max(values[2], 1) and (best is None or terms < best[0]):
            best = terms, found
    if best is not None:
        return best[1]
    columns = [VECTORS.index(name) for name in PLAIN]
    matrix = np.array([[row[i] for i in columns] for row in rows], dtype=float)
    near = np.linalg.lstsq(matrix, np.array(values, dtype=float), rcond=None)[0]
    found = [0.0] * len(VECTORS)
    for column, x in zip(columns, near.tolist(), strict=True):
        found[column] = x
    return found


class Measured:
    """A backbone on the meta device, and what its passes of frames cost."""

    def __init__(self, config: BackboneConfig, dtype: torch.dtype = torch.bfloat16) -> None:
        self.config, self.traits, self.dtype = config, config.traits, dtype
        with no_random_weights(), torch.device("meta"):
            self.backbone = cast(without_weights(config).build(), dtype)
        self.runner = CountingRunner()
        self._texts: dict[int, Text] = {}
        rows = []
        for frames, height, width, length in FRAME_POINTS:
            n = frames * (tokens := self.tokens(height, width))
            rows.append([1, frames, n, n * tokens, n * length, length])
        self.design = Design(rows)
        self.spent = self.frames(self._frames_alone)

    def tokens(self, height: int, width: int) -> int:
        """Of a frame of so many rows and columns of patches."""
        return height * width + self.traits.frame_tokens

    def sizes(
        self, chunk: int, action: int, state: int, rows: int = 8, predicts: Sequence[str] = ()
    ) -> HeadContext:
        """What a head is built from, on latents of so many rows and twice as many columns."""
        return HeadContext(
            backbone=self.config,
            chunk=chunk,
            action=action,
            state=state,
            latent=(self.traits.latent_channels, rows, 2 * rows),
            frames=(1, 2),
            predicts=("action", *predicts),
        )

    def head(self, config: ActionHeadConfig, sizes: tuple[int, int, int]) -> Any:
        """An action head on the meta device, for actions, their size, and that of the state."""
        predicts = _predicted(sizes[2])
        with no_random_weights(), torch.device("meta"):
            head = without_weights(config).build(self.sizes(*sizes, predicts=predicts))
            return cast(head, self.dtype)

    def text(self, length: int) -> Text:
        """A prompt of zeros; what networks make of it is kept."""
        if length not in self._texts:
            width, extra = self.traits.text_width, self.traits.cond_embeds_width
            self._texts[length] = Text(
                torch.zeros(1, length, width, device="meta"),
                cond_embeds=torch.zeros(1, 1, extra, device="meta") if extra else None,
                follows=self.traits.text_follows,
            )
        return self._texts[length].with_fresh_chunk_cache()

    def clip(self, role: str, frames: int, rows: int, columns: int) -> Frames:
        """Frames of so many tokens."""
        traits, (_, ph, pw) = self.traits, self.traits.patch_size
        shape, guide = (frames, rows * ph, columns * pw), traits.cond_channels
        return Frames(
            torch.zeros(1, traits.latent_channels, *shape, device="meta"),
            (role,) * frames,
            tuple(map(float, range(frames))),
            (CLEAN if role == "context" else level_of(1.0),) * frames,
            torch.zeros(1, guide, *shape, device="meta") if guide else None,
        )

    def vectors(
        self, head: Any, sizes: tuple[int, int, int], following: int, value: int
    ) -> dict[str, Any]:
        """Noisy vectors, in the form that `head` reads, and the state, as parts of inputs."""
        chunk, action, size = sizes

        def noisy(modality: str, *shape: int) -> NoisyVectors:
            x = head.to_latent(modality, torch.zeros(1, *shape, device="meta"))
            return NoisyVectors(x, level_of(1.0))

        return {
            "action": noisy("action", chunk, action),
            "state": torch.zeros(1, size, device="meta") if size else None,
            "next_state": noisy("next_state", 1, size) if following else None,
            "value": noisy("value", 1, 1) if value else None,
        }

    def frames(self, join: Any, points: Sequence[tuple[int, ...]] = FRAME_POINTS) -> Any:
        """Operations and bytes of every kind of pass of frames, at some sizes."""
        streamed = self.traits.text == "stream"
        found: dict[str, list[Spent]] = {k: [] for k in (KINDS if streamed else KINDS[1::2])}
        for frames, rows, columns, length in points:
            inputs = ModelInputs(self.text(length), self.clip("context", frames, rows, columns))
            role, cache = "context", None
            if streamed:
                spent, out = self.run(join, inputs, keep=("context", "text"), times=2)
                found["first"].append(spent)
                found["whole"].append(self.run(join, inputs)[0])
                role, cache = "target", out.cache
                inputs = inputs.with_(video=self.clip(role, frames, rows, columns))
            found["kept"].append(self.run(join, inputs, cache, (role,), times=2)[0])
            found["noisy"].append(self.run(join, inputs, cache)[0])
        return found

    def run(
        self,
        join: Any,
        inputs: ModelInputs,
        cache: KVCache | None = None,
        keep: Sequence[str] = (),
        times: int = 1,
    ) -> tuple[Spent, Any]:
        """What the last of some equal passes spends besides self-attention, and what it gives."""
        roles = {"text", "context", "target", "state", "action", "next_state", "value"}
        for _ in range(times):
            with self.runner.counting() as rest:
                out = join(self.runner, self.backbone, inputs, everyone(roles), cache, tuple(keep))
                spent = rest()
        return spent, out

    @staticmethod
    def _frames_alone(
        runner: Any, backbone: Any, inputs: ModelInputs, sees: Any, cache: Any, keep: Any
    ) -> ModelOutput:
        prefill, videos = is_prefill(inputs, keep), embed_videos(runner, backbone, inputs, cache)
        tokens, kept = runner.run(
            all_streams(videos),
            sees,
            attend=backbone.attend,
            cache=cache,
            keep=keep,
            prefill=prefill,
        )
        return ModelOutput(cache=kept, **({} if prefill else velocities(backbone, videos, tokens)))


def measure(measured: Measured, config: ActionHeadConfig, wide: Measured | None = None) -> Costs:
    """The polynomials of one backbone with one head, and those of the same in float32."""
    costs = _measure(measured, config)
    if wide is not None:
        again = _measure(wide, config)
        costs.unsolved += [f"{name} in float32" for name in again.unsolved]
        costs.float32 = {key: getattr(again, key) for key in ("frames", "vectors", "suffix")}
    return costs


def _measure(measured: Measured, config: ActionHeadConfig) -> Costs:
    costs, heads = Costs(), [measured.head(config, sizes) for sizes in BUILDS]
    head, spent = heads[0], measured.spent
    if isinstance(head, ExpertHead | ReaderHead):
        few = measured.frames(head.join, FRAME_POINTS[-1:])
        if any(few[kind] != spent[kind][-1:] for kind in few):
            spent = measured.frames(head.join)
    for kind, found in spent.items():
        costs.add(costs.frames, kind, measured.design, found)
    costs.parameters = _parameters(costs, measured, config, heads)
    if isinstance(head, ExpertHead):
        costs.joins = "tokens"
        blocks = list(head.stack(measured.backbone).blocks)  # type: ignore[arg-type]
        costs.awake = [i for i, block in enumerate(blocks) if block is not None]
        _measure_vectors(costs, measured, heads)
        _measure_own(costs, measured, heads)
    elif isinstance(head, ReaderHead):
        costs.joins, costs.reads = "reads", list(head.layers)
        _measure_vectors(costs, measured, heads)
    return costs


def _measure_vectors(costs: Costs, measured: Measured, heads: list[Any]) -> None:
    caches: dict[Any, Any] = {}
    reads, streamed = costs.reads is not None, measured.traits.text == "stream"

    def pass_of(build: int, following: int, value: int, height: int, length: int) -> Any:
        head, sizes, key = heads[build], BUILDS[build], (build, height * reads, length)
        if key not in caches:
            seen = ModelInputs(measured.text(length), measured.clip("context", 1, height, 2))
            caches[key] = measured.run(head.join, seen, keep=("context", "text"), times=2)[1].cache
        cache, parts = caches[key], measured.vectors(head, sizes, following, value)
        asked = head.prepare(ModelInputs(measured.text(length), **parts))
        groups = head.token_groups(asked) if reads else head.token_groups(asked, cache.roles)
        n = sum(len(group.roles) for group in groups)
        m = measured.tokens(height, 2) + length * streamed if reads else 0
        first = measured.run(head.join, asked, cache)[0]
        later = measured.run(head.join, asked, cache)[0]  # what is kept is there
        (chunk, action, size), whole = sizes, asked.text.length
        row = [1, n, chunk * action, action, n * n, m, n * m, n * whole, whole]
        row += [size > 0, size, chunk * size, following, following * size, value]
        once = [1, m, whole, size > 0, size]
        return row, later, once, (first[0] - later[0], first[1] - later[1]), whole - length

    rows, spent = [], []
    for point in VECTOR_POINTS:
        row, later, *_ = pass_of(*point)
        rows.append(row)
        spent.append(later)
    costs.add_vectors(rows, spent)
    caches.clear()
    *_, suffix, longer = pass_of(3, 0, 0, 1, 8)
    _count_tokens(costs, measured, heads, longer)
    if reads:
        rows, spent = [], []
        for build, height, length in MEMORY_POINTS:
            caches.clear()
            _, _, row, once, _ = pass_of(build, 0, 0, height, length)
            rows.append(row)
            spent.append(once)
        costs.add(costs.vectors, "memory", Design(rows), spent)
    if longer:
        costs.suffix = _suffix(measured, heads[3], (0, 0) if reads else suffix)


def _suffix(measured: Measured, head: Any, spent: Spent) -> Spent:
    """What a text token for the state costs once a chunk: besides `spent`, in the backbone."""
    inputs = ModelInputs(measured.text(8), measured.clip("context", 1, 1, 2))
    inputs = inputs.with_(state=torch.zeros(1, BUILDS[3][2], device="meta"))
    measured.run(head.join, head.prepare(inputs), keep=("context", "text", "state"))
    asked = head.prepare(inputs.with_(text=measured.text(8)))
    first, _ = measured.run(head.join, asked, keep=("context", "text", "state"))
    later, _ = measured.run(head.join, asked, keep=("context", "text", "state"))
    return spent[0] + first[0] - later[0], spent[1] + first[1] - later[1]


def _measure_own(costs: Costs, measured: Measured, heads: list[Any]) -> None:
    rows, spent = [], []
    for build, length in OWN_POINTS:
        head, size = heads[build], BUILDS[build][2]
        inputs = ModelInputs(measured.text(length), measured.clip("context", 1, 1, 2))
        if size:
            inputs = inputs.with_(state=torch.zeros(1, size, device="meta"))
        inputs = head.prepare(inputs)
        whole, _ = measured.run(head.join, inputs, keep=("context", "text", "state"), times=2)
        n, length = sum(len(g.roles) for g in head.token_groups(inputs, ())), inputs.text.length
        rows.append([n > 0, n, n * length, length * (n > 0), size * (n > 0)])
        tokens = measured.tokens(1, 2)
        point = [1, 1, tokens, tokens * tokens, tokens * length, length]
        found = costs.frames.get("first") or costs.frames["kept"]
        alone = [
            sum(int(x * y) for x, y in zip(found[kind], point, strict=True))
            for kind in ("operations", "bytes")
        ]
        spent.append((whole[0] - alone[0], whole[1] - alone[1]))
    costs.add(costs.vectors, "kept", Design(rows), spent)


def _count_tokens(costs: Costs, measured: Measured, heads: list[Any], suffix: int) -> None:
    """Tokens of a pass of the head alone, besides those that it always has."""

    def lengths(build: int) -> dict[str, int]:
        head, sizes = heads[build], BUILDS[build]
        vectors = measured.vectors(head, sizes, 0, 0)
        inputs = head.prepare(ModelInputs(measured.text(8), **vectors))
        reads = costs.reads is not None
        groups = head.token_groups(inputs) if reads else head.token_groups(inputs, ())
        found = Counter(role for group in groups for role in group.roles)
        return {**found, "action": found["action"] - sizes[0]}

    without, with_ = lengths(0), lengths(3)
    text = without.get("text", 0)
    costs.tokens = {
        "always": without["action"],
        "state_noisy": with_["action"] - without["action"],
        "state": with_.get("state", 0),
        "text": int(text > 0),
        "suffix": suffix,
    }


def _parameters(
    costs: Costs, measured: Measured, config: ActionHeadConfig, heads: list[Any]
) -> list[int | float]:
    rows, counts = [], []
    points = [(*build, 8, _predicted(build[2])) for build in BUILDS]
    for place, (chunk, action, state, height, predicts) in enumerate((*points, *PARAMETER_POINTS)):
        if place < len(heads):
            head = heads[place]
        else:
            sizes = measured.sizes(chunk, action, state, height, predicts)
            with no_random_weights(), torch.device("meta"):
                head = without_weights(config).build(sizes)
        following = "next_state" in predicts
        row = [1, chunk, action, chunk * action, 2 * height * height, state > 0, state]
        rows.append([*row, "value" in predicts, following, following * state])
        counts.append(parameters(head))
    solved = Design(rows).solve(counts)
    assert solved is not None  # as many rows as coefficients
    return [int(x) if x.denominator == 1 else float(x) for x in solved]


def _predicted(state: int) -> tuple[str, ...]:
    """What heads of BUILDS predict besides the action."""
    return ("next_state", "value") if state else ("value",)
