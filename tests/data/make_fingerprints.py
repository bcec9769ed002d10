"""Record what every composition computes, as a few numbers each, for `test_fingerprints.py`.

    python tests/data/make_fingerprints.py [--only SUBSTRING] [--check]

writes `fingerprints.json` next to this file, a line for each case: every cell of the matrix that
runs, every spec of `examples/` at toy size, and settings that neither of them has. With `--check`
nothing is written, and the worst deviation of each case is printed. With `--only` the cases whose
names hold SUBSTRING are computed, and the others of the file stay as they are.

Everything is computed in float64 on a CPU. A weight follows from its name and shape alone, so that
the order in which modules are made and draw their first weights does not matter; no weight is
zero. A tensor is kept as its shape, its mean, its root mean square, its mean under a fixed wave
(which tells apart what is only in another order) and its largest size; the gradients of a module
as their sum, the sum of their sizes, and their product with the weights.

Where the adaptive paradigm compares proposals, they must disagree by something else than its
threshold, clearly (`decided`); of planning, `spread` keeps how far apart the scores are.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wamkit.config.check import check
from wamkit.config.compositions import matrix
from wamkit.config.spec import PolicySpec, parse, parse_part, read
from wamkit.policy.normalization import Statistics
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, observation, spec_with, with_overrides
from wamkit.testing.tolerance import float64

FILE = Path(__file__).with_name("fingerprints.json")
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
ALLOWED = 1e-8
"""Deviation that `test_fingerprints.py` allows, relative to the scale of each quantity."""
PROMPTS = ("lift", "put the cup on it")
"""Of different lengths, so that the first is padded."""
STEPS = 4
"""The most network evaluations of a denoising in the examples."""
THEN = {"state": "episode", "context_noise_prob": 0.5}
"""What `autoregressive` had by default when the fingerprints were recorded."""
UNROUNDED = ("adaptive_wam", "fastwam", "light_wam", "simple_wam")
"""Examples, by how their names begin, that did not round the levels of training then."""

Print = dict[str, Any]
"""quantity -> its numbers: a tensor's, a module's gradients', or a single one."""


@dataclass(frozen=True)
class Case:
    """A composition, and how it is used."""

    spec: PolicySpec
    statistics: bool = False  # normalize actions and state off center
    padding: bool = False  # some steps, frames and numbers of the training samples are padding
    chunks: int = 0  # chunks of a session, the last one without an observation
    seed: Any = 0
    act_options: Mapping[str, Any] = field(default_factory=dict)


def cells() -> Iterator[tuple[str, Callable[[], Case]]]:
    """Every cell of the matrix that runs."""
    for cell in matrix():
        if cell.runs:
            assert cell.spec is not None
            spec = cell.spec
            if cell.paradigm == "autoregressive":
                spec = with_overrides(spec, *(f"paradigm.{key}={v}" for key, v in THEN.items()))
            name = f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"
            yield name, lambda spec=spec: Case(spec)  # type: ignore[misc]


def examples() -> Iterator[tuple[str, Callable[[], Case]]]:
    """Every spec of `examples/` at toy size, in float32, with few steps."""
    for path in sorted(EXAMPLES.glob("*.toml")):
        yield f"example-{path.stem}", lambda path=path: Case(_example(path))  # type: ignore[misc]


def _example(path: Path) -> PolicySpec:
    spec = with_overrides(parse(read(path), path.stem).tiny()[0], "dtype=float32")
    if path.stem.startswith(UNROUNDED):
        exact = (f"schedules.{part}.bf16_timesteps=false" for part in ("video", "action"))
        spec = with_overrides(spec, *exact)
    parts = ("video", *spec.predicts)
    found = {part: getattr(spec.schedules, part, None) for part in parts}
    few = {p: min(s.steps, STEPS) for p, s in found.items() if s is not None and s.steps}
    every = (f"schedules.{part}.evaluate_steps=all" for part in few)
    steps = (f"schedules.{part}.steps={count}" for part, count in few.items())
    return with_overrides(spec, *every, *steps)


