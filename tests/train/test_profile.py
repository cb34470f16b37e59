"""`--profile`: where the time of a step went."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dann.train import fit
from dann.train.profile import StepProfile, covered, of_the_gpu
from dann.train.run_dir import find_run
from dann.train.settings import TrainConfig

Configure = Callable[..., TrainConfig]
STAGES = ("data", "augmentation", "forward", "backward", "optimiser", "averages", "the rest")
STAGE = re.compile(r"^  (.+?) +(\d+\.\d) ms +\d+%$")


def stages(lines: list[str]) -> dict[str, float]:
    return {found[1]: float(found[2]) for line in lines if (found := STAGE.match(line))}


@pytest.mark.parametrize(("steps", "profiled"), [(40, "11 to 30"), (15, "8 to 15")])
def test_a_run_says_where_the_time_of_its_steps_went(steps: int, profiled: str, configure: Configure, tmp_path: Path):
    said: list[str] = []
    fit(configure(steps=steps), runs=tmp_path, name="mine", profile=True, on_message=said.append)
    (head,) = [line for line in said if line.startswith("steps ")]
    found = re.match(rf"steps {profiled}: (\d+\.\d) ms a step, [\d,]+ images/s$", head)
    assert found and tuple(stages(said)) == STAGES
    assert sum(stages(said).values()) == pytest.approx(float(found[1]), abs=0.5)
    trace = json.loads(find_run("mine", tmp_path).profile.read_text(encoding="utf-8"))
    assert {"data", "forward", "backward", "optimiser"} <= {event.get("name") for event in trace["traceEvents"]}


def test_a_run_of_one_step_has_no_profile(configure: Configure, tmp_path: Path):
    said: list[str] = []
    fit(configure(steps=1), runs=tmp_path, profile=True, on_message=said.append)
    assert not stages(said)


def test_the_profile_changes_no_weight(configure: Configure, tmp_path: Path):
    plain, profiled = (fit(configure(steps=12), runs=tmp_path, profile=profile).run for profile in (False, True))
    assert plain.last.read_bytes() == profiled.last.read_bytes() and not plain.profile.exists()


@pytest.mark.parametrize(
    ("intervals", "length"),
    [([], 0), ([(1, 3)], 2), ([(1, 3), (2, 5)], 4), ([(6, 7), (1, 5), (2, 3)], 5), ([(1, 2), (2, 3)], 2)],
)
def test_time_in_which_two_streams_work_counts_once(intervals: list[tuple[float, float]], length: float):
    assert covered(intervals) == length


def test_copies_and_idle_time_of_a_gpu_are_counted_a_step():
    copy, kernel = "Memcpy HtoD (Pinned -> Device)", "cutlass_80_wmma"
    work = [(kernel, 0.0, 4e5), (copy, 2e5, 5e5), ("Memcpy DtoH (Device -> Pinned)", 5e5, 6e5), (copy, 9e5, 1e6)]
    found = of_the_gpu(work, seconds=1.2, steps=2)
    assert found == pytest.approx({"of all: host to device": 0.2, "of all: GPU idle": 0.25})
    assert of_the_gpu([], seconds=1.0, steps=1)["of all: GPU idle"] == 1.0


def test_the_times_are_those_of_the_stages(tmp_path: Path):
    profile, said = StepProfile(tmp_path / "trace.json", torch.device("cpu"), steps_to_go=6), []
    for _ in range(6):
        with profile.stage("long"):
            time.sleep(0.02)
        with profile.stage("short"):
            time.sleep(0.005)
        time.sleep(0.01)
        said += profile.step_done(images=10)
    times = stages(said)
    assert said[0].startswith("steps 4 to 6: ")
    assert times["long"] >= 20 and times["short"] >= 5 and times["the rest"] >= 10
    assert times["long"] > times["the rest"] > times["short"]
