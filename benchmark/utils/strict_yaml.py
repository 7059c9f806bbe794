"""A strict subset of YAML.

PyYAML implements YAML 1.1: `1e-3` is a string, `no` is false, `010` is 8, `1:30` is 90, and the last of duplicate keys
wins. Here numbers are written as in JSON (`1e-3` is a number), true and false are the only booleans, there are no
dates, and a duplicate key is an error. Tags that would run code are refused.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from benchmark.errors import UserError

_PREFIX = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
"""Types of unquoted scalars: for each tag, a regular expression and the possible first characters."""


class _Loader(yaml.SafeLoader):
    yaml_constructors: ClassVar[dict[str | None, Callable[..., Any]]] = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_PREFIX) in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [
            key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith("merge")
        ]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_short_list(self, data: list[Any]) -> yaml.Node:
        short = not any(isinstance(value, list | dict) for value in data)
        return self.represent_sequence(f"{_PREFIX}seq", data, flow_style=short)


_Dumper.add_representer(list, _Dumper.represent_short_list)


_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first_characters) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _PREFIX + _tag, re.compile(f"^(?:{_pattern})$"), [*_first_characters, *[""] * (_tag == "null")]
        )


def load(text: str) -> Any:
    """Parse a document that has only the types of JSON: mappings, lists, strings, numbers, booleans and nulls.

    Raises:
        yaml.YAMLError: The text is not YAML, has another tag, or has a duplicate key.
    """
    try:
        content = yaml.load(text, _Loader)
        json.dumps(content)
    except (KeyError, ValueError, RecursionError) as error:  # such as `!!int x`, or a recursive alias
        raise yaml.YAMLError(f"not plain data: {error}") from error
    return content


def dump(content: Any) -> str:
    """Return a document that `load` reads back unchanged, with the keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)


def read(path: Path, name: str, example: str) -> dict[str, Any]:
    """Read a YAML file whose content is a mapping.

    Args:
        path: The file.
        name: Role of the file in error messages, such as "config".
        example: Example of the content, for error messages.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or its content is not a mapping.
    """
    try:
        content = load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name} {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{name} {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} {path} must be a mapping of keys to values, such as `{example}`")
    return content
