"""`benchmark show`."""

import inspect
import json
import shutil
import textwrap
from typing import Any

from tabulate import tabulate

from benchmark import plain_yaml
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError, nearest
from benchmark.method import KINDS, Method
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
    text, described = _docstring(found)
    parts = [f"{name} ({registry.name})", text]
    if issubclass(found, RetrievalDataset):
        parts.append(_data(found))
    parameters = [
        (key, parameter.default, described.get(key, ""))
        for key, parameter in inspect.signature(found).parameters.items()
        if key != "root"
        and parameter.kind is not parameter.VAR_KEYWORD
        and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if parameters:
        parts.append(f"Parameters (--set {registry.name}.NAME=VALUE), with defaults:\n{_table(parameters)}")
    if issubclass(found, Method):
        parts.append(_method(found))
    for title, fragment in (
        ("Its part of the recipe", found.recipe),
        ("Arguments that suit methods to it", getattr(found, "method_arguments", {})),
    ):
        if fragment:
            lines = plain_yaml.dump(json.loads(json.dumps(fragment))).rstrip()
            parts.append(f"{title}:\n{textwrap.indent(lines, '  ')}")
    return "\n\n".join(parts)


def _method(method: type[Method]) -> str:
    """What the method declares."""
    lines = [f"Kind: {method.kind} ({KINDS[method.kind]})."]
    try:
        made = method()
        lines.append(made.needs.describe())
        if made.needs.teacher:
            lines.append(
                "Asymmetric protocol: "
                + ("yes." if made.aligned else "no, it leaves the student's embeddings apart from the teacher's.")
            )
    except TypeError:  # an argument without a default decides
        pass
    for name, arguments in method.presets.items():
        settings = ", ".join(f"{key}={_value(value)}" for key, value in arguments.items())
        lines.append(f"Preset (--set method.preset={name}): {settings}.")
    return "\n".join(lines)


def _docstring(described: type) -> tuple[str, dict[str, str]]:
    """The text of a class's docstring, and of its `Args:` section by argument."""
    text, _, section = (inspect.getdoc(described) or "").partition("\nArgs:\n")
    arguments: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break
        if line.startswith(" " * 8):
            arguments[name] += f" {line.strip()}"
        elif line:
            name, _, start = line.strip().partition(": ")
            arguments[name] = start
    return text.rstrip(), arguments


def _table(parameters: list[tuple[str, Any, str]]) -> str:
    names = max(len(name) for name, _, _ in parameters)
    defaults = max(len(_value(default)) for _, default, _ in parameters)
    indent = names + defaults + 6
    width = max(min(shutil.get_terminal_size((100, 24)).columns, 120), indent + 30)
    return "\n".join(
        textwrap.fill(
            f"{name:{names}}  {_value(default):{defaults}}  {text}",
            width,
            initial_indent="  ",
            subsequent_indent=" " * indent,
        )
        for name, default, text in parameters
    )


def _value(default: Any) -> str:
    """As it is written in a recipe."""
    if default is inspect.Parameter.empty:
        return "(required)"
    if isinstance(default, float):
        return f"{default:.4g}"
    return default if isinstance(default, str) else json.dumps(default, default=str)


def _data(dataset: type[RetrievalDataset]) -> str:
    card = dataset.card
    rows = [(split, size.images, size.identities, size.cameras) for split, size in card.splits.items()]
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
