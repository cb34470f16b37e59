"""The ``dann`` command: options to a configuration, one call, a short summary. Heavy imports are inside commands.

Results go to standard output or to files, progress and messages to standard error. Only here are errors of the
library turned into messages and exit codes (:mod:`dann.infer.errors`).
"""

import errno
import os
import re
import shlex
import signal
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Never

import click

from dann.infer.errors import DannError, UnavailableError, UsageError, missing_extra

if TYPE_CHECKING:
    from dann.train.evaluate import DomainScores, Scores
    from dann.train.run_evaluation import RunEvaluation
    from dann.train.run_result import TrainResult
    from dann.train.settings import TrainConfig

SOME_UNREADABLE = 3
INTERRUPTED = 130
TERMINATED = 143

_TRAIN_EXTRA = {
    "torch",
    "torchvision",
    "onnx",
    "onnxscript",
    "safetensors",
    "tensorboard",
    "sklearn",
    "jinja2",
    "matplotlib",
    "scipy",
}


class DannGroup(click.Group):
    """A group whose commands may raise :class:`DannError`: one line on standard error, and its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _sigterm_like_ctrl_c():
                return super().invoke(ctx)
        except DannError as error:
            _stop(_with_notes(str(error), error), error.exit_code)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] not in _TRAIN_EXTRA:
                raise
            missing = missing_extra("train", error.name.split(".")[0], f"dann {ctx.invoked_subcommand}")
            _stop(str(missing), missing.exit_code)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())  # or the interpreter fails once more when it ends
            _stop(f"{error.filename or 'the output'} cannot be written: {error.strerror}", DannError.exit_code)
        except ImportError as error:  # what an extension module makes of a signal while it is loaded
            if not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            _stop_for(error.__cause__)
        except KeyboardInterrupt as error:
            _stop_for(error)


class _Terminated(KeyboardInterrupt):
    """SIGTERM. As Ctrl-C, it is no :class:`Exception`, or the first handler of failures would take it for one."""


@contextmanager
def _sigterm_like_ctrl_c() -> Iterator[None]:
    """Unwind on SIGTERM, so that files half written go away; training replaces this while it runs."""

    def on_sigterm(number: int, frame: FrameType | None) -> Never:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # Python allows handlers only there
        yield
        return
    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _stop_for(signal: KeyboardInterrupt) -> Never:
    said, code = ("terminated", TERMINATED) if isinstance(signal, _Terminated) else ("interrupted", INTERRUPTED)
    _stop(_with_notes(said, signal), code)


def _with_notes(message: str, error: BaseException) -> str:
    """``message``, and what to know beside it."""
    return "; ".join([message, *getattr(error, "__notes__", ())])


def _stop(message: str, exit_code: int) -> Never:
    said_by_first = exit_code in (2, 4, INTERRUPTED, TERMINATED)  # what happens to all processes of torchrun alike
    if _first_process() or not said_by_first:
        click.echo(f"error: {message}", err=True)
    raise click.exceptions.Exit(exit_code)


def _first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


@click.group(cls=DannGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dann")
def main() -> None:
    """Domain-adversarial training on renders and photos, verified export, torch-free inference.

    \b
    dann train
    dann export
    dann infer --test-loc imgs/ --out-path preds.csv
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # or it adds a line of its own for each broken image
    if isinstance(sys.stdout, TextIOWrapper):  # as standard error: a name that it cannot print ends no run
        sys.stdout.reconfigure(errors="backslashreplace")


# ---- options that commands share ------------------------------------------------------------------------------------

_run_option = click.option("--run", metavar="RUN", help="Folder or name of a run.  [default: the latest]")
_runs_option = click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of all runs.",
)


# ---- train --------------------------------------------------------------------------------------------------------

_SETTINGS: dict[str, str] = {
    "mode": "mode",
    "seed": "seed",
    "epochs": "epochs",
    "steps": "steps",
    "batch_size": "batch_size",
    "amp": "amp",
    "compile_step": "compile",
    "device": "device",
    "source": "data.source",
    "target": "data.target",
    "test": "data.test",
    "source_test": "data.source_test",
    "data_root": "data.data_root",
    "layout": "data.layout",
    "init_from": "init_from",
    "accumulate": "accumulate",
    "bn": "model.bn",
    "ema": "optimiser.ema",
    "select": "selection.criterion",
    "resize": "data.resize",
    "backbone": "model.backbone",
    "weights": "model.weights",
    "optimiser": "optimiser.name",
    "lr": "optimiser.lr",
    "lr_schedule": "optimiser.lr_schedule",
    "lam_schedule": "adapt.lam_schedule",
    "lam_max": "adapt.lam_max",
}
"""Command-line parameter → dotted setting of :class:`dann.train.config.TrainConfig`."""


