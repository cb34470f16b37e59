"""Starts a SageMaker training job. See README.md beside it, and ``python launch.py --help``.

Needs AWS credentials and the SageMaker Python SDK 3 (``pip install sagemaker-train``); dann needs neither.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from sagemaker.core.training.configs import Compute, InputData, SourceCode, StoppingCondition
from sagemaker.train import ModelTrainer

HERE = Path(__file__).parent


def start(options: argparse.Namespace) -> None:
    """Upload what the hosts run, and start the job; the logs are followed until it ends."""
    channels = {"source": options.source, "target": options.target, "test": options.test}
    with tempfile.TemporaryDirectory() as folder:
        for file in (HERE / "train.sh", HERE / "train.py", options.wheel):
            shutil.copy(file, folder)
        trainer = ModelTrainer(
            training_image=options.image,
            role=options.role,
            base_job_name="dann",
            source_code=SourceCode(source_dir=folder, command="bash train.sh"),
            compute=Compute(instance_type=options.instance_type, instance_count=options.instances),
            stopping_condition=StoppingCondition(max_runtime_in_seconds=round(3600 * options.max_hours)),
            hyperparameters=dict(text.split("=", 1) for text in options.hyperparameters),
        )
        data = [InputData(channel_name=name, data_source=uri) for name, uri in channels.items() if uri]
        trainer.train(input_data_config=data)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train dann on Amazon SageMaker.")
    parser.add_argument("--source", required=True, metavar="S3_URI", help="labelled images: a folder per class")
    parser.add_argument("--target", required=True, metavar="S3_URI", help="unlabelled images")
    parser.add_argument("--test", metavar="S3_URI", help="labelled target images to report accuracy on")
    parser.add_argument("--wheel", required=True, type=Path, help="dist/dann-….whl, as `make wheel` leaves it")
    parser.add_argument("--image", required=True, help="a PyTorch training image with torch 2.9 or newer")
    parser.add_argument("--role", help="execution role (default: that of the SDK's configuration)")
    parser.add_argument("--instance-type", default="ml.g5.xlarge", help="(default: %(default)s)")
    parser.add_argument("--instances", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--max-hours", type=float, default=24.0, help="the job is stopped then (default: %(default)s)")
    parser.add_argument("hyperparameters", nargs="*", metavar="KEY=VALUE", help="for dann train: epochs=20 lr=1e-3")
    options = parser.parse_args()
    if wrong := [text for text in options.hyperparameters if "=" not in text]:
        parser.error(f"{wrong[0]!r} is not KEY=VALUE")
    start(options)


if __name__ == "__main__":
    main()
