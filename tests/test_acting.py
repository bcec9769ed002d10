"""Estimates of acting: bytes are those of real tensors, and proposals of `fit` work when typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from wamkit.config.spec import PolicySpec, parse, read
from wamkit.engine.kv_cache import KVCache
from wamkit.interfaces.types import ModelInputs, ModelOutput
from wamkit.policy.cost import cost, zero_inputs
from wamkit.policy.footprint import cache_bytes, footprint, tensor_bytes
from wamkit.policy.live_bytes import LiveBytes
from wamkit.policy.policy import Policy
from wamkit.train.acting import PRECISIONS, estimate_acting
from wamkit.train.config import TrainConfig
from wamkit.train.devices import PEAKS
from wamkit.train.fit import fit_acting, fit_training

Run = Callable[..., tuple[int, str, str]]
TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SMALL = Path(__file__).parent / "data" / "small.toml"


def spec_with(*overrides: str) -> PolicySpec:
    return parse(read(TOY, overrides))


def measured(policy: Policy) -> tuple[int, int]:
    """Bytes of the largest KV cache of a real chunk, and of all that is alive at its worst."""
    most, inputs = (
        0,
        policy.action_head.prepare(zero_inputs(policy.spec, policy.action_head, "cpu")),
    )

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        nonlocal most
        out: ModelOutput = policy.model(inputs, cache=cache, keep=keep)
        most = max(most, cache_bytes(cache, out.cache))
        return out

    known = [*policy.parameters(), *policy.buffers()]
    with torch.no_grad(), LiveBytes(known, "cpu") as meter:
        policy.paradigm.act(model, inputs, policy.schedules, torch.Generator().manual_seed(0))
    return most, meter.most


@pytest.mark.parametrize("paradigm", ["single_pass", "joint", "idm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_and_activations_are_those_of_real_tensors(paradigm: str, dtype: str) -> None:
    spec = spec_with(f"paradigm.name={paradigm}", f"dtype={dtype}")
    found, (cache, alive) = footprint(spec), measured(Policy.from_spec(spec))
    assert found.cache == cache > 0
    assert found.activations + found.cache == pytest.approx(alive, rel=0.02)


def test_weights_are_those_of_the_policy() -> None:
    for dtype in ("float32", "bfloat16"):
        spec = spec_with(f"dtype={dtype}")
        policy, found = Policy.from_spec(spec), footprint(spec).weights
        for kind in ("backbone", "action_head", "text_encoder"):
            part: Any = getattr(policy, kind)
            assert found[kind] == tensor_bytes([*part.parameters(), *part.buffers()]), kind


def test_passes_and_operations_are_those_of_a_chunk() -> None:
    for paradigm in ("single_pass", "joint"):
        spec = spec_with(f"paradigm.name={paradigm}")
        found, wanted = footprint(spec), cost(spec)
        assert found.passes == wanted.passes
        operations = sum(work.operations for work in found.work)
        assert operations == pytest.approx(wanted.operations, rel=0.02)


def test_text_that_is_precomputed_needs_no_encoder() -> None:
    spec = spec_with()
    text = spec.text_encoder.model_copy(update={"embeddings_file": "text.safetensors"})
    assert "text_encoder" in footprint(spec).weights
    assert "text_encoder" not in footprint(spec.model_copy(update={"text_encoder": text})).weights


def test_weights_in_8_bits_are_those_that_quantize_rounds() -> None:
    from wamkit.acceleration.quantize import quantizable_layers

    spec = spec_with("dtype=bfloat16")
    policy, found = Policy.from_spec(spec), footprint(spec, min_elements=1000)
    parts: list[Any] = [policy.backbone, policy.action_head]
    layers = list(quantizable_layers(parts, "int8", torch.bfloat16, 1000))
    elements = sum(layer.weight.numel() for layer in layers)
    rows = sum(layer.weight.shape[0] for layer in layers)
    assert layers and sum(found.rounded.values()) == elements
    saved = sum(found.weights.values()) - sum(found.quantized_weights().values())
    assert saved == elements - 4 * rows
    assert sum(work.rounded_elements for work in found.work) > elements


def test_a_batch_multiplies_all_but_weights_and_times_are_floors() -> None:
    spec = spec_with()
    devices = {name: PEAKS[name] for name in ("h100", "l4")}
    one = estimate_acting(spec, devices=devices, precisions=PRECISIONS[:2])
    four = estimate_acting(spec, batch=4, precisions=PRECISIONS[:1])
    whole, half = one.rows
    (more,) = four.rows
    assert more.weights == whole.weights and more.cache == 4 * whole.cache
    assert more.activations == 4 * whole.activations
    assert whole.bytes_moved < more.bytes_moved < 4 * whole.bytes_moved
    for name, peak in PEAKS.items():
        if name in devices:
            floor = whole.milliseconds[name]
            assert floor is not None and half.milliseconds[name] is not None
            assert floor >= 0.999 * 1000 * whole.bytes_moved / peak.bandwidth
    slow, fast = whole.milliseconds["l4"], whole.milliseconds["h100"]
    assert slow is not None and fast is not None and slow > fast


def test_a_spec_that_is_small_is_not_rounded_and_says_so() -> None:
    made = estimate_acting(spec_with())
    assert [row.precision for row in made.rows] == ["float32", "bfloat16"]
    assert set(made.unsupported) == {"int8", "int8_weights"}


def test_the_command_says_what_is_assumed(wamkit: Run) -> None:
    code, out, _ = wamkit("estimate", "--act", TOY, "--batch", 3, "--gpu", "h100", "--gpu", "here")
    assert code == 0 and "batch 3" in out and "video 10, action 10" in out
    assert "exact: " in out and "approximate: " in out and "h100 ms >=" in out
    code, out, _ = wamkit("estimate", "--act", TOY, TOY, "--gpu", "l4", "--json")
    found = json.loads(out)
    assert code == 0 and list(found["acting"]) == ["toy", "toy (2)"]
    row = found["acting"]["toy"]["rows"][0]
    assert row["total"] == sum(row["weights"].values()) + row["cache"] + row["activations"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--act", TOY, "--steps", 3], "--steps has no meaning with --act"),
        (["--act", TOY, "--gpu", "h10"], "did you mean 'h100'?"),
        ([TOY, TOY], "an estimate of training is of one policy"),
        ([TOY, "--gpu", "h100", "--gpu", "l4"], "devices are several"),
    ],
)
def test_mistyped_estimates(wamkit: Run, args: list[Any], message: str) -> None:
    code, _, err = wamkit("estimate", *args)
    assert code == 2 and message in err


def test_proposals_to_act_fit_and_are_the_fewest() -> None:
    spec = spec_with()
    whole = fit_acting(spec, 10**9)
    assert whole.fits and not whole.proposal
    less = fit_acting(spec, int(0.8 * whole.total))
    assert not less.fits and less.proposal == ("--set dtype=bfloat16",)
    half = fit_acting(spec_with("dtype=bfloat16"), 10**9)
    assert less.proposed_total == half.total
    none = fit_acting(spec, 1000)
    assert not none.proposal and none.least is not None and none.least <= half.total


def test_proposals_to_train_fit() -> None:
    spec, config = parse(read(SMALL)), TrainConfig(batch_size=8)
    whole = fit_training(spec, 10**12, config)
    assert whole.fits
    for share in (0.8, 0.4):  # of one setting, and of several
        found = fit_training(spec, int(share * whole.total), config)
        assert not found.fits and found.proposal
        assert found.proposed_total is not None and found.proposed_total <= share * whole.total
    assert fit_training(spec, 1000, config).least is not None


@pytest.mark.parametrize(("memory", "task"), [("4MB", "train"), ("2MB", "train"), ("0.5MB", "act")])
def test_what_fit_proposes_works_when_it_is_typed(wamkit: Run, memory: str, task: str) -> None:
    args = ["fit", SMALL, "--memory", memory, "--only", task]
    code, out, _ = wamkit(*args, "--json")
    (found,) = json.loads(out)["policies"]["small"]
    assert code == 1 and not found["fits"] and found["proposal"]
    code, out, err = wamkit(*args, *shlex.split(" ".join(found["proposal"])), "--json")
    (again,) = json.loads(out)["policies"]["small"]
    assert code == 0 and again["fits"] and again["total"] == found["proposed_total"], err
    code, out, _ = wamkit(*args)
    assert code == 1 and " ".join(found["proposal"]) in " ".join(out.split())
    assert "assumed:" in out and "there is no offloading" in " ".join(out.split())


def test_what_fits_has_room_for_the_margin_too(wamkit: Run) -> None:
    from wamkit.train.plan import needed, plan

    spec, config = spec_with(), TrainConfig(batch_size=8)
    for count in (lambda limit: fit_acting(spec, limit), lambda n: fit_training(spec, n, config)):
        total = count(10**12).total
        assert needed(total) == pytest.approx(1.1 * total, abs=1)
        assert count(needed(total)).fits
        tight: Any = count(needed(total) - 1)
        assert not tight.fits and needed(tight.proposed_total) < needed(total)
    total = plan(spec, config).total
    assert plan(spec, config, limit=needed(total)).fits
    assert not plan(spec, config, limit=needed(total) - 1).fits
    args = ["fit", TOY, "--only", "act", "--memory", "1GB"]
    out = wamkit(*args)[1]
    assert "GB + 10%" in out and "10% more" in " ".join(out.split())
    assert json.loads(wamkit(*args, "--json")[1])["margin"] == 0.1


def with_text(*overrides: str) -> PolicySpec:
    """The toy policy with a frozen T5, of which no files are named."""
    return spec_with("text_encoder.name=t5-xxl", "text_encoder.adapter=linear", *overrides)


def test_a_published_text_encoder_counts_without_its_files() -> None:
    spec = with_text()
    held = footprint(spec).weights["text_encoder"]
    assert held == 2 * 4_762_310_656
    assert fit_acting(spec, 11 * 10**9).fits
    less = fit_acting(spec, 9 * 10**9)
    assert not less.fits and less.proposal == ("--set text_encoder.embeddings_file=FILE",)
    assert less.total - held == less.proposed_total


def test_it_is_not_known_whether_a_policy_fits_of_which_a_part_is_not_counted(
    wamkit: Run,
) -> None:
    odd = "text_encoder.embedding=2048"  # no T5-XXL is of this size
    spec = with_text(odd)
    found = fit_acting(spec, 10**9)
    assert found.fits is None and "no published t5-xxl" in found.left_out[0]
    assert found.proposal == ("--set text_encoder.embeddings_file=FILE",)  # then it is known
    assert fit_acting(spec, 1000).fits is False  # what is counted is too much already
    args = ["fit", TOY, "--set", "text_encoder.name=t5-xxl", "--set", odd, "--only", "act"]
    args += ["--set", "text_encoder.adapter=linear"]
    code, out, err = wamkit(*args, "--memory", "1GB")
    assert code == 1 and "unknown" in out and ">= " in out and "text_encoder" in err


def test_mistyped_fits(wamkit: Run) -> None:
    for args, message in (
        ([], "name one: --memory 24GB, or --gpu rtx4090"),
        (["--gpu", "rtx409"], "did you mean 'rtx4090'?"),
        (["--memory", "24"], "'24' is no size"),
        (["--memory", "24GB", "--devices", "3"], "a batch of 8 cannot be cut into 3 devices"),
    ):
        code, _, err = wamkit("fit", TOY, *args)
        assert code == 2 and message in err


def test_every_variant_of_a_paradigm_is_counted(wamkit: Run) -> None:
    for paradigm in ("adaptive", "planning"):
        args = ["estimate", "--act", SMALL, "--set", f"paradigm.name={paradigm}", "--json"]
        found = json.loads(wamkit(*args)[1])["acting"]
        variants = spec_with(f"paradigm.name={paradigm}").paradigm.variants
        assert len(variants) > 1 and list(found) == [f"small, {mode}" for mode in variants]
        totals = [one["rows"][0]["total"] for one in found.values()]
        spec = parse(read(SMALL, [f"paradigm.name={paradigm}"]))
        assert fit_acting(spec, 10**12).total == max(totals)


@pytest.mark.parametrize("columns", [40, 80])
def test_lines_fit_the_terminal(wamkit: Run, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for args in (
        ["estimate", "--act", SMALL],
        ["fit", SMALL, "--memory", "0.5MB", "--only", "act"],
    ):
        out = wamkit(*args)[1]
        assert out and max(map(len, out.splitlines())) <= columns
