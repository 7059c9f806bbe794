"""CDD: its loss terms, its gradients in both phases, the lasso's weight, structural steps and budgets.

`test_gradient_reset` has its masks, `test_cdd_deploy` the authors' values for pruning and folding, and
`test_compression` what CDD has in common with other methods.
"""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import UserError
from benchmark.compression.compactor import row_sites
from benchmark.compression.lasso import auto_lasso, edit_gradients, group_norms, lasso_gradient
from benchmark.losses import kl_divergence
from benchmark.methods.cdd import CDD
from benchmark.methods.cdd.gradient_reset import least_width
from benchmark.model.cost import Size, count
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.recipe import compose

WIDTHS = [8, 8, 16, 16]


def loss_gradients(made, lasso: float) -> list[Tensor]:
    """Return the compactors' gradients of the loss plus lasso * group lasso, by autograd, and restore the state."""
    made.distiller.train()
    state = copy.deepcopy(made.distiller.state_dict())
    loss = sum(made.distiller(*made.batches[0], mode="loss").values())
    loss = loss + lasso * sum(group_norms(weight).sum() for weight in made.compactors)
    gradients = torch.autograd.grad(loss, made.compactors)
    made.distiller.load_state_dict(state)
    return list(gradients)


def edited_gradients(made) -> list[Tensor]:
    """Return the compactors' gradients as the optimizer would get them."""
    made.distiller.train()
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    made.method.after_backward(made.student)
    return [weight.grad.clone() for weight in made.compactors]


def test_loss_terms(rig):
    made = rig(CDD(temperature=3.0, kl_weight=0.7, feature_weight=0.25))
    made.student.train()
    student = made.student.features(made.images)
    teacher = made.teacher.features(made.images)
    terms = made.method.loss(student, teacher, made.batches[0])
    distance = 0.0
    for i in range(1, 5):  # each stage has one block
        s = student.taps[f"layer{i}.0.bn2.norm"].mean((2, 3))
        t = teacher.taps[f"layer{i}.0.bn2"].mean((2, 3))
        distance = distance + (s - t).square().sum(dim=1).sqrt().mean()
    assert set(terms) == {"kl", "feature"}
    assert torch.allclose(terms["feature"], 0.25 * distance, rtol=1e-5)
    assert torch.allclose(terms["kl"], 0.7 * kl_divergence(student.logits, teacher.logits, 3.0))


class TestGradients:
    def test_before_resetting_are_those_of_the_loss_with_the_lasso(self, rig):
        made = rig(CDD(lasso=0.3, reset_from=0.5))
        with torch.no_grad():
            for weight in made.compactors:
                weight += 0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        expected = loss_gradients(made, lasso=0.3)
        for got, gradient in zip(edited_gradients(made), expected, strict=True):
            assert torch.allclose(got, gradient, rtol=1e-4, atol=1e-6)
        assert all(mask.all() for mask in made.method.masks)
        assert made.method.gradient_reset.filled == 0, "as released, the queues are filled from the first reset on"

    def test_of_masked_rows_are_those_of_the_lasso(self, rig):
        made = rig(CDD(lasso=0.3, reset_from=0.0))
        for mask in made.method.masks:
            mask[::3] = 0
        of_loss = loss_gradients(made, lasso=0.0)
        got = edited_gradients(made)
        assert any(0 < mask.sum() < len(mask) for mask in made.method.masks)
        for gradient, weight, mask, loss in zip(got, made.compactors, made.method.masks, of_loss, strict=True):
            lasso = 0.3 * weight.detach() / weight.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            assert torch.allclose(gradient[mask == 0], lasso[mask == 0], rtol=1e-5)
            assert torch.allclose(gradient[mask == 1], (loss + lasso)[mask == 1], rtol=1e-4, atol=1e-6)

    def test_are_not_edited_after_the_budget_is_met(self, rig):
        made = rig(CDD(target_params=0.99, reset_from=0.0, lasso=0.3))
        made.vanish({3: range(8)})
        assert made.end_epoch()
        expected = loss_gradients(made, lasso=0.0)
        masks = [mask.clone() for mask in made.method.masks]
        for got, gradient in zip(edited_gradients(made), expected, strict=True):
            assert torch.allclose(got, gradient, rtol=1e-4, atol=1e-7)
        assert all(torch.equal(a, b) for a, b in zip(made.method.masks, masks, strict=True))

    @pytest.mark.parametrize("reset_from", [0.0, 0.5])
    def test_of_zero_rows_are_finite(self, rig, reset_from):
        made = rig(CDD(reset_from=reset_from, vanish_at=0.9))
        made.compactors[1].data[2:5] = 0
        for number in range(3):
            made.step(number)
        assert all(value.isfinite().all() for value in made.student.state_dict().values())


