"""What a SageMaker job's environment becomes; held against the parsers of torchrun and of ``dann train`` themselves."""

import json
from typing import Any

import pytest
from torch.distributed.run import config_from_args, parse_args

from dann.cli import main
from dann.infer.errors import UsageError
from dann.train.sagemaker import torchrun_arguments, train_arguments

JOB = {
    "SM_CHANNEL_SOURCE": "/opt/ml/input/data/source",
    "SM_CHANNEL_TARGET": "/opt/ml/input/data/target",
    "SM_MODEL_DIR": "/opt/ml/model",
    "SM_HOSTS": '["algo-1", "algo-2", "algo-3"]',
    "SM_CURRENT_HOST": "algo-2",
    "SM_NUM_GPUS": "4",
    "SM_HPS": "{}",
}


def with_hyperparameters(**values: Any) -> dict[str, str]:
    return {**JOB, "SM_HPS": json.dumps(values)}


def without(variable: str) -> dict[str, str]:
    return {name: value for name, value in JOB.items() if name != variable}


def options(environ: dict[str, str]) -> dict[str, Any]:
    """What ``dann train`` understands."""
    first, *words = train_arguments(environ)
    return main.commands[first].make_context(first, words).params


@pytest.mark.parametrize(("host", "rank"), [("algo-1", 0), ("algo-2", 1), ("algo-3", 2)])
def test_torchrun_meets_on_the_first_host_with_a_process_per_gpu(host: str, rank: int):
    parsed = parse_args(torchrun_arguments({**JOB, "SM_CURRENT_HOST": host}))
    launch, _, words = config_from_args(parsed)
    assert (launch.min_nodes, launch.max_nodes, launch.nproc_per_node) == (3, 3, 4)
    assert (launch.rdzv_backend, launch.rdzv_endpoint, launch.rdzv_configs["rank"]) == ("static", "algo-1:29400", rank)
    assert (parsed.module, parsed.training_script) == (True, "dann.cli")
    assert words[-len(train_arguments(JOB)) :] == train_arguments(JOB)


@pytest.mark.parametrize("job", [without("SM_NUM_GPUS"), {**JOB, "SM_NUM_GPUS": "0"}])
def test_without_gpus_each_host_has_one_process(job: dict[str, str]):
    assert config_from_args(parse_args(torchrun_arguments(job)))[0].nproc_per_node == 1


def test_channels_are_the_data_and_the_model_folder_the_runs():
    found = options({**JOB, "SM_CHANNEL_TEST": "/opt/ml/input/data/test"})
    assert [found[name] for name in ("source", "target", "test")] == [
        f"/opt/ml/input/data/{name}" for name in ("source", "target", "test")
    ]
    assert str(found["runs"]) == "/opt/ml/model"
    assert options(JOB)["test"] is None


@pytest.mark.parametrize(
    ("hyperparameters", "name", "value"),
    [
        ({"batch_size": 128}, "batch_size", 128),
        ({"batch-size": "128"}, "batch_size", 128),  # the older containers give strings
        ({"lr": 0.001}, "lr", 0.001),
        ({"backbone": "resnet18"}, "backbone", "resnet18"),
        ({"quiet": True}, "quiet", True),
        ({"quiet": "true"}, "quiet", True),
        ({"quiet": False}, "quiet", False),
        ({"optimiser.momentum": 0.95}, "settings", ("optimiser.momentum=0.95",)),
        ({"augment.flip": True}, "settings", ("augment.flip=true",)),
        ({"model.label_hidden": [64]}, "settings", ("model.label_hidden=[64]",)),
        ({"name": "a b; rm -r *"}, "name", "a b; rm -r *"),
    ],
)
def test_hyperparameters_are_options_of_train(hyperparameters: dict[str, Any], name: str, value: Any):
    assert options(with_hyperparameters(**hyperparameters))[name] == value


def test_no_hyperparameters_are_needed():
    assert train_arguments(without("SM_HPS")) == train_arguments(JOB)


@pytest.mark.parametrize("name", sorted(JOB.keys() - {"SM_HPS", "SM_NUM_GPUS"}))
def test_a_missing_variable_is_named(name: str):
    with pytest.raises(UsageError, match=f"^{name} is not set"):
        torchrun_arguments(without(name))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"SM_HOSTS": "algo-1"}, "SM_HOSTS is 'algo-1'; expected JSON, a list"),
        ({"SM_HOSTS": "{}"}, "expected JSON, a list"),
        ({"SM_HPS": "[1]"}, "SM_HPS is .* expected JSON, a dict"),
        ({"SM_CURRENT_HOST": "algo-9"}, "'algo-9', which is not one of SM_HOSTS"),
        ({"SM_NUM_GPUS": "two"}, "SM_NUM_GPUS is 'two'"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(changes: dict[str, str], says: str):
    with pytest.raises(UsageError, match=says):
        torchrun_arguments({**JOB, **changes})
