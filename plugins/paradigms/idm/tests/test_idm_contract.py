"""The idm paradigm does what every paradigm promises."""

from wamkit_idm import Idm

from wamkit.testing import *  # noqa: F403

PARTS = [Idm(), Idm(drop_future_prob=0.5, stop_sigma="first_frame")]
