"""SECURITY.md says what the code does: its limits are the constants, its files are there."""

from __future__ import annotations

import re
from pathlib import Path

from wamkit.config import values
from wamkit.data import schema
from wamkit.files import documents, images, safetensors_header, shards, strict_json
from wamkit.serve import codec

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text()


def test_the_limits_are_those_of_the_code() -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", PAGE, re.MULTILINE))
    assert rows["a spec or a file of settings"] == (
        f"{documents.BYTES // 2**10} KiB, {documents.DEPTH} levels"
    )
    assert rows["a JSON file"] == f"{strict_json.BYTES // 2**20} MiB, {strict_json.DEPTH} levels"
    assert rows["a header of safetensors"] == (
        f"{safetensors_header.MOST_BYTES // 2**20} MiB, {safetensors_header.MOST_TENSORS:,} tensors"
    )
    assert rows["shards of one set of weights"] == f"{shards.MOST_SHARDS:,}"
    assert f"{images.DEFAULT:,} if not set" in rows["pixels of an image or of a frame"]
    assert (schema.MOST_EPISODES, schema.MOST_FRAMES) == (10**6, 10**7)
    assert (values.MOST, values.SEEDS, values.MOST_LAYERS) == (2**31, 2**64, 4096)
    assert rows["a message to the server"].startswith(f"{codec.LIMIT // 2**20} MiB")


def test_the_files_it_names_are_there() -> None:
    for name in re.findall(r"\]\(([^)]+)\)", PAGE) + re.findall(r"`(benchmarks/[^`]+)`", PAGE):
        assert (ROOT / name).exists(), name
