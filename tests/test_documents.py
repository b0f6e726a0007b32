"""What the documents say of limits and logins is so."""

import re
from pathlib import Path

import pytest

from messengers import telegram_files, viber_files, whatsapp_files
from messengers.apprise import Apprise
from messengers.mail import MIB, Mail
from postrider.patience import UPLOADS
from tests.conftest import ROOT

MB = 1_000_000
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def row(messenger: str) -> str:
    """What docs/files.md says a messenger takes."""
    (found,) = re.findall(
        rf"^\| `{messenger}` \|.*$", (ROOT / "docs/files.md").read_text(), re.MULTILINE
    )
    return str(found)


def test_the_table_of_files_names_each_messenger_s_limits() -> None:
    t, v, w = telegram_files, viber_files, whatsapp_files
    said = {
        "telegram": [
            f"image (JPEG, PNG, WebP) {t.PHOTO_BYTES // MB} MB, sides of {t.PHOTO_SIDES:,} pixels",
            f"at most {t.PHOTO_RATIO} to 1",
            f"{t.CAPTION_LIMIT:,} UTF-16 units",
            f"2 to {t.ALBUM_LIMIT} ",
            f"by `link` images of {t.URL_PHOTO_BYTES // MB} MB, others of {t.URL_BYTES // MB} MB",
        ],
        "whatsapp": [
            f"image (JPEG, PNG) {w.LIMITS['image'] // MB} MB",
            f"video (MP4, 3GPP) {w.LIMITS['video'] // MB} MB",
            f"audio {w.LIMITS['audio'] // MB} MB",
            f"sticker (WebP) {w.LIMITS['sticker'] // 1000} KB, a still one {w.STILL_STICKER_BYTES // 1000} KB",
            f"| {w.LIMITS['document'] // MB} MB |",
            f"{w.CAPTION_LIMIT:,} UTF-16 units",
        ],
        "viber": [
            f"image (JPEG, PNG, GIF) {v.LIMITS['picture'] // MB} MB",
            f"video (MP4) {v.LIMITS['video'] // MB} MB",
            f"| {v.LIMITS['file'] // MB} MB",
            f"{v.CAPTION_LIMIT} characters",
        ],
        "apprise": [f"{Apprise.FILE_LIMIT // MIB} MiB"],
    }
    for messenger, words in said.items():
        for each in words:
            assert each in row(messenger), (messenger, each)
    whole = (ROOT / "README.md").read_text()
    assert f"| `mail` | address | {Mail.TEXT_LIMIT:,} characters |" in whole
    assert f"process takes {UPLOADS} uploads" in (ROOT / "docs/files.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_call_in_a_document_can_be_pasted(page: Path) -> None:
    """With one and the same login, to where ./run.sh listens."""
    for line in re.findall(r"^curl .*$", page.read_text(), re.MULTILINE):
        here = "http://127.0.0.1:5000/" in line and "-u postrider:$API_PASSWORD" in line
        assert here or re.search(r' "?\$host/', line), line
        assert " --json " not in line, "curl has that since 7.82, which Ubuntu 22.04 has not"
