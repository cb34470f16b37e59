import os

import numpy as np
import pytest

from dann.infer.errors import DannError
from dann.infer.preprocess import decode
from dann.train.rendering.render_pool import run_tasks, save_image, write_whole


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_worked_on_once(workers):
    assert sorted(run_tasks(abs, [-3, -1, -2], workers)) == [1, 2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_task_is_the_callers(workers):
    with pytest.raises(ValueError, match="invalid literal"):
        list(run_tasks(int, ["1", "two"], workers))


def test_a_process_that_dies_is_one_clear_error():
    with pytest.raises(DannError, match="ended unexpectedly.*memory.*--workers.*__main__"):
        list(run_tasks(os._exit, [1, 1], 2))


def test_no_tasks_need_no_processes():
    assert list(run_tasks(abs, [], 4)) == []


def test_an_image_is_written_as_its_name_says(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    save_image(tmp_path / "a.png", image)
    assert np.array_equal(decode((tmp_path / "a.png").read_bytes()), image)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("x")
    with pytest.raises(OSError):
        write_whole(tmp_path / "taken", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
