"""What every registered method keeps to, with its default parameters."""

import copy
import inspect
import re
from typing import get_type_hints

import pytest
import torch
from torch import Tensor

from benchmark.engine.compat import load_checkpoint
from benchmark.engine.train import LAST
from benchmark.method import KINDS
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, save_student
from benchmark.recipe import compose
from benchmark.registry import DATASETS, METHODS

pytestmark = pytest.mark.parametrize("name", METHODS.names())


def parameters(name: str) -> list[inspect.Parameter]:
    found = list(inspect.signature(METHODS.find(name).__init__).parameters.values())[1:]
    return [parameter for parameter in found if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)]


class TestDeclaration:
    def test_the_card_cites_its_source_and_explains_every_parameter(self, name):
        card = inspect.getdoc(METHODS.find(name)) or ""
        assert "\n\n" in card
        assert re.search(r"\b(19|20)\d\d\b", card) or not METHODS.find(name).needs.teacher
        assert re.search(r"equation|loss", card, re.IGNORECASE)
        assert all(f"{parameter.name}:" in card for parameter in parameters(name))

    def test_parameters_have_hints_and_defaults(self, name):
        hints = get_type_hints(METHODS.find(name).__init__)
        assert all(parameter.default is not parameter.empty for parameter in parameters(name))
        assert all(parameter.name in hints for parameter in parameters(name))

    def test_declares_what_it_compares_and_its_presets(self, name):
        method = METHODS.find(name)
        assert method.kind in set(KINDS) - {"other", "combination"}
        for preset in method.presets:
            recipe = compose(name, "cub200", settings=[f"method.preset={preset}"])
            method(**recipe.method.arguments)
            assert recipe.method != compose(name, "cub200").method, "a preset is not the default"

    @pytest.mark.parametrize("dataset", DATASETS.names())
    def test_the_default_recipe_composes_with_every_dataset(self, name, dataset):
        recipe = compose(name, dataset)
        assert set(recipe.method.arguments) == {parameter.name for parameter in parameters(name)}
        assert recipe.for_teacher().student == recipe.teacher.network
        METHODS.find(name)(**recipe.method.arguments)


