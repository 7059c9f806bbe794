"""CDD at work: its gradients, its structural steps, its budget, its figures."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.compression.compactor import row_sites
from benchmark.compression.lasso import auto_lasso, edit_gradients, group_norms
from benchmark.errors import UserError
from benchmark.losses import kl_divergence
from benchmark.method import Budget
from benchmark.methods.cdd import CDD
from benchmark.model import cost
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, save_student
from benchmark.recipe import compose

WIDTHS = [8, 8, 16, 16]
GROUPED = {
    "backbone": "resnext50_32x4d",
    "args": {"layers": [1] * 4, "channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
}


def compactors(student: Embedder) -> list[nn.Parameter]:
    return [block.compactor.weight for block in row_sites(student)]


def shrink(student: Embedder, *rows: tuple[int, int], size: float = 1e-8) -> None:
    """Scale rows, given as (block, row), to this norm."""
    weights = compactors(student)
    for block, row in rows:
        weights[block].data[row] *= size / weights[block].data[row].norm()


def deploy(made, path) -> Embedder:
    compact = fold_batchnorm(made.method.compact(made.student), made.batches[0].images)
    save_student(compact, path, (32, 32))
    return load_student(path)


def loss_gradients(made, lasso: float) -> list[Tensor]:
    """By autograd: gradients of the compactors for the objective plus lasso * group lasso."""
    made.distiller.train()
    state = copy.deepcopy(made.distiller.state_dict())
    step, queue = made.method.step, copy.deepcopy(made.method.gradient_reset.state_dict())
    terms = made.distiller(*made.batches[0], mode="loss")
    total = sum(terms.values()) + lasso * sum(group_norms(weight).sum() for weight in compactors(made.student))
    gradients = torch.autograd.grad(total, compactors(made.student))
    made.distiller.load_state_dict(state)
    made.method.gradient_reset.load_state_dict(queue)
    made.method.step = step
    return list(gradients)


def edited_gradients(made) -> list[Tensor]:
    """As training computes them, with `after_backward` in place of the optimiser's step."""
    made.distiller.train()
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    made.method.after_backward(made.student)
    return [weight.grad.clone() for weight in compactors(made.student)]


def test_losses_are_the_papers(rig):
    made = rig(CDD(temperature=3.0, kl_weight=0.7, feature_weight=0.25))
    made.student.train()
    student = made.student.features(made.batches[0].images)
    teacher = made.teacher.features(made.batches[0].images)
    terms = made.method.loss(student, teacher, made.batches[0])
    distance = 0.0
    for i in range(1, 5):  # stage by stage, one block each
        s = student.taps[f"layer{i}.0.bn2.norm"].mean((2, 3))
        t = teacher.taps[f"layer{i}.0.bn2"].mean((2, 3))
        distance = distance + (s - t).square().sum(dim=1).sqrt().mean()
    assert set(terms) == {"kl", "feature"}
    assert torch.allclose(terms["feature"], 0.25 * distance, rtol=1e-5)
    assert torch.allclose(terms["kl"], 0.7 * kl_divergence(student.logits, teacher.logits, 3.0))


def test_the_compactor_starts_as_the_identity(rig):
    made = rig(CDD())
    plain = rig(CDD()).student
    for place in row_sites(plain):
        setattr(place.block, place.norm_name, place.norm.norm)
    with torch.no_grad():
        assert torch.equal(made.student.eval()(made.batches[0].images), plain.eval()(made.batches[0].images))


def test_phase_one_is_the_gradient_of_the_loss_with_the_lasso_in_it(rig):
    made = rig(CDD(lasso=0.3, reset_from=0.5))
    with torch.no_grad():
        for weight in compactors(made.student):
            weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    expected = loss_gradients(made, lasso=0.3)
    for got, gradient in zip(edited_gradients(made), expected, strict=True):
        assert torch.allclose(got, gradient, rtol=1e-4, atol=1e-6)
    assert all(mask.all() for mask in made.method.gradient_reset.masks)
    assert made.method.gradient_reset.filled == 0  # as released: the queues fill when resetting begins


def test_phase_two_masks_the_objective_and_keeps_the_lasso(rig):
    made = rig(CDD(lasso=0.3, reset_from=0.0))
    for mask in made.method.gradient_reset.masks:
        mask[::3] = 0
    objective = loss_gradients(made, lasso=0.0)
    got = edited_gradients(made)
    masks = made.method.gradient_reset.masks
    assert any(0 < mask.sum() < len(mask) for mask in masks)
    for gradient, weight, mask, of_objective in zip(got, compactors(made.student), masks, objective, strict=True):
        pull = 0.3 * weight.detach() / weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        assert torch.allclose(gradient[mask == 0], pull[mask == 0], rtol=1e-5)
        assert torch.allclose(gradient[mask == 1], (of_objective + pull)[mask == 1], rtol=1e-4, atol=1e-6)


