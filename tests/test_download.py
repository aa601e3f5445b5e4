import http.server
import re
import threading
from hashlib import sha256

import pytest

from tubelet import download as module
from tubelet.download import MIB, check, download

CONTENT = bytes(range(256)) * 4096 * 5  # 5 MiB
HASH = sha256(CONTENT).hexdigest()


class Server:
    """One file at any path; `cuts` are the numbers of bytes after which the next answers break off."""

    def __init__(self):
        self.content, self.cuts, self.ranges, self.asked = CONTENT, [], True, []
        self.has_length, self.status = True, 200
        self.version, self.skipped = {}, 0  # headers of the file; bytes that a rest lacks at its start

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.asked.append(wanted)
        if self.status != 200:
            handler.send_error(self.status)
            return
        has_changed = handler.headers.get("If-Range") not in (None, *self.version.values())
        has_range = wanted and self.ranges and not has_changed
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + self.skipped if has_range else 0
        if start >= len(self.content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(self.content)}")
            handler.end_headers()
            return
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        for name, value in self.version.items():
            handler.send_header(name, value)
        if self.has_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)


@pytest.fixture
def server():
    served = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.answer(self)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.url = f"http://127.0.0.1:{httpd.server_port}/m.pth"
        yield served
        httpd.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "m.pth"


def part(path):
    return path.with_name("m.pth.part")


@pytest.mark.parametrize("given", [HASH, HASH[:8], ""])
def test_a_file_comes_whole(server, path, given):
    download(server.url, path, given)
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["m.pth"]
    assert server.asked == [None]


def test_what_breaks_off_is_taken_up_again(server, path):
    server.cuts = [2 * MIB, MIB + 1]
    download(server.url, path, HASH)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={2 * MIB}-", f"bytes={3 * MIB + 1}-"]


def test_a_later_call_goes_on(server, path):
    server.cuts = [2 * MIB, 0]
    with pytest.raises(ValueError, match=r"could not download http.*its first 2 MiB are kept"):
        download(server.url, path, HASH)
    assert part(path).stat().st_size == 2 * MIB
    assert not path.exists()
    download(server.url, path, HASH)
    assert server.asked[-1] == f"bytes={2 * MIB}-"
    assert path.read_bytes() == CONTENT
    assert not part(path).exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"ETag": '"1"'}, {"ETag": '"2"'}),
        (
            {"ETag": 'W/"1"', "Last-Modified": "Mon, 06 Jan 2025 00:00:00 GMT"},
            {"ETag": 'W/"1"', "Last-Modified": "Tue, 07 Jan 2025 00:00:00 GMT"},
        ),
    ],
)
@pytest.mark.parametrize("has_changed", [False, True])
def test_a_file_that_has_changed_comes_whole(server, path, old, new, has_changed):
    server.version, server.cuts = old, [2 * MIB, 0]
    with pytest.raises(ValueError, match="its first 2 MiB are kept"):
        download(server.url, path)
    if has_changed:
        server.content, server.version = CONTENT[::-1], new
    server.cuts = [MIB]  # the new file, too, is taken up again
    download(server.url, path)
    assert path.read_bytes() == server.content
    assert server.asked[-1] == f"bytes={(1 if has_changed else 3) * MIB}-"
    assert [file.name for file in path.parent.iterdir()] == ["m.pth"]


def test_a_rest_that_begins_elsewhere_is_not_appended(server, path):
    server.skipped, server.cuts = 1, [2 * MIB]
    download(server.url, path)
    assert server.asked == [None, f"bytes={2 * MIB}-", None]
    assert path.read_bytes() == CONTENT


def test_no_more_than_some_tries(server, path):
    server.cuts = [1000] * 99
    with pytest.raises(ValueError, match="broke off after 1000 of"):
        download(server.url, path, HASH)
    assert len(server.asked) == module.TRIES


def test_a_server_that_sends_no_rest_sends_all(server, path):
    server.ranges, server.cuts = False, [2 * MIB]
    download(server.url, path, HASH)
    assert server.asked == [None, f"bytes={2 * MIB}-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_tells_no_length(server, path):
    server.has_length = False
    download(server.url, path, HASH)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("more", [b"", b"more"])
def test_a_part_that_is_all_or_too_long(server, path, more):
    path.parent.mkdir()
    part(path).write_bytes(CONTENT + more)
    download(server.url, path, HASH)
    assert path.read_bytes() == CONTENT


def test_another_hash_is_said_and_the_file_removed(server, path):
    with pytest.raises(
        ValueError, match=rf"m\.pth: its hash is {HASH[:8]}, not the published 00000000; what was .*removed"
    ):
        download(server.url, path, "00000000")
    assert not list(path.parent.iterdir())


def test_a_part_of_another_file_does_not_pass(server, path):
    path.parent.mkdir()
    part(path).write_bytes(b"x" * MIB)
    with pytest.raises(ValueError, match="its hash is"):
        download(server.url, path, HASH)
    download(server.url, path, HASH)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("url", "message"), [("http://127.0.0.1:9/m.pth", "refused"), ("{url}", "404")])
def test_no_network_and_no_file(server, path, url, message):
    server.status = 404
    with pytest.raises(ValueError, match=rf"could not download http://127.*{message}"):
        download(url.format(url=server.url), path, HASH)
    assert not list(path.parent.iterdir())


def test_check(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    for given in ("", HASH[:6], HASH):
        check(tmp_path / "a", given)
    with pytest.raises(ValueError, match=f"its hash is {HASH[:4]}, not the published 1234"):
        check(tmp_path / "a", "1234")
