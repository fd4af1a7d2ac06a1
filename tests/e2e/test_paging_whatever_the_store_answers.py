"""A webhook receives an alert in every state of the store, and the history has all of them once the store is well again."""

from __future__ import annotations

from collections import Counter

import aiohttp
import pytest
from aiohttp import web

from service.clock import SystemClock
from service.demo.receivers import HttpReceiver
from service.state.topics import create_topics
from tests.alerts.makers import alert
from tests.e2e.test_alerting import documents, publish, ready, running, settings_for, until, webhook

pytestmark = [pytest.mark.kafka, pytest.mark.elasticsearch, pytest.mark.slow, pytest.mark.timeout(300)]

BLOCK = b'{"errors":true,"items":[{"index":{"status":403,"error":{"type":"cluster_block_exception","reason":"blocked"}}}]}'
STATES: dict[str, tuple[int, bytes]] = {
    "unauthorized": (401, b'{"error":{"type":"security_exception","reason":"expired"},"status":401}'),
    "forbidden": (403, b'{"error":{"type":"security_exception","reason":"no right"},"status":403}'),
    "not found": (404, b"<html>no such page</html>"),
    "too large": (413, b"<html>413</html>"),
    "moved": (302, b""),
    "a page": (200, b"<html>Sign in</html>"),
    "nothing": (200, b"{}"),
    "a block": (200, BLOCK),
}


class Front:
    """Stands before Elasticsearch: answers as ``state`` says, or passes on."""

    def __init__(self, behind: str) -> None:
        self._behind = behind
        self.state: tuple[int, bytes] | None = None
        self.asked = 0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.state is not None:
            self.asked += 1
            status, content = self.state
            headers = {"X-Elastic-Product": "Elasticsearch"} if not content.startswith(b"<") else {}
            place = {"Location": "http://127.0.0.1:1/"} if status == 302 else {}
            kind = "text/html" if content.startswith(b"<") else "application/json"
            return web.Response(status=status, body=content, content_type=kind, headers=headers | place)
        kept = {name: value for name, value in request.headers.items() if name.lower() in ("content-type", "accept")}
        async with (
            aiohttp.ClientSession() as session,
            session.request(request.method, self._behind + request.path_qs, data=body, headers=kept) as answer,
        ):
            passed = {
                name: value for name, value in answer.headers.items() if name.lower() in ("content-type", "x-elastic-product")
            }
            return web.Response(status=answer.status, body=await answer.read(), headers=passed)


async def test_paging_goes_on_whatever_the_store_answers(kafka_servers: str, elasticsearch_url: str) -> None:
    front = Front(elasticsearch_url.rstrip("/"))
    app = web.Application(client_max_size=1 << 28)
    app.router.add_route("*", "/{path:.*}", front.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with HttpReceiver() as pager:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        route = {"receivers": ["pager"], "group_by": ["entity"], "group_wait_seconds": 0.2, "group_interval_seconds": 0.5}
        settings = settings_for(kafka_servers, url, receivers=[webhook("pager", pager)], routes=[route])
        await create_topics(settings.kafka)
        now = SystemClock().now_ms()
        async with running(settings):
            for name, state in STATES.items():
                front.state, before = state, front.asked
                await publish(settings.kafka, [alert(name, started_at=now)])

                async def paged(name: str = name) -> bool:
                    return any(each["entity"] == name for posted in pager.accepted for each in posted.json()["alerts"])

                async def store_was_asked(before: int = before) -> bool:
                    return front.asked > before and not await ready(settings)

                await until(paged)
                await until(store_was_asked)
            front.state = None

            async def all_stored() -> bool:
                return len(await documents(elasticsearch_url, settings, "alerts")) == len(STATES)

            await until(all_stored)
            await until(lambda: ready(settings))
        stored = await documents(elasticsearch_url, settings, "alerts")
        assert Counter(each["host"]["name"] for each in stored) == Counter(list(STATES))
    await runner.cleanup()
