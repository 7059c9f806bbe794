"""Composing, saving and repeating the configuration of a run."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmark.errors import UserError
from benchmark.recipe import Recipe, compose, replay, student_only
from benchmark.recipe.compose import parse_setting
from benchmark.recipe.sections import Sampler, Schedule, Train
from benchmark.registry import DATASETS, METHODS
from benchmark.utils import strict_yaml
from benchmark.utils.mappings import merge


class TestPrecedence:
    """Defaults, the dataset's recipe, the method's recipe, --config, --set: later values override earlier ones."""

    def test_dataset_over_defaults(self):
        recipe = compose("none", "swatches")
        assert (recipe.image_size, recipe.train.schedule.epochs) == ((24, 16), 7)
        assert recipe.train.sampler.images == 3
        assert recipe.train.sampler.identities == Recipe.model_fields["train"].default.sampler.identities

    def test_method_over_dataset(self):
        assert compose("mirror", "swatches").train.schedule.epochs == 9

    def test_config_over_method(self, config):
        recipe = compose("mirror", "swatches", config("train: {schedule: {epochs: 11}}"))
        assert recipe.train.schedule.epochs == 11
        assert recipe.train.optimizer.lr == 0.2
        assert recipe == compose("mirror", "swatches", {"train": {"schedule": {"epochs": 11}}})

    def test_set_over_config_and_earlier_set(self, config):
        settings = ["train.schedule.epochs=12", "train.schedule.epochs=13"]
        recipe = compose("mirror", "swatches", config("train: {schedule: {epochs: 11}}"), settings)
        assert recipe.train.schedule.epochs == 13

    @pytest.mark.parametrize("text", ["{method: mirror, dataset: swatches, seed: 3}", "{method: {name: mirror}}"])
    def test_names_in_the_config(self, config, text):
        recipe = compose(None, "swatches", config(text))
        assert (recipe.method.name, recipe.train.schedule.epochs) == ("mirror", 9)
        assert compose("none", "swatches", config(text)).method.name == "none"
        assert compose(None, "swatches", config(text), seed=5).seed == 5

    @pytest.mark.parametrize("setting", ["method=mirror", "method.name=mirror"])
    def test_name_in_a_setting(self, setting):
        assert compose("none", "swatches", settings=[setting]).train.schedule.epochs == 9

    def test_teacher_trains_by_the_recipe_of_the_dataset(self):
        recipe = compose("mirror", "swatches")
        assert recipe.teacher.train.schedule.epochs == 7
        assert recipe.teacher.train.optimizer.lr == 0.5
        assert recipe.teacher.train.sampler.images == 3
        assert compose("none", "swatches").for_teacher().hash == recipe.for_teacher().hash

    def test_tuple_argument_as_a_list(self):
        assert compose("none", "swatches", settings=["dataset.shades=[3, 4]"]).dataset.arguments["shades"] == [3, 4]


@pytest.mark.parametrize("method", METHODS.names())
def test_every_method_has_a_valid_recipe(method):
    recipe = compose(method, "glyphs")
    assert (recipe.method.name, recipe.dataset.name) == (method, "glyphs")


@pytest.mark.parametrize("dataset", DATASETS.names())
def test_every_dataset_has_a_valid_recipe(dataset):
    assert compose("kd", dataset).dataset.name == dataset


class TestPresets:
    """Named sets of a method's arguments."""

    def test_precedence(self, config):
        """Over the dataset's arguments, under the user's."""
        preset = "method.preset=published"
        arguments = compose("mirror", "swatches", settings=[preset, "method.text=mine"]).method.arguments
        assert (arguments["shots"], arguments["text"], arguments["table"]) == (3, "mine", {"a": 2.0})
        in_config = config("method: {name: mirror, preset: published, text: mine}")
        assert compose(dataset="swatches", config=in_config).method.arguments == arguments
        assert compose("mirror", "swatches", config("method: {text: mine}"), [preset]).method.arguments == arguments

    def test_hash_is_that_of_its_arguments(self):
        arguments = METHODS.find("mirror").presets["published"]
        spelled_out = [f"method.{key}={json.dumps(value)}" for key, value in arguments.items()]
        preset = compose("mirror", "swatches", settings=["method.preset=published"])
        explicit = compose("mirror", "swatches", settings=spelled_out)
        assert preset == explicit
        assert preset.hash == explicit.hash

    def test_over_a_saved_recipe(self, config):
        saved = config(compose("mirror", "swatches", settings=["method.shots=5"]).yaml())
        assert compose(config=saved, settings=["method.preset=published"]).method.arguments["shots"] == 5
        saved.write_text(saved.read_text().replace("shots: 5", ""))
        assert compose(config=saved, settings=["method.preset=published"]).method.arguments["shots"] == 3

    def test_unknown_name(self):
        with pytest.raises(UserError, match="mirror has no preset 'publishd'; did you mean 'published'"):
            compose("mirror", "swatches", settings=["method.preset=publishd"])

    @pytest.mark.parametrize("value", ["[published]", "{a: 1}", "1"])
    def test_name_of_a_wrong_type(self, value):
        with pytest.raises(UserError, match="mirror has no preset"):
            compose("mirror", "swatches", settings=[f"method.preset={value}"])

    def test_replaces_the_arguments_of_a_budget(self):
        settings = ["budget=0.2", "method.preset=released"]
        preset = compose("cdd", "glyphs2", settings=settings).method.arguments
        assert (preset["lasso"], preset["ratio_of"], preset["target_macs"]) == (0.004, "initial", 0.2)
        combined = compose("cdd+kd", "glyphs2", settings=["budget=0.2", "method.cdd.preset=released"])
        assert combined.method.arguments["cdd"] == preset


