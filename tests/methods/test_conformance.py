"""The contract that every registered method keeps, with its default parameters."""

import inspect
import re
from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from torch import Tensor, nn

from benchmark import DATASETS, METHODS
from benchmark.engine.compat import load_checkpoint
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.method import KINDS
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_network, save_student
from benchmark.recipe import compose

all_methods = pytest.mark.parametrize("name", METHODS.names())


def parameters(name: str) -> list[inspect.Parameter]:
    constructor = list(inspect.signature(METHODS.find(name).__init__).parameters.values())[1:]
    return [p for p in constructor if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


@all_methods
class TestDeclaration:
    def test_card(self, name):
        card = inspect.getdoc(METHODS.find(name)) or ""
        assert "\n\n" in card, "a summary line and a description"
        assert re.search(r"\b(19|20)\d\d\b", card) or not METHODS.find(name).needs.teacher, "the year of a citation"
        assert re.search(r"equation|loss", card, re.IGNORECASE)
        assert all(f"{parameter.name}:" in card for parameter in parameters(name))

    def test_parameters_have_hints_and_defaults(self, name):
        hints = get_type_hints(METHODS.find(name).__init__)
        assert all(parameter.default is not parameter.empty for parameter in parameters(name))
        assert all(parameter.name in hints for parameter in parameters(name))

    def test_kind_and_presets(self, name):
        method = METHODS.find(name)
        assert method.kind in set(KINDS) - {"other", "combination"}
        assert method.compresses == (method.kind == "pruning")
        for preset in method.presets:
            recipe = compose(name, "cub200", settings=[f"method.preset={preset}"])
            method(**recipe.method.arguments)
            assert recipe.method != compose(name, "cub200").method, "a preset differs from the defaults"

    def test_search_space_contains_the_defaults(self, name):
        method = METHODS.find(name)
        defaults = {parameter.name: parameter.default for parameter in parameters(name)}
        for argument, values in method.search.items():
            assert 0 < values.low <= defaults[argument] <= values.high
            for value in (values.low, values.high):
                compose(name, "cub200", settings=[f"method.{argument}={value!r}"])


class TestRecipe:
    """The default recipe composes: every method with one dataset, every dataset with one method, and five pairs."""

    @pytest.mark.parametrize(
        ("name", "dataset"),
        [
            *((name, "cub200") for name in METHODS.names()),
            *(("cdd", dataset) for dataset in DATASETS.names()),
            *(("resrep", "glyphs"), ("at", "glyphs"), ("deap", "veri776"), ("crd", "sop"), ("uniform", "folder")),
        ],
    )
    def test_composes(self, name, dataset):
        recipe = compose(name, dataset)
        assert set(recipe.method.arguments) == {parameter.name for parameter in parameters(name)}
        assert recipe.for_teacher().student == recipe.teacher.network
        METHODS.find(name)(**recipe.method.arguments)


CHECKPOINT_KEYS = {
    "cdd": "_extra_state gradient_reset._extra_state gradient_reset.kept* gradient_reset.mask*",
    "clip_kd": "cross_scale",
    "crd": "_extra_state embed_student embed_teacher log_z memory_student memory_teacher",
    "deap": "_extra_state",
    "dkd": "epoch",
    "mrl": "classifiers.*",
    "ofd": "connectors.*.* margin*",
    "phi_s": "_extra_state head mean rotation",
    "resrep": "_extra_state mask* velocity*",
    "reviewkd": "fusions.*.attend fusions.*.expand.* fusions.*.reduce.*",
    "rrd": "embed_student pointer queue teacher_bias teacher_weight",
    "slimming": "_extra_state",
    "ssp": "_extra_state anchors",
    "ugd": "projectors.*.*",
    "unic": "_extra_state head.* mean std",
    "vid": "guesses.*.log_scale guesses.*.mean.*",
    "whiten_mtd": "_extra_state components mean",
}
"""State of each method by name, with * for numbers and without the parameters of its layers; none for other methods."""


@pytest.fixture(scope="module", params=METHODS.names())
def made(request, rig):
    """A rig of each method, shared by the tests below: none of them depends on its state."""
    made = rig(METHODS.find(request.param)())
    made.fit()
    return made


class TestStep:
    def test_terms_are_finite_scalars_with_gradients(self, made):
        terms = made.terms()
        assert all(term.shape == () and term.isfinite() for term in terms.values())
        for term in terms.values():
            gradients = torch.autograd.grad(term, list(made.student.parameters()), retain_graph=True, allow_unused=True)
            reached = [gradient for gradient in gradients if gradient is not None]
            assert any(gradient.any() for gradient in reached)
            assert all(gradient.isfinite().all() for gradient in reached)

    def test_identical_images(self, made):
        batch = made.batches[0]._replace(images=made.images[:1].expand(32, -1, -1, -1))
        student = made.student.eval().features(batch.images)
        with torch.no_grad():
            teacher = made.teacher.features(batch.images)
        loss = sum(made.method.loss(student, teacher, batch).values(), torch.zeros(()))
        assert loss.isfinite()
        if not loss.requires_grad:  # the method has no terms
            return
        gradients = torch.autograd.grad(loss, list(made.student.parameters()), materialize_grads=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert all(gradient.abs().max() < 1e9 for gradient in gradients), "1e12 comes from a division by a zero norm"

    def test_bfloat16(self, made):
        made.wrapper.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses = made.distiller.train()(*made.batches[0], mode="loss")
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
        sum(losses.values()).backward()
        gradients = [parameter.grad for parameter in made.student.parameters() if parameter.grad is not None]
        assert gradients
        assert all(gradient.isfinite().all() for gradient in gradients)

    def test_trains_the_student_and_not_the_teacher(self, made):
        student, teacher = state_of(made.student), state_of(made.teacher)
        for number in range(3):
            assert all(value.isfinite() for value in made.step(number).values())
        assert all(parameter.grad is None for parameter in made.teacher.parameters())
        assert equal(made.teacher, teacher)
        assert not equal(made.student, student)

    def test_teacher_is_in_no_state_and_no_optimizer(self, made):
        teacher = {tensor.data_ptr() for tensor in made.teacher.state_dict().values() if tensor.numel()}
        states = [made.distiller.state_dict(), made.method.state_dict(), made.student.state_dict()]
        held = [value for state in states for value in state.values()]
        held += [parameter for group in made.wrapper.optimizer.param_groups for parameter in group["params"]]
        assert held
        assert not teacher & {value.data_ptr() for value in held}

    def test_checkpoint_keys_are_unchanged(self, made):
        """With other keys, a training could not resume from a checkpoint of an earlier version."""
        layer_state = r"\.(weight|bias|running_\w+|num_batches_tracked)$"
        keys = {re.sub(r"\d+", "*", re.sub(layer_state, "", key)) for key in made.method.state_dict()}
        assert keys == set(CHECKPOINT_KEYS.get(made.method.name, "").split())

    def test_declares_that_it_reads_the_classifier(self, made):
        with torch.no_grad():
            student, teacher = (network.eval().features(made.images) for network in (made.student, made.teacher))
            unclassified = replace(teacher, logits=torch.full_like(teacher.logits, torch.nan))
            terms = made.method.loss(student, unclassified, made.batches[0])
        assert made.method.needs.classifier or not any(term.isnan() for term in terms.values())

    def test_resumes_bit_identically(self, made, rig):
        made = rig(type(made.method)())  # of which all steps are known
        made.step(0)
        resumed = rig(type(made.method)(), seed=1)
        resumed.take_over(made)
        for number in range(1, 3):
            losses, expected = resumed.step(number), made.step(number)
            assert all(torch.equal(losses[term], expected[term]) for term in expected)
        assert equal(resumed.student, state_of(made.student))
        assert resumed.method.report(resumed.student) == made.method.report(made.student)


@pytest.mark.parametrize(
    "student",
    [
        {"image_size": (16, 16)},
        {"backbone": "resnet18", "args": {"channels": [12, 12, 24, 24]}, "stem": "imagenet", "dim": 12},
    ],
    ids=["resolution", "architecture"],
)
@all_methods
def test_student_that_differs_from_the_teacher(name, rig, student):
    method = METHODS.find(name)()
    if method.needs.same_backbone and "backbone" in student:
        pytest.skip("the student starts with the teacher's architecture")
    if method.needs.equal_embeddings:
        student = student | {"dim": 16}
    made = rig(method, student=student)
    before = state_of(made.student)
    assert all(value.isfinite() for value in made.step().values())
    assert not equal(made.student, before)


TRAINED = {
    "none": "none",
    "logits": "kd",
    "feature maps": "reviewkd",
    "sample relations": "cc",
    "embeddings": "crd",
    "pruning": "cdd",
}
"""One method of each kind."""


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED.values())
def test_trainings_are_bit_identical(name, tiny, train_tiny, batches, tmp_path):
    recipe = tiny(name)
    first, second = (train_tiny(recipe, tmp_path / run) for run in ("first", "second"))
    assert equal(first.student, state_of(second.student))
    assert_without_teacher(load_checkpoint(tmp_path / "first" / LAST_CHECKPOINT, torch.device("cpu")), first.teacher)

    images = batches[0].images
    with torch.no_grad():
        before = first.student.features(images).embedding
        compact = fold_batchnorm(first.method.compact(first.student), images)
    save_student(compact, tmp_path / "student.pt", recipe.image_size)
    with torch.no_grad():
        tolerance = 1e-5 * max(10.0, float(before.abs().max()))
        assert torch.allclose(load_network(tmp_path / "student.pt")(images), before, rtol=0, atol=tolerance)


def test_every_kind_is_trained():
    assert TRAINED.keys() == set(KINDS) - {"other", "combination"}
    assert all(METHODS.find(name).kind == kind for kind, name in TRAINED.items())


def assert_without_teacher(checkpoint: dict, teacher: Embedder) -> None:
    """Check that no convolution of the teacher is among the tensors of a checkpoint."""
    tensors = [value for value in _leaves(checkpoint) if value.dim() == 4]
    for weight in (value for value in teacher.state_dict().values() if value.dim() == 4):
        assert not any(weight.shape == tensor.shape and torch.equal(weight, tensor) for tensor in tensors)


def _leaves(content) -> list[Tensor]:
    if isinstance(content, Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else []
    return [leaf for part in parts for leaf in _leaves(part)]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


def equal(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
