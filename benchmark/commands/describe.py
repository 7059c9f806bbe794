"""What a registered class says of itself, in pieces that cards are made of."""

import inspect
import json
from typing import Any

from benchmark.method import KINDS, Method


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
