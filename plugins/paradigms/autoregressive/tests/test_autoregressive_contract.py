"""The autoregressive paradigm does what every paradigm promises."""

from wamkit_autoregressive import Autoregressive

from wamkit.testing import *  # noqa: F403

PARTS = [
    Autoregressive(),
    Autoregressive(action="mutual", copy_noise=0, full="restart"),
    Autoregressive(past_actions="actions", window=1),
]
