"""/api/v1/schedules: recurrences that make messages."""

import re
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictStr

from postrider import listing, showing
from postrider.errors import InvalidRequest
from postrider.recurrence import Recurrence, parse
from postrider.service import Service
from postrider.timing import first_valid, zone_named
from postrider.web import asking
from postrider.web.auth import ANY_SCHEME, Gate, audited, client
from postrider.web.bodies import NewMessageIn, RepeatIn, To
from postrider.web.problems import problems
from postrider.web.schemas import TemplateIn
from postrider.windows import Window

PAGE, LONGEST_PAGE = 100, 1_000


class ScheduleIn(NewMessageIn):
    """A message that repeats. `send_at`: the first occurrence is then or later."""

    repeat: RepeatIn


class ScheduleChangeIn(BaseModel):
    """What is to be changed; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[
        Literal["active", "paused"] | None, Field(description="`paused` stops its next message")
    ] = None
    repeat: RepeatIn | None = None
    timezone: Annotated[StrictStr | None, Field(examples=["Europe/Berlin"])] = None
    send_at: Annotated[StrictStr | None, Field(examples=["2030-10-05 13:48:00"])] = None
    body: Annotated[StrictStr | None, Field(examples=["Hello"])] = None
    recipients: Annotated[list[To] | None, FailFast(), Field(min_length=1)] = None
    template: TemplateIn | None = None


class SchedulesIn(BaseModel):
    """Which part of the list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class MomentOut(BaseModel):
    """A moment in UTC, and as the clocks in the schedule's zone show it."""

    utc: str
    local: str


class RepeatOut(BaseModel):
    """When again."""

    cron: str | None
    rrule: str | None
    until: str | None
    count: int | None
    missed: Literal["skip", "once", "all"]


class ScheduleOut(BaseModel):
    """A schedule. `message` is the id of the one that stands ready, `trouble` why none could be made."""

    id: str
    state: Literal["active", "paused", "ended"]
    repeat: RepeatOut
    timezone: str
    starts_at: Annotated[str, Field(description="Local time from which on it repeats")]
    made: Annotated[int, Field(description="Messages so far, the one that stands ready included")]
    next: MomentOut | None
    message: str | None
    trouble: str | None
    created_at: str
    changed_at: str


class WholeScheduleOut(ScheduleOut):
    """A schedule with its next dates and the message that it makes."""

    dates: Annotated[list[MomentOut], Field(description="The next ones, at most 10")]
    makes: Annotated[dict[str, Any], Field(description="The message, as it was posted")]
    notices: Annotated[list[str], Field(description="What goes otherwise than asked for, and how")]


