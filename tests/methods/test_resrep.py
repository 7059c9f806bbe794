"""ResRep: its masks against a loop, its own steps, its target, its end."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmark.compression.compactor import row_sites
from benchmark.compression.lasso import auto_lasso
from benchmark.errors import UserError
from benchmark.losses import kl_divergence
from benchmark.method import Needs
from benchmark.methods.resrep.masking import lowest_rows
from benchmark.methods.resrep.resrep import ResRep
from benchmark.model import cost
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_student, save_student
from benchmark.recipe import compose

WIDTHS = [8, 8, 8, 8, 16, 16, 16, 16]
"""Two compactors in each of four bottlenecks."""
SMALL = {"layers": [1, 1, 1, 1]}
NETWORKS = {
    "bottleneck": {},
    "deeper": {"backbone": "resnet26", "args": {"channels": [8, 8, 16, 16]}},
    "basic": {"backbone": "resnet18", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "grouped": {
        "backbone": "resnext50_32x4d",
        "args": SMALL | {"channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
    },
    "squeeze_excite": {"backbone": "seresnet50", "args": SMALL | {"channels": [8, 8, 16, 16]}},
    "blur_pool": {"backbone": "resnetblur50", "args": SMALL | {"channels": [8, 8, 16, 16]}, "neck": "bn"},
    "average_pool": {"backbone": "resnetaa50", "args": SMALL | {"channels": [8, 8, 16, 16]}, "last_stride": 1},
}


def weights(made) -> list[nn.Parameter]:
    return [place.weight for place in made.method.sites(made.student)]


def norms(weight: Tensor) -> Tensor:
    return weight.detach().flatten(1).norm(dim=1)


def scatter(made, low: float = 0.5) -> None:
    """Give all rows norms of their own, from `low` to 1.5."""
    generator = torch.Generator().manual_seed(1)
    for weight in weights(made):
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
        wanted = low + (1.5 - low) * torch.rand(len(weight), generator=generator)
        weight.data *= (wanted / norms(weight)).view(-1, 1, 1, 1)


def remove(made, share: float) -> None:
    """Let this share of every compactor's rows all but vanish."""
    generator = torch.Generator().manual_seed(2)
    for weight in weights(made):
        weight.data[torch.randperm(len(weight), generator=generator)[: int(share * len(weight))]] = 1e-7


def deploy(made, path):
    compact = fold_batchnorm(made.method.compact(made.student), made.batches[0].images)
    save_student(compact, path, (32, 32))
    return load_student(path)


def masks_by_loop(norms: list[list[float]], macs, allowed: float, limit: int) -> list[list[bool]]:
    """Row after row, smallest first, as long as too much is left and there are rows to be masked."""
    widths = [len(place) for place in norms]
    masked = [[False] * width for width in widths]
    for _, i, row in sorted((norm, i, row) for i, place in enumerate(norms) for row, norm in enumerate(place)):
        if macs(widths) <= allowed or limit <= 0:
            break
        if row == norms[i].index(max(norms[i])):
            continue
        masked[i][row] = True
        widths[i] -= 1
        limit -= 1
    return masked


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=2, max_size=4),
    st.floats(0, 1),
    st.integers(-1, 20),
)
def test_masks_equal_a_loop(places, share, limit):
    def macs(widths) -> int:
        return 5 + sum((i + 1) * a * b for i, (a, b) in enumerate(zip([3, *widths], [*widths, 2], strict=True)))

    def vectorised(many: np.ndarray) -> np.ndarray:
        return np.array([macs([int(w) for w in widths]) for widths in many])

    allowed = share * macs([len(place) for place in places])
    got = lowest_rows([np.array(place, dtype=float) for place in places], vectorised, allowed, limit)
    assert [mask.tolist() for mask in got] == masks_by_loop(places, macs, allowed, limit)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cost_of_widths_is_that_of_the_network(rig, name):
    made = rig(ResRep(), **NETWORKS[name])
    generator = np.random.default_rng(0)
    widths = np.array([generator.integers(1, made.method.macs.widths, endpoint=True) for _ in range(3)])
    widths[0] = made.method.macs.widths
    images = made.batches[0].images[:2]
    expected = [
        cost.count(fold_batchnorm(made.method.merged_copy(made.student, w), images), (32, 32)).macs for w in widths
    ]
    assert made.method.macs(widths).tolist() == expected
    assert expected[0] >= cost.count(fold_batchnorm(made.teacher, images), (32, 32)).macs