def test_resetting_begins_at_its_share_of_the_steps(rig):
    made = rig(CDD(reset_from=0.25, vanish_at=0.5))  # of 20 steps
    filled = []
    for number in range(7):
        made.step(number)
        filled.append(made.method.gradient_reset.filled)
    assert filled == [0, 0, 0, 0, 0, 32, 64]


def test_masked_rows_come_to_rest_at_zero(rig, scheduled):
    """With the released gradient, they oscillate around zero while the learning rate is high."""
    made = rig(CDD(lasso=0.5, reset_from=0.0), plan=scheduled(np.full(300, 0.02)))
    rows, released = (nn.Parameter(made.compactors[0].detach().clone()) for _ in range(2))
    optimizer = torch.optim.SGD([rows, released], lr=0.02, momentum=0.9)
    made.method.masks[0].zero_()
    made.sites[0].compactor.weight = rows
    for _ in range(300):
        for weight in made.compactors:
            weight.grad = torch.ones_like(weight)  # a loss that would keep the rows growing
        released.grad = torch.zeros_like(released)
        edit_gradients([released], 0.5)
        made.method.after_backward(made.student)
        optimizer.step()
    assert float(rows.detach().abs().max()) < 1e-5
    assert float(released.detach().abs().max()) > 1e-3


class TestLasso:
    def test_number(self, rig):
        assert rig(CDD(lasso=0.004)).method.strength == 0.004

    def test_auto(self, rig):
        made = rig(CDD(reset_from=0.2, vanish_at=0.7))  # steps 4 to 14 of 20, half for the last stretch
        assert made.method.strength == auto_lasso([0.02] * 5, made.plan.momentum, made.plan.weight_decay)

    @pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.5, 1e-3), (0.9, 5e-4), (0.9, 2e-3)])
    def test_rows_masked_from_the_start_are_gone_when_promised(self, rig, scheduled, momentum, weight_decay):
        """The steps from norm 1 to the threshold, with the last stretch that the shrinking gradient takes."""
        plan = replace(scheduled(np.linspace(0.02, 0.005, 1000)), momentum=momentum, weight_decay=weight_decay)
        made = rig(CDD(reset_from=0.1, vanish_at=0.6), plan=plan)
        row = nn.Parameter(torch.full((1, 4), 0.5))
        optimizer = torch.optim.SGD([row], lr=1, momentum=momentum, weight_decay=weight_decay)
        norms = []
        for step in range(100, 700):
            made.method.step = step
            optimizer.param_groups[0]["lr"] = plan.learning_rate(step)
            row.grad = made.method.strength * lasso_gradient(row.detach(), made.method.lasso_floor())
            optimizer.step()
            norms.append(float(row.detach().norm()))
        last = 100 + max(i for i, norm in enumerate(norms) if norm >= made.method.threshold)
        assert 570 < last <= 605

    @pytest.mark.parametrize("rate", [0.0, 2e7])
    def test_auto_without_a_solution(self, rig, scheduled, rate):
        with pytest.raises(UserError, match="cdd: `lasso: auto` has no value for the learning rates of steps 3 to 4"):
            rig(CDD(), plan=scheduled([rate] * 20))


