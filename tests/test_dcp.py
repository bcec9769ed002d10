"""Checkpoints of torch.distributed are read as data: every tensor, whole, and nothing else."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

from wamkit.checkpoints.files import find, headers, open_weights
from wamkit.checkpoints.safetensors import load
from wamkit.checkpoints.source import Source
from wamkit.errors import WamkitError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
STATE = {
    "net.weight": torch.arange(12.0).reshape(4, 3),
    "net.scale": torch.arange(5).bfloat16(),
    "net.count": torch.tensor(3),
    "net._extra_state": b"state",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dcp") / "model"
    dcp.save(dict(STATE), storage_writer=dcp.FileSystemWriter(place), no_dist=True)
    return place


def read(folder: Path) -> dict[str, Tensor]:
    files = find(folder)
    with open_weights(files[0]) as source:
        return {name: source.tensor(entry) for name, entry in headers(files).items()}


def test_every_tensor_is_read_and_other_values_are_left(folder: Path) -> None:
    found = read(folder)
    assert set(found) == {"net.weight", "net.scale", "net.count"}
    for name, tensor in found.items():
        expected = STATE[name]
        assert isinstance(expected, Tensor)
        assert found[name].dtype == expected.dtype and torch.equal(tensor, expected)


def test_a_module_loads_from_it(folder: Path) -> None:
    model = nn.Module()
    model.net = nn.Module()
    for name, tensor in STATE.items():
        if isinstance(tensor, Tensor):
            model.net.register_buffer(name.partition(".")[2], tensor.to("meta"))
    load(model, folder)
    weight = model.net.weight
    assert isinstance(weight, Tensor) and torch.equal(weight, STATE["net.weight"])  # type: ignore[arg-type]


def test_it_can_be_imported_from(folder: Path) -> None:
    assert "net.weight" in Source(folder).tensor_names
    assert "net.weight" in Source(folder.parent).tensors_in("model")


def test_a_tensor_in_several_pieces_is_put_together(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    metadata = pickle.loads((tmp_path / ".metadata").read_bytes())
    stored = metadata.state_dict_metadata["net.weight"]
    place = type(stored.chunks[0])
    (key,) = [k for k in metadata.storage_data if k.fqn == "net.weight"]
    info = metadata.storage_data.pop(key)
    stored.chunks[:] = []
    for first in (0, 2):
        file = tmp_path / f"__{first + 5}_0.distcp"
        rows = STATE["net.weight"][first : first + 2]
        torch.save(rows.clone(), file)  # type: ignore[union-attr]
        offsets, sizes = torch.Size([first, 0]), torch.Size([2, 3])
        stored.chunks.append(place(offsets=offsets, sizes=sizes))
        index = type(key)("net.weight", offsets, first // 2)
        metadata.storage_data[index] = type(info)(file.name, 0, file.stat().st_size)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    assert torch.equal(read(tmp_path)["net.weight"], STATE["net.weight"])  # type: ignore[arg-type]
    stored.chunks.pop()
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(WamkitError, match="do not make up"):
        read(tmp_path)


def test_pieces_outside_the_folder_and_damage_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / ".metadata").read_bytes()
    name = b"__0_0.distcp"
    (tmp_path / ".metadata").write_bytes(text.replace(name, b"../etc/passw"))
    with pytest.raises(WamkitError, match="names the file"):
        read(tmp_path)
    (tmp_path / ".metadata").write_bytes(text[:-40])
    with pytest.raises(WamkitError, match="no pickle that can be read"):
        read(tmp_path)
    (tmp_path / ".metadata").write_bytes(text)
    (tmp_path / "__0_0.distcp").write_bytes(b"0" * 100)
    with pytest.raises(WamkitError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / ".metadata").unlink()
    with pytest.raises(WamkitError, match="no safetensors file") as refused:
        find(tmp_path)
    assert ".metadata" in refused.value.hint
