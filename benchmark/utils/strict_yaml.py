"""YAML as people expect it, and no more.

PyYAML speaks YAML 1.1, in which `1e-3` is a text, `no` is false, `010` is eight and `1:30` is ninety, and lets the
last of two equal keys win. Here numbers are written as in JSON (so `1e-3` is one), true and false are the only
booleans, there are no dates, and a key given twice is an error. Tags that would run code are refused.
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
"""What a text without quotes may stand for: the tag, how it is written, the characters that it may start with."""


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
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", node.start_mark)
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
for _tag, (_written, _first) in _PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _PREFIX + _tag, re.compile(f"^(?:{_written})$"), [*_first, *[""] * (_tag == "null")]
        )


def load(text: str) -> Any:
    """Read a document of mappings, lists, texts, numbers, booleans and nulls: what JSON can say.

    Raises:
        yaml.YAMLError: It is not YAML, holds a tag that is not plain data, or gives a key twice.
    """
    try:
        content = yaml.load(text, _Loader)
        json.dumps(content)
    except (KeyError, ValueError, RecursionError) as error:  # such as `!!int x`, or an alias within its own anchor
        raise yaml.YAMLError(f"not plain data: {error}") from error
    return content


def dump(content: Any) -> str:
    """Write what `load` reads back as it was, keys in their order."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120)


def read(path: Path, name: str, example: str) -> dict[str, Any]:
    """The mapping in a file.

    Args:
        path: Of the file.
        name: What it is called in messages.
        example: What its content looks like.

    Raises:
        UserError: It cannot be read, is not YAML, or holds something else than a mapping.
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
