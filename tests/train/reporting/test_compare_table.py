"""The tables of a comparison, from results written by hand: their numbers against numpy, and what they say of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dann.infer.errors import DannError
from dann.train.reporting.compare_figure import draw, figure_svg
from dann.train.reporting.compare_table import Comparison, Row, read_cell
from dann.train.run_dir import RunDir
from dann.train.settings import Mode, TrainConfig

SOURCE_ONLY, METHOD, ORACLE = [0.31, 0.22, 0.36], [0.71, 0.64, 0.55], [0.91, 0.93, 0.88]
"""Target accuracy of the selected checkpoint, per seed."""


def finished_run(folder: Path, target: float | None, **changes: Any) -> RunDir:
    """A run of three epochs with ``target`` as selected target accuracy: the second epoch, of three evaluated."""
    run = RunDir(folder)
    run.write_config(TrainConfig(), {})
    at = [None if target is None else round(target + step, 3) for step in (-0.05, 0.0, 0.02)]
    evaluations = [
        {"kind": "eval", "step": step, "source_accuracy": 0.9, "target_accuracy": accuracy}
        for step, accuracy in zip((10, 20, 30), at, strict=True)
    ]
    result = {
        "mode": "dann",
        "simulated_target": False,
        "last": {"step": 30, "source_accuracy": 0.95, "target_accuracy": at[2]},
        "selected": {"step": 20, "source_accuracy": 0.9, "target_accuracy": at[1]},
        "best_on_test_labels": None if target is None else {"step": 30, "target_accuracy": at[2]},
        "selection": {"criterion": "im", "choices": {"last": 30, "im": 20, "snd": 10}},
        "target": None if target is None else {"recall": {"a": target, "b": target / 2, "no images": None}},
        **changes,
    }
    run.result.write_text(json.dumps(result), encoding="utf-8")
    lines = [{"kind": "step", "step": 5, "loss": 1.0}, *evaluations]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return run


@pytest.fixture
def row(tmp_path: Path):
    """A function from title, mode and target accuracies to a row."""

    def build(title: str, mode: Mode, targets: Sequence[float | None], **changes: Any) -> Row:
        runs = [finished_run(tmp_path / title / f"s{seed}", target, **changes) for seed, target in enumerate(targets)]
        return Row(title=title, mode=mode, cells=tuple(read_cell(run, seed) for seed, run in enumerate(runs)))

    return build


@pytest.fixture
def comparison(row) -> Comparison:
    rows = (row("source only", "source", SOURCE_ONLY), row("dann", "dann", METHOD), row("oracle", "target", ORACLE))
    return compared(*rows)


def compared(*rows: Row, **fields: Any) -> Comparison:
    return Comparison(name="digits", rows=rows, machine="a machine", date="2026-01-31", **fields)


def lines_of(markdown: str, *beginning: str) -> list[list[str]]:
    """The cells of every table line whose first ones are ``beginning``."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    return [line for line in table if line[: len(beginning)] == list(beginning)]


def test_accuracies_are_mean_and_sample_standard_deviation(comparison: Comparison):
    (line,) = (line for line in lines_of(comparison.to_markdown(), "dann") if len(line) == 6)
    assert line[2] == f"{np.mean(METHOD):.3f} ± {np.std(METHOD, ddof=1):.3f}"
    assert line[1] == "0.900 ± 0.000"
    assert line[3] == line[4] == f"{np.mean(METHOD) + 0.02:.3f} ± {np.std(METHOD, ddof=1):.3f}"


def test_the_closed_gap_is_the_mean_of_what_each_seed_closed(comparison: Comparison):
    source, method, oracle = map(np.array, (SOURCE_ONLY, METHOD, ORACLE))
    expected = (method - source) / (oracle - source)
    assert comparison.gap_closed(comparison.rows[1]) == pytest.approx(expected)
    (line,) = (line for line in lines_of(comparison.to_markdown(), "dann") if len(line) == 6)
    assert line[5] == f"{expected.mean():.0%} ± {expected.std(ddof=1):.0%}"


@pytest.mark.parametrize("oracle", [None, [0.9, 0.2, 0.9], [0.9, None, 0.9]])
def test_no_gap_is_closed_where_there_is_none(oracle: list[float | None] | None, row):
    rows = [row("source only", "source", [0.2, 0.2, 0.2]), row("dann", "dann", METHOD)]
    if oracle:
        rows.append(row("oracle", "target", oracle))
    without = compared(*rows)
    assert None in without.gap_closed(rows[1])
    assert [line[5] for line in lines_of(without.to_markdown(), "dann") if len(line) == 6] == ["–"]


def test_a_single_seed_has_no_spread(row):
    markdown = compared(row("source only", "source", [0.25]), row("dann", "dann", [0.5])).to_markdown()
    assert "±" not in markdown
    assert lines_of(markdown, "dann", "0.900", "0.500")


