"""Composing, checking and replaying a run's configuration."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.recipe import Recipe, compose
from benchmark.registry import DATASETS, METHODS, PluginRegistry
from benchmark.utils import strict_yaml


class Swatches(RetrievalDataset):
    """A dataset that brings settings of its own."""

    recipe: ClassVar[dict[str, Any]] = {
        "image_size": (24, 16),
        "teacher": {"network": {"backbone": "resnet26", "dim": 96}, "train": {"optimizer": {"lr": 0.5}}},
        "student": {"backbone": "resnet18"},
        "train": {"schedule": {"epochs": 7}, "optimizer": {"lr": 0.2}, "sampler": {"images": 3}},
    }
    method_arguments: ClassVar[dict[str, Any]] = {"mirror": {"shots": 5}}

    def __init__(self, root: Path, shades: tuple[int, ...] = (1, 2), gain: float = 1.0) -> None:
        super().__init__(root)


class Mirror(Method):
    """A method with arguments of every kind."""

    recipe: ClassVar[dict[str, Any]] = {"train": {"schedule": {"epochs": 9}}, "student": {"like": "teacher"}}
    presets: ClassVar[dict[str, Any]] = {"published": {"shots": 3, "text": "theirs", "table": {"a": 2.0}}}

    def __init__(
        self,
        weight: Annotated[float, Field(gt=0)] = 1.0,
        shots: Annotated[int, Field(ge=1)] = 2,
        rate: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto",
        stages: tuple[str, ...] = (),
        table: dict[str, float] | None = None,
        text: str = "",
        flag: bool = False,
    ) -> None:
        super().__init__()


class Demanding(Method):
    """A method with an argument that has no default."""

    def __init__(self, weight: float) -> None:
        super().__init__()


class Unclear(Method):
    """A method whose hints name nothing."""

    def __init__(self, weight: "Weight" = 1.0) -> None:  # noqa: F821
        super().__init__()


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    added: list[tuple[PluginRegistry, str, type]] = [
        (METHODS, "mirror", Mirror),
        (METHODS, "demanding", Demanding),
        (METHODS, "unclear", Unclear),
        (DATASETS, "swatches", Swatches),
    ]
    for registry, name, added_class in added:
        registry.register_module(name)(added_class)
    yield
    for registry, name, _ in added:
        registry.classes.pop(name)


@pytest.fixture
def config(tmp_path):
    """`config("seed: 1")` is a file with that text."""

    def write(text: str) -> Path:
        path = tmp_path / "my.yaml"
        path.write_text(text)
        return path

    return write


def mistakes(*settings: str, method: str = "mirror", config: Path | None = None) -> list[str]:
    with pytest.raises(UserError) as raised:
        compose(method, "swatches", config, settings)
    return str(raised.value).splitlines()


class TestOrder:
    """Defaults, the dataset's recipe, the method's, --config, --set: each wins over those before it."""

    def test_the_dataset_wins_over_the_defaults(self):
        recipe = compose("none", "swatches")
        assert (recipe.image_size, recipe.train.schedule.epochs) == ((24, 16), 7)
        assert recipe.train.sampler.images == 3
        assert recipe.train.sampler.identities == Recipe.model_fields["train"].default.sampler.identities

    def test_the_method_wins_over_the_dataset(self):
        assert compose("mirror", "swatches").train.schedule.epochs == 9

    def test_what_the_dataset_says_of_the_method_wins_over_its_defaults(self):
        assert compose("mirror", "swatches").method.arguments["shots"] == 5
        assert compose("mirror", "swatches", settings=["method.shots=4"]).method.arguments["shots"] == 4

    def test_the_file_wins_over_the_method(self, config):
        path = config("train: {schedule: {epochs: 11}}")
        recipe = compose("mirror", "swatches", path)
        assert recipe.train.schedule.epochs == 11
        assert recipe.train.optimizer.lr == 0.2

    def test_set_wins_over_the_file_and_the_last_set_over_the_first(self, config):
        path = config("train: {schedule: {epochs: 11}}")
        settings = ["train.schedule.epochs=12", "train.schedule.epochs=13"]
        assert compose("mirror", "swatches", path, settings).train.schedule.epochs == 13

    @pytest.mark.parametrize("text", ["{method: mirror, dataset: swatches, seed: 3}", "{method: {name: mirror}}"])
    def test_names_may_stand_in_the_file_and_options_win_over_it(self, config, text):
        recipe = compose(None, "swatches", config(text))
        assert (recipe.method.name, recipe.train.schedule.epochs) == ("mirror", 9)
        assert compose("none", "swatches", config(text)).method.name == "none"
        assert compose(None, "swatches", config(text), seed=5).seed == 5

    def test_a_name_given_by_set_brings_its_recipe(self):
        for setting in ("method=mirror", "method.name=mirror"):
            assert compose("none", "swatches", settings=[setting]).train.schedule.epochs == 9

    def test_the_teacher_trains_as_the_dataset_says_whatever_the_method(self):
        recipe = compose("mirror", "swatches")
        assert recipe.teacher.train.schedule.epochs == 7
        assert recipe.teacher.train.optimizer.lr == 0.5
        assert recipe.teacher.train.sampler.images == 3
        assert compose("none", "swatches").for_teacher().hash == recipe.for_teacher().hash

    def test_a_tuple_argument_may_be_written_as_a_list(self):
        assert compose("none", "swatches", settings=["dataset.shades=[3, 4]"]).dataset.arguments["shades"] == [3, 4]


class TestPresets:
    """Named sets of a method's arguments."""

    def test_wins_over_the_dataset_and_loses_to_the_user(self, config):
        preset = "method.preset=published"
        by_set = compose("mirror", "swatches", settings=[preset, "method.text=mine"]).method.arguments
        assert (by_set["shots"], by_set["text"], by_set["table"]) == (3, "mine", {"a": 2.0})
        file = config("method: {name: mirror, preset: published, text: mine}")
        assert compose(dataset="swatches", config=file).method.arguments == by_set
        assert compose("mirror", "swatches", config("method: {text: mine}"), [preset]).method.arguments == by_set

    def test_leaves_no_trace_but_its_arguments(self):
        spelled = [f"method.{key}={json.dumps(value)}" for key, value in Mirror.presets["published"].items()]
        preset, plain = (
            compose("mirror", "swatches", settings=given) for given in (["method.preset=published"], spelled)
        )
        assert preset == plain
        assert preset.hash == plain.hash

    def test_may_be_laid_over_a_saved_recipe(self, config):
        saved = config(compose("mirror", "swatches").yaml())
        assert compose(config=saved, settings=["method.preset=published"]).method.arguments["shots"] == 5
        saved.write_text(saved.read_text().replace("shots: 5", ""))
        assert compose(config=saved, settings=["method.preset=published"]).method.arguments["shots"] == 3

    def test_an_unknown_one_is_answered_with_the_nearest(self):
        with pytest.raises(UserError, match="mirror has no preset 'publishd'; did you mean 'published'"):
            compose("mirror", "swatches", settings=["method.preset=publishd"])

    @pytest.mark.parametrize("setting", ["method.preset=[published]", "method.preset={a: 1}", "method.preset=1"])
    def test_its_name_is_a_text(self, setting):
        with pytest.raises(UserError, match="mirror has no preset"):
            compose("mirror", "swatches", settings=[setting])

    @pytest.mark.parametrize("method", ["deap", "cdd"])
    def test_takes_the_place_of_what_suits_the_dataset(self, method):
        """What a preset does not name is the method's default, on any dataset."""
        name = next(iter(METHODS.find(method).presets))
        setting = [f"method.preset={name}"]
        on_glyphs, on_veri = (compose(method, dataset, settings=setting) for dataset in ("glyphs", "veri776"))
        assert on_glyphs.method == on_veri.method
        assert on_glyphs.method != compose(method, "glyphs").method
        together = compose(f"{method}+kd", "glyphs", settings=[f"method.{method}.preset={name}"]).method.arguments
        assert together[method] == on_glyphs.method.arguments


