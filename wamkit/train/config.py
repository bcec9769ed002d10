"""The settings of a training run, read from TOML or YAML and from KEY=VALUE; without torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from ..config.mistakes import explain_mistakes
from ..config.robot import Section
from ..config.seeds import MOST as MOST_SEED
from ..config.spec import override
from ..errors import SpecError
from ..files.documents import read_table

FREE = {
    "steps",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "compile",
    "parallelism",
    "log_every",
    "save_every",
    "max_checkpoints",
    "validate_every",
    "validation_batches",
    "imagine_every",
    "validate_imagined_every",
    "loggers",
    "peak_flops",
    "measure_peak",
    "tolerance",
    "timeout",
}
"""Settings that may change when a run is resumed; all others affect the result."""


Beta = Annotated[float, Field(ge=0, lt=1)]
LARGEST = 1e30
"""The largest learning rate and decay: updates beyond leave the range of float32."""
MOST = 2**53
"""The largest number of steps, and of samples; the limit in a record of a run."""


class PartTraining(Section):
    """Training settings of one part of the policy."""

    freeze: bool = False
    """Leave its weights as they are."""
    lr: float | None = Field(default=None, gt=0, le=LARGEST)
    """Its own peak learning rate; that of the run if left open."""


class Parts(Section):
    """Training settings by part. The VAE and a frozen text encoder are never trained."""

    backbone: PartTraining = Field(default_factory=PartTraining)
    """The video model."""
    action_head: PartTraining = Field(default_factory=PartTraining)
    """What predicts actions."""
    text_encoder: PartTraining = Field(default_factory=PartTraining)
    """What embeds the prompt."""
    text_adapter: PartTraining = Field(default_factory=PartTraining)
    """Between a text encoder and a backbone of another width."""
    latent_adapter: PartTraining = Field(default_factory=PartTraining)
    """Between a VAE and a backbone of another number of channels."""


class Lora(Section):
    """LoRA adapters on frozen linear layers (Hu et al., arXiv 2106.09685).

    A part with adapters rests otherwise. Saved policies hold the sum, as any other policy does.
    """

    rank: int = Field(16, gt=0)
    """Columns of one matrix of an adapter, rows of the other."""
    alpha: float = Field(default=16.0, gt=0, le=LARGEST)
    """LoRA scaling is alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that are left out while it learns."""
    lr: float | None = Field(default=None, gt=0, le=LARGEST)
    """Peak learning rate of the adapters; that of their part, or of the run, if left open."""
    parts: tuple[Literal["backbone", "action_head"], ...] = Field(("backbone",), min_length=1)
    """Which parts have adapters."""
    targets: str | None = None
    """A regular expression that is searched in names such as "backbone.blocks.0.attn1.to_q"; all
    linear layers inside blocks if left open."""

    @field_validator("targets")
    @classmethod
    def _an_expression(cls, targets: str | None) -> str | None:
        try:
            re.compile(targets or "")
        except re.error as error:
            raise ValueError(f"{targets!r} is no regular expression: {error}") from None
        return targets


class TrainConfig(Section):
    """All settings of a training run besides the policy and the data."""

    steps: int = Field(1000, gt=0, le=MOST)
    """Updates of the weights, from the first to the last."""
    batch_size: int = Field(8, gt=0, le=MOST)
    """Samples of one update, those of all processes together."""
    gradient_accumulation_steps: int = Field(1, gt=0, le=MOST)
    """Passes that a process makes for one update; more need less memory. Noise is drawn for the
    batch cut into processes x passes, so the result depends only on their product."""
    seed: int = Field(0, ge=0, le=MOST_SEED)
    """Of the order of the data, of noise and of the held-out episodes."""

    lr: float = Field(1e-4, gt=0, le=LARGEST)
    """Peak learning rate of AdamW."""
    schedule: Literal["cosine", "constant", "one_cycle"] = "cosine"
    """After the warm-up: down half a cosine to `min_lr_ratio`; the same to the end; or a warm-up
    that is a cosine as well, and down to `min_lr_ratio` (Smith, arXiv 1708.07120)."""
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises."""
    min_lr_ratio: float = Field(0.01, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: float = Field(0.01, ge=0, le=LARGEST)
    """Of matrices; biases, norms and other vectors do not decay."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Longest gradient, all weights together; none is shortened if left out with "none"."""
    parts: Parts = Field(default_factory=Parts)
    """What learns, part by part."""
    lora: Lora | None = None
    """Adapters in place of all weights of a part; none if left out. Needs `wamkit[lora]`."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Keep a moving average of the weights with this decay, for example 0.999; it warms up as
    (1 + step) / (10 + step). Validation, images and saved policies take the average."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Weights, their updates and losses are float32 in both. With bfloat16 the pass of backbone and
    head runs under torch's autocast: matrix products, convolutions and attention in bfloat16, norms
    and sums in float32. The saved policy acts in the dtype of its spec."""
    gradient_checkpointing: bool = False
    """Keep of every layer only what enters it, and compute the rest again for the gradients: the
    same result in less memory, for about a third more computation."""
    compile: bool = False
    """Run blocks through torch.compile, forward and backward: the same result up to rounding,
    faster after the first updates, which take minutes at full size."""
    parallelism: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: every process holds all weights, or a share of each block's."""
    timeout: float = Field(600.0, gt=0, le=604_800)
    """Seconds that a process waits for the others before the run ends; more than the first one
    takes to write a policy."""

    tolerance: float = Field(1e-4, ge=0)
    """Seconds that the time of a frame, or of its image, may be off in the data."""
    val_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the episodes that are held out; 0 for none."""
    validate_every: int = Field(500, ge=0, le=MOST)
    """Steps from one validation loss to the next; 0 for none."""
    validation_batches: int = Field(8, gt=0)
    """Batches of held-out samples, always the same ones with the same noise."""
    imagine_every: int = Field(0, ge=0)
    """Steps from one image of an imagined future to the next; 0 for none."""
    validate_imagined_every: int = Field(0, ge=0)
    """Steps from one measurement of imagined held-out frames to the next (PSNR, SSIM, HaarPSI, also
    of the last observed frame repeated); 0 for none. Needs `wamkit[quality]`."""
    save_every: int = Field(500, gt=0)
    """Steps from one checkpoint to the next; there is always one at the end."""
    max_checkpoints: int = Field(3, gt=0)
    """Checkpoints that are kept: the newest, and the best."""
    log_every: int = Field(10, gt=0)
    """Steps from one line of log.jsonl to the next."""
    loggers: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Loggers of metrics and images besides log.jsonl; each is an extra of wamkit."""
    peak_flops: float | None = Field(default=None, gt=0)
    """Operations a second that a device can do, of which a run reaches a share; from the table of
    `wamkit/train/devices.py` if left open."""
    measure_peak: bool = False
    """Time a matrix product instead, where both are unknown."""
    discount: float = Field(0.99, gt=0, le=1)
    """Of the value that is learned, where the paradigm predicts one: see `wamkit.data.Samples`."""


def read_config(path: Path | None = None, settings: Iterable[str] = ()) -> TrainConfig:
    """Settings from a file, if one is named, and `settings` such as "lr=3e-4" over them.

    "none" unsets a value. Raises WamkitError with every mistake.
    """
    raw = override(read_settings_file(path) if path is not None else {}, settings)
    source = "the training settings" if path is None else str(path)
    raw = {key: None if value == "none" else value for key, value in raw.items()}
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        raise SpecError(explain_mistakes(error, "", TrainConfig), source) from None


def read_settings_file(path: Path) -> dict[str, Any]:
    """The table of a file of training settings, unchecked. Raises WamkitError if it is none."""
    return read_table(path, "file of training settings", "write lr = 1e-4, for example")
