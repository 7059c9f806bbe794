"""Messages about mistakes in a recipe."""

from typing import Any

import pytest
import yaml

from benchmark.errors import UserError
from benchmark.recipe import compose


@pytest.mark.parametrize(
    ("key", "guess"),
    [
        ("traim", "train"),
        ("train.schedul", "train.schedule"),
        ("train.task.triplet.marginn", "train.task.triplet.margin"),
        ("teacher.network.backbon", "teacher.network.backbone"),
        ("method.wieght", "method.weight"),
        ("dataset.Shades", "dataset.shades"),
        ("shades", "dataset.shades"),
        ("shots", "method.shots"),
        ("epochs", "train.schedule.epochs"),
        ("train.lr", "train.optimizer.lr"),
        ("teacher.train.lr", "teacher.train.optimizer.lr"),
        ("train.learning_rate", "train.optimizer.lr"),
        ("optimizer", "train.optimizer"),
        ("num_workers", "runtime.workers"),
    ],
)
def test_unknown_key(mistakes, config, key, guess):
    message = f"{key} in %s: unknown key; did you mean {guess}? Known here: "
    assert mistakes(f"{key}=1")[0].startswith(message % "--set")
    nested: Any = 1
    for part in reversed(key.split(".")):
        nested = {part: nested}
    path = config(yaml.safe_dump(nested))
    assert mistakes(config=path)[0].startswith(message % path)


@pytest.mark.parametrize("key", ["batch_size", "train.batch_size", "train.sampler.batch_size"])
def test_batch_size(mistakes, key):
    message = f"{key} in --set: unknown key; a batch has train.sampler.identities x train.sampler.images images."
    assert mistakes(f"{key}=64")[0].startswith(message)
    assert "teacher.train.sampler.identities x" in mistakes(f"teacher.{key}=64")[0]


def test_unknown_key_of_a_dataclass(mistakes):
    message = (
        "evaluate.reranking.kk in --set: unknown key; did you mean evaluate.reranking.k2? Known here: k1, k2, weight."
    )
    assert mistakes("evaluate.reranking.kk=1") == [message]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("seed=one", "seed in --set: should be a valid integer, not 'one'"),
        ("seed=1.0", "seed in --set: should be a valid integer, not 1.0"),
        ("seed='1'", "seed in --set: should be a valid integer, not '1'"),
        ("seed=-1", "seed in --set: should be greater than or equal to 0, not -1"),
        ("train.optimizer.nesterov=1", "train.optimizer.nesterov in --set: should be true or false, not 1"),
        ("train.optimizer.type=sgdd", "train.optimizer.type in --set: should be 'sgd', 'adam' or 'adamw', not 'sgdd'"),
        ("train.optimizer.lr=.inf", "train.optimizer.lr in --set: should be a finite number, not inf"),
        ("image_size=32", "image_size in --set: should be a list, not 32"),
        ("image_size=[1, 2, 3]", "image_size in --set: should have at most 2 entries, not [1, 2, 3]"),
        ("image_size=[9999, 32]", "image_size.0 in --set: should be less than or equal to 8192, not 9999"),
        ("seed=" + "x" * 999, f"seed in --set: should be a valid integer, not '{'x' * 199}..."),
        ("image_size=[32, 0]", "image_size.1 in --set: should be greater than 0, not 0"),
        ("train.schedule=4", "train.schedule in --set: should be a mapping, not 4"),
        ("student=resnet18", "student in --set: should be a mapping, not 'resnet18'"),
        ("teacher=null", "teacher in --set: should be a mapping, not None"),
        ("method=[kd]", "method in --set: should be a mapping, not ['kd']"),
        ("train.optimizer.lr=1e13", "train.optimizer.lr in --set: should be a number from -1e+12 to 1e+12, not 1e+13"),
        ("method.weight=1e300", "method.weight in --set: should be a number from -1e+12 to 1e+12, not 1e+300"),
        ("runtime.cache=''", "runtime.cache in --set: should not be empty, not ''"),
        ("method.weight=heavy", "method.weight in --set: should be a valid number, not 'heavy'"),
        ("method.weight=0", "method.weight in --set: should be greater than 0, not 0"),
        ("method.shots=0", "method.shots in --set: should be greater than or equal to 1, not 0"),
        ("method.rate=fast", "method.rate in --set: should be a valid number or should be 'auto', not 'fast'"),
        (
            "method.stages=[1]",
            "method.stages.0 in --set: should be a valid string, not 1; quote it for YAML, in addition to the shell's "
            "quotes: '\"1\"'",
        ),
        (
            "student.backbone=",
            "student.backbone in --set: should be a valid string, not None (an empty value; text that begins with # "
            "needs quotes in addition to the shell's)",
        ),
        ("method.flag=no", "method.flag in --set: should be true or false, not 'no'"),
        ("dataset.gain=true", "dataset.gain in --set: should be a valid number, not True"),
    ],
)
def test_invalid_value(mistakes, setting, message):
    assert mistakes(setting) == [message]