def test_vanish_at_precedes_reset_from():
    with pytest.raises(UserError, match=r"cdd: vanish_at \(0.1\) must be greater than reset_from \(0.2\)"):
        CDD(reset_from=0.2, vanish_at=0.1)


def test_structural_step_narrows_masks_and_not_queues(rig):
    made = rig(CDD(lasso=0.1, reset_from=0.0))
    made.step(0)
    removed = {0: [1, 6], 2: [0, 3, 4, 15]}
    made.vanish(removed)
    reset = made.method.gradient_reset
    masks = [mask.clone() for mask in reset.masks]
    queues = [reset.get_buffer(f"queue{i}").clone() for i in range(4)]
    assert len(made.end_epoch()) == 2 * len(removed)
    for i, site in enumerate(made.sites):
        kept = torch.tensor([row for row in range(WIDTHS[i]) if row not in removed.get(i, [])])
        assert site.weight.shape == (len(kept), WIDTHS[i], 1, 1)
        assert site.next_conv.weight.shape[1] == site.next_conv.in_channels == len(kept)
        assert torch.equal(reset.masks[i], masks[i][kept])
        assert torch.equal(reset.get_buffer(f"queue{i}"), queues[i])


def test_removed_rows_have_the_effect_of_zero_rows(rig):
    removed = [(0, 1), (1, 0), (1, 7), (2, 5), (3, 2), (3, 3)]
    narrow, whole = (rig(CDD(lasso=0.05, reset_from=0.0)) for _ in range(2))
    for made in (narrow, whole):
        for number in range(3):
            made.step(number)
        for block, row in removed:
            weight = made.compactors[block]
            made.method.masks[block][row] = 0
            made.wrapper.optimizer.state[weight]["momentum_buffer"][row] = 0
            weight.data[row] = 0
    narrow.end_epoch()
    assert [len(weight) for weight in narrow.compactors] == [7, 6, 15, 14]

    for number in range(3, 9):
        losses, expected = narrow.step(number), whole.step(number)
        assert all(torch.allclose(losses[name], expected[name], rtol=2e-4) for name in expected)
    for i in range(4):
        index = narrow.method.gradient_reset.get_buffer(f"kept{i}")
        assert torch.allclose(narrow.compactors[i], whole.compactors[i][index], rtol=0, atol=1e-4)
        assert torch.equal(narrow.method.masks[i], whole.method.masks[i][index])
    assert torch.allclose(narrow.embed(), whole.embed(), rtol=0, atol=1e-3)


def test_the_largest_row_of_a_block_remains(rig):
    made = rig(CDD())
    made.vanish({3: range(16)})
    made.vanish({3: [9]}, size=5e-8)
    made.end_epoch()
    assert made.method.gradient_reset.kept3.tolist() == [9]


def test_static_compression_removes_rows_after_training(rig, tmp_path):
    made = rig(CDD(dynamic=False))
    made.vanish({0: [1], 3: [5]})
    assert made.end_epoch() == []
    assert [len(weight) for weight in made.compactors] == WIDTHS
    before = made.embed()
    deployed = made.deploy(tmp_path / "student.pt")
    assert deployed.backbone.layer1[0].conv3.in_channels == 7
    with torch.no_grad():
        assert torch.allclose(deployed(made.images), before, rtol=0, atol=1e-4)


def kept_rows(made) -> set[tuple[int, int]]:
    reset = made.method.gradient_reset
    return {(block, row) for block in range(4) for row in reset.get_buffer(f"kept{block}").tolist()}


