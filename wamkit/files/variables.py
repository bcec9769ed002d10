"""The environment variables that wamkit reads, which `wamkit --help` and `wamkit doctor` list."""

from __future__ import annotations

BLOCK = "WAMKIT_BLOCK_PLUGINS"
CACHE = "WAMKIT_CACHE"
DEBUG = "WAMKIT_DEBUG"
PIXELS = "WAMKIT_MAX_PIXELS"
TRUST = "WAMKIT_TRUST_PATHS"

VARIABLES = {
    BLOCK: "Names of plugins or distributions to leave out, with commas between them.",
    CACHE: "Cache folder, such as for statistics of data; else ~/.cache/wamkit.",
    DEBUG: "Set to 1: an unexpected error prints its traceback in place of one line.",
    PIXELS: "Pixels that an image or an image of a video may have; 33554432 if not set.",
    TRUST: "Set to 1: read the paths outside its folder that a saved policy names.",
}
"""Every variable of wamkit -> its description. A test compares it with the code and the docs."""

OTHERS = {
    "COLUMNS": "Columns that tables are laid out for; else those of the terminal, 80 in a pipe.",
    "NO_COLOR": "Set to anything: no colors and no bold type.",
    "MUJOCO_GL": "How MuJoCo renders; `egl` where it is not set and there is no display.",
    "XDG_STATE_HOME": "Where trusted paths are remembered, in wamkit/; ~/.local/state if not set.",
    "HF_HOME": "Where files of `hf:owner/name` are kept; read by huggingface_hub.",
}
"""Variables with a meaning beyond wamkit that change what it does."""
