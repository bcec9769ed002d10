"""The configuration of a policy of wamkit, as LeRobot's programs read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig

from wamkit.config.runs import find, is_folder
from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError
from wamkit.policy.build import resolve

from .features import Shapes, expect, features_of, offsets


@PreTrainedConfig.register_subclass("wamkit")
@dataclass
class WamkitConfig(PreTrainedConfig):
    """Which policy of wamkit runs, and how.

    Args:
        source: A saved policy or a run of wamkit, or a spec (random weights). Left open where
            `--policy.path` names a folder of LeRobot that holds the policy.
        overrides: KEY=VALUE for its spec, such as "schedules.action.steps=5".
        cameras: View of the policy -> feature, where that is not `observation.images.VIEW`.
        instruction: For environments and data that name no task.
        n_action_steps: Actions of a chunk that are executed before the next one; by default all.
        mode: How it acts: "eager", "compile", "graph" or "compile+graph".
        freeze: Parts that do not learn: "backbone", "action_head", "text_encoder", ...
        lr: Peak learning rate.
        lr_end: Learning rate at the end of the decay.
        betas: Of AdamW.
        weight_decay: Of AdamW, for matrices.
        grad_clip_norm: Largest norm of a gradient.
        warmup_steps: Updates until the peak.
        decay_steps: Updates until the end of the decay; shorter runs have the same curve.
        normalization_mapping: Nothing is normalized by LeRobot: wamkit does it with its own
            statistics.
    """

    source: str | None = None
    overrides: list[str] = field(default_factory=list)
    cameras: dict[str, str] = field(default_factory=dict)
    instruction: str | None = None
    n_action_steps: int | None = None
    mode: str = "eager"
    freeze: list[str] = field(default_factory=list)
    lr: float = 1e-4
    lr_end: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    grad_clip_norm: float = 1.0
    warmup_steps: int = 500
    decay_steps: int = 30_000
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            kind.name: NormalizationMode.IDENTITY
            for kind in (FeatureType.VISUAL, FeatureType.STATE, FeatureType.ACTION)
        }
    )

    @property
    def place(self) -> str | Path:
        """The saved policy, or the spec. Raises WamkitError if none is named."""
        if self.pretrained_path is not None:
            return find(local_folder(self.pretrained_path, self.pretrained_revision)).policy
        if self.source is None:
            raise WamkitError(
                "no policy is named",
                "--policy.type=wamkit --policy.source=POLICY, or --policy.path=DIR",
            )
        return find(self.source).policy if is_folder(self.source) else self.source

    @property
    def spec(self) -> PolicySpec:
        """The spec of the policy, read without its weights. Raises WamkitError."""
        key = str(self.pretrained_path), self.source, tuple(self.overrides)
        known: dict[Any, PolicySpec] = self.__dict__.setdefault("_specs", {})
        if key not in known:
            known[key] = resolve(self.place, self.overrides)
        return known[key]

    @property
    def observation_delta_indices(self) -> list[int]:
        """Frames of a training sample that are observed, counted from the present one."""
        return list(offsets(self.spec).observation)

    @property
    def action_delta_indices(self) -> list[int]:
        """Frames whose actions a training sample holds."""
        return list(offsets(self.spec).action)

    @property
    def reward_delta_indices(self) -> None:
        """No rewards are read."""
        return None

    def get_optimizer_preset(self) -> AdamWConfig:
        """AdamW, as wamkit's own training has it."""
        return AdamWConfig(
            lr=self.lr,
            betas=self.betas,
            weight_decay=self.weight_decay,
            grad_clip_norm=self.grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineDecayWithWarmupSchedulerConfig:
        """A warm-up and a cosine decay."""
        return CosineDecayWithWarmupSchedulerConfig(
            num_warmup_steps=self.warmup_steps,
            num_decay_steps=self.decay_steps,
            peak_lr=self.lr,
            decay_lr=self.lr_end,
        )

    def validate_features(self, fps: float | None = None) -> None:
        """Raise WamkitError with everything in which features do not fit the policy.

        Args:
            fps: Frames a second of a data set that it is to learn from.
        """
        inputs, outputs = shapes(self.input_features), shapes(self.output_features)
        expect(self.spec, self.cameras, inputs, outputs, fps)

    def name_features(self) -> None:
        """Set features to those that the policy has."""
        inputs, outputs = features_of(self.spec, self.cameras)
        self.input_features, self.output_features = (
            policy_features(inputs),
            policy_features(outputs),
        )


def shapes(features: Mapping[str, PolicyFeature] | None) -> Shapes:
    """Features as plain data."""
    return {name: (one.type.name, tuple(one.shape)) for name, one in (features or {}).items()}


def policy_features(found: Shapes) -> dict[str, PolicyFeature]:
    """Features of LeRobot, from plain data."""
    return {
        name: PolicyFeature(type=FeatureType[kind], shape=shape)
        for name, (kind, shape) in found.items()
    }


def local_folder(path: str | Path, revision: str | None = None) -> Path:
    """The folder `path`, or that of a repository on the hub, which is fetched first."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(path), revision=revision))
