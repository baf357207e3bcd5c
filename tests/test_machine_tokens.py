"""Machine tokens: what a program sends as X-Token. Shown once, as strong as was said, and over when that is said."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import Session, select

from app import accounts, crud
from app.accounts import machines
from app.engine.caller import Caller
from app.errors import Unauthenticated
from app.models import MachineToken, MachineTokenCreate
from app.models.base import utcnow
from app.security import Identity, hashed
from tests.conftest import PASSWORD, Person

INVALID = 'Bearer error="invalid_token"'


def make(who: Person, **data: Any) -> Any:
    answer = who.post("/machine_tokens", {"name": "backups"} | data)
    assert answer.status_code == 201, answer.json()
    return answer.json()


def machine(who: Person, **data: Any) -> Person:
    """A program that acts as `who`."""
    return Person(who.client, who.username, who.id, {"X-Token": make(who, **data)["token"]})


def log_in(who: Person, scope: str) -> Person:
    form = {"username": who.username, "password": PASSWORD, "scope": scope}
    token = who.client.post("/api/v1/token", data=form).json()["access_token"]
    return Person(who.client, who.username, who.id, {"Authorization": f"Bearer {token}"})


def application(who: Person) -> Caller:
    return Caller(who.client.app.state.database)  # type: ignore[attr-defined]


def run(who: Person, act: Any, *args: Any) -> Any:
    async def call() -> Any:
        return await act(application(who), *args)

    assert who.client.portal
    return who.client.portal.call(call)


# What one is


def test_a_machine_acts_as_the_user_its_token_belongs_to(ann: Person, bob: Person):
    program = machine(ann)
    assert program.post("/items", {"title": "Foo"}).json()["owner_id"] == ann.id
    assert [item["title"] for item in program.get("/items").json()] == ["Foo"]
    assert bob.get("/items").json() == []


def test_it_is_shown_once_and_known_by_how_it_begins(ann: Person):
    made = make(ann)
    token = made.pop("token")
    assert made["prefix"] == token[:12]
    assert token.startswith("cadre_")
    assert ann.get("/machine_tokens").json() == [made]
    assert ann.get(f"/machine_tokens/{made['id']}").json() == made
    for path in ("", f"/{made['id']}"):
        assert token[12:] not in ann.get(f"/machine_tokens{path}").text


def test_of_a_machine_token_only_a_hash_is_stored(ann: Person, root: Person):
    token = make(ann)["token"]
    with Session(ann.client.app.state.session_engine) as session:  # type: ignore[attr-defined]
        row = session.exec(select(MachineToken)).one().model_dump_json()
    assert hashed(token) in row
    assert token.removeprefix("cadre_") not in row
    # Nor does the history tell either.
    told = root.get("/admin/history?entity=machine_tokens").text
    assert '"backups"' in told
    assert [word for word in (token[12:], hashed(token)) if word in told] == []


def test_what_is_shown_once_is_kept_under_no_key(ann: Person):
    headers = {**(ann.headers or {}), "Idempotency-Key": "1"}
    answer = ann.client.post("/api/v1/machine_tokens", json={"name": "backups"}, headers=headers)
    assert (answer.status_code, ann.get("/machine_tokens").json()) == (422, [])


def test_somebody_elses_token_does_not_exist(ann: Person, bob: Person, root: Person):
    made = make(ann)
    address = f"/machine_tokens/{made['id']}"
    assert [bob.get(address).status_code, bob.delete(address).status_code] == [404, 404]
    assert bob.get("/machine_tokens").json() == []
    assert [each["id"] for each in root.get("/machine_tokens").json()] == [made["id"]]
    assert root.delete(address).status_code == 204


def test_of_two_tokens_the_login_counts(ann: Person, bob: Person):
    both = {"X-Token": make(ann)["token"], **(bob.headers or {})}
    assert ann.client.get("/api/v1/users/me", headers=both).json()["username"] == "bob"
    # A bad login is not made good by another token.
    both["Authorization"] = "Bearer garbage"
    assert ann.client.get("/api/v1/users/me", headers=both).status_code == 401


def test_garbage_is_no_machine_token(ann: Person):
    token = make(ann)["token"]
    garbage = (b"", b"x", b"\xff\xfe", b"a" * 10_000, b"' OR 1=1 --", b"cadre_", b"%00", token.lower().encode())
    for each in (*garbage, token[:-1].encode(), f"{token}x".encode(), hashed(token).encode()):
        answer = ann.client.get("/api/v1/items", headers={"X-Token": each})
        assert (each[:20], answer.status_code) == (each[:20], 401)


# What it may do


def test_its_scope_is_what_was_said_and_no_more_than_the_role_has(ann: Person):
    assert make(ann)["scope"] is None
    made = make(ann, scope="items:read admin")
    assert made["scope"] == "items:read"
    program = Person(ann.client, "ann", ann.id, {"X-Token": made["token"]})
    assert program.get("/items").status_code == 200
    refused = program.post("/items", {"title": "Foo"})
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (
        403,
        'Bearer error="insufficient_scope", scope="items:write"',
    )


@pytest.mark.parametrize("scope", ["", " ", "admin", "nonsense", "items:read nonsense", "items:read,users:read"])
def test_a_scope_that_is_none_or_cannot_be_granted_is_refused(ann: Person, scope: str):
    assert ann.post("/machine_tokens", {"name": "backups", "scope": scope}).status_code == 422
    assert ann.get("/machine_tokens").json() == []


def test_no_token_makes_a_stronger_one(ann: Person):
    scope = "items:read machine_tokens:write"
    for weak in (log_in(ann, scope), machine(ann, scope=scope)):
        refused = weak.post("/machine_tokens", {"name": "backups", "scope": "items:write"})
        assert (refused.status_code, refused.json()["detail"]) == (422, "items:write is more than was granted.")
        assert make(weak)["scope"] == scope
        assert make(weak, scope="items:read")["scope"] == "items:read"
    assert log_in(ann, "items:read").post("/machine_tokens", {"name": "backups"}).status_code == 403


def test_a_superusers_program_may_administrate_if_that_was_said(root: Person, ann: Person):
    ann.post("/items", {"title": "Foo"})
    programs = [machine(root), machine(root, scope="admin items:read"), machine(root, scope="items:read")]
    assert [program.get("/admin/counts").status_code for program in programs] == [200, 200, 403]
    assert [len(program.get("/items").json()) for program in programs] == [1, 1, 0]


def test_who_was_demoted_makes_no_token_for_the_day_of_their_return(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    ann.log_in()
    root.post(f"/admin/users/{ann.id}/demote")
    # By the login of a superuser.
    assert make(ann, scope="admin items:read")["scope"] == "items:read"


# How it ends


@pytest.mark.parametrize("way", ["delete", "revoke", "by a superuser"])
def test_it_is_revoked_from_the_very_next_request_on(ann: Person, root: Person, way: str):
    made, other = make(ann), machine(ann)
    program = Person(ann.client, "ann", ann.id, {"X-Token": made["token"]})
    assert program.get("/items").status_code == 200
    if way == "revoke":
        assert ann.client.post("/api/v1/revoke", data={"token": made["token"]}).status_code == 200
    else:
        assert (ann if way == "delete" else root).delete(f"/machine_tokens/{made['id']}").status_code == 204
    refused = program.get("/items")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, INVALID)
    assert [other.get("/items").status_code, ann.get("/items").status_code] == [200, 200]


def test_it_is_revoked_while_a_request_is_under_way(ann: Person, bob: Person):
    made = make(ann)
    identity = run(ann, accounts.identify_machine, made["token"])

    async def read_as(application: Caller, who: Identity) -> Any:
        return await crud.items.page(replace(application, identity=who))

    assert run(ann, read_as, identity) == []
    with pytest.raises(Unauthenticated):  # nor does it let anybody in as somebody else
        run(ann, read_as, replace(identity, user_id=bob.id))
    ann.delete(f"/machine_tokens/{made['id']}")
    with pytest.raises(Unauthenticated):
        run(ann, read_as, identity)


def test_it_ends_when_it_expires(ann: Person, monkeypatch: pytest.MonkeyPatch):
    programs = [machine(ann, days=days) for days in (1, 90, None)] + [machine(ann)]
    now = utcnow()

    def in_force(days: int) -> list[bool]:
        monkeypatch.setattr(machines, "utcnow", lambda: now + timedelta(days=days))
        return [program.get("/items").status_code == 200 for program in programs]

    assert in_force(0) == [True, True, True, True]
    assert in_force(1) == [False, True, True, True]
    assert in_force(90) == [False, False, True, False]  # 90 unless somebody says otherwise
    for days in (0, 3651, -1):
        assert ann.post("/machine_tokens", {"name": "backups", "days": days}).status_code == 422


def test_it_ends_with_its_user(ann: Person, root: Person):
    program = machine(ann)

    def try_it() -> int:
        return program.get("/items").status_code

    before = try_it()
    root.post(f"/admin/users/{ann.id}/deactivate")
    deactivated = try_it()
    run(ann, crud.users.delete, ann.id)
    assert (before, deactivated, try_it()) == (200, 401, 401)


def test_a_new_password_and_a_logout_leave_it(ann: Person):
    program = machine(ann)
    assert ann.delete("/sessions").status_code == 204
    assert program.get("/items").status_code == 200
    change = {"current_password": PASSWORD, "new_password": "four other words together"}
    assert program.patch("/users/me/password", change).status_code == 204
    assert program.get("/items").status_code == 200
    # It is no login, so it does not log out.
    assert program.post("/logout").status_code == 403


def test_a_demoted_superusers_program_is_an_ordinary_users_at_once(ann: Person, root: Person):
    root.post(f"/admin/users/{ann.id}/promote")
    programs = [machine(ann), machine(ann, scope="admin items:read")]
    assert [program.get("/admin/counts").status_code for program in programs] == [200, 200]
    root.post(f"/admin/users/{ann.id}/demote")
    assert [program.get("/admin/counts").status_code for program in programs] == [403, 403]
    assert [program.get("/items").status_code for program in programs] == [200, 200]


# Its last use


def test_its_last_use_is_noted_to_the_minute(ann: Person, root: Person, monkeypatch: pytest.MonkeyPatch):
    made, now = make(ann), utcnow()
    program = Person(ann.client, "ann", ann.id, {"X-Token": made["token"]})

    def noted(seconds: int) -> Any:
        monkeypatch.setattr(machines, "utcnow", lambda: now + timedelta(seconds=seconds))
        assert program.get("/items").status_code == 200
        row = ann.get(f"/machine_tokens/{made['id']}").json()
        assert (row["version"], row["updated_at"]) == (made["version"], made["updated_at"])  # it is no change
        return row["last_used_at"]

    assert made["last_used_at"] is None
    first = noted(0)
    assert first is not None
    assert [noted(59) == first, noted(61) == first] == [True, False]
    told = root.get("/admin/history?entity=machine_tokens").json()
    assert [each["action"] for each in told] == ["created"]


# From the command line


def test_the_application_makes_one_for_somebody(ann: Person):
    data = MachineTokenCreate(name="tests", scope="items:read")
    made = run(ann, accounts.create_machine_token_for, "Ann", data)
    assert (made.owner_id, made.scope) == (ann.id, "items:read")
    assert Person(ann.client, "ann", ann.id, {"X-Token": made.token}).get("/items").status_code == 200
