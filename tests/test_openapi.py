"""The description of the API: valid, and true of every answer."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests
from openapi_spec_validator import OpenAPIV31SpecValidator

from postrider import logins
from tests.conftest import PASSWORD, Api


@pytest.mark.parametrize("seed", [1])
def test_every_answer_is_as_described(
    api: Api,
    worker: object,
    request: pytest.FixtureRequest,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    long = request.config.getoption("--long")
    monkeypatch.setattr(
        logins, "TRIES", 1_000_000
    )  # it tries wrong credentials, and wants a 401 each time
    # What a schema allows may still be refused for its meaning: a cursor that nobody gave, a number that is no phone's.
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("run", f"{api.url}/openapi.json", "--auth", f"postrider:{PASSWORD}"),
        *("--max-examples", "100" if long else "20", "--seed", str(seed), "--no-color"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
    ]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=1800 if long else 280, check=False
    )
    assert run.returncode == 0, run.stdout[-9000:]


def test_the_description_is_valid_openapi(api: Api) -> None:
    description = requests.get(f"{api.url}/openapi.json", timeout=10).json()
    OpenAPIV31SpecValidator(description).validate()
    assert set(description["paths"]) >= {
        "/send_message",
        "/get_scheduled",
        "/get_finished",
        "/delete_all",
    }


def test_operation_ids_are_unique_names(api: Api) -> None:
    description = requests.get(f"{api.url}/openapi.json", timeout=10).json()
    ids = [
        operation["operationId"]
        for path in description["paths"].values()
        for operation in path.values()
    ]
    assert len(ids) == len(set(ids))
    assert all(name.isidentifier() for name in ids)
