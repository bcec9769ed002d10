"""The idm paradigm does what every paradigm promises."""

from wamkit_idm import Idm

from wamkit.testing import *  # noqa: F403

PARTS = [Idm(), Idm(first_frame=0.5, until="first_frame")]
