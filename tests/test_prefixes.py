"""What wrappers put around names is taken off; sets, shards and other files are distinguished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from wamkit import WamkitError, load_part
from wamkit.checkpoints.files import find
from wamkit.config.registry import registry
from wamkit.config.spec import parse_part
from wamkit.files.locate import weight_files

FILE = "diffusion_pytorch_model.safetensors"
PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "pipe.dit.",
    "generator.model.",
    "generator_ema.model.",
    "transformer.",
    "net.",
    "student.",
    "module._orig_mod.",
    "state_dict.model._fsdp_wrapped_module.",
]


def tiny(kind: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The table of a tiny part, and its state."""
    part = parse_part(kind, name).tiny()
    assert not isinstance(part, dict)
    if part.model_dump().get("latent_channels", 0) is None:  # what is left open is the VAE's
        part = part.model_copy(update={"latent_channels": 4})
    module = part.build()  # type: ignore[attr-defined]
    state = {k: v.clone().contiguous() for k, v in module.state_dict().items()}
    return part.model_dump(mode="json"), state


@pytest.fixture(scope="module")
def wan() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return tiny("backbone", "wan")


def loaded(table: Mapping[str, Any], path: object, kind: Any = "backbone") -> dict[str, Tensor]:
    return dict(load_part(kind, {**table, "weights": str(path)}).state_dict())