def test_change_of_recall_is_against_source_only_seed_by_seed(comparison: Comparison):
    change = np.array(METHOD) - SOURCE_ONLY
    ((_, before, after, oracle),) = lines_of(comparison.to_markdown(), "a")
    assert before == f"{np.mean(SOURCE_ONLY):.3f} ± {np.std(SOURCE_ONLY, ddof=1):.3f}"
    assert after.endswith(f" (+{change.mean():.3f} ± {change.std(ddof=1):.3f})")
    assert "(" not in oracle
    assert lines_of(comparison.to_markdown(), "no images") == [["no images", "–", "– (–)", "–"]]


def test_a_loss_of_recall_is_negative_and_none_is_never_minus_zero(row):
    worse = compared(row("source only", "source", [0.5, 0.5]), row("dann", "dann", [0.4, 0.4])).to_markdown()
    assert lines_of(worse, "a")[0][2] == "0.400 ± 0.000 (-0.100 ± 0.000)"
    same = compared(row("before", "source", [0.3, 0.3]), row("dann2", "dann", [0.3 - 1e-9] * 2)).to_markdown()
    assert lines_of(same, "a")[0][2].endswith("(+0.000 ± 0.000)")


def test_what_a_criterion_selects_stands_beside_last_and_best(comparison: Comparison):
    markdown = comparison.to_markdown()
    spread = f" ± {np.std(METHOD, ddof=1):.3f}"
    (snd,) = lines_of(markdown, "dann", "snd")
    assert snd[2:] == [f"{np.mean(METHOD) - 0.05:.3f}{spread}", "-0.070 ± 0.000", "-0.070 ± 0.000"]
    (used,) = lines_of(markdown, "dann", "im (used)")
    assert used[3] == "-0.020 ± 0.000"
    assert lines_of(markdown, "dann", "last")[0][3] == "+0.000 ± 0.000"
    assert not lines_of(markdown, "oracle", "last")  # its labels have chosen already


def test_oracle_and_test_label_numbers_are_marked_as_such(comparison: Comparison):
    markdown = comparison.to_markdown()
    assert lines_of(markdown, "oracle (oracle)") and not lines_of(markdown, "oracle")
    assert "best on test labels (not a result)" in lines_of(markdown, "trained", "source")[0]
    assert [entry["oracle"] for entry in comparison.to_json()["rows"]] == [False, False, True]


def test_simulated_photos_are_named_in_every_output(row):
    rows = [row(title, mode, [0.5], simulated_target=True) for title, mode in (("s", "source"), ("d", "dann"))]
    simulated = compared(*rows)
    assert "simulated photos" in lines_of(simulated.to_markdown(), "trained")[0]
    assert simulated.to_json()["simulated_target"] is True
    assert "simulated" in draw(simulated).axes[0].get_xlabel()


def test_markdown_names_seeds_criterion_machine_date_command_and_notes(comparison: Comparison):
    more = compared(*comparison.rows, command="dann compare --seeds 3", notes=("No row is trained on target labels.",))
    markdown = more.to_markdown()
    for part in ("seeds 0, 1, 2", "by: im", "a machine, 2026-01-31", "    dann compare --seeds 3\n", more.notes[0]):
        assert part in markdown


def test_json_holds_every_number(comparison: Comparison):
    plain = json.loads(json.dumps(comparison.to_json()))
    method = plain["rows"][1]
    assert [run["result"]["selected"]["target_accuracy"] for run in method["runs"]] == METHOD
    assert [len(run["evaluations"]) for run in method["runs"]] == [3, 3, 3]
    assert method["summary"]["target"] == {
        "mean": pytest.approx(np.mean(METHOD)),
        "std": pytest.approx(np.std(METHOD, ddof=1)),
    }
    assert plain["seeds"] == [0, 1, 2]


def test_the_plot_shows_every_run_and_the_oracle(comparison: Comparison):
    figure = draw(comparison)
    drawn = [list(map(float, np.atleast_1d(line.get_xdata()))) for line in figure.axes[0].get_lines()]
    assert SOURCE_ONLY in drawn and METHOD in drawn and ORACLE in drawn
    assert [pytest.approx(np.mean(ORACLE))] * 2 in drawn


def test_the_plot_of_the_same_numbers_is_the_same_text(comparison: Comparison):
    svg = figure_svg(comparison)
    assert svg.startswith("<?xml") and svg.rstrip().endswith("</svg>")
    assert svg == figure_svg(comparison)


def test_the_plot_needs_no_oracle_and_no_source_accuracy(row):
    unknown = {"step": 20, "source_accuracy": None, "target_accuracy": 0.4}
    assert figure_svg(compared(row("s", "source", [0.4], selected=unknown), row("d", "dann", [0.5])))


@pytest.mark.parametrize("result", [{}, {"selection": None}, {"best_on_test_labels": [0.5]}])
def test_damaged_results_are_refused_by_the_name_of_their_folder(result: dict[str, Any], tmp_path: Path):
    run = finished_run(tmp_path / "dann-s0", 0.5, **result)
    if not result:
        run.result.write_text("{}")
    with pytest.raises(DannError, match="dann-s0.*delete that folder and compare again"):
        read_cell(run, 0)
