"""`benchmark show`."""

import inspect
from typing import Any

import yaml

from benchmark.errors import UserError, nearest
from benchmark.registry import DATASETS, METHODS


def show(name: str) -> None:
    """Print the card of a method or dataset.

    Raises:
        UserError: Neither is called so.
    """
    known = [*METHODS.names(), *DATASETS.names()]
    if name not in known:
        raise UserError(f"no method or dataset {name!r}{nearest(name, known)} Known: {', '.join(known)}.")
    found = METHODS.find(name) if name in METHODS.names() else DATASETS.find(name)
    print(f"{name}\n\n{inspect.getdoc(found)}\n")
    if name in DATASETS.names():
        _card(found)
    parameters = [p for key, p in inspect.signature(found).parameters.items() if key != "root"]
    if parameters:
        section = "method" if name in METHODS.names() else "dataset"
        print(f"Parameters ({section}.<name> in a recipe), with defaults:")
        for parameter in parameters:
            print(f"  {parameter.name}: {parameter.default}")
    if getattr(found, "needs_teacher", True) is False:
        print("Needs no teacher.")
    if found.recipe:
        print(f"\nRecipe fragment:\n{yaml.safe_dump(_plain(found.recipe), sort_keys=False)}")


def _card(dataset: Any) -> None:
    card = dataset.card
    print(f"{card.title}: {card.citation}\nTerms: {card.terms}\nObtain: {card.obtain}\nLayout:\n{card.tree}")
    for split, size in card.splits.items():
        print(f"  {split}: {size.images} images, {size.identities} identities, {size.cameras} cameras")
    if card.defects:
        print(f"Known defects: {card.defects}")
    print(f"Protocol: {dataset.protocol}\n")


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    return list(content) if isinstance(content, tuple) else content
