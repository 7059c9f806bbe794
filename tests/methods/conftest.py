"""Fixtures that put a method to work without runner and files."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.data.augment import train_transform
from benchmark.data.batch import Batch
from benchmark.data.loaders import Loading, train_loader
from benchmark.datasets.glyphs import Glyphs
from benchmark.engine.compat import DistillOptimWrapper
from benchmark.engine.distiller import Distiller
from benchmark.engine.optimization import build_optimizer
from benchmark.engine.task import TaskLoss
from benchmark.method import Method, Plan, Progress
from benchmark.model.embedder import Embedder
from benchmark.model.features import Features
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_network, save_student
from benchmark.model.surgery import ChannelSelection, prune_optimizer_state
from benchmark.recipe import Optimizer, Task

IDENTITIES = 40
PLAN = Plan(
    labels=np.arange(0),
    identities=IDENTITIES,
    batch_size=32,
    views=1,
    images_per_identity=4,
    epochs=4,
    steps=20,
    learning_rate=lambda step: 0.02,
    optimizer="sgd",
    momentum=0.9,
    weight_decay=5e-4,
    image_size=(32, 32),
)
BOTTLENECKS = {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 16], "stem_width": 8}}
"""Four bottlenecks, whose inner widths are 8, 8, 16 and 16."""


@dataclass
class Rig:
    """Student, teacher and method, prepared and joined as in a training."""

    method: Method
    student: Embedder
    teacher: Embedder
    plan: Plan
    distiller: Distiller
    wrapper: DistillOptimWrapper
    batches: Sequence[Batch]
    seen: list[Batch] = field(default_factory=list)
    """The batches of the steps so far."""

    @property
    def images(self) -> Tensor:
        """The images of the first batch."""
        return self.batches[0].images

    def step(self, number: int = 0) -> dict[str, Tensor]:
        """Train on one of the batches and return the logged losses."""
        self.distiller.train()
        self.seen.append(self.batches[number % len(self.batches)])
        return self.distiller.train_step(self.seen[-1], self.wrapper)

    def end_epoch(self, epoch: int = 1) -> list[ChannelSelection]:
        """Let the method change the structure, and the optimizer's state follow."""
        changes = self.method.after_epoch(self.student, Progress(epoch, self.plan.epochs, epoch))
        prune_optimizer_state(self.wrapper.optimizer, changes)
        return changes

    def embed(self) -> Tensor:
        """Return the student's embeddings of the first batch, in eval mode."""
        self.student.eval()
        with torch.no_grad():
            return self.student.features(self.images).embedding

    def terms(self) -> dict[str, Tensor]:
        """Return the loss terms of the method for the first batch."""
        student = self.student.train().features(self.images)
        with torch.no_grad():
            teacher = self.teacher.features(self.images)
        return self.method.loss(student, teacher, self.batches[0])

    def fit(self) -> None:
        """End an epoch if the method has no terms yet: some fit something to the embeddings of the first epoch."""
        if not self.terms():
            self.end_epoch()

    def deploy(self, path: Path) -> Embedder:
        """Compact the student, write its file and load it."""
        compact = fold_batchnorm(self.method.compact(self.student), self.images)
        compact.head = None
        save_student(compact, path, self.plan.image_size)
        return load_network(path)

    def take_over(self, other: "Rig") -> None:
        """Load the state of another rig, as a resumed run does."""
        self.teacher.load_state_dict(other.teacher.state_dict())
        self.method.restore(self.student, other.method.structure())
        self.student.load_state_dict(other.student.state_dict(), strict=True)
        self.method.load_state_dict(other.method.state_dict(), strict=True)
        self.wrapper.optimizer.load_state_dict(copy.deepcopy(other.wrapper.optimizer.state_dict()))
        for ago in range(self.method.remembered_steps(), 0, -1):
            self.distiller.remember(other.seen[-ago], ago)

    # For methods with compactors:

    @property
    def sites(self) -> Sequence[Any]:
        return self.method.sites(self.student)

    @property
    def compactors(self) -> list[nn.Parameter]:
        """The weights of the compactors."""
        return [site.weight for site in self.sites]

    def norms(self) -> list[Tensor]:
        """Return for each site the norms of the rows or columns that can be removed."""
        return [_groups(site).flatten(1).norm(dim=1) for site in self.sites]

    def perturb(self) -> None:
        """Move the compactors away from the identity."""
        generator = torch.Generator().manual_seed(1)
        for weight in self.compactors:
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)

    def vanish(self, entries: Mapping[int, Sequence[int]], size: float = 1e-8) -> None:
        """Scale rows or columns, given for each site, to a norm."""
        for i, rows in entries.items():
            groups = _groups(self.sites[i])
            for row in rows:
                groups[row] *= size / groups[row].norm()

    def vanish_share(self, share: float) -> None:
        """Scale a share of the rows or columns of every site to a norm near zero."""
        generator = torch.Generator().manual_seed(2)
        for i, site in enumerate(self.sites):
            self.vanish({i: torch.randperm(site.width, generator=generator)[: int(share * site.width)].tolist()})


