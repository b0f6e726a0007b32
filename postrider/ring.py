"""Secrets in a folder: numbered, the newest for what is new, the older ones for what was made with them.

Processes share the folder. Each sees a new secret as soon as it looks: it looks whether the folder has changed.
"""

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
SETTLED_NS = 2 * 10**9
"""A folder that changed less than this ago may change again within the same tick of its clock, unseen."""


def sync_folder(folder: Path) -> None:
    """Which names there are in `folder` outlasts a power cut. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Ring(Generic[T]):
    """What one folder holds. `make` gives a new secret as it is written, `read` makes something of it."""

    def __init__(
        self, folder: Path, suffix: str, make: Callable[[], bytes], read: Callable[[bytes], T]
    ) -> None:
        self.folder = folder
        self._suffix, self._make, self._read = suffix, make, read
        self._found: dict[str, T] = {}
        self._every: tuple[T, ...] = ()
        self._changed: int | None = None

    def every(self) -> tuple[T, ...]:
        """All of them, the newest first. Raises OSError, ValueError."""
        try:
            changed = os.stat(self.folder).st_mtime_ns  # noqa: PTH116 - asked for every text; a Path takes twice as long
        except (FileNotFoundError, NotADirectoryError):
            return ()
        if changed != self._changed:
            seen_at = time.time_ns()
            self._look()
            self._changed = changed if seen_at - changed > SETTLED_NS else None
        return self._every

    def newest(self) -> T:
        """The one for what is new; made if there is none."""
        return (self.every() or (self._add(1),))[0]

    def add(self) -> T:
        """Makes a new one, which from now on is the newest."""
        self.every()
        return self._add(1 + max((int(name) for name in self._found), default=0))

    def paths(self) -> list[Path]:
        """Where they lie, the newest first."""
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.suffix == self._suffix)
        return sorted((path for path in found if path.stem.isdigit()), reverse=True)

    def _look(self) -> None:
        paths, known = self.paths(), self._found
        found = {
            path.stem: known[path.stem] if path.stem in known else self._read(path.read_bytes())
            for path in paths
        }
        self._found, self._every = found, tuple(found[path.stem] for path in paths)

    def _add(self, number: int) -> T:
        """Writes a new one under this number, unless another process was faster: then theirs is it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.folder / f".{secrets.token_hex(8)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._make())
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(draft, self.folder / f"{number:08d}{self._suffix}")
        finally:
            draft.unlink()
        sync_folder(self.folder)  # nothing may be encrypted with what a power cut takes away
        self._look()
        return self._every[0]
