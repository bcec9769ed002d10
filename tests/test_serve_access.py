"""Who may connect, what is measured, and images that come as files."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import SEEN, policy

from wamkit.cli.serve import _draw as draw
from wamkit.errors import WamkitError
from wamkit.files.pixels import to_jpeg
from wamkit.policy.observation import Observation
from wamkit.serve.client import Client, compress_images
from wamkit.serve.keys import ApiKeys, read_key, read_keys
from wamkit.serve.limits import Limits
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.parity import same_values

KEY, OTHER = "a-key-of-some-length", "another-key-of-some-length"
PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@contextmanager
def served(keys: ApiKeys | None = None, **limits: Any) -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy(), "toy", limits=Limits(**limits), keys=keys), listener):
        yield address_of(listener)


def get(address: tuple[str, int], path: str, key: str | None = None) -> tuple[int, str]:
    headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
    request = urllib.request.Request("http://{}:{}{}".format(*address, path), headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_with_keys_only_clients_that_present_one_are_let_in() -> None:
    with served(ApiKeys([KEY, OTHER])) as address:
        for key in (KEY, OTHER):
            with Client(*address, api_key=key) as client:
                assert client.infer(SEEN)["actions"].shape == (8, 4)
        for wrong in (None, "", KEY + "x", KEY[:-1], f"{KEY} {OTHER}"):
            with pytest.raises(WamkitError, match="HTTP 401: send a header: Authorization: Api-K"):
                Client(*address, api_key=wrong)
        assert get(address, "/healthz") == (200, "OK\n") and get(address, "/readyz")[0] == 200
        assert get(address, "/metrics")[0] == 401


@pytest.mark.parametrize(
    ("header", "right"),
    [
        (f"Api-Key {KEY}", True),
        (f"api-key  {KEY} ", True),
        (f"Bearer {KEY}", False),
        (KEY, False),
        ("Api-Key", False),
        ("Api-Key \xff", False),
        (None, False),
    ],
)
def test_a_header_is_taken_or_not(header: str | None, right: bool) -> None:
    assert ApiKeys([KEY]).accept(header) is right
    assert ApiKeys().accept(header)


def test_keys_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the lab\n\n{KEY}\n  {OTHER}  \n")
    assert all(read_keys(file).accept(f"Api-Key {key}") for key in (KEY, OTHER))
    assert read_key(file) == KEY
    for text, message in (
        ("# none\n", "holds no API key"),
        ("short\n", "key 1 of .* has 5 characters; expected at least 16"),
        (f"{KEY}\n{'é' * 20}\n", "key 2 of"),
    ):
        file.write_text(text)
        with pytest.raises(WamkitError, match=message):
            read_keys(file)
    with pytest.raises(WamkitError, match="no file of API keys"):
        read_keys(tmp_path / "missing")


def test_a_missing_file_of_keys_is_reported_before_anything_is_loaded(wamkit: Any) -> None:
    args = ["--tiny", "--port", "0", "--api-key-file", "/no/such/file"]
    code, _, err = wamkit("serve", "examples/toy.toml", *args)
    assert code == 2 and "no file of API keys at /no/such/file" in err


def test_the_client_that_is_printed_has_a_key(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"{KEY}\n")
    server = Server(policy(), "toy", keys=read_keys(file))
    listener = bind("127.0.0.1", 0)
    with run_in_thread(server, listener):
        draw({**server.metadata(), "watch": False}, *address_of(listener), file)
        snippet = capsys.readouterr().out.partition("A client\n")[2].partition("ready at ")[0]
        exec(snippet, {})
    assert capsys.readouterr().out == "(8, 4)\n"


def test_metrics_count_requests_by_outcome() -> None:
    pytest.importorskip("prometheus_client")
    with served() as address, Client(*address) as client:
        for _ in range(3):
            client.infer(SEEN)
        with pytest.raises(WamkitError):
            client.infer({"prompt": "no image"})
        status, text = get(address, "/metrics")
    assert status == 200
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['wamkit_requests_total{outcome="answered"}'] == "3.0"
    assert lines['wamkit_requests_total{outcome="refused"}'] == "1.0"
    assert lines['wamkit_requests_total{outcome="busy"}'] == "0.0"
    assert lines["wamkit_batch_size_count"] == lines["wamkit_policy_seconds_count"] == "3.0"
    assert lines["wamkit_clients"] == "1.0" and lines["wamkit_queue"] == "0.0"


def test_without_prometheus_client_metrics_say_what_to_install(monkeypatch: Any) -> None:
    monkeypatch.setattr("wamkit.serve.metrics.find_spec", lambda name: None)
    with served() as address, Client(*address) as client:
        assert client.infer(SEEN)["actions"].shape == (8, 4)
        status, text = get(address, "/metrics")
    assert status == 501 and "prometheus-client" in text and ".[metrics]" in text


def encoded(kind: str, pixels: Any = PIXELS) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def test_an_image_may_come_as_a_png_or_jpeg_file() -> None:
    with served() as address, Client(*address) as client:
        plain = client.infer({**SEEN, "observation/front": PIXELS})["actions"]
        for form in (encoded("PNG"), [encoded("PNG")]):
            found = client.infer({**SEEN, "observation/front": form})["actions"]
            same_values(found, plain)
        smaller = to_jpeg(PIXELS, 90)
        found = client.infer({**SEEN, "observation/front": smaller})["actions"]
        pixels = np.asarray(Image.open(io.BytesIO(smaller)))
        here = policy().act(Observation({"front": pixels}, SEEN["prompt"]), seed=0)
        same_values(found, here.values[0].numpy())
        with Client(*address, jpeg=90) as lossy:
            same_values(lossy.infer({**SEEN, "observation/front": PIXELS})["actions"], found)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (b"", "'observation/front' is empty"),
        (b"\x89PNG\r\n\x1a\n123", "not an image, or damaged"),
        (encoded("PNG")[:200], "is a damaged image"),
        (encoded("GIF"), "is a GIF file; expected JPEG or PNG"),
        ([encoded("PNG")] * 2, "a list of 2 encoded images; expected 1"),
        ([encoded("PNG"), "x"], "is a list; expected an array uint8"),
    ],
    ids=range(6),
)
def test_files_that_are_no_images_are_refused_with_a_message(form: Any, message: str) -> None:
    with served() as address, Client(*address) as client:
        with pytest.raises(WamkitError, match=message):
            client.infer({**SEEN, "observation/front": form})
        assert client.infer(SEEN)["actions"].shape == (8, 4)


def test_images_count_as_large_as_they_are_decoded() -> None:
    flat = encoded("PNG", np.zeros((1000, 1000, 3), np.uint8))
    assert len(flat) < 10_000
    with served(buffer=2**21) as address, Client(*address) as client:
        with pytest.raises(WamkitError, match=r"the server is busy: .* images of 2 MiB"):
            client.infer({**SEEN, "observation/front": flat})
        assert client.infer(SEEN)["actions"].shape == (8, 4)


def test_only_color_images_of_8_bits_are_compressed() -> None:
    seen = {"a": PIXELS, "b": np.stack([PIXELS] * 2), "depth": np.zeros((8, 8), np.uint16)}
    found = compress_images({**seen, "prompt": "go", "state": [1.0]}, 90)
    assert found["a"] == to_jpeg(PIXELS, 90) and found["b"] == [found["a"]] * 2
    assert found["depth"] is seen["depth"] and found["prompt"] == "go" and found["state"] == [1.0]
    with pytest.raises(WamkitError, match="from 1 to 95"):
        compress_images(seen, 0)


def test_a_message_beyond_the_limit_ends_its_connection_alone() -> None:
    with served(message=2**16) as address, Client(*address) as robot:
        with pytest.raises(WamkitError, match="1009"), Client(*address) as large:
            large.infer({**SEEN, "observation/front": np.zeros((200, 200, 3), np.uint8)})
        assert robot.infer(SEEN)["actions"].shape == (8, 4)
