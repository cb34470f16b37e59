"""The plot of a comparison: a line per row, its accuracy on source and target with error bars."""

from io import StringIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dann.train.reporting.compare_table import Comparison, Values, summary
from dann.train.reporting.figures import DOMAIN_COLOURS

_ROW_INCHES = 0.45


def figure_svg(comparison: Comparison) -> str:
    """The plot as an SVG document that needs no fonts, the same for the same numbers."""
    svg = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "dann"}):
        draw(comparison).savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()


def draw(comparison: Comparison) -> Figure:
    """Dots are single runs, rings are means with their standard deviation; the dashed line is the oracle."""
    rows = comparison.rows
    figure = Figure(figsize=(7, 1.4 + _ROW_INCHES * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for height, row in enumerate(rows):
        _series(axes, height - 0.12, row.sources, "source")
        _series(axes, height + 0.12, row.targets, "target")
    oracle = summary(comparison.oracle.targets)["mean"] if comparison.oracle else None
    if oracle is not None:
        axes.axvline(
            oracle, color=DOMAIN_COLOURS["target"], linestyle="--", linewidth=1, label="trained on target labels"
        )
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("accuracy on test images" + (" (the target's are simulated photos)" * comparison.simulated))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _series(axes: Axes, height: float, values: Values, domain: str) -> None:
    colour, found = DOMAIN_COLOURS[domain], summary(values)
    if found["mean"] is None:
        return
    axes.plot(
        [value for value in values if value is not None],
        [height] * len(values),
        ".",
        color=colour,
        alpha=0.5,
        markersize=4,
    )
    axes.errorbar(
        found["mean"],
        height,
        xerr=found["std"],
        fmt="o",
        color=colour,
        markerfacecolor="white",
        capsize=3,
        label=domain,
    )
