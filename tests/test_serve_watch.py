"""The live page of a server, and frames that a client asks the policy to imagine."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from browsing import browser as browser
from PIL import Image
from serving import SEEN, policy, until

from wamkit.errors import WamkitError
from wamkit.policy.observation import Observation
from wamkit.serve.client import Client
from wamkit.serve.keys import ApiKeys
from wamkit.serve.protocol import RequestHandler
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.parity import same_values

KEY = "a-key-of-some-length"


@contextmanager
def served(keys: ApiKeys | None = None, watch: bool = True) -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy(), "toy", keys=keys, watch=watch), listener):
        yield address_of(listener)


def get(address: tuple[str, int], path: str, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request("http://{}:{}{}".format(*address, path), headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            return answer.status, answer
    except urllib.error.HTTPError as error:
        return error.code, error


def data(address: tuple[str, int], **headers: str) -> Any:
    request = urllib.request.Request("http://{}:{}/watch/data".format(*address), headers=headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return json.loads(answer.read())


def test_a_request_may_ask_for_the_frames_that_are_imagined() -> None:
    with served(watch=False) as address, Client(*address) as client:
        assert client.metadata["imagines"] is True
        plain = client.infer(SEEN)
        reply = client.infer({**SEEN, "imagine": True})
        with pytest.raises(WamkitError, match="'imagine' is 'yes'"):
            client.infer({**SEEN, "imagine": "yes"})
    assert "imagined" not in plain and np.array_equal(plain["actions"], reply["actions"])
    future = policy().imagine(Observation({"front": SEEN["observation/front"]}, "pick up"), seed=0)
    files = reply["imagined"]["front"]
    assert len(files) == future.views["front"].shape[2] - future.observed > 0
    here = ((future.views["front"][0, :, -1] + 1) * 127.5).clamp(0, 255).movedim(0, -1).numpy()
    sent = np.asarray(Image.open(io.BytesIO(files[-1])), np.float32)
    assert sent.shape == here.shape and abs(sent.mean() - here.mean()) < 3
    assert np.corrcoef(sent.mean(-1).ravel(), here.mean(-1).ravel())[0, 1] > 0.8  # JPEG of noise


def test_a_policy_that_imagines_nothing_does_not_offer_it() -> None:
    import wamkit

    blind = wamkit.build("examples/toy.toml", ["video.num_frames=1"], tiny=True)
    handler = RequestHandler(blind, "blind", {})
    assert handler.metadata()["imagines"] is False and "imagine" not in handler.optional


def test_data_of_the_page_hold_what_robots_sent_and_got() -> None:
    with served() as address, Client(*address) as client:
        client.infer(SEEN)
        assert data(address)["robots"] == []  # nothing is kept while nobody looks
        reply = client.infer({**SEEN, "imagine": True})
        found = data(address)
        (robot,) = found["robots"]
        assert found["policy"] == "toy" and found["clients"] == 1 and found["batch"] == 1
        assert robot["prompt"] == "pick up" and robot["requests"] == 1
        same_values(np.asarray(robot["actions"]), np.asarray(reply["actions"]).tolist(), 1e-5)
        assert robot["session"] == client.session["id"][:6]
        assert list(robot["images"]) == list(robot["imagined"]) == ["front"]
        client.infer(SEEN)
        until(lambda: len(data(address)["robots"][0]["latency"]) == 2)


def test_frames_are_imagined_for_the_page_where_no_robot_asks_for_them() -> None:
    with served() as address, Client(*address) as client:
        data(address)
        client.infer(SEEN)
        until(lambda: data(address)["robots"][0]["imagined"] is not None)


def test_the_page_is_there_only_if_it_is_asked_for_and_under_no_other_name() -> None:
    with served(watch=False) as address:
        assert get(address, "/watch")[0] == 426  # what a websocket server says to all pages
    with served(ApiKeys([KEY])) as address:
        status, answer = get(address, "/watch")
        assert status == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert get(address, "/watch/data")[0] == 401
        assert data(address, Authorization=f"Api-Key {KEY}")["robots"] == []
        for path in ("/watch", "/watch/data"):
            for name in ("rebound.example.org", "rebound.example.org:80", "", "[", "127.0.0.1.a.b"):
                status, _ = get(address, path, Host=name, Authorization=f"Api-Key {KEY}")
                assert status == 403
        assert get(address, "/watch", Host="localhost:8000")[0] == 200


def test_the_page_shows_robots_as_they_are_served(browser: Any) -> None:
    prompt = "<img src=x onerror=alert(1)>"
    with served(ApiKeys([KEY])) as address, Client(*address, api_key=KEY) as client:
        tab, printed = browser.new_page(viewport={"width": 380, "height": 800}), list[str]()
        tab.on("pageerror", lambda error: printed.append(str(error)))
        tab.on("dialog", lambda dialog: printed.append("a dialog"))
        tab.goto("http://{}:{}/watch".format(*address))
        tab.wait_for_selector("#login:not([hidden])")
        tab.fill("#key", "wrong")
        tab.press("#key", "Enter")
        tab.locator("#state", has_text="this key is not accepted").wait_for()
        tab.fill("#key", KEY)
        tab.press("#key", "Enter")
        tab.wait_for_selector("#empty:not([hidden])")
        client.infer({**SEEN, "prompt": prompt, "imagine": True})
        tab.wait_for_selector(".robot")
        assert tab.inner_text(".robot h2") == prompt
        client.infer({**SEEN, "prompt": "put it down"})
        tab.locator(".robot h2", has_text="put it down").wait_for()
        assert tab.inner_text("#policy") == "toy" and tab.inner_text("#state") == "live"
        assert tab.locator("svg .trace").count() == 5  # four actions, and the latency
        assert tab.locator("figure img").count() > 1 and tab.locator("#login").is_hidden()
        sizes = "[...document.images].map((image) => image.naturalWidth)"
        assert set(tab.evaluate(sizes)) == {32}
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380
        tab.close()
    assert not printed


def test_the_page_says_when_the_server_is_gone(browser: Any) -> None:
    tab = browser.new_page()
    with served() as address:
        tab.goto("http://{}:{}/watch".format(*address))
        tab.locator("#state", has_text="live").wait_for()
    tab.locator("#state", has_text="no answer").wait_for()
    tab.close()