def test_invalid_value_in_a_file(mistakes, config):
    path = config("train: {task: {label_smoothing: 1.5}}")
    assert mistakes(config=path) == [f"train.task.label_smoothing in {path}: should be less than 1, not 1.5"]


@pytest.mark.parametrize("content", ["student: resnet18", "student: null", "teacher: {network: 5}", "dataset: 5"])
def test_a_section_that_is_no_mapping_is_not_replaced_in_silence(mistakes, config, content):
    settings = ("student.weights=random", "teacher.network.weights=random")
    (line,) = mistakes(*settings, config=config(content))
    assert "should be a mapping" in line


def test_all_mistakes_are_reported(mistakes, config):
    path = config("{sed: 1, image_size: [1]}")
    lines = mistakes("method.wieght=1", "dataset.gain=x", "train.schedule.epochs=0", config=path)
    assert [line.split(" in ")[0] for line in lines] == [
        "method.wieght",
        "dataset.gain",
        "image_size.1: missing; it has no default",
        "sed",
        "train.schedule.epochs",
    ]


def test_mistake_in_a_shared_network_is_reported_once(mistakes):
    """The student is `like: teacher`."""
    assert mistakes("teacher.network.dim=0") == ["teacher.network.dim in --set: should be greater than 0, not 0"]


def test_values_that_exclude_each_other(mistakes):
    lines = mistakes("train.optimizer.momentum=0", "train.optimizer.nesterov=true")
    assert lines == ["train.optimizer in --set: nesterov needs a momentum above 0"]


def test_argument_without_a_default(mistakes):
    assert mistakes(method="demanding") == ["method.weight: missing; it has no default"]
    assert compose("demanding", "swatches", settings=["method.weight=2"]).method.arguments == {"weight": 2.0}


def test_type_hint_of_an_undefined_name(mistakes):
    assert mistakes(method="unclear")[0].startswith("method unclear: the type hints of its constructor cannot be eval")


def test_unknown_names():
    with pytest.raises(UserError) as raised:
        compose("miror", "Swatchs")
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("unknown method 'miror'; did you mean 'mirror'? Known: ")
    assert lines[1].startswith("unknown dataset 'Swatchs'; did you mean 'swatches'? Known: ")


@pytest.mark.parametrize("setting", ["method.name=[a]", "method.name=true"])
def test_name_of_a_wrong_type(mistakes, setting):
    assert mistakes(setting)[0].startswith("unknown method")


def test_missing_names():
    with pytest.raises(UserError) as raised:
        compose()
    assert "--method NAME" in str(raised.value)
    assert "--dataset NAME" in str(raised.value)


@pytest.mark.parametrize("setting", ["seed", "=1", ".seed=1", "train..lr=1"])
def test_setting_without_key_and_value(mistakes, setting):
    assert mistakes(setting)[0].startswith(f"--set {setting}: must be key=value")


@pytest.mark.parametrize("text", ["- a", "5", "seed: [", "seed: 1\nseed: 2", "a: &a [*a]", "!!int x: 1", "\x00"])
def test_file_without_a_recipe(config, text):
    with pytest.raises(UserError, match=r"config .*my\.yaml"):
        compose("mirror", "swatches", config(text))


def test_missing_file(tmp_path):
    for path, reason in {tmp_path / "none.yaml": "cannot be read", tmp_path: "is a folder, not a file"}.items():
        with pytest.raises(UserError, match=reason):
            compose("mirror", "swatches", path)


def test_code_in_a_file_is_not_run(mistakes, config, tmp_path):
    tag = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path}/touched]]"
    assert "python/object/apply" in mistakes(config=config(f"seed: {tag}"))[0]
    assert "python/object/apply" in mistakes(f"seed={tag}")[0]
    assert not (tmp_path / "touched").exists()