def _set(*changes: str, **parts: str | dict[str, Any]) -> Callable[..., Callable[[], Case]]:
    """A tiny spec around registered parts, changed; called with what `Case` takes next to it."""
    names = {kind: part for kind, part in parts.items() if isinstance(part, str)}
    given = [parse_part(kind, table) for kind, table in parts.items() if kind not in names]

    def make(**use: Any) -> Case:
        return Case(with_overrides(spec_with(*given, **names), *changes), **use)

    return lambda **use: lambda: make(**use)


def extras() -> Iterator[tuple[str, Callable[[], Case]]]:
    """Settings that no cell of the matrix and no example has."""
    toy, wan, flux = ({"backbone": name} for name in ("toy", "wan", "flux2"))
    mot, joint = {"action_head": "mot"}, {"paradigm": "joint"}
    one, idm = {"paradigm": "single_pass"}, {"paradigm": "idm"}
    slots, chunks = {"action_head": "latent_slot"}, {"paradigm": {"name": "autoregressive", **THEN}}
    guided = ("schedules.video.guidance_scale=3", "schedules.action.guidance_scale=2")
    three = "paradigm.chunks=3"
    seen: dict[str, Any] = {"backbone": {"name": "wan", "variant": "2.1-i2v-14b"}}
    frames = [f'{{name="{name}",size=[64,96]}}' for name in ("left", "right")]
    views = f"cameras.views=[{','.join(frames)}]"
    learned = ("action_head.state=noisy_token", "action_head.registers=2")
    adaln = ("action_head.decoder=adaln", "action_head.encoder_layers=3")
    own = ("action_head.block=backbone", "action_head.positions=grid")
    relative = (
        'actions.groups=[{name="a",size=3,kind="relative",state=0},{name="b",size=1,kind="delta"}]'
    )
    yield "guided-wan-mot-joint", _set(*guided, **wan, **mot, **joint)()
    yield "guided-flux2-mot-image_edit", _set(*guided, **flux, **mot, paradigm="image_edit")()
    yield "guided-wan-shared_stream", _set(*guided, **wan, action_head="shared_stream", **joint)()
    yield "noisy-state-wan-mot", _set(*learned, *adaln, **wan, **mot, **joint)()
    yield "noisy-state-toy-mot", _set(*learned, "action_head.positions=sinusoid", **toy, **mot)()
    yield "token-wan-mot", _set("action_head.state=token", **wan, **mot, **idm)()
    yield "no-text-wan-mot", _set("action_head.text=none", **wan, **mot, **one)()
    for backbone in (wan, flux, {"backbone": "ltx"}, {"backbone": "cosmos"}):
        name = f"own-blocks-{backbone['backbone']}-mot"
        yield name, _set(*own, **backbone, **mot, **one)()
    yield "every-second-wan-mot", _set("action_head.layer_stride=2", **wan, **mot, **joint)()
    yield "image-to-video-wan-mot", _set(**seen, **mot, **idm)()
    yield "image-to-video-wan-slots", _set(**seen, **slots, **joint)()
    yield (
        "adapters-toy-mot",
        _set(
            "backbone.latent_channels=6",
            "vae.adapter=linear",
            "text_encoder.adapter=linear",
            **toy,
            **mot,
            **joint,
        )(),
    )
    yield "adapters-wan-mot", _set("text_encoder.adapter=linear", **wan, **mot, **joint)()
    for head in ("mot", "shared_stream", "latent_slot", "reader"):
        parts = {**wan, "action_head": head}
        yield f"padding-wan-{head}", _set(**parts, **joint)(padding=True)
        yield f"session-wan-{head}", _set(three, **parts, **chunks)(chunks=3)
    mutual, slide = "paradigm.action=mutual", "paradigm.on_full_memory=slide"
    yield (
        "session-mutual-toy",
        _set(three, mutual, **toy, action_head="shared_stream", **chunks)(chunks=3),
    )
    yield "session-slide-wan", _set("paradigm.chunks=2", slide, **wan, **mot, **chunks)(chunks=4)
    yield "session-window-toy", _set(three, "paradigm.window=1", **toy, **mot, **chunks)(chunks=3)
    yield "copies-wan-mot", _set("paradigm.context_noise_prob=1", **wan, **mot, **idm)()
    yield (
        "half-denoised-wan-reader",
        _set(
            "paradigm.context_noise_prob=1",
            "paradigm.stop_sigma=0.5",
            **wan,
            action_head="reader",
            **idm,
        )(),
    )
    yield "first-frame-wan-mot", _set("paradigm.drop_future_prob=0.5", **wan, **mot, **idm)()
    apart = ("cameras.layout=frame_per_view", views)
    yield "views-wan-mot", _set(*apart, **wan, **mot, **joint)()
    yield (
        "views-cosmos-conditional",
        _set(*apart, backbone="cosmos", **slots, paradigm="conditional")(),
    )
    side = ("cameras.layout=side_by_side", views)
    yield "side-by-side-flux2-mot", _set(*side, **flux, **mot, paradigm="image_edit")()
    yield (
        "levels-conditional-wan",
        _set("paradigm.levels=independent", **wan, **slots, paradigm="conditional")(),
    )
    yield "relative-wan-mot", _set(relative, **wan, **mot, **joint)(statistics=True)
    yield (
        "relative-session-toy",
        _set(relative, three, **toy, **mot, **chunks)(statistics=True, chunks=3),
    )
    yield "seeds-wan-mot", _set(**wan, **mot, **joint)(seed=[3, 5])
    yield "fast-wan-mot", _set(**wan, **mot, paradigm="adaptive")(act_options={"deliberate": False})
    for solver in ("heun", "ab2", "unipc", "consistency"):
        steps = ("schedules.action.steps=4", "schedules.video.steps=4")
        used = [f"schedules.{part}.solver={solver}" for part in ("video", "action")]
        yield f"{solver}-toy-mot", _set(*steps, *used, **toy, **mot, **joint)()


