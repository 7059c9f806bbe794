"""ResRep: its masks against a naive loop, the steps of its compactors, its settings and its target.

`test_compression` has what ResRep has in common with other methods.
"""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark import Needs, UserError
from benchmark.compression.lasso import auto_lasso
from benchmark.losses import kl_divergence
from benchmark.methods.resrep import ResRep
from benchmark.methods.resrep.masking import lowest_rows
from benchmark.model.cost import count
from benchmark.model.fold import fold_batchnorm
from benchmark.recipe import compose

WIDTHS = [8, 8, 8, 8, 16, 16, 16, 16]
"""Two compactors in each of four bottlenecks."""
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
NETWORKS = {
    "bottleneck": {},
    "deeper": {"backbone": "resnet26", "args": {"channels": [8, 8, 16, 16]}},
    "basic": {"backbone": "resnet18", "args": SMALL},
    "grouped": {
        "backbone": "resnext50_32x4d",
        "args": SMALL | {"channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
    },
    "squeeze_excite": {"backbone": "seresnet50", "args": SMALL},
    "blur_pool": {"backbone": "resnetblur50", "args": SMALL, "neck": "bn"},
    "average_pool": {"backbone": "resnetaa50", "args": SMALL, "last_stride": 1},
}


def scatter_norms(made) -> None:
    """Give every row of the compactors a different norm between 0.5 and 1.5."""
    made.perturb()
    generator = torch.Generator().manual_seed(1)
    for weight, norms in zip(made.compactors, made.norms(), strict=True):
        target = 0.5 + torch.rand(len(weight), generator=generator)
        weight.data *= (target / norms).view(-1, 1, 1, 1)


def masked_rows(made) -> int:
    return sum(int((mask == 0).sum()) for mask in made.method.masks)


def masks_by_loop(norms: list[list[float]], macs, allowed: float, limit: int) -> list[list[bool]]:
    """Mask row after row, smallest first, until the target or the limit is reached."""
    widths = [len(site) for site in norms]
    masked = [[False] * width for width in widths]
    for _, i, row in sorted((norm, i, row) for i, site in enumerate(norms) for row, norm in enumerate(site)):
        if macs(widths) <= allowed or limit <= 0:
            break
        if row == norms[i].index(max(norms[i])):
            continue
        masked[i][row] = True
        widths[i] -= 1
        limit -= 1
    return masked


class TestMasks:
    @settings(deadline=None, max_examples=50)
    @given(
        st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=2, max_size=4),
        st.floats(0, 1),
        st.integers(-1, 20),
    )
    def test_equal_a_loop(self, norms, share, limit):
        def macs(widths) -> int:
            return 5 + sum((i + 1) * a * b for i, (a, b) in enumerate(zip([3, *widths], [*widths, 2], strict=True)))

        def vectorized(many: np.ndarray) -> np.ndarray:
            return np.array([macs([int(w) for w in widths]) for widths in many])

        allowed = share * macs([len(site) for site in norms])
        masks = lowest_rows([np.array(site, dtype=float) for site in norms], vectorized, allowed, limit)
        assert [mask.tolist() for mask in masks] == masks_by_loop(norms, macs, allowed, limit)

    def test_cover_the_smallest_rows_until_the_target_is_met(self, rig):
        made = rig(ResRep(target_macs=0.8, mask_from=0.0, mask_every=1, mask_rows=1000))
        scatter_norms(made)
        ranked = made.norms()
        made.step(0)
        masks = made.method.masks
        remaining = np.array([int(mask.sum()) for mask in masks])
        assert min(remaining) > 0 and sum(remaining) < sum(WIDTHS)
        masked = torch.cat([norms[mask == 0] for norms, mask in zip(ranked, masks, strict=True)])
        others = torch.cat([norms[mask == 1] for norms, mask in zip(ranked, masks, strict=True)])
        largest = max(masked)
        assert sum(others < largest) <= len(WIDTHS), "only the largest row of a site may be smaller"
        allowed = 0.8 * count(fold_batchnorm(made.teacher, made.images), (32, 32)).macs
        assert made.method.cost.macs(remaining[None])[0] <= allowed
        last = next(i for i, norms in enumerate(ranked) if largest in norms[masks[i] == 0])
        remaining[last] += 1
        assert made.method.cost.macs(remaining[None])[0] > allowed, "one row fewer would not suffice"

    def test_grow_gradually_and_are_recomputed(self, rig):
        made = rig(ResRep(target_macs=0.3, mask_from=0.1, mask_every=2, mask_rows=3, lasso=0.0))  # of 20 steps
        scatter_norms(made)
        masked = []
        for number in range(7):
            made.step(number)
            masked.append(masked_rows(made))
        assert masked == [0, 0, 3, 3, 6, 6, 9]
        i, row = next((i, int(mask.argmin())) for i, mask in enumerate(made.method.masks) if not mask.all())
        made.compactors[i].data[row] *= 100
        made.step(7)
        made.step(8)
        assert made.method.masks[i][row] == 1
        assert made.method.report(made.student)["masked"] == 12


