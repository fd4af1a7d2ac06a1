"""Receivers for the demo and the tests: an HTTP server for Slack and webhooks, and a mail server, both on the loopback only.

Each keeps the newest ``KEEP`` deliveries. It answers as planned (refuse, ask to wait, hang, drop the connection) while a plan is
left, and accepts otherwise. The HTTP server can also follow a plan for every message, by its ``Idempotency-Key``.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import ssl
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from aiohttp import web
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

HOST = "127.0.0.1"
KEEP = 1000
MAX_BYTES = 2_000_000


@dataclass(frozen=True)
class Posted:
    """One HTTP request; ``status`` is that of its answer, ``None`` when it got none."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    status: int | None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Mail:
    """One mail; ``reply`` is its SMTP answer, ``None`` when it got none."""

    sender: str
    recipients: Sequence[str]
    message: EmailMessage
    reply: str | None

    def text(self, kind: Literal["plain", "html"] = "plain") -> str:
        """The body in one of its forms; empty when the mail has no such form."""
        part = self.message.get_body((kind,))
        return "" if part is None else str(part.get_content())


@dataclass(frozen=True)
class Answer:
    """How one request will be answered: with ``status`` (and ``Retry-After``), never (``hang``), or by closing the connection
    (``drop``)."""

    status: int = 200
    retry_after: int | None = None
    does: Literal["reply", "hang", "drop"] = "reply"


@dataclass(frozen=True)
class Reply:
    """How one mail will be answered: with an SMTP ``line``, never (``hang``), or by closing the connection (``drop``)."""

    line: str = "250 OK"
    does: Literal["reply", "hang", "drop"] = "reply"


Delivery = TypeVar("Delivery")


@dataclass
class _Box(Generic[Delivery]):
    """The newest deliveries, and a way to wait for them."""

    items: deque[Delivery] = field(default_factory=lambda: deque(maxlen=KEEP))
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def add(self, item: Delivery) -> None:
        async with self._changed:
            self.items.append(item)
            self._changed.notify_all()

    async def wait(self, enough: Callable[[], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(enough)


class HttpReceiver:
    """An HTTP server that records what is posted to any path: ``async with HttpReceiver() as slack: slack.url``."""

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._tls = tls
        self._plan: deque[Answer] = deque()
        self._plan_of_each: Sequence[Answer] = ()
        self._tries: Counter[str] = Counter()  # by idempotency key
        self._box: _Box[Posted] = _Box()
        self._closing = asyncio.Event()
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_route("*", "/{path:.*}", self._take)
        self._runner = web.AppRunner(app, shutdown_timeout=1.0)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, self._port, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Where to post; any path below it works too."""
        return f"{'https' if self._tls else 'http'}://{HOST}:{self._port}/"

    @property
    def attempts(self) -> list[Posted]:
        """Every request, accepted or not, oldest first."""
        return list(self._box.items)

    @property
    def accepted(self) -> list[Posted]:
        """Requests that were answered with a 2xx, oldest first."""
        return [posted for posted in self._box.items if posted.status is not None and 200 <= posted.status < 300]

    def plan(self, *answers: Answer) -> None:
        """Answer the next requests so, one after the other."""
        self._plan.extend(answers)

    def plan_each(self, *answers: Answer) -> None:
        """Answer the first tries of every message so, in whatever order messages come; ``plan`` goes before. A message is known by
        its ``Idempotency-Key``; one without is accepted."""
        self._plan_of_each = answers

    async def wait_for(self, count: int = 1, seconds: float = 30.0) -> list[Posted]:
        """Wait until ``count`` were accepted; returns them. Raises ``TimeoutError`` after ``seconds``."""
        await self._box.wait(lambda: len(self.accepted) >= count, seconds)
        return self.accepted

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        answer = self._answer(request.headers.get("Idempotency-Key"))
        status = answer.status if answer.does == "reply" else None
        await self._box.add(Posted(request.path, dict(request.headers), body, status))
        if answer.does == "hang":
            await self._closing.wait()
        if answer.does != "reply":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        headers = {} if answer.retry_after is None else {"Retry-After": str(answer.retry_after)}
        return web.Response(status=answer.status, text="ok" if answer.status < 300 else "no", headers=headers)

    def _answer(self, key: str | None) -> Answer:
        if self._plan:
            return self._plan.popleft()
        if key is None or self._tries[key] == len(self._plan_of_each):
            return Answer()
        self._tries[key] += 1
        return self._plan_of_each[self._tries[key] - 1]


class MailReceiver:
    """A mail server that records every mail: ``async with MailReceiver() as inbox: inbox.port``.

    With ``tls`` it requires STARTTLS; with ``credentials`` (user, password) it accepts mail only after a matching login.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        self.port = port
        self._tls = tls
        self._credentials = credentials
        self._plan: deque[Reply] = deque()
        self._box: _Box[Mail] = _Box()
        self._closing = asyncio.Event()
        self._sessions: set[SMTP] = set()
        self._server: asyncio.Server | None = None

    @property
    def host(self) -> str:
        """The loopback address it listens on."""
        return HOST

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(self._new_session, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.close()
        for session in self._sessions:
            _drop(session)

    @property
    def attempts(self) -> list[Mail]:
        """Every mail, accepted or not, oldest first."""
        return list(self._box.items)

    @property
    def accepted(self) -> list[Mail]:
        """Mails that were accepted, oldest first."""
        return [mail for mail in self._box.items if mail.reply is not None and mail.reply.startswith("2")]

    def plan(self, *replies: Reply) -> None:
        """Answer the next mails so, one after the other; for instance ``Reply("451 try again later")``."""
        self._plan.extend(replies)

    async def wait_for(self, count: int = 1, seconds: float = 30.0) -> list[Mail]:
        """Wait until ``count`` were accepted; returns them. Raises ``TimeoutError`` after ``seconds``."""
        await self._box.wait(lambda: len(self.accepted) >= count, seconds)
        return self.accepted

    def _new_session(self) -> SMTP:
        session = SMTP(
            self,
            data_size_limit=MAX_BYTES,
            enable_SMTPUTF8=True,
            hostname="tidewatch.localhost",  # without it aiosmtpd resolves this machine's name, which can take seconds
            tls_context=self._tls,
            require_starttls=self._tls is not None,
            authenticator=self._login if self._credentials else None,
            auth_required=self._credentials is not None,
            auth_require_tls=self._tls is not None,
        )
        self._sessions = {old for old in self._sessions if old.transport is not None and not old.transport.is_closing()} | {session}
        return session

    def _login(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: Any) -> AuthResult:
        given = (data.login.decode(), data.password.decode()) if isinstance(data, LoginPassword) else None
        return AuthResult(success=given == self._credentials, handled=False)  # aiosmtpd sends the answer

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name for it
        """aiosmtpd calls this with each mail; returns the SMTP answer."""
        reply = self._plan.popleft() if self._plan else Reply()
        content = envelope.content or b""
        message = email.message_from_bytes(content.encode() if isinstance(content, str) else content, policy=email.policy.default)
        line = reply.line if reply.does == "reply" else None
        await self._box.add(Mail(envelope.mail_from or "", list(envelope.rcpt_tos), message, line))
        if reply.does == "hang":
            await self._closing.wait()
        if reply.does != "reply":
            _drop(server)
        return reply.line


def _drop(session: SMTP) -> None:
    transport = session.transport
    if isinstance(transport, asyncio.Transport):
        transport.abort()
