"""Fetching the archives that anyone may have."""

import functools
import hashlib
import http.server
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
    """The address of a server on this machine, and the requests that it got."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "CUB_200_2011.tgz").write_bytes(CONTENT)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def dataset(root, url, sha256=SHA256):
    made = CUB200(root)
    made.card = replace(CUB200.card, download=Download(f"{url}/CUB_200_2011.tgz", sha256, len(CONTENT)))
    return made


def test_is_fetched_once(server, tmp_path):
    url, asked = server
    for _ in range(2):
        archive = fetch(dataset(tmp_path, url), tmp_path)
        assert archive == tmp_path / "downloads" / "CUB_200_2011.tgz"
        assert archive.read_bytes() == CONTENT
    assert asked == ["/CUB_200_2011.tgz"]


def test_what_is_not_the_archive_is_not_kept(server, tmp_path):
    with pytest.raises(UserError, match=r"not be fetched \(invalid hash value.*benchmark data prepare cub200 FILE"):
        fetch(dataset(tmp_path, server[0], "0" * 64), tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_server_that_has_it_not_or_is_not_there(server, tmp_path):
    for url in (f"{server[0]}/elsewhere", "http://127.0.0.1:9"):
        with pytest.raises(UserError, match="could not be fetched"):
            fetch(dataset(tmp_path, url), tmp_path)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_file_that_was_changed_since(server, tmp_path):
    fetch(dataset(tmp_path, server[0]), tmp_path).write_bytes(b"changed")
    with pytest.raises(UserError, match="is not the published archive: delete it"):
        fetch(dataset(tmp_path, server[0]), tmp_path)


def test_sets_that_need_an_agreement_are_not_fetched(tmp_path):
    with pytest.raises(UserError, match=r"Market-1501 cannot be fetched by a tool\. Get Market-1501"):
        fetch(Market1501(tmp_path), tmp_path)
