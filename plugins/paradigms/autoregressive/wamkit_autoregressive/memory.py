"""Memory of an episode: KV cache of the history, and separately that of predictions.

Blocks of an episode count without end, roles do not. At block k the memory calls block b

    b                 while k is below the number of blocks in a training sample
    b - (k - last)    afterwards, so that k is always the last one of the table

and roles without a name in the table are dropped. Places in time stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass

from wamkit.interfaces.types import KVCache, ModelInputs


@dataclass(frozen=True)
class Memory:
    """KV caches of an episode of `num_chunks` chunks, the first `num_observed` of them observed.

    Observed and predicted tokens have separate caches, so that a prediction is
    dropped by dropping its cache, and nothing of it can stay.
    """

    observed: KVCache | None  # named as at block `num_observed`; None if nothing is in memory yet
    num_observed: int
    predicted: KVCache | None  # named as at the last block, or at the next once it is to be made
    num_chunks: int
    pending: ModelInputs | None = None  # predictions for the last block that are in no cache yet


@dataclass(frozen=True)
class Names:
    """How blocks are called, and which of them are visible."""

    last: int  # the last number in the table
    reach: int  # how many past blocks' frames are visible
    reach_of_actions: int  # and how many blocks' actions

    def of(self, block: int) -> int:
        """The number of a block while it is the present one."""
        return min(block, self.last)

    def rename_blocks(self, cache: KVCache, before: int, now: int) -> KVCache:
        """Rename the cache of block `before` for block `now`, without roles no longer visible."""
        by = (now - self.of(now)) - (before - self.of(before))
        names: dict[str, str | None] = {}
        for role in cache.roles:
            kind, dot, number = role.partition(".")
            if dot:
                place = int(number) - by
                reach = self.reach_of_actions if kind == "did" else self.reach
                names[role] = f"{kind}.{place}" if place >= self.of(now) - reach else None
        return cache.rename_roles(names)

    def without_hidden_actions(self, cache: KVCache, block: int) -> KVCache:
        """The cache of block `block` when its clean frames and actions are encoded.

        Where frames see actions of one block more than frames, those actions are left out by then:
        the actions of the block have taken their slots (LingBot-VA, `allocate_slots`).
        """
        if self.reach_of_actions == self.reach:
            return cache
        return cache.without({f"did.{self.of(block) - self.reach_of_actions}"})

    def view(self, memory: Memory) -> KVCache | None:
        """All that the next block may see, observed or predicted."""
        if memory.observed is None:
            return memory.predicted
        seen = self.rename_blocks(memory.observed, memory.num_observed, memory.num_chunks)
        return seen if memory.predicted is None else seen | memory.predicted
