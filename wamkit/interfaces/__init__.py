"""The five contracts between a backbone, a VAE, a text encoder, an action head and a paradigm."""

from __future__ import annotations

from ..engine.passes import PassRunner
from .action_head import ActionHead, append_state
from .backbone import Backbone, Block, Clip, Stack, WrappedBackbone
from .expert_head import ExpertHead
from .paradigm import Model, Paradigm
from .reader_head import ReaderHead
from .slot_head import SlotHead
from .streams import denoise
from .text_encoder import TextEncoder
from .vae import VAE, StreamingVAE
from .wrapping import WrapperCache

__all__ = [
    "VAE",
    "ActionHead",
    "Backbone",
    "Block",
    "Clip",
    "ExpertHead",
    "Model",
    "Paradigm",
    "PassRunner",
    "ReaderHead",
    "SlotHead",
    "Stack",
    "StreamingVAE",
    "TextEncoder",
    "WrappedBackbone",
    "WrapperCache",
    "append_state",
    "denoise",
]
