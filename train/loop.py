"""The training loop: source-only, adapting, or on the target's labels, one loop for all.

Each step takes as many images from the labelled set as from the unlabelled target. What is computed from them is
:mod:`dann.train.training_step`; here is what becomes of it: backward, clipping, the optimiser, checkpoints, logs.

Everything random in a step (dropout, VAT's directions) is drawn from a generator seeded by the run's seed, the step and
the process, as the batches are. So a run that is resumed, however it ended, goes through the same numbers.
"""

import contextlib
import math
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from dann.infer.errors import DannError, Diverged, Interrupted, UsageError
from dann.train import checkpoint
from dann.train.adaptation_state import AdaptationState
from dann.train.batch_norm import KeptBuffers
from dann.train.batches import BatchStream
from dann.train.compiled_step import CompiledStep
from dann.train.config import TrainConfig
from dann.train.device import precision, training_device
from dann.train.device_batches import DeviceBatch, DeviceBatches
from dann.train.distributed import AgreedNumber, World, joined, process_count
from dann.train.domains import Domains, draw_missing_cars, located, open_domains
from dann.train.evaluate import DomainScores, evaluate
from dann.train.finite_watch import FiniteWatch
from dann.train.judge import Judge
from dann.train.loss_window import LateMeans, LossWindow
from dann.train.metrics_log import MetricsLog, NoLog
from dann.train.model import DomainAdversarialNetwork
from dann.train.optimiser import build_optimiser
from dann.train.parameter_groups import freeze, hold_frozen_statistics
from dann.train.profile import StepProfile
from dann.train.run_dir import RUNS, RunDir, create_run, mark_latest, write_json
from dann.train.run_result import TrainResult
from dann.train.schedule import LAM_SCHEDULES, LR_SCHEDULES, adamatch_warmup, linear_warmup
from dann.train.signals import StopSignal
from dann.train.trained import build_network, from_scratch, load_trained
from dann.train.training_step import Pace, StepInput, StepOutput, TrainingStep
from dann.train.weights import initialise

