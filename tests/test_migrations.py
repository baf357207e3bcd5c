"""The schema goes up and down, is what the models say, and is made once even when two begin at the same moment."""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from app.engine import migrations
from app.settings import ROOT
from tests.conftest import POSTGRES
from tests.scratch import empty_database, environment, python

MIGRATE = ["-c", "from app.cli import main; main()", "migrate"]
RUN = ["-c", "from app.cli import main; main()", "run", "--no-reload", "--port", "1"]
UPGRADE = ["-m", "alembic", "upgrade", "head"]
TAKE_THE_TURN = f"SELECT pg_advisory_xact_lock({migrations.LOCK})" if POSTGRES else "BEGIN IMMEDIATE"
TABLES = {name for name in SQLModel.metadata.tables if not name.startswith("scratch_")}
NOWHERE = {
    "sqlite": "sqlite:////no/such/folder/cadre.db",
    "postgresql": "postgresql://ann:pass-word@127.0.0.1:1/nowhere",
}


@pytest.fixture
def empty_url(tmp_path: Path) -> Iterator[str]:
    with empty_database(tmp_path, "migrations") as url:
        yield url


def alembic(url: str, *arguments: str) -> str:
    done = python("-m", "alembic", *arguments, DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(command: list[str], url: str) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    environ = environment(DATABASE_URL=url)
    return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environ, stdout=pipe, stderr=pipe, text=True)


def tables(url: str) -> set[str]:
    return set(inspect(create_engine(url, poolclass=NullPool)).get_table_names())


def test_the_schema_goes_up_is_what_the_models_say_and_goes_down_and_up_again(empty_url: str):
    alembic(empty_url, "upgrade", "head")
    up = tables(empty_url)
    checked = alembic(empty_url, "check")
    alembic(empty_url, "downgrade", "base")
    down = tables(empty_url)
    alembic(empty_url, "upgrade", "head")

    assert up == TABLES | {"alembic_version"}
    assert "No new upgrade operations detected." in checked
    assert down == {"alembic_version"}
    assert tables(empty_url) == up


def test_of_three_who_migrate_an_empty_database_at_once_all_succeed(empty_url: str):
    started = [start(command, empty_url) for command in (MIGRATE, MIGRATE, UPGRADE)]
    ended = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert tables(empty_url) == TABLES | {"alembic_version"}


def test_a_migration_holds_off_every_other_from_its_first_moment(empty_url: str):
    with migrations.connect(empty_url), pytest.raises(DBAPIError, match="lock") as refused:
        take_the_turn(empty_url)
    take_the_turn(empty_url)
    assert "timeout" in str(refused.value) or "database is locked" in str(refused.value)


def take_the_turn(url: str) -> None:
    """What a migration begins with, by somebody who does not wait."""
    impatient = {"options": "-c lock_timeout=100ms"} if POSTGRES else {"timeout": 0}
    engine = create_engine(url, poolclass=NullPool, connect_args=impatient)
    with engine.connect() as connection:
        connection.execute(text(TAKE_THE_TURN))


@pytest.mark.parametrize("file", sorted((ROOT / "alembic" / "versions").glob("*.py")), ids=lambda file: file.stem)
def test_no_migration_speaks_of_sqlmodel(file: Path):
    assert "sqlmodel" not in file.read_text(encoding="utf-8").lower()


@pytest.mark.once
@pytest.mark.parametrize("command", [UPGRADE, MIGRATE], ids=["alembic", "migrate"])
@pytest.mark.parametrize("kind", NOWHERE)
def test_a_database_that_cannot_be_reached_is_told_in_one_sentence(kind: str, command: list[str]):
    if kind == "postgresql" and not find_spec("psycopg"):
        pytest.skip("needs PostgreSQL's driver")
    told = python(*command, DATABASE_URL=NOWHERE[kind])
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("The database ")
    assert "DATABASE_URL" in told.stderr
    assert told.stderr.endswith(".\n")
    assert told.stderr.count("\n") == 1
    assert "pass-word" not in told.stderr


@pytest.mark.parametrize("command", [UPGRADE, MIGRATE, RUN], ids=["alembic", "migrate", "run"])
def test_a_database_of_another_version_of_the_code_is_told_in_one_sentence(empty_url: str, command: list[str]):
    migrations.upgrade(empty_url)
    engine = create_engine(empty_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    told = python(*command, DATABASE_URL=empty_url, ENVIRONMENT="development")
    assert (told.returncode, told.stdout) == (1, "")
    assert "Can't locate revision identified by '9999'" in told.stderr
    assert told.stderr.count("\n") == 1