class TestLikeTeacher:
    def test_network_of_the_teacher(self):
        """The student of the dataset's recipe is replaced as a whole."""
        recipe = compose("mirror", "swatches")
        assert recipe.student == recipe.teacher.network
        assert recipe.student.backbone == "resnet26"

    def test_changes_of_the_teacher_apply(self):
        assert compose("mirror", "swatches", settings=["teacher.network.dim=32"]).student.dim == 32

    @pytest.mark.parametrize("order", [1, -1])
    def test_other_keys_in_any_order(self, order):
        settings = ["student.weights=teacher", "student.like=teacher"][::order]
        recipe = compose("none", "swatches", settings=settings)
        assert recipe.student == recipe.teacher.network.model_copy(update={"weights": "teacher"})

    def test_changes_of_the_student_apply(self, config):
        recipe = compose("mirror", "swatches", config("student: {backbone: resnet14t}"))
        assert recipe.student == recipe.teacher.network.model_copy(update={"backbone": "resnet14t"})

    def test_other_network(self, mistakes):
        assert mistakes("student.like=pupil") == ["student.like: must be 'teacher', not 'pupil'"]


class TestArgs:
    """The arguments of a backbone do not outlive it, and can be removed."""

    @pytest.fixture
    def with_args(self, monkeypatch):
        """The student of swatches has `args: {depth: 3}`."""
        changed = DATASETS.find("swatches").recipe | {"student": {"backbone": "resnet18", "args": {"depth": 3}}}
        monkeypatch.setattr(DATASETS.find("swatches"), "recipe", changed)

    @pytest.mark.parametrize(
        ("settings", "args"),
        [
            ([], {"depth": 3}),
            (["student.args.width=2"], {"depth": 3, "width": 2}),
            (["student.backbone=resnet18"], {"depth": 3}),
            (["student.backbone=resnet34"], {}),
            (["student.args.width=2", "student.backbone=resnet34"], {"width": 2}),
            (["student.args={}"], {}),
            (["student.args={}", "student.args.width=2"], {"width": 2}),
            (["student.args.width=2", "student.args={}"], {}),
        ],
    )
    def test_settings(self, with_args, settings, args):
        assert compose("none", "swatches", settings=settings).student.args == args

    def test_layers(self, with_args, config):
        path = config("student: {backbone: resnet34, args: {width: 2}}")
        assert compose("none", "swatches", path).student.args == {"width": 2}
        assert compose("none", "swatches", path, ["student.backbone=resnet50"]).student.args == {}
        saved = config(compose("none", "swatches", {"student": {"args": {"width": 2}}}).yaml())
        assert compose(config=saved, settings=["student.args={}"]).student.args == {}

    def test_student_like_the_teacher(self):
        settings = ["teacher.network.args.depth=3", "student.like=teacher"]
        assert compose("none", "swatches", settings=settings).student.args == {"depth": 3}
        assert compose("none", "swatches", settings=[*settings, "student.backbone=resnet50"]).student.args == {}


