"""Clients as their authors package them: openpi-client elsewhere, since it wants numpy below 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import json_numpy  # type: ignore[import-untyped]
import msgpack_numpy  # type: ignore[import-untyped]
import numpy as np
import pytest
from elsewhere import python_with
from protocols import ARM, COSMOS, IMAGE, STATE, WORDS, expected, post, served

from wamkit.serve.protocols.gr00t_codec import MSGPACK, pack_gr00t, unpack_gr00t
from wamkit.testing.parity import same_values

OPENPI = ("openpi-client==0.1.2", "typing_extensions")  # which it imports and does not require
SCRIPT = """
import json, sys
import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, key, state = int(sys.argv[1]), sys.argv[2], sys.argv[3]
client = WebsocketClientPolicy("127.0.0.1", port)
image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
seen = {key: image, state: np.array([0.5, -1.0]), "prompt": "pick up the cup", "seed": 3}
reply = client.infer(seen)
try:
    client.infer({key: image})
except RuntimeError as error:
    refusal = str(error)
print(json.dumps([client.get_server_metadata()["chunk_size"], reply["actions"].tolist(), refusal]))
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with openpi-client in it."""
    return python_with(tmp_path_factory.mktemp("elsewhere"), *OPENPI)


@pytest.mark.skipif(sys.platform == "win32", reason="paths of environments")
@pytest.mark.parametrize(
    ("protocol", "robot", "keys"),
    [
        ("openpi", None, ("observation/front", "observation/state")),
        ("openpi", ARM, ("observation/exterior_image_0_left", "observation/joint_position")),
        ("auto", None, ("observation/front", "observation/state")),
    ],
)
def test_openpi_client_acts(
    protocol: str, robot: Any, keys: tuple[str, str], elsewhere: Path
) -> None:
    with served(protocol, robot) as (_, address):
        command = [elsewhere, "-c", SCRIPT, str(address[1]), *keys]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    chunk, actions, refusal = json.loads(done.stdout)
    assert chunk == 8 and "has no 'prompt'" in refusal
    same_values(np.array(actions, np.float32), expected(3))


def test_json_numpy_acts() -> None:
    seen = {"primary_image": IMAGE, "proprio": np.array(STATE), "task_description": WORDS}
    with served("cosmos-policy", renamed=COSMOS) as (_, address):
        status, body = post(address, "/act", json_numpy.dumps({**seen, "seed": 2}).encode())
        assert status == 200
        same_values(np.stack(json_numpy.loads(body)["actions"]), expected(2))


def test_msgpack_numpy_is_read_and_written() -> None:
    import msgpack  # type: ignore[import-untyped]

    message = {"data": {"image": IMAGE, "value": np.float32(0.5), "words": [[WORDS]]}}
    found, form = unpack_gr00t(msgpack.packb(message, default=msgpack_numpy.encode))
    assert form == MSGPACK and (found["data"]["image"] == IMAGE).all()
    assert found["data"]["value"] == np.float32(0.5) and found["data"]["words"] == [[WORDS]]
    back = msgpack.unpackb(pack_gr00t(found, form), object_hook=msgpack_numpy.decode)
    assert (back["data"]["image"] == IMAGE).all()
