"""Values and gradients of the losses equal those computed with the authors' code: see tests/golden/README.md.

`TERMS` maps each golden file to the loss as a function of a case. The test differentiates it by every input for which
the file has a gradient, learned weights included, and compares at the file's tolerances.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark import Embedder, Method
from benchmark.losses import feature_distance, l2_normalize
from benchmark.methods.affinity_mimicking import affinity_cross_entropy
from benchmark.methods.aml import MIN_DISTANCE, tuple_losses
from benchmark.methods.at import AT
from benchmark.methods.cc import CC
from benchmark.methods.clip_kd import (
    cross_term,
    feature_term,
    fuse,
    gradient_term,
    interactive_term,
    relation_term,
    symmetric_contrastive,
)
from benchmark.methods.crd import CRD
from benchmark.methods.csd import CSD
from benchmark.methods.d3still import D3still
from benchmark.methods.darkrank import DarkRank
from benchmark.methods.dist import DIST
from benchmark.methods.dkd import DKD
from benchmark.methods.fitnet import FitNet
from benchmark.methods.js import JS
from benchmark.methods.kd import KD
from benchmark.methods.metrics_from_teachers import MetricsFromTeachers
from benchmark.methods.mkd import MKD
from benchmark.methods.mrl import MRL
from benchmark.methods.nst import NST
from benchmark.methods.ofd import OFD, negative_half_mean, partial_distance
from benchmark.methods.phi_s import PHIS, standardization
from benchmark.methods.pkt import PKT
from benchmark.methods.raml import RAML, raml_terms
from benchmark.methods.relaxed_contrastive import RelaxedContrastive
from benchmark.methods.reviewkd import ReviewKD, hcl
from benchmark.methods.rkd import RKD
from benchmark.methods.rop import ROP
from benchmark.methods.rrd import RRD
from benchmark.methods.sp import SP
from benchmark.methods.ssp import SSP
from benchmark.methods.ugd import UGD, projector
from benchmark.methods.unic import UNIC, image_losses, kept_mean, standardize
from benchmark.methods.vid import VID
from benchmark.methods.whiten_mtd import WhitenMTD, matching

GOLDEN = Path(__file__).parents[1] / "golden"
ELSEWHERE = {
    *("cdd_cross_entropy", "cdd_deploy", "cdd_gradient_reset", "cdd_triplet", "group_lasso"),
    "darkrank_original",  # below
    "retrieval",
}
"""Golden files that other tests read."""
WITHOUT_GRADIENT = {("rkd_angle", "ident_student"), ("sp", "zero_and_equal_sample")}
"""Cases for which the reference's gradient is meaningless, so that the file has none."""


@dataclass
class Case:
    """A case of a golden file, with access to all that the file holds about it."""

    name: str
    inputs: dict[str, Tensor]
    hp: dict[str, Any]
    meta: dict[str, Any]
    arrays: Any

    def __getitem__(self, key: str) -> Tensor:
        return self.inputs[key]

    def list(self, key: str, count: int = 3) -> list[Tensor]:
        return [self.inputs[f"{key}{j}"] for j in range(count)]

    def result(self, key: str) -> Tensor | None:
        """Return an expected result other than loss and gradients, None if the file has none for this case."""
        name = f"{self.name}/{key}"
        return torch.from_numpy(self.arrays[name]) if name in self.arrays.files else None

    def gradients(self) -> set[str]:
        """Return the names of the inputs for which the file has a gradient."""
        prefix = f"{self.name}/grad_"
        return {name.removeprefix(prefix) for name in self.arrays.files if name.startswith(prefix)}


def cases(file: str) -> list[str]:
    with np.load(GOLDEN / f"{file}.npz") as arrays:
        return arrays["cases"].tolist()


def load(golden, file: str, name: str) -> Case:
    values = golden(file)
    meta = values.meta[name]
    return Case(name, values.inputs(name), meta["hp"], meta, values.arrays)


