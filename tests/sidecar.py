"""A sidecar that behaves, but whose phones are none: WAHA, or gowa, as a process.

    python -m tests.sidecar [--port 0] [--dialect waha|gowa] [--key K] [--scale 1] [--state FILE] [--autostart]

prints its URL once it listens. Tests steer it by `Sidecar`, which talks to `/_test/...`. `scale`: how long its seconds take;
a QR code that lives 60 s lives 60 * scale. `state`: where linked phones survive its end; `autostart`: sessions that ran, run
again after that.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import aiohttp
import requests
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
FIRST_CODE_S, NEXT_CODE_S, CODES = 60, 20, 6
START_S = 2.0
"""Seconds (of its own) that a session takes to start."""
PATIENCE_S = 5.0
"""Seconds (of its own) for which WAHA waits for a session that is not in the state that a call needs."""
OWN_NAME = "http://localhost:3000"
"""What it believes to be its address: links in what it tells begin so."""
CHALLENGE = {
    "challenge": "9WVUYm9AsQ",
    "timeout": 60000,
    "rpId": "web.whatsapp.com",
    "allowCredentials": [
        {"id": "AX8bTgH2", "type": "public-key", "transports": ["internal", "hybrid"]}
    ],
    "userVerification": "required",
}
TIMELOCK = "server returned error 463"
OVERLIMIT = "info query returned status 429: rate-overlimit"
DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG: what is shown instead of a QR code where nothing can draw one."""


def png_of(text: str) -> bytes:
    """`text` as a QR code, where segno is installed."""
    try:
        import segno  # noqa: PLC0415 - may be missing
    except ImportError:
        return DOT
    buffer = io.BytesIO()
    segno.make(text, error="m").save(buffer, kind="png", scale=6, border=4)
    return buffer.getvalue()


