"""The simple API: /send_message, /get_scheduled, /get_finished, /delete_all. Its shapes never change."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apiflask import APIBlueprint
from flask import Response, jsonify, request

from messengers.base import Template
from postrider.errors import InvalidRequest, WrongMediaType
from postrider.model import Delivery, Message, NewMessage, Recipient, State
from postrider.service import Service
from postrider.timing import in_zone, parse_moment
from postrider.web.auth import Gate
from postrider.web.problems import documented
from postrider.web.schemas import (
    FinishedOut,
    PageIn,
    ScheduledOut,
    SendMessageIn,
    SendMessageOut,
)

SHOWN = 1_000
"""Deliveries that the answer to a POST lists."""


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The four routes over `service`."""
    bp = gate.guard(APIBlueprint("simple", __name__, tag="Simple API"))
    zone = ZoneInfo(service.settings.tz)

    def line(message: Message, recipient: Recipient) -> str:
        when = in_zone(message.due_at, zone)
        return (
            f"Message to user: {recipient.uuid} with body: {message.body}"
            f" Queued at {when} to messenger: {recipient.service}"
        )

    @bp.before_request
    def only_json() -> None:
        if request.method == "POST" and request.mimetype != "application/json":
            raise WrongMediaType("send the body as application/json")

    @bp.post("/send_message")
    @bp.input(SendMessageIn)
    @bp.output(SendMessageOut)
    @bp.doc(
        summary="Send a message, now or at a time",
        security="basic",
        responses=documented(400, 401, 413, 415, 503),
    )
    def send_message(json_data: SendMessageIn) -> Response:
        new = NewMessage(
            body=json_data.body,
            recipients=tuple(Recipient(r["uuid"], r["service"]) for r in json_data.recipients),
            send_at=_moment(json_data.send_at, json_data.timezone, zone),
            template=_template(json_data),
        )
        message, recipients = service.accept(new)
        shown = recipients[:SHOWN]
        lines = [line(message, r) for r in shown]
        state = State.SCHEDULED.value if message.timed else "queued"
        answer: dict[str, Any] = {
            "scheduled": lines if message.timed else [],
            "started": [] if message.timed else lines,
            "message": {
                "id": message.id,
                "deliveries": [
                    {
                        "id": f"{message.id}-{i}",
                        "uuid": r.uuid,
                        "service": r.service,
                        "state": state,
                    }
                    for i, r in enumerate(shown)
                ],
            },
        }
        if message.total > SHOWN:
            answer["total"] = message.total
        return jsonify(answer)

    @bp.get("/get_scheduled")
    @bp.input(PageIn, location="query")
    @bp.output(ScheduledOut)
    @bp.doc(summary="What waits", security="basic", responses=documented(400, 401, 503))
    def get_scheduled(query_data: PageIn) -> Response:
        page = service.scheduled(query_data.limit, query_data.cursor)
        lines = [line(message, delivery.recipient) for delivery, message in page.rows]
        return jsonify(scheduled=lines, total=page.total, next=page.next)

    @bp.get("/get_finished")
    @bp.input(PageIn, location="query")
    @bp.output(FinishedOut)
    @bp.doc(summary="What ended", security="basic", responses=documented(400, 401, 503))
    def get_finished(query_data: PageIn) -> Response:
        page = service.finished(query_data.limit, query_data.cursor)
        lists: dict[str, list[str]] = {
            "finished_main": [],
            "finished_scheduled": [],
            "finished_with_fail": [],
        }
        for delivery, message in page.rows:
            lists[_list_of(delivery, message)].append(line(message, delivery.recipient))
        return jsonify(**lists, total=page.total, next=page.next)

    @bp.delete("/delete_all")
    @bp.doc(
        summary="Forget what is finished and failed",
        security="basic",
        responses={
            200: {
                "description": "Done; what waits is still there",
                "content": {"application/json": {"schema": {"type": "string", "const": "Success"}}},
            },
            **documented(401, 503),
        },
    )
    def delete_all() -> Response:
        service.purge()
        return jsonify("Success")

    return bp


def _list_of(delivery: Delivery, message: Message) -> str:
    if delivery.state not in {State.SENT, State.DELIVERED, State.READ}:
        return "finished_with_fail"
    return "finished_scheduled" if message.timed else "finished_main"


def _moment(send_at: str | None, timezone: str | None, default: ZoneInfo) -> datetime | None:
    zone = default
    if timezone is not None:
        try:
            zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise InvalidRequest(
                "timezone", f"{timezone[:60]!r} is no IANA zone; one is Europe/Berlin"
            ) from None
    if send_at is None:
        return None
    try:
        return parse_moment(send_at, zone)
    except ValueError as error:
        raise InvalidRequest("send_at", str(error)) from None


def _template(data: SendMessageIn) -> Template | None:
    if data.template is None:
        return None
    return Template(data.template.name, data.template.language, tuple(data.template.components))
