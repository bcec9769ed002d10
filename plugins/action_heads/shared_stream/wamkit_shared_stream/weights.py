"""The layouts of the head's weights: our own, and that of DreamZero's network.

DreamZero (github.com/dreamzero0/dreamzero) keeps encoders and decoder next to the blocks of the
video; their weights are [robots, inputs, outputs], where ours are [robots, outputs, inputs].
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

_MODULES = r"(state_encoder|action_encoder|action_decoder)\."

LAYOUTS = (
    CheckpointLayout("wamkit", r"^action_embedder\."),
    CheckpointLayout(
        "DreamZero",
        r"^action_encoder\.W1\.W$",
        (
            (r"^state_encoder\.", "state_embedder."),
            (r"^action_encoder\.", "action_embedder."),
            (r"^action_decoder\.", "action_decoder.out."),
            (r"\.W$", ".weight"),
            (r"\.b$", ".bias"),
        ),
        drop=(rf"^(?!{_MODULES})",),
        transpose=(r"\.weight$",),
    ),
)