def test_masks_fall_on_the_smallest_rows_and_leave_what_was_asked_for(rig):
    made = rig(ResRep(target_macs=0.8, mask_from=0.0, mask_every=1, mask_rows=1000))
    scatter(made)
    ranked = [norms(weight) for weight in weights(made)]
    made.step(0)
    masks = made.method.masks
    left = np.array([int(mask.sum()) for mask in masks])
    assert min(left) > 0 and sum(left) < sum(WIDTHS)
    masked = torch.cat([n[m == 0] for n, m in zip(ranked, masks, strict=True)])
    others = torch.cat([n[m == 1] for n, m in zip(ranked, masks, strict=True)])
    largest = max(masked)
    assert sum(others < largest) <= len(WIDTHS)  # but for the last of a place
    allowed = 0.8 * cost.count(fold_batchnorm(made.teacher, made.batches[0].images), (32, 32)).macs
    assert made.method.macs(left[None])[0] <= allowed
    owner = next(i for i, (n, m) in enumerate(zip(ranked, masks, strict=True)) if largest in n[m == 0])
    left[owner] += 1
    assert made.method.macs(left[None])[0] > allowed  # one fewer would not do


def test_masks_grow_row_by_row_and_are_found_anew(rig):
    made = rig(ResRep(target_macs=0.3, mask_from=0.1, mask_every=2, mask_rows=3, lasso=0.0))  # of 20 steps
    scatter(made)
    masked = []
    for number in range(7):
        made.step(number)
        masked.append(sum(int((mask == 0).sum()) for mask in made.method.masks))
    assert masked == [0, 0, 3, 3, 6, 6, 9]
    i, row = next((i, int(mask.argmin())) for i, mask in enumerate(made.method.masks) if not mask.all())
    weights(made)[i].data[row] *= 100  # remembered again
    made.step(7)
    made.step(8)
    assert made.method.masks[i][row] == 1
    assert made.method.report(made.student)["masked"] == 12


def test_gradients_forget_and_the_lasso_reaches_every_row(rig):
    made = rig(ResRep(lasso=0.3, momentum=0.0, mask_from=0.0, mask_every=1, mask_rows=20))
    scatter(made)
    made.distiller.train()
    twin = copy.deepcopy(made.distiller.state_dict())
    terms = made.distiller(*made.batches[0], mode="loss")
    objective = torch.autograd.grad(sum(terms.values()), weights(made))
    made.distiller.load_state_dict(twin)
    before = [weight.detach().clone() for weight in weights(made)]
    made.step(0)
    assert sum(int((mask == 0).sum()) for mask in made.method.masks) == 20
    rate = made.plan.learning_rate(0)
    for weight, old, gradient, mask in zip(weights(made), before, objective, made.method.masks, strict=True):
        pull = 0.3 * old / norms(old).view(-1, 1, 1, 1)
        expected = old - rate * (mask.view(-1, 1, 1, 1) * gradient + pull)
        assert torch.allclose(weight, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_compactors_move_by_their_own_sgd(rig, scheduled, optimizer):
    """Whatever moves the rest: momentum 0.99, no weight decay, the schedule's learning rate."""
    plan = scheduled(np.linspace(0.02, 0.01, 20))
    made = rig(ResRep(lasso=0.0, mask_from=0.9, mask_until=0.95, vanish_at=1.0), optimizer=optimizer, plan=plan)
    twins = [nn.Parameter(weight.detach().clone()) for weight in weights(made)]
    reference = torch.optim.SGD(twins, lr=0.02, momentum=0.99)
    seen: list[Tensor] = []
    move = made.method._sgd_step
    made.method._sgd_step = lambda given: (seen.extend(weight.grad.clone() for weight in given), move(given))
    for number in range(4):
        seen.clear()
        made.step(number)
        reference.param_groups[0]["lr"] = plan.learning_rate(number)
        for twin, gradient in zip(twins, seen, strict=True):
            twin.grad = gradient
        reference.step()
    assert not any(torch.equal(twin, torch.eye(len(twin))[:, :, None, None]) for twin in twins)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(weights(made), twins, strict=True))
    assert not any(weight in made.wrapper.optimizer.state for weight in weights(made))


