"""Writes the table of backbones with which `kd`, `at` and `cdd` work: `docs/backbones.md`.

    python tools/backbones.py docs/backbones.md

Each backbone, one of the smallest of its family, trains one step with random weights: as the student of a small ResNet
and as its teacher, and with `cdd`, whose student starts as a copy of the teacher, as both. What is known is kept in a
file, from which an interrupted run goes on.
"""

import argparse
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path

import timm
import torch
from survey import survey
from torch import Tensor

from benchmark import DATASETS, METHODS, UserError
from benchmark.data.batch import Batch
from benchmark.engine.train import assemble
from benchmark.experiment.networks import untrained
from benchmark.experiment.preflight import preflight
from benchmark.model.embedder import Embedder
from benchmark.recipe import compose

OTHER = "resnet10t"
"""The student of a teacher, and the teacher of a student."""
SIDE = 64
"""Height and width of the images, of backbones that accept this size; others have their own size."""
ROLES = ("kd student", "kd teacher", "at student", "at teacher", "cdd")
BACKBONES = (
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convmixer_768_32",
    "convnext_atto",
    "crossvit_tiny_240",
    "cs3darknet_focus_s",
    "davit_tiny",
    "deit_tiny_distilled_patch16_224",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46x_c",
    "eca_botnext26ts_256",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientnet_lite0",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "ese_vovnet19b_slim_dw",
    "fasternet_t0",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcvit_xxtiny",
    "ghostnet_050",
    "gmlp_ti16_224",
    "hardcorenas_b",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "inception_next_atto",
    "lcnetv2_small",
    "legacy_seresnet18",
    "levit_128s",
    "mambaout_femto",
    "maxvit_pico_rw_256",
    "mixer_s32_224",
    "mnasnet_small",
    "mobilenetv3_small_050",
    "mobileone_s1",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "nf_regnet_b0",
    "pit_ti_224",
    "poolformerv2_s12",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "resnest14d",
    "resnet18",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "sequencer2d_s",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224",
    "twins_svt_small",
    "visformer_tiny",
    "vit_tiny_patch16_224",
    "vit_tiny_patch16_dinov3_qkvb",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
    "volo_d1_224",
    "xcit_nano_12_p8_224",
)


def train_step(method: str, settings: list[str], data_root: Path) -> None:
    """Train a step with images of noise. The identities are those of a few glyphs in `data_root`.

    Raises:
        UserError: The suite refuses the networks.
    """
    recipe = compose(method, "glyphs", settings=settings)
    preflight(recipe)
    torch.manual_seed(0)
    dataset = DATASETS.find("glyphs")(data_root, **recipe.dataset.arguments)
    dataset.prepare()
    identities = len(dataset.labels)
    teacher, student = (untrained(network, identities) for network in (recipe.teacher.network, recipe.student))
    if recipe.student.weights == "teacher":
        student.load_state_dict(teacher.state_dict())
    adapted = METHODS.find(method)(**recipe.method.arguments)
    distiller = assemble(student, teacher, adapted, recipe=recipe, dataset=dataset, steps_per_epoch=1).train()
    images = torch.randint(0, 256, (4, 3, *recipe.image_size), dtype=torch.uint8)
    labels = torch.tensor([0, 0, 1, 1])
    losses = distiller(*Batch(images, labels, torch.zeros(4, dtype=torch.int64), torch.arange(4)), mode="loss")
    assert isinstance(losses, dict)
    total: Tensor = sum(losses.values(), torch.zeros(()))
    total.backward()
    gradients = [parameter.grad for parameter in student.backbone.parameters() if parameter.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients), "gradients are not finite"


def examine(name: str, role: str, data_root: Path) -> str:
    """Return how a backbone works in a role: "yes", "yes, with 3 stages", or the reason why it does not."""
    method, _, part = role.partition(" ")
    with torch.device("meta"):
        backbone = Embedder(name, neck="none").backbone
    stages = min(4, len(backbone.feature_info))
    settings = ["dataset.train_identities=8", "dataset.test_identities=2", "teacher.network.weights=random"]
    settings += ["train.sampler.identities=2", "train.sampler.images=2"]
    if method == "cdd":
        settings += [f"teacher.network.backbone={name}", "method.target_macs=null", "method.queue=4"]
    else:
        student, teacher = (name, OTHER) if part == "student" else (OTHER, name)
        settings += [f"student.backbone={student}", f"teacher.network.backbone={teacher}", "student.weights=random"]
    if method == "at":
        settings += [f"method.stages={list(range(1, stages + 1))}"]
    works = "yes" if method != "at" or stages == 4 else f"yes, with {stages} stages"
    try:
        train_step(method, [*settings, f"image_size=[{SIDE},{SIDE}]"], data_root)
    except UserError as error:
        if "does not accept" not in str(error):
            return str(error)
    else:
        return works
    height, width = backbone.pretrained_cfg["input_size"][1:]
    try:
        train_step(method, [*settings, f"image_size=[{height},{width}]"], data_root)
    except UserError as error:
        return str(error)
    return works


def examine_or_fail(name: str, role: str, data_root: Path) -> str:
    """Return the answer of `examine`, or the bug that it has met, which the page shows."""
    try:
        return examine(name, role, data_root)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def page(known: Mapping[tuple[str, ...], str]) -> str:
    """Return the page: a row for every backbone, and the reasons below the table."""
    reasons: dict[str, int] = {}
    rows = []
    for name in BACKBONES:
        cells = []
        for role in ROLES:
            answer = known[name, role]
            if not answer.startswith("yes"):
                reason = answer.replace(name, "NAME").replace("\n", " ")
                answer = f"no ({reasons.setdefault(reason, len(reasons) + 1)})"
            cells.append(answer)
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    counts = [f"**{sum(known[name, role].startswith('yes') for name in BACKBONES)}**" for role in ROLES]
    return "\n".join(
        [
            "# Backbones that work",
            "",
            f"Made by `python tools/backbones.py docs/backbones.md` with timm {timm.__version__}: one training step of "
            f"each backbone with random weights, as the student of a {OTHER}, as its teacher, and with `cdd` as both. "
            "Those with three stages need `--set method.stages=[1,2,3]` for `at`.",
            "",
            f"| backbone | {' | '.join(ROLES)} |",
            "|---|" + "---|" * len(ROLES),
            f"| **{len(BACKBONES)} backbones** | {' | '.join(counts)} |",
            *rows,
            "",
            "Reasons:",
            "",
            *(f"{number}. {reason}" for reason, number in reasons.items()),
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "backbones.jsonl")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        examine_here = partial(examine_or_fail, data_root=Path(folder))
        answers = survey(product(BACKBONES, ROLES), examine_here, options.cache, slow="takes too long")
        options.page.write_text(page(answers))