def test_resetting_begins_at_its_share_of_the_steps(rig):
    made = rig(CDD(reset_from=0.25, vanish_at=0.5))  # of 20 steps
    filled = []
    for number in range(7):
        made.step(number)
        filled.append(made.method.gradient_reset.filled)
    assert filled == [0, 0, 0, 0, 0, 32, 64]


@pytest.mark.parametrize("reset_from", [0.0, 0.5])
def test_zero_rows_stay_finite(rig, reset_from):
    made = rig(CDD(reset_from=reset_from, vanish_at=0.9))
    compactors(made.student)[1].data[2:5] = 0
    for number in range(3):
        made.step(number)
    assert all(value.isfinite().all() for value in made.student.state_dict().values())


def test_masked_rows_come_to_rest_at_zero(rig, scheduled):
    """The released pull carries them across zero, again and again, while the learning rate is high."""
    made = rig(CDD(lasso=0.5, reset_from=0.0), plan=scheduled(np.full(300, 0.02)))
    rows, released = (nn.Parameter(compactors(made.student)[0].detach().clone()) for _ in range(2))
    optimizer = torch.optim.SGD([rows, released], lr=0.02, momentum=0.9)
    made.method.gradient_reset.masks[0].zero_()
    place = row_sites(made.student)[0]
    place.compactor.weight = rows
    for _ in range(300):
        for weight in [*compactors(made.student), released]:
            weight.grad = torch.ones_like(weight)  # an objective that would keep them growing
        released.grad.zero_()
        edit_gradients([released], 0.5)
        made.method.after_backward(made.student)
        optimizer.step()
    assert float(rows.detach().abs().max()) < 1e-5
    assert float(released.detach().abs().max()) > 1e-3


def test_a_given_lasso_is_used_as_it_is(rig):
    assert rig(CDD(lasso=0.004)).method.strength == 0.004


def test_the_automatic_lasso_follows_from_the_schedule(rig):
    made = rig(CDD(reset_from=0.2, vanish_at=0.7))
    plan = made.plan
    expected = auto_lasso([0.02] * 10, plan.momentum, plan.weight_decay)
    assert made.method.strength == expected


def test_the_automatic_lasso_needs_a_rate(rig, scheduled):
    for rate in (0.0, 2e7):
        with pytest.raises(UserError, match=r"cdd: `lasso: auto` has no value for the learning rates of steps 3 to 4"):
            rig(CDD(), plan=scheduled([rate] * 20))


