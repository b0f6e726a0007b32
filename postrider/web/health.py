"""/healthz: this process answers. /readyz: and a message posted now would be sent."""

from typing import Any

import redis
from apiflask import APIBlueprint
from flask import Response, jsonify

from postrider import queue
from postrider.web import problems


def blueprint(client: redis.Redis) -> APIBlueprint:
    """Both routes; open to all, and telling no more than yes or what is missing."""
    bp = APIBlueprint("health", __name__, tag="Health")
    healthy: dict[int, Any] = {200: {"description": "Yes"}}

    @bp.get("/healthz")
    @bp.doc(summary="Does this process answer?", responses=healthy)
    def healthz() -> Response:
        return jsonify(status="ok")

    @bp.get("/readyz")
    @bp.doc(summary="Would a message be sent?", responses=healthy | problems.documented(503))
    def readyz() -> Response:
        try:
            if not queue.any_worker(client):
                return problems.answer(503, "no worker is running")
        except queue.ERRORS:
            return problems.answer(503, "Redis does not answer")
        return jsonify(status="ready")

    return bp
