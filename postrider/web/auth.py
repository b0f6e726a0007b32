"""Who may come in, and do what: one gate, put before a whole blueprint, so that no view can forget it.

What only reads needs a `viewer`, anything else a `sender`. A blueprint, or a view by `@needs`, may ask for more.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeVar

from apiflask import APIBlueprint
from flask import Response, current_app, g, request
from flask_httpauth import HTTPAuth
from werkzeug.http import parse_options_header

from postrider.admission import Admission, Basic, Credential, Key
from postrider.audit import Audit, Kind
from postrider.errors import Forbidden, InvalidRequest
from postrider.logins import TooManyTries
from postrider.model import ROLES, Client, Role
from postrider.web import problems
from postrider.web.address import origin

View = TypeVar("View", bound=Callable[..., object])
SENDS = {
    *("POST /send_message", "POST /api/v1/messages", "POST /api/v1/messages/batch"),
    *("POST /data", "POST /msg", "POST /send-message/"),
    "POST /ws/message/{phone}/{message}/{return_url}",
}
"""What is done all day, and has a stream of its own in the audit log."""
ASKS = {"POST /init", "POST /cons"}
"""What only asks, whatever its method, and is not told to the audit log."""
SAFE = {"GET", "HEAD", "OPTIONS"}
SCHEMES = {
    "basic": {"type": "http", "scheme": "basic"},
    "key": {"type": "http", "scheme": "bearer", "description": "An API key"},
}
"""OpenAPI's words for the ways in."""
ANY_SCHEME: list[str | dict[str, list[Any]]] = [*SCHEMES]
"""`security=` of a route behind the gate."""


def needs(role: Role) -> Callable[[View], View]:
    """Marks a view that asks for more than its method does."""

    def mark(view: View) -> View:
        view.__dict__["role"] = role
        return view

    return mark


def credential(header: str) -> Credential | None:
    """What an `Authorization` header says; None where it says nothing that we know."""
    scheme, _, rest = header.partition(" ")
    rest = rest.strip()
    match scheme.lower():
        case "basic":
            try:
                raw = base64.b64decode(rest, validate=True)
            except (binascii.Error, ValueError):
                return None
            user, colon, password = _text(raw).partition(":")
            return Basic(user, password) if colon else None
        case "bearer" if rest:
            return Key(rest)
        case "token" if rest:
            name, equals, value = rest.partition("=")
            if not equals or name.strip().lower() != "token":
                return None
            _, options = parse_options_header(f"token; token={value.strip()}")
            return Key(options["token"]) if options.get("token") else None
    return None


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


class _AnyScheme(HTTPAuth):  # type: ignore[misc] # untyped
    """Flask-HTTPAuth, told what a header says by `credential`: its own readers know one scheme each, by exact case."""

    def __init__(self, gate: "Gate") -> None:
        super().__init__("Basic", realm="Postrider")
        self._gate = gate

    def get_auth(self) -> Credential | None:
        """What the request carries."""
        return credential(request.headers.get("Authorization", ""))

    def get_auth_password(self, auth: Credential | None) -> None:
        """Nothing: no password is kept that could be given back."""

    def authenticate(self, auth: Credential | None, _: None) -> Client | None:
        """Whose it is."""
        return self._gate.admit(auth) if auth else None


class Gate:
    """Lets in who has a role that is enough, at a pace that is not too much; and has the audit log told."""

    def __init__(
        self,
        admission: Admission,
        audit: Audit,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self._admission, self._audit, self._trusted = admission, audit, tuple(trusted_proxies)
        self._auth = _AnyScheme(self)

        @self._auth.error_handler  # type: ignore[untyped-decorator]
        def refuse(status: int) -> Response:
            return problems.answer(status, "Unauthorized access")

    def guard(
        self, blueprint: APIBlueprint, role: Role | None = None, *, query_is_ours: bool = True
    ) -> APIBlueprint:
        """`blueprint`, with every one of its routes behind a login. `role`: what all of them ask for at least.

        `query_is_ours`: what stands behind the `?` is for us, so that nothing is given twice there.
        """

        def enter() -> None:
            if request.method != "OPTIONS":  # says no more than which methods there are, to anybody
                self._demand(_role_for(role))
                for name, values in request.args.lists():
                    if query_is_ours and len(values) > 1:
                        raise InvalidRequest(name, "is given more than once")

        blueprint.before_request(self._auth.login_required(enter))
        blueprint.after_request(self._tell)
        return blueprint

    def admit(self, given: Credential) -> Client | None:
        """Whose credential it is. A wrong one is told to the audit log."""
        try:
            found = self._admission.admit(given, self._address())
        except TooManyTries as error:
            if error.first:  # one line says it; one for each would be a way to push others out
                self._tell_login(given, 429)
            raise
        if found is None:
            self._tell_login(given, 401)
        return found

    def _demand(self, role: Role) -> None:
        who = g.client = self._auth.current_user()
        self._admission.demand_pace(who)
        if not who.may(role):
            raise Forbidden(f"this takes the role {role}; {who.name} is a {who.role}")

    def _address(self) -> str:
        forwarded_for = ",".join(request.headers.getlist("X-Forwarded-For"))
        return origin(request.remote_addr or "", forwarded_for, self._trusted)

    # -- the audit log

    def _tell_login(self, given: Credential, status: int) -> None:
        name = given.user if isinstance(given, Basic) else ""
        self._write("refused", Client("", name, "viewer"), "login", type(given).__name__, status)

    def _tell(self, response: Response) -> Response:
        """Writes down what changed something, or was refused."""
        who: Client | None = g.get("client")
        status = response.status_code
        if who is None or request.url_rule is None or g.get("wrong"):
            return response
        action = f"{request.method} {_template(request.url_rule.rule)}"
        what = g.get("audited") or ",".join(map(str, (request.view_args or {}).values()))
        if status == HTTPStatus.FORBIDDEN:
            self._write("refused", who, action, what, status)
        elif request.method not in SAFE and action not in ASKS and not 400 <= status < 500:
            self._write("sent" if action in SENDS else "changed", who, action, what, status)
        return response

    def _write(self, kind: Kind, who: Client, action: str, what: str, status: int) -> None:
        self._audit.write(
            kind,
            actor=who.id,
            name=who.name,
            action=action,
            what=what,
            address=self._address(),
            result=str(status),
        )


def client() -> Client:
    """Who asks: behind the gate there is always somebody."""
    who: Client = g.client
    return who


def audited(what: str) -> None:
    """Has the audit log say `what` this request was about, where its path does not. Never a text or a secret."""
    g.audited = what


def wrong() -> None:
    """Has the audit log say nothing of this request, as of any that is wrong: its status does not tell."""
    g.wrong = True


def _role_for(least: Role | None) -> Role:
    """What this request asks for: the most of what its method, its blueprint and its view do."""
    view = current_app.view_functions[request.endpoint or ""]
    asked: list[Role | None] = [
        "viewer" if request.method in SAFE else "sender",
        least,
        getattr(view, "role", None),
    ]
    return max((role for role in asked if role), key=ROLES.index)


def _template(rule: str) -> str:
    """`/api/v1/keys/<id>` -> `/api/v1/keys/{id}`."""
    return re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule)