class TestLikeTeacher:
    def test_takes_the_teachers_network_and_nothing_of_the_datasets_student(self):
        recipe = compose("mirror", "swatches")
        assert recipe.student == recipe.teacher.network
        assert recipe.student.backbone == "resnet26"

    def test_follows_what_the_user_says_of_the_teacher(self):
        recipe = compose("mirror", "swatches", settings=["teacher.network.dim=32"])
        assert recipe.student.dim == 32

    @pytest.mark.parametrize("order", [0, 1])
    def test_other_keys_are_laid_over_it_in_any_order(self, order):
        settings = ["student.weights=teacher", "student.like=teacher"]
        recipe = compose("none", "swatches", settings=settings[::-1] if order else settings)
        assert recipe.student == recipe.teacher.network.model_copy(update={"weights": "teacher"})

    def test_a_student_of_the_users_own_is_changed_key_by_key(self, config):
        recipe = compose("mirror", "swatches", config("student: {backbone: resnet14t}"))
        assert recipe.student == recipe.teacher.network.model_copy(update={"backbone": "resnet14t"})

    def test_another_model_is_refused(self):
        assert mistakes("student.like=pupil") == ["student.like: can only be 'teacher', not 'pupil'"]


class TestReplay:
    def test_a_saved_recipe_gives_itself(self, config):
        settings = ["method.rate=1e-3", "method.table={a: 1}", "student.args={x: [1, two, null]}", "seed=4"]
        recipe = compose("mirror", "swatches", settings=settings)
        again = compose(None, None, config(recipe.yaml()))
        assert again == recipe
        assert again.hash == recipe.hash
        assert again.yaml() == recipe.yaml()

    def test_does_not_depend_on_the_built_in_recipes(self, config, monkeypatch):
        recipe = compose("mirror", "swatches")
        path = config(recipe.yaml())
        monkeypatch.setattr(Swatches, "recipe", {"image_size": (8, 8), "student": {"args": {"new": 1}}})
        monkeypatch.setattr(Mirror, "recipe", {})
        assert compose(None, None, path).hash == recipe.hash

    def test_may_be_changed_by_set(self, config):
        path = config(compose("mirror", "swatches").yaml())
        assert compose(None, None, path, ["train.schedule.epochs=2"]).train.schedule.epochs == 2

    def test_a_part_of_a_recipe_that_claims_to_be_a_whole_one_is_refused(self, config):
        with pytest.raises(UserError, match=r"my\.yaml has the key 'version'.* but not image_size, teacher"):
            compose("mirror", "swatches", config("{version: 1, method: mirror, dataset: swatches, seed: 1}"))

    def test_of_another_version_is_refused(self, config):
        path = config(compose("mirror", "swatches").yaml().replace("version: 1", "version: 2"))
        with pytest.raises(UserError, match=r"version in .*my\.yaml: should be 1, not 2"):
            compose(None, None, path)


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