def test_a_masked_row_forgets_all_but_the_velocity_along_itself(rig):
    made = rig(ResRep(lasso=0.0, momentum=0.9))
    scatter(made)
    method, weight = made.method, weights(made)[4]
    velocity, old = method.get_buffer("velocity4"), weight.detach().clone().view(16, 16)
    velocity.copy_(torch.randn(velocity.shape, generator=torch.Generator().manual_seed(3)))
    method.masks[4][1::2] = 0
    expected = torch.empty(16, 16)
    for row in range(16):
        speed = velocity[row].flatten().tolist()
        if row % 2:
            share = sum(float(v) * float(w) for v, w in zip(speed, old[row], strict=True)) / float(old[row].norm()) ** 2
            speed = [share * float(w) for w in old[row]]
        expected[row] = torch.tensor([0.9 * v + 0.01 for v in speed])
    for other in weights(made):
        other.grad = torch.full_like(other, 0.01)
    method._sgd_step(weights(made))
    assert torch.allclose(velocity.view(16, 16), expected, rtol=1e-4, atol=1e-6)
    assert torch.allclose(weight.view(16, 16), old - 0.02 * expected, rtol=1e-4, atol=1e-6)


def test_masked_rows_come_to_rest_at_zero_and_do_not_come_back(rig):
    made = rig(ResRep(lasso=2.0, mask_from=0.0, mask_every=1, mask_rows=12, target_macs=0.01))
    for number in range(12):
        made.step(number)
    masks = made.method.masks
    zero = [norms(weight) == 0 for weight in weights(made)]
    assert sum(int(z.sum()) for z in zero) > 5
    assert all(not (z & (m == 1)).any() for z, m in zip(zero, masks, strict=True))
    assert all(value.isfinite().all() for value in made.student.state_dict().values())
    made.step(12)
    assert all((norms(w)[z] == 0).all() for w, z in zip(weights(made), zero, strict=True))


def test_the_automatic_settings_follow_from_the_schedule(rig, scheduled):
    rates = np.linspace(0.02, 0.001, 2000)
    plan = scheduled(rates)
    made = rig(ResRep(mask_from=0.1, mask_until=0.3, vanish_at=0.4), plan=plan)
    method = made.method
    assert (method.mask_step, method.update_every) == (200, 4)
    rankings = len(range(200, 600, 4))
    assert method.rows_per_update == math.ceil(sum(WIDTHS) / rankings)
    assert method.rows_per_update * rankings >= sum(WIDTHS)
    assert method.strength == auto_lasso(rates[600:800], 0.99, 0.0)
    rig(ResRep(), optimizer="adamw")  # whose steps the compactors do not take


def test_published_constants_are_a_preset(rig):
    recipe = compose("resrep", "glyphs", settings=["method.preset=published"])
    method = ResRep(**recipe.method.arguments)
    assert method.needs == Needs(teacher=False)
    assert (method.momentum, method.budget.target, method.threshold) == (0.99, 0.455, 1e-5)
    made = rig(method)
    assert (method.strength, method.update_every, method.rows_per_update) == (1e-4, 200, 4)
    losses = made.step(0)
    assert not any("resrep" in name for name in losses)
    assert made.end_epoch() == []  # rows are removed once, at the end