def cases() -> dict[str, Callable[[], Case]]:
    """Name -> what makes the case."""
    return {**dict(cells()), **dict(examples()), **dict(extras())}


@float64()
def fingerprint(case: Case) -> Print:
    """What a composition computes, as a few numbers for each quantity."""
    spec, use, statistics = case.spec, dict(case.act_options), None
    assert not (conflicts := [c for c in check(spec) if not c.missing]), conflicts
    if case.statistics:
        sizes = {"action": spec.actions.size, "state": spec.state.size}
        statistics = {name: _off_center(size) for name, size in sizes.items() if size}
    policy = Policy.from_spec(spec, statistics=statistics).double()
    redraw(policy)
    found: Print = {}
    seen = _asked(observation(spec, frames=spec.video.num_observed))
    with torch.no_grad():
        chunk = policy.act(seen, seed=case.seed, **use)
        found["action"] = tensor(chunk.values)
        for name, note in sorted(chunk.notes.items()):
            found[f"note.{name}"] = tensor(note.double())
        if spec.latent_frames[1]:
            found["imagined"] = tensor(imagined(policy, seen, case.seed))
        for k, values in enumerate(_episode(policy, case.chunks)):
            found[f"chunk.{k}"] = tensor(values)
    decided(spec, chunk.notes)
    batch = batch_of(spec)
    batch = replace(batch, observation=_asked(batch.observation))
    found |= learned(policy, _padded(spec, batch) if case.padding else batch, case.seed)
    for name, module in policy.named_children():
        if any(p.grad is not None for p in module.parameters()):
            found[f"grad.{name}"] = gradients(module)
    return found


