"""Student, teacher, method and task loss as one model."""

import pytest
import torch
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.engine.distiller import Distiller, TaskLoss
from benchmark.method import Method
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.recipe import Task

NETWORK = {"backbone": "resnet14t", "args": {"channels": [8, 8, 8, 8], "stem_width": 8}, "dim": 4, "identities": 3}


class Adapter(Method):
    """A method that learns something of its own and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.seen: list[tuple[Features, Features | None, Batch]] = []

    def loss(self, student: Features, teacher: Features | None, batch: Batch) -> dict[str, Tensor]:
        self.seen.append((student, teacher, batch))
        target = 0 if teacher is None else teacher.embedding
        return {"adapter": (self.layer(student.embedding) - target).square().mean()}


@pytest.fixture
def batch() -> Batch:
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6), torch.arange(10, 16))


def distiller(with_teacher: bool = True) -> Distiller:
    torch.manual_seed(0)
    student, teacher = Embedder(**NETWORK), Embedder(**NETWORK).requires_grad_(False).eval()
    return Distiller(student, teacher if with_teacher else None, Adapter(), TaskLoss(Task()))


def test_terms_of_task_and_method_add_up(batch):
    model = distiller()
    terms = model(*batch, mode="loss")
    total, logged = model.parse_losses(terms)
    assert set(terms) == {"loss_identity", "loss_triplet", "loss_adapter"}
    assert torch.allclose(total, sum(terms.values()))
    assert set(logged) == {"loss", *terms}


def test_the_method_sees_both_networks_and_the_batch(batch):
    model = distiller()
    model(*batch, mode="loss")
    ((student, teacher, seen),) = model.method.seen
    assert student.embedding.requires_grad
    assert not teacher.embedding.requires_grad
    assert not torch.equal(student.embedding, teacher.embedding)
    assert all(torch.equal(a, b) for a, b in zip(seen, batch, strict=True))


def test_without_a_teacher_the_method_gets_none(batch):
    model = distiller(with_teacher=False)
    model(*batch, mode="loss")
    ((_, teacher, _),) = model.method.seen
    assert teacher is None


def test_adapters_learn_and_the_teacher_is_out_of_reach(batch):
    model = distiller()
    teacher = model.teacher_features.__self__
    sum(model.train()(*batch, mode="loss").values()).backward()
    assert model.method.layer.weight.grad.any()
    assert not teacher.training
    assert {name.partition(".")[0] for name in model.state_dict()} == {"student", "method"}
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in model.parameters()}


def test_validation_gives_a_record_per_image(batch):
    model = distiller().eval()
    with torch.no_grad():
        records = model.val_step(batch)
        expected = model.student(batch.images)
    index, vectors = (torch.stack(column) for column in zip(*records, strict=True))
    assert torch.equal(index, batch.indices)
    assert torch.equal(vectors, expected)
    assert torch.equal(model(*batch, mode="tensor"), expected)