def test_vanishing_comes_after_resetting():
    with pytest.raises(UserError, match=r"vanish_at \(0.1\) must be greater than reset_from \(0.2\)"):
        CDD(reset_from=0.2, vanish_at=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_structural_step_narrows_everything_and_changes_no_output(rig, optimizer):
    made = rig(CDD(lasso=0.1, reset_from=0.0), optimizer=optimizer)
    for number in range(2):
        made.step(number)
    gone = {0: [1, 6], 2: [0, 3, 4, 15]}
    shrink(made.student, *((block, row) for block, rows in gone.items() for row in rows))
    before = made.embed()
    state = copy.deepcopy(made.wrapper.optimizer.state_dict()["state"])
    masks = [mask.clone() for mask in made.method.gradient_reset.masks]
    number_of = {id(p): i for i, p in enumerate(made.wrapper.optimizer.param_groups[0]["params"])}
    queues = [made.method.gradient_reset.get_buffer(f"queue{i}").clone() for i in range(4)]

    changes = made.end_epoch()

    assert torch.allclose(made.embed(), before, rtol=0, atol=1e-5 * float(before.abs().max()))
    assert len(changes) == 2 * len(gone)
    for i, block in enumerate(row_sites(made.student)):
        kept = torch.tensor([row for row in range(WIDTHS[i]) if row not in gone.get(i, [])])
        following = getattr(block.block, block.next_conv_name)
        assert block.compactor.weight.shape == (len(kept), WIDTHS[i], 1, 1)
        assert following.weight.shape[1] == following.in_channels == block.compactor.out_channels == len(kept)
        assert torch.equal(made.method.gradient_reset.masks[i], masks[i][kept])
        assert torch.equal(made.method.gradient_reset.get_buffer(f"queue{i}"), queues[i])  # the teacher's, all of it
        for parameter, dim in ((block.compactor.weight, 0), (following.weight, 1)):
            assert parameter.grad is None or parameter.grad.shape == parameter.shape
            new = made.wrapper.optimizer.state[parameter]
            old = state[number_of[id(parameter)]]
            moments = [name for name, value in old.items() if value is not None and value.dim() == 4]
            assert moments
            assert all(torch.equal(new[name], old[name].index_select(dim, kept)) for name in moments)
    made.step(2)


def test_training_goes_on_as_if_the_removed_rows_were_zero(rig):
    gone = [(0, 1), (1, 0), (1, 7), (2, 5), (3, 2), (3, 3)]
    narrow, whole = (rig(CDD(lasso=0.05, reset_from=0.0)) for _ in range(2))
    for made in (narrow, whole):
        for number in range(3):
            made.step(number)
        for block, row in gone:
            weight = compactors(made.student)[block]
            made.method.gradient_reset.masks[block][row] = 0
            made.wrapper.optimizer.state[weight]["momentum_buffer"][row] = 0
            weight.data[row] = 0
    narrow.end_epoch()
    assert [len(weight) for weight in compactors(narrow.student)] == [7, 6, 15, 14]

    for number in range(3, 9):
        ours, theirs = narrow.step(number), whole.step(number)
        assert all(torch.allclose(ours[name], theirs[name], rtol=2e-4) for name in theirs)
    for i in range(4):
        index = narrow.method.gradient_reset.get_buffer(f"kept{i}")
        ours, theirs = compactors(narrow.student)[i], compactors(whole.student)[i]
        assert torch.allclose(ours, theirs[index], rtol=0, atol=1e-4)
        assert torch.equal(narrow.method.gradient_reset.masks[i], whole.method.gradient_reset.masks[i][index])
    assert torch.allclose(narrow.embed(), whole.embed(), rtol=0, atol=1e-3)


def test_a_block_keeps_its_largest_row(rig):
    made = rig(CDD())
    shrink(made.student, *((3, row) for row in range(16)))
    shrink(made.student, (3, 9), size=5e-8)
    made.end_epoch()
    assert made.method.gradient_reset.kept3.tolist() == [9]


def test_the_structure_can_be_repeated_on_a_fresh_student(rig):
    made = rig(CDD(reset_from=0.0))
    made.step(0)
    shrink(made.student, (0, 3), (2, 1), (2, 2))
    made.end_epoch()
    made.step(1)
    fresh = rig(CDD(reset_from=0.0), seed=1)
    fresh.method.restore(fresh.student, made.method.structure())
    fresh.student.load_state_dict(made.student.state_dict(), strict=True)
    fresh.method.load_state_dict(made.method.state_dict(), strict=True)
    assert torch.equal(fresh.embed(), made.embed())
    assert (fresh.method.step, fresh.method.report(fresh.student)) == (2, made.method.report(made.student))


def test_static_compression_removes_rows_once_at_the_end(rig, tmp_path):
    made = rig(CDD(dynamic=False))
    shrink(made.student, (0, 1), (3, 5))
    assert made.end_epoch() == []
    assert [len(weight) for weight in compactors(made.student)] == WIDTHS
    before = made.embed()
    deployed = deploy(made, tmp_path / "student.pt")
    assert deployed.backbone.layer1[0].conv3.in_channels == 7
    with torch.no_grad():
        assert torch.allclose(deployed(made.batches[0].images), before, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "argument"), [("macs", "target_macs"), ("parameters", "target_params")])
