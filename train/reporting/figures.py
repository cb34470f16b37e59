"""The plots of a report, each as the text of an SVG that can stand in an HTML page as it is.

Legend: N images, K classes. A figure has no background: its text is in ``currentColor``, its data in colours of middle
luminance, so that the same figure is read on white and on a dark page. The text stays text, and the same values give
the same bytes.
"""

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dann.train.evaluate import ConfidenceBin

DOMAIN_COLOURS = {"source": "#3280dd", "target": "#df6e1b"}
COLOURS = (
    *DOMAIN_COLOURS.values(),
    *("#008853", "#9554d2", "#de3b3d", "#0f98aa", "#6c9500", "#df5e97", "#915e40", "#a98800"),
)
"""All with a contrast of at least 3 against white and against a dark page, which WCAG 2 asks of graphics."""
NO_LABEL_COLOUR = "#7b8189"
"""Of images whose class is unknown, and of lines in the background."""

_INK = "#000001"  # matplotlib knows no currentColor: this stands for it until the SVG is written
_DASHED = (0, (4, 3))
_WIDTH_INCHES = 4.4  # narrow, so that text keeps its size on a phone
_NAMED_CLASSES = 40  # more do not fit as labels on an axis
_NUMBERED_CLASSES = 12  # more leave no room for a number in each cell
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called "$a$"
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.edgecolor": NO_LABEL_COLOUR,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": NO_LABEL_COLOUR,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "font.size": 9.0,
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the layout is the same everywhere
}

Points = tuple[Sequence[float], Sequence[float]]
"""The x and the y values of a curve."""


def colour_of(number: int) -> str:
    """The colour of the class ``number``; they repeat after ten."""
    return COLOURS[number % len(COLOURS)]


def loss_curves(losses: Mapping[str, Points], *, x_label: str = "epoch") -> str:
    """One curve for each named loss."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(2.9)
        for number, (name, points) in enumerate(losses.items()):
            axes.plot(*points, color=colour_of(number), label=name)
        axes.set(xlabel=x_label, ylabel="loss")
        _legend(figure, axes)
        return _svg(figure, f"Losses in training: {_ends(losses)}")


def domain_accuracy_curve(curves: Mapping[str, Points], *, x_label: str = "epoch") -> str:
    """How well the domains were told apart, beside the line of chance at 0.5."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(2.9)
        for number, (name, points) in enumerate(curves.items()):
            axes.plot(*points, color=colour_of(number), marker="o" if len(points[0]) < 2 else None, label=name)
        axes.axhline(0.5, color=_INK, linestyle=_DASHED, linewidth=1, label="chance")
        axes.set(xlabel=x_label, ylabel="domain accuracy", ylim=(-0.02, 1.02))
        _legend(figure, axes)
        return _svg(figure, f"Domain accuracy, 0.5 being chance: {_ends(curves)}")


def schedule_curves(schedules: Mapping[str, Points], *, x_label: str = "epoch") -> str:
    """One small panel for each schedule (λ, learning rate), as their scales have nothing in common."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, 2.9), layout="constrained")
        panels = figure.subplots(len(schedules), sharex=True, squeeze=False)[:, 0]
        for number, (axes, (name, points)) in enumerate(zip(panels, schedules.items(), strict=True)):
            axes.plot(*points, color=colour_of(number + 2))
            axes.set(ylabel=name)
            axes.set_ylim(bottom=0)
        panels[-1].set(xlabel=x_label)
        return _svg(figure, f"Schedules: {_ends(schedules)}")


def accuracy_curves(
    source: Points, target: Points, marks: Mapping[str, tuple[float, float]], *, x_label: str = "epoch"
) -> str:
    """Accuracy on source and target test images (either may be empty), with ``marks``: name → point."""
    curves = {name: points for name, points in (("source", source), ("target", target)) if len(points[0])}
    shapes = (("o", 4, True), ("s", 9, False), ("D", 14, False))  # one inside the other where they coincide
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(2.9)
        for name, points in curves.items():
            axes.plot(*points, color=DOMAIN_COLOURS[name], marker=".", label=name)
        for (name, point), (marker, size, filled) in zip(marks.items(), shapes, strict=False):
            face = _INK if filled else "none"
            axes.plot(*point, marker, color=_INK, markerfacecolor=face, markersize=size, clip_on=False, label=name)
        axes.set(xlabel=x_label, ylabel="accuracy", ylim=(-0.02, 1.02))
        _legend(figure, axes)
        places = ", ".join(f"{name} at {x_label} {x:g}" for name, (x, _) in marks.items())
        return _svg(figure, f"Accuracy on test images: {_ends(curves)}; {places or 'nothing marked'}")


def confusion_matrix(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A heat map: rows are true classes, columns predicted ones, the shade is the share of the row."""
    counts_KK = np.asarray(confusion)
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDTH_INCHES * 0.95)
        axes.grid(False)
        axes.imshow(_tinted(DOMAIN_COLOURS["source"], share_KK), interpolation="none", aspect="equal")
        axes.set(xlabel="predicted class", ylabel="true class")
        _name_classes(axes, classes)
        if len(classes) <= _NUMBERED_CLASSES:
            size = min(9.0, 80 / len(classes))
            for (row, column), count in np.ndenumerate(counts_KK):
                axes.text(column, row, str(count), ha="center", va="center", fontsize=size)
        worst = _worst_confusion(share_KK, classes)
        return _svg(figure, f"Confusion matrix of {len(classes)} classes, true by predicted. {worst}")


