"""/api/v1/keys, /api/v1/users, /api/v1/me: who may come in and do what. All but the last for admins only."""

from datetime import datetime
from typing import Annotated, Any

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictBool, StrictStr

from postrider import access
from postrider.clients import Clients, Kind, Known
from postrider.errors import InvalidRequest
from postrider.model import Quota, Role
from postrider.settings import Settings
from postrider.web.auth import ANY_SCHEME, Gate, audited, client
from postrider.web.problems import problems

Name = Annotated[
    StrictStr,
    Field(
        pattern=access.NAME,
        max_length=access.LONGEST_NAME,
        description="Unlike any other's",
        examples=["billing"],
    ),
]
Password = Annotated[
    SecretStr,
    Field(
        min_length=access.SHORTEST_PASSWORD,
        max_length=access.LONGEST_PASSWORD,
        examples=["correct horse battery"],
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LimitsIn(_Strict):
    """What a client may use; null, or left out: as much as there is."""

    rate: Annotated[
        float | None,
        Field(
            gt=0,
            le=access.MOST_RATE,
            allow_inf_nan=False,
            strict=True,
            description="Requests per second",
        ),
    ] = None
    waiting: Annotated[
        int | None,
        Field(ge=0, le=access.MOST, strict=True, description="Deliveries that have not ended"),
    ] = None
    recipients: Annotated[
        int | None,
        Field(ge=1, le=access.MOST, strict=True, description="Recipients in one message"),
    ] = None
    file_bytes: Annotated[
        int | None,
        Field(ge=0, le=access.MOST_BYTES, strict=True, description="Bytes of all files kept"),
    ] = None

    def quota(self) -> Quota:
        """As the service says it."""
        return Quota(self.rate, self.waiting, self.recipients, self.file_bytes)


class KeyIn(_Strict):
    """A key to make."""

    name: Name
    role: Role
    limits: LimitsIn = LimitsIn()


class UserIn(KeyIn):
    """A user to make: who comes in by name and password."""

    password: Password


class KeyChange(_Strict):
    """What to change; what is left out stays."""

    role: Role | None = None
    disabled: StrictBool | None = None
    limits: LimitsIn | None = None


class UserChange(KeyChange):
    """What to change; what is left out stays."""

    password: Password | None = None


class LimitsOut(BaseModel):
    """null: no limit."""

    rate: float | None
    waiting: int | None
    recipients: int | None
    file_bytes: int | None


class ClientOut(BaseModel):
    """A key or a user. Neither its key nor its password is ever told again."""

    id: str
    name: str
    role: Role
    created_at: datetime
    by: Annotated[str, Field(description="Who made it")]
    last_used_at: Annotated[datetime | None, Field(description="To the minute")]
    disabled_at: datetime | None
    limits: LimitsOut


class NewKeyOut(ClientOut):
    """The only answer that holds the key."""

    key: str


class ClientPageIn(_Strict):
    """Which part of the list."""

    limit: Annotated[int, Field(ge=1, le=access.LONGEST_PAGE)] = access.PAGE
    cursor: Annotated[str | None, Field(description="`next` of the page before")] = None


class KeysOut(BaseModel):
    """Keys in the order in which they were made."""

    keys: list[ClientOut]
    next: str | None


class UsersOut(BaseModel):
    """Users in the order in which they were made."""

    users: list[ClientOut]
    next: str | None


class MeOut(BaseModel):
    """Who asks. The user of the settings has the id ''."""

    id: str
    name: str
    role: Role
    limits: LimitsOut


def blueprint(clients: Clients, settings: Settings, gate: Gate) -> APIBlueprint:
    """The routes over `clients`."""
    bp = APIBlueprint("access", __name__, url_prefix="/api/v1", enable_openapi=True)
    bp.register_blueprint(_keys(clients, gate))
    bp.register_blueprint(_users(clients, settings, gate))
    bp.register_blueprint(_me(gate))
    return bp


def _keys(clients: Clients, gate: Gate) -> APIBlueprint:
    bp = gate.guard(APIBlueprint("keys", __name__, tag="Keys"), "admin")
    bp.before_request(_only_objects)

    @bp.post("/keys")
    @bp.input(KeyIn)
    @bp.output(NewKeyOut, status_code=201)
    @bp.doc(summary="Make a key", security=ANY_SCHEME, responses=_faults(400, 413, 415))
    def create_key(json_data: KeyIn) -> Response:
        quota = json_data.limits.quota()
        made, key = clients.add_key(json_data.name, json_data.role, client().name, quota)
        audited(made.id)
        answer = _answer(access.told(made) | {"key": key}, 201)
        answer.headers["Cache-Control"] = "no-store"
        return answer

    @bp.get("/keys")
    @bp.input(ClientPageIn, location="query")
    @bp.output(KeysOut)
    @bp.doc(summary="All keys", security=ANY_SCHEME, responses=_faults(400))
    def list_keys(query_data: ClientPageIn) -> Response:
        found, after = clients.page("key", query_data.limit, query_data.cursor)
        return jsonify(keys=[access.told(one) for one in found], next=after)

    @bp.get("/keys/<id>")
    @bp.output(ClientOut)
    @bp.doc(summary="One key", security=ANY_SCHEME, responses=_faults(404))
    def get_key(id: str) -> Response:  # noqa: A002 - the path's word for it
        return jsonify(access.told(clients.get("key", id)))

    @bp.patch("/keys/<id>")
    @bp.input(KeyChange)
    @bp.output(ClientOut)
    @bp.doc(
        summary="Stop a key, or change what it may",
        security=ANY_SCHEME,
        responses=_faults(400, 404, 413, 415),
    )
    def change_key(id: str, json_data: KeyChange) -> Response:  # noqa: A002
        return jsonify(access.told(_change(clients, "key", id, json_data)))

    @bp.delete("/keys/<id>")
    @bp.output({}, status_code=204)
    @bp.doc(summary="Take a key away", security=ANY_SCHEME, responses=_faults(404))
    def delete_key(id: str) -> Response:  # noqa: A002
        clients.delete("key", id)
        return Response(status=204)

    return bp


def _users(clients: Clients, settings: Settings, gate: Gate) -> APIBlueprint:
    bp = gate.guard(APIBlueprint("users", __name__, tag="Users"), "admin")
    bp.before_request(_only_objects)

    @bp.post("/users")
    @bp.input(UserIn)
    @bp.output(ClientOut, status_code=201)
    @bp.doc(summary="Make a user", security=ANY_SCHEME, responses=_faults(400, 413, 415))
    def create_user(json_data: UserIn) -> Response:
        access.refuse_name(json_data.name, settings)
        made = clients.add_user(
            json_data.name,
            json_data.role,
            client().name,
            json_data.limits.quota(),
            json_data.password.get_secret_value(),
        )
        audited(made.id)
        return _answer(access.told(made), 201)

    @bp.get("/users")
    @bp.input(ClientPageIn, location="query")
    @bp.output(UsersOut)
    @bp.doc(summary="All users", security=ANY_SCHEME, responses=_faults(400))
    def list_users(query_data: ClientPageIn) -> Response:
        found, after = clients.page("user", query_data.limit, query_data.cursor)
        return jsonify(users=[access.told(one) for one in found], next=after)

    @bp.get("/users/<id>")
    @bp.output(ClientOut)
    @bp.doc(summary="One user", security=ANY_SCHEME, responses=_faults(404))
    def get_user(id: str) -> Response:  # noqa: A002
        return jsonify(access.told(clients.get("user", id)))

    @bp.patch("/users/<id>")
    @bp.input(UserChange)
    @bp.output(ClientOut)
    @bp.doc(
        summary="Stop a user, or change what it may, or its password",
        security=ANY_SCHEME,
        responses=_faults(400, 404, 413, 415),
    )
    def change_user(id: str, json_data: UserChange) -> Response:  # noqa: A002
        return jsonify(access.told(_change(clients, "user", id, json_data, json_data.password)))

    @bp.delete("/users/<id>")
    @bp.output({}, status_code=204)
    @bp.doc(summary="Take a user away", security=ANY_SCHEME, responses=_faults(404))
    def delete_user(id: str) -> Response:  # noqa: A002
        clients.delete("user", id)
        return Response(status=204)

    return bp


def _me(gate: Gate) -> APIBlueprint:
    bp = gate.guard(APIBlueprint("me", __name__, tag="Me"))

    @bp.get("/me")
    @bp.output(MeOut)
    @bp.doc(summary="Who asks", security=ANY_SCHEME)
    def me() -> Response:
        who = client()
        return jsonify(id=who.id, name=who.name, role=who.role, limits=access.limits(who.quota))

    return bp


def _only_objects() -> None:
    """Refuses `null` and the like, which APIFlask takes for an object without fields."""
    if request.method in {"POST", "PATCH"} and not isinstance(request.get_json(), dict):
        raise InvalidRequest("body", "must be an object")


def _faults(*statuses: int) -> dict[int, Any]:
    return problems(403, *statuses)


def _change(
    clients: Clients, kind: Kind, id_: str, asked: KeyChange, password: SecretStr | None = None
) -> Known:
    return clients.change(
        kind,
        id_,
        role=asked.role,
        disabled=asked.disabled,
        quota=asked.limits.quota() if asked.limits else None,
        password=password.get_secret_value() if password else None,
    )


def _answer(told: dict[str, object], status: int) -> Response:
    """The answer whole: APIFlask would check it against its schema, and leave the status to be said twice."""
    response = jsonify(told)
    response.status_code = status
    return response
