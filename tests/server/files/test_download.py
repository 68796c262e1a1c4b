import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.models.wan.weights import PublishedFile
from server.files.download import DownloadError, download

CONTENT = bytes(range(256)) * 4000


class Shop(BaseHTTPRequestHandler):
    """Serves CONTENT, by ranges unless told not to, and hangs up after `self.server.limit` bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers["Range"])
        if self.path == "/none":
            self.send_error(404)
            return
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if server.ranges else 0
        self.send_response(206 if server.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:][: server.limit])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def shop():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.asked, server.ranges, server.limit = [], True, None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def file_at(shop, path="/weights", sha256=None):
    digest = sha256 or hashlib.sha256(CONTENT).hexdigest()
    return PublishedFile("a/weights.pt", f"http://127.0.0.1:{shop.server_port}{path}", len(CONTENT), digest)


def test_a_file_comes_whole_and_leaves_nothing_else(shop, tmp_path):
    heard = []
    download(file_at(shop), tmp_path / "a" / "weights.pt", heard.append)
    assert (tmp_path / "a" / "weights.pt").read_bytes() == CONTENT
    assert sum(heard) == len(CONTENT)
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["weights.pt"]


def test_a_broken_connection_is_resumed_where_it_broke(shop, tmp_path):
    shop.limit = 300_000
    heard = []
    download(file_at(shop), tmp_path / "weights.pt", heard.append)
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT
    assert sum(heard) == len(CONTENT)
    assert shop.asked == ["bytes=0-", "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_an_earlier_call_is_resumed(shop, tmp_path):
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])
    download(file_at(shop), tmp_path / "weights.pt", lambda count: None)
    assert shop.asked == ["bytes=1000-"]
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT


def test_a_server_that_knows_no_ranges_starts_over(shop, tmp_path):
    shop.ranges = False
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:1000])
    heard = []
    download(file_at(shop), tmp_path / "weights.pt", heard.append)
    assert (tmp_path / "weights.pt").read_bytes() == CONTENT
    assert sum(heard) == len(CONTENT)


def test_a_file_with_another_hash_is_never_put_in_place(shop, tmp_path):
    with pytest.raises(DownloadError, match="not the published file"):
        download(file_at(shop, sha256="0" * 64), tmp_path / "weights.pt", lambda count: None)
    assert not list(tmp_path.iterdir())


def test_a_refusal_is_said_at_once(shop, tmp_path):
    with pytest.raises(DownloadError, match="404"):
        download(file_at(shop, "/none"), tmp_path / "weights.pt", lambda count: None)
    assert len(shop.asked) == 1


def test_a_server_that_brings_nothing_is_given_up(shop, tmp_path):
    shop.limit = 0
    with pytest.raises(DownloadError, match="nothing in 5 attempts"):
        download(file_at(shop), tmp_path / "weights.pt", lambda count: None)
    assert len(shop.asked) == 5