class SchedulesOut(BaseModel):
    """Schedules, newest first."""

    schedules: list[ScheduleOut]
    next: str | None


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes over `service`."""
    bp = gate.guard(
        APIBlueprint("schedules", __name__, url_prefix="/api/v1/schedules", tag="Schedules")
    )
    default = ZoneInfo(service.settings.tz)

    bp.before_request(asking.only_json)

    @bp.post("")
    @bp.input(ScheduleIn)
    @bp.output(WholeScheduleOut, 201)
    @bp.doc(
        summary="Send a message again and again",
        security=ANY_SCHEME,
        responses=problems(400, 403, 413, 415),
    )
    def create_schedule(json_data: ScheduleIn) -> Response:
        return create(service, json_data, json_data.repeat, default)

    @bp.get("")
    @bp.input(SchedulesIn, location="query")
    @bp.output(SchedulesOut)
    @bp.doc(summary="Schedules", security=ANY_SCHEME, responses=problems(400))
    def list_schedules(query_data: SchedulesIn) -> Response:
        behind = query_data.cursor
        if behind is not None and not re.fullmatch(r"[0-9A-Za-z]{21}", behind, re.ASCII):
            raise InvalidRequest("cursor", "is not one that this service gave")
        found = service.schedules.page(client(), query_data.limit + 1, behind)
        shown = found[: query_data.limit]
        last = shown[-1].id if len(found) > query_data.limit else None
        return jsonify({"schedules": [showing.schedule(s) for s in shown], "next": last})

    @bp.get("/<id>")
    @bp.output(WholeScheduleOut)
    @bp.doc(summary="One schedule", security=ANY_SCHEME, responses=problems(404))
    def get_schedule(id: str) -> Response:  # noqa: A002 - the path's name for it
        return jsonify(
            showing.whole_schedule(service.schedules, service.schedules.get(client(), id))
        )

    @bp.patch("/<id>")
    @bp.input(ScheduleChangeIn)
    @bp.output(WholeScheduleOut)
    @bp.doc(
        summary="Pause, resume or change a schedule",
        security=ANY_SCHEME,
        responses=problems(400, 403, 404, 409, 413, 415),
    )
    def change_schedule(id: str, json_data: ScheduleChangeIn) -> Response:  # noqa: A002
        body = json_data.model_dump(
            include={"body", "recipients", "template"}, exclude_unset=True, mode="json"
        )
        changed = service.schedules.change(
            client(),
            id,
            pause=None if json_data.state is None else json_data.state == "paused",
            recurrence=_changed(json_data),
            missed=json_data.repeat.missed if json_data.repeat else None,
            body={k: v for k, v in body.items() if v is not None} or None,
        )
        return jsonify(showing.whole_schedule(service.schedules, changed))

    @bp.delete("/<id>")
    @bp.doc(
        summary="Remove a schedule, and stop its next message",
        security=ANY_SCHEME,
        responses={204: {"description": "It is removed"}, **problems(403, 404)},
    )
    def delete_schedule(id: str) -> tuple[str, int]:  # noqa: A002
        service.schedules.delete(client(), id)
        return "", 204

    return bp


def create(service: Service, asked: NewMessageIn, repeat: RepeatIn, default: ZoneInfo) -> Response:
    """Takes a message that repeats, and answers with its schedule. Raises InvalidRequest."""
    _no_single_moment(asked)
    asking.attachments(asked)
    zone = _zone(asked.timezone) or default
    if asked.window is not None:
        Window.asked(asked.window)
        asked.window.timezone = asked.window.timezone or zone.key
    unsaid = {"repeat", "timezone", "send_at"}
    made = service.schedules.create(
        client().id,
        asked.model_dump(exclude=unsaid, exclude_unset=True, by_alias=True, mode="json"),
        repeat.model_dump(exclude={"missed"}),
        zone,
        start=listing.moment(asked.send_at, None, zone),
        missed=repeat.missed,
    )
    audited(made.id)
    answer = jsonify(showing.whole_schedule(service.schedules, made))
    answer.status_code = HTTPStatus.CREATED
    return answer


def _no_single_moment(asked: NewMessageIn) -> None:
    if asking.once() is not None:
        raise InvalidRequest(asking.KEY, "does not go with repeat")
    for name in ("send_in_s", "expires_at", "dedupe_within_s"):
        if getattr(asked, name) is not None:
            raise InvalidRequest(name, "does not go with repeat")
    for n, to in enumerate(asked.recipients):
        for name in ("send_at", "timezone"):
            if name in to:
                raise InvalidRequest(f"recipients[{n}].{name}", "does not go with repeat")


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None:
        return None
    try:
        return zone_named(name)
    except ValueError as error:
        raise InvalidRequest("timezone", str(error)) from None


def _changed(asked: ScheduleChangeIn) -> Any:
    """The recurrence that one becomes, as a function of it; None when nothing of it is to be changed.

    Its local times stay what they are when only the zone changes.
    """
    if asked.repeat is None and asked.timezone is None and asked.send_at is None:
        return None
    given = _zone(asked.timezone)

    def changed(old: Recurrence, now: datetime) -> Recurrence:
        zone = given or ZoneInfo(old.zone)
        start = listing.moment(asked.send_at, None, zone)
        if start and start <= now:
            raise InvalidRequest("send_at", "Date must be in a future!", alone=True)
        if asked.repeat:
            repeat = asked.repeat.model_dump(exclude={"missed"})
        else:
            repeat = {
                "cron": old.cron,
                "rrule": old.rule.text if old.rule else None,
                "until": old.until.isoformat(" ") if old.until else None,
                "count": old.count,
            }
        return parse(repeat, zone, start or first_valid(old.start, zone), now)

    return changed
