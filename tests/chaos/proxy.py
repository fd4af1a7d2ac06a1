"""A small TCP proxy between the workers and a server: it forwards bytes at once, with a delay, or not at all."""

from __future__ import annotations

import asyncio
import contextlib

REFUSAL = b'{"error":{"type":"es_rejected_execution_exception","reason":"chaos"},"status":429}'


class Proxy:
    """``delay``: seconds each piece waits; ``refusing``: no connection is let in; ``throttling``: every HTTP request is answered
    429 and its connection closed."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = 0
        self.delay = 0.0
        self.refusing = False
        self.throttling = False
        self.throttled = 0
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> asyncio.Server:
        """Serve on ``port`` of 127.0.0.1 (0: a free one)."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> int:
        """Break every connection at once; how many there were."""
        cut = len(self._open)
        for writer in list(self._open):
            writer.transport.abort()
        return cut

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.refusing:
                return
            if self.throttling:
                await self._throttle(reader, writer)
                return
            beyond, back = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(back)
            try:
                await asyncio.gather(self._pass(reader, back), self._pass(beyond, writer))
            finally:
                self._open.discard(back)
                back.close()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def _throttle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next((int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
        await reader.readexactly(length)
        self.throttled += 1
        lines = ["HTTP/1.1 429 Too Many Requests", "content-type: application/json", "x-elastic-product: Elasticsearch"]
        lines += [f"content-length: {len(REFUSAL)}", "connection: close", "", ""]
        writer.write("\r\n".join(lines).encode() + REFUSAL)
        await writer.drain()
