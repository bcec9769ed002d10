"""Roll out a policy or a baseline in several environments at once, from given seeds.

Policies decide in rounds: all episodes that run are observed, decided for in one batch, and go on
together. So the batches, and with them the results, do not depend on how fast each simulator is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter

from .env_pool import EnvPool, Progress
from .episodes import Frame, Rollout
from .policy_runner import PolicyRunner, RunningEpisode

Seconds = dict[str, list[float]]


def play(
    workers: EnvPool,
    seeds: Sequence[int],
    actor: str,
    *,
    noise: float = 0.0,
    post_success_steps: int = 0,
    keep: bool = False,
) -> Iterator[Rollout]:
    """Yield episodes of `expert` or `random`, in the order of their seeds."""
    free, asked, made = list(range(len(workers))), dict[int, int](), dict[int, Rollout]()
    waiting, following = iter(seeds), iter(seeds)
    next_out = next(following, None)
    while next_out is not None:
        while free and (seed := next(waiting, None)) is not None:
            place = free.pop(0)
            asked[place] = seed
            workers.ask(place, "play", seed, actor, noise, post_success_steps, keep)
        for place in list(workers.ready(sorted(asked))):
            made[asked.pop(place)] = workers.answer(place)
            free.append(place)
        while next_out in made:
            yield made.pop(next_out)
            next_out = next(following, None)


def evaluate(
    workers: EnvPool,
    seeds: Sequence[int],
    runner: PolicyRunner,
    seconds: Seconds,
    *,
    keep: bool = False,
) -> Iterator[Rollout]:
    """Yield episodes of a policy as they end; add the times of each stage to `seconds`.

    With `keep`, every step is observed, and rollouts hold their frames.
    """
    waiting = iter(seeds)
    running: dict[int, RunningEpisode] = {}
    while True:
        begun = []
        for place in range(len(workers)):
            if place not in running and (seed := next(waiting, None)) is not None:
                workers.ask(place, "reset", seed)
                running[place] = RunningEpisode(seed, {})
                begun.append(place)
        for place in begun:
            running[place].seen[0] = workers.answer(place)
        if not running:
            return
        _step_chunk(workers, running, runner, 1 if keep else runner.every, seconds)
        for place in [place for place, one in running.items() if one.over]:
            yield _rollout(running.pop(place), keep)


def _step_chunk(
    workers: EnvPool,
    running: dict[int, RunningEpisode],
    runner: PolicyRunner,
    every: int,
    seconds: Seconds,
) -> None:
    """Sample and execute one chunk for every running episode."""
    episodes = list(running.values())
    runner.imagine_next(episodes)
    start = perf_counter()
    chunks = runner.sample_actions(episodes)
    seconds.setdefault("policy", []).append(perf_counter() - start)
    for (place, one), chunk in zip(running.items(), chunks, strict=True):
        one.actions += list(chunk)
        workers.ask(place, "advance", chunk, every)
    for place, one in running.items():
        made: Progress = workers.answer(place)
        for stage, spent in made.seconds.items():
            seconds.setdefault(stage, []).extend(spent)
        one.take(made)


def _rollout(one: RunningEpisode, keep: bool) -> Rollout:
    """Convert a running episode to a rollout."""
    executed = one.actions[: one.step]  # the end cuts a chunk
    happened = zip(executed, one.rewards, one.successes, strict=True)
    frames = tuple(Frame(one.seen[step], *what) for step, what in enumerate(happened) if keep)
    return Rollout(
        one.seed,
        any(one.successes),
        sum(one.rewards),
        one.step,
        one.seen[0].instruction,
        frames=frames,
        imagined=one.imagined,
        last=one.seen[one.step] if keep else None,
        timing=one.timing,
    )