def learned(policy: Policy, batch: Batch, seed: Any) -> Print:
    """The losses of a batch, and their gradients left in the policy.

    Some paradigms draw what each sample teaches: where a part was not taught, the losses of more
    seeds are added until all parts are.
    """
    found: dict[str, float] = {}
    seeds = [seed] if isinstance(seed, list) else range(seed, seed + 12)
    policy.train()
    for one in seeds:
        losses = policy.loss(batch, seed=one)
        losses.total.backward()
        parts = {f"loss.{part}": loss for part, loss in losses.parts.items()}
        for name, loss in {"loss": losses.total.detach(), **parts}.items():
            found[name] = found.get(name, 0.0) + float(loss)
        if all(found.values()):
            return found
    raise AssertionError(f"not taught by any of the seeds: {found}")


def imagined(policy: Policy, seen: Observation, seed: Any) -> Tensor:
    """Latents [B, C, T, h, w] of what a policy imagines, those that are observed included."""
    inputs = inference_inputs(policy, seen)
    model = policy.model_with_cfg(inputs)
    return policy.paradigm.imagine(model, inputs, policy.schedules, generator(seed)).z


def decided(spec: PolicySpec, notes: Mapping[str, Tensor]) -> None:
    """Raise AssertionError if rounding could choose another way of acting."""
    threshold = getattr(spec.paradigm, "threshold", None)
    if threshold is not None and "disagreement" in notes:
        found = notes["disagreement"].flatten().tolist()
        assert all(not threshold - 1e-4 < x < threshold + 1e-4 for x in found), notes
    if "spread" in notes:  # equal scores are equal exactly: they are bounded
        spread = notes["spread"]
        assert bool(((spread == 0) | (spread > 1e-6)).all()), notes


RENAMED = (
    (r"\.blocks\.(\d+)\.ada\.", r".blocks.\1.modulation."),
    ("to_text_kv", "text_kv"),
    (r"\.state_to_text\.", ".state_word."),
    (r"\.state_proj\.", ".state_numbers."),
    (r"\.text_proj\.", ".words."),
)
"""Names of parameters now, and when the file was recorded: of the toy's block, and of heads."""


def _recorded_name(name: str) -> str:
    for now, then in RENAMED:
        name = re.sub(now, then, name)
    return name


def redraw(policy: nn.Module) -> None:
    """Draw every parameter by its name and shape, none of them trivial; a shared one once.

    Matrices and kernels keep the size of what they are given; what scales is drawn around 1;
    learned tokens and tables, and biases, are drawn at 0.3.
    """
    with torch.no_grad():
        names: dict[nn.Parameter, list[str]] = {}
        for name, p in policy.named_parameters(remove_duplicate=False):
            names.setdefault(p, []).append(name)
        for p, shared in names.items():
            name = _recorded_name(min(shared))
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "little")
            rng = torch.Generator().manual_seed(seed)
            noise = torch.randn(p.shape, generator=rng, dtype=torch.float64)
            inputs = p[0].numel() if p.ndim else 1
            scales = name.rpartition(".")[2] in ("weight", "gamma", "scale")
            if p.ndim < 2 or (p.ndim > 2 and inputs == 1):
                drawn = 1 + 0.1 * noise if scales else 0.3 * noise
            elif (p.ndim > 2 and p.shape[0] == 1) or "table" in name or "embed_tokens" in name:
                drawn = 0.3 * noise
            else:
                drawn = noise / inputs**0.5
            p.copy_(drawn)


def tensor(x: Tensor) -> list[Any]:
    """Shape, mean, root mean square, mean under a wave, and largest size."""
    flat = x.detach().double().flatten()
    wave = torch.cos(torch.arange(flat.numel(), dtype=torch.float64) * 1.618033988749895 + 0.5)
    numbers = flat.mean(), flat.square().mean().sqrt(), (flat * wave).mean(), flat.abs().max()
    return [list(x.shape), *map(float, numbers)]