class Session:
    """One session, and its phone."""

    def __init__(self, place: "Place", name: str, config: dict[str, Any]) -> None:
        self.place = place
        self.name = name
        self.config = config
        self.status = "STOPPED"
        self.statuses: list[dict[str, Any]] = []
        self.running = False
        self.number = ""
        """Of the phone that has linked it; kept while it is stopped."""
        self.push_name = "Shop"
        self.fault = ""
        """Why it cannot come up: `away` until it comes back, `unlinked` until it is logged out, `banned` for ever."""
        self.code = ""
        self.codes_shown = 0
        self.pair_code = ""
        self.confirms = False
        self.confirmation = ""
        self.linking = ""
        self.timer: asyncio.Task[None] | None = None

    # -- as its sidecar does

    def start(self) -> None:
        """Has it run; one that does, failed or not, is left alone."""
        if self.running:
            return
        self.running = True
        self.go("STARTING")
        self.after(START_S, self._come_up)

    async def _come_up(self) -> None:
        if self.fault:
            self.go("FAILED")
        elif self.number:
            self.go("WORKING")
        elif self.place.shows_codes_at_start:
            await self._show_codes()
        else:
            self.running = False
            self.go("STOPPED")

    def show_codes(self) -> None:
        """Begins with the first of its codes."""
        self.running, self.code = True, ""
        self.after(0, self._show_codes)

    async def _show_codes(self) -> None:
        self.codes_shown = 0
        for lives_s in (FIRST_CODE_S, *[NEXT_CODE_S] * (CODES - 1)):
            self.code = f"2@{secrets.token_urlsafe(24)},{secrets.token_urlsafe(16)}"
            self.codes_shown += 1
            self.go("SCAN_QR_CODE")
            await self.place.sleep(lives_s)
        self.code = ""
        self.go("FAILED")

    def stop(self) -> None:
        """Has it rest."""
        self.cancel()
        self.running = False
        self.code = ""
        if self.status != "STOPPED":
            self.go("STOPPED")

    def forget_phone(self) -> None:
        """Unlinks it."""
        self.number = ""
        if self.fault == "unlinked":
            self.fault = ""

    # -- as its phone, and the world, do

    def scan(self, number: str, *, passkey: bool, confirms: bool) -> str:
        """A phone scans its code; says why not."""
        if self.status != "SCAN_QR_CODE":
            return f"there is no code to scan: {self.status}"
        self.cancel()
        self.code, self.linking, self.confirms = "", number, confirms
        if passkey:
            self.go("PASSKEY_REQUIRED", CHALLENGE)
        else:
            self.link()
        return ""

    def answer(self) -> None:
        """The challenge was answered."""
        if self.confirms:
            self.confirmation = "1234"
            self.go("PASSKEY_CONFIRMATION_REQUIRED", {"code": "1234"})
        else:
            self.link()

    def link(self) -> None:
        """Its phone is linked."""
        self.number, self.confirmation = self.linking, ""
        self.go("WORKING")
        self.place.save()

    def unlink(self, *, forgotten: bool) -> None:
        """Its phone unlinks it; `forgotten`: and the engine forgets the phone, as whatsmeow does and Baileys does not."""
        self.cancel()
        if forgotten:
            self.number = ""
        else:
            self.fault = "unlinked"
        if self.running:
            self.go("FAILED")
        self.place.save()

    def drop(self, status: str, *, away: bool) -> None:
        """It loses its phone; `away`: and does not find it until `come_back`."""
        self.cancel()
        if away:
            self.fault = "away"
        self.running = status != "STOPPED"
        self.go(status)

    def come_back(self) -> None:
        """Its phone is there again."""
        self.fault = ""
        self.cancel()
        self.running = True
        self.go("WORKING" if self.number else "FAILED")

    def ban(self) -> None:
        """WhatsApp bans it."""
        self.cancel()
        self.fault, self.number = "banned", ""
        self.go("FAILED")

    # -- telling

    @property
    def me(self) -> dict[str, Any] | None:
        if not self.number or self.status != "WORKING":
            return None
        return {
            "id": f"{self.number}@c.us",
            "jid": f"{self.number}:7@s.whatsapp.net",
            "lid": "123123@lid",
            "pushName": self.push_name,
        }

    def go(self, status: str, told: Any = None) -> None:
        """Is in that state from now on, and says so."""
        self.status = status
        point = {"status": status, "timestamp": int(time.time() * 1000)}
        self.statuses = [*self.statuses, point][-3:]
        body = {"name": self.name, "status": status, "statuses": self.statuses, "data": told}
        self.place.tell(self, "session.status", body)

    def after(self, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        """Does `what` in so many seconds of its own, unless something else happens."""

        async def wait() -> None:
            await self.place.sleep(seconds)
            await what()

        self.cancel()
        self.timer = asyncio.create_task(wait())

    def cancel(self) -> None:
        """Nothing happens by itself any more."""
        if self.timer and self.timer is not asyncio.current_task():
            self.timer.cancel()
        self.timer = None


class Place:
    """The whole sidecar, but for the language it speaks."""

    shows_codes_at_start = True

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        for session in getattr(self, "sessions", {}).values():
            session.cancel()
        self.key: str = self.args.key
        self.scale: float = self.args.scale
        self.sessions: dict[str, Session] = {}
        self.requests: list[dict[str, Any]] = []
        self.messages: list[dict[str, Any]] = []
        self.hooks: list[dict[str, Any]] = []
        self.files: dict[str, tuple[bytes, str]] = {}
        self.rules: list[dict[str, Any]] = []
        self.absent: set[str] = set()
        self.chats: dict[str, str] = {}
        self.acks: list[int] = []
        self.tasks: set[asyncio.Task[None]] = set()

    async def sleep(self, seconds: float) -> None:
        """So many seconds of its own."""
        await asyncio.sleep(seconds * self.scale)

    def do(self, work: Any) -> None:
        """Has it done beside."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def save(self) -> None:
        """Keeps what survives."""
        if not self.args.state:
            return
        kept = {
            s.name: {"config": s.config, "number": s.number, "running": s.running}
            for s in self.sessions.values()
        }
        path = Path(self.args.state)
        path.with_suffix(".new").write_text(json.dumps(kept))
        path.with_suffix(".new").replace(path)

    def load(self) -> None:
        """Has what has survived."""
        if not self.args.state or not Path(self.args.state).exists():
            return
        for name, kept in json.loads(Path(self.args.state).read_text()).items():
            session = self.sessions[name] = Session(self, name, kept["config"])
            session.number = kept["number"]
            if kept["running"] and self.args.autostart:
                session.start()

    # -- telling the service

    def tell(self, session: Session, event: str, payload: dict[str, Any]) -> None:
        """Has it told to the session's webhooks."""
        raise NotImplementedError

    async def post(
        self, url: str, body: bytes, headers: dict[str, str], delays_s: list[float]
    ) -> None:
        """One call of a webhook, tried again after these seconds of its own."""
        told = {"url": url, "body": json.loads(body), "headers": headers, "statuses": []}
        self.hooks.append(told)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as client:
            for delay_s in [*delays_s, None]:
                try:
                    async with client.post(url, data=body, headers=headers) as answer:
                        told["statuses"].append(answer.status)
                        if answer.status < 300:
                            return
                except (aiohttp.ClientError, TimeoutError) as error:
                    told["statuses"].append(str(error))
                if delay_s is not None:
                    await self.sleep(delay_s)

    # -- messages

    def take(self, session: Session, to: str, kind: str, **told: Any) -> dict[str, Any]:
        """A message that was sent, and is in the log."""
        message = {
            "session": session.name,
            "to": to,
            "kind": kind,
            "id": "3EB0" + secrets.token_hex(9).upper(),
            "at": time.time(),
            **told,
        }
        self.messages.append(message)
        for n, ack in enumerate(self.acks):
            self.do(self._ack_later(session, message, ack, (n + 1) * 0.5))
        return message

    async def _ack_later(
        self, session: Session, message: dict[str, Any], ack: int, after_s: float
    ) -> None:
        await self.sleep(after_s)
        self.ack(session, message, ack)

    def ack(self, session: Session, message: dict[str, Any], ack: int) -> None:
        """Tells what became of a message."""
        raise NotImplementedError

    def hears(self, session: Session, said: dict[str, Any]) -> str:
        """Somebody has written; gives the message's id."""
        raise NotImplementedError

    # -- serving

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(middlewares=[self._judged], client_max_size=200 * 1024 * 1024)
        app.router.add_get("/_test/state", self._state)
        app.router.add_post("/_test/{what}", self._steer)
        self.routes(app.router)
        return app

    def routes(self, router: web.UrlDispatcher) -> None:
        """Adds the paths of its language."""
        raise NotImplementedError

    def refusal(self, status: int, message: str) -> web.Response:
        """An error in its language."""
        raise NotImplementedError

    def allowed(self, request: web.Request) -> bool:
        """Whether who asks may."""
        raise NotImplementedError

    @web.middleware
    async def _judged(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Every request but a test's: logged, its key looked at, and spoilt where a test says so."""
        if request.path.startswith("/_test/"):
            return await handler(request)
        body = await request.read()
        is_json = request.content_type == "application/json"
        told = {
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "headers": dict(request.headers),
            "body": None,
            "at": time.time(),
            "status": None,
        }
        self.requests.append(told)
        if body and is_json:
            with contextlib.suppress(ValueError):
                told["body"] = json.loads(body)
        rule = self._rule(request, told["body"] or {})
        if rule and rule["how"] == "slow":
            await asyncio.sleep(rule["value"])
        elif rule and rule["how"] == "cut":
            request.transport.close()
            return web.Response()
        elif rule and rule["how"] == "garbage":
            return web.Response(text="<html>\ufffd{", content_type="text/html")
        elif rule and rule["how"] == "status":
            told["status"] = rule["value"]
            return self.refusal(rule["value"], rule.get("text") or "told to")
        if not self.allowed(request):
            told["status"] = 401
            return self.refusal(401, "Unauthorized")
        request["rule"] = rule["how"] if rule else ""
        try:
            answer = await handler(request)
        except Refused as refused:
            answer = refused.answer
        told["status"] = answer.status
        self.save()
        if rule and rule["how"] == "lose":
            request.transport.close()
        return answer

    def _rule(self, request: web.Request, body: Any) -> dict[str, Any] | None:
        """What is to be spoilt here, if anything is."""
        where = f"{request.method} {request.path_qs}"
        named = body.get("session") if isinstance(body, dict) else None
        named = named or request.headers.get("X-Device-Id") or request.query.get("session")
        for rule in self.rules:
            of_session = (
                not rule.get("session")
                or named == rule["session"]
                or rule["session"] in request.path.split("/")
            )
            if of_session and re.search(rule.get("path") or "", where):
                if rule.get("times"):
                    rule["times"] -= 1
                    if not rule["times"]:
                        self.rules.remove(rule)
                return rule
        return None

    # -- being steered

    async def _state(self, _: web.Request) -> web.Response:
        sessions = {
            s.name: {
                "status": s.status,
                "number": s.number,
                "running": s.running,
                "code": s.code,
                "codes_shown": s.codes_shown,
                "config": s.config,
            }
            for s in self.sessions.values()
        }
        return web.json_response(
            {
                "sessions": sessions,
                "requests": self.requests,
                "messages": self.messages,
                "hooks": self.hooks,
            }
        )

    async def _steer(self, request: web.Request) -> web.Response:  # noqa: C901, PLR0912 - a table
        told = await request.json()
        what = request.match_info["what"]
        session = self.sessions.get(told.get("session", ""))
        found: Any = ""
        match what:
            case "reset":
                self.clear()
                self.key = told.get("key", self.key)
                self.scale = told.get("scale", self.scale)
            case "rule":
                self.rules.append(told)
            case "rules":
                self.rules = []
            case "acks":
                self.acks = told["acks"]
            case "absent":
                self.absent = set(told["numbers"])
            case "chats":
                self.chats = told["chats"]
            case _ if session is None:
                return web.json_response({"why": "there is no such session"}, status=409)
            case "scan":
                flags = {
                    "passkey": told.get("passkey", False),
                    "confirms": told.get("confirms", False),
                }
                found = session.scan(told["number"], **flags)
                if found:
                    return web.json_response({"why": found}, status=409)
            case "unlink":
                session.unlink(forgotten=told.get("forgotten", True))
            case "drop":
                session.drop(told.get("status", "FAILED"), away=told.get("away", False))
            case "come_back":
                session.come_back()
            case "ban":
                session.ban()
            case "say":
                found = self.hears(session, told)
            case "ack":
                message = next(m for m in self.messages if m["id"] == told["id"])
                self.ack(session, message, told["ack"])
            case _:
                return web.json_response({"why": "what?"}, status=404)
        return web.json_response({"found": found})

    def file(self, name: str, told: dict[str, Any]) -> None:
        """Keeps the file that somebody sends, to be fetched."""
        content = base64.b64decode(told["data"])
        self.files[name] = (content, told.get("mimetype", "application/octet-stream"))


class Refused(Exception):
    """What was asked for is refused."""

    def __init__(self, answer: web.Response) -> None:
        super().__init__()
        self.answer = answer


NEST = {400: "Bad Request", 404: "Not Found", 422: "Unprocessable Entity"}


class Waha(Place):
    """https://waha.devlike.pro/docs/how-to/sessions/"""

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/ping", self.ping)
        router.add_get("/health", self.health)
        router.add_get("/api/server/version", self.version)
        router.add_get("/api/version", self.version)
        router.add_get("/api/sessions", self.listed)
        router.add_post("/api/sessions", self.create)
        router.add_get("/api/sessions/{session}", self.shown)
        router.add_put("/api/sessions/{session}", self.update)
        router.add_delete("/api/sessions/{session}", self.delete)
        router.add_get("/api/sessions/{session}/me", self.who)
        for what in ("start", "stop", "logout", "restart"):
            router.add_post(f"/api/sessions/{{session}}/{what}", getattr(self, what))
        router.add_get("/api/{session}/auth/qr", self.qr)
        router.add_post("/api/{session}/auth/request-code", self.request_code)
        router.add_get("/api/{session}/auth/passkey/challenge", self.challenge)
        router.add_post("/api/{session}/auth/passkey", self.passkey)
        router.add_get("/api/{session}/auth/passkey/confirmation", self.confirmation)
        router.add_post("/api/{session}/auth/passkey/confirm", self.confirm)
        router.add_get("/api/contacts/check-exists", self.check)
        router.add_get("/api/checkNumberStatus", self.check)
        router.add_post("/api/{session}/presence", self.presence)
        router.add_post("/api/sendText", self.send)
        for what in ("Image", "File", "Voice", "Video"):
            router.add_post(f"/api/send{what}", self.send)
        router.add_get("/api/files/{path:.*}", self.fetch)

    def refusal(self, status: int, message: str) -> web.Response:
        if status >= 500:
            return web.json_response(
                {
                    "statusCode": status,
                    "timestamp": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
                    "exception": {"message": message, "name": "Error", "stack": ""},
                    "request": {"path": "", "method": "", "body": {}, "query": {}},
                    "version": {"version": "2026.7.1", "engine": "GOWS", "tier": "CORE"},
                },
                status=status,
            )
        told = {"message": message, "statusCode": status}
        return web.json_response(
            told | ({"error": NEST[status]} if status in NEST else {}), status=status
        )

    def allowed(self, request: web.Request) -> bool:
        return (
            request.path == "/ping"
            or not self.key
            or hmac.compare_digest(request.headers.get("X-Api-Key", ""), self.key)
        )

    # -- what it is

    async def ping(self, _: web.Request) -> web.Response:
        return web.json_response({"message": "pong"})

    async def health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "info": {}, "error": {}, "details": {}})

    async def version(self, _: web.Request) -> web.Response:
        found = {"version": "2026.7.1", "engine": "GOWS", "tier": "CORE", "browser": None}
        return web.json_response(found)

    # -- sessions

    def info(self, session: Session) -> dict[str, Any]:
        """SessionInfo."""
        return {
            "name": session.name,
            "status": session.status,
            "config": session.config,
            "me": session.me,
            "presence": {},
            "timestamps": {"activity": int(time.time() * 1000)},
            "engine": {"engine": "GOWS"},
        }

    def named(self, request: web.Request) -> Session:
        """The session that the path names."""
        if session := self.sessions.get(request.match_info["session"]):
            return session
        raise Refused(self.refusal(404, "Session not found"))

    async def in_state(self, name: str, *states: str) -> Session:
        """The session, once it is in one of these states; it is waited for. Without any: once it runs."""
        session = self.sessions.get(name)
        if session is None or not session.running:
            why = (
                f"We didn't find a session with name '{name}'.\n"
                f"Please start it first by using POST /api/sessions/{name}/start request"
            )
            raise Refused(self.refusal(404, why))
        deadline = time.monotonic() + PATIENCE_S * self.scale
        while states and session.status not in states:
            if time.monotonic() > deadline:
                why = {
                    "error": "Session status is not as expected. Try again later or restart the session",
                    "session": name,
                    "status": session.status,
                    "expected": list(states),
                }
                raise Refused(web.json_response(why, status=422))
            await asyncio.sleep(0.01)
        return session

    async def listed(self, request: web.Request) -> web.Response:
        every = request.query.get("all") == "true"
        found = [self.info(s) for s in self.sessions.values() if every or s.status != "STOPPED"]
        return web.json_response(found)

    async def create(self, request: web.Request) -> web.Response:
        told = await request.json()
        name = told.get("name") or f"session_{secrets.token_hex(8)}"
        if name in self.sessions:
            return self.refusal(422, f"Session '{name}' already exists. Use PUT to update it.")
        session = self.sessions[name] = Session(self, name, told.get("config") or {})
        if told.get("start", True):
            session.start()
        return web.json_response(self.info(session), status=201)

    async def shown(self, request: web.Request) -> web.Response:
        return web.json_response(self.info(self.named(request)))

    async def who(self, request: web.Request) -> web.Response:
        return web.json_response(self.named(request).me)

    async def update(self, request: web.Request) -> web.Response:
        session = self.named(request)
        told = await request.json()
        ran = session.running
        session.stop()
        session.config = told.get("config") or {}
        if ran:
            session.start()
        return web.json_response(self.info(session))

    async def delete(self, request: web.Request) -> web.Response:
        session = self.sessions.get(request.match_info["session"])
        if session:
            session.stop()
            del self.sessions[session.name]
        return web.Response()

    async def start(self, request: web.Request) -> web.Response:
        session = self.named(request)
        session.start()
        return web.json_response(self.info(session), status=201)

    async def stop(self, request: web.Request) -> web.Response:
        session = self.sessions.get(request.match_info["session"])
        if session is None:
            return web.Response(status=201)
        session.stop()
        return web.json_response(self.info(session), status=201)

    async def restart(self, request: web.Request) -> web.Response:
        session = self.named(request)
        session.stop()
        session.start()
        return web.json_response(self.info(session), status=201)

    async def logout(self, request: web.Request) -> web.Response:
        """It is started from scratch, if it ran."""
        session = self.named(request)
        ran = session.running
        session.stop()
        session.forget_phone()
        if ran:
            session.start()
        return web.json_response(self.info(session), status=201)

    # -- linking

    async def qr(self, request: web.Request) -> web.Response:
        session = await self.in_state(request.match_info["session"], "SCAN_QR_CODE")
        if request.query.get("format") == "raw":
            return web.json_response({"value": session.code})
        png = png_of(session.code)
        if "application/json" in request.headers.get("Accept", ""):
            told = {"mimetype": "image/png", "data": base64.b64encode(png).decode()}
            return web.json_response(told)
        return web.Response(body=png, content_type="image/png")

    async def request_code(self, request: web.Request) -> web.Response:
        session = await self.in_state(request.match_info["session"], "SCAN_QR_CODE")
        if not (await request.json()).get("phoneNumber"):
            return self.refusal(400, "phoneNumber should not be empty")
        session.pair_code = session.pair_code or "ABCD-EFGH"
        return web.json_response({"code": session.pair_code}, status=201)

    async def challenge(self, request: web.Request) -> web.Response:
        session = await self.in_state(request.match_info["session"])
        if session.status != "PASSKEY_REQUIRED":
            return self.refusal(422, "No passkey challenge is pending")
        return web.json_response(CHALLENGE)

    async def passkey(self, request: web.Request) -> web.Response:
        session = await self.in_state(request.match_info["session"])
        if session.status != "PASSKEY_REQUIRED":
            return self.refusal(422, "No passkey challenge is pending")
        told = await request.json()
        if not {"id", "rawId", "type", "response"} <= told.keys():
            return self.refusal(400, "response should not be empty")
        session.answer()
        return web.Response(status=201)

    async def confirmation(self, request: web.Request) -> web.Response:
        session = await self.in_state(request.match_info["session"])
        if session.status != "PASSKEY_CONFIRMATION_REQUIRED":
            return self.refusal(422, "No passkey confirmation is pending")
        return web.json_response({"code": session.confirmation})

    async def confirm(self, request: web.Request) -> web.Response:
        session = await self.in_state(request.match_info["session"])
        if session.status != "PASSKEY_CONFIRMATION_REQUIRED":
            return self.refusal(422, "No passkey confirmation is pending")
        session.link()
        return web.Response(status=201)

    # -- what a session does

    def limited(self, request: web.Request) -> None:
        """WhatsApp may restrict it."""
        if request["rule"] in {"463", "429"}:
            why = {"463": TIMELOCK, "429": OVERLIMIT}[request["rule"]]
            raise Refused(self.refusal(500, f"2 UNKNOWN: {why}"))

    async def check(self, request: web.Request) -> web.Response:
        await self.in_state(request.query.get("session", "default"), "WORKING")
        self.limited(request)
        number = request.query.get("phone", "").removeprefix("+")
        if number in self.absent:
            return web.json_response({"numberExists": False})
        chat = self.chats.get(number, f"{number}@c.us")
        return web.json_response({"numberExists": True, "chatId": chat})

    async def presence(self, request: web.Request) -> web.Response:
        await self.in_state(request.match_info["session"], "WORKING")
        if (await request.json()).get("presence") not in {"online", "offline"}:
            return self.refusal(
                400, "presence must be one of the following values: offline, online"
            )
        return web.Response(status=201)

    async def send(self, request: web.Request) -> web.Response:
        told = await request.json()
        kind = request.path.removeprefix("/api/send").lower()
        lacks = [
            k
            for k in ("chatId", "session", "text" if kind == "text" else "file")
            if not told.get(k)
        ]
        if lacks:
            return self.refusal(400, f"{lacks[0]} should not be empty")
        session = await self.in_state(told["session"], "WORKING")
        self.limited(request)
        file = told.get("file") or {}
        more = {
            "text": told.get("text") or told.get("caption") or "",
            "file": file
            and {
                "name": file.get("filename"),
                "mimetype": file.get("mimetype"),
                "url": file.get("url"),
                "sha256": hashlib.sha256(base64.b64decode(file.get("data") or "")).hexdigest(),
            },
        }
        message = self.take(session, told["chatId"], kind, **more)
        answer = {
            "id": f"true_{told['chatId']}_{message['id']}",
            "timestamp": int(message["at"]),
            "from": f"{session.number}@c.us",
            "fromMe": True,
            "source": "api",
            "to": told["chatId"],
            "body": message["text"],
            "hasMedia": bool(file),
            "ack": 1,
            "ackName": "SERVER",
            "vCards": [],
            "_data": {},
        }
        return web.json_response(answer, status=201)

    async def fetch(self, request: web.Request) -> web.Response:
        if (found := self.files.get(request.match_info["path"])) is None:
            told = {"code": 404, "key": "FILE_NOT_FOUND", "message": "File not found"}
            return web.json_response({"error": told}, status=404)
        return web.Response(body=found[0], content_type=found[1])

    # -- what it tells

    def tell(self, session: Session, event: str, payload: dict[str, Any]) -> None:
        said = {
            "id": f"evt_{secrets.token_hex(13)}",
            "timestamp": int(time.time() * 1000),
            "event": event,
            "session": session.name,
            "metadata": session.config.get("metadata") or {},
            "me": session.me,
            "payload": payload,
            "engine": "GOWS",
            "environment": {
                "version": "2026.7.1",
                "engine": "GOWS",
                "tier": "CORE",
                "browser": None,
            },
        }
        for hook in session.config.get("webhooks") or []:
            if event not in hook["events"] and "*" not in hook["events"]:
                continue
            body = json.dumps(said, ensure_ascii=False).encode()
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "WAHA/2026.7.1",
                "X-Webhook-Request-Id": secrets.token_hex(8),
                "X-Webhook-Timestamp": str(said["timestamp"]),
            }
            if key := (hook.get("hmac") or {}).get("key"):
                headers["X-Webhook-Hmac"] = hmac.new(key.encode(), body, "sha512").hexdigest()
                headers["X-Webhook-Hmac-Algorithm"] = "sha512"
            self.do(self.post(hook["url"], body, headers, _delays(hook.get("retries") or {})))

    def ack(self, session: Session, message: dict[str, Any], ack: int) -> None:
        names = {-1: "ERROR", 0: "PENDING", 1: "SERVER", 2: "DEVICE", 3: "READ", 4: "PLAYED"}
        told = {
            "id": f"true_{message['to']}_{message['id']}",
            "from": f"{session.number}@c.us",
            "to": message["to"],
            "participant": None,
            "fromMe": True,
            "ack": ack,
            "ackName": names[ack],
            "_data": {},
        }
        self.tell(session, "message.ack", told)

    def hears(self, session: Session, said: dict[str, Any]) -> str:
        sender = f"{said.get('from', '375291234567')}@c.us"
        chat = said.get("group") or sender
        short = said.get("id") or "3A" + secrets.token_hex(9).upper()
        id_ = f"false_{chat}_{short}" + (f"_{sender}" if chat != sender else "")
        name = said.get("name", "Ana")
        told: dict[str, Any] = {
            "id": id_,
            "timestamp": int(time.time()),
            "from": chat,
            "fromMe": False,
            "source": "app",
            "to": f"{session.number}@c.us",
            "participant": sender if chat != sender else None,
            "body": said.get("text", ""),
            "hasMedia": False,
            "media": None,
            "ack": 2,
            "ackName": "DEVICE",
            "vCards": [],
            "_data": {"pushName": name, "notifyName": name, "Info": {"PushName": name}},
        }
        event = "message"
        match said.get("kind", "text"):
            case "location":
                at = {"latitude": said["latitude"], "longitude": said["longitude"]}
                told["location"] = {"description": said.get("text") or None, "live": False, **at}
            case "contact":
                told["vCards"] = [said["vcard"]]
            case "reaction":
                event = "message.reaction"
                del told["body"], told["hasMedia"], told["media"], told["vCards"]
                told["reaction"] = {"text": said["text"], "messageId": said["to"]}
            case "text":
                pass
            case _:
                name = f"{session.name}/{id_}{said.get('ending', '.jpg')}"
                self.file(name, said)
                told["hasMedia"] = True
                told["media"] = {
                    "url": f"{OWN_NAME}/api/files/{name}",
                    "mimetype": said.get("mimetype"),
                    "filename": said.get("filename"),
                    "s3": None,
                    "error": None,
                }
        self.tell(session, event, told)
        return id_


