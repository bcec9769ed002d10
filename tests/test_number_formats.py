"""Weights of 8 bits: plain ones are read, scaled ones multiplied, packed ones refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.files import find, headers
from wamkit.checkpoints.safetensors import CheckpointLayout
from wamkit.testing.parity import same_values

FUSED = CheckpointLayout(
    "fused", r"qkv\.weight$", splits=((r"qkv\.(\w+)$", (r"q.\1", r"k.\1", r"v.\1")),)
)
FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2]


class Model(nn.Module):
    """Three matrices, one of them with more rows and columns than a block of 128."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(8, 6), nn.Linear(8, 2), nn.Linear(8, 2)
        self.out = nn.Linear(130, 140)
        self.norm = nn.LayerNorm(8)
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))


def empty() -> Model:
    with torch.device("meta"):
        return Model()


def small(state: dict[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    return {k: v.to(kind) if v.ndim == 2 else v.clone() for k, v in state.items()}


def loaded(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    save_file({k: v.contiguous() for k, v in state.items()}, file)
    model = empty()
    weights.load(model, file)
    return model.state_dict()


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(Model().state_dict())


@pytest.mark.parametrize("kind", FLOAT8)
@pytest.mark.parametrize("rest", [torch.float32, torch.bfloat16, torch.float16])
def test_plain_float8_is_widened_to_what_the_rest_of_the_file_is(
    kind: torch.dtype, rest: torch.dtype, state: dict[str, Tensor], tmp_path: Path
) -> None:
    given = small(state, kind)
    given = {k: v.to(rest) if v.dtype == torch.float32 else v for k, v in given.items()}
    found = loaded(given, tmp_path / "a.safetensors")
    assert {v.dtype for k, v in found.items() if k != "count"} == {rest}
    assert all(torch.equal(found[k].double(), given[k].double()) for k in found)


def test_a_file_of_float8_alone_becomes_bfloat16_which_holds_it_exactly(tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for kind in FLOAT8:
        held = codes[codes.view(kind).double().isfinite()].view(kind)
        model = nn.Linear(len(held), 1, bias=False, device="meta")
        save_file({"weight": held[None]}, tmp_path / "a.safetensors")
        weights.load(model, tmp_path / "a.safetensors")
        assert model.weight.dtype == torch.bfloat16
        assert torch.equal(model.weight[0].double(), held.double())


Scale = Callable[[tuple[int, int]], Tensor]
SCALES: dict[str, tuple[str, Scale]] = {
    "ComfyUI": ("scale_weight", lambda _: torch.tensor(0.02)),
    "ComfyUI, of one number": ("scale_weight", lambda _: torch.tensor([0.02])),
    "compressed-tensors": ("weight_scale", lambda s: 0.01 * torch.arange(1, s[0] + 1)[:, None]),
    "a number a row": ("weight_scale", lambda s: 0.01 * torch.arange(1.0, s[0] + 1)),
    "blocks": (
        "weight_scale_inv",
        lambda s: torch.rand(math.ceil(s[0] / 128), math.ceil(s[1] / 128)) + 0.5,
    ),
}


@pytest.mark.parametrize("spread", SCALES)
def test_scaled_float8_is_multiplied_out(
    spread: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    ending, scale = SCALES[spread]
    given = small(state, torch.float8_e4m3fn)
    expected = {k: v.float() for k, v in given.items()}
    for name in [k for k, v in given.items() if v.ndim == 2]:
        factor = scale(tuple(state[name].shape)).bfloat16().float()
        given[name.removesuffix("weight") + ending] = factor
        given[name.removesuffix("weight") + "input_scale"] = torch.tensor(1.0)
        rows, columns = state[name].shape
        for i in range(rows):
            for j in range(0, columns, 128):
                f = factor if factor.numel() == 1 else factor[i] if len(factor) == rows else None
                f = factor[i // 128, j // 128] if f is None else f
                expected[name][i, j : j + 128] *= f.reshape(())
    found = loaded(given, tmp_path / "a.safetensors")
    for name, value in expected.items():
        same_values(found[name].double(), value.double(), 1e-5)


def test_a_stacked_scaled_weight_is_cut_after_it_was_multiplied(tmp_path: Path) -> None:
    stacked = torch.randn(10, 8).to(torch.float8_e4m3fn)
    scale = torch.arange(1.0, 11)[:, None]
    model = Model()
    state = {k: v for k, v in model.state_dict().items() if k[0] not in "qkv"}
    state |= {"qkv.weight": stacked, "qkv.weight_scale": scale, "qkv.bias": torch.zeros(10)}
    state["out.weight_scale"] = torch.ones(1)
    state["out.weight"] = state["out.weight"].to(torch.float8_e4m3fn)
    save_file(state, tmp_path / "a.safetensors")
    other = empty()
    weights.load(other, tmp_path / "a.safetensors", layouts=(FUSED,))
    assert torch.equal(other.k.weight, (stacked.float() * scale)[6:8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"scaled_fp8": torch.zeros(2)}, "scaled float8.*without a scale"),
        (lambda s: s | {"q.scale_weight": torch.ones(())}, "3 float8 tensors without a scale: k"),
        (lambda s: s | {"q.weight_scale": torch.ones(5)}, "scales of a form that is not known"),
        (lambda s: s | {"x.weight_scale": torch.ones(())}, "1 scales without a weight: x"),
    ],
)
def test_scaled_float8_that_cannot_be_multiplied_out_is_called_so(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
    state: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    with pytest.raises(WamkitError, match=rf"(?s)is scaled float8.*{message}|{message}"):
        loaded(change(small(state, torch.float8_e4m3fn)), tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (("q.weight.absmax", "q.weight.quant_map"), "bitsandbytes"),
        (("q.weight.quant_state.bitsandbytes__nf4",), "bitsandbytes"),
        (("q.SCB",), "8-bit bitsandbytes"),
        (("q.qweight", "q.qzeros", "q.scales"), "GPTQ or AWQ"),
        (("q.qweight", "q.wscales", "q.smooth_factor"), "SVDQuant"),
        (("q.weight_packed",), "compressed-tensors"),
        (("q.weight_scale", "q.weight_scale_2"), "NVFP4"),
        (("q._weight_qdata", "q._weight_scale"), "torchao"),
        (("q.weight._data", "q.weight._scale"), "quanto"),
    ],
)
def test_packed_weights_are_refused_by_the_name_of_their_scheme(
    names: tuple[str, ...], scheme: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    packed = {name: torch.zeros(4, dtype=torch.uint8) for name in names}
    with pytest.raises(WamkitError, match=rf"is quantized \({scheme}.*such as q\."):
        loaded(state | packed, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (torch.int8, "I8"),
        (torch.uint8, "U8"),
        (torch.int16, "I16"),
        (torch.int64, "I64"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.filterwarnings("ignore:.*is pickled")
def test_integers_where_the_model_has_floats_are_refused_by_name(
    kind: torch.dtype, code: str, suffix: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    given = small(state, kind)
    file = tmp_path / f"a{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(given, file)
    with pytest.raises(WamkitError, match=rf"4 of another kind of dtype.*k.weight {code} for F32"):
        weights.load(empty(), file)


def test_integers_with_scales_are_called_quantized(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    given = small(state, torch.int8) | {"q.weight_scale": torch.ones(6)}
    with pytest.raises(WamkitError, match=r"is quantized \(integers with a scale.*q.weight I8"):
        loaded(given, tmp_path / "a.safetensors")


def test_a_number_format_that_torch_lacks_is_refused_by_its_code(tmp_path: Path) -> None:
    for kind in ("F4", "F6_E2M3", "F8_E8M0", "Q7"):
        text = b'{"weight":{"dtype":"%s","shape":[2],"data_offsets":[0,1]}}' % kind.encode()
        file = tmp_path / "a.safetensors"
        file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0")
        with pytest.raises(WamkitError, match=rf"of a dtype that is not read: weight {kind}"):
            weights.load(nn.Linear(2, 1, device="meta"), file)


def test_a_gguf_file_is_called_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "a.safetensors"):
        (tmp_path / name).write_bytes(b"GGUF" + bytes(64))
        with pytest.raises(WamkitError, match="is a GGUF file"):
            headers(find(tmp_path / name))


@pytest.mark.filterwarnings("ignore:.*is pickled")
@pytest.mark.parametrize("name", ["a.pt", "a.ckpt", "pytorch_model.bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_either_format_are_read_as_data(
    name: str, zipped: bool, state: dict[str, Tensor], tmp_path: Path
) -> None:
    given = small(state, torch.float8_e4m3fn if zipped else torch.bfloat16)
    torch.save(given, tmp_path / name, _use_new_zipfile_serialization=zipped)
    for path in (tmp_path / name, tmp_path):  # a folder may hold nothing else
        model = empty()
        weights.load(model, path)
        found = model.state_dict()
        assert all(torch.equal(found[k].double(), given[k].double()) for k in found)
