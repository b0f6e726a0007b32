"""/api/v1/files: uploaded, listed, read back, deleted; and /files/...: the signed links by which anybody may fetch one."""

import re
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from apiflask import APIBlueprint
from flask import Response, jsonify, request
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.http import dump_options_header
from werkzeug.wsgi import FileWrapper

from messengers.base import FileKind
from postrider import showing
from postrider.arriving import clean_name
from postrider.errors import InvalidRequest, NotFound
from postrider.files import Stored
from postrider.service import Service
from postrider.web.asking import owner_of
from postrider.web.auth import ANY_SCHEME, Gate, audited, client
from postrider.web.bodies import PageIn
from postrider.web.problems import documented, problems
from postrider.web.uploading import READ, received

KEY = "key"
"""The part of an upload that holds the key of the others."""
FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": {"type": "string", "format": "binary"},
                "minProperties": 1,
            }
        }
    },
}
"""OpenAPI's words for an upload: a form in which any name may stand."""
_ONE_RANGE = re.compile(r"bytes=[ \t]*(\d+-\d*|-\d+)[ \t]*", re.IGNORECASE | re.ASCII)
"""Any other `Range` counts for nothing: all of the file is the answer. https://www.rfc-editor.org/rfc/rfc9110#section-14.2"""


class StoredOut(BaseModel):
    """A file that we have."""

    id: str
    name: str
    media_type: Annotated[str, Field(description="By what it holds")]
    size: int
    sha256: str
    kind: FileKind
    width: Annotated[int | None, Field(description="Of a picture, in pixels")]
    height: int | None
    created_at: datetime
    unused_until: Annotated[
        datetime | None,
        Field(
            description="Deleted then, if nothing needs it; null while a message or schedule does"
        ),
    ]


class UploadedOut(BaseModel):
    """What was kept, in the order in which it came."""

    files: list[StoredOut]


class StoredPageOut(BaseModel):
    """Files, newest first."""

    files: list[StoredOut]
    next: str | None


class LinkIn(BaseModel):
    """What a link says beside its path."""

    model_config = ConfigDict(extra="ignore")

    until: Annotated[str, Field(description="When it expires (s)")] = ""
    sig: Annotated[str, Field(description="Our signature")] = ""


def blueprint(service: Service, gate: Gate) -> APIBlueprint:
    """The routes for clients, over `service`."""
    bp = gate.guard(APIBlueprint("files", __name__, url_prefix="/api/v1", tag="Files"))
    files = service.files

    @bp.post("/files")
    @bp.output(UploadedOut, status_code=201)
    @bp.doc(
        summary="Upload files",
        description=(
            "A form with a file in each part, under any names; all of them are kept, or none. Files encrypted for `/key` have"
            " their AES key, itself encrypted, in the part `key`; those in a CMS envelope need none."
        ),
        security=ANY_SCHEME,
        extensions={"requestBody": FORM},
        responses=problems(400, 403, 413, 415),
    )
    def upload() -> Response:
        owner = client().id
        most = service.settings.max_file_bytes
        left = files.left(owner)
        with received(request, files, most, left=left, as_fields={KEY}) as form:
            if strays := [name for name in form.fields if name != KEY]:
                raise InvalidRequest(strays[0][:100], "is no file: it has no file name")
            if not form.files:
                raise InvalidRequest("files", "are missing: send one at least")
            arrived = [(name, incoming) for _, name, incoming in form.files]
            kept = service.keep(owner, arrived, form.fields.get(KEY))
        audited(",".join(stored.file.id for stored in kept))
        answer = jsonify(files=[showing.file(stored) for stored in kept])
        answer.status_code = HTTPStatus.CREATED
        return answer

    @bp.get("/files")
    @bp.input(PageIn, location="query")
    @bp.output(StoredPageOut)
    @bp.doc(summary="Files", security=ANY_SCHEME, responses=problems(400))
    def list_files(query_data: PageIn) -> Response:
        found, after = files.page(owner_of(client()), query_data.limit, query_data.cursor)
        return jsonify(files=[showing.file(stored) for stored in found], next=after)

    @bp.get("/files/<id>")
    @bp.output(StoredOut)
    @bp.doc(summary="One file", security=ANY_SCHEME, responses=problems(404))
    def get_file(id: str) -> Response:  # noqa: A002 - the path's name for it
        return jsonify(showing.file(files.get(id, owner_of(client()))))

    @bp.get("/files/<id>/content")
    @bp.doc(
        summary="What a file holds",
        description="Or the part of it that the header `Range` names.",
        security=ANY_SCHEME,
        responses=_content() | problems(404, 416),
    )
    def get_file_content(id: str) -> Response:  # noqa: A002
        found = files.get(id, owner_of(client()))
        return _served(service, found, found.file.name)

    @bp.delete("/files/<id>")
    @bp.output({}, status_code=204)
    @bp.doc(
        summary="Delete a file that nothing needs",
        security=ANY_SCHEME,
        responses=problems(403, 404, 409),
    )
    def delete_file(id: str) -> Response:  # noqa: A002
        service.delete_file(id, owner_of(client()))
        return Response(status=204)

    return bp


