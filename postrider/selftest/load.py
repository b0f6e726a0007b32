"""A client of the API: posts messages at a steady pace while things break, and remembers what it was told."""

import base64
import http.client
import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from postrider.model import Recipient
from postrider.selftest.fleet import Fleet

Answered = Literal["yes", "no", "nobody knows"]
CLIENTS = 4
AHEAD_S = 0.5
"""The soonest that a message falls due after it is posted: acceptance must not look like lateness."""
ANSWER_S = 30.0
"""How long a client waits: longer than the API's processes take to start anew on a busy machine."""
AGAIN_S = 0.1
"""Pause before what was not accepted is posted again."""


@dataclass(slots=True)
class Post:
    """One message as its client knows it. `due_at` is seconds since the epoch."""

    text: str
    recipients: tuple[Recipient, ...]
    due_at: float
    accepted: Answered = "no"


class Recipients:
    """Recipients that nobody had before, on every messenger in turn: each names one delivery of a run."""

    def __init__(self, *services: str) -> None:
        self._services = services or ("telegram", "viber", "whatsapp")
        self._given = 0

    def take(self, count: int) -> tuple[Recipient, ...]:
        """The next ones."""
        first, self._given = self._given, self._given + count
        return tuple(map(self._nth, range(first, first + count)))

    def _nth(self, n: int) -> Recipient:
        service = self._services[n % len(self._services)]
        uuid = {"telegram": f"{10**7 + n}", "viber": f"{n}==", "whatsapp": f"+49151{n:08}"}
        return Recipient(uuid[service], service)


@dataclass
class Load:
    """Clients of one fleet's API. What they posted is in `posts`."""

    fleet: Fleet
    random: random.Random
    posts: list[Post] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    """Every answer's."""
    recipients: Recipients = field(default_factory=Recipients)
    progress: Callable[[int], None] = lambda _: None

    def __post_init__(self) -> None:
        login = f"{self.fleet.settings.api_user}:{self.fleet.env['API_PASSWORD']}"
        self._headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/json",
        }

    def run(self, messages: int, seconds: float, most_recipients: int = 3) -> None:
        """Has `messages` accepted, each to a few recipients; they fall due from now on until `seconds` are over."""
        started_at = time.time()
        ends_at = started_at + seconds
        plan = []
        for n in range(messages):
            # Posted in the first part of the time, so that the last ones are still ahead.
            post_at = started_at + 0.8 * seconds * n / messages
            soonest = post_at + AHEAD_S
            due_at = self.random.uniform(soonest, max(soonest, ends_at))
            plan.append((post_at, self.message(self.random.randint(1, most_recipients), due_at)))
        todo = iter(plan)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    at, post = next(todo, (0.0, None))
                if post is None:
                    return
                time.sleep(max(0.0, at - time.time()))
                self.post(post)
                self.progress(len(self.posts))

        clients = [threading.Thread(target=work, daemon=True) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()

    def message(self, recipients: int, due_at: float) -> Post:
        """A message to so many whom nothing was sent to before; it is not posted yet."""
        taken = self.recipients.take(recipients)
        return Post(f"Self-test to {taken[0].uuid}", taken, due_at)

    def post(self, post: Post, give_up_s: float = 60.0) -> Post:
        """Posts it until it is accepted, or nobody can say whether it is: repeated, it might go out twice."""
        self.posts.append(post)
        give_up_at = time.monotonic() + give_up_s
        while time.monotonic() < give_up_at:
            post.due_at = max(post.due_at, time.time() + AHEAD_S)
            post.accepted = self._once(post)
            if post.accepted != "no":
                break
            time.sleep(AGAIN_S)
        return post

    def _once(self, post: Post) -> Answered:
        message = {
            "body": post.text,
            "send_at": datetime.fromtimestamp(post.due_at, UTC).isoformat(),
            "recipients": [{"uuid": r.uuid, "service": r.service} for r in post.recipients],
        }
        with self.fleet.http(ANSWER_S) as connection:
            try:
                connection.connect()
            except OSError:
                return "no"
            try:
                connection.request("POST", "/send_message", json.dumps(message), self._headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException):
                return "nobody knows"
        self.statuses.append(response.status)
        if response.status == 200:
            return "yes"
        return "nobody knows" if json.loads(answer).get("accepted") == "unknown" else "no"