@pytest.mark.parametrize(("kind", "argument"), [("macs", "target_macs"), ("parameters", "target_params")])
def test_budget_is_met_with_the_fewest_rows(rig, tmp_path, kind, argument):
    made = rig(CDD(**{argument: 0.9}, reset_from=0.0))
    allowed = 0.9 * getattr(count(fold_batchnorm(made.teacher, made.images), (32, 32)), kind)
    rows = [(block, row) for block, width in enumerate(WIDTHS) for row in range(width - 1)]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    for rank, number in enumerate(order):  # distinct norms, all below the threshold
        block, row = rows[number]
        made.vanish({block: [row]}, size=1e-7 + 1e-8 * rank)
    made.end_epoch()
    removed = sum(WIDTHS) - sum(len(weight) for weight in made.compactors)
    assert [rows[number] in kept_rows(made) for number in order] == [rank >= removed for rank in range(len(rows))]
    assert made.method.report(made.student)[kind] <= allowed

    fewer = rig(CDD(reset_from=0.0))
    for number in order[: removed - 1]:
        block, row = rows[number]
        fewer.vanish({block: [row]})
    fewer.end_epoch()
    assert fewer.method.report(fewer.student)[kind] > allowed
    assert getattr(count(made.deploy(tmp_path / "student.pt"), (32, 32)), kind) <= allowed


def test_unmet_budget_continues_compression(rig):
    made = rig(CDD(target_macs=0.01))
    made.vanish({0: [0]})
    assert made.end_epoch()
    assert made.method.compressing
    made.vanish({1: [0]})
    assert made.end_epoch(2)


def test_budget_of_the_recipe_can_be_replaced():
    """The recipe of glyphs sets target_macs, which has to be switched off for another target."""
    both = compose("cdd", "glyphs", settings=["method.target_params=0.5"])
    with pytest.raises(UserError, match=r"--set method\.target_macs=null"):
        CDD(**both.method.arguments)
    one = compose("cdd", "glyphs", settings=["method.target_params=0.5", "method.target_macs=null"])
    assert CDD(**one.method.arguments).budget.kind == "parameters"


def test_report_counts_masked_rows(rig):
    made = rig(CDD())
    made.vanish({0: [1], 1: [1, 2], 3: [3]})
    made.end_epoch()
    made.method.masks[2][:3] = 0
    report = made.method.report(made.student)
    assert (report["channels"], report["masked"]) == (sum(WIDTHS) - 4, 3)


def test_recomputed_masks_can_return_to_one(rig):
    accumulated, recomputed = (rig(CDD(reset_from=0.0, ratio=0.8, recompute=choice)) for choice in (False, True))
    returned = 0
    for number in range(6):
        before = [[mask.clone() for mask in made.method.masks] for made in (accumulated, recomputed)]
        for made in (accumulated, recomputed):
            made.step(number)
        assert all((a <= b).all() for a, b in zip(accumulated.method.masks, before[0], strict=True))
        returned += sum(int((a > b).sum()) for a, b in zip(recomputed.method.masks, before[1], strict=True))
    assert returned > 0


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_teacher_statistics(rig, batch_statistics):
    made = rig(CDD(teacher_batch_statistics=batch_statistics))
    reference = copy.deepcopy(made.teacher).train(batch_statistics)
    with torch.no_grad():
        expected = reference.features(made.images)
    seen = []
    made.method.loss = lambda student, teacher, batch: seen.append(teacher) or {}
    statistics = {name: value.clone() for name, value in made.teacher.state_dict().items() if "running_" in name}
    made.step(0)
    assert torch.equal(seen[0].logits, expected.logits)
    assert all(torch.equal(made.teacher.state_dict()[name], value) for name, value in statistics.items())


