"""Ids for WhatsApp messages that we choose ourselves: of WhatsApp's own form, and with our key in them.

So a message that is sent again bears the same id, and WhatsApp shows its reader the first one only
(https://github.com/evolution-foundation/evolution-go/issues/61 is what that looks like by accident); and what is told of a
message whose send got no answer still names its delivery.
"""

import hashlib
import re
import string

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY = re.compile(r"([0-9A-Za-z]{21})-([0-9]{1,6})(?:/([1-9]|1[0-5]))?")
_PREFIX = "3EB0"
"""That WhatsApp's clients for browsers put before theirs."""
_OURS = re.compile(rf"{_PREFIX}([0-9A-F]{{32}})([0-9A-F]{{5}})([0-9A-F])")


def part_key(key: str, nth: int) -> str:
    """The key of the `nth` call (from 1) of those that make up what `key` stands for, but for the last, which has `key`."""
    return f"{key}/{nth}"


def id_of(key: str) -> str:
    """The message id for `key`: always the same, another for each."""
    if not (found := _KEY.fullmatch(key)) or str(int(found[2])) != found[2]:
        return _PREFIX + hashlib.sha256(key.encode(errors="replace")).hexdigest()[:18].upper()
    number = 0
    for digit in found[1]:
        number = number * 62 + _DIGITS.index(digit)
    return f"{_PREFIX}{number:032X}{int(found[2]):05X}{int(found[3] or 0):X}"


def key_of(id_: str) -> str:
    """The key that `id_` was made from; '' for another's id, and for the key of a part: one part is no message."""
    if not (found := _OURS.fullmatch(id_)) or found[3] != "0":
        return ""
    number, digits = int(found[1], 16), ""
    for _ in range(21):
        number, digit = divmod(number, 62)
        digits = _DIGITS[digit] + digits
    index = int(found[2], 16)
    return "" if number or index > 999_999 else f"{digits}-{index}"
