"""docker-compose.yml and the image: what one process stores, the others find, also in the next container."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

OURS = ("api", "worker", "courier", "keeper")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def data_volumes(service: dict[str, Any]) -> list[str]:
    """The named volumes at `DATA_DIR`."""
    folder = service["environment"]["DATA_DIR"]
    mounts = [volume.split(":") for volume in service["volumes"]]
    return [name for name, place, *_ in mounts if place == folder and not name.startswith(".")]


def test_all_processes_share_a_volume_for_files_and_keys(compose: dict[str, Any]) -> None:
    of_ours = {name for name, its in compose["services"].items() if its["image"] == "postrider"}
    assert of_ours == set(OURS)
    shared = [data_volumes(compose["services"][name]) for name in OURS]
    assert shared == [["data"]] * len(OURS)
    assert "data" in compose["volumes"]


def test_a_new_volume_belongs_to_the_user_of_the_image(compose: dict[str, Any]) -> None:
    """Docker gives it owner and mode of the folder in the image; one that is not there would be root's."""
    image = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    folder = compose["services"]["api"]["environment"]["DATA_DIR"]
    (made,) = re.findall(rf"install --directory (.+) {re.escape(folder)}\n", image)
    assert made.split() == ["--owner=postrider", "--group=postrider", "--mode=700"]
    assert image.index(made) < image.index("USER 10001")


def test_each_secret_that_services_share_is_made(compose: dict[str, Any], tmp_path: Path) -> None:
    """With an empty one, WAHA makes a key of its own that we do not know."""
    shutil.copy(ROOT / "run.sh", tmp_path)
    (tmp_path / ".env").write_text("COMPOSE_PROFILES=whatsapp-web\nWAHA_URL=http://waha:3000\n")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run([tmp_path / "run.sh", "docker"], env={"PATH": path}, check=True, timeout=60)
    made = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    used = set(re.findall(r"\$\{(\w+_(?:KEY|PASSWORD|SECRET))", str(compose)))
    assert "WAHA_API_KEY" in used
    assert [name for name in used if not made.get(name)] == []
