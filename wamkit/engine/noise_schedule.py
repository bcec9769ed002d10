"""Rectified flow of one modality: levels, noise, sampling runs and weights.

x_sigma = (1 - sigma) x + sigma noise, and the network predicts the velocity noise - x, so that
d x_sigma / d sigma = velocity. Everyone speaks sigma in [0, 1]: 0 is data, 1 is noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config.noise_schedule import TWICE, ScheduleConfig, check_steps
from ..errors import WamkitError
from .device import to_device
from .samplers import SOLVERS, RoundedEuler, Sampler

if TYPE_CHECKING:
    from ..config.spec import PolicySpec

CLOSE = 1e-6
"""Levels nearer than this are one: a step between them would be lost in rounding."""


def shift_sigma(u: Tensor, shift: float) -> Tensor:
    """k u / (1 + (k - 1) u): the level at fraction u of the way (Esser et al. 2024, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def shift_for_tokens(tokens: int) -> float:
    """LTX's shift for a clip of so many tokens: exp(mu), mu linear in tokens.

    Diffusers' `calculate_shift` with the anchors of the LTX pipelines; `exp(mu)` takes k's place in
    `shift_sigma`, as in FlowMatchEulerDiscreteScheduler's exponential time shift.
    """
    return math.exp(0.95 + (2.05 - 0.95) * (tokens - 1024) / (4096 - 1024))


def karras_sigmas(high: float, low: float, count: int) -> list[float]:
    """`count` levels from `high` to `low`, equally far apart in (sigma / (1 - sigma))^(1/7).

    Karras and others 2022 (arXiv 2206.00364), eq. 5, whose sigma is sigma / (1 - sigma) here.
    """
    top, bottom = ((s / (1 - s)) ** (1 / 7) for s in (high, low))
    edm = [(top + i / max(count - 1, 1) * (bottom - top)) ** 7 for i in range(count)]
    return [s / (1 + s) for s in edm]


class BatchedGenerator(torch.Generator):
    """One generator for each copy of a batch; the copies are concatenated along the batch axis.

    A copy gets the noise it would get alone. Used as a plain generator it continues the first one.
    """

    generators: tuple[torch.Generator, ...]

    def __new__(cls, generators: Sequence[torch.Generator]) -> BatchedGenerator:
        """A generator of a batch, from one generator for each of its copies."""
        made = super().__new__(cls, generators[0].device)  # type: ignore[call-arg]
        if not isinstance(generators[0], NoiseTape | SubsetGenerator):
            made.set_state(generators[0].get_state())
        made.generators = tuple(generators)
        return made


class PerSampleGenerator(BatchedGenerator):
    """One generator for each sample of a batch, which also draws for every copy of that sample.

    Row k * B + b of concatenated copies is copy k of sample b.
    """


class NoiseTape(torch.Generator):
    """A generator that keeps every noise tensor it drew and can refill them from another seed.

    A captured CUDA graph reads these tensors at fixed addresses, whatever the seed.
    """

    source: torch.Generator
    entries: list[
        tuple[Tensor, int] | list[NoiseTape]
    ]  # noise and its batch axis, or spawned tapes
    position: int

    def __new__(cls, source: torch.Generator) -> NoiseTape:
        """An empty tape that draws from `source`."""
        made = super().__new__(cls, source.device)  # type: ignore[call-arg]
        made.source, made.entries, made.position = source, [], 0
        return made

    def get_state(self) -> Tensor:
        """Raises WamkitError: noise drawn from a copy of the state would never be refilled."""
        raise WamkitError(
            "the paradigm draws from a copy of its generator, which cannot be recorded",
            'choose mode "compile" or "eager"',
        )

    def noise(self, shape: tuple[int, ...], like: Tensor, axis: int) -> Tensor:
        """As `draw_noise` from the source; after `rewind` the same tensors in the same order."""
        if self.position == len(self.entries):
            self.entries.append((draw_noise(shape, like, self.source, axis), axis))
        found = self.entries[self.position]
        self.position += 1
        assert isinstance(found, tuple) and tuple(found[0].shape) == shape
        return found[0]

    def spawn(self, count: int) -> list[torch.Generator]:
        """As `spawn_generators` of the source."""
        if self.position == len(self.entries):
            self.entries.append(
                [NoiseTape(child) for child in spawn_generators(self.source, count)]
            )
        found = self.entries[self.position]
        self.position += 1
        assert isinstance(found, list) and len(found) == count
        return list(found)

    def rewind(self) -> None:
        """Return the first tensor next."""
        self.position = 0
        for found in self.entries:
            for child in found if isinstance(found, list) else ():
                child.rewind()

    def redraw(self, source: torch.Generator) -> None:
        """Refill every tensor with noise from `source`, in the same order."""
        self.source = source
        for found in self.entries:
            if isinstance(found, tuple):
                noise, axis = found
                noise.copy_(draw_noise(tuple(noise.shape), noise, source, axis))
            else:
                for child, seeded in zip(found, spawn_generators(source, len(found)), strict=True):
                    child.redraw(seeded)


class SubsetGenerator(torch.Generator):
    """A generator for a subset of a batch: it draws for the whole batch and returns the subset.

    A sample gets the same noise whichever samples are chosen with it.
    """

    source: torch.Generator
    index: Tensor  # [B'] the samples
    batch: int  # of how many

    def __new__(cls, source: torch.Generator, index: Tensor, batch: int) -> SubsetGenerator:
        """A generator for the samples `index` [B'] of a batch that `source` draws for."""
        made = super().__new__(cls, source.device)  # type: ignore[call-arg]
        made.source, made.index, made.batch = source, index, batch
        return made

    def noise(self, shape: tuple[int, ...], like: Tensor, axis: int) -> Tensor:
        """As `draw_noise`, for the samples of the subset."""
        copies, index = shape[axis] // len(self.index), self.index.to(like.device)
        whole = (*shape[:axis], copies * self.batch, *shape[axis + 1 :])
        rows = [index + copy * self.batch for copy in range(copies)]
        return draw_noise(whole, like, self.source, axis).index_select(axis, torch.cat(rows))


def clone_generator(rng: torch.Generator) -> torch.Generator:
    """A generator in the same state: it will draw what `rng` would draw next."""
    if isinstance(rng, BatchedGenerator):
        return type(rng)([clone_generator(part) for part in rng.generators])
    aside = torch.Generator(rng.device)
    aside.set_state(rng.get_state())
    return aside


def spawn_generators(rng: torch.Generator, count: int) -> list[torch.Generator]:
    """`count` generators seeded from `rng`, whose own state does not change."""
    if isinstance(rng, SubsetGenerator):
        return [
            SubsetGenerator(child, rng.index, rng.batch)
            for child in spawn_generators(rng.source, count)
        ]
    if isinstance(rng, NoiseTape):
        return rng.spawn(count)
    if isinstance(rng, BatchedGenerator):
        columns = zip(*(spawn_generators(part, count) for part in rng.generators), strict=True)
        return [type(rng)(column) for column in columns]
    aside = clone_generator(rng)
    seeds = torch.randint(2**62, (count,), generator=aside, device=rng.device).tolist()
    return [torch.Generator(rng.device).manual_seed(seed) for seed in seeds]


def draw_noise(shape: tuple[int, ...], like: Tensor, rng: torch.Generator, axis: int = 0) -> Tensor:
    """Standard normal noise, drawn in float32 on the generator's device, moved to that of `like`.

    The same seed gives the same noise wherever the model runs. `axis` is the batch axis, which the
    generators of a `BatchedGenerator` divide among them. Does not synchronize with a CUDA device.
    """
    if isinstance(rng, NoiseTape | SubsetGenerator):
        return rng.noise(shape, like, axis)
    if isinstance(rng, BatchedGenerator):
        rows = shape[axis] // len(rng.generators)
        own = (*shape[:axis], rows, *shape[axis + 1 :])
        found = [draw_noise(own, like, part, axis) for part in rng.generators]
        if isinstance(rng, PerSampleGenerator) and rows > 1:
            return torch.stack(found, axis + 1).flatten(axis, axis + 1)
        return torch.cat(found, axis)
    pinned = like.is_cuda and rng.device.type == "cpu"  # so that the host need not wait
    noise = torch.randn(shape, generator=rng, device=rng.device, pin_memory=pinned)
    return noise.to(device=like.device, dtype=like.dtype, non_blocking=pinned)


def draw_uniform(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Uniform samples in [0, 1) on the generator's device, for random choices in training.

    The first axis is the batch axis, which the generators of a `BatchedGenerator` divide among
    them; a single value () for a whole batch is the first one's, and every generator advances.
    """
    if not isinstance(rng, BatchedGenerator):
        return torch.rand(shape, generator=rng, device=rng.device)
    if not shape:
        first, *_ = [draw_uniform((), part) for part in rng.generators]
        return first
    own = (shape[0] // len(rng.generators), *shape[1:])
    return torch.cat([draw_uniform(own, part) for part in rng.generators])


@lru_cache(maxsize=32)
def _bell(shift: float) -> tuple[float, float]:
    """Smallest value and mean of the bell over the shifted grid of 1000 levels."""
    grid = shift_sigma(torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1], shift)
    bell = torch.exp(-2 * (grid - 0.5) ** 2)
    low = float(bell.min())
    return low, float((bell - low).mean())


def stretch_sigma(sigma: Tensor, mean: float, std: float) -> Tensor:
    """Logit-normal levels with their 0.5th percentile moved to 0 and their 99.9th to 1.

    What comes to lie below 0.001 is reflected there (Lightricks LTX-2, ltx-trainer,
    ShiftedLogitNormalTimestepSampler).
    """
    low, high = (1 / (1 + math.exp(-mean - std * z)) for z in (-2.5758, 3.0902))
    sigma = (sigma - low) / (high - low)
    return torch.where(sigma < 0.001, 0.002 - sigma, sigma).clamp(0, 1)


@dataclass(frozen=True)
class NoiseSchedule:
    """The settings of one modality, with the mathematics that follows from them.

    `tokens` is how many tokens a clip of the modality has, which `shift = "tokens"` asks for.
    Raises WamkitError if it asks in vain.
    """

    config: ScheduleConfig
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.config.shift == "tokens" and self.tokens is None:
            raise WamkitError(
                'shift = "tokens" needs the number of tokens, which this modality has not',
                "write a number, such as shift = 5.0",
            )

    @cached_property
    def shift(self) -> float:
        """k of `shift_sigma`, as configured or as it follows from the tokens."""
        return self._shift(self.tokens)

    def _shift(self, tokens: int | None) -> float:
        shift = self.config.shift
        if shift == "tokens":
            assert tokens is not None
            return shift_for_tokens(tokens)
        return shift

    def grid(self, steps: int | None = None) -> list[float]:
        """The levels of `steps` steps, from `sigma_max` down to 0: `steps` + 1 numbers.

        Where `sigma_min` is set, the last level above 0 is stretched to it, as LTX's terminal shift
        does.
        """
        steps = steps or self.config.steps
        if steps not in self._grids:
            self._grids[steps] = self._grid(steps)
        return list(self._grids[steps])

    @cached_property
    def _grids(self) -> dict[int, list[float]]:
        """Those that were asked for, by steps."""
        return {}

    def _grid(self, steps: int) -> list[float]:
        c = self.config
        if c.spacing == "karras":
            return [*karras_sigmas(c.sigma_max, c.sigma_min, steps), 0.0]
        u = torch.linspace(c.grid_start, 0, steps + 1, dtype=torch.float64)
        levels = [float(s) for s in shift_sigma(u, self.shift)]
        if (c.sigma_max, c.sigma_min) == (1, 0):
            return levels
        last = levels[-2] if c.sigma_min else 0.0
        slope = (c.sigma_max - c.sigma_min) / (1 - last) if last < 1 else 0.0
        return [*(c.sigma_max - slope * (1 - s) for s in levels[:-1]), 0.0]

    @cached_property
    def strides(self) -> tuple[tuple[float, float], ...]:
        """Those of a whole run (`Sampler.strides`)."""
        return self.init_sampler(torch.zeros(1, 1), rng=torch.Generator()).strides

    def run(self, steps: int | None = None) -> tuple[float, ...]:
        """The levels that the network is given in a whole run, and the one of the result."""
        sampler = self.init_sampler(torch.zeros(1, 1), steps, torch.Generator())
        return sampler.given

    def init_sampler(
        self,
        noise: Tensor,
        steps: int | None = None,
        rng: torch.Generator | None = None,
        until: float = 0.0,
    ) -> Sampler:
        """A sampler from standard normal `noise` [B, ...] down to level `until`.

        `steps` counts network evaluations. A run that ends above 0 has the levels of the whole run
        that are above `until`, then `until`; at 1 it has none and ends where it begins. `rng` is
        for the consistency solver, which needs it if it makes more than one step.
        Raises ValueError if the solver cannot spend exactly `steps` evaluations, or
        `evaluate_steps` are of another number of steps.
        """
        c, steps = self.config, steps or self.config.steps
        if c.evaluate_steps != "all" and steps != c.steps:
            raise ValueError(
                f"evaluate_steps are those of a run of {c.steps} steps, found {steps}; leave steps "
                'out, or write evaluate_steps = "all"'
            )
        check_steps(c.solver, steps)
        grid = self.grid(steps // 2 if c.solver in TWICE else steps)
        nodes = [*(s for s in grid if s > until + CLOSE), until]

        def more_noise(count: int) -> Tensor:
            if rng is None:
                raise ValueError("consistency steps add fresh noise: pass rng=...")
            return draw_noise((count, *noise.shape), noise, rng, axis=1)

        solver = RoundedEuler if c.bf16_sampling else SOLVERS[c.solver]
        sampler = solver(noise if c.sigma_max == 1 else c.sigma_max * noise, nodes, more_noise)
        if c.whole_timesteps:
            sampler.truncate_timesteps()
        if c.evaluate_steps != "all":
            sampler.evaluated = frozenset(c.evaluate_steps)
        return sampler

    def sample(self, shape: tuple[int, ...], like: Tensor, rng: torch.Generator) -> Tensor:
        """Training levels, float32 in [0, 1], as `timestep_sampling` says."""
        sigma = self._sample(shape, rng)
        if self.config.bf16_timesteps:
            sigma = (1000 * sigma).bfloat16().float() / 1000
        return to_device(sigma, like.device)

    def _sample(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Levels of this shape on the generator's device; of several, each draws for its own."""
        c = self.config
        if isinstance(rng, BatchedGenerator):
            own = (shape[0] // len(rng.generators), *shape[1:])
            return torch.cat([self._sample(own, part) for part in rng.generators])

        def flat() -> Tensor:
            return torch.rand(shape, generator=rng, device=rng.device)

        def normal() -> Tensor:
            return torch.randn(shape, generator=rng, device=rng.device)

        def gamma(power: float) -> Tensor:
            powers = torch.full(shape, power, device=rng.device)
            return torch._standard_gamma(powers, generator=rng)

        if c.timestep_sampling == "uniform":
            return shift_sigma(flat(), self.shift)
        if c.timestep_sampling == "indexed":
            index = torch.randint(1000, shape, generator=rng, device=rng.device)
            return shift_sigma(1 - index / 1000, self.shift)
        if c.timestep_sampling == "beta":
            a, b = gamma(c.setting("alpha")), gamma(c.setting("beta"))
            return shift_sigma(a / (a + b), self.shift)
        if c.timestep_sampling == "sqrt":
            return 0.001 + 0.999 * flat() ** (2 / 3)
        if c.timestep_sampling == "pure_noise":
            return torch.ones(shape, device=rng.device)
        mean, std = c.setting("mean"), c.setting("std")
        if c.timestep_sampling == "lognormal_mix":
            low, high = c.setting("band")
            edm = torch.exp(mean + std * normal())
            edm = torch.where(flat() < c.setting("uniform"), low + (high - low) * flat(), edm)
            edm = edm * c.setting("scale")
            return edm / (1 + edm)
        mean += math.log(self._shift(None if self.tokens is None else min(self.tokens, 4096)))
        sigma = torch.sigmoid(mean + std * normal())
        if c.setting("stretch"):
            sigma = stretch_sigma(sigma, mean, std)
        if share := c.setting("uniform"):
            sigma = torch.where(flat() < share, flat(), sigma)
        return sigma

    def add(self, x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x at level `sigma`, which has the leading axes of x."""
        s = sigma.reshape(*sigma.shape, *(1,) * (x.ndim - sigma.ndim))
        return ((1 - s) * x.float() + s * noise.float()).to(x.dtype)

    def velocity(self, x: Tensor, noise: Tensor) -> Tensor:
        """What the network is to predict, float32."""
        return noise.float() - x.float()

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight of each level, mean 1 over the sampling grid.

        The bell is exp(-2 (sigma - 1/2)^2), lowered to 0 at its smallest value and divided by its
        mean (DiffSynth-Studio, FlowMatchScheduler; used by Fast-WAM and its relatives). `none` is
        also EDM's weight as Cosmos uses it: (1 + s)^2 / s^2 on the error of x0, where s is
        sigma / (1 - sigma), is 1 on the error of the velocity.
        """
        if self.config.loss_weighting == "none":
            return torch.ones_like(sigma)
        low, mean = _bell(self.shift)
        return (torch.exp(-2 * (sigma - 0.5) ** 2) - low).clamp(min=0) / mean


def schedules_of(spec: PolicySpec) -> dict[str, NoiseSchedule]:
    """The schedule of each part; a head that regresses needs one evaluation, of pure noise."""
    tokens, given = spec.tokens(), spec.schedules
    configs = {
        "video": given.video,
        "action": given.action,
        "next_state": given.next_state or given.action,
        "value": given.value or given.action,
    }
    if spec.action_head.is_regression:
        for part in ("action", "next_state", "value"):
            configs[part] = ScheduleConfig(
                steps=1,
                timestep_sampling="pure_noise",
                loss_weighting="none",
                loss_weight=configs[part].loss_weight,
            )
    roles = {**tokens, "video": tokens["context"] + tokens["target"]}
    return {part: NoiseSchedule(config, roles[part]) for part, config in configs.items()}
