"""The contract of every part, for the ways of DreamZero and of LingBot-VA."""

from wamkit_shared_stream import SharedStream

from wamkit.testing import *  # noqa: F403

PARTS = [
    SharedStream(),
    SharedStream(embedder="linear", positions="after", text="stream", embodiments=2, embodiment=1),
]
