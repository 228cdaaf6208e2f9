"""How a worker logs: one line an event, for people on a terminal, as JSON otherwise, with the trace it belongs to.

What libraries say by ``logging`` and what ends a process unforeseen comes the same way.
"""

import logging
import os
import sys
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from cnm.trace import current_trace

LEVEL = "CNM_LOG_LEVEL"
FORMAT = "CNM_LOG_FORMAT"
PEOPLE, MACHINES = "console", "json"

log = structlog.get_logger()


def configure(service: str, stream: TextIO | None = None) -> None:
    """Log what a service has to say to standard error, or a stream.

    ``CNM_LOG_LEVEL`` names the lowest level (``INFO``), ``CNM_LOG_FORMAT`` who reads it, people (``console``) or
    machines (``json``); without it that follows from whether it goes to a terminal.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping().get(os.environ.get(LEVEL, "INFO").upper(), logging.INFO)
    human = {PEOPLE: True, MACHINES: False}.get(os.environ.get(FORMAT, ""), stream.isatty())

    def add_service(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return event if human else {"service": service, **event}

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        add_service,
    ]
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if human
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _tell_crash


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    trace = current_trace()
    if trace is not None:
        event.setdefault("trace_id", trace.trace_id)
    return event


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log what nobody caught, one line like everything else."""
    cause = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    log.critical("worker.crashed", error=str(cause) or type(cause).__name__, exc_info=(kind, error, trace))