class TestCompactorSteps:
    def test_masked_rows_have_the_gradient_of_the_lasso_only(self, rig):
        made = rig(ResRep(lasso=0.3, momentum=0.0, mask_from=0.0, mask_every=1, mask_rows=20))
        scatter_norms(made)
        made.distiller.train()
        state = copy.deepcopy(made.distiller.state_dict())
        terms = made.distiller(*made.batches[0], mode="loss")
        of_loss = torch.autograd.grad(sum(terms.values()), made.compactors)
        made.distiller.load_state_dict(state)
        before = [weight.detach().clone() for weight in made.compactors]
        made.step(0)
        assert masked_rows(made) == 20
        rate = made.plan.learning_rate(0)
        for weight, old, gradient, mask in zip(made.compactors, before, of_loss, made.method.masks, strict=True):
            lasso = 0.3 * old / old.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            expected = old - rate * (mask.view(-1, 1, 1, 1) * gradient + lasso)
            assert torch.allclose(weight, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_are_sgd_with_high_momentum_and_no_weight_decay(self, rig, scheduled, optimizer):
        """With any optimizer of the training, at the learning rate of its schedule."""
        plan = scheduled(np.linspace(0.02, 0.01, 20))
        made = rig(ResRep(lasso=0.0, mask_from=0.9, mask_until=0.95, vanish_at=1.0), optimizer=optimizer, plan=plan)
        twins = [nn.Parameter(weight.detach().clone()) for weight in made.compactors]
        reference = torch.optim.SGD(twins, lr=0.02, momentum=0.99)
        gradients: list[Tensor] = []
        step = made.method._sgd_step
        made.method._sgd_step = lambda weights: (gradients.extend(w.grad.clone() for w in weights), step(weights))
        for number in range(4):
            gradients.clear()
            made.step(number)
            reference.param_groups[0]["lr"] = plan.learning_rate(number)
            for twin, gradient in zip(twins, gradients, strict=True):
                twin.grad = gradient
            reference.step()
        assert not any(torch.equal(twin, torch.eye(len(twin))[:, :, None, None]) for twin in twins)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(made.compactors, twins, strict=True))
        assert not any(weight in made.wrapper.optimizer.state for weight in made.compactors)

    def test_keep_only_the_velocity_along_a_masked_row(self, rig):
        made = rig(ResRep(lasso=0.0, momentum=0.9))
        scatter_norms(made)
        method, weight = made.method, made.compactors[4]
        velocity, old = method.get_buffer("velocity4"), weight.detach().clone().view(16, 16)
        velocity.copy_(torch.randn(velocity.shape, generator=torch.Generator().manual_seed(3)))
        method.masks[4][1::2] = 0
        expected = torch.empty(16, 16)
        for row in range(16):
            speed = velocity[row].flatten().tolist()
            if row % 2:
                dot = sum(float(v) * float(w) for v, w in zip(speed, old[row], strict=True))
                speed = [dot / float(old[row].norm()) ** 2 * float(w) for w in old[row]]
            expected[row] = torch.tensor([0.9 * v + 0.01 for v in speed])
        for other in made.compactors:
            other.grad = torch.full_like(other, 0.01)
        method._sgd_step(made.compactors)
        assert torch.allclose(velocity.view(16, 16), expected, rtol=1e-4, atol=1e-6)
        assert torch.allclose(weight.view(16, 16), old - 0.02 * expected, rtol=1e-4, atol=1e-6)

    def test_stop_masked_rows_at_zero(self, rig):
        made = rig(ResRep(lasso=2.0, mask_from=0.0, mask_every=1, mask_rows=12, target_macs=0.01))
        for number in range(12):
            made.step(number)
        zero = [norms == 0 for norms in made.norms()]
        assert sum(int(rows.sum()) for rows in zero) > 5
        assert all(not (rows & (mask == 1)).any() for rows, mask in zip(zero, made.method.masks, strict=True))
        assert all(value.isfinite().all() for value in made.student.state_dict().values())
        made.step(12)
        assert all((norms[rows] == 0).all() for norms, rows in zip(made.norms(), zero, strict=True))

    def test_have_the_gradient_of_the_loss_after_the_target_is_met(self, rig):
        made = rig(ResRep(target_macs=0.95, lasso=0.5, mask_from=0.0, mask_every=1, momentum=0.0))
        made.vanish_share(0.5)
        assert made.end_epoch()
        assert not made.method.compressing
        before = [weight.detach().clone() for weight in made.compactors]
        made.distiller.train()
        sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
        gradients = [weight.grad.clone() for weight in made.compactors]
        made.method.after_backward(made.student)
        for weight, old, gradient in zip(made.compactors, before, gradients, strict=True):
            assert torch.allclose(weight, old - made.plan.learning_rate(0) * gradient)
        made.vanish_share(0.5)
        assert made.end_epoch(2) == []


