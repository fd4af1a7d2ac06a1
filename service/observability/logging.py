"""Structured logs: pretty on a terminal, one JSON object a line elsewhere. Always on standard error."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

_NOISY = ("aiokafka", "elastic_transport", "elasticsearch", "httpx", "matplotlib", "asyncio", "uvicorn")
_SECRETIVE = ("httpcore",)  # at debug it logs response headers, and a redirect's Location repeats the webhook's secret URL

Level = Literal["debug", "info", "warning", "error", "critical"]
Form = Literal["auto", "pretty", "json"]


def configure_logging(level: Level, form: Form) -> None:
    """Send structlog and standard logging through one pipeline; libraries are kept to warnings unless ``level`` is debug."""
    threshold = getattr(logging, level.upper())
    pretty = form == "pretty" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Plain: the default prints the local variables of each frame, with webhooks and passwords, and takes minutes if one is long.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: structlog.typing.Processor = console if pretty else structlog.processors.JSONRenderer()
    finish: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    finish += [renderer] if pretty else [structlog.processors.format_exc_info, renderer]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=finish))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _NOISY:
        logging.getLogger(name).setLevel(threshold if level == "debug" else max(threshold, logging.WARNING))
    for name in _SECRETIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def get_logger(room: str) -> structlog.stdlib.BoundLogger:
    """The logger of one room, e.g. ``get_logger("scoring")``."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(f"tidewatch.{room}")
    return logger
