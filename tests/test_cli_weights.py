"""`wamkit weights` and pickled or remote weights, as a user meets them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import wamkit
from wamkit import WamkitError
from wamkit.checkpoints import safetensors as weights
from wamkit.checkpoints.files import find, headers
from wamkit.cli import main

RECORD = Path(__file__).parent / "data" / "fastwam_tiny.safetensors"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wamkit", *map(str, args)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Any, Path]:
    backbone = wamkit.load_part("backbone", {"name": "wan", "variant": "tiny"})
    weights.save(backbone, tmp_path / "wan.safetensors")
    return backbone, tmp_path / "wan.safetensors"


def test_a_file_is_described_by_its_header(run: Run, saved: Any) -> None:
    backbone, file = saved
    code, out, _ = run("weights", "inspect", file, "--json")
    report = json.loads(out)
    assert code == 0 and report["layouts"] == ["backbone wan, diffusers"]
    assert report["parameters"] == sum(p.numel() for p in backbone.parameters())
    assert report["dtypes"] == {"F32": report["tensors"]}
    assert report["names"]["patch_embedding.weight"] == [72, 16, 1, 2, 2]
    code, out, _ = run("weights", "inspect", file)
    assert code == 0 and "layout: backbone wan, diffusers" in out


def test_a_pickled_checkpoint_is_read_as_data_and_converted_without_loss(
    run: Run, saved: Any, tmp_path: Path
) -> None:
    backbone, _ = saved
    file, out = tmp_path / "wan.pt", tmp_path / "new.safetensors"
    torch.save({"model": {"diffusion_model": backbone.state_dict()}, "step": 7}, file)
    args = ["--part", "backbone:wan", "--set", "variant=tiny", "--out", out]
    with pytest.warns(UserWarning, match="is pickled; `wamkit weights convert`"):
        code, _, err = run("weights", "convert", file, *args)
    assert code == 0, err
    again = wamkit.load_part(
        "backbone", {"name": "wan", "variant": "tiny", "weights": str(out)}
    ).state_dict()
    assert all(torch.equal(again[k], v) for k, v in backbone.state_dict().items())


def test_weights_are_converted_back_without_loss(run: Run, saved: Any, tmp_path: Path) -> None:
    _, file = saved
    checkpoint = tmp_path / "original.safetensors"
    record = load_file(RECORD)
    start = "weights/mixtures.video."
    original = {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}
    save_file(original, checkpoint)
    sizes = ["layers=2", "num_heads=2", "head_dim=12", "mlp_dim=32", "text_width=16"]
    args = ["--part", "backbone:wan", "--set", "variant=tiny"]
    args += [word for size in sizes for word in ("--set", size)]
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
    assert run("weights", "convert", checkpoint, *args, "--out", ours)[0] == 0
    assert (
        run("weights", "convert", ours, *args, "--layout-from", checkpoint, "--out", back)[0] == 0
    )
    again = load_file(back)
    assert again.keys() == original.keys()
    assert all(torch.equal(again[name], original[name]) for name in original)
    code, _, err = run(
        "weights", "convert", file, *args[:4], "--layout-from", checkpoint, "--out", back
    )
    assert code == 2 and "name a file of the same variant" in err


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_convert_keeps_float8_or_writes_the_given_dtype(
    run: Run, saved: Any, tmp_path: Path, kind: torch.dtype
) -> None:
    backbone, _ = saved
    state = {k: v.to(kind if v.ndim == 2 else v.dtype) for k, v in backbone.state_dict().items()}
    file, out = tmp_path / "small.safetensors", tmp_path / "new.safetensors"
    save_file({f"ema.{k}": v.contiguous() for k, v in state.items()}, file)
    args = ["--part", "backbone:wan", "--set", "variant=tiny", "--out", out, "--prefix", "ema"]
    code, _, err = run("weights", "convert", file, *args)
    assert code == 0, err
    again = load_file(out)
    assert all(again[k].dtype == v.dtype for k, v in state.items())
    assert all(torch.equal(again[k].double(), v.double()) for k, v in state.items())
    assert run("weights", "convert", file, *args, "--dtype", "bfloat16")[0] == 0
    assert {v.dtype for v in load_file(out).values()} == {torch.bfloat16}
    code, text, _ = run("weights", "inspect", file)
    assert code == 0 and "backbone wan, diffusers, behind the prefix ema." in text


def test_convert_refuses_to_round_values_to_infinity(run: Run, saved: Any, tmp_path: Path) -> None:
    backbone, file = saved
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    state["proj_out.bias"][0] = 1e6
    save_file(state, file)
    args = ["--part", "backbone:wan", "--set", "variant=tiny", "--dtype", "float16"]
    code, _, err = run("weights", "convert", file, *args, "--out", tmp_path / "new.safetensors")
    assert code == 2 and "infinite in F16: proj_out.bias" in " ".join(err.split())


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("x"), "run": print}, tmp_path / "bad.pt")
    with pytest.raises(WamkitError, match="is no checkpoint that can be read as data alone"):
        headers([tmp_path / "bad.pt"])


def test_what_convert_needs_is_reported(run: Run, saved: Any, tmp_path: Path) -> None:
    _, file = saved
    code, _, err = run("weights", "convert", file)
    assert code == 2 and "convert needs to know whose weights these are" in err
    code, _, err = run("weights", "convert", file, "--part", "backbone:wan", "--out", "x.bin")
    assert code == 2 and "let --out end in .safetensors" in err
    code, _, err = run("weights", "convert", file, "--part", "action_head:mot", "--out", "x.bin")
    assert code == 2 and "the sizes of an action head follow from a whole policy" in err
    args = ["--part", "backbone:wan", "--out", tmp_path / "x.safetensors"]
    code, _, err = run("weights", "convert", file, *args)
    assert (
        code == 2 and "do not fit this model" in err and not (tmp_path / "x.safetensors").exists()
    )


def test_a_remote_repository_that_cannot_be_fetched_states_what_would_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WamkitError, match="cannot be fetched, and no copy is here") as error:
        find("hf:nobody/nothing")
    assert "copy the repository nobody/nothing by other means" in error.value.hint
