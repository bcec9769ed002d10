"""The valid inputs that bad ones are made from: small files of every kind, written once."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

SMALL = Path(__file__).parents[2] / "tests" / "data" / "small.toml"
PROMPT = "pick up the cup"
ACT = ("--image", "image.png", "--prompt", PROMPT, "--json")
"""What follows the spec or the policy after `wamkit act`."""
TRAIN = ("--steps", "2", "--batch", "2", "--train", "log_every=1", "--train", "save_every=1")
"""Settings of the run, the same wherever it is gone on with."""


def table() -> dict[str, Any]:
    """The spec of every case, as plain data."""
    return tomllib.loads(SMALL.read_text())


def write(place: Path) -> Path:
    """Write all of it into an empty folder, with wamkit's own commands, and return the folder."""
    import torch

    torch.manual_seed(0)
    place.mkdir(parents=True)
    image(place / "image.png")
    shutil.copy(SMALL, place / "spec.toml")
    _encoder(place / "t5")
    spec = place / "spec.toml"
    _wamkit("build", spec, "--out", place / "policy")
    _data(place)
    _wamkit("train", spec, "--data", place / "set", "--out", place / "run", *TRAIN)
    _wamkit("precompute", "latents", spec, "--data", place / "set", "--out", place / "latents")
    (place / "prompts.txt").write_text(f"{PROMPT}\nopen the drawer\n")
    _frozen(place / "frozen.toml")
    (place / "embeddings").mkdir()
    embeddings = place / "embeddings" / "text.safetensors"
    weights = ("--set", f"text_encoder.weights={place / 't5'}")
    args = ("--prompts", place / "prompts.txt", "--out", embeddings, *weights)
    _wamkit("precompute", "text", place / "frozen.toml", *args)
    _shards(place / "policy" / "backbone.safetensors", place / "shards")
    torch.save(_tensors(place / "policy" / "backbone.safetensors"), place / "backbone.pt")
    return place


def _wamkit(*args: Any) -> None:
    """Type a command; raise RuntimeError if it fails."""
    from wamkit.cli import app

    try:
        with redirect_stdout(StringIO()):
            app([str(word) for word in args], prog_name="wamkit")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"wamkit {' '.join(map(str, args))} ended with {end.code}") from None


def image(file: Path, size: tuple[int, int] = (32, 24)) -> None:
    """A PNG in which every pixel differs."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[: size[1], : size[0]]
    colors = np.stack([rows * 7, columns * 5, rows * 3 + columns * 2], -1) % 256
    Image.fromarray(colors.astype("uint8")).save(file)


def _data(place: Path) -> None:
    from wamkit.config.spec import parse
    from wamkit.testing.dataset import record

    spec = parse(table())
    record(place / "set", spec, episodes=3, frames=10, size=(16, 16), image_format="image")
    record(place / "films", spec, episodes=2, frames=8, size=(16, 16))


def _encoder(place: Path) -> None:
    """A random T5 with a tokenizer of single letters, laid out as in diffusers."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    letters = Tokenizer(models.Unigram(pieces, unk_id=2))
    letters.pre_tokenizer = pre_tokenizers.Metaspace()
    letters.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=letters, **named)
    made.save_pretrained(place / "tokenizer")
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(vocab_size=len(pieces), **sizes)
    model = transformers.T5EncoderModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(place / "text_encoder")


def _frozen(file: Path) -> None:
    """The spec with a frozen text encoder, whose files overrides name."""
    encoder = '[text_encoder]\nname = "t5-xxl"\nembedding = 16\nmax_length = 64\n'
    text = SMALL.read_text().replace('[text_encoder]\nname = "bytes"\n', encoder)
    file.write_text(text)


def _tensors(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(file)


def _shards(file: Path, place: Path, count: int = 3) -> None:
    """The weights in several files with an index."""
    from safetensors.torch import save_file

    tensors = _tensors(file)
    names, place_of = sorted(tensors), {}
    place.mkdir()
    for number in range(count):
        shard = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        mine = names[number::count]
        save_file({name: tensors[name] for name in mine}, place / shard)
        place_of |= dict.fromkeys(mine, shard)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": place_of}
    (place / "model.safetensors.index.json").write_text(json.dumps(index))


def put(material: Path, here: Path, names: Sequence[str]) -> None:
    """Copy files and folders of the material into the folder of a case."""
    for name in names:
        source = material / name
        if source.is_dir():
            shutil.copytree(source, here / name, symlinks=True)
        else:
            shutil.copy(source, here / name)
