"""Threads, batches and failures, with an engine that is only arithmetic, so that each of them can be brought about."""

import threading
import time
from collections import Counter

import numpy as np
import pytest

from dann.infer.errors import DannError
from dann.infer.pipeline import Pipeline
from dann.infer.preprocess import LIMITS, PreprocessSpec

SPEC = PreprocessSpec(height=2, width=2)


class MeanEngine:
    """Answers the mean of each image."""

    def __init__(self, lanes=1, elsewhere=False, failures=(), seconds=0.0):
        self.lanes, self.elsewhere, self.description, self.artefact = lanes, elsewhere, "mean", None
        self.failures, self.seconds = list(failures), seconds
        self.calls: list[list[int]] = []
        self.at_once = self.most_at_once = 0
        self._lock, self._places = threading.Lock(), threading.Semaphore(lanes)

    def run(self, images_NHWC):
        with self._places:
            return self._run(images_NHWC)

    def _run(self, images_NHWC):
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.calls.append(images_NHWC[:, 0, 0, 0].tolist())
            failure = self.failures.pop(0) if self.failures else None
        time.sleep(self.seconds)
        with self._lock:
            self.at_once -= 1
        if failure is not None:
            raise failure
        return {"probabilities": images_NHWC.reshape(len(images_NHWC), -1).mean(axis=1, keepdims=True)}

    def close(self):
        pass


def images(*values):
    return [np.full((3, 3, 3), value, np.uint8) for value in values]


def pipeline(engine, batch_size=2, workers=1):
    return Pipeline(engine, SPEC, batch_size=batch_size, workers=workers, limits=LIMITS)


def answers(batches):
    """By the position of an image, its answer, or its error."""
    found = {}
    for batch in batches:
        for slot, error in enumerate(batch.errors):
            found[batch.start + slot] = str(error) if error else batch.outputs["probabilities"][slot, 0]
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
@pytest.mark.parametrize(("workers", "lanes", "elsewhere"), [(1, 1, False), (3, 3, False), (2, 2, True), (4, 1, True)])
def test_every_image_gets_its_own_answer(batch_size, workers, lanes, elsewhere):
    engine = MeanEngine(lanes, elsewhere)
    found = answers(pipeline(engine, batch_size, workers).run(images(*range(50))))
    assert found == {value: value for value in range(50)}
    assert {len(call) for call in engine.calls} == {batch_size}


def test_the_last_batch_is_filled_with_zeros():
    engine = MeanEngine()
    list(pipeline(engine, batch_size=4).run(images(9, 8, 7, 6, 5)))
    assert engine.calls == [[9, 8, 7, 6], [5, 0, 0, 0]]


def test_an_image_that_cannot_be_read_is_a_zero_and_its_neighbours_are_not_touched():
    engine = MeanEngine()
    found = answers(pipeline(engine, batch_size=4).run([*images(9), np.zeros((3, 3)), *images(7, 6)]))
    assert engine.calls == [[9, 0, 7, 6]]
    assert "expected uint8" in found.pop(1) and found == {0: 9, 2: 7, 3: 6}


def test_a_batch_without_images_is_not_computed():
    engine = MeanEngine()
    found = answers(pipeline(engine).run([np.zeros(3), np.zeros(4)]))
    assert engine.calls == [] and len(found) == 2


def test_an_engine_that_fails_once_is_asked_again():
    engine = MeanEngine(failures=[DannError("out of memory")])
    assert answers(pipeline(engine).run(images(1, 2))) == {0: 1, 1: 2}
    assert len(engine.calls) == 2


@pytest.mark.parametrize(
    "error", [DannError("out of memory"), RuntimeError("out of memory"), MemoryError("out of memory")]
)
def test_where_it_fails_again_its_images_are_errors_and_the_others_are_not(error):
    engine = MeanEngine(failures=[None, error, error])
    found = answers(pipeline(engine).run([*images(1, 2, 3), np.zeros(3), *images(5)]))
    assert found[2] == "was not computed: out of memory" and "expected uint8" in found[3]
    assert (found[0], found[1], found[4]) == (1, 2, 5)