def test_a_teacher_adds_a_term(rig):
    made = rig(ResRep(kl_weight=0.7, temperature=3.0))
    made.student.train()
    student = made.student.features(made.batches[0].images)
    teacher = made.teacher.features(made.batches[0].images)
    terms = made.method.loss(student, teacher, made.batches[0])
    assert terms.keys() == {"resrep_kl"}
    assert torch.allclose(terms["resrep_kl"], 0.7 * kl_divergence(student.logits, teacher.logits, 3.0))
    assert made.method.needs.classifier


@pytest.mark.parametrize("name", NETWORKS)
def test_the_deployed_file_equals_the_trained_student(rig, tmp_path, name):
    """Trained a little, compressed in training and once more at the end, saved, loaded."""
    made = rig(ResRep(target_macs=0.01), **NETWORKS[name])
    made.step(0)
    scatter(made)
    remove(made, share=0.3)
    before = made.embed()
    assert made.end_epoch()
    assert torch.allclose(made.embed(), before, rtol=0, atol=1e-4)
    made.step(1)
    remove(made, share=0.6)
    before = made.embed()
    widths = [int((norms(weight) >= 1e-5).sum()) for weight in weights(made)]
    following = [(place.block_name, place.next_conv_name) for place in made.method.sites(made.student)]

    deployed = deploy(made, tmp_path / "student.pt")

    with torch.no_grad():
        assert torch.allclose(deployed(made.batches[0].images), before, rtol=0, atol=1e-4)
    assert float(before.std()) > 0.1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    assert [getattr(deployed.backbone.get_submodule(b), f).in_channels for b, f in following] == widths


def test_merging_is_exact(rig):
    made = rig(ResRep(target_macs=0.01))
    made.step(0)
    scatter(made)
    student = made.student.double().eval()
    maps = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = student.backbone.forward_features(maps)
        made.method.compact(student)
        after = student.backbone.forward_features(maps)
    assert float(before.std()) > 0.1
    assert torch.allclose(after, before, rtol=0, atol=1e-11)
    assert not any(hasattr(module, "compactor") for module in student.modules())


def test_a_structural_step_narrows_masks_velocities_and_momentum(rig):
    made = rig(ResRep(target_macs=0.01, mask_from=0.0, mask_every=1, mask_rows=3, lasso=0.01))
    for number in range(2):
        made.step(number)
    gone = {0: [1, 6], 1: [2], 5: [0, 3, 15]}
    for i, rows in gone.items():
        weights(made)[i].data[rows] = 1e-8
    place = made.method.sites(made.student)
    readers = [getattr(p.block, p.next_conv_name).weight for p in place]
    state = {i: made.wrapper.optimizer.state[readers[i]]["momentum_buffer"].clone() for i in range(len(place))}
    before = {name: value.clone() for name, value in made.method.named_buffers()}
    made.end_epoch()
    for i, width in enumerate(WIDTHS):
        rows = torch.tensor([row for row in range(width) if row not in gone.get(i, [])])
        assert len(weights(made)[i]) == len(made.method.masks[i]) == len(rows)
        assert torch.equal(made.method.masks[i], before[f"mask{i}"][rows])
        assert torch.equal(made.method.get_buffer(f"velocity{i}"), before[f"velocity{i}"][rows])
        assert torch.equal(made.wrapper.optimizer.state[readers[i]]["momentum_buffer"], state[i][:, rows])
    assert made.method.structure() == {"widths": [6, 7, 8, 8, 16, 13, 16, 16]}
    made.step(2)
    # What is removed counts as masked.
    assert sum(int((mask == 0).sum()) for mask in made.method.masks) == max(0, 9 - 6)


def test_the_structure_can_be_repeated_on_a_fresh_student(rig):
    made, fresh = (rig(ResRep(mask_from=0.0, mask_every=1, target_macs=0.1), seed=seed) for seed in (0, 1))
    made.step(0)
    scatter(made)
    remove(made, share=0.4)
    assert made.end_epoch()
    made.step(1)
    fresh.teacher.load_state_dict(made.teacher.state_dict())
    fresh.method.restore(fresh.student, made.method.structure())
    fresh.student.load_state_dict(made.student.state_dict(), strict=True)
    fresh.method.load_state_dict(made.method.state_dict(), strict=True)
    fresh.wrapper.optimizer.load_state_dict(copy.deepcopy(made.wrapper.optimizer.state_dict()))
    for number in (2, 3):
        ours, theirs = fresh.step(number), made.step(number)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(torch.equal(a, b) for a, b in zip(weights(fresh), weights(made), strict=True))
    assert fresh.method.report(fresh.student) == made.method.report(made.student)