def same(one: Mapping[str, Tensor], two: Mapping[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_one_prefix_of_all_names_is_taken_off(prefix: str, wan: Any, tmp_path: Path) -> None:
    table, state = wan
    save_file({prefix + k: v for k, v in state.items()}, tmp_path / FILE)
    assert same(loaded(table, tmp_path), state)


WEIGHTED = [
    (kind, name)
    for kind in ("backbone", "vae")
    for name in registry().names(kind)  # type: ignore[arg-type]
    if name != "pixel_shuffle" and not registry().get(kind, name).requires  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("kind", "name"), WEIGHTED)
def test_every_part_is_read_behind_a_prefix(kind: str, name: str, tmp_path: Path) -> None:
    table, state = tiny(kind, name)
    save_file({f"module._orig_mod.{k}": v for k, v in state.items()}, tmp_path / FILE)
    assert same(loaded(table, tmp_path / FILE, kind), state)


def test_what_wrappers_leave_within_names_is_taken_out(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    inner = {k.replace("blocks.0.", "blocks.0._orig_mod.", 1): v for k, v in state.items()}
    inner = {
        k.replace("attn1.", "_checkpoint_wrapped_module.attn1._fsdp_wrapped_module."): v
        for k, v in inner.items()
    }
    save_file({f"module.{k}": v for k, v in inner.items()}, tmp_path / FILE)
    assert same(loaded(table, tmp_path), state)
    save_file({**state, "_orig_mod.proj_out.bias": torch.zeros(64)}, tmp_path / FILE)
    with pytest.raises(WamkitError, match=r"holds proj_out\.bias twice"):
        loaded(table, tmp_path)


def test_of_several_sets_one_is_chosen_by_its_prefix(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    averaged = {k: v + 1 for k, v in state.items()}
    both = {f"generator.{k}": v for k, v in state.items()}
    both |= {f"generator_ema.{k}": v for k, v in averaged.items()}
    file = tmp_path / "a.safetensors"
    save_file({**both, "step": torch.zeros(1)}, file)
    with pytest.raises(
        WamkitError, match=r"several sets of these weights: generator\.\* "
    ) as error:
        loaded(table, file)
    assert "generator_ema.* (layout diffusers)" in error.value.what
    assert f'weights = "{file}#generator_ema"' in error.value.hint
    assert same(loaded(table, f"{file}#generator"), state)
    assert same(loaded(table, f"{file}#generator_ema"), averaged)
    with pytest.raises(WamkitError, match=r"no name in .* begins with 'ema\.'"):
        loaded(table, f"{file}#ema")


@pytest.mark.filterwarnings("ignore:.*is pickled")
def test_a_training_checkpoint_is_read_by_the_key_of_its_model(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    moments = {"state": {i: {"exp_avg": v, "exp_avg_sq": v} for i, v in enumerate(state.values())}}
    file = tmp_path / "a.ckpt"
    torch.save({"state_dict": state, "optimizer": moments, "epoch": 3}, file)
    with pytest.raises(WamkitError, match=r"more than these weights: state_dict\.\*") as error:
        loaded(table, file)
    assert "optimizer.*" in error.value.what
    assert same(loaded(table, f"{file}#state_dict"), state)
    torch.save({"optimizer": moments}, file)
    with pytest.raises(WamkitError, match="this is the state of an optimizer"):
        loaded(table, file)


def test_a_prefix_before_names_of_another_size_is_seen_through(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    fewer = {f"module.{k}": v for k, v in state.items() if k != "proj_out.bias"}
    save_file(fewer, tmp_path / FILE)
    with pytest.raises(WamkitError, match=r"1 missing: proj_out\.bias\n"):
        loaded(table, tmp_path)


def _shards(state: Mapping[str, Tensor], folder: Path, stem: str, count: int = 3) -> list[Path]:
    folder.mkdir(exist_ok=True)
    names, files = sorted(state), []
    for i in range(count):
        files.append(folder / f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors")
        save_file({k: state[k] for k in names[i::count]}, files[-1])
    return files


def test_shards_without_an_index_are_read_together(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    files = _shards(state, tmp_path / "one", "diffusion_pytorch_model")
    assert same(loaded(table, tmp_path / "one"), state)
    assert same(loaded(table, files[1]), state)  # one of them stands for all
    files[1].unlink()
    for path in (tmp_path / "one", files[0]):
        with pytest.raises(WamkitError, match=r"lacks 1 of 3 shards: .*00002-of-00003.*no index"):
            loaded(table, path)


def test_sets_of_shards_in_one_folder_are_distinguished(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    rounded = {k: v.half() for k, v in state.items()}
    folder = tmp_path / "two"
    _shards(state, folder, "diffusion_pytorch_model")
    half = _shards(rounded, folder, "diffusion_pytorch_model.fp16", 2)
    assert same(loaded(table, folder), state)
    assert same(loaded(table, half[0]), rounded)
    _shards(state, folder, "other")
    with pytest.raises(WamkitError, match="of 3 sets of shards"):
        loaded(table, folder)
    for file in _shards(state, tmp_path / "three", "model", 4)[:1]:
        _shards(state, tmp_path / "three", "model", 2)
        with pytest.raises(WamkitError, match=r"shards model-\* of 2 and of 4 files"):
            weight_files(file)


def test_an_index_must_name_what_its_shards_hold(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    files = _shards(state, tmp_path / "one", "model", 2)
    names = sorted(state)
    table_of = {k: files[i % 2].name for i, k in enumerate(names)}
    index = tmp_path / "one" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table_of}))
    assert same(loaded(table, tmp_path / "one"), state)
    assert same(loaded(table, index), state)
    index.write_text(json.dumps({"weight_map": table_of | {"extra.weight": files[0].name}}))
    with pytest.raises(WamkitError, match=r"names 1 tensors that their shards do not hold: extra"):
        find(tmp_path / "one")
    index.write_text(json.dumps({"weight_map": table_of | {"extra.weight": "gone.safetensors"}}))
    with pytest.raises(WamkitError, match=r"lacks 1 of 3 shards: gone\.safetensors"):
        find(tmp_path / "one")


@pytest.mark.parametrize(
    "ending",
    [
        "{}.lora_A.weight",
        "{}.lora_A.default.weight",
        "{}.lora_up.weight",
        "{}.lora.down.weight",
        "{}.lokr_w1",
        "{}.hada_w1_a",
        "{}.dora_scale",
        "base_model.model.{}.lora_B.weight",
        "lora_unet_{}.alpha",
    ],
)
def test_a_lora_is_called_one(ending: str, wan: Any, tmp_path: Path) -> None:
    table, state = wan
    layers = [k.removesuffix(".weight") for k, v in state.items() if v.ndim == 2]
    save_file({ending.format(k): torch.zeros(4, 4) for k in layers}, tmp_path / "a.safetensors")
    with pytest.raises(WamkitError, match="is a LoRA: low-rank adapters") as error:
        loaded(table, tmp_path / "a.safetensors")
    assert "merge the LoRA" in error.value.hint


def test_a_lora_that_is_not_merged_is_seen(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    layer = "blocks.0.attn1.to_q."
    wrapped = {k.replace(layer, f"{layer}base_layer."): v for k, v in state.items()}
    wrapped |= {f"{layer}lora_A.default.weight": torch.zeros(4, 72)}
    save_file(wrapped, tmp_path / "a.safetensors")
    with pytest.raises(WamkitError, match="holds a LoRA that is not merged"):
        loaded(table, tmp_path / "a.safetensors")


def test_weights_of_another_part_are_called_by_its_name(wan: Any, tmp_path: Path) -> None:
    table, state = wan
    _, vae = tiny("vae", "wan2.1")
    save_file(vae, tmp_path / "vae.safetensors")
    with pytest.raises(
        WamkitError, match=r"its names are those of .*vae wan2\.1 \(diffusers\)"
    ) as e:
        loaded(table, tmp_path / "vae.safetensors")
    assert "name the file in [vae]" in e.value.hint
    save_file(state, tmp_path / "wan.safetensors")
    other, _ = tiny("backbone", "cosmos")
    with pytest.raises(WamkitError, match=r"those of backbone wan \(diffusers\)"):
        loaded(other, tmp_path / "wan.safetensors")
    text = {"shared.weight": torch.zeros(2, 2), "encoder.block.0.layer.0.x": torch.zeros(1)}
    save_file(text, tmp_path / "t5.safetensors")
    with pytest.raises(WamkitError, match="a language model or text encoder of transformers"):
        loaded(table, tmp_path / "t5.safetensors")
