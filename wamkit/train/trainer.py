"""The training loop: batches in, updates, and at its times a log line, a validation, a checkpoint.

Nothing is drawn from a generator that must be remembered: the noise of an update has a seed made of
the run's seed, the update's number and the shard, so a run that is resumed is the same run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..acceleration.compile_modules import as_written, compile_blocks
from ..config.records import Record
from ..config.runs import RUN
from ..data import Columns, LeRobotFolder, Loader, Samples, compute_statistics, scaling_notes, split
from ..errors import WamkitError
from ..policy.policy import Policy
from . import loggers, logs, optim
from .batches import BatchIterator, explain_worker_errors, seed_of, shard
from .checkpoints import RunFolder
from .config import TrainConfig
from .distributed import DistributedPolicy, LossModule, expect_compiler
from .imagined import ImaginedFrames
from .nonfinite import describe_tensors, not_finite
from .processes import Processes, join_processes
from .signals import catch_signals
from .summary import Summary as Summary
from .throughput import Throughput
from .validation import Validator

OnStep = Callable[[int, Mapping[str, Any]], None]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """Training data, and how it is read."""

    folder: Path
    columns: Columns
    latents: Path | None = None
    workers: int = 0


def train(
    policy: Policy,
    data: Data,
    out: str | Path,
    config: TrainConfig,
    *,
    device: str = "cpu",
    resume: bool = False,
    on_step: OnStep | None = None,
    note: Note = warnings.warn,
) -> Summary:
    """Train `policy` on a data set, and write everything about it to the folder `out`.

    Call it in every process that torchrun starts, or in one. `on_step(step, metrics)` is called
    after every update in the first process, `note(line)` with warnings: what normalization cuts
    from the data, a checkpoint that is passed over. Raises WamkitError if anything does not fit, if
    a loss or a weight is not finite, if a file cannot be written or read, if another run writes to
    `out`, or if another process ended.
    """
    loggers.expect(config.loggers)
    with join_processes(device, config.timeout) as processes, explain_worker_errors():
        run = Trainer(policy, data, out, config, processes, note)
        return run.go(resume=resume, on_step=on_step or (lambda step, metrics: None))


class Trainer:
    """A training run in one process."""

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
        shards = processes.world * config.gradient_accumulation_steps
        if config.batch_size % shards:
            raise WamkitError(
                f"a batch of {config.batch_size} cannot be cut into {processes.world} processes x "
                f"{config.gradient_accumulation_steps} passes",
                f"take a multiple of {shards}: --batch {-(-config.batch_size // shards) * shards}",
            )
        recording = LeRobotFolder(data.folder)
        learn, hold = split(recording, config.val_fraction, config.seed)
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
                found = compute_statistics(recording, policy.spec, data.columns, episodes=learn)
            processes.wait()
        policy.set_statistics(found)
        if processes.first:
            known: dict[str, Any] = {"episodes": learn, "statistics": found}
            for line in scaling_notes(recording, policy.spec, data.columns, **known):
                note(line)
        loader = Loader(
            samples,
            config.batch_size // processes.world,
            seed=config.seed,
            workers=data.workers,
            rank=processes.rank,
            world=processes.world,
        )
        self.samples, self.batches = samples, BatchIterator(loader)
        self.validator: Validator | None = None
        held_out = samples
        if hold:
            held_out = Samples(recording, policy.spec, episodes=hold, **chosen)
            if config.validate_every:
                self.validator = Validator(held_out, config, processes, data.workers)
        optim.set_trainable(policy, config.parts)
        self.adapters = optim.add_adapters(policy, config)
        policy.to(processes.device)
        if config.compile:
            expect_compiler(processes.device)
            compile_blocks(policy)
        self.distributed = DistributedPolicy(LossModule(policy, config), config, processes)
        self.imagined = ImaginedFrames(self.distributed, held_out, config, held_out=bool(hold))
        self.trainable_weights = self.distributed.trainable_weights()
        self.optimizer = optim.optimizer(policy, config)
        self.ema: optim.EMA | None = None
        if config.ema is not None:
            self.ema = optim.EMA(list(self.trainable_weights.values()), config.ema)
        self.noise = optim.NoiseScale()
        self.folder = RunFolder(out, processes, config.max_checkpoints)
        self.run_settings = {
            "settings": config.model_dump(mode="json"),
            "data": {
                "fingerprint": recording.fingerprint(),
                "latents": None if data.latents is None else str(data.latents),
                "columns": str(data.columns),
            },
            "folder": str(data.folder),
        }
        self.throughput = Throughput(
            policy.spec, config, processes, encodes=samples.latents is None
        )
        self.step, self.best = 0, math.inf
        self.best_step: int | None = None
        self.saved: int | None = None  # the step of the newest checkpoint
        self.log: logs.Log | None = None  # in the first process

    def go(self, *, resume: bool, on_step: OnStep) -> Summary:
        """Train to the last step, or until an interrupt."""
        with self.folder.locked(resume):
            self._start(resume)
            with self.processes.raise_together():
                if self.processes.first:
                    run = self.folder.place
                    self.log = logs.Log(
                        run, self.config.loggers, self.step, self.run_settings, self.note
                    )
            return self._go(on_step)

    def _start(self, resume: bool) -> None:
        """Start the run, or resume it."""
        spec = self.policy.spec.dump()
        found = None
        if resume:
            found, notes = self.folder.resume_from(self.run_settings, spec)
            for line in notes if self.processes.first else ():
                self.note(line)
        if found is None:
            self.folder.begin(self.run_settings, spec)
        else:
            self._restore(*found)
            self.folder.record_resume(self.run_settings, *found)

    def _go(self, on_step: OnStep) -> Summary:
        config, first, loss = self.config, self.step, None
        begin = mark = perf_counter()
        since, waited = self.step, 0.0
        try:
            with catch_signals() as signals:
                while self.step < config.steps and not self.processes.any(bool(signals)):
                    metrics = self._update()
                    loss = metrics["loss"]
                    on_step(self.step, metrics)
                    last = self.step == config.steps
                    if self._logs(self.step):
                        throughput = self.throughput.of(self.step - since, perf_counter() - mark)
                        throughput["waiting"] = (self.batches.waited - waited) / (
                            perf_counter() - mark
                        )
                        self._write(metrics | throughput)
                        mark, since, waited = perf_counter(), self.step, self.batches.waited
                    saves = last or self.step % config.save_every == 0
                    better = self._watch(saves)
                    if saves:
                        self.best_step = self.step if better else self.best_step
                        self._save(self.batches.loader.state_dict())
                interrupted = self.step < config.steps
                if interrupted:
                    if self.processes.first:
                        came = signals.names[0] if signals else "a signal to another process"
                        self.note(f"{came}: saving step {self.step}; a second one ends at once")
                    self._save(self.batches.loader.state_dict())
        finally:
            self._leave()
            if self.log is not None:
                self.log.close()
        with self.processes.raise_together():
            if self.processes.first:
                logs.draw_losses(self.folder.place, self.note)
        seconds = perf_counter() - begin
        throughput = self.throughput.of(self.step - first, seconds)
        return Summary(
            self.step,
            seconds,
            throughput["samples_per_second"],
            throughput["tokens_per_second"],
            self.batches.waited / max(seconds, 1e-9),
            throughput.get("utilization"),
            loss,
            self._checkpoint(self.step),
            None if self.best_step is None else self._checkpoint(self.best_step),
            interrupted,
            self.imagined.means,
        )

    def _update(self) -> dict[str, Any]:
        """One update of the weights. Raises WamkitError if it is not finite; nothing is changed."""
        config, world, passes = (
            self.config,
            self.processes.world,
            self.config.gradient_accumulation_steps,
        )
        batch, weights = self.batches.next(), list(self.trainable_weights.values())
        rates = optim.set_rates(self.optimizer, config, self.step)
        self.optimizer.zero_grad()
        found: list[Tensor] = []
        names: list[str] = []
        for k in range(passes):
            seed = seed_of(config.seed, self.step, self.processes.rank + k * world)
            with self.distributed.no_sync(k + 1 < passes):
                losses = self.distributed.losses(shard(batch, k, passes), seed)
                (losses["total"] / passes).backward()
            names = list(losses)
            found.append(torch.stack([x.detach().float() for x in losses.values()]))
            if k == 0 and passes > 1:
                short = self.processes.mean((optim.grad_norm(weights) * passes).square())
        means = self.processes.mean(torch.stack(found).mean(0))
        norm = optim.grad_norm(weights)
        if not bool(torch.isfinite(means[0]) & torch.isfinite(norm)):
            self._stop_at(found, names)
        logged = self._logs(self.step + 1)
        shares = optim.grad_norms(self.optimizer) if logged else {}
        if passes > 1:
            few = config.batch_size // passes // (1 if self.distributed.sharded else world)
            self.noise.update(few, float(short), config.batch_size, float(norm) ** 2)
        optim.clip_grad_norm(weights, config.max_grad_norm, norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.step)
        self.step += 1
        metrics = dict(zip(names, means.tolist(), strict=True))
        line: dict[str, Any] = {"loss": metrics.pop("total"), "parts": metrics, "lr": rates}
        line["gradient"] = float(norm)
        if logged:
            line["gradients"] = shares
        if passes > 1:
            line["noise_scale"] = self.noise.value
        return line

    def _write(self, metrics: Mapping[str, Any]) -> None:
        """Write a log line in the first process; if that fails, stop all."""
        with self.processes.raise_together():
            if self.log is not None:
                self.log.write(self.step, metrics)

    def _logs(self, step: int) -> bool:
        """Whether the update that makes `step` of them is logged."""
        return step == self.config.steps or step % self.config.log_every == 0

    def _stop_at(self, found: list[Tensor], names: list[str]) -> None:
        """Save the state before this update, and raise an error naming parts and samples.

        A state that is itself not finite is named, and not saved.
        """
        world, passes = self.processes.world, self.config.gradient_accumulation_steps
        flags = torch.zeros(world * passes, device=self.processes.device)
        for k, losses in enumerate(found):
            flags[self.processes.rank + k * world] = float(~torch.isfinite(losses[0]))
        bad = self.processes.mean(flags).nonzero().flatten().tolist()
        whole = self.batches.whole()
        chosen = [i for place in bad for i in whole[place :: world * passes]]
        moments = [self.samples.moment(i) for i in chosen or whole]
        moments_listed = ", ".join(f"episode {e} frame {t}" for e, t in moments[:8])
        more = f" and {len(moments) - 8} more" if len(moments) > 8 else ""
        if bad:
            wrong = self.processes.mean((~torch.stack(found).isfinite()).any(0).to(flags))
            where = [n for n, x in zip(names, wrong.tolist(), strict=True) if x and n != "total"]
        else:
            norms = optim.grad_norms(self.optimizer)
            where = [part for part, norm in norms.items() if not math.isfinite(norm)]
        self.optimizer.zero_grad()
        what = "loss" if chosen else "gradient"
        parts = f" ({', '.join(where)})" if where else ""
        message = f"the {what}{parts} of update {self.step + 1} is not finite; its samples: "
        message += f"{moments_listed}{more}"
        if spoiled := not_finite(self._tensors(), self.processes):
            raise WamkitError(
                f"{message}; before it these were not finite: {describe_tensors(spoiled)}",
                self._lower(),
            )
        checkpoint = self._save(self.batches.before)
        raise WamkitError(
            message,
            f"look at them with `wamkit data check`, or lower lr; {checkpoint} is the state before",
        )

    def _expect_finite(self) -> None:
        """Raise WamkitError if an update has made anything NaN or infinite that would be saved."""
        if spoiled := not_finite(self._tensors(), self.processes):
            raise WamkitError(
                f"after update {self.step} of {self.config.steps} these are not finite: "
                f"{describe_tensors(spoiled)}",
                self._lower(),
            )

    def _lower(self) -> str:
        """Hint for weights that are no longer finite."""
        clip = (
            ""
            if self.config.max_grad_norm is not None
            else ", and clip gradients (max_grad_norm=1)"
        )
        if (newest := self.folder.newest()) is None:
            return f"lower lr{clip}; nothing was saved before: begin again with another --out"
        again = f"`wamkit train {newest / 'policy'} --out ANOTHER` begins with its weights"
        return f"lower lr{clip}; {newest} is finite: {again}"

    def _watch(self, saves: bool) -> bool:
        """Validate and draw where that is due. True if no checkpoint was better before."""
        better, every = False, self.config.validate_every
        validates = self.validator is not None and (saves or self.step % every == 0)
        if not (validates or self.imagined.due(self.step)):
            return False
        self._expect_finite()
        with self.ema.averaged_weights() if self.ema is not None else nullcontext():
            if validates and self.validator is not None:
                metrics = self.validator.loss(self.distributed)
                if not math.isfinite(metrics["loss"]):
                    raise WamkitError(
                        f"the validation loss after update {self.step} is not finite; its samples "
                        "are those of the held-out episodes",
                        f"look at them with `wamkit data check`, or {self._lower()}",
                    )
                self._write({"validation": metrics})
                better = saves and metrics["loss"] < self.best
                self.best = metrics["loss"] if better else self.best
            self.imagined.watch(self.step, self.folder.place, self.log, self._write)
        return better

    def _tensors(self) -> dict[str, Tensor]:
        """All that an update changes, and buffers, by name."""
        state = {}
        for name, p in self.trainable_weights.items():
            state[f"weight/{name}"] = p.detach()
            for key, value in self.optimizer.state[p].items():
                state[f"{key}/{name}"] = value
        if self.ema is not None:
            names = self.trainable_weights
            state |= {f"ema/{n}": v for n, v in zip(names, self.ema.values, strict=True)}
        parameters = dict(self.policy.named_parameters())
        others = {n: x for n, x in self.distributed.weights().items() if n not in parameters}
        return state | {f"buffer/{name}": x for name, x in others.items()}

    def _save(self, place: Mapping[str, int]) -> Path:
        """Write a checkpoint of this step, unless there is one. Raises WamkitError."""
        if self.saved == self.step:
            return self._checkpoint(self.step)
        self._expect_finite()
        with self.processes.raise_together():
            if self.log is not None:
                self.log.sync()
        weights = self.distributed.weights()
        if self.ema is not None:
            weights |= dict(zip(self.trainable_weights, self.ema.values, strict=True))
        adapters = self.adapters
        whole = weights.items() if adapters is None else adapters.merged(weights)
        run = {
            "step": self.step,
            "loader": dict(place),
            "best": None if self.best == math.inf else self.best,
            "best_step": self.best_step,
            "noise": vars(self.noise),
        }
        state = self._tensors()
        with nullcontext() if adapters is None else adapters.disabled():
            checkpoint = self.folder.save(self.policy, whole, state, run)
        self.saved = self.step
        return checkpoint

    def _checkpoint(self, step: int) -> Path:
        return self.folder.checkpoints / f"step-{step:06d}"

    def _leave(self) -> None:
        """Restore the policy: uncompiled blocks, merged adapters."""
        self.batches.close()
        if self.validator is not None:
            self.validator.loader.close()
        if self.distributed.sharded:  # it is in pieces, and stays so
            return
        as_written(self.policy)
        if self.adapters is not None:
            self.adapters.merge()

    def _restore(self, checkpoint: Path, record: Record) -> None:
        with self.processes.raise_together():
            self.batches.loader.load_state_dict(record.loader.model_dump())
            record.expect_place(checkpoint / RUN)
        self.folder.restore(checkpoint, self._tensors())
        if spoiled := not_finite(self._tensors(), self.processes):
            raise WamkitError(
                f"{checkpoint} is not finite: {describe_tensors(spoiled)}",
                self.folder.unreadable_hint(record.step),
            )
        self.step = self.saved = record.step
        self.best_step = record.best_step
        if not self.folder.has(self.best_step):
            self.best_step = None
        self.best = math.inf if record.best is None else record.best
        vars(self.noise).update(record.noise.model_dump())