@main.command()
@click.option("--preset", help="Named starting point; `cars` where no data is named. See --print-config.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file over the preset.")
@click.option("--source", "--source-domain-dir", metavar="SPEC", help="Labelled images: the renders.")
@click.option("--target", "--target-domain-dir", metavar="SPEC", help="Unlabelled images: the photos.")
@click.option("--test", metavar="SPEC", help="Labelled target images to report accuracy on.")
@click.option("--source-test", metavar="SPEC", help="Labelled source images to report accuracy on.")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $DANN_DATA, else the user's cache]")
@click.option("--layout", help="`split`: read DATA_ROOT/train/source, train/target and test.")
@click.option("--mode", help="source, dann, or target (the oracle, on target labels).")
@click.option(
    "--method",
    metavar="NAME",
    help="Objectives of mode dann: dann, cdan, mcc, bnm, entropy, vada, dirt-t, mean-teacher, adamatch, combined.",
)
@click.option("--backbone", help="dann-mnist, dann-svhn, conv6, conv9, or a torchvision classification model.")
@click.option("--weights", metavar="none|DEFAULT|FILE", help="Pretrained weights of the backbone.")
@click.option("--init-from", metavar="RUN|FILE", help="Begin from these weights, as far as they fit.")
@click.option("--bn", help="Batch normalisation over two domains: shared, split or domain.")
@click.option("--size", metavar="H[xW]", help="Input size of the network, in pixels.")
@click.option("--resize", help="stretch, crop or letterbox.")
@click.option("--epochs", type=int, help="Passes over the labelled images.")
@click.option("--steps", type=int, help="Optimiser steps, instead of --epochs.")
@click.option("--batch-size", type=int, help="Images per step and domain.")
@click.option("--accumulate", type=int, help="Batches whose gradients make one step.")
@click.option("--optimizer", "--optimiser", "optimiser", help="sgd or adam.")
@click.option("--lr", type=float, help="Learning rate at the start.")
@click.option("--lr-schedule", help="dann, constant or cosine.")
@click.option("--lam-schedule", help="dann, constant or linear.")
@click.option("--lam-max", type=float, help="Factor on λ.")
@click.option("--ema", type=float, help="Decay per step of averaged weights, which are then evaluated; 0 is off.")
@click.option(
    "--select",
    metavar="CRITERION",
    help="last, source-accuracy, entropy, im, bnm, snd or dev; none sees target labels.",
)
@click.option("--amp", help="off, bf16, or fp16 (CUDA only).  [default: bf16 where the device computes in it]")
@click.option(
    "--compile/--no-compile",
    "compile_step",
    default=None,
    help="torch.compile the step: a late start, faster steps where it pays.  [default: no]",
)
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--seed", type=int)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other setting, by its name in --print-config.",
)
@_runs_option
@click.option("--name", help="Name of this run.  [default: from preset, mode and seed]")
@click.option("--resume", "resume_run", metavar="RUN", help="Continue an interrupted run; all else comes from it.")
@click.option("--print-config", is_flag=True, help="Print the resolved settings as TOML and stop.")
@click.option("--profile", is_flag=True, help="Say where the time of a step goes; a trace is left in the run.")
@click.option("--quiet", is_flag=True, help="No progress.")
def train(
    preset: str | None,
    method: str | None,
    config_file: Path | None,
    size: str | None,
    settings: tuple[str, ...],
    runs: Path,
    name: str | None,
    resume_run: str | None,
    print_config: bool,
    profile: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train a network on labelled source images and unlabelled target images.

    Without options it trains on procedurally rendered cars (the target photos are simulated).

    \b
    Example:
      dann train --source renders/ --target photos/ --test labelled_photos/
      dann train --source renders/ --target photos/ --backbone resnet18 --weights DEFAULT --size 224 --lr 1e-4
      dann train --preset mnist-mnistm --mode source --seed 1
    """
    from dann.infer.progress import Progress
    from dann.train.config import to_toml
    from dann.train.run_dir import find_run

    overrides = {_SETTINGS[key]: value for key, value in flags.items() if value is not None}
    overrides |= _size_settings(size) | dict(_setting(text) for text in settings)
    if (runs / str(overrides.get("init_from")) / "config.json").is_file():
        overrides["init_from"] = str(runs / overrides["init_from"])  # a run by its name
    if resume_run is not None:
        if overrides or preset or method or config_file or name or print_config:
            raise UsageError("--resume continues a run with its own name and settings; leave the other options out")
        from dann.train.loop import resume

        start = partial(resume, find_run(resume_run, runs), profile=profile)
    else:
        config, default_name = _train_config(preset, method, config_file, overrides)
        if print_config:
            click.echo(to_toml(config), nl=False)
            return
        from dann.train.loop import fit

        start = partial(fit, config, runs=runs, name=name, default_name=default_name, profile=profile)

    with Progress("train", quiet=quiet or not _first_process()) as progress:
        result = start(
            on_step=lambda done, total, numbers: progress.update(done, total, _step_text(numbers)),
            on_message=progress.message,
        )
    if not _first_process():
        return
    click.echo(f"run: {result.run.root}  ({result.seconds:.0f} s, {result.images_per_second:.0f} images/s)")
    _print_scores(result.scores, oracle=result.mode == "target", simulated=result.simulated)
    _print_selection(result)


def _train_config(
    preset: str | None, method: str | None, file: Path | None, overrides: dict[str, Any]
) -> tuple["TrainConfig", str]:
    """The settings, and what the run is called unless it is named; the default preset where nothing names data."""
    from dann.train.config import DEFAULT_PRESET, resolve, with_method

    if "steps" in overrides and "epochs" in overrides:
        raise UsageError("--steps and --epochs both say how long to train; give one of them")
    config = resolve(preset, file, overrides, method=method)
    if method is not None and config.mode != "dann":
        raise UsageError(
            f"--method {method} says how to adapt, and mode {config.mode!r} does not; leave one of them out"
        )
    data = config.data
    named = any((data.source, data.target, data.test, data.source_test, data.layout == "split"))
    if preset is None and not named:
        preset = DEFAULT_PRESET
        config = resolve(preset, file, overrides, method=method)
    what = config.mode
    if method is not None:
        losses = config.objectives.name
        what = method if losses == with_method(config, method).objectives.name else losses.replace("+", "-")
    return config, f"{preset or 'custom'}-{what}-s{config.seed}"


def _step_text(numbers: dict[str, Any]) -> str:
    if not numbers:
        return ""
    parts = [f"loss {numbers['loss']:.3f}"]
    if "domain_loss" in numbers:
        parts.append(
            f"domain {numbers['domain_loss']:.3f} (told {numbers['domain_accuracy']:.0%}) λ {numbers['lam']:.2f}"
        )
    return " ".join([*parts, f"{numbers['images_per_second']:.0f} img/s"])


def _size_settings(size: str | None) -> dict[str, int]:
    if size is None:
        return {}
    sides = re.fullmatch("([0-9]+)(?:x([0-9]+))?", size.lower())
    if sides is None:
        raise UsageError(f"--size is {size!r}; expected pixels, as in 64 or 96x128 (height x width)")
    return {"data.height": int(sides[1]), "data.width": int(sides[2] or sides[1])}


def _setting(text: str) -> tuple[str, Any]:
    """``optimiser.lr=0.01`` → its key and value; the value in TOML, or else taken as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set is {text!r}; expected KEY=VALUE, as in momentum=0.9 or range=[0,20]")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


def _print_selection(result: "TrainResult") -> None:
    """Last, selected and best by test labels side by side, with the gap between the latter two."""
    best = result.best_on_test_labels
    if result.mode != "dann" or best is None:
        return
    criterion = result.history.selector.criterion
    for title, entry in (("last", result.last), (f"selected ({criterion})", result.selected)):
        click.echo(f"{title:<26} step {entry['step']:>6}  target accuracy {entry['target_accuracy']:.4f}")
    gap = result.selected["target_accuracy"] - best["target_accuracy"]  # type: ignore[operator]  # best has it, so all
    click.echo(
        f"{'best on test labels':<26} step {best['step']:>6}  target accuracy {best['target_accuracy']:.4f}"
        f"  (not a result; selected is {gap:+.4f})"
    )


# ---- eval ---------------------------------------------------------------------------------------------------------


@main.command("eval")
@_run_option
@_runs_option
@click.option("--data", metavar="SPEC", help="Labelled target images.  [default: the run's own test images]")
@click.option("--device", default="auto", show_default=True)
@click.option("--out-path", type=click.Path(path_type=Path), help="JSON file.  [default: RUN/eval.json]")
def evaluate(run: str | None, runs: Path, data: str | None, device: str, out_path: Path | None) -> None:
    """Score a trained network: accuracy, per-class recall, confusion matrix, calibration, domain accuracy.

    \b
    Example:
      dann eval --data labelled_photos/
    """
    from dann.train.run_dir import find_run, write_json
    from dann.train.run_evaluation import evaluate_run

    found = find_run(run, runs)
    out_path = out_path or found.root / "eval.json"
    if not out_path.parent.is_dir() or out_path.is_dir():
        raise UsageError(f"--out-path is {str(out_path)!r}; expected the name of a file in a folder that exists")
    evaluation = evaluate_run(found, data=data, device=device)
    try:
        write_json(out_path, evaluation.to_dict())
    finally:  # neither a full disk nor a full standard output takes the other's scores
        _print_evaluation(evaluation)
    click.echo(f"written to {out_path}", err=True)
    if evaluation.skipped:
        raise click.exceptions.Exit(SOME_UNREADABLE)


def _print_evaluation(evaluation: "RunEvaluation") -> None:
    scores = evaluation.scores
    _print_scores(scores, oracle=evaluation.mode == "target", simulated=evaluation.simulated)
    if scores.target is not None:
        _print_confusion(scores.target)
    for note in evaluation.notes:
        click.echo(note, err=True)
    for name, reason in evaluation.skipped:
        click.echo(f"left out {name!r}: {reason}", err=True)


def _print_scores(scores: "DomainScores", *, oracle: bool, simulated: bool) -> None:
    photos = "simulated photos" if simulated else "target"
    if oracle:
        click.echo("ORACLE: trained on target labels; not a result of adaptation")
    for title, side in (("source", scores.source), (photos, scores.target)):
        if side is not None:
            click.echo(
                f"{title:<16} accuracy {side.accuracy:.4f} ({side.correct}/{side.images})  "
                f"mean recall {side.mean_recall:.4f}  ECE {side.ece:.4f}"
            )
    if scores.domain_accuracy is not None:
        click.echo(f"domains told     {scores.domain_accuracy:.4f} (0.5 is chance)")


def _print_confusion(scores: "Scores") -> None:
    names = list(scores.recall)
    width = max(8, *(len(name) + 1 for name in names))
    click.echo("\nrows: true class, columns: predicted class")
    click.echo(" " * width + "".join(f"{name:>{width}}" for name in [*names, "recall"]))
    for name, row in zip(names, scores.confusion, strict=True):
        recall = scores.recall[name]
        cells = [*map(str, row), "–" if recall is None else f"{recall:.3f}"]
        click.echo(f"{name:<{width}}" + "".join(f"{cell:>{width}}" for cell in cells))


# ---- compare and report -------------------------------------------------------------------------------------------


@main.command()
@click.option("--preset", help="Named starting point; `cars` where no data is named.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file over the preset.")
@click.option("--source", metavar="SPEC", help="Labelled images: the renders.")
@click.option("--target", metavar="SPEC", help="Unlabelled images: the photos.")
@click.option("--test", metavar="SPEC", help="Labelled target images to report accuracy on.")
@click.option("--data-root", metavar="DIR", help="Where named sets lie.  [default: $DANN_DATA, else the user's cache]")
@click.option("--epochs", type=int, help="Passes over the labelled images.")
@click.option("--steps", type=int, help="Optimiser steps, instead of --epochs.")
@click.option("--device", help="auto, cpu, cuda or cuda:N.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any other setting of `dann train`.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    metavar="NAME",
    help="A row; may be repeated.  [default: the objectives of the settings]",
)
@click.option("--seeds", type=int, default=3, show_default=True, help="How many: 0, 1, 2, …")
@click.option("--name", help="Folder of the comparison under --runs.  [default: compare-PRESET]")
@_runs_option
@click.option("--quiet", is_flag=True, help="No progress.")
def compare(
    preset: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    methods: tuple[str, ...],
    seeds: int,
    name: str | None,
    runs: Path,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train source only, adapted and on target labels, for several seeds; print the table.

    Asked for again, it goes on where it was stopped. Writes compare.md, compare.json and compare.svg.

    \b
    Example:
      dann compare --preset mnist-mnistm --seeds 3
      dann compare --preset cars --method dann --method mcc --seeds 1
    """
    from dann.infer.progress import Progress
    from dann.train.reporting.compare import compare as run_comparison

    if seeds < 1:
        raise UsageError(f"--seeds is {seeds}; expected how many seeds to train with, 1 or more")
    overrides = {_SETTINGS[key]: value for key, value in flags.items() if value is not None}
    overrides |= dict(_setting(text) for text in settings)
    for key in {"mode", "seed"} & overrides.keys():
        raise UsageError(f"a comparison trains in every mode and with --seeds seeds; leave --set {key}=… out")
    config, _ = _train_config(preset, None, config_file, overrides)
    with Progress("compare", quiet=quiet) as progress:
        comparison = run_comparison(
            config,
            seeds=range(seeds),
            methods=methods,
            runs=runs,
            name=name or f"compare-{preset or 'custom'}",
            command=shlex.join(["dann", *sys.argv[1:]]),
            on_step=lambda done, total, numbers: progress.update(done, total, _step_text(numbers)),
            on_message=progress.message,
        )
    click.echo(comparison.to_markdown())
    if comparison.failures:
        raise DannError(f"{len(comparison.failures)} of the runs failed, the first: {comparison.failures[0]}")


@main.command()
@_run_option
@_runs_option
@click.option("--source-only", metavar="RUN", help="A run in mode source to show the change against.")
@click.option("--device", default="auto", show_default=True)
@click.option("--out-path", type=click.Path(path_type=Path), help="HTML file.  [default: RUN/report.html]")
def report(run: str | None, runs: Path, source_only: str | None, device: str, out_path: Path | None) -> None:
    """Write one self-contained page about a run: curves, tables, plots, sample predictions.

    \b
    Example:
      dann report
      dann report --run runs/cars-dann-s0 --source-only runs/cars-source-s0
    """
    from dann.train.reporting.report import write_report
    from dann.train.run_dir import find_run

    before = None if source_only is None else find_run(source_only, runs)
    written = write_report(find_run(run, runs), out=out_path, source_only=before, device=device)
    for reason in written.left_out:
        click.echo(f"left out: {reason}", err=True)
    click.echo(str(written.path))


# ---- export -------------------------------------------------------------------------------------------------------


@main.command()
@_run_option
@_runs_option
@click.option(
    "--format", "formats", default="onnx", show_default=True, metavar="F,…", help="Some of onnx, trt, openvino, triton."
)
@click.option(
    "--precision",
    "precisions",
    default="fp32,fp16",
    show_default=True,
    metavar="P,…",
    help="Also int8, and bf16 (OpenVINO).",
)
@click.option("--batch", default="1:32:64", show_default=True, metavar="MIN:OPT:MAX", help="Batches of the engines.")
@click.option("--out", type=click.Path(path_type=Path), help="Bundle folder.  [default: RUN/bundle]")
@click.option("--with-features", is_flag=True, help="Also give the features as an output.")
@click.option("--split", is_flag=True, help="Also write feature extractor and label classifier as two networks.")
@click.option("--verify-data", metavar="SPEC", help="Images for the verdict.  [default: the run's target images]")
@click.option("--verify-images", type=int, default=256, show_default=True, help="How many of them.")
@click.option("--verify-photos", is_flag=True, help="Put some of them into the bundle, for its first use elsewhere.")
@click.option("--calib", metavar="SPEC", help="Images to calibrate int8 on.  [default: the run's target images]")
@click.option("--calib-images", type=int, default=256, show_default=True, help="How many of them.")
@click.option("--gpu", "gpus", metavar="SM,…", help="Of TensorRT for RTX: sm86,sm120.  [default: all but sm75]")
@click.option("--workspace-mib", type=int, help="Most memory for a layer of TensorRT.  [default: all of the GPU]")
@click.option("--hardware-compatible", is_flag=True, help="A TensorRT engine for all GPUs from Ampere on; slower.")
@click.option("--version-compatible", is_flag=True, help="A TensorRT engine that newer versions run, too.")
@click.option(
    "--timing-cache", type=click.Path(path_type=Path), help="What TensorRT has timed.  [default: user's cache]"
)
@click.option("--quiet", is_flag=True, help="No progress.")
def export(
    run: str | None,
    runs: Path,
    formats: str,
    precisions: str,
    batch: str,
    out: Path | None,
    gpus: str | None,
    workspace_mib: int | None,
    hardware_compatible: bool,
    version_compatible: bool,
    timing_cache: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Export the network without its domain head, and compare the export with the trained network.

    What is not the trained network is left out of the bundle, and the exit code is 1. What cannot run on this machine
    is UNVERIFIED: `dann verify` compares it where it can.

    \b
    Example:
      dann export
      dann export --format trt
      dann export --format onnx,trt,openvino,triton --precision fp32,fp16,int8 --out bundle/
    """
    from dann.export.run_export import export_run
    from dann.export.settings import BatchRange, EngineConfig, ExportConfig
    from dann.infer.progress import Progress
    from dann.train.run_dir import find_run

    config = ExportConfig(
        formats=_names(formats),
        precisions=_names(precisions),
        batch=BatchRange.parse(batch),
        engine=EngineConfig(
            gpus=_names(gpus) if gpus else (),
            workspace_mib=workspace_mib,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            timing_cache=timing_cache,
        ),
        **options,
    )
    with Progress("export", quiet=quiet) as progress:
        exported = export_run(
            find_run(run, runs),
            config,
            out=out,
            on_progress=lambda phase, done, steps: progress.update(done, steps, phase),
        )
    for line in exported.report():
        click.echo(line)
    click.echo(f"bundle: {exported.root}")
    if exported.rejected:
        left_out = ", ".join(name for judged in exported.rejected for name in judged.files)
        raise DannError(f"{left_out} would not do what the trained network does, and is not in the bundle")
    if exported.failed:
        raise exported.failed[0]


def _names(text: str) -> tuple[str, ...]:
    """The parts of ``a,b``."""
    return tuple(name.strip() for name in text.split(","))


# ---- verify -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--bundle", metavar="DIR", help="What `dann export` wrote.  [default: that of the latest run]")
@_runs_option
@click.option("--threads", type=int, help="Compute threads.  [default: one per physical core]")
def verify(bundle: str | None, runs: Path, threads: int | None) -> None:
    """Run every artefact of a bundle that this machine can run, compare and time it.

    It is compared with what it answered where it was exported. Needs the runtime alone. Exits with 1 where an artefact
    is damaged or answers otherwise, and with 4 where none can run.

    \b
    Example:
      dann verify
      dann verify --bundle bundle/
    """
    from dann.infer.bundle import read_bundle
    from dann.infer.verify import verify_bundle

    broken, ran = [], 0
    for checked in verify_bundle(read_bundle(_bundle_to_use(bundle, None, runs)), threads=threads):
        click.echo(f"{checked.name} on {checked.device}: {checked}")
        ran += checked.verdict is not None
        if checked.broken:
            broken.append(f"{checked.name} on {checked.device}")
    if broken:
        raise DannError(f"not what was exported: {', '.join(broken)}; copy the bundle again, or export it here")
    if not ran:
        raise UnavailableError("nothing of this bundle can run here; the lines above say what is missing")


# ---- bench --------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--bundle", metavar="DIR", help="What `dann export` wrote.  [default: that of the latest run]")
@_runs_option
@click.option(
    "--images", metavar="DIR|GLOB|LIST", help="Images to measure with, as in dann infer.  [default: some are drawn]"
)
@click.option("--engine", metavar="E", help="ort, openvino, trt or trt-rtx.  [default: all that the bundle has]")
@click.option("--precision", metavar="P", help="Of the exported networks.  [default: all that the bundle has]")
@click.option("--batch", metavar="N,…", help="Batch sizes.  [default: 1,8,32, as far as a network takes them]")
@click.option("--threads", metavar="N,…", help="As in dann infer.  [default: 1, and one per core]")
@click.option("--seconds", type=float, default=1.0, show_default=True, help="Time of each measurement.")
@click.option("--out-path", type=click.Path(path_type=Path), metavar="FILE.json", help="Also write all as JSON.")
@click.option("--quiet", is_flag=True, help="No progress.")
def bench(
    bundle: str | None,
    runs: Path,
    batch: str | None,
    threads: str | None,
    out_path: Path | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Say how fast this machine runs each engine of a bundle, and what limits it.

    Latency of a batch and throughput of each engine that can run here; decoding alone, each engine alone, what both
    together allow at most, and what `dann infer` reaches of it. Needs the runtime alone. Exits with 4 where nothing
    that was asked for can run here, and with 1 where something should and does not.

    \b
    Example:
      dann bench
      dann bench --bundle bundle/ --images imgs/ --engine openvino --batch 1,16 --out-path bench.json
    """
    from dann.infer.bench import bench_bundle
    from dann.infer.bundle import read_bundle
    from dann.infer.progress import Progress
    from dann.infer.whole_file import check_place

    if out_path is not None:
        check_place(out_path)
    numbers = {"batch_sizes": _counts("--batch", batch), "threads": _counts("--threads", threads)}
    with Progress("bench", quiet=quiet) as progress:
        found = bench_bundle(
            read_bundle(_bundle_to_use(bundle, None, runs)),
            on_progress=progress.update,
            **numbers,
            **options,
        )
    if out_path is not None:
        found.write(out_path)
    for line in found.lines():
        click.echo(line)
    if found.broken:
        raise DannError(f"what should run here does not: {found.broken[0].place}: {found.broken[0].reason}")


def _counts(option: str, text: str | None) -> list[int] | None:
    """``1,8`` → those numbers."""
    if text is None:
        return None
    if not all(part.isdecimal() for part in _names(text)):
        raise UsageError(f"{option} is {text!r}; expected numbers, as in 1,8")
    return [int(part) for part in _names(text)]


# ---- infer --------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--bundle", metavar="DIR", help="What `dann export` wrote.  [default: that of the latest run]")
@click.option("--checkpoint", metavar="RUN", help="Use the bundle of this run, exported now if it is not up to date.")
@_runs_option
@click.option(
    "--test-loc",
    required=True,
    metavar="DIR|GLOB|FILE|-",
    help="Images to classify: a folder, a pattern, an image, or a list of paths (.txt, or - for standard input).",
)
@click.option("--recursive/--no-recursive", default=True, show_default=True, help="Folders within a folder, too.")
@click.option("--out-path", required=True, metavar="FILE|-", help="File to write, or - for standard output.")
@click.option("--format", metavar="csv|jsonl", help="Of the rows.  [default: from the suffix of --out-path, else csv]")
@click.option("--top-k", type=int, default=1, show_default=True, help="How many of the most probable classes to name.")
@click.option("--probs", is_flag=True, help="A column with the probability of each class.")
@click.option(
    "--min-probability",
    type=float,
    default=0.0,
    metavar="P",
    help="Label what is less probable `unknown`.  [default: nothing]",
)
@click.option("--features", type=click.Path(path_type=Path), metavar="FILE.npy", help="Also write the features.")
@click.option("--labels", metavar="folder|CSV", help="True labels: names of folders, or a file with path,label.")
@click.option("--resume", is_flag=True, help="Go on where a run that was interrupted stopped.")
@click.option("--on-error", default="row", show_default=True, metavar="row|stop", help="Of an unreadable image.")
@click.option("--max-errors", type=int, metavar="N", help="Stop after more than N of them.  [default: never]")
@click.option(
    "--max-pixels", type=int, default=64_000_000, show_default=True, help="Larger images are not decoded but errors."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--engine", default="auto", show_default=True, help="auto, ort, openvino, trt or trt-rtx.")
@click.option("--precision", metavar="P", help="Of the exported network.  [default: fp32, if the bundle has it]")
@click.option(
    "--batch",
    "--batch-size",
    "batch",
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Images that are computed at once.",
)
@click.option("--workers", type=int, help="Threads that decode and, on a CPU, compute.  [default: one per core]")
@click.option("--threads", type=int, help="Of those, how many compute at once.  [default: all]")
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@click.argument("others", nargs=-1, metavar="")
def infer(
    bundle: str | None,
    checkpoint: str | None,
    runs: Path,
    test_loc: str,
    out_path: str,
    batch: str,
    max_pixels: int,
    quiet: bool,
    others: tuple[str, ...],
    **options: Any,
) -> None:
    """Classify images with an exported network, without torch.

    One row per image, always: path, label, probability, status, error. Exits with 3 if some could not be read. What is
    interrupted, even by kill -9, goes on with --resume.

    \b
    Example:
      dann infer --test-loc imgs/ --out-path preds.csv
      dann infer --bundle bundle/ --test-loc 'imgs/**/*.png' --out-path preds.jsonl --top-k 3
      find imgs -newer preds.csv -print0 | dann infer --test-loc - --out-path -
    """
    from dann.infer.folder import classify_folder
    from dann.infer.preprocess import Limits
    from dann.infer.progress import Progress

    if others:
        raise UsageError(
            f"--test-loc is {test_loc!r}, and {others[0]!r} follows; quote a pattern, as in --test-loc 'imgs/*.jpg', "
            "or list paths in a .txt file"
        )
    if bundle is not None and checkpoint is not None:
        raise UsageError("--bundle and --checkpoint both say what to infer with; give one of them")
    if batch != "auto":
        if not batch.isdecimal():
            raise UsageError(f"--batch is {batch!r}; expected auto, or how many images are computed at once")
        options["batch_size"] = int(batch)
    used = _bundle_to_use(bundle, checkpoint, runs)
    with Progress("infer", unit="images", quiet=quiet) as progress:
        summary = classify_folder(
            used,
            test_loc,
            out_path,
            limits=Limits(max_pixels=max_pixels),
            on_message=progress.message,
            on_progress=progress.update,
            **options,
        )
    if summary.score is not None:
        click.echo("\n".join(summary.score.lines()), err=out_path == "-")
    if not quiet:
        for line in summary.lines(out_path):
            click.echo(line, err=True)
    if summary.exit_code:
        raise click.exceptions.Exit(summary.exit_code)


def _bundle_to_use(bundle: str | None, checkpoint: str | None, runs: Path) -> Path:
    """The bundle named, that of the run named (exported now, if it is not up to date), or that of the latest run."""
    if bundle is not None:
        return Path(bundle)
    from dann.train.run_dir import find_run

    run = find_run(checkpoint, runs)
    if checkpoint is not None and not run.has_current_bundle():
        from dann.export.run_export import export_run

        exported = export_run(run)
        for line in exported.report():
            click.echo(line, err=True)
    elif not run.bundle.is_dir():
        raise UsageError(f"run {str(run.root)!r} has no bundle yet; make it with: dann export --run {run.root}")
    elif checkpoint is None and run.has_older_bundle():
        raise UsageError(f"{run.bundle} is older than the checkpoint; renew it with: dann export --run {run.root}")
    return run.bundle


# ---- data ---------------------------------------------------------------------------------------------------------


@main.group()
def data() -> None:
    """Fetch, build and render data sets."""


_data_root_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Where named sets lie.  [default: $DANN_DATA, else the user's cache]",
)


@data.command()
@click.argument("name", metavar="mnist|svhn|usps|bsds500")
@_data_root_option
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL",
    help="Folder with the same files, instead of the published one.",
)
def fetch(name: str, data_root: Path | None, mirrors: tuple[str, ...]) -> None:
    """Download a data set, resuming and checking it.

    \b
    Example:
      dann data fetch mnist --data-root data/
    """
    from dann.infer.progress import Progress
    from dann.train.fetch import fetch as fetch_set
    from dann.train.named_sets import default_data_root

    with Progress(f"fetch {name}") as progress:
        files = fetch_set(
            name,
            data_root or default_data_root(),
            mirrors=mirrors or None,
            on_progress=lambda file, done, total: progress.update(done, total or done, file),
        )
    for path in sorted({file.parent for file in files}):
        click.echo(str(path))


@data.command()
@click.option(
    "--mnist",
    "mnist_root",
    type=click.Path(path_type=Path),
    help="Folder with MNIST.  [default: the data root]",
)
@click.option("--photos", required=True, type=click.Path(path_type=Path), help="Folder of photos to cut patches from.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write.  [default: MNIST-M in the data root]")
@click.option("--seed", type=int, default=0, show_default=True)
@_data_root_option
def mnistm(mnist_root: Path | None, photos: Path, out: Path | None, seed: int, data_root: Path | None) -> None:
    """Build MNIST-M: each MNIST digit, subtracted from a random patch of a photo.

    \b
    Example:
      dann data mnistm --mnist data/MNIST --photos data/BSDS500 --out data/MNIST-M
    """
    from dann.infer.progress import Progress
    from dann.train.mnistm import build_mnistm
    from dann.train.named_sets import default_data_root

    root = data_root or default_data_root()
    with Progress("mnistm") as progress:
        built = build_mnistm(
            mnist_root or root,
            photos,
            out or root / "MNIST-M",
            seed=seed,
            on_progress=lambda file, done, total: progress.update(done, total, file),
        )
    for path, reason in built.skipped:
        click.echo(f"left out {path}: {reason}", err=True)
    click.echo(f"{built.train}\n{built.test}")


@data.command()
@click.option(
    "--models",
    required=True,
    metavar="DIR|cars",
    help="A folder of 3-D models per class, or `cars`: procedural cars (a folder of that name is ./cars).",
)
@click.option(
    "--classes",
    metavar="A,B,…",
    help="Those to render.  [default: all; of `cars`, which has coupe and wagon too: hatchback,pickup,sedan,suv,van]",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--per-class", type=int, help="Images of each class.  [default: 500]")
@click.option("--size", "size_px", type=int, help="Larger side of the images, in pixels.  [default: 128]")
@click.option("--look", default="varied", show_default=True, help="varied, studio or simulated-photo.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Of the look: `elevation_deg=[0,20]`, `margin=none`; docs/rendering.md has all.",
)
@click.option("--backgrounds", metavar="DIR", help="Photos to put behind the models.")
@click.option(
    "--up",
    default="auto",
    show_default=True,
    help="Axis that points up in the files: x, y, z, -x, -y, -z; guessed as for vehicles.",
)
@click.option(
    "--front",
    default="auto",
    show_default=True,
    help="Axis that the nose points along in the files; guessed as for vehicles.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--workers", type=int, help="Processes.  [default: one per core]")
def render(models: str, classes: str | None, look: str, settings: tuple[str, ...], **options: Any) -> None:
    """Render 3-D models into labelled images: any view, light, colour and background.

    Reads OBJ, GLB, glTF, STL and PLY. The same command goes on where it was interrupted.

    \b
    Example:
      dann data render --models cad/ --backgrounds photos/ --out renders/
      dann train --source renders/ --target photos/
    """
    from dann.infer.progress import Progress
    from dann.train.rendering.model_renders import render_models
    from dann.train.rendering.styles import style_of

    given = {name: value for name, value in options.items() if value is not None}
    if classes is not None:
        given["classes"] = [name.strip() for name in classes.split(",")]
    changes = dict(_setting(text) for text in settings)
    style = style_of(look, changes)
    if "photo" in changes and "backgrounds" not in given:
        raise UsageError("photo would do nothing without photos to put behind the models; name --backgrounds DIR")
    with Progress("render") as progress:
        done = render_models(models, style=style, on_progress=progress.update, on_note=progress.message, **given)
    for name, reason in done.failed:
        click.echo(f"left out {name}: {reason}", err=True)
    click.echo(f"{done.images} images" + (f", {done.kept} of them from before" if done.kept else ""), err=True)
    click.echo(str(done.out))
    if done.failed:
        raise click.exceptions.Exit(SOME_UNREADABLE)


@data.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--source", type=int, help="Number of studio renders.")
@click.option("--target", type=int, help="Number of simulated photos to adapt to.")
@click.option("--test", type=int, help="Number of simulated photos to test on.")
@click.option("--size", "size_px", type=int, help="Side of the images, in pixels.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--workers", type=int, help="Processes.  [default: one per core]")
def cars(out: Path, **options: Any) -> None:
    """Render procedural cars: studio renders as the source, *simulated* photos as the target.

    \b
    Example:
      dann data cars --out cars/
      dann train --layout split --data-root cars/
    """
    from dann.infer.progress import Progress
    from dann.train.rendering.cars import write_cars

    given = {name: value for name, value in options.items() if value is not None}
    with Progress("cars") as progress:
        folder = write_cars(out, on_progress=progress.update, **given)
    click.echo(str(folder))


@data.command()
@click.option("--images", required=True, metavar="SPEC", help="Folder, CSV, .npz or named set.")
@click.option("--out-path", type=click.Path(path_type=Path), default=Path("sheet.jpg"), show_default=True)
@click.option("--columns", type=int, default=12, show_default=True, help="Images of each class.")
@click.option("--size", "size_px", type=int, default=96, show_default=True, help="Side of each, in pixels.")
@click.option("--role", type=click.Choice(["source", "target"]), default="source", show_default=True, help="Of `cars`.")
@click.option(
    "--split", type=click.Choice(["train", "test"]), default="train", show_default=True, help="Of a named set."
)
@click.option("--seed", type=int, default=0, show_default=True)
@_data_root_option
def sheet(images: str, out_path: Path, **options: Any) -> None:
    """Put some images of each class on one picture.

    \b
    Example:
      dann data sheet --images renders/ --out-path renders.jpg
    """
    from dann.train.contact_sheet import write_contact_sheet

    left_out: list[str] = []
    write_contact_sheet(images, out_path, on_note=left_out.append, **options)
    for note in left_out:
        click.echo(note, err=True)
    click.echo(str(out_path))
    if left_out:
        raise click.exceptions.Exit(SOME_UNREADABLE)


# ---- doctor -------------------------------------------------------------------------------------------------------


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a bug report or a program.")
def doctor(as_json: bool) -> None:
    """Say what of this machine dann can use, and if not, why. Engines are tried, each for a minute at most.

    \b
    The keys of the JSON object:
      dann       text: version, interpreter, platform, cores
      train      list of text: torch, its devices, who reverses gradients
      packages   name: version, of those that matter and are installed
      conflicts  list of text: packages that overwrite each other
      cuda       driver (its CUDA version or null), devices (index, name,
                 compute_capability, memory_bytes), reason (null or why none)
      engines    list of: engine, version (or null), runs_on (or null),
                 works (true or false), reason (null or why it does not)

    \b
    Example:
      dann doctor
    """
    import json

    from dann.infer import doctor as of_inference

    try:
        from dann.train import doctor as of_training

        trains = of_training.lines()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in _TRAIN_EXTRA:
            raise
        trains = [f'{error.name} is not installed; run: pip install "dann[train]"']
    machine, infers = of_inference.machine(), of_inference.report()
    if as_json:
        click.echo(json.dumps({"dann": machine, "train": trains, **infers}, indent=2))
        return
    click.echo(machine)
    for title, found in (("train", trains), ("infer", of_inference.lines(infers))):
        for line in found:
            click.echo(f"  {title}  {line}")


if __name__ == "__main__":
    main()
