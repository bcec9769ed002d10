"""The training loop: batches in, updates, and at its times a log line, a validation, a checkpoint.

Nothing is drawn from a generator that must be remembered: the noise of an update has a seed made of
the run's seed, the update's number and the shard, so a run that is resumed is the same run.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..compiling import as_written, compile_blocks
from ..data import Columns, Loader, Recording, Samples, remarks, split, statistics
from ..errors import WamkitError
from ..modes import compiler
from ..policy import Policy
from ..records import Record
from ..runs import RUN
from . import learning, loggers, logs
from .batches import Feed, seed_of, shard
from .checkpoints import RunFolder
from .config import FREE, TrainConfig
from .devices import peak_for
from .processes import Processes, joined
from .trainee import Team, Trainee
from .watching import HeldOut, picture

Tell = Callable[[int, Mapping[str, Any]], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """What a run learns from, and how it is read."""

    folder: Path
    columns: Columns
    latents: Path | None = None
    workers: int = 0


@dataclass(frozen=True)
class Summary:
    """What a run came to, in this session of it."""

    step: int
    seconds: float
    samples_per_second: float
    tokens_per_second: float
    waiting: float  # share of the time that no batch was there
    utilization: float | None  # of the devices' peak, where that is known
    loss: float | None  # of the last logged update
    checkpoint: Path
    best: Path | None  # of all that were validated, also before; None if none was
    interrupted: bool


def train(
    policy: Policy,
    data: Data,
    out: str | Path,
    config: TrainConfig,
    *,
    device: str = "cpu",
    resume: bool = False,
    tell: Tell | None = None,
    note: Note = warnings.warn,
) -> Summary:
    """Train `policy` on a data set, and write everything about it to the folder `out`.

    To be called in every process that torchrun starts, or in one. `tell` hears of every update, in
    the first process, and `note` of what is worth a line: what normalization cuts from the data, a
    checkpoint that is passed over. Raises WamkitError if anything does not fit, if a loss is not
    finite, or if a file cannot be written or read.
    """
    loggers.expect(config.loggers)
    with joined(device) as processes:
        run = Trainer(policy, data, out, config, processes, note)
        return run.go(resume=resume, tell=tell or (lambda step, told: None))


class Trainer:
    """One run, in one process of it."""

    def __init__(
        self,
        policy: Policy,
        data: Data,
        out: str | Path,
        config: TrainConfig,
        processes: Processes,
        note: Note = warnings.warn,
    ) -> None:
        self.config, self.processes, self.policy, self.note = config, processes, policy, note
        shards = processes.world * config.accumulate
        if config.batch % shards:
            raise WamkitError(
                f"a batch of {config.batch} cannot be cut into {processes.world} processes x "
                f"{config.accumulate} passes",
                f"take a multiple of {shards}: --batch {-(-config.batch // shards) * shards}",
            )
        recording = Recording(data.folder)
        learn, hold = split(recording, config.validation, config.seed)
        chosen: dict[str, Any] = {
            "columns": data.columns,
            "latents": data.latents,
            "discount": config.discount,
            "tolerance": config.tolerance,
        }
        samples = Samples(recording, policy.spec, episodes=learn, **chosen)
        if samples.latents is not None:
            samples.latents.expect_weights(policy.vae)
        for turn in (True, False):  # the first process computes them, the others find them kept
            if processes.first is turn:
                found = statistics(recording, policy.spec, data.columns, episodes=learn)
            processes.wait()
        policy.set_statistics(found)
        if processes.first:
            known: dict[str, Any] = {"episodes": learn, "statistics": found}
            for line in remarks(recording, policy.spec, data.columns, **known):
                note(line)
        loader = Loader(
            samples,
            config.batch // processes.world,
            seed=config.seed,
            workers=data.workers,
            rank=processes.rank,
            world=processes.world,
        )
        self.samples, self.feed = samples, Feed(loader)
        self.held: HeldOut | None = None
        self.shown = samples
        if hold:
            self.shown = Samples(recording, policy.spec, episodes=hold, **chosen)
            if config.validate_every:
                self.held = HeldOut(self.shown, config, processes, data.workers)
        learning.choose(policy, config.parts)
        self.adapters = learning.adapted(policy, config)
        policy.to(processes.device)
        if config.compile:
            if processes.device.type == "cpu" and compiler() is None:
                raise WamkitError(
                    "compile=true needs a C++ compiler on the CPU, and none was found",
                    "install g++ (or name one in the variable CXX), or leave compile=true out",
                )
            compile_blocks(policy)
        self.team = Team(Trainee(policy, config), config, processes)
        self.learned = self.team.learned()
        self.optimizer = learning.optimizer(policy, config)
        self.average: learning.Average | None = None
        if config.ema is not None:
            self.average = learning.Average(list(self.learned.values()), config.ema)
        self.noise = learning.NoiseScale()
        self.folder = RunFolder(out, processes, config.keep)
        self.told = {
            "settings": config.model_dump(mode="json"),
            "data": {
                "fingerprint": recording.fingerprint(),
                "latents": None if data.latents is None else str(data.latents),
                "columns": str(data.columns),
            },
            "folder": str(data.folder),
        }
        self.step, self.best = 0, math.inf
        self.best_step: int | None = None

    def go(self, *, resume: bool, tell: Tell) -> Summary:
        """Train to the last step, or until somebody interrupts."""
        config, spec = self.config, self.policy.spec.dump()
        checkpoint = self.folder.checkpoints / "last"  # until there is one
        if resume:
            checkpoint, record, notes = self.folder.go_on(self.told, spec, FREE)
            for line in notes if self.processes.first else ():
                self.note(line)
            self._restore(checkpoint, record)
            self.folder.take_up(self.told)
        else:
            self.folder.begin(self.told, spec)
        log: logs.Log | None = None
        with self.processes.agreed():
            if self.processes.first:
                log = logs.Log(self.folder.place, config.loggers, self.step, self.told, self.note)
        first, loss = self.step, None
        begin = mark = perf_counter()
        since, waited = self.step, 0.0
        try:
            with _signals() as stopped:
                while self.step < config.steps and not self.processes.any(stopped()):
                    told = self._update()
                    loss = told["loss"]
                    tell(self.step, told)
                    last = self.step == config.steps
                    if self._logs(self.step):
                        pace = self._pace(self.step - since, perf_counter() - mark)
                        pace["waiting"] = (self.feed.waited - waited) / (perf_counter() - mark)
                        self._write(log, told | pace)
                        mark, since, waited = perf_counter(), self.step, self.feed.waited
                    saves = last or self.step % config.save_every == 0
                    better = self._watch(log, saves)
                    if saves:
                        self.best_step = self.step if better else self.best_step
                        checkpoint = self._save(self.feed.loader.state_dict())
                interrupted = self.step < config.steps
                if interrupted:
                    checkpoint = self._save(self.feed.loader.state_dict())
        finally:
            self._leave()
            if log is not None:
                log.close()
        with self.processes.agreed():
            if self.processes.first:
                logs.curve(self.folder.place)
        seconds = perf_counter() - begin
        pace = self._pace(self.step - first, seconds)
        return Summary(
            self.step,
            seconds,
            pace["samples_per_second"],
            pace["tokens_per_second"],
            self.feed.waited / max(seconds, 1e-9),
            pace.get("utilization"),
            loss,
            checkpoint,
            self._best_checkpoint(),
            interrupted,
        )

    def _update(self) -> dict[str, Any]:
        """One update of the weights. Raises WamkitError if it is not finite; nothing is changed."""
        config, world, passes = self.config, self.processes.world, self.config.accumulate
        batch, weights = self.feed.next(), list(self.learned.values())
        rates = learning.set_rates(self.optimizer, config, self.step)
        self.optimizer.zero_grad()
        found: list[Tensor] = []
        names: list[str] = []
        for k in range(passes):
            seed = seed_of(config.seed, self.step, self.processes.rank + k * world)
            with self.team.alone(k + 1 < passes):
                losses = self.team.losses(shard(batch, k, passes), seed)
                (losses["total"] / passes).backward()
            names = list(losses)
            found.append(torch.stack([x.detach().float() for x in losses.values()]))
            if k == 0 and passes > 1:
                short = self.processes.mean((learning.length(weights) * passes).square())
        means = self.processes.mean(torch.stack(found).mean(0))
        length = learning.length(weights)
        if not bool(torch.isfinite(means[0]) & torch.isfinite(length)):
            self._stop_at(found, names)
        logged = self._logs(self.step + 1)
        shares = learning.lengths(self.optimizer) if logged else {}
        if passes > 1:
            few = config.batch // passes // (1 if self.team.sharded else world)
            self.noise.update(few, float(short), config.batch, float(length) ** 2)
        learning.shorten(weights, config.clip, length)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.step)
        self.step += 1
        told = dict(zip(names, means.tolist(), strict=True))
        line: dict[str, Any] = {"loss": told.pop("total"), "parts": told, "lr": rates}
        line["gradient"] = float(length)
        if logged:
            line["gradients"] = shares
        if passes > 1:
            line["noise_scale"] = self.noise.value
        return line

    def _write(self, log: logs.Log | None, told: Mapping[str, Any]) -> None:
        """A line of the log, in the process that has it; if it cannot be written, all stop."""
        with self.processes.agreed():
            if log is not None:
                log.write(self.step, told)

    def _logs(self, step: int) -> bool:
        """Whether the update that makes `step` of them is logged."""
        return step == self.config.steps or step % self.config.log_every == 0

    def _stop_at(self, found: list[Tensor], names: list[str]) -> None:
        """Save the state before this update, and say which parts and which samples it was."""
        world, passes = self.processes.world, self.config.accumulate
        flags = torch.zeros(world * passes, device=self.processes.device)
        for k, losses in enumerate(found):
            flags[self.processes.rank + k * world] = float(~torch.isfinite(losses[0]))
        bad = self.processes.mean(flags).nonzero().flatten().tolist()
        whole = self.feed.whole()
        chosen = [i for place in bad for i in whole[place :: world * passes]]
        moments = [self.samples.moment(i) for i in chosen or whole]
        words = ", ".join(f"episode {e} frame {t}" for e, t in moments[:8])
        more = f" and {len(moments) - 8} more" if len(moments) > 8 else ""
        if bad:
            wrong = self.processes.mean((~torch.stack(found).isfinite()).any(0).to(flags))
            where = [n for n, x in zip(names, wrong.tolist(), strict=True) if x and n != "total"]
        else:
            lengths = learning.lengths(self.optimizer)
            where = [part for part, length in lengths.items() if not math.isfinite(length)]
        self.optimizer.zero_grad()
        checkpoint = self._save(self.feed.before)
        what = "loss" if chosen else "gradient"
        parts = f" ({', '.join(where)})" if where else ""
        raise WamkitError(
            f"the {what}{parts} of update {self.step + 1} is not finite; its samples: "
            f"{words}{more}",
            f"look at them with `wamkit data check`, or lower lr; {checkpoint} is the state before",
        )

    def _watch(self, log: logs.Log | None, saves: bool) -> bool:
        """Validate and draw where that is due. True if no checkpoint was better before."""
        config, better = self.config, False
        draws = config.imagine_every and self.step % config.imagine_every == 0
        validates = self.held is not None and (saves or self.step % config.validate_every == 0)
        if not (draws or validates):
            return False
        policy = self.policy
        with self.average.applied() if self.average is not None else nullcontext():
            if validates and self.held is not None:
                told = self.held.loss(self.team)
                self._write(log, {"validation": told})
                if not math.isfinite(told["loss"]):
                    raise WamkitError(
                        f"the validation loss after update {self.step} is not finite; its samples "
                        "are those of the held-out episodes",
                        "look at them with `wamkit data check`, or lower lr",
                    )
                better = saves and told["loss"] < self.best
                self.best = told["loss"] if better else self.best
            if draws and policy.spec.latent_frames[1]:
                file = self.folder.place / "imagined" / f"step-{self.step:06d}.png"
                picture(self.team, self.shown, file, self.processes)
                if log is not None:
                    log.picture(self.step, "imagined", file)
        return better

    def _pace(self, steps: int, seconds: float) -> dict[str, float]:
        """Samples and tokens a second, and the share of the peak that is reached."""
        samples = steps * self.config.batch / max(seconds, 1e-9)
        tokens = sum(self.policy.spec.tokens().values()) * self.policy.spec.paradigm.blocks
        pace = {"samples_per_second": samples, "tokens_per_second": samples * tokens}
        if self._peak is not None:
            pace["utilization"] = samples * self._operations / self._peak / self.processes.world
        return pace

    @cached_property
    def _peak(self) -> float | None:
        """Operations a second of each device at most, if that is known."""
        return peak_for(self.config, self.processes.device)

    @cached_property
    def _operations(self) -> int:
        """Operations of a sample, there and back, as written: what runs again counts once."""
        from .plan import work

        config, latents = self.config, self.samples.latents is not None
        counted = work(self.policy.spec, config.parts, encodes=not latents, lora=config.lora)
        return counted.operations

    def _tensors(self) -> dict[str, Tensor]:
        """All that an update changes, and buffers, by name."""
        state = {}
        for name, p in self.learned.items():
            state[f"weight/{name}"] = p.detach()
            for key, value in self.optimizer.state[p].items():
                state[f"{key}/{name}"] = value
        if self.average is not None:
            names = self.learned
            state |= {f"ema/{n}": v for n, v in zip(names, self.average.values, strict=True)}
        parameters = dict(self.policy.named_parameters())
        others = {n: x for n, x in self.team.weights().items() if n not in parameters}
        return state | {f"buffer/{name}": x for name, x in others.items()}

    def _save(self, place: Mapping[str, int]) -> Path:
        weights = self.team.weights()
        if self.average is not None:
            weights |= dict(zip(self.learned, self.average.values, strict=True))
        adapters = self.adapters
        named = weights.items() if adapters is None else adapters.merged(weights)
        run = {
            "step": self.step,
            "loader": dict(place),
            "best": None if self.best == math.inf else self.best,
            "best_step": self.best_step,
            "noise": vars(self.noise),
        }
        state = self._tensors()
        with nullcontext() if adapters is None else adapters.aside():
            return self.folder.save(self.policy, named, state, run)

    def _best_checkpoint(self) -> Path | None:
        step = self.best_step
        return None if step is None else self.folder.checkpoints / f"step-{step:06d}"

    def _leave(self) -> None:
        """Give the policy back as others know it: blocks as written, adapters merged."""
        if self.team.sharded:  # it is in pieces, and stays so
            return
        as_written(self.policy)
        if self.adapters is not None:
            self.adapters.merge()

    def _restore(self, checkpoint: Path, record: Record) -> None:
        with self.processes.agreed():
            self.feed.loader.load_state_dict(record.loader.model_dump())
            record.expect_place(checkpoint / RUN)
        self.folder.restore(checkpoint, self._tensors())
        self.step, self.best_step = record.step, record.best_step
        if not self.folder.has(self.best_step):
            self.best_step = None
        self.best = math.inf if record.best is None else record.best
        vars(self.noise).update(record.noise.model_dump())


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM only set what is returned to true; a second one ends at once."""
    heard: list[int] = []
    before: dict[int, Any] = {}

    def hear(number: int, frame: Any) -> None:
        heard.append(number)
        signal.signal(number, before[number])

    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        before[number] = signal.signal(number, hear)
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
