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
    """Of an episode in which `begun` chunks were made, and the first `happened` of them observed.

    Observed and predicted tokens have separate caches, so that a prediction is
    dropped by dropping its cache, and nothing of it can stay.
    """

    observed: KVCache | None  # named as at block `happened`; None before anything is remembered
    happened: int
    predicted: KVCache | None  # named as at block `begun - 1`, or at `begun` once it is to be made
    begun: int
    unwritten: ModelInputs | None = None  # predictions for the last block that are in no cache yet


@dataclass(frozen=True)
class Names:
    """How blocks are called, and which of them are visible."""

    last: int  # the last number in the table
    reach: int  # how many past blocks' frames are visible
    reach_of_actions: int  # and how many blocks' actions

    def of(self, block: int) -> int:
        """The number of a block while it is the present one."""
        return min(block, self.last)

    def moved(self, cache: KVCache, before: int, now: int) -> KVCache:
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

    def written(self, cache: KVCache, block: int) -> KVCache:
        """The cache of block `block` when what happened in it is written.

        Where frames see actions of one block more than their frames, those are gone by then: the
        actions of the block have asked for their place (LingBot-VA, `allocate_slots`).
        """
        if self.reach_of_actions == self.reach:
            return cache
        return cache.without({f"did.{self.of(block) - self.reach_of_actions}"})

    def view(self, memory: Memory) -> KVCache | None:
        """All that the block to be made may see, whether it happened or was predicted."""
        if memory.observed is None:
            return memory.predicted
        seen = self.moved(memory.observed, memory.happened, memory.begun)
        return seen if memory.predicted is None else seen | memory.predicted
