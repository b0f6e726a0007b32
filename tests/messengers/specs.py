"""The messengers' own API descriptions, as judges of the requests our adapters build.

They are read from beside the checkout and are not part of the project: without them these tests skip, and say so.
"""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

SPECS = Path(__file__).resolve().parents[3] / "shared" / "specs"
TELEGRAM = "telegram-bot-api-10.1.subset.openapi.json"
WHATSAPP = "meta-whatsapp-cloud.subset.overlaid.openapi.json"


@functools.cache
def load(name: str) -> dict[str, Any]:
    """The description called `name`; skips the test when this machine does not have it."""
    path = SPECS / name
    if not path.exists():
        pytest.skip(
            f"NOT JUDGED: {name} is not on this machine, so the request was not held against it"
        )
    return json.loads(path.read_text())


def faults(name: str, pointer: str, value: object) -> list[str]:
    """Every way in which `value` breaks the schema at `pointer` (a JSON pointer without `#`) of description `name`."""
    registry = Registry().with_resource(
        "urn:spec", Resource(contents=load(name), specification=DRAFT202012)
    )
    validator = Draft202012Validator({"$ref": f"urn:spec#{pointer}"}, registry=registry)
    return [
        f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in validator.iter_errors(value)
    ]


def request_body(path: str, method: str = "post", content_type: str = "application/json") -> str:
    """The JSON pointer of the request schema of one operation."""

    def escape(part: str) -> str:
        return part.replace("~", "~0").replace("/", "~1").replace("{", "%7B").replace("}", "%7D")

    return f"/paths/{escape(path)}/{method}/requestBody/content/{escape(content_type)}/schema"
