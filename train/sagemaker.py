"""From the environment of a SageMaker training job to the words that ``torchrun`` is given on each of its hosts.

SageMaker names the data channels, the hosts and the folder that it uploads afterwards in variables that begin with
``SM_`` (https://github.com/aws/sagemaker-training-toolkit, ENVIRONMENT_VARIABLES.md). Nothing here talks to AWS.
``examples/sagemaker`` is a job that uses it.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from dann.infer.errors import UsageError

PORT = 29400
"""Where the hosts meet, on the first of them."""


def torchrun_arguments(environ: Mapping[str, str]) -> list[str]:
    """Everything after ``torchrun``: how many processes on how many hosts, then ``-m dann.cli train …``.

    One process per GPU, or one where there is none. The first host in ``SM_HOSTS`` has rank 0, which writes the run.
    Raises :class:`UsageError` for a variable that is missing or makes no sense.
    """
    hosts, here = _json(environ, "SM_HOSTS", list), _required(environ, "SM_CURRENT_HOST")
    if here not in hosts:
        raise UsageError(f"SM_CURRENT_HOST is {here!r}, which is not one of SM_HOSTS, {hosts}")
    gpus = environ.get("SM_NUM_GPUS", "0")
    if not gpus.isdecimal():
        raise UsageError(f"SM_NUM_GPUS is {gpus!r}; expected a number")
    return [
        f"--nnodes={len(hosts)}",
        f"--node-rank={hosts.index(here)}",
        f"--nproc-per-node={max(1, int(gpus))}",
        f"--master-addr={hosts[0]}",
        f"--master-port={PORT}",
        "-m",
        "dann.cli",
        *train_arguments(environ),
    ]


def train_arguments(environ: Mapping[str, str]) -> list[str]:
    """``train`` and its options: the channels ``source``, ``target`` and, if there is one, ``test``; hyperparameters.

    A hyperparameter ``batch_size`` becomes ``--batch-size``; ``true`` becomes a flag and ``false`` nothing; one with a
    dot in its name, ``optimiser.momentum``, is any setting that ``--set`` takes. Raises as :func:`torchrun_arguments`.
    """
    words = ["train", "--source", _required(environ, "SM_CHANNEL_SOURCE")]
    words += ["--target", _required(environ, "SM_CHANNEL_TARGET")]
    if "SM_CHANNEL_TEST" in environ:
        words += ["--test", environ["SM_CHANNEL_TEST"]]
    words += ["--runs", _required(environ, "SM_MODEL_DIR")]
    for name, value in _json({"SM_HPS": "{}", **environ}, "SM_HPS", dict).items():
        words += _option(name, value)
    return words


def _option(name: str, value: Any) -> Iterator[str]:
    text = value if isinstance(value, str) else json.dumps(value)
    if "." in name:
        yield from ("--set", f"{name}={text}")
    elif text != "false":
        yield f"--{name.replace('_', '-')}"
        if text != "true":
            yield text


def _required(environ: Mapping[str, str], name: str) -> str:
    if name not in environ:
        raise UsageError(
            f"{name} is not set; a SageMaker job sets it, and the channels `source` and `target` are needed"
        )
    return environ[name]


def _json(environ: Mapping[str, str], name: str, kind: type) -> Any:
    text = _required(environ, name)
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise UsageError(f"{name} is {text!r}; expected JSON, a {kind.__name__}")
    return value
