"""What a training sample of a paradigm consists of."""

from __future__ import annotations


class SampleShape:
    """How many chunks of an episode a sample has, and what comes with each; by default one."""

    @property
    def chunks_per_sample(self) -> int:
        """Chunks that follow each other in one training sample."""
        return 1

    @property
    def states_per_sample(self) -> int:
        """States of the robot in a training sample: one at its beginning, or at that of each chunk.

        Where it is more than one, each chunk in use is given the newest state, and relative actions
        are relative to that.
        """
        return 1

    @property
    def guided_chunks(self) -> int:
        """Chunks whose conditioning latents follow from the first images of an episode."""
        return 1
