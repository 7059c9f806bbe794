"""A method at work, without runner and files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.decode import train_transform
from benchmark.data.loaders import Loading, train_loader
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.compat import DistillOptimWrapper
from benchmark.engine.distiller import Distiller, TaskLoss
from benchmark.engine.optimization import build_optimizer
from benchmark.method import Method, Plan, Progress
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.surgery import ChannelSelection, prune_optimizer_state
from benchmark.recipe import Optimizer, Task

IDENTITIES = 40
PLAN = Plan(
    labels=np.arange(0),
    identities=IDENTITIES,
    batch_size=32,
    views=1,
    epochs=4,
    steps=20,
    learning_rate=lambda step: 0.02,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=5e-4,
    image_size=(32, 32),
)
BOTTLENECKS = {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 16], "stem_width": 8}}


@dataclass
class Rig:
    """Student, teacher and method, prepared and joined as `benchmark.engine.train` joins them."""

    method: Method
    student: Embedder
    teacher: Embedder
    plan: Plan
    distiller: Distiller
    wrapper: DistillOptimWrapper
    batches: Sequence[Batch]

    def step(self, number: int = 0) -> dict[str, Tensor]:
        """Train on one of the batches; the logged losses."""
        self.distiller.train()
        return self.distiller.train_step(self.batches[number % len(self.batches)], self.wrapper)

    def end_epoch(self, epoch: int = 1) -> list[ChannelSelection]:
        changes = self.method.after_epoch(self.student, Progress(epoch, self.plan.epochs, epoch))
        prune_optimizer_state(self.wrapper.optimizer, changes)
        return changes

    def embed(self) -> Tensor:
        """The student's embeddings of the first batch, in eval mode."""
        self.student.eval()
        with torch.no_grad():
            return self.student.features(self.batches[0].images).embedding


@pytest.fixture(scope="session")
def glyphs(data_root) -> Glyphs:
    """What the batches are of."""
    return Glyphs(data_root, train_identities=IDENTITIES, test_identities=20)


@pytest.fixture(scope="session")
def batches(glyphs) -> list[Batch]:
    """An epoch of real batches, 8 identities x 4 images."""
    transform = train_transform((32, 32), pad=2)
    return list(train_loader(glyphs, transform, identities=8, images=4, seed=0, loading=Loading((32, 32))))


@pytest.fixture(scope="session")
def features():
    """`features(embedding=s)`: what a network says, nothing where it is not given."""

    def make(**given: Any) -> Features:
        empty = {name: torch.empty(0) for name in ("pooled", "embedding", "logits")}
        return Features(**empty | given)

    return make


@pytest.fixture(scope="session")
def terms(features):
    """`terms(KD(), logits=(student, teacher))`: the loss terms of a method for given outputs of both networks.

    An output is `pooled`, `embedding`, `logits` or a tap such as `stage3`; `labels` and `indices` go to the batch.
    """

    def compute(method: Method, labels: Any = None, indices: Any = None, **outputs: tuple[Tensor, Tensor]) -> Any:
        sides = []
        for side in (0, 1):
            named = {name: pair[side] for name, pair in outputs.items() if name in ("pooled", "embedding", "logits")}
            taps = {name: pair[side] for name, pair in outputs.items() if name not in named}
            sides.append(features(**named, taps=taps))
        return method.loss(*sides, Batch(torch.empty(0), labels, torch.empty(0), indices))

    return compute


@pytest.fixture(scope="session")
def total(terms):
    """`total(KD(), logits=(student, teacher))`: the sum of a method's loss terms."""
    return lambda method, **given: sum(terms(method, **given).values(), torch.zeros(()))


@pytest.fixture(scope="session")
def draw():
    """`draw((6, 16), (6, 24))`: normal tensors of these shapes in float64, the same at every call."""

    def make(*shapes: Sequence[int], seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]

    return make


@pytest.fixture(scope="session")
def plan() -> Plan:
    """What `rig` plans where it is told nothing else."""
    return PLAN


@pytest.fixture(scope="session")
def scheduled(plan):
    """`scheduled(rates)`: the plan with these learning rates, one for each step."""
    return lambda rates: replace(plan, steps=len(rates), learning_rate=lambda step: float(rates[step]))


@pytest.fixture(scope="session")
def rig(glyphs, batches):
    """`rig(CDD(), backbone="resnet18")` puts a method to work on random networks; the same ones at every call.

    `student` holds what is different about the student's network.
    """

    def make(
        method: Method, optimizer: str = "sgd", seed: int = 0, plan: Plan = PLAN, student: Any = None, **network: Any
    ) -> Rig:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        settings = {"stem": "no_pool", "dim": 16, "head": "cosine", "identities": IDENTITIES} | (network or BOTTLENECKS)
        large, small = Embedder(**settings), Embedder(**settings | (student or {}))
        for built in (large, small):
            _stir(built)
            built.train()(batches[-1].images)
        large.requires_grad_(False).eval()
        labels = np.array([glyphs.labels[sample.identity] for sample in glyphs.train])
        momentum = plan.momentum if optimizer == "sgd" else 0.0
        plan = replace(plan, labels=labels, optimizer=optimizer, momentum=momentum)
        method.prepare(small, large if method.needs.teacher else None, plan)
        small.tap(method.student_taps)
        large.tap(method.teacher_taps)
        distiller = Distiller(small, large if method.needs.teacher else None, method, TaskLoss(Task()))
        rate = Optimizer(type=optimizer, lr=plan.learning_rate(0))
        wrapper = DistillOptimWrapper(
            build_optimizer(distiller, rate), before_step=lambda: method.after_backward(small), autocast=None
        )
        return Rig(method, small, large, plan, distiller, wrapper, batches)

    return make


def _stir(network: Embedder) -> None:
    """Scales and shifts of batch-norm that would show if they were lost."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