class TestDelete:
    """A mapping with `_delete_: true` replaces the one below it."""

    @pytest.mark.parametrize(
        "settings",
        [
            ["train.schedule._delete_=true", "train.schedule.warmup_epochs=2"],
            ["train.schedule.warmup_epochs=2", "train.schedule._delete_=true"],
            ["train.schedule={_delete_: true, warmup_epochs: 2}"],
        ],
    )
    def test_section(self, settings):
        recipe = compose("none", "swatches", settings=settings)
        assert recipe.train.schedule == Schedule(warmup_epochs=2)
        assert recipe.train.sampler.images == 3

    def test_over_a_config(self, config):
        path = config("train: {schedule: {_delete_: true, epochs: 3}, sampler: {_delete_: false}}")
        recipe = compose("none", "swatches", path, ["train._delete_=true", "train.sampler.views=2"])
        assert compose("none", "swatches", path).train.schedule == Schedule(epochs=3)
        assert recipe.train == Train(sampler=Sampler(views=2))

    @pytest.mark.parametrize("names", [{}, {"method": "mirror", "dataset": "swatches"}])
    def test_arguments_but_not_the_name(self, names):
        settings = ["method.shots=3", "method._delete_=true", "dataset._delete_=true"]
        content = {key: {"name": name} for key, name in names.items()}
        recipe = compose(*(() if names else ("mirror", "swatches")), config=content, settings=settings)
        assert (recipe.method.name, recipe.dataset.name) == ("mirror", "swatches")

    def test_mapping_of_an_argument(self):
        changes = {"method": {"table": {"a": 1.0}}}
        recipe = compose("mirror", "swatches", changes, ["method.table={_delete_: true, b: 2}"])
        assert recipe.method.arguments["table"] == {"b": 2.0}

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["train._delete_=yes please"], "train._delete_: must be true or false, not 'yes please'"),
            (["_delete_=true"], "_delete_ in --set: replaces a section; write it in one"),
        ],
    )
    def test_mistakes(self, mistakes, settings, message):
        assert message in mistakes(*settings)[0]


class TestStudentOnly:
    """`train` is for the student; what was not given for the teacher, too, is named."""

    @pytest.mark.parametrize(
        ("settings", "notes"),
        [
            ([], []),
            (["method.shots=3"], []),
            (
                ["train.schedule.epochs=2"],
                [
                    "train.schedule.epochs: for the student only; the teacher is trained by teacher.train, such as "
                    "teacher.train.schedule.epochs"
                ],
            ),
            (["train.schedule.epochs=2", "teacher.train.schedule.epochs=2"], []),
            (["train.schedule.epochs=2", "teacher.checkpoint=their.pt"], []),
        ],
    )
    def test_settings(self, config, settings, notes):
        assert student_only(None, settings) == notes
        nested: dict[str, Any] = {}
        for setting in settings:
            nested = merge(nested, parse_setting(setting))
        assert student_only(config(strict_yaml.dump(nested)), []) == notes

    def test_saved_recipe(self, config):
        saved = config(compose("mirror", "swatches").yaml())
        assert student_only(saved, []) == []
        assert student_only(saved, ["train.optimizer.lr=1", "train.optimizer.momentum=0"])[0].startswith(
            "train.optimizer.lr and 1 more: for the student only"
        )


class TestSavedRecipe:
    def test_round_trip(self, config):
        settings = ["method.rate=1e-3", "method.table={a: 1}", "student.args={x: [1, two, null]}", "seed=4"]
        recipe = compose("mirror", "swatches", settings=settings)
        again = compose(config=config(recipe.yaml()))
        assert again == recipe
        assert again.hash == recipe.hash
        assert again.yaml() == recipe.yaml()

    def test_does_not_depend_on_built_in_recipes(self, config, monkeypatch):
        recipe = compose("mirror", "swatches")
        path = config(recipe.yaml())
        changed = {"image_size": (8, 8), "student": {"args": {"new": 1}}}
        monkeypatch.setattr(DATASETS.find("swatches"), "recipe", changed)
        monkeypatch.setattr(METHODS.find("mirror"), "recipe", {})
        assert compose(config=path).hash == recipe.hash

    def test_changed_by_set(self, config):
        path = config(compose("mirror", "swatches").yaml())
        assert compose(config=path, settings=["train.schedule.epochs=2"]).train.schedule.epochs == 2

    def test_incomplete(self, config):
        with pytest.raises(UserError, match=r"my\.yaml has the key 'version', .* but lacks image_size, teacher"):
            compose("mirror", "swatches", config("{version: 1, method: mirror, dataset: swatches, seed: 1}"))

    def test_other_version(self, config):
        path = config(compose("mirror", "swatches").yaml().replace("version: 1", "version: 2"))
        with pytest.raises(UserError, match=r"version in .*my\.yaml: should be 1, not 2"):
            compose(config=path)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e12, 1e12) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=6,
)


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    lr=st.floats(1e-300, 1e12),
    text=st.text(),
    table=st.dictionaries(st.text(), st.floats(-1e12, 1e12), max_size=3),
    args=st.dictionaries(st.text(), PLAIN, max_size=3),
)
def test_any_value_survives_saving(tmp_path_factory, seed, lr, text, table, args):
    values = {
        "seed": seed,
        "train.optimizer.lr": lr,
        "method.text": text,
        "method.table": table,
        "teacher.network.args": args,
    }
    # As YAML, not as JSON, which differs in how it escapes characters beyond 16 bits.
    settings = [f"{key}={strict_yaml.dump(value)}" for key, value in values.items()]
    recipe = compose("mirror", "swatches", settings=settings)
    assert (recipe.seed, recipe.train.optimizer.lr) == (seed, lr)
    assert (recipe.method.arguments["text"], recipe.method.arguments["table"]) == (text, table)
    assert recipe.teacher.network.args == args
    path = tmp_path_factory.mktemp("replay") / "recipe.yaml"
    path.write_text(recipe.yaml(), encoding="utf-8", newline="")
    again = compose(config=path)
    assert again.hash == recipe.hash
    assert again == recipe


