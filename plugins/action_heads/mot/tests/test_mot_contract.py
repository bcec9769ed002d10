"""The contract of every part, for the expert with its own blocks and with the backbone's."""

from wamkit_mot import Mot

from wamkit.testing import *  # noqa: F403

PARTS = [
    Mot(),
    Mot(state="token", registers=2, encoder_layers=3, decoder="adaln", positions="sinusoid"),
    Mot(block="backbone", state="token", positions="grid", decoder="adaln", registers=1),
    Mot(state="token", decoder="modulated"),
]
