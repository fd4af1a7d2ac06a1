"""Ends TLS and checks the key before a real Elasticsearch, which has no security module in the local build."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import trustme
from aiohttp import web


class Proxy:
    """``authorization`` is the only value of that header it lets through; ``seen`` are those that came, in order."""

    def __init__(self, upstream: str, authorization: str) -> None:
        self.upstream = upstream
        self.authorization = authorization
        self.seen: list[str | None] = []
        self.elsewhere: str | None = None  # when set, every request is answered by a redirect to it
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        told = request.headers.get("Authorization")
        self.seen.append(told)
        if self.elsewhere is not None:
            return web.Response(status=307, headers={"Location": f"{self.elsewhere}{request.path_qs}"})
        headers = {"X-Elastic-Product": "Elasticsearch"}
        if told != self.authorization:
            said = {"error": {"type": "security_exception", "reason": "unable to authenticate"}, "status": 401}
            return web.json_response(said, status=401, headers=headers)
        kept = {name: request.headers[name] for name in ("Content-Type", "Accept") if name in request.headers}
        async with aiohttp.ClientSession(self.upstream) as session:
            body = await request.read()
            async with session.request(request.method, request.path_qs, data=body or None, headers=kept) as answer:
                kind = {"Content-Type": answer.headers.get("Content-Type", "application/json")}
                return web.Response(status=answer.status, body=await answer.read(), headers={**headers, **kind})


@asynccontextmanager
async def tls_proxy(authority: trustme.CA, upstream: str, authorization: str, name: str = "127.0.0.1") -> AsyncIterator[Proxy]:
    """A proxy on a free port of 127.0.0.1 whose certificate, signed by ``authority``, is for ``name``."""
    proxy = Proxy(upstream, authorization)
    application = web.Application(client_max_size=64 << 20)
    application.router.add_route("*", "/{path:.*}", proxy.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        proxy.port = runner.addresses[0][1]
        yield proxy
    finally:
        await runner.cleanup()