def gradients(module: nn.Module) -> list[float]:
    """Of a module: the sum of gradients, of their sizes, and their product with the weights."""
    pairs = [(p.grad, p.detach()) for p in module.parameters() if p.grad is not None]
    sums = zip(
        *(map(float, (g.sum(), g.abs().sum(), (g * p).sum())) for g, p in pairs), strict=True
    )
    return [math.fsum(one) for one in sums]


def deviations(found: Print, expected: Print) -> dict[str, float]:
    """Of every quantity, relative to its scale; infinite where it is missing or of other shape."""
    names = dict.fromkeys((*expected, *found))
    return {n: _deviation(n, found.get(n), expected.get(n)) for n in names}


def _deviation(name: str, found: Any, expected: Any) -> float:
    if found is None or expected is None:
        return math.inf
    if isinstance(expected, float):
        return _relative([found], [expected], abs(expected))
    if name.startswith("grad."):
        return _relative(found, expected, expected[1])
    if list(found[0]) != list(expected[0]):
        return math.inf
    return _relative(found[1:], expected[1:], expected[-1])


def _relative(found: list[float], expected: list[float], scale: float) -> float:
    apart = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    if not math.isfinite(apart):
        return math.inf
    return apart / scale if scale else math.inf if apart else 0.0


def _asked(seen: Observation) -> Observation:
    """With prompts of different lengths."""
    return replace(seen, prompt=PROMPTS)


def _off_center(size: int) -> Statistics:
    """Under which zero in physical units is not zero in normalized ones."""
    low, high = (-1.0,) * size, (3.0,) * size
    return Statistics(low, high, (0.5,) * size, (1.5,) * size, low, high)


def _padded(spec: PolicySpec, batch: Batch) -> Batch:
    """With padding behind the first sample, and without the last number."""
    steps = torch.ones(2, spec.steps, dtype=torch.bool)
    steps[0, spec.steps // 2 :] = False
    frames = torch.ones(2, spec.num_images, dtype=torch.bool)
    frames[0, (spec.video.num_observed + spec.num_images) // 2 :] = False
    numbers = torch.ones(spec.actions.size, dtype=torch.bool)
    numbers[-1] = False
    return replace(batch, step_valid=steps, frame_valid=frames, dim_valid=numbers)


def _episode(policy: Policy, chunks: int) -> Iterator[Tensor]:
    """Chunks [B, N, A] of a session, each after new images, the last one after none."""
    session = policy.session()
    for k in range(chunks):
        if k and k == chunks - 1:
            seen = None
        else:
            images = session.num_images
            seen = _asked(observation(policy.spec, frames=images, seed=k))
        yield session.act(seen, seed=k).values


def recorded() -> dict[str, Print]:
    """What the file holds."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}  # type: ignore[no-any-return]


def main() -> int:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    asked.add_argument("--only", default="", metavar="SUBSTRING", help="cases by their names")
    asked.add_argument("--check", action="store_true", help="compare with the file, write nothing")
    options = asked.parse_args()
    known, every = recorded(), cases()
    chosen = {name: make for name, make in every.items() if options.only in name}
    table, worst = {name: known[name] for name in every if name in known}, 0.0
    for name, make in chosen.items():
        found = fingerprint(make())
        if options.check:
            apart = deviations(found, known.get(name, {}))
            quantity = max(apart, key=lambda key: apart[key])
            worst = max(worst, apart[quantity])
            print(f"{apart[quantity]:.1e}  {name}  {quantity}", flush=True)
        table[name] = found
    if options.check:
        print(f"{worst:.1e}  the worst of {len(chosen)}, allowed {ALLOWED:.0e}")
        return int(worst > ALLOWED)
    lines = [f"{json.dumps(name)}: {json.dumps(table[name])}" for name in every if name in table]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
