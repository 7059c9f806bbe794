"""Files of weights as other programs write them, and a guard around their reading."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_WATCHED: list[list[str]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHED:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
        if not name.endswith((".py", ".pyc", ".so")):  # lazy imports
            _WATCHED[-1].append(name)
    elif event.startswith(
        ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.remove", "os.rename")
    ):
        _WATCHED[-1].append(event)


sys.addaudithook(_audit)  # cannot be removed, and does nothing unless a test watches


@pytest.fixture
def reads_only() -> Callable[[Path], Any]:
    """`with reads_only(path):` fails if another file is opened, or a connection or a process."""
    from contextlib import contextmanager

    @contextmanager
    def watch(path: Path) -> Iterator[None]:
        _WATCHED.append([])
        try:
            yield
        finally:
            seen = set(_WATCHED.pop())
        assert seen <= {str(path)}, seen

    return watch


@pytest.fixture
def foreign_class(monkeypatch) -> Callable[..., type]:
    """`foreign_class("yacs.config.CfgNode", dict)` is a class that is pickled under this name."""

    def make(full_name: str, base: type = object) -> type:
        module_name, name = full_name.rsplit(".", 1)
        parts = module_name.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or ModuleType(parent))
        made = type(name, (base,), {"__module__": module_name})
        monkeypatch.setattr(sys.modules[module_name], name, made, raising=False)
        return made

    return make
