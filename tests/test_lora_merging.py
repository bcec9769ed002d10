"""LoRA adapters that were never merged are merged while their weights are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import wamkit
from tests.test_prefixes import loaded, tiny
from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.lora import LoraNames, LoraSource
from wamkit.checkpoints.safetensors import CheckpointLayout
from wamkit.testing.parity import same_values

RANK = 3
ERROR = 4e-7  # of merging in float32, of the largest weight: about 2e-6 where that is 15
NAMES = {
    "peft": ("{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    "peft without an adapter's name": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "parameters": ("{}.lora_A", "{}.lora_B"),
    "kohya": ("{}.lora_down.weight", "{}.lora_up.weight"),
    "diffusers": ("{}.lora.down.weight", "{}.lora.up.weight"),
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"one": nn.Linear(8, 6), "two": nn.Linear(6, 10)})
        self.conv = nn.Conv2d(3, 4, 2)


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {k: torch.randn_like(v) for k, v in Model().state_dict().items()}


def factors(weight: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random factors of rank `RANK` for a weight."""
    draw = torch.Generator().manual_seed(seed)
    down = torch.randn(RANK, *weight.shape[1:], generator=draw)
    return down, torch.randn(weight.shape[0], RANK, *[1] * (weight.ndim - 2), generator=draw)


def merged(weight: Tensor, scale: float, seed: int = 1) -> Tensor:
    """The weight with its adapter, computed in float64."""
    down, up = (f.double().flatten(1) for f in factors(weight, seed))
    return weight.double() + scale * (up @ down).reshape(weight.shape)


def with_adapters(
    state: Mapping[str, Tensor], form: str, layers: tuple[str, ...] = ("block.one", "block.two")
) -> dict[str, Tensor]:
    """The state with adapters of some layers."""
    found = dict(state)
    for layer in layers:
        for name, factor in zip(NAMES[form], factors(state[f"{layer}.weight"]), strict=True):
            found[name.format(layer)] = factor
    return found


