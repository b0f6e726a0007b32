"""/healthz: this process answers. /readyz: and a message posted now would be taken, and sent."""

from typing import Any

import redis
from apiflask import APIBlueprint
from flask import Response, jsonify

from postrider import link, queue
from postrider.errors import Unavailable
from postrider.service import Service
from postrider.web import problems


def blueprint(service: Service) -> APIBlueprint:
    """Both routes; open to all, and telling no more than yes or what is missing."""
    bp = APIBlueprint("health", __name__, tag="Health")
    healthy: dict[int, Any] = {200: {"description": "Yes"}}
    store = service.store

    @bp.get("/healthz")
    @bp.doc(summary="Does this process answer?", responses=healthy)
    def healthz() -> Response:
        return jsonify(status="ok")

    @bp.get("/readyz")
    @bp.doc(summary="Would a message be sent?", responses=healthy | problems.documented(503))
    def readyz() -> Response:
        try:
            queue.prepare(store.redis)  # a write that changes nothing
            store.room.demand()
            if not queue.any_worker(store.redis):
                raise Unavailable("no worker is running")
        except redis.RedisError as error:
            raise Unavailable(link.why_unavailable(error) or "Redis fails a call") from error
        return jsonify(status="ready")

    return bp