def test_a_budget_is_met_by_no_more_rows_than_it_takes(rig, tmp_path, kind, argument):
    target = 0.9
    made = rig(CDD(**{argument: target}, reset_from=0.0))
    allowed = target * getattr(cost.count(fold_batchnorm(made.teacher, made.batches[0].images), (32, 32)), kind)
    rows = [(block, row) for block, width in enumerate(WIDTHS) for row in range(width - 1)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    for rank, number in enumerate(order):  # distinct norms, all of them below the threshold
        shrink(made.student, rows[number], size=1e-7 + 1e-8 * rank)
    made.end_epoch()
    removed = sum(WIDTHS) - sum(len(weight) for weight in compactors(made.student))
    assert [rows[number] in kept_rows(made) for number in order] == [rank >= removed for rank in range(len(rows))]
    assert made.method.report(made.student)[kind] <= allowed

    one_less = rig(CDD(reset_from=0.0))
    shrink(one_less.student, *(rows[number] for number in order[: removed - 1]))
    one_less.end_epoch()
    assert one_less.method.report(one_less.student)[kind] > allowed
    assert getattr(cost.count(deploy(made, tmp_path / "student.pt"), (32, 32)), kind) <= allowed


def kept_rows(made) -> set[tuple[int, int]]:
    reset = made.method.gradient_reset
    return {(block, row) for block in range(4) for row in reset.get_buffer(f"kept{block}").tolist()}


def test_a_met_budget_ends_compression(rig):
    made = rig(CDD(target_params=0.99, reset_from=0.0, lasso=0.3))
    shrink(made.student, *((3, row) for row in range(8)))
    assert made.end_epoch()
    assert not made.method.compressing
    objective = loss_gradients(made, lasso=0.0)
    masks = [mask.clone() for mask in made.method.gradient_reset.masks]
    for got, gradient in zip(edited_gradients(made), objective, strict=True):
        assert torch.allclose(got, gradient, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(made.method.gradient_reset.masks, masks, strict=True))
    widths = [len(weight) for weight in compactors(made.student)]
    shrink(made.student, (0, 0), (1, 1))
    assert made.end_epoch(2) == []
    made.method.compact(made.student)
    assert [made.student.backbone.get_submodule(f"layer{i}.0.conv3").in_channels for i in range(1, 5)] == widths


def test_a_budget_that_is_not_met_leaves_compression_on(rig):
    made = rig(CDD(target_macs=0.01))
    shrink(made.student, (0, 0))
    assert made.end_epoch()
    assert made.method.compressing
    shrink(made.student, (1, 0))
    assert made.end_epoch(2)


def test_only_one_budget_can_be_given_and_the_message_says_how_to_switch():
    """Glyphs sets one of them, so that a user who wants the other has to switch it off."""
    both = compose("cdd", "glyphs", settings=["method.target_params=0.5"])
    with pytest.raises(UserError, match=r"--set method\.target_macs=null"):
        CDD(**both.method.arguments)
    one = compose("cdd", "glyphs", settings=["method.target_params=0.5", "method.target_macs=null"])
    assert CDD(**one.method.arguments).budget == Budget("parameters", 0.5)


@pytest.mark.parametrize("network", [{}, GROUPED], ids=["bottleneck", "grouped"])
def test_reported_figures_are_those_of_the_deployed_network(rig, tmp_path, network):
    made = rig(CDD(), **network)
    shrink(made.student, (0, 1), (1, 1), (1, 2), (3, 3))
    made.end_epoch()
    made.method.gradient_reset.masks[2][:3] = 0
    report = made.method.report(made.student)
    width = sum(block.norm.norm.num_features for block in row_sites(made.student))
    deployed = deploy(made, tmp_path / "student.pt")
    size = cost.count(deployed, (32, 32))
    assert report == {"channels": width - 4, "masked": 3, "parameters": size.parameters, "macs": size.macs}
    assert size.parameters == sum(p.numel() for p in deployed.parameters())


def test_the_smallest_network_is_what_remains_when_all_rows_vanish(rig, tmp_path):
    made = rig(CDD())
    with torch.no_grad():
        minimal = made.method.minimal_student(made.student)
        least = cost.count(fold_batchnorm(minimal, made.batches[0].images), (32, 32))
    assert [len(weight) for weight in compactors(made.student)] == WIDTHS  # the student itself is as it was
    shrink(made.student, *((block, row) for block, width in enumerate(WIDTHS) for row in range(width - 1)))
    assert cost.count(deploy(made, tmp_path / "student.pt"), (32, 32)) == least


def test_recomputed_masks_can_return_to_one(rig):
    released, recomputed = (rig(CDD(reset_from=0.0, ratio=0.8, recompute=choice)) for choice in (False, True))
    returned = 0
    for number in range(6):
        before = [[mask.clone() for mask in made.method.gradient_reset.masks] for made in (released, recomputed)]
        for made in (released, recomputed):
            made.step(number)
        assert all((a <= b).all() for a, b in zip(released.method.gradient_reset.masks, before[0], strict=True))
        now = recomputed.method.gradient_reset.masks
        returned += sum(int((a > b).sum()) for a, b in zip(now, before[1], strict=True))
    assert returned > 0


@pytest.mark.parametrize("choice", [False, True])
def test_the_teachers_statistics(rig, choice):
    made = rig(CDD(teacher_batch_statistics=choice))
    reference = copy.deepcopy(made.teacher).train(choice)
    with torch.no_grad():
        expected = reference.features(made.batches[0].images)
    seen = []
    made.method.loss = lambda student, teacher, batch: seen.append(teacher) or {}
    statistics = {name: value.clone() for name, value in made.teacher.state_dict().items() if "running_" in name}
    made.step(0)
    assert torch.equal(seen[0].logits, expected.logits)
    assert all(torch.equal(made.teacher.state_dict()[name], value) for name, value in statistics.items())
