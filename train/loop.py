"""The training loop: source-only, domain-adversarial, or on the target's labels, one loop for all three.

Each step takes as many images from the labelled set as from the unlabelled target. Their features come from separate
passes, so that batch normalisation never mixes the domains; the label loss is on the labelled ones, the domain loss
on both, and λ acts once, inside the gradient reversal.
"""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dann.infer.errors import DannError, Interrupted, UsageError
from dann.train import augment, checkpoint
from dann.train.batches import Batch, BatchStream, prefetched
from dann.train.config import OptimiserConfig, TrainConfig
from dann.train.device import training_device
from dann.train.domains import Domains, draw_missing_cars, located, open_domains
from dann.train.evaluate import DomainScores, evaluate, to_float
from dann.train.losses import domain_accuracy, domain_loss, label_loss
from dann.train.metrics_log import MetricsLog
from dann.train.model import DomainAdversarialNetwork, frozen_running_statistics
from dann.train.run_dir import RUNS, RunDir, create_run, mark_latest, write_json
from dann.train.schedule import LAM_SCHEDULES, LR_SCHEDULES
from dann.train.signals import StopSignal
from dann.train.trained import build_network, from_scratch

_LABELLED_STREAM, _UNLABELLED_STREAM = 0, 1
_LOG_EVERY_STEPS = 50
_SMALLEST_LOSS_SCALE = 1e-4  # reached only when gradients overflow whatever the scale
_DIVERGED = "Try a smaller --lr, --set optimiser.clip_norm=1, or --amp bf16 instead of fp16"

OnStep = Callable[[int, int, dict[str, Any]], None]
"""Called with the number of finished steps, the total, and the newest numbers (empty between two logged steps)."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run gave."""

    run: RunDir
    mode: str
    scores: DomainScores
    simulated: bool
    """Whether the target photos are simulated ones."""
    seconds: float
    """Since the run, or its resumption, began; evaluations after epochs included."""
    images_per_second: float
    """Of both domains, in that time."""
    skipped: list[tuple[str, str]]
    """Name and reason of every image that could not be read, or has no class where it needs one."""


