"""S5: bodies that are nearly right, to every route that reads JSON: a no in words, or a yes, and never a fault of ours."""

import base64
import http.client
import json
import random
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.reliability.rig import Rig

CASES, LONG_CASES = 4_000, 100_000
CLIENTS = 4
LOGIN = base64.b64encode(b"postrider:reliability").decode()
LONGEST = 1_000_000
"""Bytes: what is over MAX_BODY_BYTES is hung up on, and that is tested elsewhere."""
SHARE = 0.15
"""How often what may be left out is there."""
MARK = "@@here@@"
PIECES = (
    *(
        "null",
        "true",
        "0",
        "-1",
        "1.5",
        "1e999",
        "-1e999",
        "1e-999",
        "NaN",
        "Infinity",
        "-Infinity",
    ),
    *('""', '" "', '"a"', '"\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"\\u202e"', '"\\ufeff"'),
    *(
        "[]",
        "{}",
        "[[]]",
        "[null]",
        '{"": ""}',
        '{"a": 1, "a": 2}',
        '{"__proto__": {}}',
        "[1, [2, [3]]]",
    ),
    *("9" * 5000, "-" + "9" * 5000, "0." + "9" * 5000, "1" + "0" * 400),
    *("[" * 100_000, "[" * 900 + "]" * 900, '{"a":' * 5000 + "1" + "}" * 5000),
    *(
        '"' + "e\u0301" * 5000 + '"',
        '"' + "\U0001f469\u200d" * 3000 + '"',
        '"' + "x" * 70_000 + '"',
    ),
    *(
        '"2030-02-30 25:61:00"',
        '"9999-12-31T23:59:59+14:00"',
        '"0001-01-01 00:00:00"',
        '"Mars/Phobos"',
    ),
    *(
        '"../../etc/passwd"',
        '"file:///etc/passwd"',
        '"http://127.0.0.1:1/"',
        '"\'; DROP TABLE x"',
        '"%s%n{0}"',
    ),
    *("", ",", "'a'", "01", "+1", ".5", "0x10", '"\n"', '"\\x41"', '"open', "//", "\ufeff1"),
)
"""JSON, and what only looks like it, to stand anywhere in a body."""


@dataclass(frozen=True)
class Route:
    """One that reads JSON, and what the description says of its body."""

    method: str
    path: str
    schema: Mapping[str, Any]


def routes(spec: Mapping[str, Any]) -> Iterator[Route]:
    """All that the description has."""
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if schema := content.get("application/json", {}).get("schema"):
                yield Route(method.upper(), re.sub(r"{[^}]*}", "x", path), schema)


