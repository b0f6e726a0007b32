"""JSON as it was meant: no NaN, no key twice, no number that is none, no nesting without end, no half of a character."""

import json
import re
from typing import Any

from flask.json.provider import DefaultJSONProvider

from postrider.errors import InvalidRequest

_HALF_WRITTEN = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a character beyond the first 65,536: JSON writes both, one behind the other; alone it can be stored nowhere."""


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
            long = "int_max_str_digits" in str(error)
            why = "holds a number of too many digits" if long else f"is not JSON: {error}"
            raise InvalidRequest("body", why) from None
        if value is None:  # which would pass for a body that was left out
            raise InvalidRequest("body", "must be an object, not null")
        if _HALF_WRITTEN.search(text) and (where := _half_in(value)) is not None:
            raise InvalidRequest(where or "body", "must not hold lone surrogates")
        return value


def _half_in(value: Any) -> str | None:
    """Where in `value` a string holds half of a character, `recipients[0].uuid`, or a key does: then where it stands."""
    left = [("", value)]  # no recursion: it may be as deep as JSON is read
    while left:
        at, one = left.pop()
        match one:
            case str() if _HALF.search(one):
                return at
            case dict():
                if any(map(_HALF.search, one)):
                    return at
                left += ((f"{at}.{key[:40]}".lstrip("."), of) for key, of in one.items())
            case list():
                left += ((f"{at}[{n}]", of) for n, of in enumerate(one))
    return None


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
