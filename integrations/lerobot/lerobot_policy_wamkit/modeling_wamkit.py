"""A policy of wamkit behind the interface of LeRobot's policies."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

import wamkit
from wamkit.data import Columns, LeRobotFolder, compute_statistics
from wamkit.errors import WamkitError
from wamkit.policy.saving import save
from wamkit.train.config import Parts
from wamkit.train.optim import set_trainable

from .batches import to_batch, to_observation
from .configuration_wamkit import WamkitConfig, local_folder, shapes
from .features import offsets, view_keys
from .history import ExecutedChunk, History
from .prefixes import prefix_of, takes_prefixes

POLICY = "policy"
"""Folder of the saved policy within one of LeRobot."""


class WamkitPolicy(PreTrainedPolicy):
    """A policy of wamkit: `policy` acts and learns, this class translates.

    Args:
        config: Names the policy (`WamkitConfig.place`); without features it gets the policy's own.
        dataset_meta: Of the data set to learn from: a policy without statistics computes them.

    Raises WamkitError if features do not fit the policy.
    """

    config_class = WamkitConfig
    name = "wamkit"

    def __init__(self, config: WamkitConfig, *, dataset_meta: Any = None, **unused: Any) -> None:
        super().__init__(config)
        self.config: WamkitConfig = config
        if not (config.input_features or config.output_features):
            config.name_features()
        config.validate_features(None if dataset_meta is None else float(dataset_meta.fps))
        self.policy = wamkit.build(config.place, config.overrides, device=str(config.device))
        spec = self.policy.spec
        self.keys = view_keys(spec, config.cameras, shapes(config.input_features))
        self.frames = offsets(spec)
        if dataset_meta is not None and not self.policy.statistics:
            recording = LeRobotFolder(dataset_meta.root)
            self.policy.set_statistics(compute_statistics(recording, spec, Columns(self.keys)))
        size, wanted = spec.actions.chunk_size, config.n_action_steps
        self.steps = size if wanted is None else wanted
        if not 1 <= self.steps <= size or (self.policy.paradigm.stateful and self.steps != size):
            why = "; the policy remembers whole chunks" if self.policy.paradigm.stateful else ""
            raise WamkitError(
                f"n_action_steps = {self.steps} of a chunk of {size}{why}",
                f"--policy.n_action_steps={size}, or leave it out",
            )
        self._choice_made = False
        self.reset()

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: PreTrainedConfig | None = None,
        revision: str | None = None,
        dataset_meta: Any = None,
        **options: Any,
    ) -> WamkitPolicy:
        """The policy in a folder that `save_pretrained` or `python -m lerobot_policy_wamkit` made.

        Args:
            pretrained_name_or_path: The folder, or a repository on the hub.
            config: In place of the one in the folder.
            revision: Of the repository.
            dataset_meta: As of the class.
            options: Those of LeRobot's own loader, which are not needed.
        """
        home = local_folder(pretrained_name_or_path, revision)
        if config is None:
            config = PreTrainedConfig.from_pretrained(home)
        assert isinstance(config, WamkitConfig)
        config.pretrained_path = home
        policy = cls(config, dataset_meta=dataset_meta)
        policy.to(config.device)
        return policy.eval()

    def _save_pretrained(
        self, save_directory: Path, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """Write the policy in wamkit's format, and the configuration next to it."""
        own = None
        if state_dict is not None:
            own = {name.removeprefix("policy."): x for name, x in state_dict.items()}
        save(self.policy, save_directory / POLICY, own)
        config = copy.copy(self.config)
        config.source, config.overrides, config.pretrained_path = None, [], None
        config._save_pretrained(save_directory)

    def reset(self) -> None:
        """Begin an episode, in every environment of the batch."""
        self._queue: deque[Tensor] = deque()
        self._history = History(self.policy.spec, self.policy.paradigm.stateful)
        self._session = self.policy.session()
        self._made = ExecutedChunk()
        self._begun = False

    @torch.inference_mode(False)
    @torch.no_grad()
    def select_action(
        self, batch: dict[str, Any], executed: Tensor | None = None, **options: Any
    ) -> Tensor:
        """The next action of each environment [B, A], in physical units.

        Call it once a step: a new chunk is computed when the last one is used up, and policies that
        look back are given what was observed meanwhile.

        Args:
            batch: The observation.
            executed: What became of the action before [B, A], if the robot or the environment
                executed another one: a policy with a memory remembers that. LeRobot's own programs
                pass none.
            options: Those of LeRobot that no policy of wamkit has.
        """
        self._history.add(batch)
        if executed is not None:
            self._made.note(executed)
        if not self._queue:
            looks, past = self._history.context(), dict[str, Any]()
            if self.policy.paradigm.stateful and self._begun:
                looks = self._history.since_last_chunk(self._session.num_images)
                past = {"executed": self._made.changed}
            chunk = self._act(looks, **past)[:, : self.steps]
            self._made.begin(chunk)
            self._queue.extend(chunk.unbind(1))
        self._made.take()
        return self._queue.popleft()

    @torch.inference_mode(False)
    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Any],
        inference_delay: int = 0,
        prev_chunk_left_over: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """The chunk for an observation [B, N, A], in physical units.

        Args:
            batch: The observation.
            inference_delay: Actions that are executed while the chunk is computed.
            prev_chunk_left_over: What is left of the chunk before [n, A] or [B, n, A]: the new one
                begins with the first `inference_delay` of them (real-time chunking).
            options: Those of LeRobot that no policy of wamkit has.

        Raises WamkitError if the policy looks back: it must be asked in every step
        (`select_action`).
        """
        if self._history.looks_back or self.policy.paradigm.stateful:
            raise WamkitError(
                "this policy looks back at what was observed in the steps before",
                "call select_action in every step (--inference.type=sync)",
            )
        prefix = None
        if prev_chunk_left_over is not None:
            size = len(next(batch[key] for key in self.keys.values()))
            prefix = prefix_of(self.policy.spec, prev_chunk_left_over, inference_delay, size)
        return self._act([batch], prefix=prefix)

    def supports_rtc(self) -> bool:
        """Whether chunks may continue each other (real-time chunking)."""
        alone = not (self._history.looks_back or self.policy.paradigm.stateful)
        return alone and takes_prefixes(self.policy.spec)

    def drop_queued_actions(self) -> None:
        """Forget actions that were computed and not executed yet."""
        self._queue.clear()

    def _act(self, looks: list[Mapping[str, Any]], **options: Any) -> Tensor:
        """A chunk [B, N, A] on the CPU; noise comes from torch's own generator."""
        if self.policy.mode != self.config.mode:
            self.policy.set_mode(self.config.mode)
        seen = to_observation(self.policy.spec, self.keys, looks, self.config.instruction)
        seeds = torch.randint(2**31, (seen.batch,)).tolist()
        chunk = self._session.act(seen, seed=seeds, **options)
        self._begun = True
        return chunk.values

    def train(self, mode: bool = True) -> WamkitPolicy:
        """As of a module; frozen parts stay in evaluation mode, and learning ones are float32."""
        super().train(mode)
        if mode:
            if not self._choice_made:
                frozen = {kind: {"freeze": True} for kind in self.config.freeze}
                set_trainable(self.policy, Parts.model_validate(frozen))
                self._choice_made = True
            for part in self.policy.children():
                if not any(p.requires_grad for p in part.parameters()):
                    part.eval()
        return self

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Weights that learn: matrices with weight decay, all others without."""
        self.train()
        weights = [p for p in self.policy.parameters() if p.requires_grad]
        matrices = [p for p in weights if p.ndim >= 2]
        others = [p for p in weights if p.ndim < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}]
        groups.append({"params": others, "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    def forward(
        self, batch: dict[str, Any], reduction: str = "mean"
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch of a data set, and that of each modality.

        Raises WamkitError for another reduction than "mean", and if the batch does not fit.
        """
        if reduction != "mean":
            raise WamkitError(
                "losses of single samples are not computed", "leave weighting of samples out"
            )
        config = self.config
        samples = to_batch(self.policy.spec, self.keys, batch, self.frames, config.instruction)
        losses = self.policy.loss(samples, seed=int(torch.randint(2**31, ())))
        return losses.total, {name: float(part) for name, part in losses.parts.items()}
