"""`postrider files list`, `add`, `show`, `get`, `delete`: what was uploaded and is kept to be sent."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from postrider import showing
from postrider.commands import shell
from postrider.commands.shell import Parsers, Shell, opened, show_fields, show_rows
from postrider.commands.terminal import new_file, say, say_json, told
from postrider.errors import InvalidRequest
from postrider.files import Stored

READ = 64 * 1024


def add_commands(commands: "Parsers[argparse.ArgumentParser]") -> None:
    """Adds these subcommands, each with its function as `run`."""
    as_json = shell.as_json()
    what = "keep files to be sent, list, read and delete them"
    acts = commands.add_parser("files", help=what, description=what).add_subparsers(
        metavar="COMMAND", required=True
    )
    what = "list them, newest first"
    parser = acts.add_parser("list", help=what, description=what, parents=[as_json])
    shell.add_page(parser)
    parser.set_defaults(run=show_files)
    what = "keep files; what nothing needs within a day is deleted"
    parser = acts.add_parser("add", help=what, description=what, parents=[as_json])
    parser.add_argument("files", metavar="FILE", type=Path, nargs="+")
    parser.set_defaults(run=add)
    what = "show what is known of one"
    parser = acts.add_parser("show", help=what, description=what, parents=[as_json])
    parser.add_argument("id", metavar="ID", type=shell.text)
    parser.set_defaults(run=show_file)
    what = "write what one holds to standard output, or to a file"
    parser = acts.add_parser("get", help=what, description=what)
    parser.add_argument("id", metavar="ID", type=shell.text)
    parser.add_argument("--to", metavar="FILE", type=Path, help="a new file")
    parser.set_defaults(run=get)
    what = "delete one that nothing needs"
    parser = acts.add_parser("delete", help=what, description=what)
    parser.add_argument("id", metavar="ID", type=shell.text)
    parser.set_defaults(run=delete)


@told
def show_files(args: argparse.Namespace) -> int:
    """A part of the files: id, when they came, size, type, name."""
    with opened() as desk:
        found, after = desk.service.files.page(None, args.limit, args.cursor)
    if args.json:
        return say_json({"files": [showing.file(stored) for stored in found], "next": after})
    heads = ("Id", "Since", "Bytes", "Type", "Name")
    rows = [
        (s.file.id, f"{s.at:%Y-%m-%d %H:%M}", str(s.file.size), s.file.media_type, s.file.name)
        for s in found
    ]
    return show_rows(heads, rows, gives_way="Name", after=after)


@told
def add(args: argparse.Namespace) -> int:
    """Keeps files, all of them or none."""
    with opened() as desk:
        kept = keep(desk, args.files)
        desk.note("files add", ",".join(stored.file.id for stored in kept))
    if args.json:
        return say_json({"files": [showing.file(stored) for stored in kept]})
    rows = [(stored.file.id, stored.file.name) for stored in kept]
    return show_rows(("Id", "Name"), rows, gives_way="Name")


def keep(desk: Shell, paths: Sequence[Path]) -> list[Stored]:
    """Keeps these files of this machine. Raises InvalidRequest, Unavailable."""
    service, arrived = desk.service, []
    limit = service.settings.max_file_bytes
    with ExitStack() as ends:
        for path in paths:
            incoming = service.files.incoming()
            ends.callback(incoming.close)
            try:
                with path.open("rb") as file:
                    while part := file.read(READ):
                        incoming.write(part)
                        if incoming.size > limit:
                            raise InvalidRequest(
                                str(path), f"is over {limit} bytes (MAX_FILE_BYTES)"
                            )
            except OSError as error:
                raise InvalidRequest(str(path), f"cannot be read: {error.strerror}") from None
            arrived.append((incoming, path.name))
        return service.files.keep_all(arrived, "", service.store.now())


@told
def show_file(args: argparse.Namespace) -> int:
    """What is known of one."""
    with opened() as desk:
        found = showing.file(desk.service.files.get(args.id, None))
    if args.json:
        return say_json(found)
    show_fields(found)
    return 0


@told
def get(args: argparse.Namespace) -> int:
    """Writes what one holds where it is asked for; nothing is written over."""
    with opened() as desk:
        stored = desk.service.files.get(args.id, None)
        if args.to is None and sys.stdout.isatty():
            raise InvalidRequest("--to", "is needed at a terminal, or send it on by > or |")
        with desk.service.files.open(stored.file.id) as content:
            if args.to is None:
                shutil.copyfileobj(content, sys.stdout.buffer, READ)
                return 0
            with new_file(args.to) as file:
                shutil.copyfileobj(content, file, READ)
    return 0


@told
def delete(args: argparse.Namespace) -> int:
    """Deletes one."""
    with opened() as desk:
        desk.service.delete_file(args.id, None)
        desk.note("files delete", args.id)
    say("It is deleted.")
    return 0
