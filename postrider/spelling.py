"""Names in .env that are nearly a setting's: most likely misspelt ones, which would otherwise be silently without effect."""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from postrider.errors import Misconfigured
from postrider.settings import Settings, lines_of

ALSO = ("REDIS_PASSWORD",)
"""What docker-compose.yml alone reads."""
LIKE = 0.85
"""From 0, nothing in common, to 1."""


def misspelt(env_file: Path = Path(".env")) -> Iterator[str]:
    """What to say of each."""
    known = [*(field.upper() for field in Settings.model_fields), *ALSO]
    known += [f"{name}_FILE" for name in known]
    try:
        found = lines_of(env_file)
    except Misconfigured:
        return
    for name in found:
        if name not in known and (meant := get_close_matches(name.upper(), known, 1, LIKE)):
            yield f"{name} is no setting, and has no effect: do you mean {meant[0]}?"
