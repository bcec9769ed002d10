"""The joint paradigm does what every paradigm promises."""

from wamkit_joint import Joint

from wamkit.testing import *  # noqa: F403

PARTS = [
    Joint(),
    Joint(attends="mutual", refresh=(0, 1)),
    Joint(attends="full", context_level="target"),
]
