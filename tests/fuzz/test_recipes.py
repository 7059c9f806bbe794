"""Random mutations of recipes, checkpoints, metrics and embeddings: anything but a result or a UserError fails."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.commands.evaluate import Options, evaluate_file
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.checkpoint import (
    load_model_state,
    load_optimization_state,
    load_random_state,
    read_checkpoint,
    training_hash,
)
from benchmark.engine.compat import load_checkpoint, save_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT, METRICS_FILE, SKIPPED_FILE, read_metrics, read_skipped
from benchmark.engine.optimization import build_optimizer, build_schedule
from benchmark.engine.train import assemble, optim_wrapper
from benchmark.errors import UserError
from benchmark.experiment.preflight import preflight
from benchmark.model.residual_blocks import build
from benchmark.recipe import compose, student_only
from benchmark.registry import METHODS

pytestmark = pytest.mark.slow

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**6, 2**31, 2**63, -(2**64), 10**30, 0.5, -1e308, 1e-320),
    *("", "x", "none", "teacher", "imagenet", "../..", "/dev/null", "\0", "\x1b[2J", "é", "a" * 5000),
    *([], [None], [1, 2], [[1]], [1] * 300, {}, {"name": "kd"}, {"like": "teacher"}, {"a": {"b": {"c": 1}}}),
)
TEXTS = (
    *("1", "-1", "1e9", "1e999", ".nan", "true", "null", "~", "''", "[1, 2]", "{a: 1}", "[", "{", "&a [*a]", "!!int x"),
    *(
        "9" * 200,
        "x" * 5000,
        "{" * 200,
        "0x10",
        "kd",
        "kd+rkd",
        "none+kd",
        "+",
        "teacher",
        "[1",
        "a: b",
        "{}",
        "\t",
        "%",
    ),
)


def accepts(action: Callable[[], object]) -> bool:
    """Whether the action succeeds. Any other exception than a UserError passes through."""
    try:
        action()
    except UserError as error:
        assert str(error).strip()
        return False
    return True


def mutated(content: bytes, choose: random.Random) -> bytes:
    """Return the content with a few bytes changed, removed or doubled."""
    data = bytearray(content)
    for _ in range(choose.choice((1, 2, 8))):
        place, length = choose.randrange(len(data) + 1), choose.choice((1, 4, 64))
        kind = choose.randrange(4)
        if kind == 0:
            data[place : place + 1] = choose.randbytes(1)
        elif kind == 1:
            del data[place : place + length]
        elif kind == 2:
            data[place:place] = data[place : place + length]
        elif choose.random() < 0.2:
            del data[place:]
    return bytes(data)


def changed(content: Any, choose: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Return a copy of nested values with one of them replaced, removed or added."""
    content = copy.deepcopy(content)
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys or choose.random() < 0.05:
            break
        key = choose.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and choose.random() < 0.9:
            place = place[key]
            continue
        if choose.random() < 0.15:
            del place[key]
        else:
            place[key] = choose.choice(values)
        return content
    if isinstance(place, dict):
        place[choose.choice(("unknown", "name", "args", "like", "preset"))] = choose.choice(values)
    return content


def keys_of(content: Any, prefix: str = "") -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{prefix}{key}.")


@pytest.fixture
def saved() -> dict[str, Any]:
    """A recipe as a run saves it."""
    return compose("cdd", "glyphs").model_dump(mode="json")


class TestRecipes:
    def test_files(self, tmp_path, rounds):
        text, path, accepted = compose("cdd", "glyphs").yaml().encode(), tmp_path / "my.yaml", 0
        for choose in rounds():
            path.write_bytes(mutated(text, choose))
            accepted += accepts(lambda: compose(config=path))
            accepts(lambda: student_only(path, []))
        assert accepted, "every mutation was refused, so that nothing was tried behind the YAML"

    def test_values(self, saved, rounds):
        accepted = 0
        for choose in rounds():
            content = changed(saved, choose)
            if choose.random() < 0.5:
                content.pop("version", None)  # merged over the built-in recipes
            accepted += accepts(lambda content=content: compose(config=content))
        assert accepted

    def test_networks(self, saved, rounds):
        """Networks that are valid in a recipe are checked further, on the meta device."""
        networks = {"student": saved["student"], "teacher": {"network": saved["teacher"]["network"]}}
        for choose in rounds():
            content = changed(networks | {"image_size": [32, 32]}, choose)
            accepts(lambda content=content: preflight(compose("kd", "glyphs", content)))

    def test_settings(self, saved, rounds):
        keys = [*keys_of(saved), "method.preset", "student.like", "method.kd.temperature", "unknown", "", "."]
        for choose in rounds():
            settings = []
            for _ in range(choose.choice((1, 1, 2, 3))):
                key = choose.choice(keys) + choose.choice(("", "", "", ".x", "x", ".", "[0]", ".0", "." * 60))
                settings.append(f"{key}{choose.choice(('=', '=', '=', '', '=='))}{choose.choice(TEXTS)}")
            method = choose.choice((None, "kd", "kd+rkd"))
            accepts(lambda method=method, settings=settings: compose(method, "glyphs", None, settings))
            accepts(lambda settings=settings: student_only(None, settings))


