"""The servers' jars: locked by name and SHA-256, downloaded once into a cache outside the repository.

``jars.lock.json`` lists every jar of every part. ``python -m service.local.jars`` (``make lock``) writes it from the dependency
trees, which jgo's pure-Python Maven resolver walks. An installation reads only the lock, so it is exact and quick.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import stamina
from jgo.maven import MavenContext, PythonResolver
from jgo.util import http

from service.errors import LocalStackError
from service.local.versions import COORDINATES
from service.progress import Progress, silent

LOCK = Path(__file__).with_name("jars.lock.json")
ATTEMPTS = 6
CONNECT_SECONDS, READ_SECONDS = 10, 60


class Jar(NamedTuple):
    """One locked jar: ``group:artifact:version`` and the SHA-256 of its bytes (hex)."""

    coordinate: str
    sha256: str


def cache_dir() -> Path:
    """Where downloads are kept: ``$XDG_CACHE_HOME/tidewatch``, or ``~/.cache/tidewatch``."""
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "tidewatch"


def read_lock() -> dict[str, list[Jar]]:
    """The locked jars of each part. Raises ``LocalStackError`` when the lock does not follow ``versions.py``."""
    lock = json.loads(LOCK.read_text(encoding="utf-8"))
    parts = {part: [Jar(name, digest) for name, digest in jars.items()] for part, jars in lock.items()}
    for part, coordinates in COORDINATES.items():
        missing = set(coordinates) - {jar.coordinate for jar in parts.get(part, [])}
        if missing:
            raise LocalStackError(
                f"The lock of the local servers lacks {min(missing)}.", hint="Run 'make lock' and commit the result."
            )
    return parts


def install(progress: Progress = silent, cache: Path | None = None) -> dict[str, list[Path]]:
    """Download the jars that are missing; returns the paths of all by part, in the lock's order.

    An interrupted download is resumed, one with a wrong hash is deleted. Several processes may call this at once: one downloads,
    the others wait. Raises ``LocalStackError`` when a jar cannot be downloaded.
    """
    cache = cache or cache_dir()
    parts = read_lock()
    store = cache / "jars"
    paths = {part: [store / _relative(jar) for jar in jars] for part, jars in parts.items()}
    wanted = {_relative(jar): jar for jars in parts.values() for jar in jars}
    if all((store / path).exists() for path in wanted):
        return paths
    with _exclusive(cache / "lock", progress):
        missing = [jar for path, jar in wanted.items() if not (store / path).exists()]
        context = MavenContext(repo_cache=store)
        progress("Downloading Kafka and Elasticsearch", 0, len(missing))
        with ThreadPoolExecutor(max_workers=4) as pool:
            waiting = [pool.submit(_fetch, context, jar, store / _relative(jar)) for jar in missing]
            try:
                for done, future in enumerate(as_completed(waiting), start=1):
                    future.result()
                    progress("Downloading Kafka and Elasticsearch", done, len(missing))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return paths


def _relative(jar: Jar) -> Path:
    group, artifact, version = jar.coordinate.split(":")
    return Path(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


@contextmanager
def _exclusive(path: Path, progress: Progress) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Waiting for another process that is downloading the same files", 0, 0)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class _TryAgainError(OSError):
    """A download that failed or has a wrong hash; the next attempt may succeed."""


def _fetch(context: MavenContext, jar: Jar, target: Path) -> None:
    try:
        for attempt in stamina.retry_context(on=OSError, attempts=ATTEMPTS, timeout=300.0, wait_max=20.0):
            with attempt:
                _download(context, jar, target)
    except OSError as error:
        raise LocalStackError(
            f"{jar.coordinate} could not be downloaded: {error}.",
            hint=f"Check the network and try again; what was downloaded is kept in {target.parents[3]}.",
        ) from error


def _download(context: MavenContext, jar: Jar, target: Path) -> None:
    """One attempt: continue an earlier one, check the hash, and only then give the file its name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    size = part.stat().st_size if part.exists() else 0
    repository = next(iter(context.remote_repos.values()))
    response: Any = http.get(
        f"{repository}/{_relative(jar).as_posix()}",
        stream=True,
        timeout=(CONNECT_SECONDS, READ_SECONDS),
        headers={"Range": f"bytes={size}-"} if size else {},
    )
    if response.status_code == 416:  # what we have is longer than the file, so it is no beginning of it
        part.unlink(missing_ok=True)
        raise _TryAgainError("the earlier download is not a part of the file; it is started again")
    if response.status_code == 429 or response.status_code >= 500:
        raise _TryAgainError(f"the repository answered {response.status_code}")
    if response.status_code not in (200, 206):
        raise LocalStackError(
            f"{jar.coordinate} could not be downloaded: the repository answered {response.status_code}.",
            hint="Check HTTPS_PROXY, and any proxy or firewall between this machine and the repository.",
        )
    with part.open("ab" if response.status_code == 206 else "wb") as handle:
        for chunk in response.iter_content(chunk_size=1 << 14):
            handle.write(chunk)
    found = hashlib.sha256(part.read_bytes()).hexdigest()
    if found != jar.sha256:
        part.unlink()
        raise _TryAgainError(f"its SHA-256 is {found}, locked is {jar.sha256}")
    part.replace(target)


def make_lock(progress: Progress = silent, store: Path | None = None) -> dict[str, dict[str, str]]:
    """Resolve every part's dependency tree anew and return the lock: part → {coordinate: SHA-256}, in class-path order."""
    context = MavenContext(repo_cache=store or cache_dir() / "resolve", timeout=READ_SECONDS)
    resolver = cast("Any", PythonResolver())  # jgo is typed, but its lists are not all annotated
    lock: dict[str, dict[str, str]] = {}
    for part, coordinates in COORDINATES.items():
        found: dict[tuple[str, str], Any] = {}
        for coordinate in coordinates:  # resolved one by one; where two want different versions, the first one's wins
            inputs, transitive = resolver.resolve([context.create_dependency(coordinate)])
            for dependency in (*inputs, *transitive):
                found.setdefault((dependency.groupId, dependency.artifactId), dependency.artifact)
        lock[part] = {}
        for done, artifact in enumerate(found.values(), start=1):
            progress(f"Locking {part}", done, len(found))
            name = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            lock[part][name] = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
    return lock


def _main() -> None:
    def line(stage: str, done: int = 0, total: int = 0, _detail: str = "", /) -> None:
        sys.stderr.write(f"\r{stage}: {done}/{total}   ")

    lock: Mapping[str, Mapping[str, str]] = make_lock(line)
    LOCK.write_text(json.dumps(lock, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"\nWrote {LOCK.name}: {', '.join(f'{len(jars)} jars for {part}' for part, jars in lock.items())}.\n")


if __name__ == "__main__":
    _main()
