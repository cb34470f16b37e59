"""Which images a verdict is on, and what is shipped for the next machine."""

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dann.export.verify_images import (
    Sample,
    calibration_images,
    labelled_images,
    sample_images,
    synthetic_images,
    verify_npz,
)
from dann.infer.errors import DannError, UsageError
from dann.infer.preprocess import PreprocessSpec, load_image
from dann.train.settings import DataConfig, TrainConfig

SPEC = PreprocessSpec(height=8, width=12)


def config(root: Path, target: str | None = "photos") -> TrainConfig:
    data = DataConfig(
        source=str(root / "renders"),
        target=None if target is None else str(root / target),
        height=SPEC.height,
        width=SPEC.width,
    )
    return TrainConfig(data=data)


def sample(config: TrainConfig, spec: str | None, count: int) -> Sample:
    return sample_images(config, spec, count, option="--verify-data")


def write_photos(folder: Path, values: range) -> None:
    folder.mkdir(parents=True)
    for value in values:
        assert cv2.imwrite(str(folder / f"{value:03}.png"), np.full((8, 12, 3), value, np.uint8))


def values(images_NHWC: np.ndarray) -> list[int]:
    return sorted(images_NHWC[:, 0, 0, 0].tolist())


def test_target_images_come_first_then_source_images(tmp_path: Path):
    write_photos(tmp_path / "photos", range(10, 13))
    write_photos(tmp_path / "renders" / "car", range(3))
    found = sample(config(tmp_path), None, 256)
    assert (values(found.images_NHWC), found.origin) == ([10, 11, 12], "target images")
    found = sample(config(tmp_path, target=None), None, 256)
    assert (values(found.images_NHWC), found.origin) == ([0, 1, 2], "source images")


def test_simulated_photos_are_called_so(tmp_path: Path):
    write_photos(tmp_path / "photos", range(3))
    (tmp_path / "cars.json").write_text('{"renderer": 1}')
    assert sample(config(tmp_path), None, 2).origin == "target images (simulated photos)"


def test_sample_is_random_without_repeats_and_the_same_again(tmp_path: Path):
    write_photos(tmp_path / "photos", range(40))
    first, second = (sample(config(tmp_path), None, 10) for _ in range(2))
    np.testing.assert_array_equal(first.images_NHWC, second.images_NHWC)
    assert len(set(values(first.images_NHWC))) == 10 and values(first.images_NHWC) != list(range(10))
    assert first.to_dict() == second.to_dict() and first.to_dict()["images"] == 10


def test_pixels_are_those_of_inference(tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    assert cv2.imwrite(str(folder / "a.jpg"), rng.integers(0, 256, (31, 23, 3), np.uint8))
    found = sample(config(tmp_path), None, 1)
    np.testing.assert_array_equal(found.images_NHWC[0], load_image(folder / "a.jpg", SPEC))


def test_images_that_cannot_be_decoded_are_passed_over(tmp_path: Path):
    write_photos(tmp_path / "photos", range(4))
    whole = (tmp_path / "photos" / "000.png").read_bytes()
    (tmp_path / "photos" / "truncated.png").write_bytes(whole[: len(whole) // 2])
    assert values(sample(config(tmp_path), None, 256).images_NHWC) == [0, 1, 2, 3]


def test_set_without_a_readable_image_is_refused(tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("not an image")
    with pytest.raises(DannError, match="none of 1 images can be read"):
        sample(config(tmp_path), None, 256)


def test_training_images_that_are_gone_are_named_with_the_way_out(tmp_path: Path):
    with pytest.raises(UsageError, match=r"photos' does not exist.*name other images with --verify-data SPEC"):
        sample(config(tmp_path), None, 256)


def test_verify_data_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="elsewhere' does not exist") as caught:
        sample(config(tmp_path), str(tmp_path / "elsewhere"), 256)
    assert "--verify-data" not in str(caught.value)


CLASSES = ("bus", "car")


def test_labels_are_those_of_the_images_named_or_else_of_the_tests(tmp_path: Path):
    for position, name in enumerate(CLASSES):
        write_photos(tmp_path / "tested" / name, range(100 * position, 100 * position + 2))
        write_photos(tmp_path / "named" / name, range(100 * position + 10, 100 * position + 13))
    write_photos(tmp_path / "photos", range(3))
    settings = config(tmp_path)
    assert labelled_images(settings, None, CLASSES) is None
    settings = replace(settings, data=replace(settings.data, test=str(tmp_path / "tested")))
    for spec, count in ((None, 4), (str(tmp_path / "named"), 6)):
        found = labelled_images(settings, spec, CLASSES)
        assert found is not None
        images_NHWC, labels_N = found
        assert len(images_NHWC) == count and (labels_N == (images_NHWC[:, 0, 0, 0] >= 100)).all()
    assert labelled_images(settings, str(tmp_path / "photos"), CLASSES) is None
    assert labelled_images(settings, str(tmp_path / "named"), ("bus", "tram")) is None


def test_calibration_is_on_other_images_than_the_verdict(tmp_path: Path):
    write_photos(tmp_path / "photos", range(20))
    settings = config(tmp_path)
    verdict, calibration = sample(settings, None, 10), calibration_images(settings, None, 10, CLASSES)
    assert set(values(verdict.images_NHWC)).isdisjoint(values(calibration.images_NHWC))
    np.testing.assert_array_equal(calibration.images_NHWC, calibration_images(settings, None, 10, CLASSES).images_NHWC)


def test_images_of_one_class_are_nothing_to_calibrate_on(tmp_path: Path):
    for folder in ("both/bus", "both/car", "flat", "one/car"):
        write_photos(tmp_path / folder, range(3))
    settings = config(tmp_path)
    for good in ("both", "flat"):
        assert len(calibration_images(settings, str(tmp_path / good), 2, CLASSES).images_NHWC) == 2
    with pytest.raises(UsageError, match="one' to calibrate on are all of the class 'car'; expected some of all"):
        calibration_images(settings, str(tmp_path / "one"), 2, CLASSES)
    (tmp_path / "one" / "bus").mkdir()  # without images, it changes nothing
    with pytest.raises(UsageError, match="are all of the class 'car'"):
        calibration_images(settings, str(tmp_path / "one"), 2, CLASSES)
    write_photos(tmp_path / "by day" / "monday", range(3))  # which is no class
    assert len(calibration_images(settings, str(tmp_path / "by day"), 2, CLASSES).images_NHWC) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        calibration_images(settings, str(tmp_path / "empty"), 2, CLASSES)
    with pytest.raises(UsageError, match="photos' does not exist.*name other images with --calib SPEC"):
        calibration_images(settings, None, 2, CLASSES)


def test_synthetic_images_are_the_same_every_time_and_differ_from_each_other():
    images_NHWC = synthetic_images(SPEC)
    assert images_NHWC.shape == (16, 8, 12, 3) and images_NHWC.dtype == np.uint8
    np.testing.assert_array_equal(images_NHWC, synthetic_images(SPEC))
    assert len(np.unique(images_NHWC.reshape(16, -1), axis=0)) == 16


def test_npz_is_the_same_to_the_last_byte_and_reads_without_pickle():
    images_NHWC, logits_NK = synthetic_images(SPEC), np.zeros((16, 2), np.float32)
    data = verify_npz(images_NHWC, {"fp16": logits_NK})
    assert data == verify_npz(images_NHWC, {"fp16": logits_NK})
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["images"], images_NHWC)
        np.testing.assert_array_equal(stored["fp16"], logits_NK)
