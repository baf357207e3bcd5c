"""What every entity promises, whoever adds it: nobody has to write these tests again.

They walk each entity that has the five routes, with bodies made from its declaration. Those of tests/kinds.py, one of
each kind, show that the tests themselves notice. World.ask holds every answer against the OpenAPI document.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import UniqueConstraint

from app.engine.scopes import known
from app.engine.visibility import entities
from app.models.base import Access, Closed, Partial
from app.settings import Settings
from tests import bodies
from tests.conftest import Person, emptied
from tests.entities import NOBODY_HAS, Kind, World, kinds
from tests.kinds import all_tables, app_with_all

EVERY = [str(kind) for kind in kinds(app_with_all(Settings()))]
TABLES = sorted(entities())


@pytest.fixture(scope="module")
def world(migrated: str) -> Iterator[World]:
    """One for all of these: what they make never collides, and they look at nothing else."""
    with emptied(migrated) as url, all_tables(url):
        settings = Settings(database_url=url, environment="test", bcrypt_rounds=4, log_requests=False)
        app = app_with_all(settings)
        with TestClient(app, follow_redirects=False) as client:
            yield World(client)


@pytest.fixture(params=EVERY)
def kind(world: World, request: pytest.FixtureRequest) -> Kind:
    """Each entity that has the five routes."""
    return world.kinds[request.param]


@pytest.fixture
def owner(world: World, kind: Kind) -> Person:
    """Who makes its rows here."""
    return world.owner(kind)


def at(kind: Kind, row: Any) -> str:
    return f"{kind.path}/{row if isinstance(row, int) else row['id']}"


def read(kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
    """The declared fields in it, as Python has them: 1.50 and 1.5 are one price."""
    fields = kind.create.model_fields
    return {name: bodies.read(fields[name], value) for name, value in body.items() if name in fields}


def wrong_in(answer: Any) -> list[tuple[list[str], str]]:
    """Where something is wrong, and in what way."""
    return [(wrong["loc"][:2], wrong["type"]) for wrong in answer.json()["detail"]]


# Create, read, update, delete.


def test_a_created_row_is_where_its_answer_says(world: World, kind: Kind, owner: Person):
    body = world.body(kind)
    answer = world.ask(owner, "POST", kind.path, body)
    row = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1{at(kind, row)}"
    assert read(kind, row) == read(kind, row | body)
    assert row["version"] == 1
    assert row.get("owner_id", owner.id) == owner.id
    assert world.ask(owner, "GET", at(kind, row)).json() == row


@pytest.mark.promise("I18")
def test_a_creation_that_is_sent_again_makes_no_second_row(world: World, kind: Kind, owner: Person):
    body, other, key = world.body(kind), world.body(kind), {"Idempotency-Key": f"{kind}-1"}
    first, again = [world.ask(owner, "POST", kind.path, body, headers=key) for _ in range(2)]
    assert (first.status_code, again.status_code, again.headers["Idempotency-Replayed"]) == (201, 201, "true")
    assert (again.content, again.headers["ETag"]) == (first.content, first.headers["ETag"])
    assert again.headers["Location"] == first.headers["Location"]
    later = world.ask(owner, "POST", kind.path, other)
    assert world.ask(owner, "GET", f"{kind.path}?limit=2").json() == [later.json(), first.json()]


def test_what_must_be_there_is_enough_and_is_asked_for(world: World, kind: Kind, owner: Person):
    body = world.body(kind, whole=False)
    created = world.ask(owner, "POST", kind.path, body)
    assert (created.status_code, read(kind, created.json() | body)) == (201, read(kind, created.json()))
    for name in body:
        answer = world.ask(owner, "POST", kind.path, {key: value for key, value in body.items() if key != name})
        assert (answer.status_code, wrong_in(answer)) == (422, [(["body", name], "missing")])


def test_a_list_begins_with_the_newest(world: World, kind: Kind, owner: Person):
    asked = [world.body(kind), world.body(kind)]
    first, second = [world.ask(owner, "POST", kind.path, body).json() for body in asked]
    assert world.ask(owner, "GET", f"{kind.path}?limit=2").json() == [second, first]


def test_a_change_touches_what_is_sent_and_nothing_else(world: World, kind: Kind, owner: Person):
    row, other = world.row(kind), world.body(kind)
    for name, value in other.items():
        answer = world.ask(owner, "PATCH", at(kind, row), {name: value})
        if is_against_a_rule(kind, answer):  # then it takes the others too
            answer = world.ask(owner, "PATCH", at(kind, row), other)
        changed = answer.json()
        assert (name, answer.status_code) == (name, 200)
        sent = {name: value} if changed.get(name) == row.get(name) or len(differing(row, changed)) <= 3 else other
        assert read(kind, changed) == read(kind, row | sent)
        assert differing(row, changed) <= {*sent, "updated_at", "version"}
        assert changed["version"] == row["version"] + 1
        row = changed
    assert world.ask(owner, "GET", at(kind, row)).json() == row
    assert world.ask(owner, "PATCH", at(kind, row), {}).json() == row


def differing(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def is_against_a_rule(kind: Kind, answer: Any) -> bool:
    return answer.status_code in (409, 422) and answer.json()["detail"] in kind.rules


def test_a_deleted_row_is_gone(world: World, kind: Kind, owner: Person):
    row = world.row(kind)
    answer = world.ask(owner, "DELETE", at(kind, row))
    assert (answer.status_code, answer.content) == (204, b"")
    for method, body in (("GET", None), ("PATCH", {}), ("PATCH", world.body(kind)), ("DELETE", None)):
        assert world.ask(owner, method, at(kind, row), body).status_code == 404
    assert row["id"] not in [each["id"] for each in world.ask(owner, "GET", kind.path).json()]


@pytest.mark.promise("I13")
def test_what_was_read_already_is_not_sent_again(world: World, kind: Kind, owner: Person):
    row = world.row(kind)
    tag = world.ask(owner, "GET", at(kind, row)).headers["ETag"]
    again = world.ask(owner, "GET", at(kind, row), headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    changed = world.ask(owner, "PATCH", at(kind, row), world.body(kind))
    later = world.ask(owner, "GET", at(kind, row), headers={"If-None-Match": tag})
    assert (later.json(), later.headers["ETag"]) == (changed.json(), changed.headers["ETag"])


@pytest.mark.promise("I14")
def test_nobody_changes_or_deletes_by_mistake_what_is_newer_than_they_know(world: World, kind: Kind, owner: Person):
    created = world.ask(owner, "POST", kind.path, world.body(kind))
    old, address = {"If-Match": created.headers["ETag"]}, at(kind, created.json())
    changed = world.ask(owner, "PATCH", address, world.body(kind), headers=old)
    assert changed.status_code == 200
    for method, body in (("PATCH", world.body(kind)), ("PATCH", {}), ("DELETE", None)):
        assert (method, world.ask(owner, method, address, body, headers=old).status_code) == (method, 412)
    assert world.ask(owner, "GET", address).json() == changed.json()
    assert world.ask(owner, "DELETE", address, headers={"If-Match": changed.headers["ETag"]}).status_code == 204


# Who may.


def test_whoever_is_nobody_or_no_longer_anybody_is_asked_who_they_are(world: World):
    for method, path, operation in world.operations():
        if "security" in operation:
            address = re.sub(r"{\w+}", "1", path.removeprefix("/api/v1"))
            for body in (None, {}) if "requestBody" in operation else (None,):
                answer = world.ask(world.nobody, method, address, body)
                assert (operation["operationId"], answer.status_code) == (operation["operationId"], 401)
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_whoever_was_shut_out_has_no_way_in(world: World, kind: Kind, owner: Person):
    row, body = world.row(kind), world.body(kind)
    address = at(kind, row)
    asked = (("GET", kind.path, None), ("POST", kind.path, body), ("GET", address, None), ("PATCH", address, body))
    for method, path, sent in (*asked, ("PATCH", address, {}), ("DELETE", address, None)):
        assert (method, world.ask(world.gone, method, path, sent).status_code) == (method, 401)
    assert world.ask(owner, "GET", address).json() == row


@pytest.mark.promise("I03", "I04")
def test_somebody_elses_row_is_as_visible_as_the_model_says(world: World, kind: Kind, owner: Person):
    row, body, bob = world.row(kind), world.body(kind), world.bob
    asked = [("GET", None), ("PATCH", {}), ("PATCH", body), ("DELETE", None)]
    by_bob = [world.ask(bob, method, at(kind, row), sent) for method, sent in asked[: 2 if is_shared(kind) else 4]]
    of_nothing = [world.ask(bob, method, at(kind, NOBODY_HAS), sent) for method, sent in asked]
    listed = world.ask(bob, "GET", kind.path)
    if is_shared(kind):
        assert [answer.json() for answer in by_bob] == [row, row]
        assert row in listed.json()
    elif kind.access is Access.RESTRICTED:
        assert [answer.status_code for answer in (*by_bob, *of_nothing, listed)] == [403] * 9
        assert world.ask(bob, "POST", kind.path, body).status_code == 403
    else:
        # Not even the body may tell the two apart, or ids could be probed.
        assert [(answer.status_code, answer.content) for answer in by_bob] == [
            (404, answer.content) for answer in of_nothing
        ]
        assert listed.json() == [each for each in listed.json() if each["id"] != row["id"]]
    assert world.ask(owner, "GET", at(kind, row)).json() == row
    assert world.ask(world.root, "GET", at(kind, row)).json() == row


def is_shared(kind: Kind) -> bool:
    return kind.access is Access.SHARED


def test_a_teams_row_is_there_for_its_members(world: World, kind: Kind):
    if kind.access is not Access.TEAM or kind.entity.__members__ not in world.kinds:
        pytest.skip("belongs to no team")
    row = world.row(kind)
    team = kind if kind.entity.__team__ == "id" else world.kinds[kind.references[kind.entity.__team__]]
    world.join(team, row[kind.entity.__team__], world.bob)
    assert world.ask(world.bob, "GET", at(kind, row)).json() == row
    assert row in world.ask(world.bob, "GET", kind.path).json()


# What a token may do.


ALIKE = ("", "/{}", "/{}/history", "/{}/restore", "/bulk", "/bulk/delete", "/export", "/import", "/changes")
ALIKE += ("/changes/stream",)  # beneath every entity's address


def test_to_read_takes_a_scope_and_to_write_another(world: World, kind: Kind, owner: Person):
    row, own = world.row(kind), (f"{kind}:read", f"{kind}:write")
    # Without admin a superuser's token would see nothing here; only what is for superusers asks for it at the door.
    as_owner = {"admin"} if owner is world.root else set()
    at_the_door = {"admin"} if kind.access is Access.RESTRICTED else set()
    # Of each kind of token one.
    reader, writer = world.machine(owner, own[0], *as_owner), world.scoped(owner, own[1], *as_owner)
    others = world.scoped(owner, *(known.keys() - {*own}))
    paths = {f"/api/v1{kind.path}{rest}" for rest in ALIKE}
    asked = [each for each in world.operations() if re.sub(r"{\w+}", "{}", each[1]) in paths]
    assert len(asked) == 14
    for method, path, operation in asked:
        address = re.sub(r"{\w+}", str(row["id"]), path.removeprefix("/api/v1"))
        body = {} if "requestBody" in operation else None
        needed = at_the_door | {own[method != "GET"]}
        assert (path, world.scopes(operation)) == (path, sorted(needed))
        for who in (others, writer if method == "GET" else reader):
            refused = world.ask(who, method, address, body)
            assert (method, path, refused.status_code) == (method, path, 403)
            assert refused.headers["WWW-Authenticate"] == insufficient(needed)
        if method == "GET":
            assert (path, world.ask(reader, method, address).status_code) == (path, 200)


def test_the_scope_to_write_is_enough_for_all_that_is_written(world: World, kind: Kind, owner: Person):
    row, (body, one, more) = world.row(kind), (world.body(kind) for _ in range(3))
    writer = world.scoped(owner, f"{kind}:write", *(["admin"] if owner is world.root else []))
    if is_a_teams(kind):  # whoever was in the team is in none any more, and its members come back with it
        writer = world.scoped(world.root, "admin", f"{kind}:write", f"{kind.entity.__members__}:write")
    file = {"content": json.dumps(more).encode(), "headers": {"Content-Type": MEDIA["jsonl"]}}
    secret = kind.table.columns.keys() - kind.read.model_fields.keys()  # then there is no restoration
    for status, method, path, sent in (
        (200, "PATCH", at(kind, row), {"body": body}),
        (200, "PATCH", at(kind, row), {"body": {}}),
        (200, "PATCH", at_once(kind), {"body": [{"id": row["id"], **body}]}),
        (201, "POST", at_once(kind), {"body": [one]}),
        (200, "POST", f"{kind.path}/import", file),
        (204, "DELETE", at(kind, row), {}),
        (409 if secret else 200, "POST", f"{at(kind, row)}/restore", {}),
        (404 if secret else 204, "POST", at_once(kind, "/delete"), {"body": [row["id"]]}),
    ):
        answer = world.ask(writer, method, path, **sent)
        assert (method, path, answer.status_code) == (method, path, status)


def insufficient(scopes: Iterable[str]) -> str:
    return f'Bearer error="insufficient_scope", scope="{" ".join(sorted(scopes))}"'


# What is refused.


@pytest.mark.promise("I05", "I12")
def test_no_client_sets_what_is_not_declared(world: World, kind: Kind, owner: Person):
    row, body = world.row(kind), world.body(kind)
    for key in {*kind.table.columns.keys(), "nonsense", "__class__"} - kind.create.model_fields.keys():
        for method, path, sent in (("POST", kind.path, body), ("PATCH", at(kind, row), {})):
            answer = world.ask(owner, method, path, {**sent, key: world.bob.id})
            assert (key, answer.status_code) == (key, 422)
            assert wrong_in(answer) == [(["body", key], "extra_forbidden")]
    assert world.ask(owner, "GET", at(kind, row)).json() == row


def test_null_is_for_what_may_be_empty(world: World, kind: Kind, owner: Person):
    row, body = world.row(kind), world.body(kind)
    for name in body:
        created = world.ask(owner, "POST", kind.path, {**world.body(kind), name: None})
        changed = world.ask(owner, "PATCH", at(kind, row), {name: None})
        if name in kind.nullable:
            for answer, status in ((created, 201), (changed, 200)):
                assert is_against_a_rule(kind, answer) or (answer.status_code, answer.json()[name]) == (status, None)
        else:
            assert [(answer.status_code, {loc[1] for loc, _ in wrong_in(answer)}) for answer in (created, changed)] == [
                (422, {name})
            ] * 2


def test_what_does_not_fit_is_refused_where_it_is(world: World, kind: Kind, owner: Person):
    row, body = world.row(kind), world.body(kind)
    for name, value in bodies.invalid(kind.create):
        for method, path, sent in (("POST", kind.path, body), ("PATCH", at(kind, row), {})):
            answer = world.ask(owner, method, path, {**sent, name: value})
            assert (name, value, answer.status_code) == (name, value, 422)
            assert {tuple(loc) for loc, _ in wrong_in(answer)} == {("body", name)}
    assert world.ask(owner, "GET", at(kind, row)).json() == row


def test_what_is_taken_is_refused(world: World, kind: Kind, owner: Person):
    row, other = world.row(kind), world.row(kind)
    for names in kind.unique:
        taken = {name: row[name] for name in names if name in kind.create.model_fields}
        created = world.ask(owner, "POST", kind.path, {**world.body(kind), **taken})
        changed = world.ask(owner, "PATCH", at(kind, other), taken)
        assert (names, created.status_code, changed.status_code) == (names, 409, 409)
        assert "taken" in created.json()["detail"]
    assert world.ask(owner, "GET", at(kind, other)).json() == other


def test_what_is_missing_and_what_is_invisible_are_refused_alike(world: World, kind: Kind, owner: Person):
    row = world.row(kind)
    for name, table in kind.references.items():
        other = world.kinds.get(table)
        is_hidden = owner is not world.root and (table == "users" or (other and not is_shared(other)))
        theirs = [world.bob.id if other is None else world.row(other, by(world, other))["id"]] if is_hidden else []
        for method, path, sent in (("POST", kind.path, world.body(kind)), ("PATCH", at(kind, row), {})):
            answers = [world.ask(owner, method, path, {**sent, name: each}) for each in (NOBODY_HAS, *theirs)]
            assert {(name, answer.status_code, answer.content) for answer in answers} == {
                (name, 422, answers[0].content)
            }
    assert world.ask(owner, "GET", at(kind, row)).json() == row


def by(world: World, kind: Kind) -> Person:
    """Who makes rows that Ann does not see."""
    return world.root if world.owner(kind) is world.root else world.bob


# Many at once.


def at_once(kind: Kind, part: str = "") -> str:
    return f"{kind.path}/bulk{part}"


def listed(answer: Any) -> list[tuple[list[Any], str]]:
    """Where something is refused, and the sentence."""
    return [(each["loc"], each["msg"]) for each in answer.json()["detail"]]


def test_many_rows_are_made_as_single_ones_are_and_in_their_order(world: World, kind: Kind, owner: Person):
    sent = [world.body(kind), world.body(kind, whole=False), world.body(kind)]
    created = world.ask(owner, "POST", at_once(kind), sent)
    rows = created.json()
    assert (created.status_code, [row["version"] for row in rows]) == (201, [1, 1, 1])
    assert [read(kind, row) for row in rows] == [read(kind, row | body) for row, body in zip(rows, sent, strict=True)]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert {row.get("owner_id", owner.id) for row in rows} == {owner.id}
    assert [world.ask(world.root, "GET", at(kind, row)).json() for row in rows] == rows


def test_many_rows_are_changed_and_deleted_as_single_ones_are(world: World, kind: Kind, owner: Person):
    before = [world.row(kind), world.row(kind), world.row(kind)]
    sent = [{"id": before[1]["id"], **world.body(kind)}, {"id": before[0]["id"], "version": 1}]
    changed = world.ask(owner, "PATCH", at_once(kind), sent)
    first, second = changed.json()
    assert (changed.status_code, read(kind, first), second) == (200, read(kind, before[1] | sent[0]), before[0])
    assert differing(before[1], first) <= {*sent[0], "updated_at", "version"}
    assert (first["version"], world.ask(owner, "GET", at(kind, first)).json()) == (2, first)
    deleted = world.ask(owner, "POST", at_once(kind, "/delete"), [{"id": first["id"], "version": 2}, second["id"]])
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert [world.ask(owner, "GET", at(kind, row)).status_code for row in before] == [404, 404, 200]


@pytest.mark.promise("I03", "I04")
def test_many_rows_are_as_visible_as_single_ones(world: World, kind: Kind, owner: Person):
    row, body, bob = world.row(kind), world.body(kind), world.bob
    if is_shared(kind):
        pytest.skip("everyone sees them")
    asked = [("PATCH", "", [{"id": each, **body}]) for each in (row["id"], NOBODY_HAS)]
    asked += [("POST", "/delete", [each]) for each in (row["id"], NOBODY_HAS)]
    answers = [world.ask(bob, method, at_once(kind, part), sent) for method, part, sent in asked]
    assert {answer.status_code for answer in answers} == {403 if kind.access is Access.RESTRICTED else 404}
    # Not even the body may tell the two apart, or ids could be probed.
    assert len({answer.content for answer in answers}) == 1
    if kind.access is Access.RESTRICTED:
        assert world.ask(bob, "POST", at_once(kind), [body]).status_code == 403
    else:
        assert listed(answers[0]) == [(["body", 0], "Not found.")]
    assert world.ask(owner, "GET", at(kind, row)).json() == row


def test_whoever_was_shut_out_writes_no_rows_at_once_either(world: World, kind: Kind, owner: Person):
    row, body = world.row(kind), world.body(kind)
    asked = (("POST", "", [body]), ("PATCH", "", [{"id": row["id"], **body}]), ("POST", "/delete", [row["id"]]))
    for method, part, sent in asked:
        assert (method, world.ask(world.gone, method, at_once(kind, part), sent).status_code) == (method, 401)
    assert world.ask(owner, "GET", at(kind, row)).json() == row


@pytest.mark.promise("I05", "I12", "I14")
def test_one_row_that_is_refused_is_told_where_it_is_and_keeps_the_others_from_being_written(
    world: World, kind: Kind, owner: Person
):
    row, other = world.row(kind), world.row(kind)
    refusals = [("owner_id", world.bob.id, 422), ("nonsense", 1, 422)]
    refusals += [(name, NOBODY_HAS, 422) for name in kind.references]
    refusals += [(names[0], row[names[0]], 409) for names in kind.unique if len(names) == 1]
    for name, value, status in refusals:
        body, bad = world.body(kind), {**world.body(kind), name: value}
        created = world.ask(owner, "POST", at_once(kind), [body, bad])
        changed = world.ask(owner, "PATCH", at_once(kind), [{"id": row["id"]}, {"id": other["id"], **bad}])
        assert (name, created.status_code, changed.status_code) == (name, status, status)
        assert {tuple(loc) for answer in (created, changed) for loc, _ in listed(answer)} == {("body", 1, name)}
        assert world.ask(owner, "POST", at_once(kind), [body]).status_code == 201  # nothing took its place
    stale = [world.ask(owner, "PATCH", at_once(kind), [{"id": row["id"], "version": 2, **world.body(kind)}])]
    stale += [world.ask(owner, "POST", at_once(kind, "/delete"), [row["id"], {"id": other["id"], "version": 2}])]
    assert [answer.status_code for answer in stale] == [412, 412]
    assert [world.ask(owner, "GET", at(kind, each)).json() for each in (row, other)] == [row, other]


# Lists.


@pytest.fixture
def parameters(world: World, kind: Kind) -> dict[str, dict[str, Any]]:
    """What its list can be asked."""
    return world.parameters(kind)


def test_a_list_can_be_asked_what_the_fields_declare(kind: Kind, parameters: dict[str, Any]):
    filters, sorts = kind.listed("filter"), ["id", *kind.listed("sort")]
    expected = {"skip", "limit", "cursor", "sort", "count"} | ({"q"} if kind.listed("search") else set())
    assert parameters.keys() - filters - {name for name in parameters if "__" in name} == expected
    assert {name.partition("__")[0] for name in parameters} - expected == {*filters}
    assert sorted(parameters["sort"]["enum"]) == sorted(sign + name for name in sorts for sign in ("", "-"))
    assert {*filters, *sorts, *kind.listed("search")} <= kind.read.model_fields.keys()


def test_a_list_is_never_longer_than_a_hundred(world: World, kind: Kind, owner: Person, parameters: dict[str, Any]):
    limit = parameters["limit"]
    assert (limit["default"], limit["minimum"], limit["maximum"]) == (100, 1, 100)
    for query in ("limit=101", "limit=0", "skip=-1", "skip=100001", "limit=1&limit=1"):
        assert (query, world.ask(owner, "GET", f"{kind.path}?{query}").status_code) == (query, 422)


def test_a_filter_finds_the_rows_that_it_should(world: World, kind: Kind, owner: Person, parameters: dict[str, Any]):
    low, high = world.row(kind), world.row(kind)
    bare = world.ask(owner, "POST", kind.path, world.body(kind, whole=False)).json()

    def found(**asked: Any) -> list[Any]:
        answer = world.ask(owner, "GET", kind.path, params=asked)
        assert (asked, answer.status_code) == (asked, 200)
        return list(answer.json())

    for parameter in parameters:
        name, _, how = parameter.partition("__")
        if name not in kind.listed("filter") or low[name] is None:
            continue
        value, field = low[name], kind.create.model_fields[name]
        here, there = bodies.read(field, value), bodies.read(field, high[name])
        sent = {"": value, "in": [value, high[name]], "null": True}.get(how, value)
        sent = str(value)[1:].swapcase() if how == "contains" else sent
        rows = found(**{parameter: sent})
        values = [bodies.read(field, row[name]) for row in rows]
        match how:
            case "null":
                assert (bare in rows, {*values}) == (bare[name] is None, {None} if rows else set())
                assert low in found(**{parameter: False})
            case "contains":
                assert (low in rows, [each for each in values if sent.lower() not in each.lower()]) == (True, [])
            case "in":
                assert (low in rows, high in rows, {*map(str, values)}) == (True, True, {str(here), str(there)})
            case "gt" | "lt":
                assert (low in rows, [each for each in values if (each <= here if how == "gt" else each >= here)]) == (
                    False,
                    [],
                )
                assert (high in rows) == (there > here if how == "gt" else there < here)
            case "gte" | "lte":
                assert (low in rows, [each for each in values if (each < here if how == "gte" else each > here)]) == (
                    True,
                    [],
                )
            case _:
                assert (low in rows, {*map(str, values)}) == (True, {str(here)})


def test_a_search_finds_what_holds_the_words(world: World, kind: Kind, owner: Person):
    fields, row = kind.listed("search"), world.row(kind)
    world.row(kind)
    for name in fields:
        words = row[name][1:].swapcase()
        found = world.ask(owner, "GET", kind.path, params={"q": words}).json()
        assert row in found
        assert [each for each in found if not any(words.lower() in (each[f] or "").lower() for f in fields)] == []


def test_a_wrong_question_is_refused_where_it_is_wrong(
    world: World, kind: Kind, owner: Person, parameters: dict[str, Any]
):
    for name in (*parameters, "nonsense", "id", *(kind.table.columns.keys() - parameters.keys())):
        answer = world.ask(owner, "GET", kind.path, params={name: "\x00"})
        assert (name, answer.status_code) == (name, 422)
        if name != "cursor":
            assert {tuple(loc) for loc, _ in wrong_in(answer)} == {("query", name)}


def test_all_pages_together_hold_every_row_once_in_every_order(
    world: World, kind: Kind, owner: Person, parameters: dict[str, Any]
):
    for whole in (True, False, True, False, True):
        assert world.ask(owner, "POST", kind.path, world.body(kind, whole=whole)).status_code == 201
    newest = world.ask(owner, "GET", kind.path).json()[:100]
    total = int(world.ask(owner, "GET", f"{kind.path}?count=true&limit=1").headers["X-Total-Count"])
    for sort in parameters["sort"]["enum"]:
        path, rows, pages = f"{kind.path}?sort={sort}&limit={-(-total // 4)}", [], 0
        while path:
            answer = world.ask(owner, "GET", path)
            assert (answer.status_code, "X-Total-Count" in answer.headers) == (200, False)
            rows, pages = rows + answer.json(), pages + 1
            link = re.fullmatch(r'</api/v1(.+)>; rel="next"', answer.headers.get("Link", '</api/v1>; rel="next"'))
            path = link[1] if link else ""
        ids = [row["id"] for row in rows]
        assert (sort, len(ids), len({*ids}), pages <= 4) == (sort, total, total, True)
        assert {row["id"] for row in newest} <= {*ids}
        assert [rows[at] for at, _ in enumerate(rows) if at and not is_after(kind, sort, rows[at - 1], rows[at])] == []


def is_after(kind: Kind, sort: str, before: Any, after: Any) -> bool:
    """Whether the two stand as they should: an empty value counts as the greatest, and of two alike the id decides."""
    name, down = sort.removeprefix("-"), sort.startswith("-")
    first, second = (after, before) if down else (before, after)
    if name == "id" or first[name] == second[name]:
        return bool(first["id"] < second["id"])
    if first[name] is None or second[name] is None:
        return second[name] is None
    field = kind.create.model_fields[name]
    # Texts are ordered as the database's language has it; made ones differ only in digits.
    return bool(bodies.read(field, first[name]) < bodies.read(field, second[name]))


def test_how_many_there_are_is_told_to_who_asks(world: World, kind: Kind, owner: Person):
    body = world.body(kind)
    before = world.ask(owner, "GET", f"{kind.path}?count=true&limit=1")
    world.ask(owner, "POST", kind.path, body)
    after = world.ask(owner, "GET", f"{kind.path}?count=true&limit=1")
    assert int(after.headers["X-Total-Count"]) == int(before.headers["X-Total-Count"]) + 1
    assert "X-Total-Count" not in world.ask(owner, "GET", f"{kind.path}?limit=1").headers


# What happens to those who refer to a row that is deleted.


def test_a_row_that_is_deleted_takes_along_or_lets_go_or_stays_as_declared(world: World, kind: Kind, owner: Person):
    for name, table in kind.references.items():
        parent = world.kinds.get(table)
        row = world.row(kind)
        if parent is None or row[name] is None:
            continue
        (key,) = kind.table.c[name].foreign_keys
        deleted = world.ask(owner, "DELETE", at(parent, row[name]))
        child = world.ask(owner, "GET", at(kind, row))
        if key.ondelete == "RESTRICT":
            assert (deleted.status_code, child.json()) == (409, row)
            assert "still in use" in deleted.json()["detail"]
            assert world.ask(owner, "GET", at(parent, row[name])).status_code == 200
            continue
        assert deleted.status_code == 204
        assert world.ask(owner, "GET", at(parent, row[name])).status_code == 404
        if key.ondelete == "CASCADE":
            assert child.status_code == 404
        else:
            assert {key: value for key, value in child.json().items() if row[key] != value} == {name: None}


# Files of rows.

MEDIA = {"csv": "text/csv", "jsonl": "application/x-ndjson"}


def first_of(file: bytes, form: str) -> bytes:
    """With one row and no more; made texts have no line breaks."""
    lines = file.split(b"\r\n" if form == "csv" else b"\n")
    return b"\r\n".join(lines[: 2 if form == "csv" else 1])


@pytest.mark.parametrize("form", MEDIA)
def test_a_row_that_went_out_in_a_file_comes_back_as_it_was(world: World, kind: Kind, owner: Person, form: str):
    row = world.row(kind)
    file = world.ask(owner, "GET", f"{kind.path}/export?format={form}&sort=-id").content
    assert world.ask(owner, "DELETE", at(kind, row)).status_code == 204
    sent = {"content": first_of(file, form), "headers": {"Content-Type": MEDIA[form]}}
    answer = world.ask(owner, "POST", f"{kind.path}/import?dry_run=true", **sent)
    assert (answer.status_code, answer.json()["created"], answer.json()["errors"]) == (200, 1, [])
    answer = world.ask(owner, "POST", f"{kind.path}/import", **sent)
    assert (answer.status_code, answer.json()["created"]) == (200, 1)
    (again,) = world.ask(world.root, "GET", f"{kind.path}?limit=1").json()
    assert differing(row, again) <= {"id", "created_at", "updated_at"}
    assert again["id"] > row["id"]


@pytest.mark.promise("I03", "I04")
def test_a_file_holds_and_changes_only_what_its_reader_sees(world: World, kind: Kind, owner: Person):
    row = world.row(kind)
    exported = world.ask(world.bob, "GET", f"{kind.path}/export?format=jsonl&sort=-id")
    if kind.access is Access.RESTRICTED:
        assert exported.status_code == 403
        return
    assert (row["id"] in [json.loads(line)["id"] for line in exported.content.splitlines()]) == is_shared(kind)
    body = json.dumps({**world.body(kind), "id": row["id"]}).encode()
    sent = {"content": body, "headers": {"Content-Type": MEDIA["jsonl"]}}
    answer = world.ask(world.bob, "POST", f"{kind.path}/import?on=id", **sent)
    if not is_shared(kind):
        assert (answer.status_code, wrong_in(answer)) == (422, [(["line", 1], "missing")])
        assert world.ask(owner, "GET", at(kind, row)).json() == row


# What became of it.


def test_the_past_of_a_row_tells_each_change_and_who_made_it(world: World, kind: Kind, owner: Person):
    row = world.row(kind)
    changed = world.ask(world.root, "PATCH", at(kind, row), world.body(kind)).json()
    by_bob = [world.ask(world.bob, "GET", f"{at(kind, row)}/history{asked}") for asked in ("", "?before=99999999")]
    assert world.ask(world.root, "DELETE", at(kind, row)).status_code == 204
    by_bob += [world.ask(world.bob, "GET", f"{at(kind, row)}/history")]
    if not is_shared(kind):
        by_bob += [world.ask(world.bob, "POST", f"{at(kind, row)}/restore")]
    reader = world.root if is_a_teams(kind) else owner  # whoever was in the team is in none any more
    told = world.ask(reader, "GET", f"{at(kind, row)}/history").json()
    assert [(each["action"], each["row"]) for each in told] == [
        *(("deleted", changed), ("changed", changed), ("created", row))
    ]
    assert [each["user_id"] for each in told] == [world.root.id, world.root.id, owner.id]
    differing_in = differing(row, changed) - {"version", "updated_at"}
    assert told[1]["changed"] == {name: {"before": row[name], "after": changed[name]} for name in differing_in}
    hidden = 403 if kind.access is Access.RESTRICTED else 404
    assert {answer.status_code for answer in by_bob} == {200 if is_shared(kind) else hidden}


def is_a_teams(kind: Kind) -> bool:
    """Whether it is what teams are made of."""
    return kind.access is Access.TEAM and (kind.entity.__team__ == "id" or str(kind) == kind.entity.__members__)


def test_a_deleted_row_comes_back_as_it_was(world: World, kind: Kind, owner: Person):
    row = world.row(kind)
    who = world.root if is_a_teams(kind) else owner
    assert world.ask(who, "POST", f"{at(kind, row)}/restore").status_code == 409
    world.ask(who, "DELETE", at(kind, row))
    answer = world.ask(who, "POST", f"{at(kind, row)}/restore")
    if kind.table.columns.keys() - kind.read.model_fields.keys():
        assert answer.status_code == 409  # what no answer shows is in no history
        return
    assert (answer.status_code, differing(row, answer.json())) == (200, {"version", "updated_at"})
    assert answer.json()["version"] == row["version"] + 1
    assert world.ask(who, "GET", at(kind, row)).json() == answer.json()
    assert world.ask(who, "POST", f"{at(kind, row)}/restore").json()["detail"] == "It is not deleted."


@pytest.mark.promise("I03", "I04")
def test_what_changed_since_is_told_to_those_who_see_it_and_to_nobody_else(world: World, kind: Kind, owner: Person):
    readers = [owner, world.root] + [world.bob] * (kind.access is not Access.RESTRICTED)
    asked = [world.ask(reader, "GET", f"{kind.path}/changes?after=now") for reader in readers]
    row = world.row(kind)
    changed = world.ask(world.root, "PATCH", at(kind, row), world.body(kind)).json()
    expected, start = [("created", row), ("changed", changed)], asked[1].headers["Link"]
    assert [each for each in told_since(world, world.root, start, changed) if each[1]["id"] == row["id"]] == expected
    for reader, answer in zip(readers, asked, strict=True):
        told = told_since(world, reader, answer.headers["Link"])
        sees = reader is not world.bob or is_shared(kind)
        assert [each for each in told if each[1]["id"] == row["id"]] == (expected if sees else [])
    if kind.access is Access.RESTRICTED:
        assert world.ask(world.bob, "GET", f"{kind.path}/changes").status_code == 403


def told_since(world: World, who: Person, link: str, last: Any = None) -> list[tuple[str, Any]]:
    """What the feed tells, once it has told of `last`: whoever writes at the moment, in any database, holds it up."""
    begun = time.monotonic()
    while True:
        answer = world.ask(who, "GET", link.split(">")[0].removeprefix("</api/v1"))
        told = [(each["action"], each["row"]) for each in answer.json()]
        if last is None or last in [row for _, row in told]:
            return told
        assert time.monotonic() < begun + 20, told
        time.sleep(0.02)


# What the files say.


def test_five_routes_are_called_after_what_they_do(world: World, kind: Kind):
    called = {verb: world.operation(kind, verb)["operationId"] for verb in kind.routes}
    noun = called["create"].removeprefix("create_")
    assert called == {verb: f"{verb}_{kind if verb == 'list' else noun}" for verb in kind.routes}
    assert {len(world.operation(kind, verb)["tags"]) for verb in kind.routes} == {1}


def test_clients_send_what_is_declared_and_nothing_else(kind: Kind):
    assert (issubclass(kind.create, Closed), issubclass(kind.update, Partial)) == (True, True)
    assert kind.create.model_fields.keys() == kind.update.model_fields.keys() <= kind.read.model_fields.keys()


@pytest.mark.parametrize("name", TABLES)
def test_no_id_is_ever_given_twice(name: str):
    assert table_of(name).dialect_options["sqlite"]["autoincrement"] is True


@pytest.mark.parametrize("name", TABLES)
def test_every_reference_says_what_becomes_of_it_and_is_found_by_an_index(name: str):
    table = table_of(name)
    begun = first_columns(table)
    keys = [(each.parent.name, each.ondelete) for each in table.foreign_keys]
    assert [key for key in keys if key[0] not in begun or key[1] not in ("RESTRICT", "CASCADE", "SET NULL")] == []
    assert [name for name, ondelete in keys if ondelete == "SET NULL" and not table.c[name].nullable] == []


@pytest.mark.parametrize("name", TABLES)
def test_what_lists_are_filtered_and_sorted_by_has_an_index(name: str):
    table = table_of(name)
    wanted = {column.name for column in table.columns if {"filter", "sort"} & {*column.info.get("listed", ())}}
    assert wanted - first_columns(table) == set()


@pytest.mark.parametrize("name", TABLES)
def test_a_column_that_no_answer_shows_has_no_name_in_the_document(world: World, name: str):
    entity = entities()[name]
    shown = {field for base in entity.__mro__[1:] for field in getattr(base, "model_fields", ())}
    shown = {name for name in shown if not name.startswith("hashed_")}
    hidden = {column.name for column in entity.__table__.columns} - shown
    named = {*names_in(world.document["components"]["schemas"]), *names_in(world.document["paths"])}
    assert hidden & named == set()


def names_in(document: Any) -> Iterator[str]:
    """Of every property, and of every parameter."""
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if key == "properties":
            yield from value
        if key == "parameters":
            yield from (each["name"].partition("__")[0] for each in value)
        if isinstance(value, dict | list):
            yield from names_in(value)


def table_of(name: str) -> Any:
    return entities()[name].__table__


def first_columns(table: Any) -> set[str]:
    """Those that an index begins with, by itself or after whose the row is."""
    indexes = [*table.indexes, *(each for each in table.constraints if isinstance(each, UniqueConstraint))]
    keys = [[*each.columns.keys()] for each in indexes] + [["id"]]
    return {key[0] for key in keys} | {key[1] for key in keys if key[0] in ("owner_id", "team_id") and key[1:]}