class TestCheckpoints:
    """Checkpoints of a training whose method changes the structure of the student."""

    @pytest.fixture
    def recipe(self, tiny, shrinking):
        return tiny("cdd", *shrinking)

    @pytest.fixture
    def checkpoint(self, recipe, train_tiny, tmp_path) -> Path:
        train_tiny(recipe, tmp_path)
        return tmp_path / LAST_CHECKPOINT

    @pytest.fixture
    def resume(self, recipe, data_root, checkpoint) -> Callable[[], None]:
        """Loads everything that `checkpoint` holds into a training that has not begun."""
        dataset = Glyphs(data_root, **recipe.dataset.arguments)

        def load() -> None:
            content = read_checkpoint(checkpoint, training_hash(recipe, Glyphs), epochs=2)
            student, teacher = (
                build(**network.model_dump(exclude={"weights"}), identities=40)
                for network in (recipe.student, recipe.teacher.network)
            )
            method = METHODS.find("cdd")(**recipe.method.arguments)
            distiller = assemble(student, teacher, method, recipe=recipe, dataset=dataset, steps_per_epoch=16)
            optimizer = build_optimizer(distiller, recipe.train.optimizer)
            load_model_state(checkpoint, distiller, content)
            schedulers = build_schedule(optimizer, recipe.train.schedule, 16)
            wrapper = optim_wrapper(distiller, optimizer, recipe, torch.device("cpu"))
            load_optimization_state(checkpoint, wrapper, schedulers, content)
            load_random_state(checkpoint, torch.device("cpu"), content)

        return load

    def test_bytes(self, resume, checkpoint, rounds):
        whole = checkpoint.read_bytes()
        resume()
        for choose in rounds():
            checkpoint.write_bytes(mutated(whole, choose))
            accepts(resume)

    def test_values(self, resume, checkpoint, rounds):
        content = load_checkpoint(checkpoint, torch.device("cpu"))
        values = (*VALUES, torch.zeros(3), torch.tensor(float("nan")), torch.zeros(2, 2, dtype=torch.uint8), {1: 2})
        for choose in rounds():
            save_checkpoint(changed(content, choose, values), checkpoint)
            accepts(resume)


def test_metrics_and_skipped_images(tmp_path, rounds):
    rows = [{"epoch": epoch, "loss": 1.5, "seconds": 2.0, "mAP": 0.5} for epoch in range(1, 5)]
    for choose in rounds():
        lines = [json.dumps(changed(row, choose) if choose.random() < 0.3 else row) for row in rows]
        (tmp_path / METRICS_FILE).write_bytes(mutated("\n".join(lines).encode(), choose))
        (tmp_path / SKIPPED_FILE).write_bytes(mutated(b"a/b.jpg\nc.jpg\n", choose))
        accepts(lambda: read_metrics(tmp_path))
        accepts(lambda: read_skipped(tmp_path))


class TestEmbeddings:
    @pytest.fixture
    def arrays(self) -> dict[str, Any]:
        generator = np.random.default_rng(0)
        names = (("query", 12), ("gallery", 30))
        vectors = {name: generator.normal(size=(count, 4)).astype(np.float32) for name, count in names}
        ids = {f"{name}_ids": generator.integers(4, size=count) for name, count in names}
        return vectors | ids | {f"{name}_cams": generator.integers(3, size=count) for name, count in names}

    @pytest.fixture
    def score(self, tmp_path) -> Callable[[], None]:
        return lambda: evaluate_file(tmp_path / "some.npz", "market1501", Options(data_root=tmp_path, device="cpu"))

    def test_bytes(self, arrays, score, tmp_path, rounds):
        np.savez(tmp_path / "some.npz", **arrays)
        whole = (tmp_path / "some.npz").read_bytes()
        table = b"id,camera,x0,x1\n1,2,0.5,0.25\n"  # which is not a .npz file
        score()
        for choose in rounds():
            (tmp_path / "some.npz").write_bytes(mutated(whole if choose.random() < 0.95 else table, choose))
            accepts(score)

    @pytest.mark.filterwarnings("ignore")
    def test_values(self, arrays, score, tmp_path, rounds):
        kinds = (*"bifcOUSM", ">f4", ">i8", "f2", "u1", "u8", "f16", [("a", "f4")])
        for choose in rounds():
            content = dict(arrays)
            for name in choose.sample(sorted(content), choose.choice((1, 1, 2))):
                value = content.pop(name)
                if choose.random() < 0.6:
                    shape = choose.choice((value.shape, value.shape[:1], (0,), (), (*value.shape, 1), (len(value), 0)))
                    kind = choose.choice(kinds)
                    content[name] = np.zeros(shape, kind)
                elif choose.random() < 0.7:
                    with np.errstate(all="ignore"):
                        factor = choose.choice((np.nan, np.inf, -1, 1e-30, 1e30, 2**62))
                        content[choose.choice((name, f"{name}s", "other"))] = value * factor
            np.savez(tmp_path / "some.npz", **content)
            accepts(score)
