"""A strict subset of YAML.

PyYAML implements YAML 1.1: `1e-3` is a string, `no` is false, `010` is 8, `1:30` is 90, and the last of duplicate keys
wins. Here numbers are written as in JSON (`1e-3` is a number), true and false are the only booleans, there are no
dates, keys are text, a duplicate key is an error, and tags are refused. Size, depth and the number of values to which
aliases expand are bounded, so that a hostile document takes neither time nor memory.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from benchmark.errors import UserError
from benchmark.utils.paths import read_regular

MAX_BYTES = 2**20
"""Maximum size of a file."""
MAX_VALUES = 50_000
"""Maximum number of values in a document; a value counts once for every alias to it."""
MAX_DEPTH = 50
"""Maximum depth of nested mappings and lists."""
MAX_DIGITS = 100
"""Maximum length of an integer in decimal digits."""

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

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[yaml.Node, int] = {}
        """Number of values of each complete node, with those that its aliases stand for."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _error(f"the tag {event.tag!r} is not supported: remove it", event)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _error(f"more than {MAX_DEPTH} levels of nesting", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node not in self._sizes:
            if isinstance(event, yaml.AliasEvent):
                raise _error(f"the alias *{event.anchor} is within the value that it stands for", event)
            self._sizes[node] = 1 + sum(self._sizes[child] for child in _children(node))
            if self._sizes[node] > MAX_VALUES:
                raise _error(f"more than {MAX_VALUES:,} values, those of aliases included", event)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if not key.tag.endswith("merge")]
        for key in keys:
            if key.tag != f"{_PREFIX}str":
                raise _error("a key must be text: write it in quotes", key)
        for text, number in Counter(key.value for key in keys).items():
            if number > 1:
                raise _error(f"duplicate key {text!r}", node)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise _error("an escape of half a character", node)
        return value

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise _error(f"an integer of more than {MAX_DIGITS} digits", node)
        return int(node.value)


_Loader.add_constructor(f"{_PREFIX}int", _Loader.construct_yaml_int)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _error(problem: str, place: Any) -> yaml.MarkedYAMLError:
    """Return the error at a node or an event of the parser."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


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
        ValueError: The text is not such a document; the message is the reason, with the line and column.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        named = error.context if str(error.context).startswith("found") else error.problem
        raise ValueError(f"{place}{named or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise ValueError(f"the character U+{error.character:04X}, which YAML does not allow") from error
    except OverflowError as error:
        raise ValueError("an escape of a character that does not exist") from error


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
        UserError: The file cannot be read, is too large, is not YAML, or has something else than a mapping.
    """
    try:
        encoded = read_regular(path, MAX_BYTES)
    except OSError as error:
        raise UserError(f"{name} {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{name} {path} is {error}; give a YAML file such as `{example}`") from error
    try:
        content = load(encoded.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{name} {path} is not text in UTF-8: save it in that encoding") from error
    except ValueError as error:
        raise UserError(f"{name} {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} {path} must be a mapping of keys to values, such as `{example}`")
    return content
