"""Environments in worker processes, and the calls that they answer.

A simulator often holds a rendering context that belongs to one process, and several of them use
several cores. No torch here: it would be loaded once a process.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from time import perf_counter
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..config.parts import EnvironmentConfig
from ..config.seeds import to_32_bits
from ..errors import WamkitError
from .environment import EnvObservation, Robot, Step
from .episodes import Frame, Rollout
from .rendering import VARIABLES


@dataclass
class Progress:
    """Result of executing a few actions."""

    steps: list[Step] = field(default_factory=list)
    executed: list[NDArray[np.float32]] = field(default_factory=list)  # one a step, clipped
    observations: dict[int, EnvObservation] = field(default_factory=dict)  # by actions before it
    over: bool = False
    seconds: dict[str, list[float]] = field(default_factory=dict)  # stage -> each time it ran


class EnvWorker:
    """One environment at a time, and the episodes that run in it."""

    def __init__(self, config: EnvironmentConfig) -> None:
        self.config = config
        self._environment: Any = None
        self._done = 0

    @property
    def environment(self) -> Any:
        """The environment, built when it is needed first."""
        if self._environment is None:
            self._environment = self.config.build()
        return self._environment

    def switch(self, config: EnvironmentConfig) -> Robot:
        """Change to the environment of `config`; the former one is freed before it is built."""
        if config != self.config:
            self.close()
            self.config, self._environment = config, None
        return self.robot()

    def begin(self, config: EnvironmentConfig, seed: int) -> tuple[Robot, EnvObservation]:
        """Begin an episode in the environment of `config`; its robot, and the first observation."""
        return self.switch(config), self.reset(seed)

    def play_in(self, config: EnvironmentConfig, seed: int, actor: str, keep: bool) -> Rollout:
        """`play` an episode of `expert` or `random`, without noise, in that environment."""
        self.switch(config)
        return self.play(seed, actor, 0.0, 0, keep)

    def rendering(self) -> dict[str, str]:
        """Environment variables that decide how this process renders, once it has."""
        self.robot()
        return {name: os.environ[name] for name in VARIABLES if name in os.environ}

    def robot(self) -> Robot:
        """Return the specification of the robot."""
        return self.environment.robot  # type: ignore[no-any-return]

    def reset(self, seed: int) -> EnvObservation:
        """Begin an episode."""
        self.environment.reset(to_32_bits(seed))
        self._done = 0
        return self._observe()

    def has_expert(self, seed: int) -> bool:
        """Whether the environment has a script that solves its task."""
        self.environment.reset(to_32_bits(seed))
        return self.environment.expert(to_32_bits(seed)) is not None

    def advance(self, actions: NDArray[Any], every: int) -> Progress:
        """Execute actions [K, A] until success or the end; observe after every `every` of them.

        The last action is observed too. When the episode is over, the end is observed
        only if every step is.
        """
        made = Progress(seconds={"observation": [], "environment": []})
        for count, action in enumerate(actions, 1):
            start = perf_counter()
            executed = self.robot().clip_action(action)
            step = self._step(executed)
            made.seconds["environment"].append(perf_counter() - start)
            made.steps.append(step)
            made.executed.append(executed)
            made.over = step.over or step.success
            due = count % every == 0 or count == len(actions)
            if every == 1 or (due and not made.over):
                start = perf_counter()
                made.observations[count] = self._observe()
                made.seconds["observation"].append(perf_counter() - start)
            if made.over:
                break
        return made

    def play(
        self, seed: int, actor: str, noise: float, post_success_steps: int, keep: bool
    ) -> Rollout:
        """Run an episode of `expert` or `random`, until `post_success_steps` after success.

        `noise`: std of the normal noise on executed actions, relative to half the range of each
        dimension. The rollout keeps the clean actions, so that data show how to recover. Raises
        WamkitError if the environment has no expert.
        """
        seen, robot = self.reset(seed), self.robot()
        rng = np.random.default_rng([seed, 1])
        low, high = np.asarray(robot.low), np.asarray(robot.high)
        expert = self.environment.expert(to_32_bits(seed)) if actor == "expert" else None
        if actor == "expert" and expert is None:
            raise WamkitError(
                f"environment {self.config.name} has no scripted expert for this task",
                "choose another task, or record episodes of a policy: wamkit eval --dataset DIR",
            )
        reads_images = expert is not None and getattr(expert, "reads_images", True)
        first, frames, total, success_at, steps = seen, [], 0.0, None, 0
        while True:
            if expert is not None:
                intended = robot.clip_action(expert.act(seen))
                spread = noise * (high - low) / 2 * rng.normal(size=len(low))
            else:
                intended, spread = rng.uniform(low, high).astype(np.float32), 0
            step = self._step(robot.clip_action(intended + spread))
            steps, total = steps + 1, total + step.reward
            if keep:
                frames.append(Frame(seen, intended, step.reward, step.success))
            if step.success and success_at is None:
                success_at = steps
            if step.over or (success_at is not None and steps - success_at >= post_success_steps):
                break
            if keep or reads_images:
                seen = self._observe()
        last = self._observe() if keep else None
        solved = success_at is not None
        return Rollout(
            seed, solved, total, steps, first.instruction, frames=tuple(frames), last=last
        )

    def _observe(self) -> EnvObservation:
        """Observe. Raises WamkitError if the observation breaks the interface of environments."""
        seen: EnvObservation = self.environment.see()
        where = f"environment {self.config.name}, step {self._done}"
        state = np.asarray(seen.state)
        if not np.isfinite(state).all():
            place = int(np.flatnonzero(~np.isfinite(state))[0])
            names = self.robot().state
            name = names[place] if place < len(names) else str(place)
            raise WamkitError(
                f"{where}: the state is {state[place]} at {name!r}, expected finite values",
                "the simulation has become unstable: choose another seed, or mend the environment",
            )
        for name, image in seen.images.items():
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise WamkitError(
                    f"{where}: camera {name!r} shows {image.dtype} {list(image.shape)}, "
                    "expected uint8 [height, width, 3]",
                    "have the environment render 8-bit images",
                )
        return seen

    def _step(self, action: NDArray[np.float32]) -> Step:
        """One action within the limits; the episode is over after `max_steps`."""
        step: Step = self.environment.step(action)
        self._done += 1
        if not math.isfinite(step.reward):
            raise WamkitError(
                f"environment {self.config.name} gives a reward of {step.reward} at step "
                f"{self._done}",
                "a reward is a finite number; mend the environment",
            )
        return Step(step.reward, step.success, step.over or self._done >= self.config.max_steps)

    def close(self) -> None:
        """Free the environment."""
        if self._environment is not None:
            self._environment.close()


class EnvPool:
    """Several `EnvWorker`s, each in a process of its own, or all in this process.

        with EnvPool(config, 2) as workers:
            workers.ask(0, "reset", 7)
            seen = workers.answer(0)

    Leaving the block ends the processes, also when it is left by Ctrl-C.
    """

    def __init__(self, config: EnvironmentConfig, count: int = 2, *, apart: bool = True) -> None:
        self.config, self.count = config, count
        self._here = [] if apart else [EnvWorker(config) for _ in range(count)]
        self._answers: dict[int, Any] = {}  # of the workers in this process
        self._asked = [0] * count  # the number of the last question to each
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        context = multiprocessing.get_context("spawn")
        for _ in range(count if apart else 0):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, config), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)

    def __len__(self) -> int:
        return self.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        for host in self._here:
            host.close()
        for pipe in self._pipes:
            pipe.close()  # a worker that waits for a question ends
        for process in self._processes:
            process.join(0.2 if kind else 5)
            if process.is_alive():
                process.terminate()
                process.join()

    def ask(self, place: int, what: str, *given: Any) -> None:
        """Call a method of a worker; drop an earlier answer that was not taken."""
        if self._here:
            self._answers[place] = getattr(self._here[place], what)(*given)
            return
        self._asked[place] += 1
        try:
            self._pipes[place].send((self._asked[place], what, given))
        except OSError:
            raise self._lost_error(place) from None

    def answer(self, place: int) -> Any:
        """Return the result of the method, or raise its error; WamkitError if the process died."""
        if self._here:
            return self._answers.pop(place)
        number = -1
        try:
            while number != self._asked[place]:
                number, fine, value = self._pipes[place].recv()
        except (EOFError, OSError):
            raise self._lost_error(place) from None
        if fine:
            return value
        what, hint, user = value
        raise WamkitError(what, hint) if user else RuntimeError(what)

    def ready(self, places: Sequence[int]) -> Iterator[int]:
        """Indexes of the workers that have an answer; waits for the first."""
        if self._here:
            yield from places
            return
        found = wait([self._pipes[place] for place in places])
        yield from (place for place in places if self._pipes[place] in found)

    def is_ready(self, place: int) -> bool:
        """Whether the worker has an answer, or is gone: `answer` will not wait."""
        return bool(self._here) or self._pipes[place].poll()

    def robot(self) -> Robot:
        """Specification of the robot, the same in every process."""
        self.ask(0, "robot")
        return self.answer(0)  # type: ignore[no-any-return]

    def switch(self, config: EnvironmentConfig) -> Robot:
        """Change every process to the environment of `config`, and return its robot.

        No episode may be running. A process that runs already changes much faster than a new one
        starts.
        """
        self.config = config
        for place in range(self.count):
            self.ask(place, "switch", config)
        robots: list[Robot] = [self.answer(place) for place in range(self.count)]
        return robots[0]

    def _lost_error(self, place: int) -> WamkitError:
        self._processes[place].join(5)
        code = self._processes[place].exitcode
        return WamkitError(
            f"the process of environment {self.config.name} ended with code {code}",
            "run with --processes 0 to see why; rendering without a display needs EGL or OSMesa",
        )


def _serve(pipe: Connection, config: EnvironmentConfig) -> None:
    """Run one environment in a worker process, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    host: EnvWorker | None = None
    while True:
        try:
            number, what, given = pipe.recv()
        except (EOFError, OSError):
            break
        try:
            host = host or EnvWorker(config)
            reply: Any = number, True, getattr(host, what)(*given)
        except WamkitError as problem:
            reply = number, False, (problem.what, problem.hint, True)
        except Exception:
            reply = number, False, (traceback.format_exc(), "", False)
        try:
            pipe.send(reply)
        except OSError:
            break
    if host is not None:
        host.close()
