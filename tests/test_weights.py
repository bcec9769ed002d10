"""Layouts of weights: renamed, split and swapped, with every tensor accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.files import ALIGNED
from wamkit.checkpoints.safetensors import CheckpointLayout
from wamkit.errors import WamkitError

FUSED = CheckpointLayout(
    "fused",
    r"^qkv\.weight$",
    rules=((r"^head\.lin\.", "out."),),
    drop=(r"^buffer$",),
    splits=((r"^qkv\.(weight|bias)$", (r"q.\1", r"k.\1", r"v.\1")),),
    swap_halves=(r"^out\.",),
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 6), nn.Linear(4, 2), nn.Linear(4, 2)
        self.out = nn.Linear(6, 8)


def _fused(model: Model) -> dict[str, torch.Tensor]:
    """The state of `model` as another program would have written it."""
    state = {f"qkv.{kind}": torch.cat([getattr(getattr(model, n), kind).detach() for n in "qkv"])
             for kind in ("weight", "bias")}  # fmt: skip
    for kind in ("weight", "bias"):
        first, second = getattr(model.out, kind).detach().chunk(2)
        state[f"head.lin.{kind}"] = torch.cat([second, first])
    return state | {"buffer": torch.zeros(3)}


def _empty() -> Model:
    with torch.device("meta"):
        return Model()


def test_stacked_rows_are_cut_by_our_shapes_and_halves_change_places(tmp_path: Path) -> None:
    model = Model()
    save_file(_fused(model), tmp_path / "a.safetensors")
    other = _empty()
    assert weights.load(other, tmp_path / "a.safetensors", layouts=(FUSED,)) == "fused"
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_weights_go_back_into_the_layout_they_came_from(tmp_path: Path) -> None:
    model = Model()
    theirs = _fused(model)
    save_file(theirs, tmp_path / "a.safetensors")
    weights.save_like(model, tmp_path / "b.safetensors", tmp_path / "a.safetensors", (FUSED,))
    again = load_file(tmp_path / "b.safetensors")
    assert again.keys() == theirs.keys() - {"buffer"}
    assert all(torch.equal(again[name], theirs[name]) for name in again)
    del theirs["head.lin.bias"]
    save_file(theirs, tmp_path / "c.safetensors")
    with pytest.raises(WamkitError, match=r"has no place for 1 tensors: out\.bias"):
        weights.save_like(model, tmp_path / "d.safetensors", tmp_path / "c.safetensors", (FUSED,))


def test_a_stack_of_another_height_is_reported_under_its_own_name(tmp_path: Path) -> None:
    state = _fused(Model())
    state["qkv.bias"] = torch.zeros(11)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(WamkitError) as error:
        weights.load(_empty(), tmp_path / "a.safetensors", layouts=(FUSED,))
    assert "3 missing: k.bias, q.bias, v.bias" in str(error.value)
    assert "1 unexpected: qkv.bias" in str(error.value)


def test_our_files_are_plain_safetensors_aligned_for_mapping(tmp_path: Path) -> None:
    model = Model().to(torch.bfloat16)
    assert weights.save(model, tmp_path / "a.safetensors") == 8
    read = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(read[name], value) for name, value in model.state_dict().items())
    raw = (tmp_path / "a.safetensors").read_bytes()
    assert (8 + int.from_bytes(raw[:8], "little")) % ALIGNED == 0
    again = _empty()
    weights.load(again, tmp_path / "a.safetensors")
    assert all(p.data_ptr() % ALIGNED == 0 for p in again.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_an_unknown_layout_states_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WamkitError, match=r"found x, ...; known are fused \(has \^qkv"):
        weights.load(_empty(), tmp_path / "a.safetensors", layouts=(FUSED,))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no safetensors file in"),
        (("a.safetensors", "b.safetensors"), "holds several safetensors files and no index"),
    ],
)
def test_a_folder_must_hold_one_model(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(WamkitError, match=message):
        weights.find(tmp_path)
