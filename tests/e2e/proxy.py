"""A TCP proxy that can be cut: for its clients the server behind it is away, while others still reach it."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards a loopback port to ``host:port``. While cut it drops its connections and takes no new one."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.cut()

    @property
    def url(self) -> str:
        """The server as seen through the proxy."""
        return f"http://127.0.0.1:{self.port}"

    async def cut(self) -> None:
        """From now on the server does not answer."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restore(self) -> None:
        """The server answers again."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._open.add(writer)
        behind_writer: asyncio.StreamWriter | None = None
        try:
            behind_reader, behind_writer = await asyncio.open_connection(*self._target)
            self._open.add(behind_writer)
            await asyncio.gather(_pump(reader, behind_writer), _pump(behind_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, behind_writer):
                if each is not None:
                    self._open.discard(each)
                    each.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
