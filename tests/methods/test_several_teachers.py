"""Methods that take several teachers; golden values of several are in test_golden.py."""

from types import SimpleNamespace

import pytest
import torch

from benchmark import METHODS
from benchmark.methods.phi_s import PHIS
from benchmark.methods.unic import UNIC
from benchmark.methods.whiten_mtd import WhitenMTD

SEVERAL = {
    "phi_s": ("method.fit_images=64",),
    "unic": ("method.hidden=8",),
    "whiten_mtd": ("method.fit_images=64", "method.dim=8"),
    "whiten_mtd+unic": ("method.whiten_mtd.fit_images=64", "method.whiten_mtd.dim=8", "method.unic.hidden=8"),
}
"""Settings of short trainings."""
TWO = "teacher=[{}, {network: {dim: 24, image_size: [24, 24]}}]"


def test_every_method_is_covered():
    assert {name for name in METHODS.names() if METHODS.find(name).needs.several_teachers} == SEVERAL.keys() - {
        "whiten_mtd+unic"
    }


def networks(*sizes: int) -> tuple[SimpleNamespace, ...]:
    return tuple(SimpleNamespace(dim=size) for size in sizes)


def test_phi_s_adds_up_the_losses_of_its_teachers(total, draw, plan):
    student, *teachers = draw((5, 8), (5, 4), (5, 6))
    training = draw((40, 4), (40, 6), seed=1)
    both = PHIS()
    both.prepare(*networks(8), networks(4, 6), plan)
    alone = [PHIS(), PHIS()]
    for method, size, head in zip(alone, (4, 6), (both.head, both.more_heads[0]), strict=True):
        method.prepare(*networks(8), *networks(size), plan)
        method.head = head
    for method, embeddings in zip((both, *alone), (torch.cat(training, dim=1), *training), strict=True):
        method.double().fitted, method.seed = True, 0
        for name, value in method.fit(embeddings).items():
            setattr(method, name, value)
    separate = [total(method, embedding=(student, teacher)) for method, teacher in zip(alone, teachers, strict=True)]
    torch.testing.assert_close(total(both, embedding=(student, teachers)), sum(separate))


def test_unic_without_dropping_is_the_mean_over_its_teachers(total, draw, plan):
    student, *teachers = draw((5, 8), (5, 4), (5, 6))
    both = UNIC(drop_probability=0.0, hidden=3)
    both.prepare(*networks(8), networks(4, 6), plan)
    alone = [UNIC(hidden=3), UNIC(hidden=3)]
    for method, size, head in zip(alone, (4, 6), (both.head, both.more_heads[0]), strict=True):
        method.prepare(*networks(8), *networks(size), plan)
        method.head = head
    for _ in range(2):  # the first step is not standardized
        expected = [
            total(method.double(), embedding=(student, teacher))
            for method, teacher in zip(alone, teachers, strict=True)
        ]
        torch.testing.assert_close(total(both.double(), embedding=(student, teachers)), sum(expected) / 2)


def test_equal_teachers_of_whiten_mtd_are_one(total, draw, plan):
    student, teacher = draw((6, 8), (6, 4))
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    method = WhitenMTD(dim=3, fit_images=40)
    alone = WhitenMTD(dim=3, fit_images=40)
    method.prepare(*networks(8), networks(4, 4), plan)
    alone.prepare(*networks(8), *networks(4), plan)
    (rows,) = draw((40, 4), seed=1)
    for each, embeddings in ((method, torch.cat([rows, rows], dim=1)), (alone, rows)):
        each.double().fitted = True
        for name, value in each.fit(embeddings).items():
            setattr(each, name, value)
    for strategy in ("maxmin", "maxmean", "mean"):
        method.strategy = strategy
        two = total(method, labels=labels, embedding=(student, [teacher, teacher]))
        torch.testing.assert_close(two, total(alone, labels=labels, embedding=(student, teacher)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SEVERAL)
def test_training_and_its_continuation_are_bit_identical(name, tiny, train_tiny, tmp_path):
    recipe = tiny(name, *SEVERAL[name], TWO)
    straight = train_tiny(recipe, tmp_path / "straight")
    for epoch in (1, 2):
        method = METHODS.find(name)(**recipe.method.arguments)
        method.after_epoch = interrupting(method.after_epoch, epoch)
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "killed", resume=True, method=method)
    resumed = train_tiny(recipe, tmp_path / "killed", resume=True)
    for one, other in ((straight.student, resumed.student), (straight.method, resumed.method)):
        pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
        assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def interrupting(after_epoch, epoch: int):
    def interrupted(student, progress):
        if progress.epoch == epoch:
            raise KeyboardInterrupt
        return after_epoch(student, progress)

    return interrupted
