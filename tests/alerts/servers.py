"""Real HTTP and SMTP servers on loopback that behave as told: answer, stall, hang up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import msgspec
from aiosmtpd.smtp import SMTP


class Request(msgspec.Struct):
    """What came in."""

    headers: dict[str, str]
    body: bytes
    target: str = ""  # path and query

    @property
    def json(self) -> Any:
        """The body decoded."""
        return msgspec.json.decode(self.body)


class Behaviour(msgspec.Struct, frozen=True):
    """One answer: a status with headers, or ``hang`` (never answers), or ``drop`` (closes without a word)."""

    status: int = 200
    headers: dict[str, str] = {}
    kind: str = "answer"
    body: bytes = b"ok"


OK = Behaviour()
HANG = Behaviour(kind="hang")
DROP = Behaviour(kind="drop")


class HttpReceiver:
    """Records requests; plays ``script`` one behaviour a request, then answers ``otherwise``. ``by_body``: answers to requests
    whose body contains these bytes, before anything else."""

    def __init__(self, script: Sequence[Behaviour] = (), otherwise: Behaviour = OK) -> None:
        self.requests: list[Request] = []
        self.script = list(script)
        self.otherwise = otherwise
        self.by_body: dict[bytes, Behaviour] = {}
        self.url = ""
        self._released = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.requests.append(Request(headers, body, head[0].split(" ")[1]))
            matching = [behaviour for part, behaviour in self.by_body.items() if part in body]
            now = matching[0] if matching else self.script.pop(0) if self.script else self.otherwise
            if now.kind == "hang":
                await self._released.wait()
            if now.kind == "answer":
                lines = [f"HTTP/1.1 {now.status} X", f"content-length: {len(now.body)}", "connection: close"]
                lines += [f"{name}: {value}" for name, value in now.headers.items()]
                writer.write("\r\n".join([*lines, "", ""]).encode() + now.body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def release(self) -> None:
        """Let hanging requests end."""
        self._released.set()


@asynccontextmanager
async def http_receiver(*script: Behaviour, otherwise: Behaviour = OK) -> AsyncIterator[HttpReceiver]:
    """A server on a free loopback port; its URL carries a secret path, as webhooks do."""
    receiver = HttpReceiver(script, otherwise)
    server = await asyncio.start_server(receiver, "127.0.0.1", 0)
    receiver.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/services/s3cret"
    try:
        yield receiver
    finally:
        receiver.release()
        server.close()


class Mailbox:
    """An aiosmtpd handler that keeps messages, or answers ``reply`` to each."""

    def __init__(self, replies: Sequence[str] = ()) -> None:
        self.messages: list[EmailMessage] = []
        self.replies = list(replies)
        self.port = 0

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if self.replies:
            return self.replies.pop(0)
        message = message_from_bytes(envelope.content, policy=default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        return "250 kept"


@asynccontextmanager
async def smtp_receiver(*replies: str) -> AsyncIterator[Mailbox]:
    """A mail server on a free loopback port; answers ``replies`` to the first messages, then keeps them."""
    mailbox = Mailbox(replies)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox, hostname="localhost", loop=loop), "127.0.0.1", 0)
    mailbox.port = server.sockets[0].getsockname()[1]
    try:
        yield mailbox
    finally:
        server.close()
