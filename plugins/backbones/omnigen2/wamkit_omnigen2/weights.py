"""The one published layout of OmniGen2's transformer, that of its own repository."""

from wamkit.weights import Dialect

DIALECTS = (Dialect("omnigen2", r"^image_index_embedding$"),)