def _groups(site: Any) -> Tensor:
    """Return a view of a compactor whose first dimension is that of its rows or columns."""
    return site.weight.data.movedim(site.dim, 0)


@pytest.fixture(scope="session")
def glyphs(data_root) -> Glyphs:
    return Glyphs(data_root, train_identities=IDENTITIES, test_identities=20)


@pytest.fixture(scope="session")
def batches(glyphs) -> list[Batch]:
    """An epoch of real batches with 8 identities of 4 images each."""
    transform = train_transform((32, 32), pad=2)
    return list(train_loader(glyphs, transform, identities=8, images=4, seed=0, loading=Loading((32, 32))))


@pytest.fixture(scope="session")
def features() -> Callable[..., Features]:
    """`features(embedding=s)`: outputs of a network; those that are not given are empty."""

    def make(**outputs: Any) -> Features:
        empty = {name: torch.empty(0) for name in ("pooled", "embedding", "logits")}
        return Features(**empty | outputs)

    return make


@pytest.fixture(scope="session")
def terms(features):
    """`terms(KD(), logits=(student, teacher))`: the loss terms of a method for given outputs of both networks.

    An output is `pooled`, `embedding`, `logits` or a tap such as `stage3`; those of several teachers are a list.
    `labels` and `indices` go to the batch.
    """

    def of_network(outputs: Mapping[str, Tensor]) -> Features:
        named = {name: x for name, x in outputs.items() if name in ("pooled", "embedding", "logits")}
        return features(**named, taps={name: x for name, x in outputs.items() if name not in named})

    def compute(method: Method, labels: Any = None, indices: Any = None, **outputs: tuple[Tensor, Any]) -> Any:
        student = of_network({name: pair[0] for name, pair in outputs.items()})
        given = {name: x if isinstance(x, list) else [x] for name, (_, x) in outputs.items()}
        of_teachers = zip(*given.values(), strict=True) if given else [()]
        teachers = [of_network(dict(zip(given, each, strict=True))) for each in of_teachers]
        batch = Batch(torch.empty(0), labels, torch.empty(0), indices)
        return method.loss(student, method.needs.received(teachers), batch)

    return compute


@pytest.fixture(scope="session")
def total(terms):
    """`total(KD(), logits=(student, teacher))`: the sum of a method's loss terms."""
    return lambda method, **given: sum(terms(method, **given).values(), torch.zeros(()))


@pytest.fixture(scope="session")
def draw() -> Callable[..., list[Tensor]]:
    """`draw((6, 16), (6, 24))`: normal tensors of these shapes in float64, the same at every call."""

    def make(*shapes: Sequence[int], seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]

    return make


@pytest.fixture(scope="session")
def plan() -> Plan:
    """The default plan of `rig`: 4 epochs of 5 steps with a constant learning rate."""
    return PLAN


@pytest.fixture(scope="session")
def scheduled(plan) -> Callable[[Sequence[float]], Plan]:
    """`scheduled(rates)`: a plan with these learning rates, one for each step."""
    return lambda rates: replace(plan, steps=len(rates), learning_rate=lambda step: float(rates[step]))


@pytest.fixture(scope="session")
def rig(glyphs, batches) -> Callable[..., Rig]:
    """`rig(CDD(), backbone="resnet18")`: a method, prepared for networks with random weights.

    The weights are the same at every call with the same `seed`. `student` has the arguments of the student's network
    that differ from the teacher's.
    """
    labels = np.array([glyphs.labels[sample.identity] for sample in glyphs.train])

    def make(
        method: Method, optimizer: str = "sgd", seed: int = 0, plan: Plan = PLAN, student: Any = None, **network: Any
    ) -> Rig:
        torch.set_num_threads(1)
        torch.manual_seed(seed)
        settings = {"stem": "no_pool", "dim": 16, "head": "cosine", "identities": IDENTITIES} | (network or BOTTLENECKS)
        large, small = Embedder(**settings), Embedder(**settings | (student or {}))
        for built in (large, small):
            _randomize_norms(built)
            built.train()(batches[-1].images)  # for running statistics
        large.requires_grad_(False).eval()
        momentum = plan.momentum if optimizer == "sgd" else 0.0
        plan = replace(plan, labels=labels, optimizer=optimizer, momentum=momentum)
        method.prepare(small, large if method.needs.teacher else None, plan)
        small.tap(method.student_taps)
        large.tap(method.teacher_taps)
        distiller = Distiller(small, large if method.needs.teacher else None, method, TaskLoss(Task()))
        rate = Optimizer(type=optimizer, lr=plan.learning_rate(0))
        wrapper = DistillOptimWrapper(
            build_optimizer(distiller, rate), before_step=lambda: method.after_backward(small)
        )
        return Rig(method, small, large, plan, distiller, wrapper, batches)

    return make


def _randomize_norms(network: Embedder) -> None:
    """Set scales and shifts of batch norms to values whose loss would be noticed."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
