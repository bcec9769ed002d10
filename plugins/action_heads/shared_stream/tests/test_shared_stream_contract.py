"""The contract of every part, for the embedders and decoders of DreamZero and of LingBot-VA."""

from wamkit_shared_stream import SharedStream

from wamkit.testing import *  # noqa: F403

PARTS = [
    SharedStream(),
    SharedStream(embedder="linear", positions="after", text="stream", embodiments=2, embodiment=1),
    SharedStream(
        positions="line",
        sine_first=True,
        hidden_width=12,
        final_layer="none",
        action_slots=7,
        state_slots=5,
    ),
    SharedStream(
        embedder="linear",
        levels="own",
        final_layer="final_norm",
        channels=7,
        channel_map=(5, 0, 3, 1),
    ),
]