OTHER = {
    "teacher.network.backbone": "resnet14t",
    "student.backbone": "resnet14t",
    "teacher.checkpoint": "teacher.pt",
    "runtime.compile": "inductor",
    "method.rate": 0.5,
    "method.table": {"a": 1.0},
    "method.stages": ["stage1"],
    "dataset.shades": [7],
    "image_size": [8, 8],
    "student.image_size": [8, 8],
    "teacher.network.image_size": [8, 8],
}
OTHER |= {f"{part}.train.optimizer.clip_grad": 1.0 for part in ("teacher",)} | {"train.optimizer.clip_grad": 1.0}
CHOICES = {
    "stem": "stride1",
    "last_stride": 2,
    "pool": "gem",
    "neck": "bn",
    "head": "cosine",
    "weights": "random",
    "feature": "embedding",
    "type": "adamw",
    "pad_mode": "edge",
    "amp": "off",
    "average_precision": "trapezoid",
    "ties": "optimistic",
}


def another(key: str, value: Any) -> Any:
    """A valid value of the key that is not `value`."""
    if key in OTHER:
        return OTHER[key]
    name = key.rpartition(".")[2]
    if name in CHOICES:
        return CHOICES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value / 2 + 0.01
    return {} if value is None else f"{value}x" if isinstance(value, str) else {"depth": 3}


def settable() -> dict[str, Any]:
    content = compose("mirror", "swatches").model_dump(mode="json")
    return {key: value for key, value in leaves(content) if key not in ("version", "method.name", "dataset.name")}


NO_EFFECT = {
    "runtime.workers": "3",
    "runtime.threads": "3",
    "runtime.tensorboard": "true",
    "runtime.cache": "packed",
    "runtime.skip_broken": "true",
}


@pytest.mark.parametrize("key", [*NO_EFFECT, "every other"])
def test_the_hash_ignores_how_the_work_is_done_and_nothing_else(key):
    base = compose("mirror", "swatches").hash
    if key in NO_EFFECT:
        assert compose("mirror", "swatches", settings=[f"{key}={NO_EFFECT[key]}"]).hash == base
        return
    hashes = {base: "nothing"}
    for name, value in settable().items():
        if name not in NO_EFFECT:
            changed = compose("mirror", "swatches", settings=[f"{name}={json.dumps(another(name, value))}"])
            assert changed.hash not in hashes, f"{name} gives the hash of {hashes.get(changed.hash)}"
            hashes[changed.hash] = name