class TestSettings:
    def test_auto(self, rig, scheduled):
        rates = np.linspace(0.02, 0.001, 2000)
        made = rig(ResRep(mask_from=0.1, mask_until=0.3, vanish_at=0.4), plan=scheduled(rates))
        method = made.method
        assert (method.mask_step, method.update_every) == (200, 4)
        updates = len(range(200, 600, 4))
        assert method.rows_per_update == math.ceil(sum(WIDTHS) / updates)
        assert method.strength == auto_lasso(rates[600:800], 0.99, 0.0)
        rig(ResRep(), optimizer="adamw")  # the compactors have their own optimizer

    def test_published_preset(self, rig):
        recipe = compose("resrep", "glyphs", settings=["method.preset=published"])
        method = ResRep(**recipe.method.arguments)
        assert method.needs == Needs(teacher=False)
        assert (method.momentum, method.budget.target, method.threshold) == (0.99, 0.455, 1e-5)
        made = rig(method)
        assert (method.strength, method.update_every, method.rows_per_update) == (1e-4, 200, 4)
        assert not any("resrep" in name for name in made.step(0))
        assert made.end_epoch() == [], "rows are removed once, after training"

    def test_order_of_shares(self):
        with pytest.raises(UserError, match=r"resrep: mask_from \(0.3\), mask_until \(0.2\)"):
            ResRep(mask_from=0.3, mask_until=0.2)
        ResRep(mask_from=0.3, mask_until=0.2, lasso=1e-4, mask_every=200, mask_rows=4)  # nothing depends on the order


def test_kl_term(rig):
    made = rig(ResRep(kl_weight=0.7, temperature=3.0))
    student, teacher = made.student.train().features(made.images), made.teacher.features(made.images)
    terms = made.method.loss(student, teacher, made.batches[0])
    assert terms.keys() == {"resrep_kl"}
    assert torch.allclose(terms["resrep_kl"], 0.7 * kl_divergence(student.logits, teacher.logits, 3.0))
    assert made.method.needs.classifier


def test_structural_step_narrows_masks_and_velocities(rig):
    made = rig(ResRep(target_macs=0.01, mask_from=0.0, mask_every=1, mask_rows=3, lasso=0.01))
    for number in range(2):
        made.step(number)
    removed = {0: [1, 6], 1: [2], 5: [0, 3, 15]}
    made.vanish(removed)
    before = {name: value.clone() for name, value in made.method.named_buffers()}
    made.end_epoch()
    for i, width in enumerate(WIDTHS):
        rows = torch.tensor([row for row in range(width) if row not in removed.get(i, [])])
        assert len(made.compactors[i]) == len(made.method.masks[i]) == len(rows)
        assert torch.equal(made.method.masks[i], before[f"mask{i}"][rows])
        assert torch.equal(made.method.get_buffer(f"velocity{i}"), before[f"velocity{i}"][rows])
    assert made.method.structure() == {"widths": [6, 7, 8, 8, 16, 13, 16, 16]}
    made.step(2)
    assert masked_rows(made) == 9 - 6, "removed rows count as masked"


@pytest.mark.slow
def test_killed_training_resumes_bit_identically(tiny, train_tiny, tmp_path):
    masks = ("method.mask_from=0.0", "method.mask_every=8", "method.mask_rows=5", "method.target_macs=0.62")
    recipe = tiny("resrep", "train.schedule.epochs=3", "method.lasso=0.01", "method.threshold=0.8", *masks)
    straight = train_tiny(recipe, tmp_path / "straight")
    for epoch in (1, 2, 3):
        method = ResRep(**recipe.method.arguments)
        original = method.after_epoch

        def kill(student, progress, original=original, last=epoch):
            if progress.epoch == last:
                raise KeyboardInterrupt
            return original(student, progress)

        method.after_epoch = kill
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "killed", resume=True, method=method)
    resumed = train_tiny(recipe, tmp_path / "killed", resume=True)
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    channels = [row["channels"] for row in rows]
    assert channels[3] < channels[2] < channels[0], "rows are removed before and after a kill"
    state = straight.student.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in resumed.student.state_dict().items())


@pytest.mark.slow
def test_training_meets_the_target(rig, scheduled, tmp_path):
    plan = scheduled(np.linspace(0.05, 0.005, 60))
    made = rig(ResRep(target_macs=0.85, lasso=0.25, mask_from=0.05, mask_until=0.3, momentum=0.9), plan=plan)
    channels = []
    for epoch in range(4):
        for number in range(15):
            made.step(15 * epoch + number)
        made.end_epoch(epoch + 1)
        channels.append(made.method.report(made.student)["channels"])
    assert not made.method.compressing
    assert channels[-1] < sum(WIDTHS)
    assert channels == sorted(channels, reverse=True)
    before = made.embed()
    deployed = made.deploy(tmp_path / "student.pt")
    full = count(fold_batchnorm(made.teacher, made.images), (32, 32)).macs
    assert 0.8 * full < count(deployed, (32, 32)).macs <= 0.85 * full
    with torch.no_grad():
        assert torch.allclose(deployed(made.images), before, rtol=0, atol=1e-4)


def test_grouped_bottleneck_has_one_compactor(rig):
    assert [site.norm_name for site in rig(ResRep(), **NETWORKS["grouped"]).sites] == ["bn2"] * 4
