"""/api/v1/numbers/check: which numbers are on WhatsApp."""

from datetime import datetime
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, FailFast, Field, StrictStr

from postrider import linked, lookups
from postrider.errors import InvalidRequest
from postrider.service import Service
from postrider.web.auth import ANY_SCHEME, Gate, audited, client
from postrider.web.problems import problems
from postrider.web.sessions import only_json_objects

Number = Annotated[
    StrictStr,
    Field(
        min_length=1, max_length=64, description="With country code", examples=["+375 44 703-48-10"]
    ),
]


class NumbersIn(BaseModel):
    """One number, or many; whom to ask."""

    model_config = ConfigDict(extra="forbid")

    number: Number | None = None
    numbers: Annotated[
        list[Number] | None, FailFast(), Field(min_length=1, max_length=lookups.MOST)
    ] = None
    session: Annotated[
        StrictStr,
        Field(
            max_length=100, description="Left out: your only one, or `default`", examples=["shop"]
        ),
    ] = ""
    service: Annotated[
        Literal["whatsapp-web", "whatsapp"],
        Field(description="whatsapp, the Cloud API, does not tell: all are unknown"),
    ] = "whatsapp-web"


class NumberOut(BaseModel):
    """What is known of one number."""

    given: str
    number: Annotated[
        str | None,
        Field(
            description="As E.164 has it; null: none that could exist", examples=["+375447034810"]
        ),
    ]
    found: Annotated[
        Literal["yes", "no", "unknown"], Field(description="Whether it is on WhatsApp")
    ]
    to: Annotated[
        str | None, Field(description="The address to write to", examples=["375447034810"])
    ]
    known_from: Annotated[
        Literal["cache", "asked"] | None,
        Field(
            description="cache: found out before, a yes in the last 30 days, a no in the last one"
        ),
    ]
    known_at: Annotated[datetime | None, Field(description="When it was found out")]
    reason: Annotated[str, Field(description="Why it is unknown")]
    again_at: Annotated[
        datetime | None,
        Field(
            description="When there is sense in asking again; null: not before something changes"
        ),
    ]


class NumbersOut(BaseModel):
    """The numbers in the order in which they were given."""

    session: Annotated[str | None, Field(description="Who was asked")]
    numbers: list[NumberOut]


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The route over `service`."""
    bp = gate.guard(APIBlueprint("numbers", __name__, url_prefix="/api/v1", tag="Numbers"))
    bp.before_request(only_json_objects)

    @bp.post("/numbers/check")
    @bp.input(NumbersIn)
    @bp.output(NumbersOut)
    @bp.doc(
        summary="Which of these numbers are on WhatsApp",
        description=(
            "What is not known yet is asked of a linked phone, one number after the other, for at most 25 s and not more"
            " than WHATSAPP_WEB_CHECK_CAP in an hour: the rest is `unknown`, with the time to ask again. 404: there is no"
            " such session of yours."
        ),
        security=ANY_SCHEME,
        responses=problems(400, 401, 403, 404, 413, 415, 429, 503),
    )
    def check_numbers(json_data: NumbersIn) -> Response:
        if (json_data.number is None) == (json_data.numbers is None):
            raise InvalidRequest("numbers", "give numbers, or one number: one of them")
        given = json_data.numbers or [json_data.number or ""]
        audited(f"{len(given)} numbers")
        if json_data.service == lookups.CLOUD:
            told = service.lookups.by_cloud(given)
            return jsonify(session=None, numbers=[linked.looked(one) for one in told])
        session = service.lookups.session_of(client(), json_data.session)
        told = service.lookups.look_up(client(), session, given)
        known = service.phones.sessions.get(session)
        name = linked.name_of(known, client()) if known else None
        return jsonify(session=name, numbers=[linked.looked(one) for one in told])

    return bp
