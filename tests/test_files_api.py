"""Files over HTTP: uploaded whole or not at all, seen by their owner alone, read back, linked to, deleted."""

import hashlib
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import redis
import requests

from postrider.clients import Clients
from postrider.model import Quota, Role
from postrider.service import Service
from postrider.signing import Links
from tests.conftest import Api, connected_to, post_head
from tests.test_files import PNG

UPLOAD = "/api/v1/files"


@pytest.fixture
def env(env: dict[str, str]) -> dict[str, str]:
    return env | {
        "PUBLIC_URL": "https://post.example/base/",
        "MAX_FILE_BYTES": "300000",
        "MAX_BODY_BYTES": "100000",
    }


def kept(service: Service) -> list[str]:
    """What lies in the folder of files."""
    folder = service.files.folder
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def upload(api: Api, content: bytes = PNG, name: str = "a.png") -> dict[str, object]:
    answer = api.post(UPLOAD, files={"file": (name, content)})
    assert answer.status_code == 201, answer.text
    (told,) = answer.json()["files"]
    return dict(told)


As = Callable[..., Api]


@pytest.fixture
def known(api: Api, client: redis.Redis) -> As:
    """The API as a key of its own sees it."""

    def make(name: str, role: Role = "sender", **quota: int) -> Api:
        _, key = Clients(client).add_key(name, role, "test", Quota(**quota))
        other = Api(api.url)
        other.auth = None
        other.headers["Authorization"] = f"Bearer {key}"
        return other

    return make


# --- uploading


def test_several_files_are_kept_as_they_came(api: Api, service: Service) -> None:
    text = "Grüße\n".encode() * 20_000
    form = [("one", ("../x/ü.txt", text)), ("two", ("b", PNG)), ("one", ("empty.bin", b""))]
    answer = api.post(UPLOAD, files=form)
    assert answer.status_code == 201
    told = answer.json()["files"]
    assert [(f["name"], f["media_type"], f["kind"]) for f in told] == [
        ("ü.txt", "text/plain", "document"),
        ("b", "image/png", "image"),
        ("empty.bin", "application/octet-stream", "document"),
    ]
    assert [(f["width"], f["height"]) for f in told] == [(None, None), (2, 3), (None, None)]
    for f, (_, (_, content)) in zip(told, form, strict=True):
        assert (f["size"], f["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert api.get(f"{UPLOAD}/{f['id']}").json() == f
        assert api.get(f"{UPLOAD}/{f['id']}/content").content == content
    assert len(kept(service)) == 3


@pytest.mark.parametrize("boundary", ["x", "-" * 70, "a+b(c)"])
def test_what_looks_like_a_boundary_stays_in_the_file(
    api: Api, service: Service, boundary: str
) -> None:
    near = f"\r\n--{boundary[:-1]}\r\n--\r\r\n\n-".encode() * 3_000
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'.encode()
        + near
        + f"\r\n--{boundary}--\r\n".encode()
    )
    head = {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}
    answer = api.post(UPLOAD, data=body, headers=head)
    assert answer.status_code == 201, answer.text
    assert answer.json()["files"][0]["sha256"] == hashlib.sha256(near).hexdigest()


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        ([("a", ("a", b"x")), ("b", ("big.iso", b"x" * 300_001))], 413, "big.iso: is over 300000"),
        ([("a", ("a", b"x")), ("note", (None, b"x"))], 400, "note: is no file"),
        ([("a", ("a", b"x")), ("note", (None, b"x" * 70_000))], 413, "note: is over 65536 bytes"),
        ([("a", (f"{n}", b"x")) for n in range(101)], 413, "over 100 parts"),
        ([], 415, "multipart/form-data"),
    ],
)  # fmt: skip
def test_all_is_refused_when_one_part_is(
    api: Api, service: Service, client: redis.Redis, form: list[object], status: int, says: str
) -> None:
    answer = api.post(UPLOAD, files=form)
    assert (answer.status_code, answer.headers["Content-Type"]) == (
        status,
        "application/problem+json",
    )
    assert says in answer.json()["error"]
    assert kept(service) == []
    assert not client.keys("pr:file*")