def embedding(points_N2: np.ndarray, colours_N: Sequence[str], alt: str) -> str:
    """Images as dots in the plane; the dots are a picture inside the SVG, as thousands of shapes would be slow."""
    mixed = np.random.default_rng(0).permutation(len(points_N2))  # or the last group would cover the others
    colours = [colours_N[i] for i in mixed]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDTH_INCHES * 0.9)
        axes.grid(False)
        axes.scatter(*points_N2[mixed].T, c=colours, s=9, alpha=0.8, linewidths=0, rasterized=True)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        for spine in axes.spines.values():
            spine.set(visible=True, alpha=0.4)
        return _svg(figure, alt, dpi=160)


def recall_bars(
    recall: Mapping[str, float | None], before: Mapping[str, float | None] | None = None, *, domain: str = "target"
) -> str:
    """Recall of each class on the images of ``domain`` as a bar, with a tick where the run ``before`` was."""
    names = list(recall)
    rows, found = np.arange(len(names)), np.array([np.nan if recall[name] is None else recall[name] for name in names])
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(0.9 + 0.24 * len(names))
        axes.grid(False, axis="y")
        axes.barh(rows, found, height=0.62, color=DOMAIN_COLOURS[domain], label="this run")
        if before is not None:
            was = np.array([np.nan if before.get(name) is None else before[name] for name in names], float)
            axes.hlines(rows, np.minimum(was, found), np.maximum(was, found), color=_INK, linewidth=1)
            axes.plot(was, rows, "|", color=_INK, markersize=11, markeredgewidth=2, label="source only")
            _legend(figure, axes)
        axes.set(xlabel="recall", xlim=(0, 1.01), ylim=(len(names) - 0.4, -0.6), yticks=rows)
        axes.set_yticklabels([_short(name) for name in names])
        axes.tick_params(axis="y", length=0)
        return _svg(figure, "Recall of each class; the table beside it has the numbers")


def reliability(bins: Sequence[ConfidenceBin], ece: float, *, domain: str = "target") -> str:
    """Accuracy against confidence: on the diagonal the network is right as often as it says."""
    confidence, accuracy = [entry.confidence for entry in bins], [entry.accuracy for entry in bins]
    images, colour = np.array([entry.images for entry in bins]), DOMAIN_COLOURS[domain]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(_WIDTH_INCHES * 0.9)
        axes.plot([0, 1], [0, 1], color=_INK, linestyle=_DASHED, linewidth=1, label="perfect")
        axes.vlines(confidence, confidence, accuracy, color=colour, linewidth=3, alpha=0.45, label="gap")
        axes.plot(confidence, accuracy, color=colour)
        axes.scatter(confidence, accuracy, s=12 + 110 * images / images.max(), color=colour, zorder=3, label="images")
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02), aspect="equal")
        _legend(figure, axes)
        return _svg(figure, f"Accuracy against confidence in {len(bins)} bins; calibration error {ece:.3f}")


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, columnspacing=1.2)


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    if len(classes) > _NAMED_CLASSES:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        return
    names, size = [_short(name) for name in classes], min(9.0, 200 / len(classes))
    upright = len(classes) > 4 and max(map(len, names)) > 2
    axes.set_xticks(range(len(names)), names, rotation=90 if upright else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0)


def _tinted(colour: str, share: np.ndarray) -> np.ndarray:
    """RGBA of ``colour``, as opaque as ``share``: white or dark, the page shows through."""
    return np.concatenate([np.broadcast_to(to_rgb(colour), (*share.shape, 3)), share[..., None]], axis=-1)


def _worst_confusion(share_KK: np.ndarray, classes: Sequence[str]) -> str:
    wrong_KK = share_KK * (1 - np.eye(len(classes)))
    true, predicted = divmod(int(wrong_KK.argmax()), len(classes))
    if wrong_KK[true, predicted] == 0:
        return "Nothing is confused."
    share, names = wrong_KK[true, predicted], [_printable(name) for name in (classes[true], classes[predicted])]
    return f"Most confused: {share:.0%} of {names[0]} taken for {names[1]}."


def _short(name: str) -> str:
    """A class name that fits on an axis, on one line: names of models often differ at their ends."""
    name = _printable(" ".join(name.split()))
    return name if len(name) <= 16 else f"{name[:8]}…{name[-7:]}"


def _printable(name: str) -> str:
    """``name`` as fonts and hashes take it: one that is no UTF-8 on the disk holds lone surrogates."""
    return name.encode("utf-8", "replace").decode()


def _ends(curves: Mapping[str, Points]) -> str:
    return ", ".join(f"{name} {points[1][-1]:.3g} at the end" for name, points in curves.items() if len(points[1]))


def _svg(figure: Figure, alt: str, *, dpi: int = 72) -> str:
    """``figure`` as an ``<svg>`` that says ``alt`` to those who cannot see it."""
    FigureCanvasSVG(figure)
    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # the version and the date would change the bytes
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": alt}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # here it only measures: the browser has the letters
        figure.savefig(out, format="svg", transparent=True, metadata=nothing, dpi=dpi)
    svg = out.getvalue()
    return _for_a_page(svg[svg.index("<svg") :], alt)


def _for_a_page(svg: str, alt: str) -> str:
    """``svg`` without what would meet other figures on its page: ids that nothing refers to, a style for all of it."""
    referenced = set(re.findall(r"#(\w+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referenced else "", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(rf"(fill|stroke): {_INK}", r"\1: currentColor", svg).replace("'DejaVu Sans', sans-serif", "sans-serif")
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}" stroke-linejoin="round"', 1)