def of(output: str, build: Callable[[dict[str, Any]], Method]) -> Callable[[Case, Any], Tensor]:
    """Return the loss of a method that reads one output of each network and has no weights to set."""

    def compute(case: Case, terms: Any) -> Tensor:
        outputs = {output: (case["student"], case["teacher"])}
        return total(terms(build(case.hp), labels=case.inputs.get("target"), **outputs))

    return compute


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def network(*channels: int, dim: int = 16) -> Embedder:
    return Embedder("resnet18", args={"channels": list(channels)}, dim=dim)


def assign(module: nn.Module, **tensors: Tensor) -> None:
    """Replace parameters of a module by inputs, which then get their gradients."""
    for name, tensor in tensors.items():
        assert getattr(module, name).shape == tensor.shape
        delattr(module, name)
        setattr(module, name, tensor)


def affinity_mimicking(case: Case, terms: Any) -> Tensor:
    """The reference's rows have two sides, and are used as given."""
    sides = (tuple(case.list(network, 2)) for network in ("student", "teacher"))
    return affinity_cross_entropy(*sides, case.hp["scale_student"], case.hp["scale_teacher"])


def aml(case: Case, terms: Any) -> Tensor:
    """The reference's tuples are given, and its teacher rows are used as given."""
    student, teacher = l2_normalize(case["student"]), case["teacher"]
    distances = [
        torch.linalg.vector_norm(x - y, dim=2).clamp(min=MIN_DISTANCE)
        for x, y in ((student[:, :1], teacher[:, 1:]), (student, teacher))
    ]
    parts = {
        "contrastive": tuple_losses(distances[0], case.hp["margin"], "ssp").mean(),
        "regression": distances[1].mean(),
    }
    return sum(parts.values()) if case.hp["part"] == "both" else parts[case.hp["part"]]


def clip_kd(case: Case, terms: Any) -> Tensor:
    """The reference has two sides; batches of the method have one."""
    hp, scale = case.hp, case.hp["cross_scale"]
    given, teacher = case.list("student", 2), tuple(case.list("teacher", 2))
    logits = hp["scale_student"] * l2_normalize(given[0]) @ l2_normalize(given[1]).T
    target = hp["scale_teacher"] * teacher[0] @ teacher[1].T
    if "proj0_weight" in case.inputs:
        given = [nn.functional.linear(x, case[f"proj{k}_weight"], case[f"proj{k}_bias"]) for k, x in enumerate(given)]
    student = (l2_normalize(given[0]), l2_normalize(given[1]))

    def fused() -> Tensor:
        layers = [nn.Linear(32, 16) for _ in range(2)]
        for k, layer in enumerate(layers):
            assign(layer, weight=case[f"fusion{k}_weight"], bias=case[f"fusion{k}_bias"])
        rows = [fuse(s, t, layer) for s, t, layer in zip(student, teacher, layers, strict=True)]
        return symmetric_contrastive(scale * rows[0] @ rows[1].T)

    compute = {
        "ckd": lambda: relation_term(logits, target),
        "icl": lambda: interactive_term(student, teacher, scale),
        "cross_kd": lambda: cross_term(student, teacher, target, scale),
        "fd": lambda: feature_term(student, teacher),
        "gd": lambda: gradient_term(student, teacher, hp["scale_student"], hp["scale_teacher"]),
        "afd": fused,
    }
    loss = sum(weight * compute[name]() for name, weight in hp["weights"].items())
    return loss + symmetric_contrastive(logits) if hp["task"] else loss


