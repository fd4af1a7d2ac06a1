"""``tidewatch run`` as a process of its own, as operators run it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

from service.errors import LocalStackError
from service.local.processes import free_port

STOP_SECONDS = 20.0


class ServiceProcess:
    """Starts with the ``async with`` block, drains and ends with it. ``config`` holds the settings; the health endpoint gets a free
    port."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self._port = free_port()
        self._file = folder / "tidewatch.yaml"
        self._file.write_text(yaml.safe_dump({**config, "http": {"port": self._port}}))
        self.log = folder / "service.log"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        environment = {**os.environ, "TIDEWATCH_CONFIG": str(self._file), "TIDEWATCH_LOG__FORMAT": "json"}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", "run", env=environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def stop(self) -> int:
        """SIGTERM, then wait; the exit status. A process that does not drain in time is killed."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
        return await self._process.wait()

    async def ready(self, seconds: float) -> None:
        """Wait until every part is ready. Raises ``LocalStackError`` with the last log lines when the process ends first, or after
        ``seconds``."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self._port}") as client:
            try:
                async with asyncio.timeout(seconds):
                    while not await self._is_ready(client):
                        await asyncio.sleep(0.2)
            except TimeoutError:
                raise self._failed(f"was not ready within {seconds:g} s") from None

    async def lag(self) -> int:
        """Records of the metrics topic not yet read."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{self._port}/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith("tidewatch_consumer_lag_records{")]
        return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)

    async def _is_ready(self, client: httpx.AsyncClient) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise self._failed(f"ended with status {self._process.returncode}")
        try:
            return (await client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def _failed(self, what: str) -> LocalStackError:
        tail = " | ".join(self.log.read_text(errors="replace").splitlines()[-5:])
        return LocalStackError(
            f"The service {what}. Its log ends with: {tail}", hint="Run `tidewatch check` with the same settings."
        )
