"""Classify images by a Triton server that serves what dann exported for it.

    pip install dann "tritonclient[grpc]"
    python examples/triton_client.py --model classifier_onnx_fp32 imgs/ car.jpg

Prints a line per image: path, class and probability, with tabs between them. The model's configuration on the server
says how images are prepared, and its labels name the classes: the bundle is not needed here, nor torch, nor an engine.
Exit codes are those of ``dann infer``: 3 where some images could not be read, 1 where the server does not answer.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from dann.infer import DannError, ImageError, ImageFile, PreprocessSpec, find_images, load_image

BATCH = 32


def classify(client: triton.InferenceServerClient, model: str, images: Sequence[ImageFile]) -> int:
    """Print what ``model`` says of each image; how many could not be read."""
    if not client.is_model_ready(model):
        raise DannError(f"the server has no model {model!r} that is ready; its log says what it has, and why not")
    served: Any = client.get_model_config(model)
    config = served.config
    if "preprocess" not in config.parameters:
        raise DannError(f"the model {model!r} does not say how images are prepared for it; expected one of dann's")
    spec = PreprocessSpec(**json.loads(config.parameters["preprocess"].string_value))
    unreadable = 0
    todo = iter(images)
    while group := list(islice(todo, min(BATCH, config.max_batch_size))):
        pixels_HWC = {}
        for image in group:
            try:
                pixels_HWC[image.path] = load_image(image.path, spec)
            except ImageError as error:
                print(f"{image.path} {error}", file=sys.stderr)
                unreadable += 1
        if pixels_HWC:
            answers = ask(client, model, np.stack(list(pixels_HWC.values())))
            for path, (label, probability) in zip(pixels_HWC, answers, strict=True):
                print(path, label, probability, sep="\t")
    return unreadable


def ask(client: triton.InferenceServerClient, model: str, images_NHWC: np.ndarray) -> list[tuple[str, str]]:
    """Label and probability of the most probable class of each image."""
    tensor = triton.InferInput("images", list(images_NHWC.shape), "UINT8")
    tensor.set_data_from_numpy(images_NHWC)
    # the server looks the class up: "0.981204:2:coupe"
    best = triton.InferRequestedOutput("probabilities", class_count=1)
    answer: Any = client.infer(model, [tensor], outputs=[best])
    parts = [text.decode("utf-8").split(":", 2) for text in answer.as_numpy("probabilities")[:, 0]]
    return [(label, probability) for probability, _, label in parts]


def main() -> int:
    parser = argparse.ArgumentParser(description="Classify images by a Triton server.")
    parser.add_argument("images", nargs="+", help="image files, folders or patterns")
    parser.add_argument("--model", required=True, help="its name in the repository, as in classifier_onnx_fp32")
    parser.add_argument("--server", default="localhost:8001", help="host and port of gRPC (default: %(default)s)")
    options = parser.parse_args()
    try:
        images = [image for location in options.images for image in find_images(location)]
        with triton.InferenceServerClient(options.server) as client:
            return 3 if classify(client, options.model, images) else 0
    except DannError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except InferenceServerException as error:
        print(f"error: the server at {options.server}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
