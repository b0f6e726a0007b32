"""/api/v1/callbacks: which callbacks wait, are done, are dead; and trying them anew."""

from typing import Annotated, Any, Literal

from apiflask import APIBlueprint
from flask import Response, jsonify
from pydantic import BaseModel, ConfigDict, Field

from postrider import listing
from postrider.errors import Forbidden
from postrider.service import Service
from postrider.web.auth import ANY_SCHEME, Gate, client
from postrider.web.problems import problems

ID = "351EIkkf1SpmhoPKEJTRQ_000001"


class CallbacksIn(BaseModel):
    """Which part of which list."""

    model_config = ConfigDict(extra="forbid")

    state: Annotated[
        Literal["dead", "waiting", "done"],
        Field(description="`dead` ones were given up; left out: those"),
    ] = "dead"
    limit: Annotated[int, Field(ge=1, le=listing.LONGEST_PAGE)] = 100
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class CallbackOut(BaseModel):
    """One event on its way to one address."""

    id: Annotated[str, Field(description="Its `webhook-id`", examples=[ID])]
    type: Annotated[str, Field(examples=["delivery.sent"])]
    url: str
    state: Literal["waiting", "done", "dead"]
    tries: int
    made_at: Annotated[str, Field(examples=["2030-10-05T13:48:00.250000Z"])]
    next_try_at: Annotated[str | None, Field(description="null once it has ended")]
    ended_at: Annotated[str | None, Field(description="null while it waits")]
    answered_at: Annotated[str | None, Field(description="When the last try ended")]
    status: Annotated[int | None, Field(description="Of the last answer; null without one")]
    reason: Annotated[str, Field(description="Why the last try failed, else empty")]
    data: Annotated[dict[str, Any], Field(description="What the event tells")]


class CallbacksOut(BaseModel):
    """A part of the list, newest first."""

    callbacks: list[CallbackOut]
    total: int
    next: str | None


class ReplayedOut(BaseModel):
    """How many dead ones are tried anew, and how many are left for another call."""

    replayed: int
    left: int


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The four routes. A client sees its own callbacks, an admin all, those to WEBHOOK_URL too."""
    bp = gate.guard(APIBlueprint("callbacks", __name__, url_prefix="/api/v1", tag="Callbacks"))
    outbox = service.outbox

    def owner() -> str | None:
        who = client()
        return None if who.role == "admin" else who.id

    def must_send() -> None:
        if client().role == "viewer":
            raise Forbidden("a viewer may look, not replay")

    @bp.get("/callbacks")
    @bp.input(CallbacksIn, location="query")
    @bp.output(CallbacksOut)
    @bp.doc(summary="List callbacks", security=ANY_SCHEME, responses=problems(400))
    def list_callbacks(query_data: CallbacksIn) -> Response:
        found, total, cursor = outbox.page(
            query_data.state, owner(), query_data.limit, query_data.cursor
        )
        return jsonify(callbacks=[c.as_dict() for c in found], total=total, next=cursor)

    @bp.get("/callbacks/<string(minlength=21):id_>")
    @bp.output(CallbackOut)
    @bp.doc(summary="One callback", security=ANY_SCHEME, responses=problems(404))
    def get_callback(id_: str) -> Response:
        return jsonify(outbox.find(id_, owner()).as_dict())

    @bp.post("/callbacks/<string(minlength=21):id_>/replay")
    @bp.output(CallbackOut)
    @bp.doc(
        summary="Try a callback anew that has ended",
        security=ANY_SCHEME,
        responses=problems(403, 404, 409),
    )
    def replay_callback(id_: str) -> Response:
        must_send()
        return jsonify(outbox.replay(id_, owner()).as_dict())

    @bp.post("/callbacks/replay")
    @bp.output(ReplayedOut)
    @bp.doc(
        summary="Try all dead callbacks anew, up to 1,000 at a time",
        security=ANY_SCHEME,
        responses=problems(403),
    )
    def replay_callbacks() -> Response:
        must_send()
        replayed, left = outbox.replay_dead(owner())
        return jsonify(replayed=replayed, left=left)

    return bp
