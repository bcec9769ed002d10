"""Read what a policy folder of LeRobot holds besides weights: steps of its processors, statistics.

`policy_preprocessor.json` and `policy_postprocessor.json` list steps; a step with tensors of its
own, such as the statistics of a normalization, names a safetensors file next to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..errors import WamkitError
from .files import headers, open_weights
from .setting_values import Settings
from .source import Source

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor.json", "policy_postprocessor.json"
LIBERO_CAMERAS = {"image", "image2"}
"""Cameras of LeRobot's LIBERO: a policy that has them acts by the conventions `lerobot`."""
STEPS = frozenset(
    {
        "rename_observations_processor",
        "to_batch_processor",
        "device_processor",
        "normalizer_processor",
        "unnormalizer_processor",
    }
)
"""Steps of a processor that every policy has; what they do is read, or does nothing here."""


def processor_steps(source: Source, file: str) -> list[Mapping[str, Any]]:
    """The steps of one of the two processors, in order; none without the file.

    Raises WamkitError if it is no list of steps.
    """
    found = source.json(file)
    steps = found.get("steps", []) if isinstance(found, Mapping) else [] if found is None else found
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        raise WamkitError(f"{source.path}/{file} lists no steps", "copy the policy's folder again")
    return steps


def step_of(source: Source, file: str, name: str) -> Mapping[str, Any] | None:
    """The step of a processor that is registered as `name`; None if it has none."""
    steps = processor_steps(source, file)
    return next((step for step in steps if step.get("registry_name") == name), None)


def step_settings(step: Mapping[str, Any], file: str) -> Settings:
    """The settings of a step of `file`; empty if it states none.

    Raises WamkitError if they are no table.
    """
    own = Settings(step, file, str(step.get("registry_name")))
    return own.table("config") if step.get("config") is not None else Settings({}, file)


def unknown_steps(source: Source, known: Collection[str] = ()) -> Iterator[str]:
    """A phrase for every step of the two processors that is neither in `STEPS` nor in `known`."""
    for file in (PREPROCESSOR, POSTPROCESSOR):
        for step in processor_steps(source, file):
            name = step.get("registry_name")
            if name is not None and name not in (*STEPS, *known):
                yield f"{file} has a step {str(name)[:80]!r}"


def step_rows(
    source: Source, step: Mapping[str, Any], feature: str, wanted: Sequence[str]
) -> dict[str, list[float]]:
    """Row -> values of a feature in the statistics of a step, in the order of `wanted`.

    Args:
        source: The policy's folder.
        step: Of one of its processors.
        feature: Such as "action".
        wanted: Names of rows; those that are not there are left out.

    Raises:
        WamkitError: The step names no file of its folder, or rows differ in length.
    """
    name = step.get("state_file")
    if name is None:
        return {}
    if not isinstance(name, str) or name not in source.files:
        raise WamkitError(
            f"{source.path} names {str(name)[:80]!r} as the statistics of its processor, and holds "
            "no such file",
            "copy the policy's folder again",
        )
    file, start = source.folder / name, f"{feature}."
    with open_weights(file) as held:
        entries = headers([file])
        rows = {
            row: held.tensor(entries[start + row]).double().flatten().tolist()
            for row in wanted
            if start + row in entries
        }
    if len({len(values) for values in rows.values()}) > 1:
        lengths = ", ".join(f"{row} {len(values)}" for row, values in rows.items())
        raise WamkitError(
            f"{source.path}/{name}: rows of {feature} differ in length ({lengths})",
            "copy the policy's folder again",
        )
    return rows
