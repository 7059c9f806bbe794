"""The common training recipe of retrieval networks, which the datasets modify."""

from typing import Any

REID_BASELINE: dict[str, Any] = {
    # ResNet-101 to ResNet-18, both with 512 dimensions after a BN-ReLU-linear-BN neck and without the last stride:
    # the networks of AIR_Distiller (D3still, CVPR 2024); CDD (CVPR 2023) has the same teacher.
    "teacher": {"network": {"backbone": "resnet101", "last_stride": 1, "neck": "linear", "dim": 512}},
    "student": {"backbone": "resnet18", "last_stride": 1, "neck": "linear", "dim": 512},
    "train": {
        "task": {
            "label_smoothing": 0.1,  # AIR_Distiller and CDD
            "triplet": {"weight": 1.0, "margin": 0.3, "feature": "pooled"},  # AIR_Distiller and DEAP; CDD: 0.35
        },
        "optimizer": {"type": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},  # AIR_Distiller and CDD
        "schedule": {
            "epochs": 120,  # AIR_Distiller and CDD
            "warmup_epochs": 10,  # AIR_Distiller and CDD
            "warmup_factor": 0.1,  # CDD
            "constant_until": 40,  # AIR_Distiller and CDD: the cosine schedule begins here
            "final_factor": 1e-5,  # CDD: 1e-7 of 0.01
        },
        "sampler": {"identities": 16, "images": 6},  # AIR_Distiller and CDD
        "augment": {"pad": 10, "flip": 0.5, "erase": 0.5},  # CDD; AIR_Distiller pads 8
    },
}
"""Cross-entropy and triplet loss with SGD, as AIR_Distiller trains its teachers and CDD its students.

The two differ in a few values; comments name the source of each."""