def fit(
    config: TrainConfig,
    *,
    runs: Path = RUNS,
    name: str | None = None,
    default_name: str = "run",
    on_step: OnStep = lambda done, total, numbers: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> TrainResult:
    """Train from the start into a new folder under ``runs``.

    Raises :class:`UsageError` for data that is missing or does not match, :class:`DannError` for a non-finite loss,
    :class:`Interrupted` after SIGINT or SIGTERM, the state being saved then.
    """
    device = training_device(config)
    draw_missing_cars(config, on_message)
    domains = open_domains(config)
    network = build_network(config, len(domains.classes))  # before the folder: a refused backbone leaves no run
    run = create_run(runs, name, default_name)
    run.write_config(located(config), _about(domains))
    return _Training(config, domains, network, run, device).go(on_step, on_message)


def resume(
    run: RunDir,
    *,
    on_step: OnStep = lambda done, total, numbers: None,
    on_message: Callable[[str], None] = lambda message: None,
) -> TrainResult:
    """Continue an interrupted run to its end, as if it had never stopped."""
    config, about = run.read_config()
    device = training_device(config)
    domains = open_domains(config)
    if _about(domains) != about_data(about):
        raise DannError(
            f"the data of {run.root} changed since the run began (classes, numbers of images or content differ); "
            "restore it, or train anew"
        )
    network = build_network(from_scratch(config), len(domains.classes))
    training = _Training(config, domains, network, run, device)
    training.restore()
    if training.step == training.total and run.result.exists():
        raise UsageError(f"run {str(run.root)!r} is finished; there is nothing to resume")
    mark_latest(run.root)
    training.listed = True
    return training.go(on_step, on_message)


class _Training:
    """A run in progress: what changes from step to step, and what it reads."""

    def __init__(
        self,
        config: TrainConfig,
        domains: Domains,
        network: DomainAdversarialNetwork,
        run: RunDir,
        device: torch.device,
    ):
        self.config, self.domains, self.run, self.device = config, domains, run, device
        self.network = network.to(device)
        self.optimiser = _optimiser(config.optimiser, self.network)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.amp == "fp16")
        self.step = 0
        self.listed = False
        self.steps_per_epoch = max(1, len(domains.labelled) // config.batch_size)
        self.total = config.steps or config.epochs * self.steps_per_epoch

    def restore(self) -> None:
        self.step = checkpoint.restore(self.run.last, self.network, self.optimiser, self.scaler)

    def go(self, on_step: OnStep, on_message: Callable[[str], None]) -> TrainResult:
        config, began, began_step = self.config, time.perf_counter(), self.step
        for name, reason in self.domains.skipped[:5]:
            on_message(f"left out {name}: {reason}")
        if len(self.domains.skipped) > 5:
            on_message(f"left out {len(self.domains.skipped)} images; {self.run.result} will name them all")
        with StopSignal() as stop, MetricsLog(self.run.metrics, self.run.tensorboard, step=self.step) as log:
            self._train(stop, log, on_step)
            seconds = time.perf_counter() - began
            result = self._evaluate()
            log.write("eval", self.step, _headline(result))
        per_step = config.batch_size * (2 if self.domains.unlabelled is not None else 1)
        outcome = TrainResult(
            run=self.run,
            mode=config.mode,
            scores=result,
            simulated=self.domains.simulated,
            seconds=seconds,
            images_per_second=(self.step - began_step) * per_step / max(seconds, 1e-9),
            skipped=self.domains.skipped,
        )
        write_json(self.run.result, _result_json(outcome))
        return outcome

    def _train(self, stop: StopSignal, log: MetricsLog, on_step: OnStep) -> None:
        config, network, optimiser, scaler = self.config, self.network, self.optimiser, self.scaler
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        window = _Window()
        network.train()
        for batches in self._batches():
            progress = self.step / self.total
            lam = config.adapt.lam_max * LAM_SCHEDULES[config.adapt.lam_schedule](progress)
            lr = config.optimiser.lr * LR_SCHEDULES[config.optimiser.lr_schedule](progress)
            for group in optimiser.param_groups:
                group["lr"] = lr

            while True:
                optimiser.zero_grad(set_to_none=True)
                with self._autocast():
                    losses = self._losses(batches, lam)
                # Waits for the device at each step: a loss that is not finite must never reach the weights.
                if not math.isfinite(losses["loss"].item()) or scaler.get_scale() < _SMALLEST_LOSS_SCALE:
                    raise self._non_finite(batches, losses)
                scaler.scale(losses["loss"]).backward()
                if config.optimiser.clip_norm is not None:
                    scaler.unscale_(optimiser)
                    torch.nn.utils.clip_grad_norm_(parameters, config.optimiser.clip_norm)
                loss_scale = scaler.get_scale()
                scaler.step(optimiser)
                scaler.update()
                if scaler.get_scale() >= loss_scale:
                    break  # else an fp16 gradient overflowed, no weight moved: the same batch at the smaller scale
            self.step += 1

            window.add(losses, images=sum(len(batch.indices) for batch in batches))
            numbers = {}
            if self.step % _LOG_EVERY_STEPS == 0 or self.step == self.total:
                numbers = {**window.means(), "lam": lam, "lr": lr, "epoch": self.step / self.steps_per_epoch}
                log.write("step", self.step, numbers)
            on_step(self.step, self.total, numbers)

            stopping = stop.received
            if self.step % self.steps_per_epoch == 0 or self.step == self.total or stopping is not None:
                self._save()
            if self._evaluates_now():
                log.write("eval", self.step, _headline(self._evaluate()))
            if stopping is not None and self.step < self.total:
                raise _interrupted(stopping, self.step, self.total, self.run)

    def _batches(self) -> Iterator[tuple[Batch, ...]]:
        config, domains = self.config, self.domains
        options: dict[str, Any] = {
            "batch_size": config.batch_size,
            "augment": config.augment,
            "seed": config.seed,
        }
        labelled = BatchStream(domains.labelled.images, domains.labelled.labels, stream=_LABELLED_STREAM, **options)
        streams = [labelled]
        if domains.unlabelled is not None:
            streams.append(BatchStream(domains.unlabelled, stream=_UNLABELLED_STREAM, **options))
        return prefetched(streams, range(self.step, self.total))

    def _losses(self, batches: tuple[Batch, ...], lam: float) -> dict[str, Tensor]:
        """0-d tensors: ``loss``, what is minimised, and the parts it is made of."""
        network, labelled = self.network, batches[0]
        assert labelled.labels is not None
        labels_N = torch.from_numpy(labelled.labels).to(self.device)
        if len(batches) == 1:
            loss = label_loss(network(self._images(labelled)), labels_N)
            return {"loss": loss, "label_loss": loss}
        with frozen_running_statistics(network):
            source_ND = network.feature_extractor(self._images(labelled))
        target_ND = network.feature_extractor(self._images(batches[1]))
        label = label_loss(network.label_classifier(source_ND), labels_N)
        source_N, target_N = network.domain_logits(source_ND, lam), network.domain_logits(target_ND, lam)
        domain = domain_loss(source_N, target_N)
        return {
            "loss": label + domain,
            "label_loss": label,
            "domain_loss": domain,
            "domain_accuracy": domain_accuracy(source_N, target_N),
        }

    def _images(self, batch: Batch) -> Tensor:
        """The batch's augmented images on the device: float32 (N, 3, H, W) in [0, 1]."""
        pixels = torch.from_numpy(batch.pixels_NHWC).to(self.device, non_blocking=True)
        return augment.apply(to_float(pixels), self.config.augment, batch.augmentation)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.config.amp == "bf16" else torch.float16)

    def _evaluates_now(self) -> bool:
        every = self.config.eval_every * self.steps_per_epoch
        return bool(every) and self.step % every == 0 and self.step < self.total

    def _evaluate(self) -> DomainScores:
        domains = self.domains
        return evaluate(
            self.network,
            source=domains.source_test,
            target=domains.target_test,
            classes=domains.classes,
            adapted=self.config.mode == "dann",
            device=self.device,
        )

    def _save(self) -> None:
        for name, value in self.network.state_dict().items():
            if not value.isfinite().all():  # a finite loss can have had an infinite gradient
                raise DannError(f"{name} is not finite after step {self.step}. {self._kept()}. {_DIVERGED}")
        checkpoint.save(
            self.run.last,
            self.network,
            self.optimiser,
            self.scaler,
            step=self.step,
            classes=self.domains.classes,
        )
        if not self.listed:  # once, or an older run that still trains would take the place of a newer one
            mark_latest(self.run.root)
            self.listed = True

    def _non_finite(self, batches: tuple[Batch, ...], losses: dict[str, Tensor]) -> DannError:
        sets = [self.domains.labelled.images, self.domains.unlabelled]
        names = [
            [images.names[i] for i in batch.indices]
            for images, batch in zip(sets, batches, strict=False)
            if images is not None
        ]
        file = self.run.root / "non_finite.json"
        values = {name: value.item() for name, value in losses.items()}
        write_json(file, {"step": self.step + 1, "losses": {k: repr(v) for k, v in values.items()}, "batches": names})
        what = "gradient" if math.isfinite(values["loss"]) else "loss"
        return DannError(
            f"the {what} is not finite at step {self.step + 1} ({', '.join(f'{k} {v:g}' for k, v in values.items())}); "
            f"its batch begins with {names[0][0]!r} and is listed in {file}. {self._kept()}. {_DIVERGED}"
        )

    def _kept(self) -> str:
        last = self.run.last
        return f"The checkpoint {last} is kept" if last.is_file() else "There is no checkpoint yet"


