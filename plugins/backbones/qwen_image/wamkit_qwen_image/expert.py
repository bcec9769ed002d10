"""A narrower copy of Qwen-Image's blocks, for an action expert that shares attention with frames.

Names of all parameters are those of diffusers' `QwenImageTransformer2DModel`.
"""

from __future__ import annotations

from .embedders import QwenImageStack


class QwenImageExpert(QwenImageStack):
    """As many blocks as the backbone's, with the weights of frames alone: no text passes them."""