def test_grouped_convolution_keeps_its_compactor(rig):
    args = {"layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8}
    made = rig(CDD(), backbone="resnext50_32x4d", args=args)
    made.vanish_share(0.5)
    compact = made.method.compact(made.student)
    for site in row_sites(made.teacher):
        block = compact.backbone.get_submodule(site.block_name)
        assert block.conv2.groups == 4
        assert isinstance(block.bn2, nn.Conv2d)
        assert block.bn2.kernel_size == (1, 1)
        assert block.bn2.out_channels < block.bn2.in_channels == block.conv2.out_channels


class TestFixedWidths:
    FOUND = (3, 5, 1, 16)

    def test_are_trained_by_the_same_losses_and_remain(self, rig, tmp_path):
        made, compressed = rig(CDD(fixed_widths=self.FOUND, reset_from=0.0)), rig(CDD())
        assert [site.width for site in row_sites(made.student)] == list(self.FOUND)
        losses = [set(each.step(number)) for each in (made, compressed) for number in range(3)]
        assert losses == [losses[0]] * 6
        with torch.no_grad():
            made.compactors[0][:] = 0
        assert made.end_epoch() == []
        deployed = made.deploy(tmp_path / "student.pt")
        assert [site.conv.out_channels for site in row_sites(made.teacher)] == WIDTHS
        blocks = [deployed.backbone.get_submodule(site.block_name) for site in row_sites(made.teacher)]
        assert [block.conv2.out_channels for block in blocks] == list(self.FOUND)

    @pytest.mark.parametrize("widths", [(3, 5, 1), (3, 5, 1, 17)])
    def test_that_do_not_fit(self, rig, widths):
        made = rig(CDD())
        with pytest.raises(
            UserError, match=r"cdd: fixed_widths .* must be a number for each compactor .* \[8, 8, 16, 16\]"
        ):
            CDD(fixed_widths=widths).check(made.teacher, made.teacher, made.plan)


def test_ceilings_at_the_size_of_the_paper():
    """ResNet-101 with 8,128 rows: what the architecture allows, and what half of the initial rows are."""
    with torch.device("meta"):
        student = Embedder("resnet101", dim=512, last_stride=1)
    ceilings = CDD(ratio=0.5).ceilings(student, (256, 256))
    assert ceilings.full == Size(43_500_672, 12_956_205_056)
    assert ceilings.saved(ceilings.architecture) == pytest.approx((0.7065, 0.7038), abs=5e-5)
    assert ceilings.saved(ceilings.reset) == pytest.approx((0.3545, 0.3535), abs=5e-5)
    of_current = CDD(ratio=0.5, ratio_of="current").ceilings(student, (256, 256))
    assert of_current.reset == of_current.architecture
    assert CDD(fixed_widths=(1,) * 33).ceilings(student, (256, 256)) is None


@pytest.mark.parametrize(
    ("width", "ratio", "ratio_of", "expected"),
    [
        (64, 0.5, "initial", 32),
        (7, 0.5, "initial", 4),
        (64, 1.0, "initial", 1),
        (64, 0.5, "current", 1),
        (64, 0.3, "current", 3),
        (2, 0.3, "current", 2),
    ],
)
def test_least_width_of_a_block(width, ratio, ratio_of, expected):
    assert least_width(width, ratio, ratio_of) == expected


def test_rows_behind_depthwise_convolutions_leave_with_their_channels(rig, tmp_path):
    made = rig(CDD(reset_from=0.0), backbone="mobilenetv3_small_050", stem="imagenet")
    widths = [site.width for site in made.sites]
    made.step(0)
    made.vanish({0: range(4), 3: [1]})
    made.end_epoch()
    assert [before - site.width for before, site in zip(widths, made.sites, strict=True)] == [4, 0, 0, 1, *[0] * 6]
    assert made.sites[0].conv.out_channels == widths[0] - 4
    teacher = [torch.arange(float(width)).expand(2, -1) for width in widths]
    student = [torch.zeros(2, site.width) for site in made.sites]
    aligned = made.method._of_remaining_channels(teacher, student)
    assert aligned[0][0].tolist() == list(range(4, widths[0]))
    assert aligned[3][0].tolist() == [0, *range(2, widths[3])]
    assert all(value.isfinite() for value in made.step(1).values())
    made.student.eval()
    with torch.no_grad():
        trained = made.student(made.images)
        deployed = made.deploy(tmp_path / "student.pt")(made.images)
    assert torch.allclose(deployed, trained, rtol=0, atol=1e-4 * float(trained.abs().max()))