def leaves(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.fixture
def values() -> dict[str, Any]:
    """All values of a recipe that can be changed, by key."""
    content = compose("mirror", "swatches").model_dump(mode="json")
    return {key: value for key, value in leaves(content) if key not in ("version", "method.name", "dataset.name")}


OTHER_VALUES: dict[str, Any] = {
    "teacher.network.backbone": "resnet14t",
    "student.backbone": "resnet14t",
    "teacher.checkpoint": "teacher.pt",
    "more_teachers": [{"seed": 5}],
    "runtime.compile": "inductor",
    "evaluate.images": "validation",
    "method.rate": 0.5,
    "method.table": {"a": 1.0},
    "method.stages": ["stage1"],
    "dataset.shades": [7],
    "image_size": [8, 8],
    "student.image_size": [8, 8],
    "teacher.network.image_size": [8, 8],
    **{
        f"{train}.{key}": value
        for train in ("train", "teacher.train")
        for key, value in {
            "ema": 0.5,
            "augment.load_size": [8, 8],
            "augment.transforms": [{"type": "RandomGrayscale"}],
            "optimizer.clip_grad": 1.0,
            "optimizer.lr_times.neck": 2.0,
            "optimizer.lr_times.head": 2.0,
            "task.margin": {"type": "arcface", "margin": 0.5},
            "task.losses": [{"type": "CircleLoss"}],
        }.items()
    },
}
OTHER_CHOICES: dict[str, Any] = {
    "background": "black",
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
    "epoch": "best",
    "embedding": "pq:32x8",
    "inner_widths": [2, 3],
}
WITHOUT_EFFECT = {
    "runtime.workers": "3",
    "runtime.threads": "3",
    "runtime.tensorboard": "true",
    "runtime.cache": "packed",
    "runtime.skip_broken": "true",
    "runtime.checkpoint_epochs": "5",
    "runtime.checkpoint_minutes": "10",
    "runtime.time_limit": "11:30:00",
}
"""Keys that do not change the hash."""


class TestHash:
    def other(self, key: str, value: Any) -> Any:
        """A valid value of the key that is not `value`."""
        if key in OTHER_VALUES:
            return OTHER_VALUES[key]
        if (choice := OTHER_CHOICES.get(key.rpartition(".")[2])) is not None:
            return choice
        if isinstance(value, bool):
            return not value
        if isinstance(value, int | float):
            return value + 1 if isinstance(value, int) else value / 2 + 0.01
        if value is None:
            return {}
        return f"{value}x" if isinstance(value, str) else {"depth": 3}

    @pytest.mark.parametrize("key", WITHOUT_EFFECT)
    def test_ignores_how_the_run_is_executed(self, key):
        changed = compose("mirror", "swatches", settings=[f"{key}={WITHOUT_EFFECT[key]}"])
        assert changed.hash == compose("mirror", "swatches").hash

    @pytest.mark.parametrize("limit", ["0", "true", "1.5", "12h", "[1]"])
    def test_time_limit_that_is_none(self, limit):
        with pytest.raises(UserError, match=r"runtime\.time_limit"):
            compose("mirror", "swatches", settings=[f"runtime.time_limit={limit}"])

    def test_decay_and_milestones(self):
        for train in ("train", "teacher.train"):
            settings = [f"{train}.schedule.decay=steps", f"{train}.schedule.milestones=[4]"]
            changed = compose("mirror", "swatches", settings=settings).hash
            assert changed != compose("mirror", "swatches", settings=[settings[0], f"{settings[1][:-2]}5]"]).hash
            assert changed != compose("mirror", "swatches").hash

    def test_depends_on_every_other_value(self, values):
        hashes = {compose("mirror", "swatches").hash: "no change"}
        for key, value in values.items():
            # A budget needs a student of the dataset, settings need a file, milestones belong to a decay in steps, and
            # a pair is an option.
            together = ("budget", "settings.source", "settings.study", "pair")
            if key not in (*WITHOUT_EFFECT, *together) and not key.endswith(("schedule.decay", "schedule.milestones")):
                changed = compose("mirror", "swatches", settings=[f"{key}={json.dumps(self.other(key, value))}"])
                assert changed.hash not in hashes, f"{key} gives the hash of {hashes.get(changed.hash)}"
                hashes[changed.hash] = key


def test_unknown_keys_are_refused_at_every_depth(values, mistakes):
    for key in values:
        if not key.endswith("args"):
            parent = key.rpartition(".")[0]
            unknown = f"{parent}.zzz" if parent else "zzz"
            lines = mistakes(f"{unknown}=1")
            assert len(lines) == 1, lines
            assert lines[0].startswith(f"{unknown} in --set: unknown key. Known here: ")


class TestBudget:
    """MACs of the student: a network of the dataset, or the target of a method that compresses."""

    @pytest.fixture(autouse=True)
    def students(self, monkeypatch):
        widths = {0.42: {}, 0.4: {"args": {"base_width": 64}}, 0.2: {"args": {"base_width": 32}}}
        monkeypatch.setattr(DATASETS.find("glyphs"), "students", widths)

    @pytest.mark.parametrize(("budget", "width"), [(0.4, 64), (0.2, 32)])
    def test_chooses_the_student_of_the_dataset(self, budget, width):
        recipe = compose("kd", "glyphs", settings=[f"budget={budget}"])
        assert recipe.budget == budget
        assert recipe.student.args["base_width"] == width
        assert recipe.student.args["channels"] == recipe.teacher.network.args["channels"]
        assert recipe.for_teacher().hash == compose("kd", "glyphs").for_teacher().hash

    @pytest.mark.parametrize("method", ["cdd", "resrep", "uniform", "slimming", "deap"])
    def test_is_the_target_of_methods_that_compress(self, method):
        recipe = compose(method, "glyphs", settings=["budget=0.3"])
        assert recipe.method.arguments["target_macs"] == 0.3
        assert recipe.student.args == recipe.teacher.network.args

    def test_arguments_of_the_budget(self):
        with_budget, without = (compose("cdd", "glyphs", settings=[f"budget={value}"]) for value in ("0.3", "null"))
        changed = {**METHODS.find("cdd").budget_arguments, "target_macs": 0.3}
        assert with_budget.method.arguments == {**without.method.arguments, **changed}

    def test_is_the_target_of_the_part_that_compresses(self):
        recipe = compose("kd+uniform", "glyphs", settings=["budget=0.3"])
        assert recipe.method.arguments["uniform"]["target_macs"] == 0.3

    def test_own_settings_win(self):
        settings = ["budget=0.4", "student.args.base_width=48"]
        assert compose("kd", "glyphs", settings=settings).student.args["base_width"] == 48
        settings = ["budget=0.4", "method.target_macs=0.5"]
        assert compose("cdd", "glyphs", settings=settings).method.arguments["target_macs"] == 0.5

    def test_none_changes_nothing(self):
        assert compose("kd", "veri776").hash == compose("kd", "veri776", settings=["budget=null"]).hash

    @pytest.mark.parametrize(
        ("budget", "message"),
        [
            ("0.3", "glyphs has no student of 0.3 times the teacher's MACs. Known: 0.42, 0.4, 0.2."),
            ("0", "budget"),
            ("2", "budget"),
            ("[0.3]", "budget in --set"),
            ("half", "budget in --set"),
            (".nan", "budget"),
            ("true", "budget in --set"),
        ],
    )
    def test_invalid_values(self, budget, message):
        with pytest.raises(UserError, match=re.escape(message)):
            compose("kd", "glyphs", settings=[f"budget={budget}"])

    def test_files_of_earlier_versions_have_none(self):
        content = compose("kd", "veri776").model_dump(mode="json")
        del content["budget"]
        assert replay(content, "the file") == compose("kd", "veri776")
