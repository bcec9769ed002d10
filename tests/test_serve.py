"""A policy behind a socket: who is answered what, who is refused, and what the server survives."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wamkit as package
from wamkit.bench.hooks import hook_method
from wamkit.cli.serve import unready
from wamkit.errors import WamkitError
from wamkit.policy.observation import Observation, read_image
from wamkit.policy.policy import Policy
from wamkit.serve.client import Client
from wamkit.serve.codec import unpack
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.fixtures import spec_with, with_overrides
from wamkit.testing.parity import other_values, same_values

ROOT = Path(__file__).parent.parent
TOY = ROOT / "examples" / "toy.toml"
CUP = ROOT / "examples" / "images" / "coffee.jpg"
WORDS = "pick up the cup"


@cache
def policy() -> Policy:
    return package.build(TOY, ["state.size=2", "action_head.state=token"], tiny=True)


@cache
def remembering() -> Policy:
    """A policy that goes through an episode block by block."""
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    return package.build(with_overrides(spec_with(**names)))


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    """Where the first policy is served."""
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy(), "toy"), listener):
        yield address_of(listener)


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[Client]:
    with Client(*address) as made:
        yield made


def image_embeds(seed: int = 0, *shape: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape or (40, 60, 3), dtype=np.uint8)


def request(**changes: Any) -> dict[str, Any]:
    """What the first policy wants to hear; a change to None leaves a key out."""
    plain = {"front": image_embeds(), "state": np.array([0.5, -1.0])}
    found = {f"observation/{key}": value for key, value in plain.items()} | {"prompt": WORDS}
    found |= {key.replace("__", "/"): value for key, value in changes.items()}
    return {key: value for key, value in found.items() if value is not None}


def test_a_client_is_reported_first_what_the_policy_is(client: Client) -> None:
    assert client.metadata == {
        "policy": "toy",
        "cameras": {"front": {"key": "observation/front", "size": [32, 32]}},
        "num_images": 1,
        "image_steps": [0],
        "image_stride": 1,
        "state": {"key": "observation/state", "size": 2},
        "actions": ["arm.0", "arm.1", "arm.2", "gripper"],
        "differences": [0, 1, 2],
        "chunk_size": 8,
        "control_hz": 10.0,
        "normalized": True,
        "stateful": False,
        "moments": True,
        "imagines": True,
        "prefix": ["guided", "freeze"],
        "max_delay": 0,
        "wamkit": package.__version__,
    }


def test_a_reply_is_what_the_policy_would_do_here(client: Client) -> None:
    reply = client.infer(request(seed=5))
    here = policy().act(Observation({"front": image_embeds()}, WORDS, [0.5, -1.0]), seed=5)
    assert reply["actions"].dtype == np.float32 and reply["actions"].shape == (8, 4)
    same_values(reply["actions"], here.values[0].numpy())
    other = client.infer(request(seed=6))["actions"]
    other_values(other, reply["actions"])


def test_every_reply_states_how_long_it_took(client: Client) -> None:
    first, second = client.infer(request()), client.infer(request())
    assert "prev_total_ms" not in first["server_timing"]
    timing = second["server_timing"]
    assert timing["prev_total_ms"] > first["server_timing"]["infer_ms"]
    assert timing["infer_ms"] >= second["policy_timing"]["infer_ms"] > 0 <= timing["wait_ms"]


def test_images_of_any_size_and_states_as_lists_are_taken(client: Client) -> None:
    changes = {"observation__front": image_embeds(0, 7, 9, 3), "observation__state": [0, 1]}
    assert client.infer(request(**changes))["actions"].shape == (8, 4)


FAULTS: list[tuple[dict[str, Any], str]] = [
    (
        {"observation__front": None, "observation__image": image_embeds()},
        "the request has no 'observation/front' and has 'observation/image'; found "
        "'observation/state', 'prompt', 'observation/image'; expected 'observation/front', "
        "'observation/state', 'prompt'\n  hint: if 'observation/image' is meant, call it "
        "'observation/front', or serve with --camera-map front=observation/image",
    ),
    ({"prompt": None}, "the request has no 'prompt'"),
    ({"prompt": "  "}, "the instruction is empty"),
    ({"prompt": 3}, "'prompt' is a int; expected text"),
    ({"executed": image_embeds()}, "has 'executed'"),
    (
        {"observation__front": image_embeds().astype(np.float32) / 255},
        "'observation/front' is float32 [40, 60, 3]; expected uint8 [height, width, 3]\n  hint: "
        "floats are not taken, since [0, 1] and [-1, 1] look alike",
    ),
    ({"observation__front": "front.jpg"}, "is a str; expected an array uint8"),
    ({"observation__front": image_embeds(0, 3, 40, 60)}, "np.moveaxis(image, -3, -1)"),
    ({"observation__front": image_embeds(0, 2, 40, 60, 3)}, "send 1 images, oldest first"),
    ({"observation__front": np.zeros((0, 4, 3), np.uint8)}, "red, green and blue"),
    ({"observation__state": [1.0]}, "'observation/state' has shape [1]; expected [2]"),
    ({"observation__state": "up"}, "is a str; expected numbers [2]"),
    ({"observation__state": ["1", "2"]}, "is a list; expected numbers [2]"),
    ({"observation__state": np.array([1e200, 0])}, "not finite: inf at number 0"),
    ({"observation__state": [1.0, float("nan")]}, "not finite"),
    ({"seed": -1}, "'seed' is -1"),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_bad_request_is_answered_with_a_message_and_the_next_one_in_actions(
    client: Client, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(WamkitError) as found:
        client.infer(request(**changes))
    assert message in str(found.value)
    assert client.infer(request())["actions"].shape == (8, 4)


def test_bytes_that_are_no_message_are_answered_with_a_message(address: tuple[str, int]) -> None:
    from websockets.sync.client import connect

    with connect("ws://{}:{}".format(*address), proxy=None) as line:
        assert unpack(line.recv())["policy"] == "toy"  # type: ignore[arg-type]
        for sent, answer in ((b"\xc1", "not openpi's msgpack"), ("hi", "a text frame")):
            line.send(sent)
            assert answer in str(line.recv())
        line.send(b"\x01")
        assert "a request that is a int, not a map" in str(line.recv())


def test_a_bug_ends_one_connection_and_not_the_server(
    address: tuple[str, int], client: Client, monkeypatch: Any
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a wire is loose")

    with monkeypatch.context() as patch:
        patch.setattr(policy(), "sample", broken)
        with pytest.raises(WamkitError, match="a bug in the server: RuntimeError: a wire is loose"):
            client.infer(request())
    with pytest.raises(WamkitError, match="has closed the connection"):
        client.infer(request())
    with Client(*address) as another:
        assert another.infer(request())["actions"].shape == (8, 4)


def test_health_is_reported_on_the_same_port(address: tuple[str, int]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open("http://{}:{}/healthz".format(*address)) as answer:
        assert answer.status == 200 and answer.read() == b"OK\n"


def test_a_page_in_a_browser_is_refused(address: tuple[str, int]) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus, match="403"):
        connect("ws://{}:{}".format(*address), origin="https://example.org", proxy=None)  # type: ignore[arg-type]


def test_clients_remember_each_its_own_episode() -> None:
    video = remembering().spec.video
    assert remembering().paradigm.stateful

    def seen(seed: int, count: int) -> dict[str, Any]:
        shape = (count, 24, 32, 3) if count > 1 else (24, 32, 3)
        found = {"observation/" + view.name: image_embeds(seed, *shape)
                 for view in remembering().spec.cameras.views}  # fmt: skip
        size = remembering().spec.state.size
        return {**found, **({"observation/state": [0.0] * size} if size else {}), "prompt": WORDS}

    def observed(seen: dict[str, Any]) -> Observation:
        clips = {}
        for view in remembering().spec.cameras.views:
            clip = seen["observation/" + view.name]
            clip = clip if clip.ndim == 4 else clip[None]
            clips[view.name] = torch.from_numpy(clip).movedim(-1, 1)[None]
        return Observation(clips, WORDS, seen.get("observation/state"))

    listener, new = bind("127.0.0.1", 0), video.num_frames - video.num_observed
    with (
        run_in_thread(Server(remembering()), listener),
        Client(*address_of(listener)) as one,
        Client(*address_of(listener)) as two,
    ):
        first = one.infer({**seen(1, video.num_observed), "seed": 0})
        other = two.infer({**seen(2, video.num_observed), "seed": 0})
        assert first["num_images"] == other["num_images"] == new
        done = 0.5 * first["actions"]
        second = one.infer({**seen(3, new), "seed": 1, "executed": done})
        with pytest.raises(WamkitError, match=f"send {new} images, oldest first, or begin"):
            two.infer(seen(4, video.num_observed))
        two.reset()
        again = two.infer({**seen(1, video.num_observed), "seed": 0})
    session = remembering().session()
    here = session.act(observed(seen(1, video.num_observed)), seed=0).values[0].numpy()
    after = session.act(observed(seen(3, new)), torch.from_numpy(done)[None], seed=1).values[0]
    same_values(first["actions"], here)
    same_values(second["actions"], after.numpy())
    same_values(again["actions"], first["actions"])


def test_no_server_at_an_address_is_reported_with_a_hint() -> None:
    listener = bind("127.0.0.1", 0)
    host, port = address_of(listener)
    with pytest.raises(WamkitError, match=f"wamkit serve POLICY --host {host} --port {port}"):
        Client(host, port)
    listener.close()


def test_a_server_ends_while_clients_are_there() -> None:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy()), listener):
        client = Client(*address_of(listener))
    with pytest.raises(WamkitError, match="has closed the connection"):
        client.infer(request())


def test_the_client_imports_no_torch() -> None:
    script = (
        "import sys, wamkit.serve.client, wamkit.serve.latency; assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# As a terminal starts it: where a test runs in the background, children would ignore Ctrl-C.
TYPED = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from wamkit.cli import main; main()"
)


@pytest.fixture(scope="module")
def typed() -> Iterator[tuple[Any, str, int]]:
    """`wamkit serve` in a process of its own, what it printed, and its port."""
    args = ["serve", str(TOY), "--tiny", "--port", "0", "--camera-map", "front=observation/image"]
    args += ["--prompt", "pick up the cup", "--prompt", "put it down"]
    run = subprocess.Popen(
        [sys.executable, "-c", TYPED, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    lines = []
    while not (lines and lines[-1].startswith("ready at ")):
        lines.append(run.stdout.readline())
        assert lines[-1], run.communicate()[1]
    port = int(re.findall(r"ws://127.0.0.1:(\d+)", lines[-1])[0])
    yield run, "".join(lines), port
    run.kill()
    run.communicate()


def test_the_served_chunk_is_that_of_act_with_the_same_seed_and_image(
    typed: tuple[Any, str, int], wamkit: Any
) -> None:
    args = ["--tiny", "--image", f"front={CUP}", "--prompt", WORDS, "--seed", "7", "--json"]
    code, out, _ = wamkit("act", TOY, *args)
    assert code == 0
    seen = {"observation/image": np.asarray(read_image(CUP)), "prompt": WORDS, "seed": 7}
    with Client(port=typed[2]) as client:
        found = client.infer(seen)["actions"]
    same_values(found, np.array(json.loads(out)["actions"][0], np.float32))


def test_the_client_that_is_printed_runs(typed: tuple[Any, str, int], capsys: Any) -> None:
    snippet = typed[1].partition("A client\n")[2].partition("ready at ")[0]
    exec(snippet, {})
    assert capsys.readouterr().out == "(8, 4)\n"
    assert re.search(r"observation/image +uint8 \[height, width, 3\], made 32 x 32", typed[1])


def test_a_port_that_is_taken_is_reported_before_anything_is_loaded(
    typed: tuple[Any, str, int], wamkit: Any
) -> None:
    port = typed[2]
    code, _, err = wamkit("serve", TOY, "--port", port)
    assert code == 2 and f"port {port} of 127.0.0.1 cannot be had: Address already in use" in err
    assert f"take --port {port + 1}, or --port 0 for any" in err


def test_ctrl_c_ends_it_cleanly(typed: tuple[Any, str, int]) -> None:
    run = typed[0]
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=20)
    assert run.returncode == 130 and "Traceback" not in err
    assert "note: no statistics yet: actions are in normalized units" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--camera-map", "frnt=x"], "the policy has no view 'frnt'; it has front"),
        (["--camera-map", "front"], "--camera-map 'front' names no key"),
        (["--host", "no.such.host.invalid"], "there is no host 'no.such.host.invalid'"),
        (["--mode", "graph", "--port", "0"], "a CUDA graph needs a CUDA device"),
    ],
)
def test_what_cannot_be_served_is_reported(wamkit: Any, args: list[str], message: str) -> None:
    code, _, err = wamkit("serve", TOY, "--tiny", *args)
    assert code == 2 and message in err


@pytest.mark.parametrize("args", [["serve", TOY], ["bench", TOY, "--server"]])
def test_what_is_not_installed_is_reported_with_a_hint(
    wamkit: Any, args: list[Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr("wamkit.serve.find_spec", lambda name: None)
    code, _, err = wamkit(*args)
    assert code == 2 and "serving needs websockets and msgpack, which is not installed" in err
    assert 'hint: pip install -e ".[serve]"' in err


def test_the_policy_works_under_the_settings_of_the_thread_that_serves_it() -> None:
    # What compiled blocks need is set in one thread, and unknown in another.
    with torch._dynamo.config.patch(recompile_limit=77):
        server = Server(policy())
        found = server._submit(lambda: torch._dynamo.config.recompile_limit).result()
    assert found == 77


@pytest.mark.parametrize(("make", "chunks"), [(policy, 1), (remembering, 2)])
def test_warming_up_makes_a_chunk_and_what_follows_it(make: Any, chunks: int) -> None:
    made = []

    def around(method: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(method(*args, **kwargs))
        return made[-1]

    with hook_method(make(), "sample", around):
        Server(make()).warm_up()
    assert len(made) == chunks


def test_warming_up_reads_the_instructions_that_are_named() -> None:
    read: list[str] = []

    def around(method: Any, args: Sequence[str], *rest: Any) -> Any:
        read.extend(args)
        return method(args, *rest)

    with hook_method(policy().text_embeddings, "encode", around):
        Server(policy()).warm_up(["lift it", "let it go at once"])
    assert read == ["lift it", "let it go at once"]


def test_instructions_that_come_as_a_surprise_are_warned_of_where_they_cost() -> None:
    assert unready("eager", []) == unready("compile", ["lift it"]) == []
    assert "in mode graph the first request" in unready("graph", [])[0]


def test_bench_measures_the_way_through_a_server(wamkit: Any, tmp_path: Path) -> None:
    args = ["bench", TOY, "--tiny", "--iters", "2", "--steps", "2", "--server"]
    code, out, _ = wamkit(*args, "--json")
    found = json.loads(out)
    rows = {row["stage"]: row for row in found["rows"]}
    assert code == 0 and 0 < rows["network"]["median_ms"] < rows["round trip"]["median_ms"]
    assert rows["network"]["median_ms"] <= rows["network"]["p95_ms"]
    assert found["network"]["bytes_up"] > 32 * 32 * 3 and found["network"]["bytes_down"] > 8 * 4 * 4
    assert "packed, sent over loopback" in found["boundaries"]["network"]
    file = tmp_path / "before.json"
    file.write_text(out)
    code, out, _ = wamkit(*args, "--baseline", file)
    assert code == 0 and re.search(r"\nnetwork .*x *\n", out) and "kB up and" in out
    code, _, err = wamkit(*args, "--batch", "2")
    assert code == 2 and "a request to a server is of one robot, and --batch is 2" in err
