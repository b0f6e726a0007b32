"""Errors of ours, reported to a Sentry, where the settings name one. Nothing is loaded where they do not.

A report holds the error, where in our code it was, and ids: no body, no local variable, no header, no trail of what was
called before. What it does hold is masked as the logs are.
"""

from typing import Any

from postrider.masking import Mask
from postrider.settings import Settings

KEPT = {"event_id", "timestamp", "platform", "level", "logger", "release", "server_name"}
"""What of a report is told beside the error itself: nothing that a person has written."""


def start(settings: Settings) -> None:
    """From here on what this process logs as an error, or dies of, is reported."""
    if settings.sentry_dsn is None:
        return
    import sentry_sdk  # noqa: PLC0415 - a third of a second, and memory
    from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.dedupe import DedupeIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.logging import LoggingIntegration  # noqa: PLC0415
    from sentry_sdk.integrations.threading import ThreadingIntegration  # noqa: PLC0415

    mask = Mask.of(settings)

    def scrub(event: Any, _hint: object) -> Any:
        told = {key: value for key, value in event.items() if key in KEPT}
        if said := event.get("logentry"):
            told["logentry"] = {"formatted": _formatted(said), "message": said.get("message", "")}
        if errors := event.get("exception"):
            told["exception"] = errors
        return mask.deep(told)

    sentry_sdk.init(
        dsn=settings.sentry_dsn.get_secret_value(),
        send_default_pii=False,
        include_local_variables=False,
        include_source_context=False,
        max_request_body_size="never",
        max_breadcrumbs=0,
        auto_session_tracking=False,
        # Others would report what Redis and the messengers were told.
        default_integrations=False,
        integrations=[
            LoggingIntegration(level=None),
            ExcepthookIntegration(),
            ThreadingIntegration(propagate_hub=False),
            DedupeIntegration(),
            AtexitIntegration(callback=lambda *_: None),
        ],
        before_send=scrub,
        shutdown_timeout=2,
    )


def _formatted(said: dict[str, Any]) -> str:
    params = tuple(said.get("params") or ())
    try:
        return str(said.get("formatted") or said.get("message", "") % params)
    except (TypeError, ValueError):
        return str(said.get("message", ""))