class TestAStep:
    def test_terms_are_finite_scalars_with_a_gradient(self, name, rig):
        made = rig(METHODS.find(name)())
        made.student.train()
        student = made.student.features(made.batches[0].images)
        with torch.no_grad():
            teacher = made.teacher.features(made.batches[0].images)
        terms = made.method.loss(student, teacher, made.batches[0])
        assert all(term.shape == () and term.isfinite() for term in terms.values())
        for term in terms.values():
            gradients = torch.autograd.grad(term, list(made.student.parameters()), retain_graph=True, allow_unused=True)
            reached = [gradient for gradient in gradients if gradient is not None]
            assert any(gradient.any() for gradient in reached)
            assert all(gradient.isfinite().all() for gradient in reached)

    def test_equal_images_have_finite_terms_and_gradients(self, name, rig):
        made = rig(METHODS.find(name)())
        batch = made.batches[0]._replace(images=made.batches[0].images[:1].expand(32, -1, -1, -1))
        student = made.student.eval().features(batch.images)
        with torch.no_grad():
            teacher = made.teacher.features(batch.images)
        terms = made.method.loss(student, teacher, batch)
        total = sum(terms.values(), torch.zeros(()))
        assert total.isfinite()
        if terms:
            total.backward()
        gradients = [parameter.grad for parameter in made.student.parameters() if parameter.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(gradient.abs().max() < 1e9 for gradient in gradients), "1e12 comes of a division by a norm of zero"

    def test_half_precision_stays_finite(self, name, rig):
        made = rig(METHODS.find(name)())
        with torch.autocast("cpu", torch.bfloat16):
            losses = made.distiller.train()(*made.batches[0], mode="loss")
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        sum(losses.values()).backward()
        gradients = [parameter.grad for parameter in made.student.parameters() if parameter.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)

    @pytest.mark.parametrize(
        "other",
        [
            {"image_size": (16, 16)},
            {"backbone": "resnet18", "args": {"channels": [12, 12, 24, 24]}, "stem": "imagenet", "dim": 12},
        ],
        ids=["resolution", "architecture"],
    )
    def test_networks_that_differ_work_where_its_definition_allows(self, name, rig, other):
        method = METHODS.find(name)()
        if method.needs.same_backbone and "backbone" in other:
            pytest.skip("it starts from the teacher's architecture")
        if method.needs.equal_embeddings:
            other = other | {"dim": 16}
        made = rig(method, student=other)
        before = clone(made.student)
        for number in range(2):
            assert all(value.isfinite() for value in made.step(number).values())
        assert not equal(made.student, before)

    def test_training_changes_the_student_and_leaves_the_teacher_bit_for_bit(self, name, rig):
        made = rig(METHODS.find(name)())
        student, teacher = clone(made.student), clone(made.teacher)
        for number in range(3):
            losses = made.step(number)
            assert all(value.isfinite() for value in losses.values())
        assert all(parameter.grad is None for parameter in made.teacher.parameters())
        assert equal(made.teacher, teacher)
        assert not equal(made.student, student)

    def test_the_teacher_is_in_no_state_and_no_optimizer(self, name, rig):
        made = rig(METHODS.find(name)())
        teachers = {tensor.data_ptr() for tensor in made.teacher.state_dict().values() if tensor.numel()}
        states = [made.distiller.state_dict(), made.method.state_dict(), made.student.state_dict()]
        held = [value for state in states for value in state.values()]
        held += [parameter for group in made.wrapper.optimizer.param_groups for parameter in group["params"]]
        assert held
        assert not teachers & {value.data_ptr() for value in held}

    def test_its_state_survives_a_round_trip(self, name, rig):
        made, fresh = rig(METHODS.find(name)()), rig(METHODS.find(name)(), seed=1)
        for number in range(2):
            made.step(number)
        fresh.teacher.load_state_dict(made.teacher.state_dict())
        fresh.method.restore(fresh.student, made.method.structure())
        fresh.student.load_state_dict(made.student.state_dict(), strict=True)
        fresh.method.load_state_dict(made.method.state_dict(), strict=True)
        fresh.wrapper.optimizer.load_state_dict(copy.deepcopy(made.wrapper.optimizer.state_dict()))
        for number in range(2, 4):
            ours, theirs = fresh.step(number), made.step(number)
            assert all(torch.equal(ours[term], theirs[term]) for term in theirs)
        assert equal(fresh.student, made.student.state_dict())
        assert fresh.method.report(fresh.student) == made.method.report(made.student)


def test_two_trainings_agree_bit_for_bit_and_the_deployed_student_with_them(name, tiny, train_tiny, batches, tmp_path):
    recipe = tiny(name)
    (first, teacher), (second, _) = (train_tiny(recipe, tmp_path / which) for which in ("first", "second"))
    assert equal(first.student, second.student.state_dict())
    assert_without_teacher(load_checkpoint(tmp_path / "first" / LAST, torch.device("cpu")), teacher)

    images = batches[0].images
    with torch.no_grad():
        before = first.student.features(images).embedding
        compact = fold_batchnorm(first.method.compact(first.student), images)
    save_student(compact, tmp_path / "student.pt", recipe.image_size)
    with torch.no_grad():
        rounding = 1e-5 * max(10.0, float(before.abs().max()))
        assert torch.allclose(load_student(tmp_path / "student.pt")(images), before, rtol=0, atol=rounding)


def assert_without_teacher(checkpoint: dict, teacher: Embedder) -> None:
    """None of the teacher's convolutions is among a checkpoint's tensors."""
    tensors = [value for value in _leaves(checkpoint) if value.dim() == 4]
    for weight in (value for value in teacher.state_dict().values() if value.dim() == 4):
        assert not any(weight.shape == tensor.shape and torch.equal(weight, tensor) for tensor in tensors)


def _leaves(content) -> list[Tensor]:
    if isinstance(content, Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else []
    return [leaf for part in parts for leaf in _leaves(part)]


def clone(network: Embedder) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(network: Embedder, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
