"""The byte encoder embeds every prompt by itself, learns, and refuses what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from wamkit_toy.parts import Bytes
from wamkit_toy.text_encoder import ByteEncoder

from wamkit import Policy, build
from wamkit.checkpoints.safetensors import save
from wamkit.config.check import check
from wamkit.config.spec import read
from wamkit.errors import WamkitError
from wamkit.interfaces import TextEncoder
from wamkit.testing.fixtures import observation
from wamkit.testing.parity import float64, other_values, same_values, to_float64

TOY = Path(__file__).parents[4] / "examples" / "toy.toml"


@pytest.fixture
def encoder() -> ByteEncoder:
    torch.manual_seed(0)
    return ByteEncoder(width=8, length=10)


def test_it_is_a_text_encoder_of_the_promised_sizes(encoder: ByteEncoder) -> None:
    config = Bytes(max_length=10, embedding=8)
    assert isinstance(encoder, TextEncoder)
    text = encoder.encode(["lift", "open"])
    assert text.tokens.shape == (2, config.max_tokens, config.width) == (2, 11, 8)


def test_a_prompt_is_one_start_and_one_token_a_byte(encoder: ByteEncoder) -> None:
    text = encoder.encode(["lift", "öffne", ""])
    assert text.valid is not None
    assert text.valid.sum(1).tolist() == [5, 7, 1]  # ö is two bytes
    assert (text.tokens[~text.valid] == 0).all()
    assert text.tokens[text.valid].abs().sum(-1).min() > 0


@float64()
def test_an_embedding_does_not_depend_on_the_other_prompts(encoder: ByteEncoder) -> None:
    encoder = to_float64(encoder)
    alone = encoder.encode(["lift"]).tokens[0]
    together = encoder.encode(["a longer", "lift"]).tokens[1]
    same_values(alone, together)


@float64()
def test_the_order_of_bytes_matters(encoder: ByteEncoder) -> None:
    encoder = to_float64(encoder)
    a, b = encoder.encode(["ab", "ba"]).tokens
    other_values(a[1], b[2], 1e-5)


def test_it_learns_from_real_tokens_only(encoder: ByteEncoder) -> None:
    assert encoder.trainable
    encoder.encode(["a"]).tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    rows = encoder.table.weight.grad
    assert rows is not None
    assert rows.abs().sum(-1).nonzero().flatten().tolist() == [ord("a"), 256]


def test_a_long_prompt_is_refused_with_its_length_and_the_key(encoder: ByteEncoder) -> None:
    encoder.encode(["x" * 10])
    with pytest.raises(WamkitError) as caught:
        encoder.encode(["ok", "x" * 11])
    assert str(caught.value) == (
        "the prompt 'xxxxxxxxxxx' has 11 bytes, the byte encoder takes at most 10\n"
        "  hint: set text_encoder.max_length = 11 or more, or shorten the prompt"
    )


def test_the_fingerprint_follows_the_weights_and_the_length(encoder: ByteEncoder) -> None:
    before = encoder.fingerprint()
    assert before == encoder.fingerprint()
    longer = ByteEncoder(8, 11)
    longer.load_state_dict(encoder.state_dict())
    assert longer.fingerprint() != before
    with torch.no_grad():
        encoder.table.weight[3, 0] += 1
    assert encoder.fingerprint() != before


def test_saved_weights_come_back(encoder: ByteEncoder, tmp_path: Path) -> None:
    save(encoder, tmp_path / "bytes.safetensors")
    config = Bytes(max_length=10, embedding=8, weights=str(tmp_path / "bytes.safetensors"))
    again = config.build()
    assert again.fingerprint() == encoder.fingerprint()
    expected = encoder.encode(["lift"]).tokens
    assert torch.equal(again.encode(["lift"]).tokens, expected)


def test_an_open_width_cannot_be_built_alone() -> None:
    with pytest.raises(WamkitError, match=r"set text_encoder\.embedding to an even number"):
        Bytes().build()


def test_tiny_leaves_the_width_to_the_backbone_again() -> None:
    assert Bytes(max_length=30, embedding=512).tiny() == Bytes(max_length=30)


def test_a_backbone_that_reads_an_odd_width_needs_an_adapter(tmp_path: Path) -> None:
    wan = {
        "name": "wan", "layers": 2, "num_heads": 2, "head_dim": 12, "mlp_dim": 40,
        "text_width": 49, "latent_channels": 48, "cond_channels": 0,
    }  # fmt: skip
    vae = {"name": "wan2.2", "width": "tiny"}
    raw = read(TOY, ["cameras.views.0.size=[64, 96]"]) | {"backbone": wan, "vae": vae}
    (conflict,) = (c for c in check(raw) if "text_encoder" in c.between)
    assert "an even number wide" in conflict.why and 'adapter = "linear"' in conflict.hint
    policy = build(raw | {"text_encoder": {"name": "bytes", "adapter": "linear"}})
    assert policy.text_encoder.width == 50
    seen = observation(policy.spec)
    again = Policy.load(policy.save(tmp_path / "policy"))
    assert torch.equal(again.act(seen, seed=0).values, policy.act(seen, seed=0).values)
