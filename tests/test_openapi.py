"""The description of the API: valid, and true of every answer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import redis
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from postrider import logins
from postrider.clients import Clients
from postrider.model import Quota
from postrider.web import handover
from tests.conftest import PASSWORD, Api

PATHS = (
    "^/(?!api/)",
    "^/api/v1/(messages|deliveries|stops|ledger)",
    "^/api/v1/(?![mdsl])",
    "^/api/v1/(me$|sc|se|su)",
)
"""All there are, in parts that can be looked at side by side."""
LEAST, LEAST_LONG = 20, 100
"""Cases for each operation: fewer would mean that it was not looked at."""


@pytest.mark.parametrize("paths", PATHS)
def test_every_answer_is_as_described(
    api: Api,
    worker: object,
    monkeypatch: pytest.MonkeyPatch,
    paths: str,
    long: bool,
) -> None:
    """Three examples of each operation besides those at its edges; in the long form a hundred, and walks from one to the next."""
    # It tries wrong credentials, and wants a 401 each time.
    monkeypatch.setattr(logins, "TRIES", 1_000_000)
    # What a schema allows may still be refused for its meaning: a cursor that nobody gave, a number that is no phone's.
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("run", f"{api.url}/openapi.json", "--auth", f"postrider:{PASSWORD}"),
        *("--max-examples", "100" if long else "3", "--seed", "1", "--no-color"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--include-path-regex", paths),
        *("--phases", "examples,coverage,fuzzing" + (",stateful" if long else "")),
        *("--generation-database", "none"),
    ]
    limit_s = 1800 if long else 400
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    assert run.returncode == 0, run.stdout[-9000:]
    tried, operations = (
        int(re.findall(pattern, run.stdout)[-1])
        for pattern in (r"(\d+) generated", r"Tested: (\d+)")
    )
    sys.stderr.write(f"\nS5: {paths}: {tried} cases of {operations} operations\n")
    assert tried >= operations * (LEAST_LONG if long else LEAST)


def test_the_description_is_valid_openapi(api: Api) -> None:
    description = requests.get(f"{api.url}/openapi.json", timeout=10).json()
    OpenAPIV31SpecValidator(description).validate()
    for path in description["paths"]:
        assert sum(bool(re.match(part, path)) for part in PATHS) == 1, path
    assert set(description["paths"]) >= {
        "/send_message",
        "/get_scheduled",
        "/get_finished",
        "/delete_all",
    }


def test_what_the_gate_answers_is_described_everywhere(api: Api, client: redis.Redis) -> None:
    """Wrong credentials and too many calls; a parameter given twice; a role that is not enough."""
    _, key = Clients(client).add_key("viewer", "viewer", "tests", Quota())
    viewer = {"headers": {"Authorization": f"Bearer {key}"}, "auth": None, "timeout": 10}
    description = requests.get(f"{api.url}/openapi.json", timeout=10).json()
    forbidden = set()
    for path, operations in description["paths"].items():
        kind = "application/problem+json" if path.startswith("/api/") else "application/json"
        asked = re.sub(r"{\w+}", "x" * 22, path)
        for method, operation in operations.items():
            if "security" not in operation:
                continue
            answers = operation["responses"]
            for status in ("401", "429", "503"):
                assert kind in answers[status]["content"], (method, path, status)
            twice = api.request(method, f"{asked}?a=1&a=2")
            assert str(twice.status_code) in answers, (method, path)
            if path in handover.PATHS:
                assert (twice.status_code, twice.text[:6]) == (200, "error:")
            else:
                assert twice.status_code == 400, (method, path)
            seen = requests.request(method, api.url + asked, **viewer)
            assert str(seen.status_code) in answers, (method, path, seen.text)
            if seen.status_code == 403:
                forbidden.add((method, path))
    assert ("delete", "/api/v1/schedules/{id}") in forbidden
    assert ("get", "/init") in forbidden


def test_every_schema_has_one_plain_name(api: Api) -> None:
    """Generators of clients make a class of each, and trip over dots and over two of one title."""
    schemas = requests.get(f"{api.url}/openapi.json", timeout=10).json()["components"]["schemas"]
    assert all(name.isidentifier() for name in schemas)
    titles = [schema.get("title", name) for name, schema in schemas.items()]
    assert len(titles) == len(set(titles))


def test_operation_ids_are_unique_names(api: Api) -> None:
    description = requests.get(f"{api.url}/openapi.json", timeout=10).json()
    ids = [
        operation["operationId"]
        for path in description["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids))
    assert all(name.isidentifier() for name in ids)
