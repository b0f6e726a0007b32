"""Each request: its id in and out, how long it took, how it ended."""

import logging
import re
import secrets
import time

from flask import Flask, Response, g, request

from postrider import counts, logs
from postrider.counts import Counts

log = logging.getLogger("postrider.web.traffic")

HEADER = "X-Request-Id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def watch(app: Flask, counted: Counts) -> None:
    """Counts every request of `app`, and gives it the id that its logs and its answer carry."""

    @app.before_request
    def begin() -> None:
        given = request.headers.get(HEADER, "")
        g.began_at = time.monotonic()
        logs.request_id.set(given if _ID.fullmatch(given) else secrets.token_hex(8))

    # The first one that is registered is the last to be called: it sees every answer as it goes out.
    @app.after_request
    def end(response: Response) -> Response:
        response.headers[HEADER] = logs.request_id.get()
        took_s = time.monotonic() - g.get("began_at", time.monotonic())
        # Rules are as many as we have written, whatever somebody asks for.
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in _METHODS else "other"
        counted.add(counts.REQUESTS, method, route, str(response.status_code))
        counted.observe(counts.LATENCY, took_s, method, route)
        log.debug("%s %s: %d in %.3f s", method, route, response.status_code, took_s)
        return response

    @app.teardown_request
    def forget(_: BaseException | None) -> None:
        logs.request_id.set("")
