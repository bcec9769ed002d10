"""Embeddings that were written once serve in place of the encoder."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import wamkit
from wamkit.checkpoints.files import write_tensors
from wamkit.cli import main
from wamkit.config.spec import override, parse, read
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.policy.precomputed_text import StoredEncoder, precompute, store
from wamkit.testing.fixtures import observation

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
CLIP = {"name": "open_clip", "layers": 2, "num_heads": 2, "embedding": 32, "adapter": "linear"}
CLIP |= {"prompt_template": "do: {instruction}"}


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    """A spec with a frozen encoder whose weights are on disk."""
    from wamkit.checkpoints import safetensors as weights

    torch.manual_seed(0)
    weights.save(wamkit.load_part("text_encoder", CLIP), tmp_path / "clip.safetensors")
    encoder = CLIP | {"weights": str(tmp_path / "clip.safetensors")}
    return override(read(TOY), ["cameras.views.0.size=[16, 32]"]) | {"text_encoder": encoder}


def test_a_policy_acts_the_same_from_stored_embeddings(raw: dict[str, Any], tmp_path: Path) -> None:
    policy = wamkit.build(raw)
    seen = observation(policy.spec)
    file = tmp_path / "text.safetensors"
    assert precompute(policy.spec.text_encoder, ["task 0", "task 1"], file) == 2
    stored = raw | {"text_encoder": raw["text_encoder"] | {"embeddings_file": str(file)}}
    other = wamkit.build(stored)
    assert isinstance(other.text_encoder, StoredEncoder)
    assert torch.equal(policy.act(seen, seed=0).values, other.act(seen, seed=0).values)
    again = Policy.load(other.save(tmp_path / "policy"))
    assert torch.equal(policy.act(seen, seed=0).values, again.act(seen, seed=0).values)


def test_an_interrupted_run_goes_on_where_it_stopped(raw: dict[str, Any], tmp_path: Path) -> None:
    config, file = wamkit.build(raw).spec.text_encoder, tmp_path / "text.safetensors"
    counts: list[int] = []

    def stop(n: int) -> None:
        counts.append(n)
        if len(counts) == 3:
            raise KeyboardInterrupt

    prompts = ["a", "b", "c", "d"]
    with pytest.raises(KeyboardInterrupt):
        precompute(config, prompts, file, stop, every=2)
    assert precompute(config, prompts, file) == 2
    assert [p.name for p in tmp_path.glob("*text*")] == ["text.safetensors"]


def test_what_is_not_stored_is_refused_with_the_nearest(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    config, file = wamkit.build(raw).spec.text_encoder, tmp_path / "text.safetensors"
    precompute(config, ["lift the cup"], file)
    encoder = StoredEncoder(file, config)
    with pytest.raises(WamkitError, match="did you mean 'do: lift the cup'"):
        encoder.encode(["do: lift the cap"])
    other = config.model_copy(update={"prompt_template": "{instruction}"})
    with pytest.raises(WamkitError, match="was made with"):
        StoredEncoder(file, other)
    with pytest.raises(WamkitError, match="by another encoder or with other settings"):
        precompute(other, ["x"], file)
    missing = raw | {
        "text_encoder": raw["text_encoder"] | {"embeddings_file": "nowhere.safetensors"}
    }
    (conflict,) = wamkit.check(missing)
    assert conflict.missing and conflict.why == "no file is at nowhere.safetensors"


def test_the_command_writes_and_states_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("lift\n\nput down\nlift\n")
    out = tmp_path / "text.safetensors"
    args = ["precompute", "text", TOY, "--prompts", tmp_path / "prompts.txt", "--out", out]
    monkeypatch.setattr(sys, "argv", ["wamkit", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code and "2 of 2 instructions were new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no JSON", "its prompts are no JSON"),
        ("no list", "its prompts are no list of texts"),
        ("another prompt", "it holds nothing"),
        ("float8", r"torch.float8_e4m3fn \["),
        ("int8", r"torch.int8 \["),
    ],
)
def test_a_damaged_file_is_refused_with_a_message(
    raw: dict[str, Any], tmp_path: Path, kind: str, message: str
) -> None:
    file = tmp_path / "text.safetensors"
    precompute(wamkit.build(raw).spec.text_encoder, ["a"], file)
    with safe_open(file, framework="pt") as reader:
        about = dict(reader.metadata())
        tensors = {f"0.{kind}": reader.get_tensor(f"0.{kind}") for kind in ("tokens", "valid")}
    texts = {"no JSON": "[", "no list": "{}", "another prompt": '["a", "b"]'}
    about["prompts"] = texts.get(kind, about["prompts"])
    types = {"float8": torch.float8_e4m3fn, "int8": torch.int8}
    tensors = {k: v.to(types.get(kind, v.dtype)) for k, v in tensors.items()}
    write_tensors(tensors, file, about)
    stored = raw | {"text_encoder": raw["text_encoder"] | {"embeddings_file": str(file)}}
    with pytest.raises(WamkitError, match=message) as error:
        wamkit.build(stored)
    assert "precompute text" in str(error.value.hint)


def _wide(name: str, change: Any) -> Any:
    return lambda t: t | {name: change(t[name]).contiguous()}


DAMAGE: dict[str, tuple[Any, str]] = {
    "another width": (_wide("0.tokens", lambda x: x[..., :3]), r"\[1, \d+, 3\], expected"),
    "no token": (_wide("0.tokens", lambda x: x[:, :0]), r"embeddings \[1, 0, 32\]"),
    "two prompts in one": (_wide("0.tokens", lambda x: torch.cat([x, x])), "embeddings"),
    "more axes": (_wide("0.tokens", lambda x: x[None]), "embeddings"),
    "fewer axes": (_wide("0.tokens", lambda x: x[0]), "embeddings"),
    "a mask of another length": (_wide("0.valid", lambda x: x[:, 1:]), "a mask torch.bool"),
    "a mask in numbers": (_wide("0.valid", lambda x: x.long()), "a mask torch.int64"),
    "a mask that hides all": (_wide("0.valid", lambda x: x & False), "hides every token"),
    "counts of another length": (lambda t: t | {"0.copies": torch.ones(1, 1000)}, "counts"),
    "counts below 0": (
        lambda t: t | {"0.copies": -torch.ones(t["0.tokens"].shape[:2])},
        "not from 0",
    ),
    "counts that are infinite": (
        lambda t: t | {"0.copies": torch.full(t["0.tokens"].shape[:2], float("inf"))},
        "not from 0",
    ),
    "a tensor of no prompt": (lambda t: t | {"7.tokens": torch.ones(1, 2, 32)}, "of no prompt"),
    "a tensor of another kind": (lambda t: t | {"0.other": torch.ones(1)}, "of no prompt"),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_embeddings_of_other_sizes_are_refused_before_they_are_used(
    raw: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    change, message = DAMAGE[kind]
    file = tmp_path / "text.safetensors"
    config = wamkit.build(raw).spec.text_encoder
    precompute(config, ["a"], file)
    with safe_open(file, framework="pt") as reader:
        about = dict(reader.metadata())
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    tensors.setdefault("0.valid", torch.ones(tensors["0.tokens"].shape[:2], dtype=torch.bool))
    write_tensors(change({name: value.clone() for name, value in tensors.items()}), file, about)
    stored = raw | {"text_encoder": raw["text_encoder"] | {"embeddings_file": str(file)}}
    for use in (lambda: wamkit.build(stored), lambda: precompute(config, ["b"], file)):
        with pytest.raises(WamkitError, match=message):
            use()


@pytest.mark.parametrize(
    "prompts", ['["a", "a"]', '["\\ud800"]', "[" * 10**5, "[NaN]", '{"a": 1}', "[1]", "null", ""]
)
def test_prompts_are_a_list_of_texts_each_once(
    raw: dict[str, Any], tmp_path: Path, prompts: str
) -> None:
    file = tmp_path / "text.safetensors"
    precompute(wamkit.build(raw).spec.text_encoder, ["a"], file)
    with safe_open(file, framework="pt") as reader:
        about = dict(reader.metadata()) | {"prompts": prompts}
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118
    write_tensors(tensors, file, about)
    with pytest.raises(WamkitError, match="prompt"):
        wamkit.build(raw | {"text_encoder": raw["text_encoder"] | {"embeddings_file": str(file)}})


def test_what_cannot_be_written_is_reported_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "none" / "x.safetensors"
    with pytest.raises(WamkitError, match=r"x\.safetensors cannot be written: .*No such file"):
        write_tensors({"a": torch.zeros(1)}, file)


def test_pickled_embeddings_are_stored_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "text.pkl", tmp_path / "text.safetensors"

    def run() -> int:
        args = ["precompute", "text", TOY, "--pickle", file, "--out", out]
        monkeypatch.setattr(sys, "argv", ["wamkit", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    config = parse(read(TOY)).text_encoder
    tokens = torch.randn(1, 5, config.width)
    file.write_bytes(pickle.dumps({"lift": tokens}))
    assert run() == 0 and "1 instruction" in capsys.readouterr().out
    assert torch.equal(StoredEncoder(out, config).encode(["lift"]).tokens, tokens)
    out.unlink()
    file.write_bytes(pickle.dumps({"lift": tokens[..., :3]}))
    assert run() != 0
    assert f"expected [1, tokens, {config.width}]" in capsys.readouterr().err
    assert not out.exists()


def test_pickled_embeddings_are_stored_under_the_prompt_in_lower_case(tmp_path: Path) -> None:
    config = parse(read(TOY)).text_encoder
    config = config.model_copy(update={"prompt_template": "a robot: {lower_instruction}"})
    tokens = torch.randn(1, 5, config.width)
    store(config, {"Lift": tokens}, tmp_path / "text.safetensors")
    encoder = StoredEncoder(tmp_path / "text.safetensors", config)
    assert torch.equal(encoder.encode(["a robot: lift"]).tokens, tokens)
