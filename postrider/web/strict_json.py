"""JSON as it was meant: no NaN, no key twice, no number that is none, no nesting without end."""

import json
from typing import Any

from flask.json.provider import DefaultJSONProvider

from postrider.errors import InvalidRequest


class StrictJSONProvider(DefaultJSONProvider):
    """Flask's JSON, read strictly: what Python's `json` takes silently is refused in words for the client."""

    ensure_ascii = False
    sort_keys = False
    compact = True

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """The value that `s` holds. Raises InvalidRequest."""
        try:
            text = s.decode("utf-8") if isinstance(s, bytes) else s
            value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_key_twice)
        except UnicodeDecodeError:
            raise InvalidRequest("body", "is not UTF-8") from None
        except RecursionError:
            raise InvalidRequest("body", "is nested too deeply") from None
        except ValueError as error:  # also a number of more digits than Python converts
            raise InvalidRequest("body", f"is not JSON: {error}") from None
        if value is None:  # which would pass for a body that was left out
            raise InvalidRequest("body", "must be an object, not null")
        return value


def _no_constant(name: str) -> None:
    raise InvalidRequest("body", f"is not JSON: {name} is no number in it")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidRequest("body", f"has the key {key[:40]!r} twice in one object")
            seen.add(key)
    return found