def crd(case: Case, terms: Any) -> Tensor:
    hp = case.hp
    method = CRD(dim=10, negatives=hp["K"], temperature=hp["tau"], momentum=hp["momentum"])
    plan = SimpleNamespace(labels=np.arange(hp["N"]), identities=hp["N"], images=hp["N"])
    method.prepare(SimpleNamespace(dim=16), SimpleNamespace(dim=24), plan)
    method.double()
    for short, layer in (("embed_s", method.embed_student), ("embed_t", method.embed_teacher)):
        assign(layer, weight=case[f"{short}_weight"], bias=case[f"{short}_bias"])
    method.memory_student, method.memory_teacher = case["memory_student"], case["memory_teacher"]
    if case.name.endswith("call1"):
        method.log_z = torch.tensor(hp["Z_before"], dtype=torch.float64).log()
    contrast = case["contrast_index"]
    assert torch.equal(contrast[:, 0], case["index"])
    loss = method.contrast(case["student"], case["teacher"], case["index"], contrast[:, 1:])
    memories = {"memory_student": method.memory_student, "memory_teacher": method.memory_teacher}
    for name, memory in memories.items():
        torch.testing.assert_close(memory, case.result(f"{name}_after"), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(method.log_z.exp(), case.result("Z_after"), rtol=1e-9, atol=1e-8)
    return loss


def fitnet(case: Case, terms: Any) -> Tensor:
    if case.name == "embedding":
        method, output, weight = FitNet(weight=1.0), "embedding", case["weight"][:, :, 0, 0]
        method.prepare(network(4, 4, 4, 4, dim=16), network(4, 4, 4, 4, dim=24), None)
    else:
        method, output, weight = FitNet("stages", 1.0, (2,)), "stage2", case["weight"]
        method.prepare(network(5, 5, 5, 5), network(8, 8, 8, 8), None)
    assign(method.regressors[0], weight=weight)
    return total(terms(method, **{output: (case["student"], case["teacher"])}))


def mrl(case: Case, terms: Any) -> Tensor:
    hp = case.hp
    shared, count = hp["efficient"], len(hp["nesting"])
    method = MRL(tuple(hp["nesting"]), tuple(hp["importance"] or ()), shared, hp["bias"], hp["smoothing"])
    method.prepare(SimpleNamespace(dim=16), None, SimpleNamespace(identities=hp["classes"]))
    for layer, suffix in zip(method.classifiers, [""] if shared else map(str, range(count)), strict=True):
        assign(layer, weight=case[f"weight{suffix}"], **{"bias": case[f"bias{suffix}"]} if hp["bias"] else {})
    return total(terms(method, labels=case["target"], embedding=(case["student"], None)))


def ofd(case: Case, terms: Any) -> Tensor:
    if case.name.startswith("single"):
        # The reference's constants are in float32.
        margin = negative_half_mean(case["bn_bias"], case["bn_weight"])
        torch.testing.assert_close(margin, case["margin"], rtol=1e-6, atol=0)
        return partial_distance(case["student"], case["teacher"], case["margin"])
    stages, students, teachers = (2, 3, 4), case.list("student"), case.list("teacher")
    teacher = network(4, 8, 11, 9)
    for j, stage in enumerate(stages):
        norm = teacher.backbone.get_submodule(f"layer{stage}.1.bn2")
        norm.weight.data, norm.bias.data = case[f"bn_weight{j}"], case[f"bn_bias{j}"]
    method = OFD(len(students[0]), stages)  # the reference's sum is not divided by the batch size
    method.prepare(network(4, 5, 7, 8), teacher, None)
    for j, (convolution, norm) in enumerate(method.double().connectors):
        assign(convolution, weight=case[f"conv{j}"])
        assign(norm, weight=case[f"connector_bn_weight{j}"], bias=case[f"connector_bn_bias{j}"])
        assert norm.eps == case.hp["bn_eps"]
    outputs = {f"stage{stage}:pre": (students[j], teachers[j]) for j, stage in enumerate(stages)}
    return total(terms(method, **outputs))


def phi_s(case: Case, terms: Any) -> Tensor:
    """The reference's rotation is one of many; what all have in common is compared in addition."""
    mean, rotation = standardization(case["statistics"], seed=0)
    torch.testing.assert_close(mean, case["mean"], rtol=1e-9, atol=1e-12)
    scale = case.result("scale")
    torch.testing.assert_close(rotation @ rotation.T, scale**2 * torch.eye(len(mean)).double(), rtol=1e-9, atol=1e-9)
    variance = ((case["statistics"] - mean) @ rotation.T).var(dim=0)
    if case.meta["hadamard_exact"]:
        torch.testing.assert_close(variance, case.result("channel_variance"), rtol=1e-9, atol=0)
    else:
        assert variance.mean().item() == pytest.approx(1, rel=1e-9)

    method = PHIS()
    method.fitted, method.mean, method.rotation, method.head = True, case["mean"], case["rotation"], nn.Identity()
    rows = [x.flatten(2).mT.flatten(0, 1) if x.dim() == 4 else x for x in (case["student"], case["teacher"])]
    torch.testing.assert_close(_like(method.standardize(rows[1]), case["teacher"]), case.result("standardised"))
    return total(terms(method, embedding=tuple(rows)))


def _like(rows: Tensor, maps: Tensor) -> Tensor:
    """Return rows of positions as maps, if these are maps."""
    return rows.unflatten(0, (len(maps), -1)).mT.reshape(maps.shape) if maps.dim() == 4 else rows


def raml_views(case: Case, terms: Any) -> Tensor:
    """The reference's rows are normalized already, and so are those of its gradient."""
    method = RAML(case.hp["lam_1"], case.hp["lam_2"], relations="views")
    method.views = case["student"].shape[1]
    loss = terms(method, embedding=(3 * case["student"].detach().flatten(0, 1), case["teacher"].flatten(0, 1)))
    torch.testing.assert_close(total(loss), case.result("loss"), rtol=case.meta["rtol_loss"], atol=1e-12)
    absolute, mixed, within = raml_terms(case["student"], case["teacher"])
    return absolute + case.hp["lam_1"] * mixed + case.hp["lam_2"] * within


def reviewkd(case: Case, terms: Any) -> Tensor:
    method = ReviewKD(1.0, (2, 3), case.hp["mid"])
    method.prepare(network(4, 5, 7, 7), network(4, 8, 9, 10), None)
    method.double()
    assert len(method.fusions) == 3
    for j, fusion in enumerate(method.fusions):
        assign(fusion.reduce[0], weight=case[f"conv1_{j}"])
        assign(fusion.reduce[1], weight=case[f"bn1_weight_{j}"], bias=case[f"bn1_bias_{j}"])
        assign(fusion.expand[0], weight=case[f"conv2_{j}"])
        assign(fusion.expand[1], weight=case[f"bn2_weight_{j}"], bias=case[f"bn2_bias_{j}"])
        assert fusion.reduce[1].eps == fusion.expand[1].eps == case.hp["bn_eps"]
        assert (fusion.attend is None) == (j == 2)
        if fusion.attend is not None:
            assign(fusion.attend, weight=case[f"att_weight_{j}"], bias=case[f"att_bias_{j}"])
    students, teachers = case.list("student"), case.list("teacher")
    for j, output in enumerate(method.review(students, teachers)):
        expected = case.result(f"out{j}")
        if expected is not None:
            torch.testing.assert_close(output.detach(), expected, rtol=1e-8, atol=1e-10)
    pooled = (students[2][:, :, 0, 0], teachers[2][:, :, 0, 0])
    return total(terms(method, pooled=pooled, stage2=(students[0], teachers[0]), stage3=(students[1], teachers[1])))


def reviewkd_hcl(case: Case, terms: Any) -> Tensor:
    students, teachers = (case.list(key, case.hp["levels"]) for key in ("student", "teacher"))
    return sum(hcl(s, t) for s, t in zip(students, teachers, strict=True))


def rrd(case: Case, terms: Any) -> Tensor:
    hp = case.hp
    method = RRD(1.0, 10, hp["K"], hp["tau_student"], hp["tau_teacher"])
    method.prepare(SimpleNamespace(dim=16), SimpleNamespace(dim=case["teacher"].shape[1]), None)
    assign(method.embed_student, weight=case["embed_s_weight"], bias=case["embed_s_bias"])
    method.teacher_weight, method.teacher_bias = case["embed_t_weight"], case["embed_t_bias"]
    method.queue, method.pointer = case["queue"], torch.tensor(hp["pointer"])
    loss = total(terms(method, embedding=(case["student"], case["teacher"])))
    torch.testing.assert_close(method.queue, case.result("queue_after"), rtol=1e-9, atol=1e-12)
    assert method.pointer == case.meta["pointer_after"]
    return loss


def ssp(case: Case, terms: Any) -> Tensor:
    method = SSP(case.hp["blocks"], case.hp["centroids_per_block"], 1 / case.hp["scale"])
    method.fitted, method.anchors = True, case["centroids"]
    return total(terms(method, embedding=(case["student"], case["teacher"])))


def ugd(case: Case, terms: Any) -> Tensor:
    hp = case.hp
    method = UGD(hp["alpha"], hp["beta"])
    method.grids = [(hp["P"], hp["P"]), (max(1, hp["P"] // 2), max(1, hp["P"] // 2))]
    method.projectors = nn.ModuleList(projector(5, 12) for _ in method.grids)
    method.double().train(bool(hp["bn_train"]))

    def cell_head(cells: Tensor) -> tuple[Tensor, Tensor]:
        embeddings = cells @ case["head_feature"].T
        return embeddings, embeddings @ case["head_score"].T

    method.cell_head = cell_head
    for project, prefix in zip(method.projectors, ("proj", "half"), strict=True):
        assign(project[1], weight=case[f"{prefix}_weight"])
        for norm, name in ((project[0], f"{prefix}_bn0"), (project[2], f"{prefix}_bn1")):
            assign(norm, weight=case[f"{name}_weight"], bias=case[f"{name}_bias"])
            norm.running_mean, norm.running_var = case[f"{name}_mean"], case[f"{name}_var"]
    loss = terms(
        method,
        labels=case["target"],
        embedding=(case["student"], case["teacher"]),
        stage3=(case["student_map"], None),
        stage4=(None, case["teacher_map"]),
    )
    assert (loss["ugd_local"] == 0) == (case.name == "none_correct")
    return total(loss)


class _Part(nn.Module):
    """Selects a part of the student's embedding, in place of a head."""

    def __init__(self, columns: slice) -> None:
        super().__init__()
        self.columns = columns

    def forward(self, embedding: Tensor) -> Tensor:
        return embedding[:, self.columns]


def unic(case: Case, terms: Any) -> Tensor:
    """The reference has several teachers, and class and patch tokens; the method has no patch tokens."""
    hp = case.hp
    if not hp["patches"]:
        return _unic_without_patches(case, terms)
    losses = []
    for j in range(hp["teachers"]):
        kinds = []
        for suffix in ("", "_patch") if hp["patches"] else ("",):
            name, target = f"{j}{suffix}", case[f"teacher{j}{suffix}"]
            if hp["standardise"]:
                target, *after = standardize(target, case[f"mean{name}"], case[f"std{name}"], hp["momentum"])
                for key, value in zip(("standardised", "mean", "std"), (target, *after), strict=True):
                    expected = case.result(f"{key}{name}" if key == "standardised" else f"{key}{name}_after")
                    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
            kinds.append(image_losses(case[f"student{name}"], target, hp["lambda_cos"], hp["lambda_l1"]))
        losses.append(torch.stack(kinds).mean(dim=0))
    stacked = torch.stack(losses)
    torch.testing.assert_close(stacked.detach(), case.result("loss_per_teacher"), rtol=1e-9, atol=1e-12)
    return kept_mean(stacked, case.result("keep"))


def _unic_without_patches(case: Case, terms: Any) -> Tensor:
    """Compute the loss by the method itself; the reference's inputs are the outputs of the heads."""
    hp, number = case.hp, range(case.hp["teachers"])
    teachers = [case[f"teacher{j}"] for j in number]
    method = UNIC(hp["lambda_cos"], hp["lambda_l1"])
    networks = tuple(SimpleNamespace(dim=teacher.shape[1]) for teacher in teachers)
    method.prepare(SimpleNamespace(dim=1), networks, SimpleNamespace(steps=10))
    ends = np.cumsum([0, *method.sizes]).tolist()
    method.head, *others = (_Part(slice(*columns)) for columns in pairwise(ends))
    method.more_heads = nn.ModuleList(others)
    method.std = method.std.double() - 1e-6  # to which the method adds 1e-6
    keep = case.result("keep").bool()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.methods.unic.kept_teachers", lambda *_: keep)
        student = torch.cat([case[f"student{j}"] for j in number], dim=1)
        return total(terms(method, embedding=(student, teachers)))


def vid(case: Case, terms: Any) -> Tensor:
    method = VID(1.0, (2,), case.hp["init_pred_var"])
    method.prepare(network(5, 5, 5, 5), network(8, 8, 8, 8), None)
    (regressor,) = method.double().guesses
    if case.name == "init":
        torch.testing.assert_close(regressor.log_scale.detach(), case["log_scale"], rtol=1e-6, atol=0)
    for name, layer in (("w1", 0), ("w2", 2), ("w3", 4)):
        assign(regressor.mean[layer], weight=case[name])
    assign(regressor, log_scale=case["log_scale"])
    return total(terms(method, stage2=(case["student"], case["teacher"])))


def whiten_mtd(case: Case, terms: Any) -> Tensor:
    """The reference has several teachers, and two views of every image, which are pairs here."""
    hp, number = case.hp, range(case.hp["teachers"])
    teachers = [torch.cat([case[f"teacher{j}_view{view}"] for view in range(2)]) for j in number]
    method = WhitenMTD(hp["dim"], hp["strategy"], hp["tau_student"], hp["tau_teacher"], hp["whiten"], weight=1.0)
    plan = SimpleNamespace(steps=2, epochs=2, batch_size=1)
    method.prepare(SimpleNamespace(), tuple(SimpleNamespace(dim=teacher.shape[1]) for teacher in teachers), plan)
    if hp["whiten"]:
        method.double()
        for name, value in method.fit(torch.cat([case[f"pca_train{j}"] for j in number], dim=1)).items():
            setattr(method, name, value)
    method.fitted = True
    expected = case.result("fused_similarity")

    def checked(student: Tensor, fused: Tensor, *temperatures: float) -> Tensor:
        if expected is not None:
            torch.testing.assert_close(fused, expected, rtol=1e-9, atol=1e-9)
        return matching(student, fused, *temperatures)

    student = torch.cat([case["student0"], case["student1"]])
    labels = torch.arange(len(student) // 2).repeat(2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.methods.whiten_mtd.matching", checked)
        return total(terms(method, labels=labels, embedding=(student, teachers)))


TERMS: dict[str, Callable[[Case, Any], Tensor]] = {
    "affinity_mimicking": affinity_mimicking,
    "aml": aml,
    "at": of("stage3", lambda hp: AT(1.0, (3,), hp["p"], "code")),
    "at_paper": of("stage3", lambda hp: AT(1.0, (3,), form="paper")),
    "cc_consecutive": of("embedding", lambda hp: CC("consecutive", 1.0, normalize=hp["normalize"])),
    "cc_rbf": of(
        "embedding",
        lambda hp: CC(
            ("gaussian", "bilinear")[hp["kernel"]], 1.0, normalize=False, gamma=hp["gamma"], order=hp["max_p"]
        ),
    ),
    "cdd_feature": lambda case, terms: feature_distance(case.list("student"), case.list("teacher")),
    "clip_kd": clip_kd,
    "crd": crd,
    "csd": of("embedding", lambda hp: CSD(hp["top_k"], hp["tau_student"], hp["tau_teacher"], 1.0)),
    "d3still": of("embedding", lambda hp: D3still(hp["top_k"], hp["alpha"], hp["beta"], hp["gamma"])),
    "darkrank_hard": of(
        "embedding", lambda hp: DarkRank(1.0, "hard", hp["alpha"], hp["beta"], hp["permute_len"], normalize=False)
    ),
    "dist": of("logits", lambda hp: DIST(hp["tau"], hp["beta"], hp["gamma"])),
    "dkd": of("logits", lambda hp: DKD(hp["T"], hp["alpha"], hp["beta"])),
    "fitnet": fitnet,
    "jsdiv": of("logits", lambda hp: JS(hp["T"])),
    "kd": of("logits", lambda hp: KD(hp["T"])),
    "metric_teacher_absolute": of("embedding", lambda hp: MetricsFromTeachers("absolute", 1.0, normalize=False)),
    "metric_teacher_relative": of("embedding", lambda hp: MetricsFromTeachers("relative", 1.0, normalize=False)),
    "mkd": of("stage3", lambda hp: MKD(hp["alpha"], hp["beta"], (3,), hp["p"], ("cosine", "l2")[hp["mode"]])),
    "mrl": mrl,
    "nst": of("stage3", lambda hp: NST(1.0, (3,))),
    "ofd": ofd,
    "phi_s": phi_s,
    "pkt": of("embedding", lambda hp: PKT(1.0)),
    "raml": raml_views,
    "raml_batch": of("embedding", lambda hp: RAML(hp["lam_1"], hp["lam_2"])),
    "relaxed_contrastive": of("embedding", lambda hp: RelaxedContrastive(1.0, hp["sigma"], hp["delta"])),
    "reviewkd": reviewkd,
    "reviewkd_hcl": reviewkd_hcl,
    "rkd": of("embedding", lambda hp: RKD(hp["w_d"], hp["w_a"])),
    "rkd_angle": of("embedding", lambda hp: RKD(0.0, 1.0)),
    "rkd_distance": of("embedding", lambda hp: RKD(1.0, 0.0)),
    "rop": of("embedding", lambda hp: ROP(hp["top_k"], hp["tau"], hp["rank_weight"], 1.0)),
    "rrd": rrd,
    "sp": of("stage3", lambda hp: SP(1.0, stages=(3,))),
    "ssp": ssp,
    "ugd": ugd,
    "unic": unic,
    "vid": vid,
    "whiten_mtd": whiten_mtd,
}


@pytest.mark.parametrize(("file", "name"), [(file, name) for file in TERMS for name in cases(file)])
def test_equals_reference(golden, terms, file, name):
    case = load(golden, file, name)
    gradients = case.gradients()
    assert bool(gradients) == ((file, name) not in WITHOUT_GRADIENT)
    for key in gradients or {"student"}:
        case[key].requires_grad_()
    loss = TERMS[file](case, terms)
    loss.backward()
    golden(file).check(name, loss.detach(), **{key: case[key].grad for key in gradients})
    if not gradients:
        assert case["student"].grad.abs().max() < 1


@pytest.mark.parametrize("name", cases("darkrank_original"))
def test_darkrank_original_equals_reference_but_for_its_saturation(golden, name):
    """The reference adds 1e-12 to P, which saturates long lists; its gradient is checked where it does not."""
    case = load(golden, "darkrank_original", name)
    hp, student = case.hp, case["student"].requires_grad_()
    method = DarkRank(1.0, "original", hp["scale"] ** hp["power"], 2 * hp["power"], normalize=False)
    losses = method.anchor_losses(student, case["teacher"])
    golden("darkrank_original").check(name, -((-losses.detach()).exp() + 1e-12).log().mean())
    if "full" in case.gradients():
        (gradient,) = torch.autograd.grad(losses.mean(), student)
        expected = case.result("grad_full")
        assert (gradient - expected).abs().max() <= case.meta["rtol_grad_full"] * expected.abs().max()
    else:
        assert losses.mean() > 27.64


def test_every_file_is_read():
    assert {path.stem for path in GOLDEN.glob("*.npz")} == {*TERMS, *ELSEWHERE}
