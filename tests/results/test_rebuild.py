"""Contradictions between a record and what its recipe builds."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark.commands.leaderboard import check
from benchmark.errors import UserError
from benchmark.recipe import Network, compose
from benchmark.registry import DATASETS
from benchmark.results.board import run_command
from benchmark.results.deployed import _deployed, deployed
from benchmark.results.leaderboard import generate
from benchmark.results.parts import NONSTANDARD
from benchmark.results.rebuild import _benchmark, _read, _variant, rebuilt_violations
from benchmark.results.record import Record
from benchmark.results.store import add_record, load_records
from benchmark.utils.recipe_hash import recipe_hash

ELSEWHERE = {"method": "theirs", "recipe.method": {"name": "theirs"}}
"""Changes to a method that is not registered here."""


def wrong(record):
    """The violations by field."""
    return {each.field: str(each) for each in rebuilt_violations(record)}


@pytest.fixture
def rehash(edit):
    """`rehash(record, changes)` edits a record, and gives it the hash and the id of its recipe."""

    def make(record, changes):
        content = edit(record, changes).model_dump(mode="json")
        found = recipe_hash(content["recipe"])
        return Record.model_validate(content | {"recipe_hash": found, "id": Record.make_id(found, content["role"])})

    return make


@pytest.mark.parametrize("method", ["kd", "cdd", "uniform+kd", "csd", "none"])
def test_committed_records_match_their_recipes(committed, method):
    assert wrong(committed(method)) == {}


@pytest.mark.slow
def test_records_of_a_run_are_plausible(finished):
    """A compressed student with a variant and all scores, and its teacher."""
    student, teacher = sorted(load_records(finished / "boards" / "records"), key=lambda record: record.role)
    assert student.variant and student.scores.average_precision and teacher.scores.average_precision
    assert check(finished / "boards") == []


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (
            {"recipe.teacher.network.dim": 64},
            {"teacher.record", "teacher.cost.parameters", "teacher.cost.macs"},
        ),
        ({"recipe.dataset.wings": 2}, {"recipe.dataset", "teacher.record"}),
        ({"recipe.method.wings": 2}, {"recipe.method"}),
        ({"variant": {"dataset.test_identities": 100}}, {"variant"}),
        ({"variant": {"evaluate.ties": "optimistic"}}, {"variant"}),
        ({"network.cost.parameters": 900000}, {"network.cost.parameters"}),
        ({"network.cost.macs": 10000000}, {"network.cost.macs"}),
        ({"network.cost.image_size": [64, 64]}, {"network.cost.image_size"}),
        ({"teacher.cost.macs": 60000000}, {"teacher.cost.macs"}),
        ({"teacher.record": None}, {"teacher.record"}),
        ({"network.embedding": 256}, {"network.embedding"}),
        ({"network.name": "resnet101"}, {"network.name"}),
        ({"teacher.network": "resnet18"}, {"teacher.network"}),
        ({"data.protocol.camera_rule": False}, {"data.protocol.camera_rule"}),
        ({"data.protocol.ties": "optimistic"}, {"data.protocol.ties"}),
        ({"data.protocol.wings": 2}, {"data.protocol.wings"}),
        ({"data.protocol.recall_at": [1, 5, 20]}, {"data.protocol.recall_at"}),
        ({"budget": {"kind": "macs", "target": 0.42, "reached": 0.4, "met": True}}, {"budget"}),
        ({"variant": {"dataset.images": "nonstandard"}}, {"variant"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_finds_an_edit(committed, edit, changes, fields):
    assert wrong(edit(committed("kd"), changes)).keys() == fields


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recipe.method.temperature": -1.0}, "recipe.method"),
        ({"recipe.method.temperature": "high"}, "recipe.method"),
        ({"recipe.dataset.test_identities": "many"}, "recipe.dataset"),
        ({"recipe.dataset.test_identities": 0.5}, "recipe.dataset"),
        ({"recipe.student.dim": "192"}, "recipe.student.dim"),
        ({"recipe.image_size": [60_000, 60_000]}, "recipe.image_size.0"),
        ({"recipe.student.args": {"checkpoint_path": "/etc/passwd"}}, "recipe.student"),
    ],
    ids=str,
)
def test_the_recipe_is_validated_like_any_recipe(committed, rehash, changes, field):
    assert field in wrong(rehash(committed("kd"), changes))


def test_networks_that_are_too_large_to_run_have_bounds(committed, rehash):
    network = committed("kd").recipe["student"] | {"backbone": "resnet50", "args": {"base_width": 1024}}
    size = deployed(Network.model_validate(network), (32, 32))
    assert size.parameters > 10**9 and 0.99 * size.parameters < size.least_parameters < size.parameters
    changes = {f"recipe.student.{key}": network[key] for key in ("backbone", "args")}
    inside = {"network.cost.parameters": size.least_parameters + 5, "network.cost.macs": size.macs}
    assert (
        not {"network.cost.parameters", "network.cost.macs"} & wrong(rehash(committed("kd"), changes | inside)).keys()
    )
    found = wrong(rehash(committed("kd"), changes | {"network.cost.parameters": size.parameters + 1}))
    assert {"network.cost.parameters", "network.cost.macs"} <= found.keys()
    assert f"{size.least_parameters} to {size.parameters}, by the recipe" in found["network.cost.parameters"]


def test_bounds_contain_the_cost_of_a_network_that_is_run(monkeypatch):
    network = Network(backbone="resnet18", last_stride=2)
    exact = deployed(network, (64, 32))
    monkeypatch.setattr("benchmark.results.deployed._MAX_PARAMETERS", 1000)
    monkeypatch.setattr("benchmark.results.deployed._deployed", _deployed.__wrapped__)
    bounds = deployed(network, (64, 32))
    assert (bounds.macs, bounds.embedding) == (exact.macs, exact.embedding)
    assert bounds.least_parameters <= exact.parameters <= bounds.parameters


def test_keys_and_rules_that_the_first_records_lack_have_defaults(first_record):
    assert wrong(first_record) == {}


def test_protocol_that_depends_on_the_images_is_not_checked(committed, edit):
    found = wrong(
        edit(
            committed("kd"),
            {
                "recipe.dataset": {"name": "folder", "path": "/not/here"},
                "data.protocol.camera_rule": False,
                "data.protocol.query_in_gallery": True,
            },
        )
    )
    assert not [field for field in found if field.startswith("data.protocol")]


@pytest.mark.parametrize(("ranked", "tracks"), [("images", False), ("tracks", True)])
def test_protocol_follows_from_the_options_of_the_dataset(committed, edit, ranked, tracks):
    found = wrong(edit(committed("kd"), {"recipe.dataset": {"name": "veri776", "ranked": ranked}}))
    assert ("data.protocol.tracks" in found) == tracks


def test_compressed_student_does_not_exceed_its_start(committed, edit):
    assert wrong(edit(committed("cdd"), {"network.cost.parameters": 1044615})) == {}
    found = wrong(edit(committed("cdd"), {"network.cost.parameters": 2461809}))
    expected = "at most 2461808, the count of the recipe's student before compression"
    assert found == {"network.cost.parameters": f"network.cost.parameters is 2461809, expected {expected}"}
    assert wrong(edit(committed("cdd"), {"network.embedding": 256})).keys() == {"network.embedding"}


@pytest.mark.parametrize("method", ["cdd", "uniform+kd"])
def test_budget_is_that_of_the_recipe(committed, edit, method):
    record = committed(method)
    budget = record.budget.model_dump()
    assert wrong(edit(record, {"budget.target": 0.5})).keys() == {"budget.target"}
    assert wrong(edit(record, {"budget": None})).keys() == {"budget"}
    assert wrong(edit(record, {"budget": budget | {"kind": "parameters"}})).keys() == {"budget.kind"}
    assert wrong(edit(committed("none", role="teacher"), {"budget": budget})).keys() == {"budget"}


@pytest.mark.parametrize("method", ["kd", "cdd"])
def test_methods_that_are_not_registered_are_taken_as_recorded(committed, rehash, method):
    assert wrong(rehash(committed(method), ELSEWHERE)) == {}


def test_cost_for_a_method_that_is_not_registered(committed, rehash):
    found = wrong(rehash(committed("kd"), ELSEWHERE | {"network.cost.parameters": 5}))
    assert found.keys() == {"network.cost.parameters"}


@pytest.mark.parametrize("method", [{"name": "kd"}, {"name": "kd", "weight": 1}])
def test_finds_a_recipe_written_in_another_form(committed, rehash, method):
    """An omitted default, or an integer for a float, gives the same run another hash, and so a second row."""
    record = committed("kd")
    assert record.recipe["method"]["weight"] == 1.0
    method = {key: value for key, value in record.recipe["method"].items() if key != "weight"} | method
    assert wrong(rehash(record, {"recipe.method": method})).keys() == {"recipe_hash"}


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"recipe.student.wings": 2}, "recipe.student.wings", "is 2, expected a value that this release reads: Extra"),
        ({"recipe.runtime": None}, "recipe.runtime", "expected a value that this release reads"),
        ({"recipe.runtime": []}, "recipe.runtime", "expected a value that this release reads"),
        ({"recipe.runtime": "off"}, "recipe.runtime", "expected a value that this release reads"),
        (
            {"recipe.student.backbone": "resnet27"},
            "recipe.student",
            "is resnet27, expected a network that can be built: unknown backbone",
        ),
    ],
)
def test_names_what_this_release_does_not_read(committed, rehash, changes, field, message):
    (found,) = wrong(rehash(committed("kd"), changes)).items()
    assert found[0] == field and message in found[1]


@pytest.mark.parametrize("method", ["kd", "cdd"])
def test_image_sizes_of_the_record_take_no_memory(committed, edit, monkeypatch, method):
    monkeypatch.setattr("benchmark.results.deployed._deployed", _deployed.__wrapped__)  # without the cache
    original = torch.randint
    sizes: list[tuple[int, ...]] = []

    def randint(low, high, size, **options):
        sizes.append(size)
        assert max(size) <= 64
        return original(low, high, size, **options)

    monkeypatch.setattr(torch, "randint", randint)
    huge = [10000, 10000]
    record = committed(method)
    found = wrong(edit(record, {"network.cost.image_size": huge, "teacher.cost.image_size": huge}))
    assert found.keys() == {"network.cost.image_size", "teacher.cost.image_size"}
    assert sizes == [(2, 3, *record.recipe["image_size"])] * 2


def test_cost_of_a_teacher_from_a_checkpoint_is_at_its_own_image_size(committed, rehash):
    changes = {"recipe.teacher.checkpoint": "runs/teacher", "teacher.cost.image_size": [64, 64]}
    record = rehash(committed("kd"), changes)
    assert wrong(record).keys() == {"teacher.cost.macs"}
    size = deployed(Network.model_validate(record.recipe["teacher"]["network"]), (64, 64))
    assert wrong(rehash(record, {"teacher.cost.macs": size.macs})) == {}


@pytest.mark.parametrize(
    "args",
    [
        {"act_layer": 5},
        {"channels": "wide"},
        {"channels": 5},
        {"features_only": True},
        {"checkpoint_path": "w.pth"},
        {"pretrained": True},
        {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/w.pth"}},
    ],
)
@pytest.mark.parametrize("network", ["student", "teacher.network"])
def test_names_arguments_that_a_backbone_does_not_accept(committed, rehash, network, args):
    found = wrong(rehash(committed("kd"), {f"recipe.{network}.args": args}))
    assert "expected a network that can be built: " in found[f"recipe.{network}"]


def test_reports_whatever_a_backbone_raises(monkeypatch):
    def refuse(*_):
        raise TypeError("not today")

    monkeypatch.setattr("benchmark.model.embedder.build_backbone", refuse)
    network = Network(backbone="refusing", last_stride=2)
    with pytest.raises(UserError, match=r"refusing with args \{\} does not accept 8x8 images: not today"):
        deployed(network, (8, 8))


def test_networks_are_built_once_and_without_a_download():
    network = Network(backbone="resnet18", last_stride=2, weights="imagenet")
    assert deployed(network, (32, 32)) is deployed(network.model_copy(update={"weights": "random"}), (32, 32))
    size = deployed(network, (32, 32))
    # timm's 11.18 M, with one bias in place of two batch-norm parameters per channel; the neck with its first norm.
    assert (size.parameters, size.embedding) == (11176512 - 4800 + 512 * 512 + 512 + 2 * 512, 512)


class PreActivation(nn.Module):
    """A backbone whose first batch norm must not be folded, which hardly shows before training."""

    head_hidden_size = 4

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward_features(self, images):
        maps = self.conv(images)
        return maps + self.last(self.norm(maps).relu())

    def forward_head(self, maps, pre_logits):
        return maps.mean((2, 3))


def test_batch_norms_are_folded_as_after_training(monkeypatch):
    monkeypatch.setattr("benchmark.model.embedder.build_backbone", lambda *_: PreActivation())
    size = deployed(Network(backbone="pre-activation", last_stride=2, neck="bn"), (8, 8))
    assert size.parameters == sum(p.numel() for p in PreActivation().parameters()) + 8


def test_check_lists_every_bad_record_in_one_line(committed, edit, tmp_path):
    records = tmp_path / "records"
    add_record(edit(committed("kd"), {"saved.macs": 0.6, "saved.parameters": 0.1}), records)
    add_record(edit(committed("cdd"), {"budget.met": False}), records)
    add_record(committed("csd"), records)
    (records / "glyphs-x.json").write_text("{")
    with pytest.raises(UserError) as refusal:
        check(tmp_path)
    cdd, kd, other = str(refusal.value).splitlines()
    assert cdd.startswith(f"{records / 'glyphs-cdd-seed0-'}") and ": budget.met is False, expected " in cdd
    assert ": saved.parameters is 0.1, expected 0." in kd
    assert kd.endswith("; saved.macs is 0.6, expected 0.5821101492911805, which is 1 - student / teacher")
    assert other.startswith(f"{records / 'glyphs-x.json'}: not a record: not JSON at line 1, column 2")


def test_check_compares_the_pages_of_plausible_records(committed, tmp_path):
    add_record(committed("kd"), tmp_path / "records")
    generate(tmp_path)
    assert check(tmp_path) == []
    (tmp_path / "README.md").write_text("edited")
    assert check(tmp_path) == [tmp_path / "README.md"]


def test_other_counts_than_the_published_ones_are_not_on_the_official_board(record):
    of_others = record("kd", dataset="market1501")
    dataset = DATASETS.find("market1501")(Path(os.devnull))
    recipe = _read(compose("kd", "market1501").model_dump_json())
    (violation,) = _variant(of_others, recipe, dataset)
    assert violation.expected.startswith("{'dataset.images': 'nonstandard'}")
    ours = of_others.model_copy(update={"variant": dict(NONSTANDARD)})
    assert not list(_variant(ours, recipe, dataset))
    assert ours.board == "market1501-nonstandard"
    assert "--set" not in run_command("kd", ours)


def test_a_record_names_no_place(record, edit):
    recipe = compose("kd", "folder", settings=["dataset.path=/home/me/birds"])
    (violation,) = _benchmark(record(), _read(recipe.model_dump_json()))
    assert (violation.field, violation.actual) == ("recipe.dataset", {"path": "/home/me/birds"})
