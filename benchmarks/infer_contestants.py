"""What ``benchmarks/infer.py`` measures, each in a process of its own.

    python benchmarks/infer_contestants.py FUNCTION '{"argument": …}'

prints a JSON object. Nothing heavy is imported before it is used. Images are in the one sub-folder of ``images``, as
torchvision wants it. Peers are timed from the list of files to the last answer, their network already opened and run
once; dann from the call to the file of results, opening everything included.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

BATCH = 32
WORKERS = 2

Found = dict[str, Any]


def main() -> None:
    name, arguments = sys.argv[1:]
    found = CONTESTANTS[name](**json.loads(arguments))
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # no destructor of any library is of interest


# ---- dann ------------------------------------------------------------------------------------------------------------


def dann(bundle: str, images: str, engine: str, precision: str) -> Found:
    """``classify_folder``, which is all of ``dann infer``: a CSV file with a row for each image."""
    from dann.infer import classify_folder

    with TemporaryDirectory() as folder:
        out_path = Path(folder, "preds.csv")
        began = time.perf_counter()
        summary = classify_folder(bundle, images, out_path, engine=engine, precision=precision)
        seconds = time.perf_counter() - began
        assert summary.failed == 0 and out_path.read_bytes().count(b"\n") == summary.images + 1
    return {"images": summary.images, "seconds": seconds}


# ---- peers -----------------------------------------------------------------------------------------------------------


def naive(bundle: str, images: str, size_px: int, batch: int) -> Found:
    """A loop that one writes first: ``cv2.imread``, ``cv2.resize``, onnxruntime with its default options."""
    import numpy as np

    run = _session(Path(bundle, "model.onnx"))
    files = _files(images)
    run(np.zeros((batch, size_px, size_px, 3), np.uint8))
    with _clock() as seconds:
        groups = [files[start : start + batch] for start in range(0, len(files), batch)]
        answered = [len(run(np.stack([_read(file, size_px) for file in group]))) for group in groups]
    return {"images": sum(answered), "seconds": seconds[0]}


def dataloader(bundle: str, images: str, size_px: int) -> Found:
    """torch's DataLoader with two workers, which read and resize with OpenCV, and onnxruntime."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Files(Dataset[torch.Tensor]):
        def __init__(self, files: list[Path]):
            self.files = files

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.from_numpy(_read(self.files[index], size_px))

    run = _session(Path(bundle, "model.onnx"))
    run(torch.zeros(BATCH, size_px, size_px, 3, dtype=torch.uint8).numpy())
    with _clock() as seconds:
        loader = DataLoader(Files(_files(images)), BATCH, num_workers=WORKERS)
        answered = [len(run(images_NHWC.numpy())) for images_NHWC in loader]
    return {"images": sum(answered), "seconds": seconds[0]}


def torchvision(bundle: str, images: str, size_px: int) -> Found:
    """torchvision's ImageFolder with Resize, ToTensor and Normalize in a DataLoader with two workers; onnxruntime."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    transform = transforms.Compose(
        [
            transforms.Resize((size_px, size_px)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    run = _float_session(bundle, size_px)
    with _clock() as seconds:
        loader = DataLoader(ImageFolder(images, transform), BATCH, num_workers=WORKERS)
        answered = [len(run(images_NCHW.numpy())) for images_NCHW, _ in loader]
    return {"images": sum(answered), "seconds": seconds[0]}


def timm(bundle: str, images: str, size_px: int) -> Found:
    """timm's dataset and loader as its ``inference.py`` makes them, two workers and all, on the CPU; onnxruntime."""
    import torch
    from timm.data import create_dataset, create_loader  # pyright: ignore[reportMissingImports]

    run = _float_session(bundle, size_px)
    with _clock() as seconds:
        loader = create_loader(
            create_dataset(name="", root=images, split="validation"),
            input_size=(3, size_px, size_px),
            batch_size=BATCH,
            use_prefetcher=True,
            num_workers=WORKERS,
            device=torch.device("cpu"),
            crop_pct=0.875,
        )
        answered = [len(run(images_NCHW.numpy())) for images_NCHW, _ in loader]
    return {"images": sum(answered), "seconds": seconds[0]}


