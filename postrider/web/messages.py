"""/api/v1/messages: sent, seen, found, moved, stopped."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from zoneinfo import ZoneInfo

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import RootModel

from postrider import showing
from postrider.errors import InvalidRequest
from postrider.finding import Wanted
from postrider.service import Service
from postrider.web import asking, bodies, export, schedules
from postrider.web.answers import AcceptedOut, ChangedOut, MessageOut, MessagesOut
from postrider.web.auth import ANY_SCHEME, Gate, audited, client
from postrider.web.bodies import ChangeIn, MessagesIn, NewMessageIn, Which
from postrider.web.problems import problems
from postrider.web.schedules import WholeScheduleOut


class AcceptedOrScheduleOut(RootModel[AcceptedOut | WholeScheduleOut]):
    """The accepted message; or, with `repeat`, the schedule that makes them."""


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes over `service`."""
    bp = gate.guard(APIBlueprint("messages", __name__, url_prefix="/api/v1", tag="Messages"))
    zone = ZoneInfo(service.settings.tz)

    bp.before_request(asking.only_json)

    @bp.post("/messages")
    @bp.input(NewMessageIn)
    @bp.output(AcceptedOrScheduleOut, status_code=201)
    @bp.doc(
        summary="Send a message, now or at a time",
        description=f"With the header `{asking.KEY}` a repeated call answers as the first did, and sends nothing twice.",
        security=ANY_SCHEME,
        responses=problems(400, 403, 409, 413, 415),
    )
    def send(json_data: NewMessageIn) -> Response:
        return _sent(service, json_data, zone)

    @bp.get("/messages")
    @bp.input(MessagesIn, location="query")
    @bp.output(MessagesOut)
    @bp.doc(
        summary="Find messages",
        description=export.DESCRIPTION,
        security=ANY_SCHEME,
        responses=problems(400) | export.documented("messages"),
    )
    def messages(query_data: MessagesIn) -> Response:
        wanted = asking.wanted(query_data, zone, client())
        if kind := export.wanted():
            return export.stream(kind, _every(service, wanted, zone), showing.MESSAGE, "messages")
        found, cursor = service.find_messages(wanted, query_data.limit, query_data.cursor)
        return jsonify(messages=[showing.message(s, zone) for s in found], next=cursor)

    @bp.delete("/messages")
    @bp.input(Which, location="query")
    @bp.output(ChangedOut)
    @bp.doc(
        summary="Stop all messages with a tag or reference",
        security=ANY_SCHEME,
        responses=problems(400, 403),
    )
    def stop_all(query_data: Which) -> Response:
        if (query_data.tag is None) == (query_data.reference is None):
            raise InvalidRequest("tag", "name a tag or a reference, one of them")
        wanted = Wanted(
            tag=query_data.tag, reference=query_data.reference, owner=asking.owner_of(client())
        )
        return jsonify(showing.changed(service.cancel_all(wanted)))

    @bp.get("/messages/<message_id>")
    @bp.output(MessageOut)
    @bp.doc(summary="One message", security=ANY_SCHEME, responses=problems(404))
    def message(message_id: str) -> Response:
        return jsonify(
            showing.message(service.message(message_id, asking.owner_of(client())), zone)
        )

    @bp.patch("/messages/<message_id>")
    @bp.input(ChangeIn)
    @bp.output(ChangedOut)
    @bp.doc(
        summary="Move, pause, resume or rewrite what has not gone",
        security=ANY_SCHEME,
        responses=problems(400, 403, 404, 413, 415),
    )
    def change(message_id: str, json_data: ChangeIn) -> Response:
        if not json_data.model_fields_set - {"timezone"}:
            raise InvalidRequest("", "change something: body, send_at, send_in_s or paused")
        send_at = asking.moment(json_data, zone, service.store.now)
        done = service.change(
            message_id,
            asking.owner_of(client()),
            body=json_data.body,
            send_at=send_at,
            paused=json_data.paused,
        )
        return jsonify(showing.changed(done))

    @bp.delete("/messages/<message_id>")
    @bp.output(ChangedOut)
    @bp.doc(
        summary="Stop what has not gone",
        description="What is being sent or has gone stays; the answer counts both.",
        security=ANY_SCHEME,
        responses=problems(403, 404),
    )
    def stop(message_id: str) -> Response:
        return jsonify(showing.changed(service.cancel(message_id, asking.owner_of(client()))))

    return bp


def _every(service: Service, wanted: Wanted, zone: ZoneInfo) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        found, cursor = service.find_messages(wanted, bodies.LONGEST_PAGE, cursor)
        yield from (showing.message(summary, zone) for summary in found)
        if cursor is None:
            return


def _sent(service: Service, data: NewMessageIn, zone: ZoneInfo) -> Response:
    if data.repeat is not None:
        return schedules.create(service, data, data.repeat, zone)
    new = asking.new_message(data, zone, client())
    message, recipients = service.accept(new, asking.once())
    audited(message.id)
    notices = service.checks.notices(message.files, recipients)
    answer = jsonify(showing.accepted(message, recipients, zone, notices))
    answer.status_code = HTTPStatus.CREATED
    return answer
