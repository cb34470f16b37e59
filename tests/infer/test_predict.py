import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.infer.bundle import read_bundle
from dann.infer.engine import open_engine
from dann.infer.errors import UsageError
from dann.infer.images import find_images
from dann.infer.predict import Classifier

pytest.importorskip("onnxruntime", reason="needs an ONNX Runtime: dann[cpu] or dann[gpu]")


@pytest.fixture
def classifier(bundle):
    with Classifier.load(bundle, device="cpu", batch_size=2, workers=2, threads=1) as classifier:
        yield classifier


def test_predictions_come_in_the_order_of_the_images(classifier, pictures):
    order = ["z.png", "a.png", "b.png", "deep/er/c.png", "a.png"]
    predictions = list(classifier.predict([pictures / name for name in order]))
    assert [p.label for p in predictions] == ["blue", "red", "green", "blue", "red"]
    assert [p.path for p in predictions] == [str(pictures / name) for name in order]
    assert classifier.classes == ("red", "green", "blue")


def test_a_prediction_carries_probabilities_and_features(classifier, pictures):
    (prediction,) = classifier.predict([pictures / "b.png"])
    expected = np.exp([0, 8, 0]) / np.exp([0, 8, 0]).sum()
    assert prediction.error is None
    assert prediction.probabilities.dtype == np.float32
    assert np.abs(prediction.probabilities - expected).max() < 1e-6
    assert prediction.probability == prediction.probabilities[1]
    assert prediction.features.tolist() == [0, 1, 0]


def test_an_unreadable_image_is_an_error_and_the_others_are_not_affected(classifier, pictures):
    names = ["a.png", "half.jpg", "text.jpg", "b.png", "empty.png", "gone.png", "z.png"]
    predictions = list(classifier.predict(pictures / name for name in names))
    assert [p.label for p in predictions] == ["red", None, None, "green", None, None, "blue"]
    assert [bool(p.error) for p in predictions] == [False, True, True, False, True, True, False]
    assert predictions[1].probability is predictions[1].probabilities is predictions[1].features is None


def test_arrays_are_named_by_their_position(classifier):
    green = np.zeros((5, 7, 3), np.uint8)
    green[:, :, 1] = 255
    predictions = list(classifier.predict([green, green[:, :, 1], green.astype(float)]))
    assert [p.path for p in predictions] == ["0", "1", "2"]
    assert predictions[0].label == "green"
    assert predictions[1].probabilities == pytest.approx([1 / 3] * 3)
    assert "expected uint8" in predictions[2].error


def test_found_images_keep_their_names(classifier, pictures):
    names = [p.path for p in classifier.predict(find_images(pictures))]
    assert names == sorted(names) and "deep/er/c.png" in names and len(names) == 9


def test_no_images_give_no_predictions(classifier):
    assert list(classifier.predict([])) == []


@pytest.mark.parametrize("model", ["colour", "conv"])
def test_numbers_do_not_depend_on_batch_size_or_workers(make_bundle, model):
    bundle = make_bundle(model)
    rng = np.random.default_rng(0)
    images = list((rng.random((23, 1, 1, 3)) * rng.integers(0, 256, (23, 12, 10, 3))).astype(np.uint8))

    def probabilities(batch_size, workers):
        with Classifier.load(bundle, device="cpu", threads=1, batch_size=batch_size, workers=workers) as classifier:
            return np.array([p.probabilities for p in classifier.predict(images)])

    reference = probabilities(1, 1)
    assert np.ptp(reference, axis=0).max() > 0.01  # the images differ, so equality says something
    for batch_size, workers in [(2, 1), (3, 4), (7, 2), (23, 2), (64, 3)]:
        assert (probabilities(batch_size, workers) == reference).all()


def test_every_batch_has_the_same_shape(classifier, pictures, monkeypatch):
    shapes, run = [], classifier.engine.run
    monkeypatch.setattr(classifier.engine, "run", lambda batch: shapes.append(batch.shape) or run(batch))
    predictions = classifier.predict(pictures / name for name in ["a.png", "text.jpg", "b.png", "z.png", "a.png"])
    assert [p.label for p in predictions] == ["red", None, "green", "blue", "red"]
    assert shapes == [(2, 8, 8, 3)] * 3


def test_images_are_taken_only_a_few_batches_ahead(classifier, pictures):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield pictures / "a.png"

    predictions = classifier.predict(endless())
    for _ in range(10):
        next(predictions)
    predictions.close()
    assert 10 <= taken <= 10 + (classifier.engine.lanes + 2) * classifier.batch_size


def test_stopping_early_ends_the_decode_threads(classifier, pictures):
    predictions = classifier.predict([pictures / "a.png"] * 50)
    next(predictions)
    assert any(thread.name.startswith("dann-infer") for thread in threading.enumerate())
    predictions.close()
    assert not any(thread.name.startswith("dann-infer") for thread in threading.enumerate())


