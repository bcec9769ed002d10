"""wamkit's own contract tests, run on this paradigm."""

from wamkit.testing import *  # noqa: F403

from wamkit_my_paradigm import Glance

PARTS = [Glance()]


def test_the_action_sees_a_future_that_sees_no_action():
    sees = Glance().sees
    assert "target" in sees["action"] and "action" not in sees["target"]
