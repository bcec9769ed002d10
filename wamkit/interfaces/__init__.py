"""The five contracts between a backbone, a VAE, a text encoder, an action head and a paradigm."""

from __future__ import annotations

from .action_head import ActionHead, ExpertHead, ReaderHead, SlotHead
from .backbone import VideoBackbone, denoise, stream_of
from .conditioner import Conditioner
from .paradigm import Model, Paradigm
from .text_encoder import TextEncoder
from .vae import VAE

__all__ = [
    "VAE",
    "ActionHead",
    "Conditioner",
    "ExpertHead",
    "Model",
    "Paradigm",
    "ReaderHead",
    "SlotHead",
    "TextEncoder",
    "VideoBackbone",
    "denoise",
    "stream_of",
]