class TestMistakes:
    @pytest.mark.parametrize(
        ("key", "guess"),
        [
            ("traim", "'train'"),
            ("train.schedul", "'schedule'"),
            ("train.task.triplet.marginn", "'margin'"),
            ("teacher.network.backbon", "'backbone'"),
            ("method.wieght", "'weight'"),
            ("dataset.Shades", "'shades'"),
            ("shades", "'dataset.shades'"),
            ("shots", "'method.shots'"),
            ("epochs", "'train.schedule.epochs'"),
            ("train.lr", "'train.optimizer.lr'"),
        ],
    )
    def test_an_unknown_key_is_named_with_its_place_and_the_nearest(self, config, key, guess):
        expected = f"unknown key {key!r} in %s; did you mean {guess}?"
        assert mistakes(f"{key}=1")[0].startswith(expected % "--set")
        nested: Any = 1
        for part in reversed(key.split(".")):
            nested = {part: nested}
        path = config(yaml.safe_dump(nested))
        assert mistakes(config=path)[0].startswith(expected % path)

    def test_every_key_is_checked_at_every_depth(self):
        for key in settable():
            if not key.endswith("args"):
                parent = key.rpartition(".")[0]
                lines = mistakes(f"{parent}.zzz=1" if parent else "zzz=1")
                assert len(lines) == 1, lines
                assert lines[0].startswith(f"unknown key '{parent + '.' if parent else ''}zzz' in --set. Known here: ")

    @pytest.mark.parametrize(
        ("setting", "line"),
        [
            ("seed=one", "seed in --set: should be a valid integer, not 'one'"),
            ("seed=1.0", "seed in --set: should be a valid integer, not 1.0"),
            ("seed='1'", "seed in --set: should be a valid integer, not '1'"),
            ("seed=-1", "seed in --set: should be greater than or equal to 0, not -1"),
            ("train.optimizer.nesterov=1", "train.optimizer.nesterov in --set: should be a valid boolean, not 1"),
            ("train.optimizer.type=sgdd", "train.optimizer.type in --set: should be 'sgd' or 'adamw', not 'sgdd'"),
            ("train.optimizer.lr=.inf", "train.optimizer.lr in --set: should be a finite number, not inf"),
            ("image_size=[32, 0]", "image_size.1 in --set: should be greater than 0, not 0"),
            ("train.schedule=4", "train.schedule in --set: should be a mapping, not 4"),
            ("student=resnet18", "student in --set: should be a mapping, not 'resnet18'"),
            ("teacher=null", "teacher in --set: should be a mapping, not None"),
            ("method.weight=heavy", "method.weight in --set: should be a valid number, not 'heavy'"),
            ("method.weight=0", "method.weight in --set: should be greater than 0, not 0"),
            ("method.shots=0", "method.shots in --set: should be greater than or equal to 1, not 0"),
            ("method.rate=fast", "method.rate in --set: should be a valid number or should be 'auto', not 'fast'"),
            ("method.stages=[1]", "method.stages.0 in --set: should be a valid string, not 1"),
            ("method.flag=no", "method.flag in --set: should be a valid boolean, not 'no'"),
            ("dataset.gain=true", "dataset.gain in --set: should be a valid number, not True"),
        ],
    )
    def test_a_wrong_value_is_named_with_what_is_right(self, setting, line):
        assert mistakes(setting) == [line]

    def test_a_wrong_value_in_the_file_names_the_file(self, config):
        path = config("train: {task: {label_smoothing: 1.5}}")
        assert mistakes(config=path) == [
            f"train.task.label_smoothing in {path}: should be less than 1, not 1.5",
        ]

    def test_several_are_each_reported(self, config):
        path = config("{sed: 1, image_size: [1]}")
        lines = mistakes("method.wieght=1", "dataset.gain=x", "train.schedule.epochs=0", config=path)
        assert [line.split(" in ")[0] for line in lines] == [
            "unknown key 'method.wieght'",
            "dataset.gain",
            "image_size.1 is missing; it has no default",
            "unknown key 'sed'",
            "train.schedule.epochs",
        ]

    def test_one_that_the_student_shares_with_its_model_is_reported_once(self):
        assert mistakes("teacher.network.dim=0") == [
            "teacher.network.dim in --set: should be greater than 0, not 0",
        ]

    def test_settings_that_do_not_go_together(self):
        lines = mistakes("train.optimizer.momentum=0", "train.optimizer.nesterov=true")
        assert lines == ["train.optimizer in --set: nesterov needs a momentum above 0"]

    def test_an_argument_without_default_must_be_given(self):
        assert mistakes(method="demanding") == ["method.weight is missing; it has no default"]
        assert compose("demanding", "swatches", settings=["method.weight=2"]).method.arguments == {"weight": 2.0}

    def test_hints_that_cannot_be_read_are_the_plugins_mistake(self):
        assert mistakes(method="unclear")[0].startswith("method unclear: its constructor's type hints cannot be used")

    def test_names_that_nothing_has(self):
        with pytest.raises(UserError) as raised:
            compose("miror", "Swatchs")
        lines = str(raised.value).splitlines()
        assert lines[0].startswith("unknown method 'miror'; did you mean 'mirror'? Known: ")
        assert lines[1].startswith("unknown dataset 'Swatchs'; did you mean 'swatches'? Known: ")

    @pytest.mark.parametrize("setting", ["method.name=[a]", "method=5", "method.name=true"])
    def test_a_name_that_is_no_text(self, setting):
        assert mistakes(setting)[0].startswith("unknown method")

    def test_no_name_at_all(self):
        with pytest.raises(UserError) as raised:
            compose()
        assert "--method NAME" in str(raised.value)
        assert "--dataset NAME" in str(raised.value)

    @pytest.mark.parametrize("setting", ["seed", "=1", ".seed=1", "train..lr=1"])
    def test_a_setting_that_is_no_key_and_value(self, setting):
        assert mistakes(setting)[0].startswith(f"--set {setting}: write it as key=value")

    @pytest.mark.parametrize("text", ["- a", "5", "seed: [", "seed: 1\nseed: 2", "a: &a [*a]", "!!int x: 1", "\x00"])
    def test_a_file_that_is_no_recipe(self, config, text):
        with pytest.raises(UserError, match=r"config .*my\.yaml"):
            compose("mirror", "swatches", config(text))

    def test_a_file_that_is_not_there(self, tmp_path):
        for path in (tmp_path / "none.yaml", tmp_path):
            with pytest.raises(UserError, match="cannot be read"):
                compose("mirror", "swatches", path)


