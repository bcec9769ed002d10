"""Read what another implementation computed, and run a policy with the noise it had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..engine.noise_schedule import SubsetGenerator
from ..policy import preprocessing
from ..policy.observation import ActionChunk, Observation
from ..policy.policy import Policy


def read_record(file: Path, start: str = "") -> dict[str, Tensor]:
    """As `part_of`, of a safetensors file."""
    return part_of(load_file(file), start)


def part_of(record: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `start`, by the rest of their names."""
    return {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}


class RecordedNoise(SubsetGenerator):
    """A generator whose standard normal noise was recorded, each tensor found by its shape."""

    recorded: list[Tensor]

    def __new__(cls, noise: Sequence[Tensor]) -> RecordedNoise:  # type: ignore[misc]
        """A generator that gives each of `noise` once."""
        made = torch.Generator.__new__(cls, "cpu")  # type: ignore[call-arg]
        made.recorded = list(noise)
        return made

    def noise(self, shape: tuple[int, ...], like: Tensor, axis: int = 0) -> Tensor:
        """The first recorded tensor of this shape that was not given yet."""
        for index, tensor in enumerate(self.recorded):
            if tuple(tensor.shape) == tuple(shape):
                return self.recorded.pop(index).to(like)
        have = [tuple(tensor.shape) for tensor in self.recorded]
        raise AssertionError(f"no noise of shape {shape} was recorded, there is {have}")


@torch.no_grad()
def act_with_noise(
    policy: Policy, observation: Observation, noise: Sequence[Tensor]
) -> ActionChunk:
    """As `Policy.act`, with recorded noise in place of a seed."""
    inputs = preprocessing.inference_inputs(
        policy, observation, with_future=policy.paradigm.needs_future
    )
    out = policy._run_paradigm({})(inputs, RecordedNoise(noise))
    return policy.to_action_chunk(out, observation)