def test_opencv_uses_one_thread_while_the_pool_decodes(classifier, pictures):
    cv2.setNumThreads(2)
    predictions = classifier.predict([pictures / "a.png"] * 3)
    next(predictions)
    during = cv2.getNumThreads()
    list(predictions)
    assert (during, cv2.getNumThreads()) == (1, 2)


def test_broken_images_print_nothing(classifier, pictures, encode, capfd):
    png = encode(np.zeros((64, 64, 3), np.uint8))
    (pictures / "half.png").write_bytes(png[: len(png) // 2])
    (prediction,) = classifier.predict([pictures / "half.png"])
    assert prediction.error
    assert capfd.readouterr() == ("", "")


def test_an_answer_that_is_not_a_number_is_an_error(bundle, pictures):
    opened = read_bundle(bundle)
    engine = open_engine(opened, device="cpu")

    class Overflowing:
        """The engine, with the probabilities of the first image of each batch lost."""

        artefact, description, close = engine.artefact, engine.description, engine.close
        lanes, elsewhere = engine.lanes, engine.elsewhere

        def run(self, images_NHWC):
            outputs = engine.run(images_NHWC)
            outputs["probabilities"][0] = np.nan
            return outputs

    with Classifier(opened.manifest, Overflowing(), batch_size=2, workers=1) as classifier:
        first, second = classifier.predict([pictures / "a.png"] * 2)
    assert first.error == "the network's answer is not a number" and first.label is None
    assert second.label == "red"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch size is 0; this model accepts 1 to any number"),
        ({"workers": 0}, "0 decode workers"),
        ({"threads": 0}, "0 engine threads"),
        ({"threads": 100_000}, "100000 engine threads asked for; expected 1 to 1024"),
        ({"workers": 100_000}, "100000 decode workers asked for; expected 1 to 1024"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(bundle, options, message):
    with pytest.raises(UsageError, match=message):
        Classifier.load(bundle, **options)


@pytest.mark.parametrize(("least", "most", "expected"), [(2, 16, 8), (2, 6, 6), (12, 16, 12), (1, None, 8)])
def test_the_batch_size_on_a_cpu_is_8_as_far_as_the_model_takes_it(make_bundle, least, most, expected):
    bundle = make_bundle(batch={"min": least, "opt": most or 32, "max": most})
    with Classifier.load(bundle, device="cpu") as classifier:
        assert classifier.batch_size == expected
    for size in [least - 1, *([most + 1] if most else [])]:
        with pytest.raises(UsageError, match=f"accepts {least} to {most or 'any number'}"):
            Classifier.load(bundle, batch_size=size)


def test_a_bundle_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no bundle at"):
        Classifier.load(tmp_path / "missing")


def test_the_decode_pool_has_a_thread_per_usable_core(bundle):
    with Classifier.load(Path(bundle), device="cpu") as classifier:
        assert 1 <= classifier.workers <= (os.cpu_count() or 1)


@pytest.mark.parametrize("single", ["a.png", Path("a.png")])
def test_one_path_where_several_are_expected_is_refused(classifier, single):
    with pytest.raises(UsageError, match="one path was given, 'a.png'; expected several"):
        next(classifier.predict(single))


def test_several_threads_may_use_one_classifier(make_bundle, draw, tmp_path):
    rng = np.random.default_rng(0)
    paths = [draw(tmp_path / f"{n}.png", rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)) for n in range(20)]
    cv2.setNumThreads(2)
    with Classifier.load(make_bundle("conv"), device="cpu", batch_size=3, workers=2, threads=2) as classifier:
        expected = [p.probability for p in classifier.predict(paths)]

        def use(_):
            return [p.probability for p in classifier.predict(paths)]

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(use, range(8))) == [expected] * 8
    assert cv2.getNumThreads() == 2


def test_features_of_all_images_are_one_array(classifier, pictures):
    features_ND = classifier.embed([pictures / name for name in ("b.png", "text.jpg", "z.png")])
    assert features_ND.dtype == np.float32
    assert features_ND[[0, 2]].tolist() == [[0, 1, 0], [0, 0, 1]] and np.isnan(features_ND[1]).all()
    assert classifier.embed([]).shape == (0, 3)


def test_a_bundle_without_features_says_how_to_get_them(make_bundle, pictures):
    with Classifier.load(make_bundle(), device="cpu") as classifier:
        artefact = classifier.engine.artefact
        classifier.engine.artefact = replace(artefact, outputs=artefact.outputs[:2])
        with pytest.raises(UsageError, match="dann export --with-features"):
            classifier.embed([pictures / "a.png"])
