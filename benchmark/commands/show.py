"""`benchmark show`."""

import json
import shutil
import textwrap
from typing import Any

from tabulate import tabulate

from benchmark import plain_yaml
from benchmark.commands.describe import declared, described_parameters, docstring, shown
from benchmark.data.check_report import shown_count
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError, nearest
from benchmark.method import Method
from benchmark.registry import DATASETS, METHODS, PluginRegistry
from benchmark.retrieval.protocol import Protocol


def show(name: str) -> None:
    """Print the card of a method or dataset.

    Raises:
        UserError: Neither is called so.
    """
    known = [*METHODS.names(), *DATASETS.names()]
    if "+" in name:
        METHODS.find(name)
        known.append(name)
    if name not in known:
        raise UserError(f"no method or dataset {name!r}{nearest(name, known)} Known: {', '.join(known)}.")
    print("\n\n".join(_card(name, registry) for registry in (METHODS, DATASETS) if name in registry.names()))


def _card(name: str, registry: PluginRegistry) -> str:
    found = registry.find(name)
    text, _ = docstring(found)
    parts = [f"{name} ({registry.name})", text]
    if issubclass(found, RetrievalDataset):
        parts.append(_data(found))
    parameters = described_parameters(found)
    if parameters:
        parts.append(f"Parameters (--set {registry.name}.NAME=VALUE), with defaults:\n{_table(parameters)}")
    if issubclass(found, Method):
        parts.append("\n".join(declared(found)))
    for title, fragment in (
        ("Its part of the recipe", found.recipe),
        ("Arguments that suit methods to it", getattr(found, "method_arguments", {})),
    ):
        if fragment:
            lines = plain_yaml.dump(json.loads(json.dumps(fragment))).rstrip()
            parts.append(f"{title}:\n{textwrap.indent(lines, '  ')}")
    return "\n\n".join(parts)


def _table(parameters: list[tuple[str, Any, str]]) -> str:
    names = max(len(name) for name, _, _ in parameters)
    defaults = max(len(shown(default)) for _, default, _ in parameters)
    indent = names + defaults + 6
    width = max(min(shutil.get_terminal_size((100, 24)).columns, 120), indent + 30)
    return "\n".join(
        textwrap.fill(
            f"{name:{names}}  {shown(default):{defaults}}  {text}",
            width,
            initial_indent="  ",
            subsequent_indent=" " * indent,
        )
        for name, default, text in parameters
    )


def _data(dataset: type[RetrievalDataset]) -> str:
    card = dataset.card
    rows = [
        (split, size.images, size.identities, size.cameras and shown_count("cameras", size.cameras))
        for split, size in card.splits.items()
    ]
    parts = {
        "Citation": card.citation,
        "Terms": card.terms,
        "Obtain": card.obtain,
        "Known defects": card.defects,
        "Protocol": _protocol(dataset.protocol),
    }
    return "\n\n".join(
        [
            "\n".join(f"{title}: {text}" for title, text in parts.items() if text),
            f"Files below the data root:\n{textwrap.indent(card.tree, '  ')}",
            *([tabulate(rows, headers=("split", "images", "identities", "cameras"), missingval="?")] if rows else []),
        ]
    )


def _protocol(protocol: Protocol) -> str:
    rules = [f"mAP ({protocol.average_precision}), mINP and Recall@{', '.join(map(str, protocol.recall_at))}"]
    if protocol.camera_rule:
        rules.append("gallery images of the query's identity from the query's camera are ignored")
    if protocol.query_in_gallery:
        rules.append("query and gallery are one list, and no query is matched with itself")
    return "; ".join(rules) + "."