def _delays(retries: dict[str, Any]) -> list[float]:
    """Seconds between the tries of a webhook, as its policy says."""
    first, tries = retries.get("delaySeconds", 2), retries.get("attempts", 15)
    match retries.get("policy", "constant"):
        case "linear":
            return [first * (n + 1) for n in range(tries - 1)]
        case "exponential":
            return [first * 2.0**n for n in range(tries - 1)]
    return [float(first)] * (tries - 1)


class Gowa(Place):
    """https://github.com/aldinokemal/go-whatsapp-web-multidevice"""

    shows_codes_at_start = False

    def routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/health", self.health)
        router.add_get("/devices", self.listed)
        router.add_post("/devices", self.create)
        router.add_get("/devices/{session}", self.shown)
        router.add_delete("/devices/{session}", self.delete)
        router.add_get("/devices/{session}/login", self.login)
        router.add_post("/devices/{session}/login/code", self.login_code)
        router.add_post("/devices/{session}/logout", self.logout)
        router.add_post("/devices/{session}/reconnect", self.reconnect)
        router.add_get("/devices/{session}/status", self.stands)
        router.add_get("/devices/{session}/webhook", self.webhook)
        router.add_patch("/devices/{session}/webhook", self.set_webhook)
        router.add_get("/app/passkey", self.passkey)
        router.add_post("/app/passkey/response", self.passkey_response)
        router.add_post("/app/passkey/confirm", self.passkey_confirm)
        router.add_get("/user/check", self.check)
        router.add_post("/send/presence", self.presence)
        router.add_post("/send/message", self.send)
        for what in ("image", "audio", "file", "video", "sticker"):
            router.add_post(f"/send/{what}", self.send)
        router.add_get("/statics/{path:.*}", self.fetch)

    CODES: ClassVar = {400: "BAD_REQUEST", 401: "AUTHENTICATION_ERROR", 404: "NOT_FOUND"}

    def refusal(self, status: int, message: str, code: str = "") -> web.Response:
        code = code or self.CODES.get(status, "INTERNAL_SERVER_ERROR")
        told = {"status": status, "code": code, "message": message, "results": None}
        return web.json_response(told, status=status)

    def good(self, message: str, results: Any = None) -> web.Response:
        """What it says when all is well."""
        return web.json_response(
            {"status": 200, "code": "SUCCESS", "message": message, "results": results}
        )

    def allowed(self, request: web.Request) -> bool:
        if request.path == "/health" or not self.key:
            return True
        wanted = "Basic " + base64.b64encode(self.key.encode()).decode()
        return hmac.compare_digest(request.headers.get("Authorization", ""), wanted)

    # -- devices

    def named(self, request: web.Request) -> Session:
        """The device that the path names."""
        name = request.match_info["session"]
        if session := self.sessions.get(name):
            return session
        raise Refused(self.refusal(500, f"device {name} not found"))

    def meant(self, request: web.Request) -> Session:
        """The device that a header names, or the only one."""
        name = request.headers.get("X-Device-Id", "") or request.query.get("device_id", "")
        if not name and len(self.sessions) == 1:
            return next(iter(self.sessions.values()))
        if session := self.sessions.get(name):
            return session
        if name:
            why = "device not found; create a device first from /api/devices or provide a valid X-Device-Id"
            raise Refused(self.refusal(404, why, "DEVICE_NOT_FOUND"))
        why = "device_id is required via X-Device-Id header or device_id query"
        raise Refused(self.refusal(400, why, "DEVICE_ID_REQUIRED"))

    def there(self, request: web.Request) -> Session:
        """The device that is meant, if it is logged in."""
        session = self.meant(request)
        if session.status in {"STOPPED", "FAILED", "STARTING"}:
            why = "you are not connect to services server, please reconnect"
            raise Refused(self.refusal(401, why))
        if session.status != "WORKING":
            raise Refused(self.refusal(401, "you are not logged in"))
        if request["rule"] == "463":
            why = "WhatsApp rejected this send with error 463 (reach-out timelock)."
            raise Refused(self.refusal(429, why, "WA_REACHOUT_TIMELOCK"))
        if request["rule"] == "429":
            raise Refused(self.refusal(500, OVERLIMIT))
        return session

    def info(self, session: Session) -> dict[str, Any]:
        """DeviceInfo."""
        state = {"WORKING": "logged_in", "SCAN_QR_CODE": "connected", "STARTING": "connecting"}
        if session.status.startswith("PASSKEY"):
            state[session.status] = "connected"
        return {
            "id": session.name,
            "phone_number": session.number,
            "display_name": session.push_name if session.number else "",
            "state": state.get(session.status, "disconnected"),
            "jid": f"{session.number}@s.whatsapp.net" if session.number else "",
            "created_at": "2026-01-01T00:00:00Z",
        }

    async def health(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def listed(self, _: web.Request) -> web.Response:
        return self.good("List devices", [self.info(s) for s in self.sessions.values()])

    async def create(self, request: web.Request) -> web.Response:
        told = await request.json()
        name = told.get("device_id") or secrets.token_hex(16)
        if name in self.sessions:
            return self.refusal(500, f"device {name} already exists")
        config = {k: v for k, v in told.items() if k.startswith("webhook_")}
        session = self.sessions[name] = Session(self, name, config)
        shown = self.info(session)
        del shown["phone_number"]
        return self.good("Device added", shown | config)

    async def shown(self, request: web.Request) -> web.Response:
        return self.good("Device info", self.info(self.named(request)))

    async def delete(self, request: web.Request) -> web.Response:
        session = self.named(request)
        session.stop()
        del self.sessions[session.name]
        return self.good("Device removed")

    async def login(self, request: web.Request) -> web.Response:
        """Begins with a new first code each time."""
        session = self.named(request)
        if session.status == "WORKING":
            return self.refusal(400, "you are already logged in.", "ALREADY_LOGGED_IN")
        if session.fault == "banned":
            return self.refusal(500, "QR channel closed without receiving image")
        session.show_codes()
        while not session.code:  # noqa: ASYNC110 - it is there in a moment
            await asyncio.sleep(0.005)
        name = f"qrcode/scan-qr-{secrets.token_hex(8)}.png"
        self.files[name] = (png_of(session.code), "image/png")
        found = {
            "device_id": session.name,
            "qr_link": f"{OWN_NAME}/statics/{name}",
            "qr_duration": FIRST_CODE_S // 2,
        }
        return self.good("Login success", found)

    async def login_code(self, request: web.Request) -> web.Response:
        session = self.named(request)
        if session.status == "WORKING":
            return self.refusal(400, "you are already logged in.", "ALREADY_LOGGED_IN")
        if not request.query.get("phone"):
            return self.refusal(400, "phone_number: cannot be blank.", "VALIDATION_ERROR")
        if session.status != "SCAN_QR_CODE":
            session.show_codes()
        found = {"device_id": session.name, "pair_code": "ABCD-EFGH"}
        return self.good("Login with code started", found)

    async def logout(self, request: web.Request) -> web.Response:
        session = self.named(request)
        session.stop()
        session.forget_phone()
        return self.good("Logout requested")

    async def reconnect(self, request: web.Request) -> web.Response:
        session = self.named(request)
        if not session.number:
            why = f"device {session.name} is not logged in (session deleted)"
            return self.refusal(500, why)
        if session.fault:
            return self.refusal(500, "failed to dial whatsapp web websocket")
        session.stop()
        session.start()
        return self.good("Reconnect requested")

    async def stands(self, request: web.Request) -> web.Response:
        session = self.named(request)
        found = {
            "device_id": session.name,
            "is_connected": bool(session.number) and session.status == "WORKING",
            "is_logged_in": session.status == "WORKING",
        }
        return self.good("Device status", found)

    HOOK: ClassVar = {
        "webhook_url": "",
        "webhook_secret": "",
        "webhook_events": "",
        "webhook_insecure_skip_verify": False,
    }

    async def webhook(self, request: web.Request) -> web.Response:
        session = self.named(request)
        found = {"device_id": session.name, **self.HOOK, **session.config}
        return self.good("Device webhook retrieved", found)

    async def set_webhook(self, request: web.Request) -> web.Response:
        told = await request.json()
        if (session := self.sessions.get(request.match_info["session"])) is None:
            return self.refusal(404, "device not found")
        if "webhook_url" not in told:
            return self.refusal(400, "webhook_url is required")
        session.config = {k: told.get(k, v) for k, v in self.HOOK.items()}
        found = {"device_id": session.name, **session.config}
        return self.good("Device webhook updated", found)

    # -- passkeys

    async def passkey(self, request: web.Request) -> web.Response:
        session = self.meant(request)
        asked = session.status == "PASSKEY_REQUIRED"
        status = "awaiting_confirmation" if session.confirmation else "none"
        found = {
            "device_id": session.name,
            "status": "awaiting_response" if asked else status,
            "challenge": CHALLENGE if asked else None,
            "code": session.confirmation,
            "skip_handoff_ux": False,
        }
        return self.good("Passkey pairing status", found)

    async def passkey_response(self, request: web.Request) -> web.Response:
        session = self.meant(request)
        if session.status != "PASSKEY_REQUIRED":
            why = f"no pending passkey pairing request for device {session.name}"
            return self.refusal(500, why)
        session.answer()
        return self.good("Passkey response sent")

    async def passkey_confirm(self, request: web.Request) -> web.Response:
        session = self.meant(request)
        if session.status != "PASSKEY_CONFIRMATION_REQUIRED":
            return self.refusal(500, f"no pending passkey confirmation for device {session.name}")
        session.link()
        return self.good("Passkey confirmation sent")

    # -- what a device does

    async def check(self, request: web.Request) -> web.Response:
        self.there(request)
        number = request.query.get("phone", "").partition("@")[0].removeprefix("+")
        found = {"is_on_whatsapp": number not in self.absent}
        return self.good("Success check user", found)

    async def presence(self, request: web.Request) -> web.Response:
        self.there(request)
        if (await request.json()).get("type") not in {"available", "unavailable"}:
            return self.refusal(400, "type: must be a valid value.", "VALIDATION_ERROR")
        return self.good("Send presence success", {"message_id": "presence", "status": "success"})

    async def send(self, request: web.Request) -> web.Response:
        session = self.there(request)
        kind = request.path.rpartition("/")[2]
        told: dict[str, Any] = {}
        file: dict[str, Any] = {}
        if request.content_type == "application/json":
            told = await request.json()
        else:
            for name, value in (await request.post()).items():
                if isinstance(value, web.FileField):
                    digest = hashlib.sha256(value.file.read()).hexdigest()
                    file = {
                        "name": value.filename,
                        "mimetype": value.content_type,
                        "sha256": digest,
                        "url": None,
                    }
                else:
                    told[name] = value
        if kind != "message" and not file:
            file = {"url": told.get(f"{kind}_url"), "name": None, "mimetype": None}
        text = told.get("message") or told.get("caption") or ""
        if not told.get("phone"):
            return self.refusal(400, "phone: cannot be blank.", "VALIDATION_ERROR")
        if not (text if kind == "message" else file.get("sha256") or file.get("url")):
            return self.refusal(400, f"{kind}: cannot be blank.", "VALIDATION_ERROR")
        if told["phone"].partition("@")[0] in self.absent:
            return self.refusal(400, "user is not registered", "INVALID_JID")
        chat = told["phone"] if "@" in told["phone"] else told["phone"] + "@s.whatsapp.net"
        kind = "text" if kind == "message" else kind
        message = self.take(session, chat, kind, text=text, file=file)
        status = f"Message sent to {chat} (server timestamp: 2026-01-01 00:00:00 +0000 UTC)"
        return self.good("Success", {"message_id": message["id"], "status": status})

    async def fetch(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        found = self.files.get(path) or self.files.get(path.removeprefix("media/"))
        if found is None:
            return web.Response(status=404, text="Cannot GET " + request.path)
        return web.Response(body=found[0], content_type=found[1])

    # -- what it tells: nothing of how a device stands

    def tell(self, session: Session, event: str, payload: dict[str, Any]) -> None:
        url, wanted = session.config.get("webhook_url"), session.config.get("webhook_events", "")
        if event == "session.status" or not url:
            return
        if wanted and event not in wanted.split(","):
            return
        said = {
            "event": event,
            "device_id": f"{session.number}@s.whatsapp.net",
            "session_id": session.name,
            "payload": payload,
        }
        if event == "message.ack":
            said["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        body = json.dumps(said, ensure_ascii=False).encode()
        key = session.config.get("webhook_secret") or "secret"
        signature = hmac.new(key.encode(), body, "sha256").hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        self.do(self.post(url, body, headers, [1, 2, 4, 8]))

    def ack(self, session: Session, message: dict[str, Any], ack: int) -> None:
        kinds = {2: "delivered", 3: "read", 4: "played"}
        if ack not in kinds:  # it tells nothing of the server's own
            return
        told = {
            "ids": [message["id"]],
            "chat_id": message["to"],
            "from": message["to"],
            "receipt_type": kinds[ack],
            "receipt_type_description": "",
        }
        self.tell(session, "message.ack", told)

    def hears(self, session: Session, said: dict[str, Any]) -> str:
        sender = f"{said.get('from', '375291234567')}@s.whatsapp.net"
        id_ = said.get("id") or "3EB0" + secrets.token_hex(9).upper()
        told: dict[str, Any] = {
            "id": id_,
            "chat_id": said.get("group") or sender,
            "from": sender,
            "from_name": said.get("name", "Ana"),
            "sender_display_name": said.get("name", "Ana"),
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "is_from_me": False,
        }
        event = "message"
        match said.get("kind", "text"):
            case "text":
                told["body"] = said["text"]
            case "location":
                told["location"] = {
                    "degreesLatitude": said["latitude"],
                    "degreesLongitude": said["longitude"],
                    "name": said.get("text", ""),
                }
            case "contact":
                told["contact"] = {"displayName": "Ana", "vcard": said["vcard"]}
            case "reaction":
                event = "message.reaction"
                told |= {"reaction": said["text"], "reacted_message_id": said["to"]}
            case kind:
                name = f"{int(time.time())}-{secrets.token_hex(8)}{said.get('ending', '.jpeg')}"
                self.file(f"media/{name}", said)
                path = f"statics/media/{name}"
                told[{"file": "document"}.get(kind, kind)] = path
                if said.get("text"):
                    told["body"] = said["text"]
                    told[{"file": "document"}.get(kind, kind)] = {
                        "path": path,
                        "caption": said["text"],
                    }
        self.tell(session, event, told)
        return id_


async def serve(args: argparse.Namespace) -> None:
    """Serves until it is ended."""
    place = {"waha": Waha, "gowa": Gowa}[args.dialect](args)
    runner = web.AppRunner(place.app(), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", args.port)
    await site.start()
    place.load()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


class Sidecar:
    """The process, and what a test does to it. `with Sidecar() as sidecar: ...`"""

    def __init__(
        self,
        dialect: str = "waha",
        *,
        key: str | None = None,
        scale: float = 0.02,
        port: int = 0,
        state: Path | None = None,
        autostart: bool = False,
    ) -> None:
        self.dialect, self.scale, self.port = dialect, scale, port
        self.key = (
            key if key is not None else {"waha": "planted-key", "gowa": "user:planted-key"}[dialect]
        )
        self.state, self.autostart = state, autostart
        self.url = ""
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._http.close()

    def start(self) -> None:
        """Starts it; again on the same port."""
        command = [sys.executable, "-m", "tests.sidecar", "--port", str(self.port)]
        command += ["--dialect", self.dialect, "--key", self.key, "--scale", str(self.scale)]
        command += ["--state", str(self.state)] if self.state else []
        command += ["--autostart"] if self.autostart else []
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url, "the sidecar did not start"
        self.port = int(self.url.rpartition(":")[2])

    def end(self) -> None:
        """Ends it, as a kill does."""
        self.process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def env(self) -> dict[str, str]:
        """Settings of a service that uses it."""
        if self.dialect == "gowa":
            user, _, password = self.key.partition(":")
            found = {"GOWA_URL": self.url, "GOWA_USER": user, "GOWA_PASSWORD": password}
        else:
            found = {"WAHA_URL": self.url, "WAHA_API_KEY": self.key}
        return {
            "WHATSAPP_WEB_DRIVER": self.dialect,
            "WHATSAPP_WEB_SECRET": "planted-hook-secret",
            "WHATSAPP_WEB_RATE": "0",
            "WHATSAPP_WEB_RECIPIENT_RATE": "0",
            "WHATSAPP_WEB_GAP": "0",
            "WHATSAPP_WEB_DAILY_CAP": "0",
            "WHATSAPP_WEB_WARMUP": "0",
            **found,
        }

    def reset(self, **told: Any) -> None:
        """Forgets all sessions, messages and rules. `scale`, `key`: from here on."""
        self._do("reset", **told)

    # -- a phone

    def scan(
        self,
        session: str,
        number: str = "375447034810",
        *,
        passkey: bool = False,
        confirms: bool = False,
    ) -> None:
        """A phone with this number scans the code; with a passkey, if so, and has that confirmed, if so."""
        self._do("scan", session=session, number=number, passkey=passkey, confirms=confirms)

    def unlink(self, session: str, *, forgotten: bool = True) -> None:
        """It is unlinked on the phone. Not `forgotten`: each restart fails until it is logged out."""
        self._do("unlink", session=session, forgotten=forgotten)

    def drop(self, session: str, status: str = "FAILED", *, away: bool = False) -> None:
        """It loses its phone; `away`: and each restart fails until `come_back`."""
        self._do("drop", session=session, status=status, away=away)

    def come_back(self, session: str) -> None:
        """Its phone is there again."""
        self._do("come_back", session=session)

    def ban(self, session: str) -> None:
        """WhatsApp bans it."""
        self._do("ban", session=session)

    def say(self, session: str, text: str = "", kind: str = "text", **more: Any) -> str:
        """Somebody writes; gives the message's id.

        `kind`: text, image, video, audio, file (`data` in base64, `mimetype`, `filename`, `ending`), location (`latitude`,
        `longitude`), contact (`vcard`), reaction (`to`: an id). `from_`: a number; `group`: a chat's id; `name`; `id`.
        """
        if "from_" in more:
            more["from"] = more.pop("from_")
        found: str = self._do("say", session=session, text=text, kind=kind, **more)
        return found

    def ack(self, session: str, id_: str, ack: int) -> None:
        """Tells what became of a message: 1 it is with WhatsApp, 2 on a phone, 3 read, -1 failed."""
        self._do("ack", session=session, id=id_, ack=ack)

    # -- what goes wrong

    def spoil(
        self,
        how: str,
        path: str = "",
        *,
        session: str = "",
        value: Any = None,
        times: int = 0,
        **more: Any,
    ) -> None:
        """Spoils calls whose `METHOD /path?query` has this regular expression, for a session, so many times (0: until `heal`).

        `463`, `429`: WhatsApp restricts the account; `slow`: waits `value` s first; `garbage`: an answer that is none;
        `cut`: takes nothing and says nothing; `lose`: takes it and says nothing; `status`: answers `value`.
        """
        self._do("rule", how=how, path=path, session=session, value=value, times=times, **more)

    def heal(self) -> None:
        """Spoils nothing more."""
        self._do("rules")

    def acks(self, *acks: int) -> None:
        """Each message from here on gets these, one after the other."""
        self._do("acks", acks=acks)

    def absent(self, *numbers: str) -> None:
        """These are not on WhatsApp."""
        self._do("absent", numbers=numbers)

    def chats(self, chats: dict[str, str]) -> None:
        """Numbers whose chat has another id."""
        self._do("chats", chats=chats)

    # -- what came

    @property
    def sessions(self) -> dict[str, Any]:
        """Name -> status, number, running, code, codes_shown, config."""
        return self._seen("sessions")

    def status(self, session: str) -> str:
        """How it stands; '' where there is none."""
        return self.sessions.get(session, {}).get("status", "")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Every message that was taken: session, to, kind, text, file, id, at."""
        return self._seen("messages")

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every request: method, path, query, headers, body, status, at."""
        return self._seen("requests")

    @property
    def hooks(self) -> list[dict[str, Any]]:
        """Every call of ours to a webhook: url, body, headers, statuses of its tries."""
        return self._seen("hooks")

    def _seen(self, what: str) -> Any:
        return self._http.get(f"{self.url}/_test/state", timeout=30).json()[what]

    def _do(self, what: str, **told: Any) -> Any:
        answer = self._http.post(f"{self.url}/_test/{what}", json=told, timeout=30)
        assert answer.ok, f"{what}: {answer.text}"
        return answer.json()["found"]


def main() -> None:
    """Serves, as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dialect", choices=("waha", "gowa"), default="waha")
    parser.add_argument("--key", default="")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--state", default="")
    parser.add_argument("--autostart", action="store_true")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
