"""The autoregressive paradigm does what every paradigm promises."""

from wamkit_autoregressive import Autoregressive

from wamkit.testing import *  # noqa: F403

PARTS = [
    Autoregressive(),
    Autoregressive(action="mutual", context_noise_prob=0, on_full_memory="restart"),
    Autoregressive(past_actions="actions", window=1),
]