def load(path: Path, **given: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        model = Model()
    weights.load(model, path, **given)
    return dict(model.state_dict())


def save(tensors: Mapping[str, Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    return path


@pytest.mark.parametrize("form", NAMES)
def test_adapters_in_the_file_are_merged(
    form: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    file = save(with_adapters(state, form), tmp_path / "w.safetensors")
    found = load(file, lora=LoraSource(scale=2.0))
    for layer in ("one", "two"):
        name = f"block.{layer}.weight"
        same_values(found[name].double(), merged(state[name], 2.0), ERROR)
    assert torch.equal(found["block.one.bias"], state["block.one.bias"])
    assert torch.equal(found["conv.weight"], state["conv.weight"])


def test_wrappers_of_peft_are_taken_off(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrapped = {
        f"action_head.model.base_model.model.{k.replace('one.', 'one.base_layer.')}": v
        for k, v in state.items()
    }
    layer = "action_head.model.base_model.model.block.one"
    down, up = factors(state["block.one.weight"])
    wrapped |= {f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up}
    found = load(save(wrapped, tmp_path / "w.safetensors"), lora=LoraSource(scale=0.5))
    expected = merged(state["block.one.weight"], 0.5)
    same_values(found["block.one.weight"].double(), expected, 4e-7)
    assert torch.equal(found["block.one.bias"], state["block.one.bias"])


def test_a_convolution_is_merged(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = save(with_adapters(state, "kohya", ("conv",)), tmp_path / "w.safetensors")
    found = load(file, lora=LoraSource(scale=1.5))["conv.weight"]
    expected = merged(state["conv.weight"], 1.5)
    same_values(found.double(), expected, 4e-7)


@pytest.mark.parametrize("source", ["file", "folder", "setting"])
def test_a_scale_is_taken_from_where_it_is_stated(
    source: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    tensors = with_adapters(state, "kohya")
    given: dict[str, Any] = {}
    if source == "file":
        tensors |= {f"block.{k}.alpha": torch.tensor(6.0) for k in ("one", "two")}
    elif source == "folder":
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 6}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    else:
        given = {"lora": LoraSource(scale=2.0)}
    found = load(save(tensors, tmp_path / "w.safetensors"), **given)["block.two.weight"]
    expected = merged(state["block.two.weight"], 2.0)
    same_values(found.double(), expected, 4e-7)


def test_patterns_of_peft_set_alpha_and_rank(state: dict[str, Tensor], tmp_path: Path) -> None:
    file = save(with_adapters(state, "peft"), tmp_path / "w.safetensors")
    config = {
        "r": RANK,
        "lora_alpha": 6,
        "alpha_pattern": {"one": 12, "wo": 99},  # the end of a name begins at a dot
        "rank_pattern": {"^block.one": RANK, "^one": 7},
        "use_rslora": True,
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    found = load(file)
    for layer, alpha in (("one", 12), ("two", 6)):
        name = f"block.{layer}.weight"
        expected = merged(state[name], alpha / RANK**0.5)
        same_values(found[name].double(), expected, 4e-7)


def test_peft_merges_the_same(state: dict[str, Tensor], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model = Model()
    model.load_state_dict(state)
    settings = peft.LoraConfig(
        r=RANK,
        lora_alpha=7,
        target_modules=["one", "two"],
        alpha_pattern={"two": 2},
        init_lora_weights=False,
        modules_to_save=["conv"],
    )
    wrapped = peft.get_peft_model(model, settings)
    wrapped.base_model.model.conv.modules_to_save["default"].weight.data.fill_(0.25)
    wrapped.save_pretrained(tmp_path / "adapter")
    base = save(state, tmp_path / "base.safetensors")
    found = load(base, lora=LoraSource(str(tmp_path / "adapter")))
    expected = wrapped.merge_and_unload().state_dict()
    assert found.keys() == expected.keys()
    for name in found:
        same_values(found[name], expected[name], 9e-7)


def test_a_layout_states_names_of_its_own(state: dict[str, Tensor], tmp_path: Path) -> None:
    down, up = factors(state["block.one.weight"])
    tensors = {f"net.{k}": v for k, v in state.items()}
    tensors |= {"net.lora_first.down_proj.weight": down, "net.lora_first.up_proj.weight": up}
    layout = CheckpointLayout(
        "named",
        r"^net\.",
        ((r"^net\.", ""),),
        lora=(
            LoraNames(
                r"(.*)lora_first\.down_proj\.weight",
                r"\1lora_first.up_proj.weight",
                r"\1block.one.weight",
            ),
        ),
    )
    file = save(tensors, tmp_path / "w.safetensors")
    found = load(file, layouts=[layout], lora=LoraSource(scale=2.0))["block.one.weight"]
    expected = merged(state["block.one.weight"], 2.0)
    same_values(found.double(), expected, ERROR)
    # The other way round: a file in that layout, without what is merged.
    model = Model()
    model.load_state_dict(load(file, layouts=[layout], lora=LoraSource(scale=2.0)))
    weights.save_like(model, tmp_path / "again.safetensors", file, [layout])
    again = load(tmp_path / "again.safetensors", layouts=[layout])
    assert torch.equal(again["block.one.weight"], found)


def test_rows_of_a_stacked_weight_get_their_rows_of_the_adapter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = torch.randn(16, 8)
    down, up = factors(whole)
    tensors = {"qkv.weight": whole, "qkv.lora_A.weight": down, "qkv.lora_B.weight": up}
    layout = CheckpointLayout(
        "stacked", "qkv", splits=((r"^qkv\.weight", ("a.weight", "b.weight")),), swap_halves=("^b",)
    )
    with torch.device("meta"):
        model = nn.ModuleDict({k: nn.Linear(8, n, bias=False) for k, n in (("a", 6), ("b", 10))})
    weights.load(
        model,
        save(tensors, tmp_path / "w.safetensors"),
        layouts=[layout],
        lora=LoraSource(scale=2.0),
    )
    expected = merged(whole, 2.0)
    found = dict(model.state_dict())
    same_values(found["a.weight"].double(), expected[:6], ERROR)
    same_values(found["b.weight"].double(), expected[6:], ERROR)


def test_bfloat16_weights_are_rounded_once(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {k: v.bfloat16() for k, v in with_adapters(state, "peft").items()}
    found = load(save(half, tmp_path / "w.safetensors"), lora=LoraSource(scale=2.0))
    down, up = (half[name.format("block.one")].float() for name in NAMES["peft"])
    expected = (half["block.one.weight"].float() + 2.0 * (up @ down)).bfloat16()
    assert torch.equal(found["block.one.weight"], expected)


def test_adapters_of_a_pickled_file_are_merged(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"mot": with_adapters(state, "peft")}, tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="pickled"):
        found = load(tmp_path / "w.pt", lora=LoraSource(scale=2.0))["block.one.weight"]
    expected = merged(state["block.one.weight"], 2.0)
    same_values(found.double(), expected, ERROR)


def _config(**table: Any) -> Callable[[Path], None]:
    full = {"r": RANK, "lora_alpha": 6, **table}
    return lambda folder: (folder / "adapter_config.json").write_text(json.dumps(full)) and None


@pytest.mark.parametrize(
    ("prepare", "scale", "match"),
    [
        (None, None, "nothing states its scale"),
        (_config(), 3.0, "stated differently: block.one.weight: 2 by .*, 3 by lora_scale"),
        (_config(use_dora=True), None, "DoRA"),
        (_config(peft_type="LOHA"), None, "LOHA adapters"),
        (_config(r=RANK + 1), None, f"has rank {RANK}, and .* says {RANK + 1}"),
        (_config(alpha_pattern={"(a+)+": 1}), None, "regular expressions"),
        (_config(lora_alpha="much"), None, "no lora_alpha"),
    ],
)
def test_a_scale_is_never_guessed(
    prepare: Callable[[Path], None] | None,
    scale: float | None,
    match: str,
    state: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    file = save(with_adapters(state, "peft"), tmp_path / "w.safetensors")
    if prepare is not None:
        prepare(tmp_path)
    with pytest.raises(WamkitError, match=match):
        load(file, lora=LoraSource(scale=scale))


def test_what_does_not_belong_to_the_weights_is_refused(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    lone = with_adapters(state, "peft")
    del lone["block.one.lora_B.default.weight"]
    with pytest.raises(WamkitError, match=r"holds a LoRA that is not merged"):
        load(save(lone, tmp_path / "lone.safetensors"), lora=LoraSource(scale=2.0))
    wrong = with_adapters(state, "peft")
    wrong["block.one.lora_B.default.weight"] = torch.zeros(5, RANK)
    with pytest.raises(WamkitError, match=r"do not fit .*block\.one\.weight \[6, 8\]"):
        load(save(wrong, tmp_path / "wrong.safetensors"), lora=LoraSource(scale=2.0))
    twice = with_adapters(state, "peft") | with_adapters(state, "kohya")
    with pytest.raises(WamkitError, match="has several adapters"):
        load(save(twice, tmp_path / "twice.safetensors"), lora=LoraSource(scale=2.0))
    base = save(state, tmp_path / "base.safetensors")
    with pytest.raises(WamkitError, match="holds no LoRA"):
        load(base, lora=LoraSource(str(base), 2.0))
    other = {"x.lora_A.weight": torch.zeros(3, 8), "x.lora_B.weight": torch.zeros(6, 3)}
    with pytest.raises(WamkitError, match="belong to no weight"):
        load(base, lora=LoraSource(str(save(other, tmp_path / "other.safetensors")), 2.0))
    both = save(with_adapters(state, "peft"), tmp_path / "both.safetensors")
    with pytest.raises(WamkitError, match="a LoRA of its own") as error:
        load(both, lora=LoraSource(str(both), 2.0))
    assert error.value.hint.startswith("leave lora out")


def test_a_spec_states_the_scale(tmp_path: Path) -> None:
    table, state = tiny("backbone", "wan")
    layer = "blocks.0.attn1.to_q"
    down, up = factors(state[f"{layer}.weight"])
    tensors = state | {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    file = save(tensors, tmp_path / "w.safetensors")
    with pytest.raises(WamkitError, match="nothing states its scale") as error:
        loaded(table, file)
    assert "--set backbone.lora_scale=VALUE" in error.value.hint
    found = loaded({**table, "lora_scale": 2.0}, file)
    expected = merged(state[f"{layer}.weight"], 2.0)
    same_values(found[f"{layer}.weight"].double(), expected, 4e-7)


def test_a_saved_policy_names_no_lora(tmp_path: Path) -> None:
    made = wamkit.build("examples/toy.toml")
    folder = tmp_path / "adapter"
    layer = next(k for k, v in made.backbone.state_dict().items() if v.ndim == 2)
    down, up = factors(made.backbone.state_dict()[layer])
    name = layer.removesuffix(".weight")
    adapters = {f"base_model.model.{name}.lora_A.weight": down}
    adapters[f"base_model.model.{name}.lora_B.weight"] = up
    save(adapters, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    base = tmp_path / "base.safetensors"
    weights.save(made.backbone, base)
    settings = [
        f"backbone.weights={json.dumps(str(base))}",
        f"backbone.lora={json.dumps(str(folder))}",
    ]
    policy = wamkit.build("examples/toy.toml", overrides=settings)
    policy.save(tmp_path / "policy")
    again = wamkit.Policy.load(tmp_path / "policy")
    assert again.spec.backbone.lora is None
    found, before = again.backbone.state_dict()[layer], made.backbone.state_dict()[layer]
    same_values(found.double(), merged(before, 1.0), 4e-7)
