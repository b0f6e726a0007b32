"""A sidecar's own OpenAPI file, as judge of the requests that our drivers build and as maker of the answers it documents."""

import copy
import functools
import json
from collections.abc import Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.messengers import specs

WAHA = "waha-2026.7.1.openapi.json"
GOWA = "gowa-9.0.0.openapi.yaml"


@functools.cache
def load(name):
    """The description called `name`; skips the test when this machine does not have it."""
    if name.endswith(".json"):
        found = copy.deepcopy(specs.load(name))
    else:
        path = specs.SPECS / name
        if not path.exists():
            pytest.skip(f"NOT JUDGED: {name} is not on this machine")
        found = yaml.safe_load(path.read_text())
    mend(found)
    return found


def mend(schema):
    """Takes back what a description says of itself and breaks itself.

    It says `type: object` of what has a string as its default, or strings to choose from; and null of what takes none.
    """
    for inner in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(inner, dict | list):
            mend(inner)
    if isinstance(schema, list):
        return
    if schema.get("example", "") is None:  # of what is not said to take null
        schema.pop("example")
    if schema.get("type") == "object":
        named = [schema.get("default"), *(schema.get("enum") or [])]
        if any(isinstance(each, str) for each in named):
            schema["type"] = "string"
    # Of a parameter and of a body it is said whether they are required; of a property, which are.
    if isinstance(schema.get("required"), bool) and not {"in", "content"} & set(schema):
        schema.pop("required")


@functools.cache
def _registry(name):
    resource = Resource(contents=load(name), specification=DRAFT202012)
    return Registry().with_resource("urn:spec", resource)


def faults(name, schema, value):
    """Every way in which `value` breaks `schema`, which may refer to the rest of description `name`."""
    absolute = json.loads(json.dumps(schema).replace('"#/', '"urn:spec#/'))
    found = Draft202012Validator(absolute, registry=_registry(name)).iter_errors(value)
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in found]


def resolved(name, schema):
    """`schema`, or what it refers to."""
    while "$ref" in schema:
        found = load(name)
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        schema = found
    return schema


def operation(name, method, path):
    """The template and the operation that `path` is of; the one with the fewest parameters."""
    fits = []
    for template, item in load(name)["paths"].items():
        given = path.split("/")
        wanted = template.split("/")
        named = [w for w in wanted if w.startswith("{")]
        if len(given) == len(wanted) and method.lower() in item:
            pairs = zip(wanted, given, strict=True)
            fits += [(len(named), template, item[method.lower()])] * all(
                w == g or (w.startswith("{") and g) for w, g in pairs
            )
    return min(fits, key=lambda fit: fit[:2])[1:] if fits else (None, None)


def _typed(text, schema):
    kind = schema.get("type")
    if kind == "boolean" and text in {"true", "false"}:
        return text == "true"
    return int(text) if kind in {"integer", "number"} and text.isdigit() else text


def request_faults(name, request, base_url, beyond=()):
    """Every way in which `request` departs from description `name`. `beyond`: fields that it knows besides."""
    assert request.url.startswith(base_url)
    url = urlsplit(request.url.removeprefix(base_url))
    template, found = operation(name, request.method, unquote(url.path))
    if found is None:
        return [f"{request.method} {url.path}: no such operation"]
    wrong = []
    given = {("query", key): value for key, value in parse_qsl(url.query, keep_blank_values=True)}
    for wanted, part in zip(template.split("/"), unquote(url.path).split("/"), strict=True):
        if wanted.startswith("{"):
            given["path", wanted.strip("{}")] = part
    headers = {key.lower(): value for key, value in request.headers.items()}
    known = set()
    for parameter in (resolved(name, one) for one in found.get("parameters") or []):
        where, key = parameter["in"], parameter["name"]
        known.add((where, key))
        value = headers.get(key.lower()) if where == "header" else given.get((where, key))
        if value is None:
            if parameter.get("required"):
                wrong.append(f"{where} {key}: is missing")
            continue
        schema = resolved(name, parameter.get("schema", {}))
        wrong += faults(name, schema, _typed(value, schema))
    wrong += [f"{where} {key}: is not known" for where, key in given if (where, key) not in known]
    return wrong + list(_body_faults(name, found, request, beyond))


def _body_faults(name, found, request, beyond) -> Iterator[str]:
    body = found.get("requestBody")
    if body is None:
        if request.json is not None or request.form:
            yield "has a body; none is known"
        return
    kind = "multipart/form-data" if request.form else "application/json"
    if kind not in body["content"]:
        yield f"{kind}: is not known"
        return
    schema = resolved(name, body["content"][kind]["schema"])
    properties = schema.get("properties", {})
    if request.form:
        value = {
            key: _typed(text, properties.get(key, {})) if isinstance(text, str) else "its bytes"
            for key, text in request.form
        }
    else:
        if request.json is None and body.get("required"):
            yield "has no body"
            return
        value = json.loads(json.dumps(request.json, default=lambda file: f"base64 of {file.name}"))
    yield from (f"{key}: is not known" for key in value if key not in {*properties, *beyond})
    yield from faults(name, schema, value)


def examples(name, schema, depth=0):
    """Values of `schema`, one for each of its choices, filled by what it gives as examples."""
    schema = resolved(name, schema)
    if depth > 8:
        return [None]
    if choices := schema.get("oneOf") or schema.get("anyOf"):
        return [value for choice in choices for value in examples(name, choice, depth + 1)]
    if schema.get("allOf"):
        return examples(name, schema["allOf"][0], depth + 1)
    if schema.get("properties"):
        return _objects(name, schema["properties"], depth)
    for told in ("example", "default"):
        if schema.get(told) is not None:
            return [schema[told]]
    if schema.get("type") == "array":
        return [[value] for value in examples(name, schema["items"], depth + 1)[:1]]
    plain = {"object": [{}], "boolean": [True, False], "string": ["text"]}
    plain |= {"integer": [1_666_943_582], "number": [1_666_943_582]}
    return list(schema.get("enum") or plain.get(schema.get("type"), [None]))


def _objects(name, properties, depth):
    """One with the first choice of each, then one more for each further choice."""
    choices = {key: examples(name, inner, depth + 1) for key, inner in properties.items()}
    first = {key: values[0] for key, values in choices.items()}
    more = [{**first, key: value} for key, values in choices.items() for value in values[1:]]
    return copy.deepcopy([first, *more[:40]])


def answers(name, method, template):
    """(status, body) of every answer that is documented as JSON for this operation."""
    for status, answer in load(name)["paths"][template][method.lower()]["responses"].items():
        content = (answer.get("content") or {}).get("application/json")
        for value in examples(name, content["schema"]) if content else [None]:
            yield int(status), value
