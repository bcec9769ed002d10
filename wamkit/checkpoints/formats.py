"""Dtypes of tensors in files: which are read, which are rescaled, and which are refused by name.

Plain float8 tensors are read and widened. A float8 weight stored with a scale is multiplied by it.
Any other quantized format is refused with its name; packed bits are never read as values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import WamkitError

if TYPE_CHECKING:
    from .files import Entry

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
OF_CODE = {code: dtype for dtype, code in DTYPES.items()}
FLOAT8 = ("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
FLOATS = ("F64", "F32", "BF16", "F16", *FLOAT8)
BLOCK = 128  # rows and columns that share a scale where scales are a matrix

# Formats with packed low-bit weights, detected by names that only such files hold.
_PACKED = (
    (r"\.(absmax|quant_map|nested_absmax|nested_quant_map)$|\.quant_state\.", "bitsandbytes"),
    (r"\.(SCB|weight_format)$", "8-bit bitsandbytes"),
    (r"\.(wscales|wtscale|smooth_factor|smooth_factor_orig)$", "SVDQuant (nunchaku)"),
    (r"\.(qweight|qzeros|g_idx)$", "GPTQ or AWQ"),
    (r"\.(weight_packed|weight_zero_point|weight_shape)$", "compressed-tensors"),
    (r"\.weight_scale_2$", "NVFP4"),
    (r"\._weight_(qdata|scale|zero_point|int_data)$|\.tensor_impl\.", "torchao"),
    (r"\.weight\._(data|scale|shift)$", "quanto"),
    (r"\.W_q$", "HQQ"),
)
_SCALE = ("weight_scale_inv", "weight_scale", "scale_weight")
_NOT_WEIGHTS = r"(^|\.)(scaled_fp8|comfy_quant|(scale_input|input_scale|activation_scale))$"
_MARK = r"(^|\.)scaled_fp8$"
USE_FLOATS = "name the weights in bfloat16, float16 or float32, as they were first published"


def code(dtype: torch.dtype) -> str:
    """The safetensors code of a dtype, such as "BF16"."""
    return DTYPES.get(dtype, str(dtype).removeprefix("torch."))


def resolve_scales(entries: Mapping[str, Entry], where: str) -> dict[str, Entry]:
    """Attach each scale to its float8 weight, and drop the entries of scales and markers.

    Raises WamkitError if weights are quantized in a format that is not read, or have a dtype that
    torch lacks, or a float8 weight lacks the scale that others have.
    """
    for pattern, scheme in _PACKED:
        if names := sorted(name for name in entries if re.search(pattern, name)):
            raise WamkitError(
                f"{where} is quantized ({scheme}): it holds packed weights and their scales, "
                f"such as {few(names, 3)}",
                USE_FLOATS,
            )
    found = dict(entries)
    scaled = _scale_names(entries)
    marked = any(re.search(_MARK, name) for name in entries)
    packed = [w for w in scaled if w in entries and entries[w].dtype[0] in "IU"]
    if packed:
        raise WamkitError(
            f"{where} is quantized (integers with a scale): "
            f"{few([f'{w} {entries[w].dtype}' for w in sorted(packed)])}",
            USE_FLOATS,
        )
    if marked or (scaled and any(entry.dtype in FLOAT8 for entry in entries.values())):
        _expect_scales(entries, scaled, where, marked=marked)
        for weight, scale in scaled.items():
            found[weight] = replace(entries[weight], scale=entries[scale])
        gone = set(scaled.values())
        found = {k: v for k, v in found.items() if k not in gone and not re.search(_NOT_WEIGHTS, k)}
    unread = [f"{k} {e.dtype}" for k, e in sorted(found.items()) if e.dtype not in OF_CODE]
    unread += [f"{k} F8_E8M0" for k, e in sorted(found.items()) if e.dtype == "F8_E8M0"]
    if unread:
        raise WamkitError(
            f"{where} holds {len(unread)} tensors of a dtype that is not read: "
            f"{few(unread)}; read are {', '.join(FLOATS)} and integers",
            USE_FLOATS,
        )
    return found


def _scale_names(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Return weight name -> name of its scale."""
    pairs = {}
    for name in entries:
        for ending in _SCALE:
            if name == ending or name.endswith("." + ending):
                pairs[name.removesuffix(ending) + "weight"] = name
                break
    return pairs


def _expect_scales(
    entries: Mapping[str, Entry], scaled: Mapping[str, str], where: str, *, marked: bool
) -> None:
    """Raise WamkitError unless every float8 tensor has one scale of a known shape."""
    problems = []
    if lone := [scale for weight, scale in scaled.items() if weight not in entries]:
        problems.append(f"{len(lone)} scales without a weight: {few(sorted(lone))}")
    there = {w: s for w, s in scaled.items() if w in entries}
    other = [f"{w} {entries[w].dtype}" for w in sorted(there) if entries[w].dtype not in FLOAT8]
    if other:
        problems.append(f"{len(other)} scaled weights are not float8: {few(other)}")
    bare = [k for k, e in sorted(entries.items()) if e.dtype in FLOAT8 and k not in scaled]
    bare = [k for k in bare if not re.search(_NOT_WEIGHTS, k)]
    if bare:
        problems.append(f"{len(bare)} float8 tensors without a scale: {few(bare)}")
    shapes = [
        f"{s} {entries[s].dtype} {list(entries[s].shape)} for {list(entries[w].shape)}"
        for w, s in sorted(there.items())
        if entries[s].dtype not in ("F32", "BF16", "F16", "F64")
        or _scale_kind(entries[w].shape, entries[s].shape) is None
    ]
    if shapes:
        problems.append(f"{len(shapes)} scales of a form that is not known: {few(shapes)}")
    if problems:
        raise WamkitError(
            f"{where} is scaled float8 (weights of 8 bits with a scale), and its scales do not "
            "fit\n  " + "\n  ".join(problems),
            USE_FLOATS,
        )


def _scale_kind(weight: Sequence[int], scale: Sequence[int]) -> str | None:
    """Granularity of a scale: "one" per tensor, per "row" or per "block"; None for others."""
    count = 1
    for size in scale:
        count *= size
    if count == 1:
        return "one"
    if weight and tuple(scale) in ((weight[0],), (weight[0], *(1 for _ in weight[1:]))):
        return "row"
    if len(weight) == 2 and list(scale) == [-(-size // BLOCK) for size in weight]:
        return "block"
    return None


def apply_scale(weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply a float8 weight by its scale, in float32."""
    kind, wide, scale = _scale_kind(weight.shape, scale.shape), weight.float(), scale.float()
    if kind == "one":
        return wide * scale.reshape(())
    if kind == "row":
        return wide * scale.reshape(-1, *(1 for _ in weight.shape[1:]))
    rows, columns = weight.shape
    grid = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return wide * grid


def plain_float8_dtype(entries: Mapping[str, Entry]) -> torch.dtype:
    """The dtype that unscaled float8 is read as: the widest other float dtype in the files."""
    held = {e.dtype for e in entries.values() if e.scale is None}
    return next((OF_CODE[c] for c in ("F32", "BF16", "F16") if c in held), torch.bfloat16)


def differs_in_kind(found: str, wanted: torch.dtype) -> bool:
    """True if a tensor of `found` cannot be loaded as `wanted`: integers as floats."""
    return (found in FLOATS) != wanted.is_floating_point or found.startswith("C")


def few(names: Sequence[str], most: int = 8) -> str:
    """List the first names, and count the rest."""
    rest = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
