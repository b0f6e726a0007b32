"""The `postrider` command as a whole: what it lists, and what its processes do without."""

import os
import subprocess
from pathlib import Path

import pytest

from postrider import cli
from tests.conftest import POSTRIDER


def test_help_lists_what_people_and_supervisors_call(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    told = capsys.readouterr().out
    listed = [line.split()[0] for line in told.splitlines() if line.startswith("    ")]
    for command in (
        "redis",
        "api",
        "worker",
        "send",
        "scheduled",
        "finished",
        "purge",
        "hooks",
        "doctor",
    ):
        assert command in listed
    for command in ("preflight", "supervise", "await-ready"):
        assert command not in told


@pytest.mark.parametrize(
    ("typed", "says"), [("dcotor", "do you mean doctor?"), ("xyzzy", "there is no 'xyzzy'")]
)
def test_an_unknown_command_is_told_the_nearest(
    typed: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([typed])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert says in told
    assert "postrider --help" in told


@pytest.mark.parametrize(
    "command", ["redis", "api", "worker", "preflight", "supervise", "await-ready"]
)
def test_a_process_starts_without_what_only_people_need(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [POSTRIDER, command, "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "postrider.cli" in imported
    assert not {"rich", "postrider.commands"} & imported