class TestYaml:
    def test_code_is_refused_not_run(self, config, tmp_path):
        tag = f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path}/touched]]"
        with pytest.raises(UserError, match="python/object/apply"):
            compose("mirror", "swatches", config(f"seed: {tag}"))
        assert "python/object/apply" in mistakes(f"seed={tag}")[0]
        assert not (tmp_path / "touched").exists()

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            *[(text, 1e-3) for text in ("1e-3", "1E-3", "0.001", ".001", "1.0e-3")],
            *[(text, 1) for text in ("1", "+1")],
            *[(text, text) for text in ("no", "on", "010", "1:30", "0x10", "1_000", "2020-01-01", "=", "1e", "e3")],
            *[(text, None) for text in ("", "null", "~")],
            ("'1e-3'", "1e-3"),
            ("true", True),
        ],
    )
    def test_means_what_people_expect(self, text, value):
        loaded = strict_yaml.load(text)
        assert loaded == value
        assert type(loaded) is type(value)

    def test_a_number_with_exponent_is_a_number_everywhere(self, config):
        assert compose("mirror", "swatches", settings=["train.optimizer.lr=1e-3"]).train.optimizer.lr == 1e-3
        assert compose("mirror", "swatches", config("student: {args: {rate: 1e-3}}")).student.args["rate"] == 1e-3

    def test_anchors_and_merging_work(self):
        assert strict_yaml.load("{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}")["b"] == {"x": 1, "y": 3}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@hypothesis_settings(deadline=None)
@given(PLAIN)
def test_every_plain_value_survives_yaml(value):
    again = strict_yaml.load(strict_yaml.dump({"key": value}))["key"]
    assert json.dumps(again) == json.dumps(value)


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    lr=st.floats(1e-300, 1e300),
    text=st.text(),
    table=st.dictionaries(st.text(), st.floats(-1e300, 1e300), max_size=3),
    args=st.dictionaries(st.text(), PLAIN, max_size=3),
)
def test_what_is_set_survives_the_saved_recipe(tmp_path_factory, seed, lr, text, table, args):
    values = {
        "seed": seed,
        "train.optimizer.lr": lr,
        "method.text": text,
        "method.table": table,
        "teacher.network.args": args,
    }
    # As a shell would pass it: JSON is YAML but for the way in which it escapes what is beyond 16 bits.
    settings = [f"{key}={strict_yaml.dump(value)}" for key, value in values.items()]
    recipe = compose("mirror", "swatches", settings=settings)
    assert (recipe.seed, recipe.train.optimizer.lr) == (seed, lr)
    assert (recipe.method.arguments["text"], recipe.method.arguments["table"]) == (text, table)
    assert recipe.teacher.network.args == args
    path = tmp_path_factory.mktemp("replay") / "recipe.yaml"
    path.write_text(recipe.yaml(), encoding="utf-8", newline="")
    again = compose(None, None, path)
    assert again.hash == recipe.hash
    assert again == recipe
