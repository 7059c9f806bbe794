"""What all methods that compress the student have in common: structural steps, resuming, budgets, deployment."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import METHODS, Budget, Embedder, Method, Progress, UserError
from benchmark.experiment.preflight import preflight
from benchmark.methods.cdd import CDD
from benchmark.methods.deap import DEAP
from benchmark.methods.resrep import ResRep
from benchmark.methods.slimming import Slimming
from benchmark.methods.uniform import Uniform
from benchmark.model.cost import count
from benchmark.model.fold import fold_batchnorm
from benchmark.model.residual_blocks import inner_widths, narrowed_copy

COMPACTORS: dict[str, Callable[[], Method]] = {
    "cdd": lambda: CDD(reset_from=0.0),
    "deap": lambda: DEAP(lasso=0.01, threshold=1e-5),
    "resrep": lambda: ResRep(target_macs=0.01, mask_from=0.0, mask_every=1, mask_rows=3, lasso=0.01),
}
OTHERS: dict[str, Callable[[], Method]] = {
    "slimming": lambda: Slimming(lasso=0.01, target_macs=0.75),
    "uniform": lambda: Uniform(target_macs=0.6),
}
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
NETWORKS = {
    "bottleneck": {},
    "deeper": {"backbone": "resnet26", "args": {"channels": [8, 8, 16, 16]}},
    "last_stride": {"backbone": "resnet14t", "args": {"channels": [8, 8, 16, 16], "stem_width": 8}, "last_stride": 1},
    "basic": {"backbone": "resnet18", "args": SMALL},
    "wide": {"backbone": "wide_resnet50_2", "args": SMALL, "pool": "gem"},
    "squeeze_excite": {"backbone": "seresnet50", "args": SMALL},
    "squeeze_excite_basic": {"backbone": "seresnet18", "args": SMALL},
    "blur_pool": {"backbone": "resnetblur50", "args": SMALL, "neck": "bn"},
    "average_pool": {"backbone": "resnetaa50", "args": SMALL, "last_stride": 1},
    "grouped": {
        "backbone": "resnext50_32x4d",
        "args": SMALL | {"channels": [16, 16, 32, 32], "cardinality": 4, "base_width": 8},
    },
}

compactors = pytest.mark.parametrize("name", COMPACTORS)
all_methods = pytest.mark.parametrize("name", [*COMPACTORS, *OTHERS])


def create(name: str) -> Method:
    return (COMPACTORS | OTHERS)[name]()


def shrink(made, share: float) -> None:
    """Make a share of the channels removable; slimming removes channels without it."""
    if hasattr(made.method, "sites"):
        made.vanish_share(share)


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


FAST = ("bottleneck", "basic", "blur_pool", "grouped")


@pytest.mark.parametrize(
    ("name", "network"),
    [
        *((name, network) for name in COMPACTORS for network in FAST),
        *((name, network) for name in OTHERS for network in FAST if network != "grouped"),
        *(
            pytest.param(name, network, marks=pytest.mark.slow)
            for name in COMPACTORS
            for network in NETWORKS
            if network not in FAST
        ),
    ],
)
def test_deployed_student(rig, tmp_path, name, network):
    """Compressed during training and once more at the end, the file has the outputs and the cost of the student."""
    made = rig(create(name), **NETWORKS[network])
    made.step(0)
    if name in COMPACTORS:
        made.perturb()
    shrink(made, 0.3)
    made.end_epoch(2)
    made.step(1)
    shrink(made, 0.6)
    before = made.embed()
    remaining = [int((norms >= made.method.threshold).sum()) for norms in made.norms()] if name in COMPACTORS else None
    method, student = copy.deepcopy((made.method, made.student))
    method.after_epoch(student, Progress(epoch=3, epochs=4, step=2))
    report = method.report(student)
    assert remaining is None or report["channels"] == sum(remaining)

    deployed = made.deploy(tmp_path / "student.pt")

    with torch.no_grad():
        assert close(deployed(made.images), before)
    assert float(before.std()) > 0.1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    size = count(deployed, (32, 32))
    assert (report["parameters"], report["macs"]) == (size.parameters, size.macs)
    assert size.macs < count(fold_batchnorm(made.teacher, made.images), (32, 32)).macs


@pytest.mark.parametrize(
    ("name", "network"),
    [
        pytest.param(name, network, marks=[] if network in FAST else pytest.mark.slow)
        for name in (*COMPACTORS, *OTHERS)
        for network in NETWORKS
        if name in COMPACTORS or network != "grouped"
    ],
)
def test_cost_without_building_the_network(rig, name, network):
    """The parameters and MACs of any widths are those of the network that is then deployed."""
    made = rig(create(name), **NETWORKS[network])
    cost = made.method.cost
    generator = np.random.default_rng(0)
    for widths in (cost.full, generator.integers(1, cost.full, endpoint=True).tolist(), [1] * len(cost.full)):
        # Methods without compactors have already narrowed the student.
        built = made.method.merged_copy(made.student, widths) if name in COMPACTORS else None
        built = built or narrowed_copy(made.teacher, widths)
        assert cost.size(widths) == count(fold_batchnorm(built, made.images[:2]), (32, 32))


@compactors
def test_compactors_start_as_the_identity(rig, name):
    made = rig(create(name))
    with torch.no_grad():
        before = made.student.eval()(made.images)
        for weight in made.compactors:
            assert torch.equal(weight[:, :, 0, 0], torch.eye(len(weight)))
        for block in made.student.backbone.modules():
            for child_name, child in list(block.named_children()):
                if hasattr(child, "compactor") or hasattr(child, "pruner"):
                    setattr(block, child_name, child.norm if hasattr(child, "compactor") else child.act)
        assert torch.equal(made.student(made.images), before)


@compactors
def test_merging_is_exact(rig, name):
    made = rig(create(name))
    made.step(0)
    made.perturb()
    made.vanish_share(0.4)
    made.end_epoch()
    student = made.student.double().eval()
    maps = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = student.backbone.forward_features(maps)
        made.method.compact(student)
        after = student.backbone.forward_features(maps)
    assert float(before.std()) > 0.1
    assert torch.allclose(after, before, rtol=0, atol=1e-11)
    assert not any(hasattr(module, "compactor") or hasattr(module, "pruner") for module in student.modules())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", [*COMPACTORS, "slimming"])
def test_structural_step(rig, name, optimizer):
    """Everything that belongs to a removed channel is removed, and nothing else changes."""
    made = rig(create(name), optimizer=optimizer)
    for number in range(2):
        made.step(number)
    shrink(made, 0.4)
    before = made.embed()
    shapes = {parameter: parameter.shape for parameter in made.student.parameters()}
    states = {p: {key: v.clone() for key, v in s.items()} for p, s in made.wrapper.optimizer.state.items()}

    changes = made.end_epoch(2)

    if name in COMPACTORS:  # slimming removes channels that are not zero
        assert close(made.embed(), before)
    assert {change.parameter for change in changes} == {p for p, shape in shapes.items() if p.shape != shape}
    moments = 0
    for parameter, old in states.items():
        for key, expected in old.items():
            if expected.dim() == parameter.dim():
                for change in changes:
                    if change.parameter is parameter:
                        expected = expected.index_select(change.dim, change.index)
                assert torch.equal(made.wrapper.optimizer.state[parameter][key], expected)
                moments += 1
    assert moments
    made.step(2)


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "sgd") for name in COMPACTORS | OTHERS), *((name, "adamw") for name in ("cdd", "slimming"))],
)
def test_resume_after_a_structural_step(rig, name, optimizer):
    made, resumed = (rig(create(name), optimizer=optimizer, seed=seed) for seed in (0, 1))
    made.step(0)
    shrink(made, 0.4)
    assert made.end_epoch(2) or name == "uniform"
    made.step(1)

    resumed.take_over(made)

    assert resumed.method.report(resumed.student) == made.method.report(made.student)
    for number in (2, 3):
        losses, expected = resumed.step(number), made.step(number)
        assert all(torch.equal(losses[term], expected[term]) for term in expected)
    if name not in COMPACTORS:
        assert resumed.end_epoch(3) == made.end_epoch(3) == []
    state = made.student.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in resumed.student.state_dict().items())


@compactors
def test_minimal_student(rig, tmp_path, name):
    made = rig(create(name))
    widths = [site.width for site in made.sites]
    with torch.no_grad():
        minimal = count(fold_batchnorm(made.method.minimal_student(made.student), made.images), (32, 32))
    assert [site.width for site in made.sites] == widths, "the student is not changed"
    made.vanish({i: range(width - 1) for i, width in enumerate(widths)})
    assert count(made.deploy(tmp_path / "student.pt"), (32, 32)) == minimal


@pytest.mark.parametrize("name", ["cdd", "uniform+kd"])
def test_unreachable_budget_is_refused_before_the_training(tiny, name):
    target = "method.uniform.target_macs=0.01" if "+" in name else "method.target_macs=0.01"
    with pytest.raises(UserError, match=r": 1 % of the teacher's MACs cannot be reached: \d+\.\d % remain"):
        preflight(tiny(name, target))


@pytest.mark.parametrize("method", [Slimming, Uniform])
def test_smallest_student_has_one_channel_of_every_inner_width(rig, method):
    made = rig(method(target_macs=0.01), **NETWORKS["basic"])
    made.end_epoch(2)
    assert {inner.width for inner in inner_widths(made.student)} == {1}
    assert made.step()
    minimal = made.method.minimal_student(rig(method(), **NETWORKS["basic"]).student)
    assert [inner.width for inner in inner_widths(minimal)] == [inner.width for inner in inner_widths(made.student)]


@pytest.mark.parametrize("method", [CDD, DEAP])
def test_compression_ends_when_the_budget_is_met(rig, method):
    made = rig(method(target_params=0.99, lasso=0.3))
    made.vanish({len(made.sites) - 1: range(8)})
    assert made.end_epoch()
    widths = made.method.structure()["widths"]
    made.distiller.train()
    sum(made.distiller(*made.batches[0], mode="loss").values()).backward()
    gradients = [weight.grad.clone() for weight in made.compactors]

    made.method.after_backward(made.student)

    assert all(torch.equal(w.grad, gradient) for w, gradient in zip(made.compactors, gradients, strict=True))
    made.vanish({0: [0], 1: [1]})
    assert made.end_epoch(2) == []
    made.method.compact(made.student)
    assert made.method.structure()["widths"] == widths


@pytest.mark.parametrize("method", [CDD, DEAP, Slimming, Uniform])
def test_budget(method):
    none = {"target_macs": None}
    assert method(**none, target_params=0.5).budget == Budget("parameters", 0.5)
    assert method(target_macs=0.5).budget == Budget("macs", 0.5)
    message = rf"{method.name}: target_macs \(0\.5\) and target_params \(0\.5\) are both set"
    with pytest.raises(UserError, match=rf"{message}.*--set method\.target_macs=null"):
        method(target_macs=0.5, target_params=0.5)


@pytest.mark.parametrize("method", [CDD, DEAP])
def test_student_with_another_architecture(rig, method):
    made = rig(method())
    other = Embedder("resnet14t", {"channels": [8, 8, 16, 8], "stem_width": 8}, identities=40)
    with pytest.raises(UserError, match=f"{method.name}: the student must start with the teacher's architecture"):
        made.method.check(other, made.teacher, made.plan)


@pytest.mark.parametrize(
    ("backbone", "args", "message"),
    [
        ("convnext_atto", {}, "convnext_atto has no channels that could be pruned"),
        ("vit_tiny_patch16_224", {"img_size": 32}, "vit_tiny_patch16_224 has no channels that could be pruned"),
        ("resnet50_gn", {"layers": [1, 1, 1, 1]}, r"resnet50_gn has a GroupNorm\w* at layer1\.0\.bn\d"),
    ],
)
@all_methods
def test_unsupported_backbone(name, plan, backbone, args, message):
    with torch.device("meta"):
        network = Embedder(backbone, args, identities=40)
    with pytest.raises(UserError, match=message):
        create(name).check(network, network, plan)


def test_unsupported_anti_aliasing(rig):
    made = rig(CDD())
    made.teacher.backbone.layer2[0].aa = nn.MaxPool2d(2)
    with pytest.raises(UserError, match=r"resnet14t has a MaxPool2d at layer2\.0\.aa, which cannot be narrowed"):
        made.method.check(made.teacher, made.teacher, made.plan)


def test_progress_and_plot(rig):
    report = {"channels": 48, "parameters": 1_234_567, "macs": 8_900_000}
    line = "channels 48  1.23 M parameters  8.9 M MACs"
    metrics = [{"epoch": 0, **report}, {"epoch": 1, **report}]
    for name in ("uniform", "cdd", "kd+uniform"):
        method = METHODS.find(name)
        assert method.compresses
        assert method().progress_line(report) == line
        assert list(method.plots(metrics)) == ["compression.svg"]
        assert "<svg" in method.plots(metrics)["compression.svg"]
    for name in ("kd", "kd+rkd"):
        method = METHODS.find(name)
        assert (method.compresses, method().progress_line({}), method.plots([])) == (False, "", {})
