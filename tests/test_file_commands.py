"""Files by the command line: what stands in one database stands in another afterwards."""

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from app.engine import migrations
from tests.scratch import python

Run = Callable[..., "CompletedProcess[str]"]

USERS = """
INSERT INTO users (username, email, hashed_password, is_active, is_superuser, is_verified, credentials_changed_at,
created_at, updated_at, version) VALUES (?, ?, '', 1, 0, 0, '2026-01-01', '2026-01-01', '2026-01-01', 1)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`python3 -m app ...` where ann and bob have accounts."""
    url = f"sqlite:///{tmp_path_factory.mktemp('commands') / 'test.db'}"
    migrations.upgrade(url)
    with sqlite3.connect(url.removeprefix("sqlite:///")) as database:
        database.executemany(USERS, [("ann", "ann@example.com"), ("bob", "bob@example.com")])
    database.close()
    return lambda *given: python(
        "-c", "from app.cli import main; main()", *map(str, given), DATABASE_URL=url, ENVIRONMENT="test"
    )


@pytest.mark.once
def test_a_file_goes_in_as_somebody_and_out_as_the_application_and_in_again(run: Run, tmp_path: Path):
    file, out = tmp_path / "items.csv", tmp_path / "out.jsonl"
    file.write_text("title;description\none;=1\ntwo;\n", encoding="utf-8")
    taken = run("import", "items", file, "--as", "ann")
    assert (taken.returncode, taken.stdout) == (0, "2 created, 0 changed, 0 unchanged, 0 failed.\n"), taken.stderr
    given = run("export", "items", "--format", "jsonl", "--to", out)
    assert (given.returncode, given.stdout, [*tmp_path.glob(".*")]) == (0, "", []), given.stderr
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["title"], row["description"], row["owner_id"]) for row in rows] == [("one", "=1", 1), ("two", None, 1)]
    again = run("import", "items", out, "--on", "id")
    assert again.stdout == "0 created, 0 changed, 2 unchanged, 0 failed.\n"
    assert run("export", "items", "--as", "bob").stdout.count("\n") == 1


@pytest.mark.once
def test_what_is_no_file_is_written_to_and_not_replaced(run: Run, tmp_path: Path):
    pipe, link, behind = tmp_path / "pipe", tmp_path / "link", tmp_path / "behind.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    assert run("export", "items", "--to", pipe).returncode == 0
    assert os.read(reader, 3) == b"id,"
    os.close(reader)
    behind.write_text("old")
    link.symlink_to(behind)
    assert run("export", "items", "--to", link).returncode == 0
    assert (pipe.is_fifo(), link.is_symlink(), behind.read_text()[:3]) == (True, True, "id,")
    for nowhere, why in ((tmp_path, "Is a directory"), (tmp_path / "x" / "y.csv", "No such file or directory")):
        refused = run("export", "items", "--to", nowhere)
        assert (refused.returncode, refused.stderr.strip()) == (1, f"{nowhere} cannot be written: {why}.")


@pytest.mark.once
def test_what_is_wrong_is_told_by_its_line_and_ends_with_1(run: Run, tmp_path: Path):
    file = tmp_path / "items.csv"
    file.write_text("title\n\t\nthree\n", encoding="utf-8")
    wrong = "line 2, title: Value error, must be one line, and not blank"
    refused = run("import", "items", file, "--as", "ann")
    assert (refused.returncode, refused.stdout, wrong in refused.stderr) == (1, "", True)
    tried = run("import", "items", file, "--as", "ann", "--mode", "good", "--dry-run")
    counts = "1 created, 0 changed, 0 unchanged, 1 failed."
    assert (tried.returncode, tried.stdout) == (1, f"Nothing is kept of this dry run: {counts}\n{wrong}\n")


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("items", "--as", "nobody"), "Nobody is called nobody."),
        (("things",), "There is no table things here, but: items."),
        (("items",), "the file, owner_id: That column must be there."),
        (("items", "--on", "title"), "on: Input should be 'id'."),
    ],
)
def test_a_command_that_cannot_be_done_says_why(run: Run, tmp_path: Path, given: tuple[str, ...], sentence: str):
    file = tmp_path / "items.csv"
    file.write_text("title\nx\n", encoding="utf-8")
    done = run("import", given[0], file, *given[1:])
    assert (done.returncode, sentence in done.stderr, "Traceback" in done.stderr) == (1, True, False), done.stderr
