"""`benchmark cards`: the cards of all methods as one Markdown page."""

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from tabulate import tabulate

from benchmark.data.check import shown_count
from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError, nearest
from benchmark.method import KINDS, Method
from benchmark.registry import DATASETS, METHODS, PluginRegistry
from benchmark.retrieval.protocol import Protocol
from benchmark.utils import strict_yaml
from benchmark.utils.atomic import write_text


def docstring(described: type) -> tuple[str, dict[str, str]]:
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


def described_parameters(described: type) -> list[tuple[str, Any, str]]:
    """Name, default and meaning of each of a constructor's arguments that a recipe may set."""
    meanings = docstring(described)[1]
    return [
        (key, parameter.default, meanings.get(key, ""))
        for key, parameter in inspect.signature(described).parameters.items()
        if key != "root"
        and parameter.kind is not parameter.VAR_KEYWORD
        and parameter.kind is not parameter.VAR_POSITIONAL
    ]


def declared(method: type[Method]) -> list[str]:
    """Sentences on what a method compares, needs and serves, with its default arguments, and on its presets."""
    lines = [f"Kind: {method.kind} ({KINDS[method.kind]})."]
    if all(default is not inspect.Parameter.empty for _, default, _ in described_parameters(method)):
        made = method()
        lines.append(made.needs.describe())
        if made.needs.teacher:
            apart = "no, it leaves the student's embeddings apart from the teacher's."
            lines.append(f"Asymmetric protocol: {'yes.' if made.aligned else apart}")
    for name, arguments in method.presets.items():
        settings = ", ".join(f"{key}={shown(value)}" for key, value in arguments.items())
        lines.append(f"Preset (--set method.preset={name}): {settings}.")
    return lines


def shown(default: Any) -> str:
    """As it is written in a recipe."""
    if default is inspect.Parameter.empty:
        return "(required)"
    if isinstance(default, float):
        return f"{default:.4g}"
    return default if isinstance(default, str) else json.dumps(default, default=str)


LISTS = ("methods", "datasets", "backbones")


def listing(kind: str) -> None:
    """Print every method or dataset with its first line, or the names of timm's backbones.

    Raises:
        UserError: There is no such kind.
    """
    if kind == "backbones":
        import timm

        print("\n".join(timm.list_models()))
    elif kind == "methods":
        _methods()
    elif kind == "datasets":
        _registered(DATASETS)
    else:
        raise UserError(f"cannot list {kind!r}{nearest(kind, LISTS)} Choose methods, datasets or backbones.")


def _methods() -> None:
    """Every method under its kind."""
    kinds = {name: METHODS.find(name).kind for name in METHODS.names()}
    for kind, about in KINDS.items():
        members = [name for name, its in kinds.items() if its == kind]
        if members:
            print(f"{kind}: {about}")
            _lines(METHODS, members, max(map(len, kinds)), indent="  ")
    print("Combinations: --method kd+rkd adds the terms of both.")
    _failures(METHODS)


def _registered(registry: PluginRegistry) -> None:
    names = registry.names()
    _lines(registry, names, max(map(len, names), default=0))
    _failures(registry)


def _lines(registry: PluginRegistry, names: Sequence[str], width: int, indent: str = "") -> None:
    for name in names:
        print(f"{indent}{name:{width}}  {(inspect.getdoc(registry.find(name)) or '').partition(chr(10))[0]}")


def _failures(registry: PluginRegistry) -> None:
    warnings = Console(stderr=True, highlight=False)
    for origin, error in registry.failures.items():
        warnings.print(f"{origin} could not be imported: {error}", style="yellow", markup=False)


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
    print("\n\n".join(_text_card(name, registry) for registry in (METHODS, DATASETS) if name in registry.names()))


def _text_card(name: str, registry: PluginRegistry) -> str:
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
            lines = strict_yaml.dump(json.loads(json.dumps(fragment))).rstrip()
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


GENERATED = "<!-- Generated by `benchmark cards` from the methods' docstrings. Do not edit. -->"


def cards(output: Path) -> None:
    """Write the page."""
    write_text(output, page({name: METHODS.find(name) for name in METHODS.names()}))


def page(methods: dict[str, type[Method]]) -> str:
    """Markdown of the methods, by kind."""
    parts = [
        GENERATED,
        "# Methods",
        "`benchmark run --method NAME` runs one, `--method kd+rkd` the sum of several, `--set method.PARAMETER=VALUE` "
        "sets a parameter, `--set method.preset=PRESET` a named set of them. Weights are beside the whole task loss.",
    ]
    for kind, about in KINDS.items():
        members = {name: method for name, method in methods.items() if method.kind == kind}
        if members:
            parts += [f"## {kind}: {about}", *(_markdown_card(name, method) for name, method in members.items())]
    return "\n\n".join(parts) + "\n"


def _markdown_card(name: str, method: type[Method]) -> str:
    text = "\n".join(map(_escaped, docstring(method)[0].splitlines()))
    parts = [f"### `{name}`", text, "\n".join(f"- {_escaped(line)}" for line in declared(method))]
    rows = [
        [f"`{key}`", f"`{shown(default)}`", _escaped(meaning)] for key, default, meaning in described_parameters(method)
    ]
    if rows:
        parts.append(tabulate(rows, ["parameter", "default", "meaning"], tablefmt="github", disable_numparse=True))
    if method.recipe:
        recipe = strict_yaml.dump(json.loads(json.dumps(method.recipe))).rstrip()
        parts.append(f"Its part of the recipe:\n\n```yaml\n{recipe}\n```")
    return "\n\n".join(parts)


def _escaped(line: str) -> str:
    """The line with nothing that Markdown would take for markup, but for `code` and indented blocks."""
    if line.startswith("    "):
        return line
    pieces = line.split("`")
    pieces[::2] = [re.sub(r"([\\*_<>|\[\]~#$])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)
