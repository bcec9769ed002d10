"""The image-edit paradigm does what every paradigm promises."""

from wamkit_image_edit import ImageEdit

from wamkit.testing import *  # noqa: F403

PARTS = [ImageEdit(), ImageEdit(training_level="target")]
