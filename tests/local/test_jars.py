"""Downloading the servers' jars, from a repository of this test's own on the loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stamina
from jgo.maven import MavenContext

from service.errors import LocalStackError
from service.local import jars, versions
from service.local.jars import Jar

CONTENT = bytes(range(256)) * 4096  # 1 MiB, so that cuts fall between the chunks that are read
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = "/org/example/thing/1.0/thing-1.0.jar"


class Repository(ThreadingHTTPServer):
    """Serves one jar; ``plan`` says what each coming request gets: a status, or "cut" for half of an answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[int | str] = []
        self.ranges: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Repository)
        server.ranges.append(self.headers.get("Range"))
        what = server.plan.pop(0) if server.plan else 200
        if self.path != PATH:
            what = 404
        if isinstance(what, int) and what != 200:
            self.send_response(what)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if what == "cut" else body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Quiet."""


@pytest.fixture
def repository() -> Iterator[Repository]:
    with Repository() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=4):
        yield


def _context(server: Repository) -> MavenContext:
    return MavenContext(remote_repos={"test": f"http://127.0.0.1:{server.server_port}"})


def _target(tmp_path: Path) -> Path:
    return tmp_path / "jars" / "org" / "example" / "thing" / "1.0" / "thing-1.0.jar"


def test_a_cut_download_is_resumed_where_it_broke_off(repository: Repository, tmp_path: Path) -> None:
    repository.plan = ["cut", 503, "cut", 200]
    jars._fetch(_context(repository), Jar("org.example:thing:1.0", DIGEST), _target(tmp_path))
    assert _target(tmp_path).read_bytes() == CONTENT
    half, three_quarters = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert repository.ranges == [None, f"bytes={half}-", f"bytes={half}-", f"bytes={three_quarters}-"]
    assert list(_target(tmp_path).parent.iterdir()) == [_target(tmp_path)]


def test_a_jar_with_other_bytes_than_locked_is_refused(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(LocalStackError, match="locked is 000000"):
        jars._fetch(_context(repository), Jar("org.example:thing:1.0", "0" * 64), _target(tmp_path))
    assert list(_target(tmp_path).parent.iterdir()) == []


def test_a_part_of_something_else_is_thrown_away(repository: Repository, tmp_path: Path) -> None:
    target = _target(tmp_path)
    target.parent.mkdir(parents=True)
    target.with_suffix(".part").write_bytes(b"x" * 10)
    jars._fetch(_context(repository), Jar("org.example:thing:1.0", DIGEST), target)
    assert target.read_bytes() == CONTENT


def test_a_jar_that_does_not_exist_is_not_asked_for_again(repository: Repository, tmp_path: Path) -> None:
    repository.plan = [404]
    with pytest.raises(LocalStackError, match="the repository answered 404") as caught:
        jars._fetch(_context(repository), Jar("org.example:thing:1.0", DIGEST), _target(tmp_path))
    assert len(repository.ranges) == 1
    assert caught.value.hint


def test_a_repository_that_stays_away_is_one_clear_error(tmp_path: Path) -> None:
    context = MavenContext(remote_repos={"test": "http://127.0.0.1:9"})
    with pytest.raises(LocalStackError, match=r"org\.example:thing:1\.0 could not be downloaded") as caught:
        jars._fetch(context, Jar("org.example:thing:1.0", DIGEST), _target(tmp_path))
    assert "Check the network" in caught.value.hint


def test_the_lock_follows_the_versions() -> None:
    locked = {jar.coordinate for part in jars.read_lock().values() for jar in part}
    assert f"org.apache.kafka:kafka_{versions.SCALA}:{versions.KAFKA}" in locked
    assert f"org.elasticsearch:elasticsearch:{versions.ELASTICSEARCH}" in locked
    ours = [name for name in locked if name.startswith(("org.apache.kafka:", "org.elasticsearch"))]
    assert {name.rsplit(":", 1)[1] for name in ours} == {versions.KAFKA, versions.ELASTICSEARCH}


def test_a_lock_of_other_versions_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.COORDINATES, "kafka", ("org.apache.kafka:kafka_2.13:99.0",))
    with pytest.raises(LocalStackError, match=r"lacks org\.apache\.kafka:kafka_2\.13:99\.0") as caught:
        jars.read_lock()
    assert "make lock" in caught.value.hint
