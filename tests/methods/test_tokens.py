"""Methods that compare feature maps, with token networks as student and as teacher."""

import json

import pytest
import torch

from benchmark import METHODS
from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.errors import UserError
from benchmark.experiment.preflight import check_pairing, meta_networks
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_network, save_student

VIT = {
    "backbone": "vit_tiny_patch16_224",
    "args": {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 24, "num_heads": 2},
}
SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "args": {"img_size": 32, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
}
RESNET = {"backbone": "resnet18", "args": {"channels": [8, 8, 16, 16]}}
COMPARED = {
    "at": {},
    "fitnet": {"on": "stages"},
    "mkd": {},
    "nst": {},
    "ofd": {},
    "reviewkd": {"middle": 8},
    "sp": {},
    "ugd": {},
    "vid": {},
}
"""Methods that read stages, with their arguments."""
REFUSED = {
    "ofd": "stage 1 of {} does not end with a batch norm of its {} channels, from which ofd takes its margins",
    "ugd": "in {} further layers follow the last stage, to parts of which ugd applies the teacher's neck",
}
"""Reasons for which a token network cannot be the teacher, with its name and the channels of its first stage."""


def test_all_methods_that_read_stages_are_covered():
    def reads_stages(name: str) -> bool:
        method = METHODS.find(name)
        return not method.compresses and bool(method(**COMPARED.get(name, {})).student_taps)

    assert {name for name in METHODS.names() if reads_stages(name)} == COMPARED.keys()


def settings(key: str, network: dict) -> list[str]:
    return [
        f"{key}.backbone={network['backbone']}",
        f"{key}.args={json.dumps(network['args'])}",
        f"{key}.stem=imagenet",
        f"{key}.last_stride=2",
    ]


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize(
    ("student", "teacher"), [(VIT, RESNET), (RESNET, SWIN), (SWIN, VIT)], ids=["vit-resnet", "resnet-swin", "swin-vit"]
)
def test_trains_a_step_or_is_refused(name, student, teacher, rig, tiny):
    method = METHODS.find(name)(**COMPARED[name])
    recipe = tiny(name, *settings("student", student), *settings("teacher.network", teacher))
    if name in REFUSED and teacher is not RESNET:
        reason = REFUSED[name].format(teacher["backbone"], 24 if teacher is VIT else 8)
        with pytest.raises(UserError, match=reason):
            check_pairing(method, *meta_networks(recipe), recipe)
        return
    check_pairing(method, *meta_networks(recipe), recipe)
    plain = {"stem": "imagenet", "dim": 16, "head": "cosine", "identities": 40}
    made = rig(method, student=student, **plain, **teacher)
    assert all(term.isfinite() and term.requires_grad for term in made.terms().values())
    before = [parameter.clone() for parameter in made.student.parameters()]
    assert all(loss.isfinite() for loss in made.step().values())
    assert not all(map(torch.equal, before, made.student.parameters()))


@pytest.mark.slow
def test_training_of_a_vit_by_attention_maps_of_a_swin(tiny, train_tiny, batches, tmp_path):
    recipe = tiny("at", *settings("student", VIT), *settings("teacher.network", SWIN))
    first, second = (train_tiny(recipe, tmp_path / run) for run in ("first", "second"))
    assert (tmp_path / "first" / LAST_CHECKPOINT).exists()
    images = batches[0].images
    with torch.no_grad():
        embedded = first.student.features(images).embedding
        assert torch.equal(second.student.features(images).embedding, embedded)
    save_student(fold_batchnorm(first.student, images), tmp_path / "student.pt", recipe.image_size)
    with torch.no_grad():
        torch.testing.assert_close(load_network(tmp_path / "student.pt")(images), embedded, rtol=1e-4, atol=1e-4)
