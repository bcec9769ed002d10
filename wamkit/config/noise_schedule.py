"""Settings of a noise schedule, one for each modality; the mathematics is in `engine`."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from .robot import Section

PUBLISHED: dict[str, dict[str, Any]] = {
    "logit_normal": {"mean": 0.0, "std": 1.0, "uniform": 0.0, "stretch": False},
    "lognormal_mix": {
        "mean": math.log(4),
        "std": 1.2,
        "uniform": 0.3,
        "band": (1.0, 85.0),
        "scale": 1.0,
    },
    "beta": {"alpha": 3.0, "beta": 1.0},
}
"""timestep_sampling -> the parameters it has, at the values they were published with."""

SETTINGS = tuple(dict.fromkeys(name for own in PUBLISHED.values() for name in own))
TWICE = ("midpoint", "heun")
"""Solvers that evaluate the network twice a step."""


class SamplingArgs(Section):
    """Parameters of the distribution that training levels are drawn from."""

    mean: float | None = None
    """Of the normal under logit_normal (0 if left open) and lognormal_mix (ln 4)."""
    std: float | None = Field(default=None, gt=0)
    """Of the same normal; 1 and 1.2 if left open."""
    uniform: float | None = Field(default=None, ge=0, le=1)
    """Share of levels that logit_normal (0 if left open) and lognormal_mix (0.3) draw uniformly."""
    stretch: bool | None = None
    """Whether logit_normal is stretched between its 0.5th and its 99.9th percentile, as LTX is."""
    band: tuple[float, float] | None = None
    """Where lognormal_mix is uniform, in sigma / (1 - sigma); 1 to 85 if left open."""
    scale: float | None = Field(default=None, gt=0)
    """What lognormal_mix multiplies its levels by; for Cosmos Policy the root of its slots."""
    alpha: float | None = Field(default=None, gt=0)
    """First parameter of beta; 3 if left open."""
    beta: float | None = Field(default=None, gt=0)
    """Second parameter of beta; 1 if left open."""


class ScheduleConfig(Section):
    """Rectified flow of one modality: sigma in [0, 1], 0 is data and 1 is noise."""

    shift: Annotated[float, Field(gt=0)] | Literal["tokens"] = 5.0
    """k in sigma = k u / (1 + (k - 1) u); above 1 spends more of the path near noise. `tokens`:
    LTX's exp(mu), mu growing with the tokens of a clip from 0.95 at 1024 to 2.05 at 4096. Shapes
    the grid of uniform spacing and the samplings uniform, indexed, logit_normal and beta; the other
    distributions are given in sigma itself."""
    steps: int = Field(10, gt=0)
    """Network evaluations from noise to data, whatever the solver, unless `evaluate_steps` leaves
    some out."""
    solver: Literal["euler", "midpoint", "heun", "unipc", "ab2", "consistency"] = "euler"
    """`midpoint` and `heun` evaluate twice a step, so they need even `steps`. `unipc`: order 2, as
    Wan samples. `ab2`: multistep, as Cosmos samples. `consistency`: jump to data, add fresh noise,
    and again; for distilled networks."""
    spacing: Literal["uniform", "karras"] = "uniform"
    """Of the grid of levels: equal steps, then shifted; or Karras's in sigma / (1 - sigma)."""
    grid_start: float = Field(1.0, gt=0, le=1)
    """Where uniform spacing begins, before the shift; Wan's own samplers begin at 0.999. The noise
    they begin with is whole all the same."""
    whole_timesteps: bool = False
    """While sampling, announce levels to the network cut to whole thousandths, as Wan's own
    samplers do; steps are between the levels themselves."""
    evaluate_steps: tuple[Annotated[int, Field(ge=0)], ...] | Literal["all"] = "all"
    """Steps at which the network is evaluated, counted from 0; at the others, the velocity of the
    last evaluation is taken again (DreamZero evaluates 8 of 16). Modalities that are denoised
    together are evaluated together, whenever one of them is."""
    sigma_max: float = Field(1.0, gt=0, le=1)
    """Level at which sampling begins; Cosmos's 80 is 80/81 here."""
    sigma_min: float = Field(0.0, ge=0, lt=1)
    """Level of the last evaluation, from where the step goes to 0 at once; 0 leaves it to the grid.
    Cosmos's 4 is 0.8 here, LTX's terminal shift is 0.1."""
    timestep_sampling: Literal[
        "uniform", "indexed", "logit_normal", "lognormal_mix", "beta", "sqrt", "pure_noise"
    ] = "uniform"
    """Distribution of training levels. `indexed`: uniform over 1000 levels, 0 left out.
    `lognormal_mix`: Cosmos, lognormal or uniform in sigma / (1 - sigma). `sqrt`: mimic-video's
    actions, proportional to the root of sigma - 0.001. `pure_noise`: always 1, for what is
    predicted at once."""
    sampling_args: SamplingArgs = Field(default_factory=SamplingArgs)
    """Parameters of `timestep_sampling`; those left out are as published."""
    bf16_timesteps: bool = False
    """Round training levels to bfloat16 in thousandths, as Fast-WAM's released runs did."""
    bf16_sampling: bool = False
    """Round timesteps (in thousandths) and step lengths of Euler sampling to bfloat16, as the code
    that Fast-WAM was evaluated with does."""
    shared_sigma: bool = False
    """Train this modality at the level of the other one instead of a level of its own."""
    loss_weighting: Literal["bell", "none"] = "bell"
    """Loss weight as a function of sigma; `bell` is zero at pure noise and largest in between."""
    loss_weight: float = Field(1.0, ge=0)
    """Weight of this modality in the total loss."""
    guidance_scale: float = Field(1.0, ge=0)
    """Classifier-free guidance while sampling; 1 is none."""

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated in `steps` steps."""
        return joint_passes(self)

    def evaluates(self, step: int) -> bool:
        """Whether the network is evaluated at `step`, counted from 0."""
        return step < self.steps and (self.evaluate_steps == "all" or step in self.evaluate_steps)

    def setting(self, name: str) -> Any:
        """One of `sampling_args`, as given or as published."""
        given = getattr(self.sampling_args, name)
        return PUBLISHED[self.timestep_sampling][name] if given is None else given

    @field_validator("shift", mode="wrap")
    @classmethod
    def _number_or_tokens(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError('a shift is a number above 0, or "tokens"') from None

    @model_validator(mode="after")
    def _consistent(self) -> ScheduleConfig:
        check_steps(self.solver, self.steps)
        own = PUBLISHED.get(self.timestep_sampling, {})
        for name in SETTINGS:
            if getattr(self.sampling_args, name) is not None and name not in own:
                homes = " and ".join(d for d, its in PUBLISHED.items() if name in its)
                raise ValueError(
                    f"{name} belongs to timestep_sampling {homes}, not to "
                    f"{self.timestep_sampling}; leave it out or change timestep_sampling"
                )
        if self.bf16_sampling and self.solver != "euler":
            raise ValueError(
                f"bf16_sampling rounds the steps of the euler solver, found {self.solver}; "
                'leave it out, or write solver = "euler"'
            )
        if self.evaluate_steps != "all":
            _check_evaluated(self.evaluate_steps, self.steps, self.solver)
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"sigma_min must be below sigma_max, found {self.sigma_min} and {self.sigma_max}"
            )
        if self.spacing == "karras" and not 0 < self.sigma_min < self.sigma_max < 1:
            raise ValueError(
                f"karras spacing needs 0 < sigma_min < sigma_max < 1, found {self.sigma_min} and "
                f"{self.sigma_max}; Cosmos's are sigma_min = 0.8 and sigma_max = 0.98765432"
            )
        return self


def joint_passes(*schedules: ScheduleConfig) -> int:
    """Passes in which modalities of these schedules are denoised together; 0 for none.

    A step has one if any of them is evaluated at it.
    """
    steps = max((schedule.steps for schedule in schedules), default=0)
    return sum(any(schedule.evaluates(step) for schedule in schedules) for step in range(steps))


def check_steps(solver: str, steps: int) -> None:
    """Raise ValueError if `solver` cannot spend exactly this many network evaluations."""
    if solver in TWICE and steps % 2:
        raise ValueError(
            f"steps counts network evaluations, and {solver} makes two a step: "
            f"found {steps}, write {steps - 1 or 2} or {steps + 1}"
        )


def _check_evaluated(chosen: tuple[int, ...], steps: int, solver: str) -> None:
    """Raise ValueError unless `chosen` are steps of a run in order, the first one among them."""
    expected = f"from 0 to at most {steps - 1}, each once and in order"
    if not chosen or chosen[0] != 0 or list(chosen) != sorted(set(chosen)) or chosen[-1] >= steps:
        raise ValueError(
            f'evaluate_steps are {list(chosen)}; write steps {expected}, or "all" for every step'
        )
    if solver in TWICE:
        raise ValueError(
            f"evaluate_steps are for solvers with one evaluation a step, and {solver} makes two; "
            "leave evaluate_steps out or choose another solver"
        )


class Schedules(Section):
    """One schedule for each modality."""

    video: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """Of imagined frames."""
    action: ScheduleConfig = Field(default_factory=ScheduleConfig)
    """Of an action chunk."""
    next_state: ScheduleConfig | None = None
    """Of a state to come; the action's if left open."""
    value: ScheduleConfig | None = None
    """Of a value; the action's if left open."""
