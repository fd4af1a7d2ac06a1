"""Writing documents in bulk: what an answer means, how much is sent at once, and when one document alone is at fault.

Any trouble of the server is waited for. A document is set aside only when the server refuses its content and takes a plain
document of the same shape, or others like it, at the same place: then the fault is in this document, and not in an index, a
mapping or a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import stamina

from service.alerts.history.elasticsearch_client import Operation, RequestTooLarge
from service.errors import StoreUnavailable

Refused = Callable[[Operation, str], None]
Send = Callable[[Sequence[Operation]], Any]

TOO_LARGE = "request_too_large"
# Errors that a document's content may cause. The same names come from a mapping that fits no document, hence the plain document.
CONTENT_ERRORS = frozenset(
    {
        TOO_LARGE,
        "document_parsing_exception",
        "illegal_argument_exception",
        "mapper_exception",
        "mapper_parsing_exception",
        "max_bytes_length_exceeded_exception",
        "parsing_exception",
        "strict_dynamic_mapping_exception",
        "x_content_parse_exception",
    }
)
PLAIN_CHARACTERS, PLAIN_ITEMS = 200, 20
_PER_OPERATION = 300  # bytes of the action line, at most


class BulkWriter:
    """Writes operations until each is stored or set aside; ``StoreUnavailable`` when the server does not take them now."""

    def __init__(self, send: Send, on_refused: Refused, *, max_bytes: int, attempts: int) -> None:
        self._send = send
        self._on_refused = on_refused
        self._max_bytes = max_bytes
        self._attempts = attempts

    async def write(self, operations: Sequence[Operation], at_once: int) -> None:
        """Write in order, at most ``at_once`` documents and ``max_bytes`` in one request. Raises ``StoreUnavailable``."""
        for chunk in chunks(operations, at_once, self._max_bytes):
            pending = chunk
            async for attempt in stamina.retry_context(on=StoreUnavailable, attempts=self._attempts, timeout=None, wait_max=2.0):
                with attempt:
                    pending, why = await self._settle(pending)
                    if pending:
                        raise StoreUnavailable(f"Elasticsearch does not take {len(pending)} documents now: {why}.")

    async def _settle(self, operations: list[Operation]) -> tuple[list[Operation], str]:
        """Send once; the operations to try again, in order, and why."""
        again: list[Operation] = []
        why = ""
        results = [each async for each in self._results(operations)]
        passed = {_like(operation) for operation, problem in results if problem is None}
        for operation, problem in results:
            if problem is None or await self._at_fault(operation, problem, passed):
                continue
            again.append(operation)
            why = why or text(problem)
        return again, why

    async def _results(self, operations: list[Operation]) -> Any:
        """Each operation with its problem, or ``None`` where it is stored. A request that is too large is halved."""
        try:
            results = await self._send(operations)
        except RequestTooLarge as error:
            if len(operations) == 1:
                yield operations[0], {"type": TOO_LARGE, "reason": str(error)}
                return
            half = len(operations) // 2
            for part in (operations[:half], operations[half:]):
                async for each in self._results(part):
                    yield each
            return
        for operation, result in zip(operations, results, strict=True):
            yield operation, problem_of(result)

    async def _at_fault(self, operation: Operation, problem: Mapping[str, Any], passed: set[tuple[str, bool]]) -> bool:
        """True when this document alone is refused; it is set aside then, and its plain form is what the history shows."""
        if problem.get("type") not in CONTENT_ERRORS:
            return False
        if not await self._plain_passes(operation) and _like(operation) not in passed:
            return False
        self._on_refused(operation, text(problem))
        return True

    async def _plain_passes(self, operation: Operation) -> bool:
        action, document = operation
        simple = plain(document)
        if simple == document:
            return False
        try:
            return problem_of((await self._send([(action, simple)]))[0]) is None
        except RequestTooLarge:
            return False


def chunks(operations: Iterable[Operation], at_once: int, max_bytes: int) -> Iterator[list[Operation]]:
    """``operations`` in order, in lists of at most ``at_once`` and ``max_bytes``; a larger one stands alone."""
    chunk: list[Operation] = []
    total = 0
    for operation in operations:
        size = len(msgspec.json.encode(operation[1])) + _PER_OPERATION
        if chunk and (len(chunk) == at_once or total + size > max_bytes):
            yield chunk
            chunk, total = [], 0
        chunk.append(operation)
        total += size
    if chunk:
        yield chunk


def _like(operation: Operation) -> tuple[str, bool]:
    """What the documents share that a mapping or an index treats alike: where they go, and whether they have labels."""
    return operation[0]["index"]["_index"], bool(operation[1].get("labels"))


def problem_of(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Why an operation is not stored; ``None`` when it is, or when a newer state is there already (409)."""
    status = result["status"]
    if 200 <= status < 300:
        return None
    problem = result.get("error")
    problem = problem if isinstance(problem, Mapping) else {"type": str(problem or status)}
    if status == 409 and problem.get("type") in ("version_conflict_engine_exception", "409"):
        return None
    return problem


def text(problem: Mapping[str, Any]) -> str:
    """A problem in one bounded line."""
    return " ".join(f"{problem.get('type', 'unknown')}: {problem.get('reason', '')}".split())[:500].rstrip(".")


def plain(value: Any) -> Any:
    """A document of the same shape without what producers wrote freely: labels replaced, texts printable and short, lists short."""
    if isinstance(value, Mapping):
        return {
            name: {"left_out": "see the dead letter"} if name == "labels" and content else plain(content)
            for name, content in value.items()
        }
    if isinstance(value, str):
        return "".join(letter if letter.isprintable() else "�" for letter in value[:PLAIN_CHARACTERS])
    if isinstance(value, Sequence):
        return [plain(each) for each in value[:PLAIN_ITEMS]]
    return value