def sample(schema: Mapping[str, Any], spec: Mapping[str, Any], dice: random.Random) -> Any:
    """A value of that schema, with some of what may be there."""
    if "$ref" in schema:
        found = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return sample(found, spec, dice)
    named = [schema.get("const"), *schema.get("examples", []), *schema.get("enum", [])]
    if values := [value for value in (*named, schema.get("default")) if value is not None]:
        return dice.choice(values)
    if choices := schema.get("anyOf", schema.get("oneOf", [])):
        return sample(dice.choice(choices), spec, dice)
    if schema.get("type") == "object":
        return {
            name: sample(of, spec, dice)
            for name, of in schema.get("properties", {}).items()
            if name in schema.get("required", ()) or dice.random() < SHARE
        }
    if schema.get("type") == "array":
        return [sample(schema.get("items", {}), spec, dice)]
    kind = schema.get("type", "")
    return {"integer": 1, "number": 1, "boolean": False, "null": None}.get(kind, "x")


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in it."""
    keys = (
        value.keys()
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield value, key
        yield from places(value[key])


def nearly_right(body: Any, dice: random.Random) -> bytes:
    """`body` with a piece or a few, or none, in the place of something in it; now and then cut off, or with bytes that are no text."""
    whole = {"whole": body}
    pieces = []
    for _ in range(dice.choice((0, 1, 1, 1, 2, 5))):
        container, key = dice.choice(list(places(whole)))
        if dice.random() < 0.15 and isinstance(container, dict) and container is not whole:
            container[dice.choice(("", "a", "Body", "__class__", "\u0000", "x" * 300))] = (
                container.pop(key)
            )
        elif dice.random() < 0.1:
            container[key] = [container[key]] * dice.choice((2, 50, 1001))
        else:
            container[key] = MARK
            pieces.append(dice.choice(PIECES))
    text = json.dumps(whole["whole"], ensure_ascii=dice.random() < 0.5)
    while f'"{MARK}"' in text:
        text = (
            text.replace(f'"{MARK}"', pieces.pop(), 1) if pieces else text.replace(f'"{MARK}"', "1")
        )
    raw = text.encode("utf-8", "surrogatepass")[:LONGEST]
    if dice.random() < 0.05:
        at = dice.randrange(len(raw) + 1)
        raw = raw[:at] + dice.choice((b"", b"\xff\xfe", b"\0", b"\xed\xa0\x80", raw[at:] + b"}"))
    return raw


class Fuzzer(threading.Thread):
    """Sends so many, and keeps what was wrong with the answers."""

    def __init__(self, rig: Rig, spec: Mapping[str, Any], cases: int, seed: float) -> None:
        super().__init__()
        self._where = rig.fleet.settings.host, rig.fleet.settings.port
        self._routes, self._cases, self._dice = list(routes(spec)), cases, random.Random(seed)
        self._spec = spec
        self.answers: Counter[int] = Counter()
        self.by_route: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        """Sends them all over one connection; a new one where the API has hung up."""
        connection = http.client.HTTPConnection(*self._where, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {LOGIN}"}
        for _ in range(self._cases):
            route = self._dice.choice(self._routes)
            body = nearly_right(sample(route.schema, self._spec, self._dice), self._dice)
            try:
                connection.request(route.method, route.path, body, headers)
                answer = connection.getresponse()
            except ConnectionError:  # kept for longer than the API keeps one
                connection.close()
                connection.request(route.method, route.path, body, headers)
                answer = connection.getresponse()
            text = answer.read()
            self.answers[answer.status] += 1
            self.by_route[f"{route.method} {route.path}"] += 1
            if why := wrong(answer.status, text):
                self.wrong.append(
                    f"{route.method} {route.path}: {why}: {body[:300]!r}: {text[:300]!r}"
                )
        connection.close()


def wrong(status: int, text: bytes) -> str:
    """What is wrong with an answer; '' for nothing."""
    if status >= 500:
        return f"{status}"
    if status == 400:
        told = json.loads(text)
        if not (isinstance(told.get("error"), str) and told["error"]):
            return "a 400 that says nothing"
    return ""


@pytest.fixture
def fleet_env(fleet_env: dict[str, str]) -> dict[str, str]:
    return {**fleet_env, "API_PROCESSES": "2"}


def test_no_body_is_a_fault_of_ours(rig: Rig, long: bool) -> None:
    rig.start(api=True)
    settings = rig.fleet.settings
    url = f"http://{settings.host}:{settings.port}/openapi.json"
    spec = requests.get(url, timeout=30).json()
    cases = LONG_CASES if long else CASES
    fuzzers = [Fuzzer(rig, spec, cases // CLIENTS, rig.dice.random()) for _ in range(CLIENTS)]
    for fuzzer in fuzzers:
        fuzzer.start()
    for fuzzer in fuzzers:
        fuzzer.join()
    answers = sum((fuzzer.answers for fuzzer in fuzzers), Counter[int]())
    by_route = sum((fuzzer.by_route for fuzzer in fuzzers), Counter[str]())
    sys.stderr.write(
        f"\nS5: {answers.total()} bodies to {len(by_route)} routes: {dict(sorted(answers.items()))}\n"
    )
    assert [line for fuzzer in fuzzers for line in fuzzer.wrong] == []
    assert answers.total() == cases
    assert answers[400] > cases / 2
    assert len(by_route) == len(list(routes(spec))) > 15
