"""What an adapter may have besides: templates, files, headings, several places, broadcasts."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from messengers.base import (
    Errand,
    File,
    Heading,
    Messenger,
    NoReply,
    Note,
    Outbound,
    Outcome,
    Piece,
    Reply,
    Request,
    Steps,
    Template,
)


@runtime_checkable
class Templates(Protocol):
    """What an adapter has besides when its messenger takes templates instead of a text."""

    def check_template(self, template: Template) -> str | None:
        """What is wrong with it, or None."""


@runtime_checkable
class Headed(Protocol):
    """What an adapter has besides when its messages have a heading, and may be written in Markdown."""

    def check_letter(
        self, heading: Heading, text: str, html: str, files: Sequence[File]
    ) -> tuple[str, str] | None:
        """The first field that is wrong, and why; or None. `html`: what was made of a `text` in Markdown, else ''."""


@runtime_checkable
class TakesFiles(Protocol):
    """What an adapter has besides when its messenger takes files."""

    takes_links: ClassVar[bool]
    """Whether its messenger fetches by itself: files may then have a `link` and no `id`, and nobody knows their size."""

    def check_files(self, files: Sequence[File], text: str) -> tuple[int, str] | None:
        """The first of `files` that cannot be sent with `text`, and why; or None."""

    def notices(self, files: Sequence[File]) -> list[str]:
        """What whoever sends them should know: which goes otherwise than asked for."""


@runtime_checkable
class Pieces(TakesFiles, Protocol):
    """What an adapter has besides when a message with files leaves by several calls, or needs more than one for a file."""

    reuses_s: ClassVar[float]
    """Seconds for which the messenger's id of an uploaded file can be sent instead of it; 0: it gives none."""

    def pieces(self, out: Outbound) -> list[Piece]:
        """Its files and its text, cut into calls, in order; always the same for the same message."""

    def send_piece(self, out: Outbound, piece: Piece) -> Steps:
        """The calls that send one piece, one after the other; the last of them sends."""


@runtime_checkable
class Places(Protocol):
    """What an adapter has besides when a delivery goes to several places, which each take it or not."""

    def several(self) -> int:
        """How many places a delivery goes to."""

    def request_to(self, out: Outbound, which: Sequence[int]) -> Request | Note | Errand:
        """The call that sends `out` to these of its places."""

    def read_each(self, reply: Reply | NoReply, which: Sequence[int]) -> list[Outcome]:
        """What became of each of them. Total."""


@runtime_checkable
class Targets(Protocol):
    """What an adapter has besides when each of its recipients is an account, with a pace and a pause of its own."""

    AT_ONCE: ClassVar[int]
    """Sends under way at once to each, in one worker, unless its settings say otherwise."""

    def single(self) -> Mapping[str, Messenger]:
        """Each, by its name, as an account of its own."""

    def account_of(self, uuid: str) -> str:
        """The account that sends to this address; '' when there is no such address."""

    def described(self) -> str:
        """What this account reaches, without secrets."""


@runtime_checkable
class Broadcast(Protocol):
    """What an adapter has besides when one call reaches many recipients with one text."""

    BROADCAST_LIMIT: ClassVar[int]
    """Recipients of one call."""

    def most_receivers(self, text: str, tos: Sequence[str]) -> int:
        """How many of `tos` one call with this text can have; 1: it must not be broadcast."""

    def broadcast(self, outs: Sequence[Outbound]) -> Request:
        """The call that sends the same text to all of `outs`."""

    def read_broadcast(self, reply: Reply, outs: Sequence[Outbound]) -> list[Outcome] | None:
        """What `reply` means for each. None: this account may not broadcast, and nobody got anything."""
