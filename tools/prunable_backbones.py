"""Writes the table of timm's convolutional backbones whose channels can be pruned: `docs/prunable-backbones.md`.

    python tools/prunable_backbones.py docs/prunable-backbones.md

Every name in `timm.list_models()` is built on the `meta` device. It is convolutional if it returns a feature map and
has no attention between positions. It can be pruned if at least one inner width is found. This takes an hour, so
what is known is kept in a file, from which an interrupted run goes on.
"""

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from survey import survey

from benchmark import UserError
from benchmark.compression.compactor import row_sites
from benchmark.model.embedder import Embedder
from benchmark.model.residual_blocks import inner_widths

SLOW = {"convolutional": True, "compactors": 0, "widths": 0, "reason": "takes too long"}
"""What is known of a backbone that takes too long."""


def examine(name: str) -> dict[str, Any]:
    """Return whether a backbone is convolutional, and the numbers of compactors and of inner widths that it has."""
    with torch.device("meta"):
        try:
            network = Embedder(name, neck="none").eval()
            size = network.backbone.pretrained_cfg["input_size"]
            maps = network.backbone.forward_features(torch.empty(1, *size))
        except Exception as error:  # timm raises many types
            return {"convolutional": False, "reason": f"{type(error).__name__}: {error}"[:200]}
    attention = any(hasattr(module, "qkv") or "Attention" in type(module).__name__ for module in network.modules())
    convolutional = isinstance(maps, torch.Tensor) and maps.dim() == 4 and not attention
    if not convolutional:
        return {"convolutional": False}
    found: dict[str, Any] = {"convolutional": True, "compactors": 0, "widths": 0}
    for key, function in (("compactors", row_sites), ("widths", inner_widths)):
        try:
            found[key] = len(function(network))
        except UserError as error:
            found["reason"] = str(error)
    return found


def table(known: Mapping[str, dict[str, Any]]) -> str:
    """Return the page: a row for every family, which is a module of `timm.models`."""
    families: dict[str, list[str]] = {}
    for name, found in known.items():
        if found["convolutional"]:
            family = timm.model_entrypoint(name).__module__.removeprefix("timm.models.")
            families.setdefault(family, []).append(name)
    rows = []
    for family, names in sorted(families.items()):
        working = [name for name in names if known[name]["compactors"]]
        reasons = Counter(known[name].get("reason", "") for name in names if not known[name]["compactors"])
        widths = sum(known[name]["widths"] > 0 for name in names)
        example = min(working, key=len) if working else ""
        reason = reasons.most_common(1)[0][0].split(". ")[0] if reasons else ""
        rows.append(f"| `{family}` | {len(names)} | {len(working)} | {widths} | {example} | {reason} |")
    total = sum(map(len, families.values()))
    pruned = sum(known[name]["compactors"] > 0 for names in families.values() for name in names)
    return "\n".join(
        [
            "# Backbones that can be pruned",
            "",
            "Made by `python tools/prunable_backbones.py docs/prunable-backbones.md` with timm "
            f"{timm.__version__}. Of its {total} convolutional backbones, {pruned} ({pruned / total:.0%}) have "
            "channels that `cdd`, `resrep` and `deap` can prune. `slimming` and `uniform` need, in addition, "
            "convolutions without groups.",
            "",
            "| family | names | cdd, resrep, deap | slimming, uniform | example | first reason of the others |",
            "|---|--:|--:|--:|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "prunable_backbones.jsonl")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    answers = survey(((name,) for name in timm.list_models()), examine, options.cache, slow=SLOW)
    options.page.write_text(table({name: found for (name,), found in answers.items()}))