class _Window:
    """Means of the losses since they were last asked for, kept on the device until then."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = self._images = 0
        self._began = time.perf_counter()

    def add(self, losses: dict[str, Tensor], *, images: int) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._steps += 1
        self._images += images

    def means(self) -> dict[str, float]:
        means = {name: float(value) / self._steps for name, value in self._sums.items()}
        means["images_per_second"] = self._images / (time.perf_counter() - self._began)
        self._clear()
        return means


def _optimiser(config: OptimiserConfig, network: torch.nn.Module) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(
        network.parameters(), lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay
    )


def _interrupted(number: int, step: int, total: int, run: RunDir) -> Interrupted:
    code = 130 if number == signal.SIGINT else 143
    return Interrupted(
        f"stopped by {signal.Signals(number).name} after step {step} of {total}; the state is saved. "
        f"Continue with: dann train --resume {run.root}",
        code,
    )


def _about(domains: Domains) -> dict[str, Any]:
    """What ``config.json`` records about the data: enough to tell whether a resumed run still sees the same."""
    sets = {"labelled": domains.labelled.images, "unlabelled": domains.unlabelled}
    data = {
        name: {"images": len(images), "fingerprint": images.fingerprint()}
        for name, images in sets.items()
        if images is not None
    }
    return {"classes": list(domains.classes), "data": data, "simulated": domains.simulated}


def about_data(about: dict[str, Any]) -> dict[str, Any]:
    """The part of ``config.json`` that describes the data."""
    return {key: about.get(key) for key in ("classes", "data", "simulated")}


def _headline(scores: DomainScores) -> dict[str, float | None]:
    return {
        "source_accuracy": scores.source.accuracy if scores.source else None,
        "target_accuracy": scores.target.accuracy if scores.target else None,
        "domain_accuracy": scores.domain_accuracy,
    }


def _result_json(result: TrainResult) -> dict[str, Any]:
    return {
        "mode": result.mode,
        "oracle": result.mode == "target",
        "simulated_target": result.simulated,
        "checkpoint": "last",
        "seconds": round(result.seconds, 1),
        "images_per_second": round(result.images_per_second, 1),
        "skipped_images": [{"path": name, "reason": reason} for name, reason in result.skipped],
        **result.scores.to_dict(),
    }
