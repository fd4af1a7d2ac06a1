"""A webhook's URL is its secret: it is in no log, and the logging of the process that we live in stays as it is."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.alerts.receivers.http import Post
from tests.alerts.servers import Behaviour, http_receiver

SECRET = "s3cret-path"

# A redirect repeats the URL in its Location: the worst that a server may answer.
OUR_PROCESS = f"""
import asyncio, logging
from pydantic import SecretStr
from service.alerts.receivers.http import Post
from service.errors import DeliveryRefused
from service.observability.logging import configure_logging
from tests.alerts.servers import Behaviour, http_receiver

async def main():
    configure_logging("debug", "json")
    redirect = Behaviour(307, headers={{"Location": "/{SECRET}/elsewhere"}})
    async with http_receiver(redirect) as server:
        post = Post("hook", SecretStr(server.url + "/{SECRET}?key={SECRET}"), None, allow_http=True, timeout=10)
        for _ in range(2):
            try:
                await post.send(b"{{}}", {{}})
            except DeliveryRefused as error:
                logging.getLogger("test").info("refused: %s", error)
        await post.close()

asyncio.run(main())
"""


async def test_the_host_process_logs_its_own_requests_as_before(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("httpx")
    before = (logger.level, list(logger.filters), list(logger.handlers), logger.propagate)
    with caplog.at_level(logging.DEBUG):
        async with http_receiver(Behaviour(headers={"Set-Cookie": "a=b; Path=/"})) as server:
            post = Post("hook", SecretStr(f"{server.url}/{SECRET}?key={SECRET}"), None, allow_http=True, timeout=10)
            await post.send(b"{}", {"content-type": "application/json"})
            await post.close()
            async with httpx.AsyncClient() as client:
                await client.get(f"{server.url}/of-the-host")
            assert SECRET in server.requests[0].target, "the server sees the whole URL"
    assert (logger.level, list(logger.filters), list(logger.handlers), logger.propagate) == before
    assert "/of-the-host" in caplog.text
    assert "/***" in caplog.text, "ours is logged without its secret"
    assert SECRET not in caplog.text


def test_our_own_process_logs_no_secret_at_any_level() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", OUR_PROCESS], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "redirects are not followed" in done.stderr
    assert SECRET not in done.stderr + done.stdout
