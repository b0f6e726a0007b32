"""What the processes log: a line of text, or a JSON object a line, on stderr. Secrets are hidden in both.

Callers use `logging` as everybody does. The ids of deliveries are found in what they say, so that nobody has to remember.
"""

import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from postrider.masking import Mask
from postrider.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
Event = MutableMapping[str, Any]
_DELIVERY = re.compile(r"\b([0-9A-Za-z]{21})-(\d{1,6})\b")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; '' for none."""


def configure(settings: Settings) -> None:
    """Sends what this process logs to stderr, as the settings want it. May be called again."""
    mask = Mask.of(settings)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_as_json(mask) if settings.log_format == "json" else _Text(mask))
    root = logging.getLogger()
    root.handlers = [handler]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    # Other people's debugging tells URLs and bodies.
    root.setLevel(max(level, logging.INFO))
    logging.getLogger("postrider").setLevel(level)
    for name in ("urllib3", "apprise"):  # what goes wrong there, we tell in words of our own
        logging.getLogger(name).setLevel(logging.ERROR)
    if settings.log_format == "json":  # gunicorn's have handlers of their own, and a format
        for name in ("gunicorn.error", "gunicorn.access"):
            logging.getLogger(name).handlers = []
            logging.getLogger(name).propagate = True


class _Text(logging.Formatter):
    def __init__(self, mask: Mask) -> None:
        super().__init__(TEXT)
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        said = super().format(record)
        if request := request_id.get():
            said += f" [request {request}]"
        return self._mask(said)


def _as_json(mask: Mask) -> logging.Formatter:
    import structlog  # noqa: PLC0415 - who logs text does without it

    def name_ids(_logger: object, _method: str, event: Event) -> Event:
        if found := _DELIVERY.search(str(event.get("event", ""))):
            event["message"], event["delivery"] = found[1], found[0]
        if request := request_id.get():
            event["request"] = request
        return event

    def hide(_logger: object, _method: str, event: Event) -> Event:
        # `_record` and the like are the formatter's own.
        return {k: v if k.startswith("_") else mask.deep(v) for k, v in event.items()}

    processors: list[Callable[[Any, str, Any], Any]] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        name_ids,
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=processors,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            hide,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
