"""Mutated student files and checkpoints: whatever is wrong with a file, reading it succeeds or raises a UserError."""

import argparse
import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.errors import UserError
from benchmark.model.embedder import Embedder
from benchmark.model.fold import fold_batchnorm
from benchmark.model.serialize import load_network, save_student
from benchmark.model.weights import fit_weights

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SMALL = {"channels": [4, 4, 4, 8], "stem_width": 4}
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2**40,
    10**400,
    float("nan"),
    1e308,
    "",
    "a" * 1000,
    "../../etc/passwd",
    "\x1b[31m\n\x00",
    b"bytes",
    [],
    [[]],
    {},
    (1, 2, 3),
    {3: 4},
    torch.zeros(0),
    torch.zeros(2, 2),
    torch.full((3,), float("inf")),
    torch.zeros(1).expand(10**9),
    torch.zeros(2, device="meta"),
    torch.ones(2, 2).to_sparse(),
    torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
    torch.zeros(3, dtype=torch.complex64),
    np.float64(1.0),
    np.zeros(3),
    argparse.Namespace(a=1),
    "checkpoint_path",
    "pretrained",
]


def network() -> Embedder:
    torch.manual_seed(0)
    return Embedder("resnet14t", SMALL, dim=8, identities=3).eval()


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.pt"
    folded = fold_batchnorm(network(), torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    folded.head = None
    save_student(folded, path, (32, 32))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "w.pth"
    content = {
        "state_dict": network().state_dict(),
        "args": argparse.Namespace(lr=1),
        "best": np.float64(1),
        "epoch": 3,
    }
    torch.save(content, path)
    return path


def read(path: Path) -> None:
    load_network(path)


def fit(path: Path) -> None:
    with torch.device("meta"):
        target = Embedder("resnet14t", SMALL, dim=8, identities=3)
    fit_weights(target, path)


DOORS = {"student": read, "checkpoint": fit}


@pytest.fixture(params=DOORS)
def door(request, student, checkpoint) -> tuple[Callable[[Path], None], Path]:
    return DOORS[request.param], {"student": student, "checkpoint": checkpoint}[request.param]


@pytest.fixture
def attack(door, tmp_path, rounds) -> Callable[[Callable[[random.Random], bytes]], None]:
    """`attack(mutate)` reads mutated files for some seconds."""

    def read_mutated(mutate: Callable[[random.Random], bytes]) -> None:
        opened, _ = door
        path, count, refused = tmp_path / "mutated.pt", 0, 0
        for choose in rounds():
            path.write_bytes(mutate(choose))
            count += 1
            try:
                opened(path)
            except UserError as error:
                refused += 1
                assert str(path) in str(error) and "\x1b" not in str(error)
        assert refused > count / 4

    return read_mutated


def test_bytes(door, attack):
    """Truncated files, flipped bits, and blocks that are repeated, removed or overwritten."""
    content = door[1].read_bytes()

    def mutate(choose: random.Random) -> bytes:
        changed = bytearray(content)
        for _ in range(choose.choice((1, 1, 2, 20))):
            at = choose.randrange(len(changed))
            kind = choose.randrange(4)
            if kind == 0:
                del changed[at:]
                return bytes(changed)
            if kind == 1:
                changed[at] ^= 1 << choose.randrange(8)
            elif kind == 2:
                del changed[at : at + choose.randrange(1, 100)]
            else:
                changed[at : at + 8] = choose.randbytes(8)
        return bytes(changed)

    attack(mutate)


def test_pickle(door, attack):
    """An intact archive around a pickle with flipped bits, other opcodes and other numbers."""
    with zipfile.ZipFile(door[1]) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    (name,) = (name for name in records if name.endswith("/data.pkl"))

    def mutate(choose: random.Random) -> bytes:
        pickle = bytearray(records[name])
        for _ in range(choose.choice((1, 1, 1, 3))):
            at = choose.randrange(len(pickle))
            kind = choose.randrange(4)
            if kind == 0:
                pickle[at] ^= 1 << choose.randrange(8)
            elif kind == 1:
                pickle[at] = choose.choice(b"RbcQ}])(.0tusaeqKJMXN\x85\x86\x81\x93\x80")
            elif kind == 2:
                found = [index for index in range(len(pickle) - 1) if pickle[index] == ord("K")]
                pickle[choose.choice(found) + 1] = choose.choice((0, 1, 127, 255))
            else:
                pickle[at:at] = choose.choice(
                    (b"N", b"K\x05", b"}", b"]", b"cos\nsystem\n", b"X\x02\x00\x00\x00ls", b"R")
                )
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for record, data in records.items():
                archive.writestr(record, bytes(pickle) if record == name else data)
        return out.getvalue()

    attack(mutate)


def test_content(door, attack):
    """Files of torch.save whose keys are missing, added or renamed, and whose values have other types."""

    def places(value: Any, path: tuple = ()) -> list[tuple]:
        found = [path] if path else []
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return found + [place for key, item in items for place in places(item, (*path, key))]

    def mutate(choose: random.Random) -> bytes:
        content = torch.load(door[1], weights_only=False)
        if choose.random() < 0.02:
            content = choose.choice(VALUES)
        else:
            for _ in range(choose.choice((1, 1, 2))):
                # Outer keys as often as the many inner ones.
                depth = choose.randrange(1, 5)
                candidates = [place for place in places(content) if len(place) == depth] or places(content)
                *outer, key = choose.choice(candidates)
                parent = content
                for step in outer:
                    parent = parent[step]
                kind = choose.randrange(4)
                if kind == 0:
                    del parent[key]
                elif kind == 1 and isinstance(parent, dict):
                    parent[choose.choice(("x", "pretrained", "checkpoint_path", 3, "a.b", "", "\x1b[31m"))] = (
                        choose.choice(VALUES)
                    )
                elif kind == 2 and isinstance(parent, dict):
                    parent[f"{key}x"] = parent.pop(key)
                else:
                    parent[key] = choose.choice(VALUES)
        out = io.BytesIO()
        torch.save(content, out, _use_new_zipfile_serialization=choose.random() < 0.8)
        return out.getvalue()

    attack(mutate)
