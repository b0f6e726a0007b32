"""What is the same all over the description of the API: the gate's answers, and plain names."""

import json
from collections.abc import Collection
from typing import Any

from postrider.web.problems import API, documented, problems

_AT = "#/components/schemas/"


def gated(
    description: dict[str, Any] | str, answering: Collection[str] = ()
) -> dict[str, Any] | str:
    """`description`, where each operation behind the gate has the gate's own answers.

    `answering`: paths that answer what is wrong in a way of their own, with no 400.
    """
    if isinstance(description, str):  # YAML, which we do not serve
        return description
    for path, operations in description["paths"].items():
        answers = (problems if path.startswith(API) else documented)(400, 401, 429, 503)
        told = {str(status): answer for status, answer in answers.items()}
        if path in answering:
            del told["400"]
        for operation in operations.values():
            if operation.get("security"):
                operation["responses"] = operation.get("responses", {}) | told
    return description


def plain_names(description: dict[str, Any] | str) -> dict[str, Any] | str:
    """`description`, with each schema once, under a name without a dot: generators of clients trip over dots.

    APIFlask names what stands within a model after it, `Outer.Inner`, and describes it anew for each
    (apiflask 3.1, `schema_adapters/pydantic_schema.py`).
    """
    if isinstance(description, str):  # YAML, which we do not serve
        return description
    schemas = description.get("components", {}).get("schemas", {})
    new_names: dict[str, str] = {}
    told: dict[str, str] = {}  # new name -> the schema of that name, inner ones by their own names
    for name in sorted(schemas, key=lambda name: ("." in name, name)):
        outer, _, inner = name.rpartition(".")
        text = _with_inner_names(schemas[name])
        new = inner if told.get(inner, text) == text else outer.replace(".", "") + inner
        told[new] = text
        new_names[name] = new
    named: dict[str, Any] = json.loads(_renamed(description, new_names))
    if schemas:
        renamed = json.loads(_renamed({"schemas": schemas}, new_names))["schemas"]
        named["components"]["schemas"] = {new_names[name]: renamed[name] for name in renamed}
    return named


def _with_inner_names(schema: Any) -> str:
    text = json.dumps(schema, sort_keys=True)
    parts = text.split(f'"{_AT}')
    heads = (part.partition('"') for part in parts[1:])
    return "".join((parts[0], *(f'"{n.rpartition(".")[2]}"{rest}' for n, _, rest in heads)))


def _renamed(value: Any, new_names: dict[str, str]) -> str:
    text = json.dumps(value)
    for old, new in new_names.items():
        text = text.replace(f'"{_AT}{old}"', f'"{_AT}{new}"')
    return text