def ultralytics(bundle: str, images: str, size_px: int, batch: int) -> Found:
    """``YOLO("x.onnx", task="classify").predict(folder)``; its default is a batch of 1."""
    os.environ["YOLO_AUTOINSTALL"] = "false"
    from ultralytics import YOLO  # pyright: ignore[reportMissingImports]

    with _with_metadata(Path(bundle, "floats.onnx"), size_px, batch) as model:
        network = YOLO(model, task="classify")
        [folder] = (entry for entry in Path(images).iterdir())
        options: dict[str, Any] = {"imgsz": size_px, "batch": batch, "device": "cpu", "verbose": False, "stream": True}
        first = [str(file) for file in _files(images)[:batch]]
        list(network.predict(first, **options))
        with _clock() as seconds:
            answered = sum(result.probs is not None for result in network.predict(str(folder), **options))
    return {"images": answered, "seconds": seconds[0]}


@contextmanager
def _with_metadata(model: Path, size_px: int, batch: int) -> Iterator[str]:
    """A copy of an ONNX file that says what ultralytics asks for."""
    import onnx

    from dann.infer.bundle import read_bundle

    classes = dict(enumerate(read_bundle(model.parent).manifest.classes))
    loaded = onnx.load(model)
    about = {"task": "classify", "names": classes, "stride": 1, "imgsz": [size_px, size_px], "batch": batch}
    onnx.helper.set_model_props(loaded, {name: str(value) for name, value in {**about, "dynamic": True}.items()})
    with TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(loaded, path)
        yield str(path)


def _read(file: Path, size_px: int) -> Any:
    """As most do it with OpenCV: uint8 RGB (H, W, 3)."""
    import cv2

    image = cv2.imread(str(file))
    assert image is not None
    return cv2.cvtColor(cv2.resize(image, (size_px, size_px)), cv2.COLOR_BGR2RGB)


def _files(images: str) -> list[Path]:
    return sorted(Path(images).glob("*/*.jpg"))


