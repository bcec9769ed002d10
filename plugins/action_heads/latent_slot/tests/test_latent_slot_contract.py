"""The head with latent slots does what every action head promises, in either layout."""

from wamkit_latent_slot import LatentSlot

from wamkit.testing import *  # noqa: F403

PARTS = [LatentSlot(), LatentSlot(layout="append")]
