"""Committed records are plausible, and stop being so by any edit that a run would not have made."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from benchmark.commands.leaderboard import check
from benchmark.errors import UserError
from benchmark.recipe import Network
from benchmark.results.consistency import violations
from benchmark.results.leaderboard import generate
from benchmark.results.rebuild import _deployed, deployed, rebuilt_violations
from benchmark.results.record import Record
from benchmark.results.store import add_record, load_records
from benchmark.utils.recipe_hash import recipe_hash

RECORDS = Path(__file__).parents[2] / "leaderboards" / "records"
ALL = load_records(RECORDS)


def committed(method: str, seed: int = 0, role: str = "student") -> dict:
    """The content of a committed record, to be edited."""
    (record,) = (each for each in ALL if (each.method, each.seed, each.role) == (method, seed, role))
    return record.model_dump(mode="json")


def edited(content: dict, changes: dict) -> dict:
    """With the values at dotted keys replaced."""
    content = json.loads(json.dumps(content))
    for key, value in changes.items():
        *parents, last = key.split(".")
        holder = content
        for name in parents:
            holder = holder[name]
        holder[last] = value
    return content


def renamed(content: dict) -> dict:
    """With the hash and the ids that its recipe gives."""
    found = recipe_hash(content["recipe"])
    return content | {"recipe_hash": found, "id": Record.make_id(found, content["role"])}


def wrong(content: dict) -> dict[str, str]:
    """Fields that cannot be right, and what is said of them."""
    record = Record.model_validate(content)
    return {each.field: str(each) for each in (*violations(record), *rebuilt_violations(record))}


def test_committed_records_are_plausible():
    found = {record.id: [*violations(record), *rebuilt_violations(record)] for record in ALL}
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_a_record_of_the_first_versions_lacks_its_average_precisions_alone():
    """Without the newest keys of a recipe, the newest scores and the newest rules."""
    content = next(record for record in ALL if record.role == "student").model_dump(mode="json")
    for recipe in (content["recipe"], content["recipe"]["teacher"]):
        assert recipe["train"]["sampler"].pop("views") == 1
    content["scores"]["average_precision"] = None
    for scores in (content["scores"]["symmetric"], content["teacher"]["scores"]):
        scores |= {"precision": {}, "mAP_at_R": None, "R_precision": None}
    for rule in ("ties", "junk", "distractors", "tracks", "expansion", "reranking"):
        del content["data"]["protocol"][rule]
    found = wrong(content)
    assert found.keys() == {"scores.average_precision"}
    assert "is missing, expected that of every query" in found["scores.average_precision"]


def test_pooled_queries_of_earlier_versions_are_refused():
    content = ALL[0].model_dump(mode="json")
    assert "multi_query" not in content["data"]["protocol"]
    content["data"]["protocol"]["multi_query"] = True
    with pytest.raises(ValidationError, match=r"protocol\.multi_query: pooled queries are not supported"):
        Record.model_validate(content)


def test_what_a_run_leaves_is_plausible(finished):
    """On a board with options of its own, from a student that was compressed, and with all of today's scores."""
    student, teacher = sorted(load_records(finished / "boards" / "records"), key=lambda record: record.role)
    assert student.variant and student.scores.average_precision and teacher.scores.average_precision
    assert check(finished / "boards") == []


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"recipe.train.optimizer.lr": 0.5}, {"recipe_hash"}),
        (
            {"recipe.teacher.network.dim": 64},
            {"recipe_hash", "teacher.record", "teacher.cost.parameters", "teacher.cost.macs"},
        ),
        ({"dataset": "veri776"}, {"dataset"}),
        ({"recipe.dataset.wings": 2}, {"recipe_hash", "recipe.dataset", "teacher.record"}),
        ({"method": "rkd"}, {"method"}),
        ({"seed": 7}, {"seed"}),
        ({"variant": {"dataset.test_identities": 100}}, {"variant"}),
        ({"variant": {"evaluate.ties": "optimistic"}}, {"variant"}),
        ({"network.cost.flops": 13643776}, {"network.cost.flops"}),
        ({"network.cost.parameters": 900000}, {"network.cost.parameters", "saved.parameters"}),
        (
            {"network.cost.macs": 10000000, "network.cost.flops": 20000000, "saved.macs": 1 - 10000000 / 32649216},
            {"network.cost.macs"},
        ),
        ({"network.cost.image_size": [64, 64]}, {"network.cost.image_size"}),
        ({"teacher.cost.macs": 60000000}, {"teacher.cost.macs", "teacher.cost.flops", "saved.macs"}),
        ({"teacher.cost.macs": 0}, {"teacher.cost.macs", "teacher.cost.flops", "saved.macs"}),
        ({"teacher.record": None}, {"teacher.record"}),
        ({"teacher": None}, {"teacher"}),
        ({"saved": None}, {"saved"}),
        ({"network.embedding": 256}, {"network.embedding"}),
        ({"network.name": "resnet101"}, {"network.name"}),
        ({"teacher.network": "resnet18"}, {"teacher.network"}),
        ({"data.protocol.camera_rule": False}, {"data.protocol.camera_rule"}),
        ({"data.protocol.ties": "optimistic"}, {"data.protocol.ties"}),
        ({"data.protocol.wings": 2}, {"data.protocol.wings"}),
        ({"data.splits.query.images": 500}, {"scores.symmetric.queries", "teacher.scores.queries"}),
        ({"saved.macs": 0.6}, {"saved.macs"}),
        ({"budget": {"kind": "macs", "target": 0.42, "reached": 1 - 0.5821101492911805, "met": True}}, {"budget"}),
        ({"recipe.method.wings": 2}, {"recipe_hash", "recipe.method"}),
        ({"data.splits": {}}, {"data.splits.train", "data.splits.query", "data.splits.gallery"}),
        (
            {"data.protocol.recall_at": [1, 5, 20]},
            {"scores.symmetric.recall.20", "teacher.scores.recall.20", "data.protocol.recall_at"},
        ),
        ({"data.protocol.recall_at": None}, {"data.protocol.recall_at"}),
        ({"scores.asymmetric_reason": None}, {"scores.asymmetric_reason"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_an_edit_of_a_static_student_is_found(changes, fields):
    assert wrong(edited(committed("kd"), changes)).keys() == fields


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"recall.5": 0.0}, {"recall.5", "precision.5"}),
        ({"recall.1": 1.0, "recall.5": 1646 / 1647, "precision.1": 1.0}, {"recall.5"}),
        ({"recall.1": 1615.5 / 1647}, {"recall.1", "precision.1"}),
        ({"precision.1": 0.0}, {"precision.1"}),
        ({"precision.10": 0.0}, {"precision.10"}),
        ({"precision.5": 1.0}, {"precision.5"}),
        ({"mAP_at_R": 0.85}, {"mAP_at_R"}),  # more than R-precision
        ({"mAP": 0.5}, {"mAP_at_R"}),
        ({"mAP": 0.1, "mAP_at_R": 0.1}, {"mINP"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_scores_that_no_ranked_lists_have_are_found(changes, fields):
    place = "scores.symmetric."
    without = {"scores.average_precision": None}  # whose mean the schema itself holds against the mAP
    found = wrong(edited(committed("kd"), without | {place + key: value for key, value in changes.items()}))
    assert found.keys() - without.keys() == {place + field for field in fields}


def test_scores_of_the_teacher_and_asymmetric_ones_are_checked_too(record):
    content = record(asymmetric=0.6).model_dump(mode="json")
    for place in ("scores.asymmetric", "teacher.scores"):
        assert f"{place}.recall.5" in wrong(edited(content, {f"{place}.recall.5": 0.1}))
    both = edited(content, {"scores.asymmetric_reason": "it has both"})
    assert "expected no reason" in wrong(both)["scores.asymmetric_reason"]


def test_a_query_whose_average_precision_is_1_counts_in_recall_at_1(record):
    scores = record().model_dump(mode="json")["scores"]
    symmetric = scores["symmetric"] | {"mAP": 0.8, "queries": 5, "skipped": 0, "recall": {"1": 0.6, "5": 1.0}}
    scores |= {"symmetric": symmetric, "average_precision": [1.0, 1.0, 1.0, 0.5, 0.5]}
    content = record(scores=scores).model_dump(mode="json")
    assert "scores.symmetric.recall.1" not in wrong(content)
    found = wrong(edited(content, {"scores.symmetric.recall.1": 0.4}))
    assert "at least 0.6, the share of queries with an average precision of 1" in found["scores.symmetric.recall.1"]


def test_the_images_of_a_folder_tell_its_protocol():
    """Which the record alone knows where they are not at hand."""
    found = wrong(
        edited(
            committed("kd"),
            {
                "recipe.dataset": {"name": "folder", "path": "/not/here"},
                "data.protocol.camera_rule": False,
                "data.protocol.query_in_gallery": True,
            },
        )
    )
    assert not [field for field in found if field.startswith("data.protocol")]


def test_options_of_a_dataset_are_part_of_the_protocol(record):
    changes = {"recipe.dataset": {"name": "veri776", "ranked": "images"}}
    assert "data.protocol.tracks" not in wrong(edited(committed("kd"), changes))
    changes["recipe.dataset"]["ranked"] = "tracks"
    assert "expected True" in wrong(edited(committed("kd"), changes))["data.protocol.tracks"]


@pytest.mark.parametrize(("queries", "broken", "right"), [(1647, 0, True), (1645, 2, True), (1644, 2, False)])
def test_broken_images_are_no_queries(queries, broken, right):
    changes = {"scores.average_precision": None, "scores.symmetric.queries": queries, "data.broken": broken}
    assert ("scores.symmetric.queries" not in wrong(edited(committed("kd"), changes))) == right


def test_scores_of_no_query_are_found(record):
    content = edited(record().model_dump(mode="json"), {"scores.symmetric.skipped": 1500})
    assert "fewer than the 1500 queries" in wrong(content)["scores.symmetric.skipped"]


def test_a_compressed_student_is_at_most_what_it_started_as():
    assert wrong(edited(committed("cdd"), {"network.cost.parameters": 1044615})).keys() == {"saved.parameters"}
    found = wrong(edited(committed("cdd"), {"network.cost.parameters": 2461809}))
    assert found["network.cost.parameters"].endswith(
        "is 2461809, expected at most 2461808, which the recipe's student has before it is compressed"
    )

    assert wrong(edited(committed("cdd"), {"network.embedding": 256})).keys() == {"network.embedding"}


@pytest.mark.parametrize("kind", ["parameters", "macs"])
def test_no_more_is_saved_than_can_be(kind):
    content = committed("cdd")
    saved = content["saved"][kind]
    assert wrong(edited(content, {f"saved.ceiling_{kind}": saved})) == {}
    assert wrong(edited(content, {f"saved.ceiling_{kind}": saved - 1e-6})).keys() == {f"saved.ceiling_{kind}"}


@pytest.mark.parametrize("changes", [{"budget.reached": 0.4}, {"budget.met": False}])
def test_a_budget_is_what_the_costs_say(changes):
    assert wrong(edited(committed("cdd"), changes)).keys() == {next(iter(changes))}


@pytest.mark.parametrize("method", ["cdd", "uniform+kd"])
def test_a_budget_is_what_the_recipe_says(method):
    content = committed(method)
    assert wrong(edited(content, {"budget.target": 0.5})).keys() == {"budget.target"}
    assert wrong(edited(content, {"budget": None})).keys() == {"budget"}
    share = content["network"]["cost"]["parameters"] / content["teacher"]["cost"]["parameters"]
    other = {"kind": "parameters", "target": 0.42, "reached": share, "met": share <= 0.42}
    assert wrong(edited(content, {"budget": other})).keys() == {"budget.kind"}
    (teacher,) = (record.model_dump(mode="json") for record in ALL if record.role == "teacher")
    assert wrong(edited(teacher, {"budget": content["budget"]})).keys() == {"budget"}


def test_a_teacher_has_no_teacher():
    content = committed("none", role="teacher")
    content["teacher"] = committed("kd")["teacher"]
    assert "expected missing in the record of a teacher" in wrong(content)["teacher"]


def test_methods_and_datasets_from_elsewhere_are_judged_by_what_their_records_say():
    elsewhere = {"method": "theirs", "recipe.method": {"name": "theirs"}}
    assert wrong(renamed(edited(committed("kd"), elsewhere))) == {}
    assert wrong(renamed(edited(committed("cdd"), elsewhere))) == {}
    cheaper = edited(committed("kd"), elsewhere | {"network.cost.parameters": 5})
    assert "network.cost.parameters" in wrong(renamed(cheaper))


@pytest.mark.parametrize("weight", [None, 1])
def test_one_run_by_a_recipe_written_in_another_way_is_found(weight):
    """A default left out, or a whole number for a fraction, gives another hash, and so a second row of one run."""
    content = committed("kd")
    assert content["recipe"]["method"].pop("weight") == 1.0
    content["recipe"]["method"] |= {} if weight is None else {"weight": weight}
    assert wrong(renamed(content)).keys() == {"recipe_hash"}


def test_a_recipe_that_this_release_cannot_read_is_named():
    found = wrong(renamed(edited(committed("kd"), {"recipe.student.wings": 2})))
    assert found == {"recipe.student.wings": f"recipe.student.wings is 2, expected {READS}"}
    (found,) = wrong(renamed(edited(committed("kd"), {"recipe.student.backbone": "resnet27"}))).values()
    assert found.startswith("recipe.student is resnet27, expected a network that can be built: unknown backbone")


@pytest.mark.parametrize("method", ["kd", "cdd"])
def test_no_image_of_a_size_that_the_recipe_does_not_have_is_made(monkeypatch, method):
    monkeypatch.setattr("benchmark.results.rebuild._deployed", _deployed.__wrapped__)  # what is known, is not built
    made = torch.randint
    sizes: list[tuple[int, ...]] = []

    def randint(low: int, high: int, size: tuple[int, ...], **options: object) -> torch.Tensor:
        sizes.append(size)
        assert max(size) <= 64
        return made(low, high, size, **options)

    monkeypatch.setattr(torch, "randint", randint)
    huge = [100000, 100000]
    found = wrong(edited(committed(method), {"network.cost.image_size": huge, "teacher.cost.image_size": huge}))
    assert found.keys() == {"network.cost.image_size", "teacher.cost.image_size"}
    assert sizes == [(2, 3, *committed(method)["recipe"]["image_size"])] * 2


def test_the_cost_of_a_teacher_from_elsewhere_is_counted_at_its_own_image_size():
    content = edited(
        committed("kd"), {"recipe.teacher.checkpoint": "runs/teacher", "teacher.cost.image_size": [64, 64]}
    )
    assert wrong(renamed(content)).keys() == {"teacher.cost.macs"}
    size, _ = deployed(Network.model_validate(content["recipe"]["teacher"]["network"]), (64, 64))
    cost = {"teacher.cost.macs": size.macs, "teacher.cost.flops": 2 * size.macs}
    shares = {"saved.macs": 1 - content["network"]["cost"]["macs"] / size.macs}
    assert wrong(renamed(edited(content, cost | shares))) == {}


@pytest.mark.parametrize("args", [{"features_only": True}, {"act_layer": 5}, {"channels": "wide"}, {"channels": 5}])
def test_args_that_a_backbone_does_not_take_are_named(args):
    content = renamed(edited(committed("kd"), {"recipe.student.args": args}))
    assert "expected a network that can be built: " in wrong(content)["recipe.student"]
    content = renamed(edited(committed("kd"), {"recipe.teacher.network.args": args}))
    assert "expected a network that can be built: " in wrong(content)["recipe.teacher.network"]


def test_whatever_a_backbone_raises_is_said(monkeypatch):
    def refuse(*_: object) -> None:
        raise TypeError("not today")

    monkeypatch.setattr("benchmark.model.embedder._backbone", refuse)
    network = Network(backbone="refusing", last_stride=2)
    with pytest.raises(UserError, match=r"refusing with args \{\} takes no 8 x 8 images: not today"):
        deployed(network, (8, 8))


@pytest.mark.parametrize("runtime", [None, [], "off"])
def test_a_section_that_is_no_mapping_is_named(runtime):
    found = wrong(renamed(edited(committed("kd"), {"recipe.runtime": runtime})))
    assert found.keys() == {"recipe.runtime"}


READS = "what this release reads: Extra inputs are not permitted"


def test_networks_are_built_once_and_without_a_download():
    network = Network(backbone="resnet18", last_stride=2, weights="imagenet")
    assert deployed(network, (32, 32)) is deployed(network.model_copy(update={"weights": "random"}), (32, 32))
    size, embedding = deployed(network, (32, 32))
    # timm's 11.18 M, of which a bias takes the place of every batch-norm's two; the neck's, and its first norm.
    assert (size.parameters, embedding) == (11176512 - 4800 + 512 * 512 + 512 + 2 * 512, 512)


class PreActivation(nn.Module):
    """A backbone whose first batch-norm must not be folded, which hardly shows before training."""

    head_hidden_size = 4

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.conv(images)
        return maps + self.last(self.norm(maps).relu())

    def forward_head(self, maps: torch.Tensor, pre_logits: bool) -> torch.Tensor:
        return maps.mean((2, 3))


def test_batchnorms_are_folded_as_after_training(monkeypatch):
    monkeypatch.setattr("benchmark.model.embedder._backbone", lambda *_: PreActivation())
    size, _ = deployed(Network(backbone="pre-activation", last_stride=2, neck="bn"), (8, 8))
    assert size.parameters == sum(p.numel() for p in PreActivation().parameters()) + 8


def test_every_violation_is_listed_with_its_file(tmp_path):
    records = tmp_path / "records"
    for method, changes in (("kd", {"saved.macs": 0.6, "saved.parameters": 0.1}), ("cdd", {"budget.met": False})):
        path = add_record(Record.model_validate(edited(committed(method), changes)), records)
        assert path.is_file()
    with pytest.raises(UserError) as refusal:
        check(tmp_path)
    lines = str(refusal.value).splitlines()
    assert [line.split(": ")[1].split(" is ")[0] for line in lines] == ["budget.met", "saved.parameters", "saved.macs"]
    assert lines[0].startswith(f"{records / 'glyphs-cdd-seed0-'}")
    assert lines[2].endswith("saved.macs is 0.6, expected 0.5821101492911805, which is 1 - student / teacher")


def test_pages_are_compared_once_records_are_plausible(tmp_path):
    add_record(Record.model_validate(committed("kd")), tmp_path / "records")
    generate(tmp_path)
    assert check(tmp_path) == []
    (tmp_path / "README.md").write_text("edited")
    assert check(tmp_path) == [tmp_path / "README.md"]
