"""/api/v1/accounts: who we send as, and how each stands. No secret is ever shown."""

from datetime import datetime
from typing import Annotated, Literal

from apiflask import APIBlueprint
from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from postrider import records
from postrider.records import account_key
from postrider.service import Service
from postrider.standing import Kind, standings
from postrider.web.auth import ANY_SCHEME, Gate, client
from postrider.web.problems import problems

PAGE, LONGEST_PAGE = 100, 1_000


class AccountsIn(BaseModel):
    """Which part of the list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=LONGEST_PAGE)] = PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class PauseOut(BaseModel):
    """Why an account sends nothing just now."""

    until: Annotated[datetime, Field(description="Nothing goes before; then one finds out")]
    kind: Annotated[
        Kind,
        Field(
            description="broken: the messenger does not answer; asked: it asks us to wait; refused: it refuses the"
            " account until somebody mends it"
        ),
    ]
    reason: Annotated[str, Field(description="In the messenger's words", examples=["Unauthorized"])]


class AccountOut(BaseModel):
    """One account."""

    service: Annotated[str, Field(examples=["telegram"])]
    name: Annotated[str, Field(examples=["shop"])]
    state: Annotated[
        Literal["open", "paused", "away"],
        Field(description="away: a linked phone that is not there; its deliveries wait"),
    ]
    pause: PauseOut | None
    waiting: Annotated[int, Field(description="Deliveries that are due and wait for it")]
    rate: Annotated[float, Field(description="Messages per second; 0: no limit")]
    recipient_rate: Annotated[float, Field(description="The same to one recipient")]
    daily_cap: Annotated[int, Field(description="Messages per day; 0: no limit")]
    concurrency: Annotated[int, Field(description="Sends under way at once in one worker")]


class AccountsOut(BaseModel):
    """Accounts, by messenger and name."""

    accounts: list[AccountOut]
    total: int
    next: str | None


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The route."""
    bp = gate.guard(APIBlueprint("accounts", __name__, url_prefix="/api/v1", tag="Accounts"))
    most = service.settings.worker_concurrency

    @bp.get("/accounts")
    @bp.input(AccountsIn, location="query")
    @bp.output(AccountsOut)
    @bp.doc(
        summary="Who we send as, and how each stands",
        security=ANY_SCHEME,
        responses=problems(400, 401, 503),
    )
    def list_accounts(query_data: AccountsIn) -> Response:
        service.phones.sync()
        every_limit = service.sender.limits
        who = client()
        everybody = sorted(key for key in every_limit if service.phones.sees(who, key))
        _, behind = records.read_cursor(query_data.cursor)
        rest = [key for key in everybody if "/".join(key) > behind]
        shown = rest[: query_data.limit]
        found = standings(service.store.redis, [account_key(*key) for key in shown])
        accounts = []
        for key in shown:
            stands, limits = found[account_key(*key)], every_limit[key]
            pause = stands.pause
            accounts.append(
                AccountOut(
                    service=key[0],
                    name=key[1],
                    state="away" if not limits.goes else "paused" if pause else "open",
                    pause=PauseOut(until=pause.until, kind=pause.kind, reason=pause.why)
                    if pause
                    else None,
                    waiting=stands.waiting,
                    rate=limits.rate,
                    recipient_rate=limits.recipient_rate,
                    daily_cap=limits.daily_cap,
                    concurrency=limits.places or most,
                )
            )
        more = records.cursor(0, "/".join(shown[-1])) if len(rest) > len(shown) else None
        answer = AccountsOut(accounts=accounts, total=len(everybody), next=more)
        return Response(answer.model_dump_json(), content_type="application/json")

    return bp