def links(service: Service) -> APIBlueprint:
    """The route for whoever has a link."""
    bp = APIBlueprint("links", __name__, tag="Links")
    nothing = NotFound("there is no such file, or the link to it has expired")

    @bp.get("/files/<id>/<name>")
    @bp.input(LinkIn, location="query")
    @bp.doc(
        summary="A file, by a signed link",
        description="Links are made for messengers that fetch files by themselves; each is good for a day or a little more.",
        responses=_content() | documented(404, 416, 503),
    )
    def linked_file(id: str, name: str, query_data: LinkIn) -> Response:  # noqa: A002
        signed, asked = service.files.links, query_data
        now = service.store.now()
        if signed is None or not signed.opens(id, name, asked.until, asked.sig, now):
            raise nothing
        try:
            return _served(service, service.files.get(id, None), name)
        except NotFound:
            raise nothing from None

    return bp


def _served(service: Service, stored: Stored, name: str) -> Response:
    """The file, or the part that is asked for; never shown by a browser as a page of ours. Raises NotFound."""
    try:
        content = service.files.open(stored.file.id)
    except FileNotFoundError:
        raise NotFound("there is no such file") from None
    size = stored.file.size
    answer = Response(
        FileWrapper(content, READ), content_type=stored.file.media_type, direct_passthrough=True
    )
    answer.call_on_close(content.close)
    answer.content_length = size
    answer.set_etag(stored.sha256)
    answer.last_modified = stored.at
    answer.headers["Content-Disposition"] = _attachment(clean_name(name))
    answer.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Cache-Control"] = "private, no-cache"
    # What only writes ask for counts for nothing here.
    environ = {key: value for key, value in request.environ.items() if key != "HTTP_IF_MATCH"}
    if request.method != "GET" or not _ONE_RANGE.fullmatch(environ.get("HTTP_RANGE", "")):
        environ.pop("HTTP_RANGE", None)
    try:
        answer.make_conditional(environ, accept_ranges=True, complete_length=size)
    except BaseException:
        answer.close()
        raise
    return answer


def _attachment(name: str) -> str:
    """Both ways to say a name: the plain one for who knows no other. https://www.rfc-editor.org/rfc/rfc6266#section-4.3"""
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    options = {"filename": plain}
    if not name.isascii():
        options["filename*"] = f"UTF-8''{quote(name, safe='')}"
    return dump_options_header("attachment", options)


def _content() -> dict[int, Any]:
    held = {"content": {"*/*": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        200: {"description": "All of it", **held},
        206: {"description": "The part that `Range` names", **held},
        304: {"description": "It is still as `If-None-Match` or `If-Modified-Since` says"},
    }