def test_resuming_continues_bit_for_bit_across_structural_steps(tiny, train_tiny, tmp_path):
    masks = ("method.mask_from=0.0", "method.mask_every=8", "method.mask_rows=5", "method.target_macs=0.1")
    recipe = tiny("resrep", "train.schedule.epochs=3", "method.lasso=0.01", "method.threshold=0.8", *masks)
    straight, _ = train_tiny(recipe, tmp_path / "straight")
    for epoch in (1, 2, 3):
        method = ResRep(**recipe.method.arguments)
        original = method.after_epoch

        def dies(student, progress, original=original, last=epoch):
            if progress.epoch == last:
                raise KeyboardInterrupt
            return original(student, progress)

        method.after_epoch = dies
        with pytest.raises(KeyboardInterrupt):
            train_tiny(recipe, tmp_path / "killed", resume=True, method=method)
    resumed, _ = train_tiny(recipe, tmp_path / "killed", resume=True)
    rows = [json.loads(line) for line in (tmp_path / "straight" / "metrics.jsonl").read_text().splitlines()]
    channels = [row["channels"] for row in rows]
    assert channels[3] < channels[2] < channels[0]  # one kill comes after rows have gone
    ours, theirs = resumed.student.state_dict(), straight.student.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_target_is_met_and_ends_compression(rig, scheduled, tmp_path):
    """Trained to the end."""
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
    deployed = deploy(made, tmp_path / "student.pt")
    reached = cost.count(deployed, (32, 32)).macs
    whole = cost.count(fold_batchnorm(made.teacher, made.batches[0].images), (32, 32)).macs
    assert 0.8 * whole < reached <= 0.85 * whole
    with torch.no_grad():
        assert torch.allclose(deployed(made.batches[0].images), before, rtol=0, atol=1e-4)


def test_once_the_target_is_met_rows_feel_the_objective_alone(rig):
    made = rig(ResRep(target_macs=0.95, lasso=0.5, mask_from=0.0, mask_every=1, momentum=0.0))
    remove(made, share=0.5)
    assert made.end_epoch()
    assert not made.method.compressing
    before = [weight.detach().clone() for weight in weights(made)]
    made.distiller.train()
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    gradients = [weight.grad.clone() for weight in weights(made)]
    made.method.after_backward(made.student)
    for weight, old, gradient in zip(weights(made), before, gradients, strict=True):
        assert torch.allclose(weight, old - made.plan.learning_rate(0) * gradient)
    remove(made, share=0.5)
    assert made.end_epoch(2) == []


def test_the_smallest_network_is_what_remains_when_all_rows_vanish(rig, tmp_path):
    made = rig(ResRep(target_macs=0.01))
    with torch.no_grad():
        least = cost.count(fold_batchnorm(made.method.minimal_student(made.student), made.batches[0].images), (32, 32))
    for weight in weights(made):
        weight.data[1:] = 1e-8
    assert cost.count(deploy(made, tmp_path / "student.pt"), (32, 32)) == least


def test_points_of_the_training_come_in_order():
    with pytest.raises(UserError, match=r"mask_from \(0.3\), mask_until \(0.2\)"):
        ResRep(mask_from=0.3, mask_until=0.2)
    ResRep(mask_from=0.3, mask_until=0.2, lasso=1e-4, mask_every=200, mask_rows=4)  # where nothing follows from them


def test_one_compactor_where_a_second_could_not_be_narrowed(rig):
    made = rig(ResRep(), **NETWORKS["grouped"])
    assert [place.norm_name for place in row_sites(made.student, both=True)] == ["bn2"] * 4