@pytest.mark.parametrize(
    "body",
    [b"", b"--b\r\n", b"--b--\r\n", b"--b\r\nX: y\r\n\r\nz\r\n--b--\r\n", b"no form at all",
     b'--b\r\nContent-Disposition: form-data; filename="f"\r\n\r\nz\r\n--b--\r\n',
     b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\nz'],
)  # fmt: skip
def test_what_is_no_whole_form_is_refused(api: Api, service: Service, body: bytes) -> None:
    for data in (body, iter([body])):  # with its length said, and without
        head = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = api.post(UPLOAD, data=data, headers=head)
        assert answer.status_code == 400, answer.text
    assert kept(service) == []


def test_max_body_bytes_is_for_other_bodies(env: dict[str, str], api: Api) -> None:
    assert upload(api, b"x" * 300_000)["size"] == 300_000
    assert api.post("/api/v1/messages", json={"body": "x" * 100_000}).status_code == 413


# --- quotas


def test_a_client_has_no_more_bytes_kept_than_it_may(
    known: As, service: Service, client: redis.Redis
) -> None:
    one = known("one", file_bytes=1_000)
    first = upload(one, b"x" * 600)
    for content in (b"x" * 401, b"x" * 100_000):
        answer = one.post(UPLOAD, files={"file": content})
        assert (answer.status_code, answer.headers["Retry-After"]) == (429, "60")
        assert "1000 bytes of files (file_bytes)" in answer.json()["error"]
    assert len(kept(service)) == 1
    upload(one, b"x" * 400)
    assert one.delete(f"{UPLOAD}/{first['id']}").status_code == 204
    upload(one, b"x" * 600)
    assert one.get("/api/v1/me").json()["limits"]["file_bytes"] == 1_000


def test_clients_at_once_do_not_get_over_it_together(
    known: As, service: Service, client: redis.Redis
) -> None:
    one = known("one", file_bytes=1_000)
    head = dict(one.headers)
    told: list[int] = []

    def go() -> None:
        files = {"file": b"x" * 300}
        answer = requests.post(one.url + UPLOAD, files=files, headers=head, timeout=30)
        told.append(answer.status_code)

    threads = [threading.Thread(target=go) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [201] * 3 + [429] * 9
    assert len(kept(service)) == 3


# --- seeing


def test_pages_go_over_all_of_ones_own_files_newest_first(api: Api, known: As) -> None:
    one, two = known("one"), known("two")
    many = one.post(UPLOAD, files=[("f", (f"{n}", b"x")) for n in range(7)]).json()["files"]
    mine = {f["id"] for f in many} | {upload(one)["id"]}
    upload(two)
    found, cursor = [], None
    while True:
        page = one.get(UPLOAD, params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        found += [f["id"] for f in page["files"]]
        if (cursor := page["next"]) is None:
            break
    assert len(found) == len(set(found))
    assert set(found) == mine
    assert len(api.get(UPLOAD).json()["files"]) == 9
    assert one.get(UPLOAD, params={"cursor": "x"}).status_code == 400


def test_another_clients_file_is_as_one_that_is_not_there(known: As) -> None:
    one, two = known("one"), known("two")
    id_ = upload(one)["id"]
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        theirs = two.request(method, f"{UPLOAD}/{id_}{path}")
        nobodys = two.request(method, f"{UPLOAD}/{'A' * 22}{path}")
        assert (theirs.status_code, nobodys.status_code) == (404, 404)
        assert theirs.json() == nobodys.json()
    assert one.get(f"{UPLOAD}/{id_}").status_code == 200


def test_who_only_looks_can_neither_upload_nor_delete(api: Api, known: As) -> None:
    viewer = known("viewer", "viewer")
    id_ = upload(api)["id"]
    assert viewer.post(UPLOAD, files={"f": b"x"}).status_code == 403
    assert viewer.delete(f"{UPLOAD}/{id_}").status_code == 403
    api.auth = None
    assert api.post(UPLOAD, files={"f": b"x"}).status_code == 401


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [("bytes=0-9", 206, 0, 10), ("bytes=100-", 206, 100, 1000), ("bytes=-5", 206, 995, 1000),
     ("bytes=999-5000", 206, 999, 1000), ("bytes=1000-", 416, 0, 0)],
)  # fmt: skip
def test_a_part_can_be_asked_for(api: Api, asked: str, status: int, first: int, last: int) -> None:
    content = bytes(n % 251 for n in range(1000))
    url = f"{UPLOAD}/{upload(api, content)['id']}/content"
    answer = api.get(url, headers={"Range": asked})
    assert answer.status_code == status
    if status == 206:
        assert answer.content == content[first:last]
        assert answer.headers["Content-Range"] == f"bytes {first}-{last - 1}/1000"
    else:
        assert answer.headers["Content-Range"] == "bytes */1000"


@pytest.mark.parametrize("asked", ["items=0-5", "bytes=0-1,5-6", "bytes=x", "0-5"])
def test_a_range_that_is_not_understood_counts_for_nothing(api: Api, asked: str) -> None:
    url = f"{UPLOAD}/{upload(api, PNG)['id']}/content"
    answer = api.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, PNG)


def test_the_head_of_a_file_is_that_of_all_of_it(api: Api) -> None:
    url = f"{UPLOAD}/{upload(api, PNG)['id']}/content"
    answer = api.head(url, headers={"Range": "bytes=0-1"})
    assert (answer.status_code, answer.headers["Content-Length"]) == (200, str(len(PNG)))


def test_a_page_that_was_uploaded_is_never_shown_as_one_of_ours(api: Api) -> None:
    id_ = upload(api, b"<script>alert(1)</script>", 'ü".html')["id"]
    answer = api.get(f"{UPLOAD}/{id_}/content")
    assert answer.headers["Content-Disposition"].startswith("attachment; filename=")
    assert "filename*=UTF-8''%C3%BC_.html" in answer.headers["Content-Disposition"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    again = api.get(f"{UPLOAD}/{id_}/content", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_what_a_message_needs_cannot_be_deleted(api: Api, service: Service) -> None:
    id_ = upload(api)["id"]
    assert api.get(f"{UPLOAD}/{id_}").json()["unused_until"]
    message = {"body": "", "recipients": [{"uuid": "ana", "service": "sandbox"}]}
    sent = api.post("/api/v1/messages", json=message | {"attachments": [{"file": id_}]})
    assert sent.status_code == 201, sent.text
    assert api.get(f"{UPLOAD}/{id_}").json()["unused_until"] is None
    assert api.delete(f"{UPLOAD}/{id_}").status_code == 409
    assert api.delete(f"/api/v1/messages/{sent.json()['id']}").status_code == 200
    service.purge()
    service.sweep()
    assert api.get(f"{UPLOAD}/{id_}").status_code == 404
    assert kept(service) == []


# --- links


def local(api: Api, link: str) -> str:
    """The link as our own server has it, behind the part of the path that a proxy takes off."""
    parts = urlsplit(link)
    assert link.startswith("https://post.example/base/files/")
    return f"{parts.path.removeprefix('/base')}?{parts.query}"


def test_a_link_gives_the_file_to_anybody(api: Api, service: Service) -> None:
    id_ = str(upload(api, PNG, "ü b.png")["id"])
    opened = service.files.opened(service.files.get(id_, None).file)
    api.auth = None
    answer = api.get(local(api, opened.link))
    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["Content-Type"] == "image/png"
    assert unquote(urlsplit(opened.link).path).endswith("/ü b.png")
    head = api.head(local(api, opened.link))
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(PNG)))
    part = api.get(local(api, opened.link), headers={"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"PNG")


def test_expired_forged_and_unknown_links_are_told_the_same(api: Api, service: Service) -> None:
    id_, other = str(upload(api)["id"]), str(upload(api)["id"])
    links, now = service.files.links, service.store.now()
    assert links
    good = local(api, links.url(id_, "a.png"))
    api.auth = None
    assert api.get(good).status_code == 200
    for wrong in (
        local(api, links.url(id_, "a.png", (now - timedelta(hours=26)).timestamp())),
        local(api, links.url("A" * 22, "a.png")),
        good.replace(id_, other),
        good.replace("a.png", "b.png"),
        good.replace("until=", "until=9"),
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good.partition("&")[0],
        good.partition("?")[0],
        good + "ü",
        good.replace("until=", "until=%00"),
    ):
        answer = api.get(wrong)
        assert answer.status_code == 404, wrong
        assert answer.json() == {"error": "there is no such file, or the link to it has expired"}


def test_processes_that_start_at_once_make_one_key(tmp_path: Path) -> None:
    every = [Links("https://x.example", tmp_path / "keys") for _ in range(20)]
    ready = threading.Barrier(len(every))
    urls: list[str] = []

    def make(links: Links) -> None:
        ready.wait()
        urls.append(links.url("a", "b", 0))

    threads = [threading.Thread(target=make, args=(links,)) for links in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 20
    assert len(set(urls)) == 1
    (path,) = (tmp_path / "keys" / "links").iterdir()
    assert path.name == "00000001.key"
    assert path.stat().st_mode & 0o777 == 0o600


def parts(url: str) -> tuple[str, str, str, str]:
    """Id, name, until and signature of a link."""
    split = urlsplit(url)
    query = dict(pair.split("=") for pair in split.query.split("&"))
    _, _, id_, name = split.path.split("/")
    return id_, name, query["until"], query["sig"]


def test_links_of_an_older_key_stay_good(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ours, theirs = (Links("https://x.example", tmp_path) for _ in range(2))
    before = parts(ours.url("a", "b"))
    theirs.ring.add()
    after = parts(ours.url("a", "b"))
    assert before != after
    assert all(links.opens(*link, now) for links in (ours, theirs) for link in (before, after))
    (tmp_path / "links" / "00000001.key").unlink()
    assert not ours.opens(*before, now)
    assert ours.opens(*after, now)


def test_the_key_that_there_was_before_is_taken_over(tmp_path: Path) -> None:
    key = bytes(range(32))
    (tmp_path / "links.key").write_bytes(key)
    (tmp_path / "links.key").chmod(0o600)
    links = [Links("https://x.example", tmp_path) for _ in range(2)]
    assert len({parts(one.url("a", "b", 0)) for one in links}) == 1
    assert links[1].ring.every() == (key,)
    assert [path.name for path in tmp_path.iterdir()] == ["links"]


# --- cut


def test_a_cut_upload_leaves_nothing(api: Api, service: Service, client: redis.Redis) -> None:
    for length in ("Content-Length: 200000", "Transfer-Encoding: chunked"):
        with connected_to(api.url) as connection:
            form = "Content-Type: multipart/form-data; boundary=b"
            connection.sendall(post_head(UPLOAD, form, length))
            part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
            part += b"x" * 99_000
            if "chunked" in length:
                part = f"{len(part):x}\r\n".encode() + part
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            assert b" 400 " in connection.recv(4096)
    assert kept(service) == []
    assert not client.keys("pr:file*")


def test_what_a_process_died_over_is_swept(service: Service, client: redis.Redis) -> None:
    """It was linked to its name, and nobody had written down what it is."""
    now = service.store.now()
    incoming = service.files.incoming()
    incoming.write(b"x")
    id_ = "A" * 22
    client.zadd("pr:files:arriving", {id_: now.timestamp() + 60})
    incoming.link(service.files.folder / id_)
    incoming.close()
    service.files.sweep(now)
    assert kept(service) == [id_]
    service.files.sweep(now + timedelta(seconds=61))
    assert kept(service) == []
    assert not client.keys("pr:file*")