def test_what_no_image_should_cause_is_an_error_of_that_image(monkeypatch):
    def fail(image_HWC, spec):
        raise MemoryError("for 8 GB") if image_HWC[0, 0, 0] == 2 else ZeroDivisionError("a mistake")

    monkeypatch.setattr("dann.infer.pipeline.fit", fail)
    batches = list(pipeline(MeanEngine()).run(images(2, 3)))
    assert [(str(error), error.kind) for error in batches[0].errors if error] == [
        ("cannot be read: MemoryError: for 8 GB", "unexpected"),
        ("cannot be read: ZeroDivisionError: a mistake", "unexpected"),
    ]


@pytest.mark.parametrize(("workers", "lanes", "elsewhere"), [(1, 1, False), (3, 3, False), (2, 2, True)])
def test_batches_are_taken_only_as_far_as_there_is_room(workers, lanes, elsewhere):
    taken = []

    def counted():
        for image in images(*range(200)):
            taken.append(image)
            yield image

    running = pipeline(MeanEngine(lanes, elsewhere), batch_size=2, workers=workers).run(counted())
    for number in range(1, 20):
        next(running)
        assert len(taken) <= 2 * (number - 1 + lanes + 2)
    running.close()


def test_as_many_batches_are_computed_at_once_as_there_are_lanes():
    engine = MeanEngine(lanes=3, elsewhere=True, seconds=0.02)
    list(pipeline(engine, batch_size=1, workers=1).run(images(*range(30))))
    assert engine.most_at_once == 3


class SlowAtOnes(MeanEngine):
    """Takes its time for a batch of ones."""

    def run(self, images_NHWC):
        time.sleep(0.3 if images_NHWC[0, 0, 0, 0] == 1 else 0)
        return super().run(images_NHWC)


def test_what_is_finished_first_comes_first():
    starts = [batch.start for batch in pipeline(SlowAtOnes(lanes=2), workers=2).run(images(1, 1, 2, 2, 3, 3))]
    assert starts[-1] == 0 and sorted(starts) == [0, 2, 4]


def test_in_order_a_slow_batch_holds_those_behind_it_back_and_no_more_are_taken():
    taken = []

    def counted():
        for image in images(1, 1, *range(2, 200)):
            taken.append(image)
            yield image

    engine = SlowAtOnes(lanes=2)
    running = pipeline(engine, workers=2).run(counted(), in_order=True)
    first = next(running)
    assert first.start == 0 and len(engine.calls) == 4 and len(taken) == 8  # four buffers
    assert [batch.start for batch in running] == list(range(2, 200, 2))


def test_threads_end_with_the_last_batch_with_the_consumer_and_with_a_failure():
    def own():
        return [thread for thread in threading.enumerate() if thread.name.startswith("dann-infer")]

    list(pipeline(MeanEngine(), workers=3).run(images(*range(9))))
    assert own() == []
    running = pipeline(MeanEngine(), workers=3).run(images(*range(90)))
    next(running)
    assert len(own()) == 3
    running.close()
    assert own() == []

    def broken():
        yield from images(1, 2, 3)
        raise ZeroDivisionError("of the caller")

    with pytest.raises(ZeroDivisionError, match="of the caller"):
        list(pipeline(MeanEngine(), workers=3).run(broken()))
    assert own() == []


def test_time_is_counted_by_stage():
    running = pipeline(MeanEngine(seconds=0.01), batch_size=1, workers=2)
    list(running.run(images(*range(10))))
    assert 0.1 <= running.seconds.compute < 1 and 0 < running.seconds.decode < 0.5


def test_no_image_is_computed_twice():
    engine = MeanEngine(lanes=4)
    list(pipeline(engine, batch_size=3, workers=4).run(images(*range(1, 100))))
    counted = Counter(value for call in engine.calls for value in call)
    assert all(counted[value] == 1 for value in range(1, 100))