_LABELLED_STREAM, _UNLABELLED_STREAM = 0, 1
_LOG_EVERY_STEPS = 50
_NO_SCORES = DomainScores(source=None, target=None, domain_accuracy=None)  # of a process that does not evaluate
_SMALLEST_LOSS_SCALE = 1e-4  # reached only when gradients overflow whatever the scale
_DIVERGED = "Try a smaller --lr, --set optimiser.clip_norm=1, or --amp bf16 instead of fp16"

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called with the number of finished steps, the total, and the newest numbers (empty between two logged steps)."""
OnMessage = Callable[[str], None]
_Noted = tuple[tuple[np.ndarray, ...], dict[str, Tensor]]
"""Of a pass: the positions of its images in each set, and its losses."""


def fit(
    config: TrainConfig,
    *,
    runs: Path = RUNS,
    name: str | None = None,
    default_name: str = "run",
    profile: bool = False,
    on_step: OnStep = lambda done, total, numbers: None,
    on_message: OnMessage = lambda message: None,
) -> TrainResult:
    """Train from the start into a new folder under ``runs``.

    ``profile`` says through ``on_message`` where the time of 20 steps went, and leaves a trace of them in the run.
    Under ``torchrun`` all processes call this; the first one writes. Raises :class:`UsageError` for data that is
    missing or does not match, :class:`Diverged` for a non-finite loss, :class:`Interrupted` after SIGINT or SIGTERM,
    the state being saved then.
    """
    device = training_device(config)
    with joined(device) as world:
        if world.first:
            draw_missing_cars(config, on_message)
        world.wait()
        config = _with_precision(config, device, world, on_message)
        domains = open_domains(config)
        network = _begin(config, domains, on_message)  # before the folder: a refused backbone leaves no run
        root = ""
        if world.first:
            about = {**domains.record(), "processes": world.size}
            root = str(create_run(runs, name, default_name, located(config), about).root)
        run = RunDir(Path(world.text_of_first(root)))
        return _Training(config, domains, network, run, device, world).go(on_step, on_message, profile)


def resume(
    run: RunDir,
    *,
    profile: bool = False,
    on_step: OnStep = lambda done, total, numbers: None,
    on_message: OnMessage = lambda message: None,
) -> TrainResult:
    """Continue an interrupted run to its end, as if it had never stopped; from the start if it has no checkpoint."""
    config, about = run.read_config()
    device, begun_by = training_device(config), about.get("processes", 1)
    if process_count() != begun_by:  # before they join: one that leaves then takes the message of the others with it
        raise UsageError(
            f"run {str(run.root)!r} was begun by {begun_by} processes, and here is {process_count()}: its batches "
            "would have another size; resume it under torchrun as it was begun"
        )
    with joined(device) as world:
        domains = open_domains(config)
        changed = domains.changed_since(about)
        if changed:
            raise DannError(
                f"the data of {run.root} changed since the run began: {', '.join(changed)}; restore it, or train anew"
            )
        begun = run.last.is_file()
        network = _begin(from_scratch(config) if begun else config, domains, on_message)
        training = _Training(config, domains, network, run, device, world)
        if begun:
            training.restore()
        finished = training.step == training.total and run.result.exists()
        if world.text_of_first(str(finished)) == "True":  # others may look when the first has finished already
            raise UsageError(f"run {str(run.root)!r} is finished; there is nothing to resume")
        if begun and world.first:
            mark_latest(run.root)
            training.listed = True
        return training.go(on_step, on_message, profile)


def _with_precision(config: TrainConfig, device: torch.device, world: World, on_message: OnMessage) -> TrainConfig:
    """``config`` with the precision that the first process takes for ``auto``."""
    amp = world.text_of_first(precision(config, device))
    if config.amp == "auto" and amp != "off":
        on_message(f"mixed precision {amp}, in which this device computes faster (--amp off for float32)")
    return replace(config, amp=amp)


def _begin(config: TrainConfig, domains: Domains, on_message: OnMessage) -> DomainAdversarialNetwork:
    """The network as training finds it."""
    network = build_network(config, len(domains.classes))
    if config.init_from is not None:
        options = {"classes": domains.classes, "of_classes": network.of_classes}
        for line in initialise(network, Path(config.init_from), **options).lines():
            on_message(line)
    freeze(network, config.optimiser.freeze)
    return network


class _Training:
    """A run in progress: what changes from step to step, and what it reads."""

    def __init__(
        self,
        config: TrainConfig,
        domains: Domains,
        network: DomainAdversarialNetwork,
        run: RunDir,
        device: torch.device,
        world: World,
    ):
        self.config, self.domains, self.run, self.device, self.world = config, domains, run, device, world
        self.network = network.to(device)
        self.adaptation = AdaptationState(network, classes=len(domains.classes), ema=config.optimiser.ema).to(device)
        self.optimiser = build_optimiser(config.optimiser, network)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.judge = Judge(config, domains, device)
        self.window = LossWindow(device)
        self.unlogged: deque[tuple[int, LateMeans, dict[str, float]]] = deque()
        self.agreed_stop = AgreedNumber(world, device)
        self.watch: FiniteWatch[tuple[int, list[_Noted]]] = FiniteWatch(device, world)
        if not self.scaler.is_enabled():  # which has one of its own
            self.optimiser.found_inf = self.watch.blocked  # type: ignore[attr-defined]
        step = TrainingStep(network, config.objectives)
        self.compiled = CompiledStep(step, device) if config.compile else None
        self.forward: torch.nn.Module = self.compiled or step
        if world.size > 1:
            always = config.adversarial and config.objectives.refine_from is None
            # a mode, a method or a stage may leave the domain classifier without a gradient
            self.forward = DistributedDataParallel(self.forward, find_unused_parameters=not always)
        self.step = 0
        self.statistics = KeptBuffers(network)
        self.pieces = 1  # passes that each shard takes
        self.overflows = 0
        self.listed = False
        self.images_per_step = config.batch_size * config.accumulate * world.size
        self.steps_per_epoch = max(1, len(domains.labelled) // self.images_per_step)
        self.total = config.steps or config.epochs * self.steps_per_epoch
        self.batches = self._device_batches()

    def restore(self) -> None:
        self.step, progress = checkpoint.restore(
            self.run.last,
            self.network,
            self.optimiser,
            self.scaler,
            self.adaptation,
            classes=self.domains.classes,
        )
        self.judge.restore(progress["judge"])
        self.window.restore(progress["window"])
        self.overflows, self.pieces = progress["overflows"], progress["pieces"]

    def go(self, on_step: OnStep, on_message: OnMessage, profile: bool) -> TrainResult:
        trace = self.run.profile if profile and self.world.first else None
        self.profile = StepProfile(trace, self.device, self.total - self.step)
        self.say = on_message
        began, began_step = time.perf_counter(), self.step
        for name, reason in self.domains.skipped[:5]:
            on_message(f"left out {name!r}: {reason}")
        if len(self.domains.skipped) > 5:
            on_message(f"left out {len(self.domains.skipped)} images; {self.run.result} will name them all")
        for note in self.domains.notes:
            on_message(note)
        if self.compiled is not None:
            on_message("torch.compile works at the first step, for half a minute and more")
        with StopSignal() as stop, self._log() as log:
            self._train(stop, log, on_step, on_message)
        if self.overflows:
            on_message(
                f"fp16: gradients overflowed {self.overflows} times, and the step was repeated at a smaller scale"
            )
        seconds = time.perf_counter() - began
        domains = 2 if self.config.mode == "dann" else 1
        result = TrainResult(
            run=self.run,
            config=self.config,
            scores=self._exported_scores() if self.world.first else _NO_SCORES,
            history=self.judge,
            simulated=self.domains.simulated,
            seconds=seconds,
            images_per_second=(self.step - began_step) * self.images_per_step * domains / max(seconds, 1e-9),
            skipped=self.domains.skipped,
            notes=self.domains.notes,
        )
        if self.world.first:
            write_json(self.run.result, result.to_dict())
        self.world.wait()
        return result

    def _train(self, stop: StopSignal, log: MetricsLog | NoLog, on_step: OnStep, on_message: OnMessage) -> None:
        self.network.train()
        hold_frozen_statistics(self.network)
        self.adaptation.train_like(self.network)
        own = range(self.world.rank * self.config.accumulate, (self.world.rank + 1) * self.config.accumulate)
        of = self.world.size * self.config.accumulate
        batches = iter(self.batches.steps(range(self.step, self.total), shards=own, of=of))
        while self.step < self.total:
            with self.profile.stage("data"):
                shards = next(batches)
            pace, lr_factor = self._pace()
            for group in self.optimiser.param_groups:
                group["lr"] = group["base_lr"] * lr_factor
            values = self._step(shards, pace)
            self.step += 1

            self.window.add(values, images=self.images_per_step * len(shards[0]))
            if self.step % _LOG_EVERY_STEPS == 0 or self.step == self.total:
                self.unlogged.append((self.step, self.window.take(self.world), self._about_step(pace)))
            on_step(self.step, self.total, self._log_what_is_here(log, wait=self.step == self.total))
            for line in self.profile.step_done(self.images_per_step * len(shards[0])):
                on_message(line)

            stopping = self.agreed_stop.after(stop.received or 0)
            if stopping or self._evaluates_now() or self._saves_now():
                self._log_what_is_here(log, wait=True)
            if self._evaluates_now():
                self._judge(log, on_message)
            if stopping or self._saves_now():
                self._save()
            if stopping and self.step < self.total:
                raise _interrupted(stopping, self.step, self.total, self.run)

    def _about_step(self, pace: Pace) -> dict[str, float]:
        """What is logged of a step beside its losses."""
        lr, epoch = self.optimiser.param_groups[0]["lr"], self.step / self.steps_per_epoch
        about = {"lam": float(pace.lam), "lr": lr, "epoch": epoch}
        if self.scaler.is_enabled():
            about |= {"loss_scale": self.scaler.get_scale(), "overflows": self.overflows}
        return about

    def _log_what_is_here(self, log: MetricsLog | NoLog, *, wait: bool = False) -> dict[str, float]:
        """Write the lines whose means have come to the host; the last of them, if there was one."""
        numbers: dict[str, float] = {}
        while self.unlogged and (wait or self.unlogged[0][1].is_here()):
            step, means, about = self.unlogged.popleft()
            numbers = {**means.read(), **about}
            self._stop_if_not_finite()
            log.write("step", step, numbers)
        return numbers

    def _step(self, shards: list[tuple[DeviceBatch, ...]], pace: Pace) -> dict[str, Tensor]:
        """One optimiser step; the means over ``shards`` of what is logged."""
        optimiser, scaler, clip_norm = self.optimiser, self.scaler, self.config.optimiser.clip_norm
        self.statistics.keep()
        while True:
            noted, outputs = self._gradients(shards, pace)
            self.watch.note(torch.stack([output.total for output in outputs]), (self.step, noted))
            self._stop_if_not_finite(wait=scaler.is_enabled())
            loss_scale = scaler.get_scale()
            if loss_scale < _SMALLEST_LOSS_SCALE:
                raise self._not_finite(self.step, noted)
            with self.profile.stage("optimiser"):
                if clip_norm is not None:
                    scaler.unscale_(optimiser)
                    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
                    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
                scaler.step(optimiser)
                scaler.update()
            if scaler.get_scale() >= loss_scale:
                break
            self.overflows += 1  # of an fp16 gradient: no weight moved, so the same batch at the smaller scale
            self.statistics.bring_back()
        marginals = {name: _mean(output.marginals[name] for output in outputs) for name in outputs[0].marginals}
        with self.profile.stage("averages"):
            self.adaptation.step(self.network, marginals, self.world, steps_before=self.step)
        return {name: _mean(output.values[name] for output in outputs) for name in outputs[0].values}

    def _gradients(self, shards: list[tuple[DeviceBatch, ...]], pace: Pace) -> tuple[list[_Noted], list[StepOutput]]:
        """Those of a step, in as many passes as memory asks for; what was noted of each pass, and what came of it."""
        while True:
            self.optimiser.zero_grad(set_to_none=True)
            if self.compiled is not None:
                self.compiled.begin()
            torch.manual_seed(_seed(self.config.seed, self.step, self.world.rank))
            passes = [
                part for shard in shards for part in zip(*(batch.pieces(self.pieces) for batch in shard), strict=True)
            ]
            try:
                outputs = [self._backward(passes, number, pace) for number in range(len(passes))]
                indices = [tuple(batch.indices for batch in part) for part in passes]
                return [(found, output.values) for found, output in zip(indices, outputs, strict=True)], outputs
            except torch.OutOfMemoryError as error:
                self._take_smaller_pieces(len(shards[0][0]), error)
            self.statistics.bring_back()
            torch.cuda.empty_cache()  # after the frames of the error, which hold on to what did not fit, have gone

    def _take_smaller_pieces(self, images: int, error: torch.OutOfMemoryError) -> None:
        advice = "try a smaller --batch-size, with --accumulate for as many images a step"
        if self.world.size > 1:  # the others wait for the gradients of this one
            raise DannError(f"{self.device} has too little memory for {images} images of a domain; {advice}") from error
        most = images // 2
        if self.pieces >= most:
            raise DannError(f"{self.device} has too little memory for two images of a domain; {advice}") from error
        self.pieces = min(2 * self.pieces, most)
        self.say(
            f"{self.device} has too little memory for {images} images of a domain at once: each step goes through them "
            f"in {self.pieces} passes from now on. They stay the same, in the same order; batch normalisation takes "
            "the statistics of each pass by itself"
        )

    def _backward(self, shards: list[tuple[DeviceBatch, ...]], number: int, pace: Pace) -> StepOutput:
        """Add the gradients of one shard, for its share of all images."""
        batches = shards[number]
        last = number == len(shards) - 1
        share = len(batches[0]) / sum(len(each[0]) for each in shards)
        with contextlib.nullcontext() if last else self._without_averaging():
            with self.profile.stage("augmentation"):
                inputs = self._inputs(batches)
            with self.profile.stage("forward"), self._autocast():
                output: StepOutput = self.forward(inputs, self.adaptation, pace)
            with self.profile.stage("backward"):
                self.scaler.scale(output.total * share).backward()
        return output

    def _pace(self) -> tuple[Pace, float]:
        """What the schedules say for the step to come, and the factor on each learning rate."""
        adapt, optimiser, objectives = self.config.adapt, self.config.optimiser, self.config.objectives
        progress = self.step / self.total
        by_epoch = self.step // self.steps_per_epoch * self.steps_per_epoch / self.total
        lam_progress = by_epoch if adapt.stepped == "epoch" else progress
        lr_progress = by_epoch if optimiser.stepped == "epoch" else progress
        pace = Pace(
            lam=adapt.lam_max * LAM_SCHEDULES[adapt.lam_schedule](lam_progress),
            warmup=adamatch_warmup(progress, objectives.warmup),
            refining=objectives.refine_from is not None and progress >= objectives.refine_from,
        )
        schedule = LR_SCHEDULES[optimiser.lr_schedule]
        return pace, schedule(lr_progress) * linear_warmup(progress, optimiser.lr_warmup)

    def _device_batches(self) -> DeviceBatches:
        config, domains = self.config, self.domains
        options: dict[str, Any] = {"batch_size": self.images_per_step, "seed": config.seed}
        labelled, unlabelled = domains.labelled, domains.unlabelled
        streams = [
            BatchStream(labelled.images, labelled.labels, views=(config.augment,), stream=_LABELLED_STREAM, **options)
        ]
        if config.mode == "dann" and unlabelled is not None:
            streams.append(BatchStream(unlabelled, views=config.target_views, stream=_UNLABELLED_STREAM, **options))
        return DeviceBatches(streams, self.device)

    def _inputs(self, batches: tuple[DeviceBatch, ...]) -> StepInput:
        labels_N = batches[0].labels_N
        assert labels_N is not None
        views = [self.batches.views(batch, stream) for stream, batch in enumerate(batches)]
        return StepInput(labelled_NCHW=views[0][0], labels_N=labels_N, target_views=views[1] if len(views) > 1 else ())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.config.amp == "bf16" else torch.float16)

    def _without_averaging(self) -> contextlib.AbstractContextManager[Any]:
        """Inside, gradients stay this process's own, to be averaged with those of the last shard."""
        forward = self.forward
        return forward.no_sync() if isinstance(forward, DistributedDataParallel) else contextlib.nullcontext()

    def _evaluates_now(self) -> bool:
        every = self.config.eval_every * self.steps_per_epoch
        return self.step == self.total or (bool(every) and self.step % every == 0)

    def _saves_now(self) -> bool:
        return self.step == self.total or self.step % (self.config.save_every or self.steps_per_epoch) == 0

    def _judge(self, log: MetricsLog | NoLog, on_message: OnMessage) -> None:
        """Evaluate, and keep the network if selection now chooses it; before the checkpoint, which remembers both."""
        self._check_weights()
        if self.world.first:
            network = self.adaptation.evaluated(self.network)
            judgement, selected = self.judge.judge(network, self.step)
            found = judgement.headline()
            log.write("eval", found.pop("step"), {**found, "criteria": judgement.criteria})  # type: ignore[arg-type]
            for warning in judgement.warnings:
                log.write("warning", self.step, {"name": warning.name, "message": warning.message})
                on_message(f"warning: {warning.message}")
            if selected and self.judge.selector.criterion != "last":
                checkpoint.save_network(self.run.selected, network, step=self.step, classes=self.domains.classes)
        self.world.wait()

    def _exported_scores(self) -> DomainScores:
        """In full, of the checkpoint that is exported."""
        newest = self.judge.newest
        if newest is not None and newest.step == self.judge.selector.selected:
            return newest.scores
        return evaluate(
            load_trained(self.run)[2].to(self.device),
            source=self.domains.source_test,
            target=self.domains.target_test,
            classes=self.domains.classes,
            adapted=self.config.adversarial,
            device=self.device,
        )

    def _save(self) -> None:
        self._check_weights()
        window = self.window.state(self.world)
        progress = {"judge": self.judge.state(), "window": window, "overflows": self.overflows, "pieces": self.pieces}
        if not self.world.first:
            return
        checkpoint.save(
            self.run.last,
            self.network,
            self.optimiser,
            self.scaler,
            self.adaptation,
            step=self.step,
            classes=self.domains.classes,
            progress=progress,
        )
        if not self.listed:  # once, or an older run that still trains would take the place of a newer one
            mark_latest(self.run.root)
            self.listed = True

    def _check_weights(self) -> None:
        self._stop_if_not_finite(wait=True)
        for name, value in self.network.state_dict().items():
            if not value.isfinite().all():  # a finite loss can have had an infinite gradient
                raise Diverged(f"{name} is not finite after step {self.step}. {self._kept()}. {_DIVERGED}")

    def _log(self) -> MetricsLog | NoLog:
        if self.world.first:
            return MetricsLog(self.run.metrics, self.run.tensorboard, step=self.step)
        return NoLog()

    def _stop_if_not_finite(self, *, wait: bool = False) -> None:
        if (found := self.watch.first_bad(wait=wait)) is not None:
            raise self._not_finite(*found)

    def _not_finite(self, step: int, passes: list[_Noted]) -> Diverged:
        """Of the passes of a step, as they were noted: the first that was not finite, else the first."""
        indices, losses = next((noted for noted in passes if not noted[1]["loss"].isfinite()), passes[0])
        sets = [self.domains.labelled.images, self.domains.unlabelled]
        names = [
            [images.names[i] for i in positions]
            for images, positions in zip(sets, indices, strict=False)
            if images is not None
        ]
        file = self.run.root / "non_finite.json"
        values = {name: value.item() for name, value in losses.items()}
        write_json(file, {"step": step + 1, "losses": {k: repr(v) for k, v in values.items()}, "batches": names})
        what = "gradient" if math.isfinite(values["loss"]) else "loss"
        return Diverged(
            f"the {what} is not finite at step {step + 1} ({', '.join(f'{k} {v:g}' for k, v in values.items())}); "
            f"its batch begins with {names[0][0]!r} and is listed in {file}. {self._kept()}. {_DIVERGED}"
        )

    def _kept(self) -> str:
        last = self.run.last
        return f"The checkpoint {last} is kept" if last.is_file() else "There is no checkpoint yet"


def _seed(seed: int, step: int, rank: int) -> int:
    """Of everything random in a step of a process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def _mean(values: Iterable[Tensor]) -> Tensor:
    first, *others = values
    return torch.stack([first, *others]).mean(dim=0) if others else first


def _interrupted(number: int, step: int, total: int, run: RunDir) -> Interrupted:
    code = 130 if number == signal.SIGINT else 143
    return Interrupted(
        f"stopped by {signal.Signals(number).name} after step {step} of {total}; the state is saved. "
        f"Continue with: dann train --resume {run.root}",
        code,
    )
