"""Student, teacher, method and task loss as one model."""

import pytest
import torch
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.engine.distiller import Distiller
from benchmark.engine.task import TaskLoss
from benchmark.errors import UserError
from benchmark.method import Method
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.layers import CosineHead
from benchmark.recipe import Task

NETWORK = {"backbone": "resnet14t", "args": {"channels": [8, 8, 8, 8], "stem_width": 8}, "dim": 4, "identities": 3}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


class Adapter(Method):
    """A method with a trainable layer, which keeps the arguments of its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.calls: list[tuple[Features, Features | None, Batch]] = []

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        self.calls.append((student, teacher, batch))
        target = 0 if teacher is None else teacher.embedding
        return {"adapter": (self.layer(student.embedding) - target).square().mean()}


@pytest.fixture
def batch() -> Batch:
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, LABELS, torch.arange(6), torch.arange(10, 16))


def build(with_teacher: bool = True) -> Distiller:
    torch.manual_seed(0)
    student, teacher = Embedder(**NETWORK), Embedder(**NETWORK).requires_grad_(False).eval()
    return Distiller(student, teacher if with_teacher else None, Adapter(), TaskLoss(Task()))


class TestDistiller:
    def test_terms_of_task_and_method_are_added(self, batch):
        model = build()
        terms = model(*batch, mode="loss")
        total, logged = model.parse_losses(terms)
        assert set(terms) == {"loss_identity", "loss_triplet", "loss_adapter"}
        assert torch.allclose(total, sum(terms.values()))
        assert set(logged) == {"loss", *terms}

    @pytest.mark.parametrize(
        ("terms", "message"),
        [
            (5, "must return a dictionary of tensors"),
            ({"adapter": 0.5}, "must return a dictionary of tensors"),
            ({"triplet": torch.ones(())}, "has the term 'triplet', as the task loss has: rename it"),
        ],
    )
    def test_terms_that_cannot_be_added(self, batch, monkeypatch, terms, message):
        model = build()
        monkeypatch.setattr(model.method, "loss", lambda *arguments: terms)
        with pytest.raises(UserError, match=message):
            model(*batch, mode="loss")

    def test_arguments_of_the_method(self, batch):
        model = build()
        model(*batch, mode="loss")
        ((student, teacher, seen),) = model.method.calls
        assert student.embedding.requires_grad
        assert not teacher.embedding.requires_grad
        assert not torch.equal(student.embedding, teacher.embedding)
        assert all(torch.equal(a, b) for a, b in zip(seen, batch, strict=True))

    def test_without_a_teacher(self, batch):
        model = build(with_teacher=False)
        model(*batch, mode="loss")
        ((_, teacher, _),) = model.method.calls
        assert teacher is None

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_losses_are_in_full_precision(self, batch, dtype):
        """Logits, too: those of a cosine head would have large steps."""
        model = build()
        model.student.head = CosineHead(4, 3, scale=16.0)
        model.student.tap(["stage3"])
        with torch.autocast("cpu", dtype):
            terms = model(*batch, mode="loss")
        ((student, teacher, _),) = model.method.calls
        outputs = [student.pooled, student.embedding, student.logits, *student.taps.values(), teacher.logits]
        assert {value.dtype for value in (*outputs, *terms.values())} == {torch.float32}
        assert torch.equal(student.pooled, student.pooled.to(dtype)), "the backbone is in low precision"
        assert torch.equal(student.logits, model.student.head(student.embedding))

    def test_teacher_is_not_a_submodule(self, batch):
        """Adapters are trained, the teacher is not."""
        model = build()
        (features,) = model.teacher_features
        teacher = features.__self__
        sum(model.train()(*batch, mode="loss").values()).backward()
        assert model.method.layer.weight.grad.any()
        assert not teacher.training
        assert {name.partition(".")[0] for name in model.state_dict()} == {"student", "method"}
        assert not {id(p) for p in teacher.parameters()} & {id(p) for p in model.parameters()}

    def test_validation(self, batch):
        model = build().eval()
        with torch.no_grad():
            records = model.val_step(batch)
            expected = model.student(batch.images)
        index, vectors = (torch.stack(column) for column in zip(*records, strict=True))
        assert torch.equal(index, batch.indices)
        assert torch.equal(vectors, expected)
        assert torch.equal(model(*batch, mode="tensor"), expected)