def _session(model: Path) -> Callable[[Any], Any]:
    """onnxruntime as it is without options; gives the first output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _float_session(bundle: str, size_px: int) -> Callable[[Any], Any]:
    """Of the network without its first layers, warmed up."""
    import numpy as np

    run = _session(Path(bundle, "floats.onnx"))
    run(np.zeros((BATCH, 3, size_px, size_px), np.float32))
    return run


@contextmanager
def _clock() -> Iterator[list[float]]:
    """A list that holds the seconds of the block when it has ended."""
    seconds: list[float] = []
    began = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - began)


# ---- what the machine can do -----------------------------------------------------------------------------------------


def decode(images: str, size_px: int, threads: list[int], seconds: float) -> Found:
    """Images a second of decoding and resizing alone, by number of threads."""
    import cv2

    from dann.infer.preprocess import PreprocessSpec, load_image
    from dann.infer.timing import timed

    cv2.setNumThreads(1)
    spec, files, lock = PreprocessSpec(height=size_px, width=size_px), cycle(_files(images)), Lock()

    def decode_next() -> None:
        with lock:
            file = next(files)
        load_image(file, spec)

    return {f"{count} threads": timed(decode_next, at_once=count, seconds=seconds).per_second for count in threads}


def engine(
    bundle: str,
    images: str,
    size_px: int,
    engine: str,
    precision: str,
    settings: list[tuple[str, int]],
    seconds: float,
) -> Found:
    """Images a second of an engine's own interface alone, by setting: how the cores share the work, and a batch size.

    How is ``parallel``, as many batches at once as there are cores, each on one; or ``shared``, one batch on all.
    """
    import numpy as np

    from dann.infer.preprocess import PreprocessSpec, load_image
    from dann.infer.timing import timed

    spec = PreprocessSpec(height=size_px, width=size_px)
    pixels_NHWC = np.stack([load_image(file, spec) for file in _files(images)[:32]])
    found = {}
    for how, batch in settings:
        opened, at_once = RAW[engine](bundle, precision, how)
        run = partial(opened, pixels_NHWC.take(range(batch), axis=0, mode="wrap"))
        found[f"{how}, batch {batch}"] = batch * timed(run, at_once=at_once, seconds=seconds).per_second
    return found


def _raw_ort(bundle: str, precision: str, how: str) -> tuple[Callable[[Any], object], int]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as dann does, for its graphs in int8
    at_once = 1
    if how == "parallel":
        at_once, options.intra_op_num_threads = _cores(), 1
    name = "model.onnx" if precision == "fp32" else f"model.{precision}.onnx"
    session = onnxruntime.InferenceSession(Path(bundle, name), options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"images": batch}), at_once


def _raw_openvino(bundle: str, precision: str, how: str) -> tuple[Callable[[Any], object], int]:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # else it reports to its makers
    import openvino

    name = "model.xml" if precision == "fp32" else f"model.{precision}.xml"
    hint = "LATENCY" if how == "shared" else "THROUGHPUT"
    settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}
    if how == "parallel":
        settings["PERFORMANCE_HINT_NUM_REQUESTS"] = str(_cores())
    compiled = openvino.Core().compile_model(Path(bundle, "openvino", name), "CPU", settings)
    at_once = 1 if how == "shared" else compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    compiled.input(0).get_element_type().to_dtype()  # the first time in two threads at once, it never ends
    requests = [compiled.create_infer_request() for _ in range(at_once)]

    def run(batch: Any) -> None:
        request = requests.pop()
        request.infer([batch], share_inputs=True)
        requests.append(request)

    return run, at_once


RAW = {"ort": _raw_ort, "openvino": _raw_openvino}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


# ---- memory ----------------------------------------------------------------------------------------------------------


def engine_memory(bundle: str, size_px: int, engine: str, precision: str, batch: int, seconds: float) -> Found:
    """Resident memory, in bytes, of a process that opens an engine as dann does and runs it, and nothing more."""
    import numpy as np

    opened, at_once = RAW[engine](bundle, precision, "parallel")
    batch_NHWC = np.random.default_rng(0).integers(0, 256, (batch, size_px, size_px, 3), np.uint8)
    samples = _Samples()

    def run() -> None:
        opened(batch_NHWC)
        samples.take()

    from dann.infer.timing import timed

    timed(run, at_once=at_once, seconds=seconds)
    return samples.found()


def dann_memory(bundle: str, images: str, engine: str, precision: str) -> Found:
    """The same of a process that classifies a folder; and its images a second."""
    from dann.infer import classify_folder

    samples = _Samples()
    with TemporaryDirectory() as folder:
        summary = classify_folder(
            bundle,
            images,
            Path(folder, "preds.csv"),
            engine=engine,
            precision=precision,
            on_progress=lambda done, total: samples.take(),
        )
    return {**samples.found(), "images": summary.images, "images_per_second": summary.images_per_second}


class _Samples:
    """How much memory of the process is resident, now and then."""

    def __init__(self) -> None:
        self._taken: list[int] = []
        self._due = 0.0

    def take(self) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + 0.02
            self._taken.append(_status("VmRSS"))

    def found(self) -> Found:
        """The median of the later half, and the most there ever was."""
        later = sorted(self._taken[len(self._taken) // 2 :])
        return {"steady": later[len(later) // 2], "peak": max(_status("VmHWM"), *self._taken)}


def _status(name: str) -> int:
    lines: Iterable[str] = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


CONTESTANTS: dict[str, Callable[..., Found]] = {
    function.__name__: function
    for function in (
        dann, naive, dataloader, torchvision, timm, ultralytics, decode, engine, engine_memory, dann_memory
    )
}  # fmt: skip

if __name__ == "__main__":
    main()
