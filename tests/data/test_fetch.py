"""Downloading archives."""

import functools
import hashlib
import http.server
import socket
import threading
from dataclasses import replace

import pytest

from benchmark.data.card import Download
from benchmark.data.unpack import fetch
from benchmark.datasets.cub200 import CUB200
from benchmark.datasets.market1501 import Market1501
from benchmark.errors import UserError

CONTENT = b"an archive" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path):
    """The URL of a local server, and the paths requested from it."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "CUB_200_2011.tgz").write_bytes(CONTENT)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requests.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=lambda: running.serve_forever(poll_interval=0.01), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()


def dataset_at(url, root, sha256=SHA256):
    dataset = CUB200(root)
    dataset.card = replace(CUB200.card, download=Download(f"{url}/CUB_200_2011.tgz", sha256, len(CONTENT)))
    return dataset


def test_downloaded_once(server, tmp_path):
    url, requests = server
    for _ in range(2):
        archive = fetch(dataset_at(url, tmp_path), tmp_path)
        assert archive == tmp_path / "downloads" / "CUB_200_2011.tgz"
        assert archive.read_bytes() == CONTENT
    assert requests == ["/CUB_200_2011.tgz"]


def test_wrong_hash_leaves_no_file(server, tmp_path):
    with pytest.raises(
        UserError, match=r"not be downloaded \(the file is not the published archive\).*prepare cub200 FILE"
    ):
        fetch(dataset_at(server[0], tmp_path, "0" * 64), tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_unreachable_archive_leaves_no_file(server, tmp_path):
    for url in (f"{server[0]}/elsewhere", "http://127.0.0.1:9"):
        with pytest.raises(UserError, match="could not be downloaded"):
            fetch(dataset_at(url, tmp_path), tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_larger_file_is_not_read_to_its_end(server, tmp_path):
    dataset = dataset_at(server[0], tmp_path)
    dataset.card = replace(dataset.card, download=replace(dataset.card.download, size=100))
    with pytest.raises(UserError, match="the file is not the published archive"):
        fetch(dataset, tmp_path)


def test_server_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmark.data.unpack._TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dataset = dataset_at(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        with pytest.raises(UserError, match=r"could not be downloaded \(timed out\)"):
            fetch(dataset, tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_changed_file_is_rejected(server, tmp_path):
    fetch(dataset_at(server[0], tmp_path), tmp_path).write_bytes(b"changed")
    with pytest.raises(UserError, match="is not the published archive: delete it"):
        fetch(dataset_at(server[0], tmp_path), tmp_path)


def test_dataset_that_requires_an_agreement(tmp_path):
    with pytest.raises(UserError, match=r"Market-1501 cannot be downloaded automatically\. Get Market-1501"):
        fetch(Market1501(tmp_path), tmp_path)
