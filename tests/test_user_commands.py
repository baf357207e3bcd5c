"""Accounts by the command line, for the day when nobody can log in. What is done holds at the very next request."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from app import cli, user_commands
from app.settings import Settings
from tests.conftest import PASSWORD, Person

Run = Callable[..., Any]


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python3 -m app user ...`, on the database that the server is on."""
    monkeypatch.setattr(user_commands, "get_settings", lambda: settings)
    return lambda *typed: CliRunner().invoke(cli.main, ["user", *typed])


def said(result: Any) -> str:
    """What the command says: the server beside it writes its log to the same place."""
    return "".join(line for line in result.output.splitlines(keepends=True) if not line.startswith("{"))


def done(result: Any) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return said(result)


def password_in(result: Any) -> str:
    (password,) = re.findall(r"with the password (\S+)\nIt is shown only this once\.\n$", done(result))
    return str(password)


def refused(result: Any) -> str:
    assert result.exit_code == 1, result.output
    return said(result).strip()


def test_where_nobody_can_log_in_somebody_can_again(client: TestClient, root: Person, run: Run):
    with client.app.state.session_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE users SET is_active = false, is_superuser = false, hashed_password = ''")
    assert root.log_in().status_code == 400
    assert done(run("activate", "root")) == "root may log in.\n"
    assert done(run("promote", "ROOT")) == "ROOT is a superuser.\n"
    password = password_in(run("reset", "root"))
    assert root.log_in(password).status_code == 200
    assert root.get("/admin/counts").json()["superusers"] == 1


def test_an_account_is_created_and_its_password_printed_once(client: TestClient, run: Run):
    made = run("create", "Ann", "Ann@Example.com", "--full-name", "Ann Archer")
    root = Person(client, "root")
    assert root.log_in(password_in(run("create", "root", "root@example.com", "--superuser"))).status_code == 200
    ann = Person(client, "ann")
    assert ann.log_in(password_in(made)).status_code == 200
    me = ann.get("/users/me").json()
    assert (me["email"], me["full_name"], me["is_superuser"]) == ("ann@example.com", "Ann Archer", False)
    assert [line.split() for line in done(run("list")).splitlines()] == [
        *(["root", "root@example.com", "superuser"], ["ann", "ann@example.com"])
    ]


def test_what_is_done_holds_at_the_very_next_request(ann: Person, root: Person, run: Run):
    done(run("promote", "ann"))
    assert ann.get("/admin/counts").status_code == 200
    done(run("demote", "ann"))
    assert ann.get("/admin/counts").status_code == 403
    done(run("deactivate", "ann"))
    assert (ann.get("/users/me").status_code, ann.log_in().status_code) == (401, 400)
    assert done(run("list")).splitlines()[1].endswith("ann@example.com                  shut out")
    done(run("activate", "ann"))
    assert ann.log_in().status_code == 200
    password = password_in(run("reset", "ann", "--email", "new@example.com"))
    assert done(run("list")).splitlines()[1].split() == ["ann", "new@example.com"]
    assert (ann.get("/users/me").status_code, ann.log_in().status_code) == (401, 400)
    assert ann.log_in(password).status_code == 200
    assert done(run("delete", "ann", "--yes")) == "ann is gone.\n"
    assert (ann.get("/users/me").status_code, ann.log_in(password).status_code) == (401, 400)
    assert root.get("/admin/counts").json()["users"] == 1


def test_every_act_is_in_the_history_and_nobodys(ann: Person, root: Person, run: Run):
    verbs = ("promote", "demote", "deactivate", "activate", "reset")
    for typed in (*((verb, "ann") for verb in verbs), ("create", "bob", "bob@example.com"), ("delete", "ann", "--yes")):
        done(run(*typed))
    # Newest first; before that, the two of the fixtures.
    told = [(each["row_id"], each["action"], each["user_id"]) for each in root.get("/admin/history").json()[:-2]]
    assert told == [(1, "deleted", None), (3, "created", None), *[(1, "changed", None)] * 5]


@pytest.mark.promise("U18")
@pytest.mark.parametrize("typed", [("demote", "root"), ("deactivate", "root"), ("delete", "root", "--yes")])
def test_the_last_superuser_stays_here_too(root: Person, run: Run, typed: tuple[str, ...]):
    assert refused(run(*typed)).startswith("That is the last active superuser, and then nobody could undo it.")
    assert root.get("/admin/counts").json()["superusers"] == 1


def test_a_deletion_must_be_meant(ann: Person, run: Run):
    assert refused(run("delete", "ann")).endswith("If you mean it: python3 -m app user delete ann --yes")
    assert ann.get("/users/me").status_code == 200


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("create", "ANN", "other@example.com"), "That username is taken."),
        (("create", "other", "Ann@example.com"), "That email is taken."),
        (("create", "other", "nowhere"), "email: value is not a valid email address"),
        (("invite", "other", "other@example.com"), "This server sends no mails"),
        (("reset", "ann", "--email", "nowhere"), "email: value is not a valid email address"),
        (("revoke", "77"), "No machine token has the number 77."),
        (("reset", "ann\x1b[31m"), "Nobody is called ann\\x1b[31m."),
        *(((verb, "nobody"), "Nobody is called nobody.") for verb in ("activate", "demote", "reset", "tokens")),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_refused_in_a_sentence(ann: Person, run: Run, typed: tuple[str, ...], told: str):
    assert refused(run(*typed)).startswith(told)
    assert done(run("list")).count("\n") == 1


def test_machine_tokens_are_listed_and_revoked(client: TestClient, ann: Person, run: Run):
    assert done(run("tokens", "ann")) == "ann has no machine tokens.\n"
    made = ann.post("/machine_tokens", {"name": "backups", "scope": "items:read"}).json()
    headers = {"X-Token": made["token"]}
    assert client.get("/api/v1/items", headers=headers).status_code == 200
    (line,) = done(run("tokens", "ann")).splitlines()
    assert line.split()[:4] == [str(made["id"]), "backups", f"{made['prefix']}...", "items:read,"]
    assert made["token"] not in line
    assert done(run("revoke", str(made["id"]))) == f"Machine token {made['id']} is revoked.\n"
    assert client.get("/api/v1/items", headers=headers).status_code == 401


@pytest.mark.once
def test_on_a_database_that_is_not_migrated_the_command_says_what_to_do(
    run: Run, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: object
):
    old = settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/new.db"})
    monkeypatch.setattr(user_commands, "get_settings", lambda: old)
    assert refused(run("list")).endswith("Run: python3 -m app migrate")
    assert PASSWORD not in refused(run("create", "ann", "ann@example.com"))
