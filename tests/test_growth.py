"""Two million items cost no more than a few: statements find their rows by an index, and a server's memory stays flat.

Every day it is 100 000 items and 2 500 requests; with `--full` it is two million, and 100 000.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from app.accounts import finding, logins, machines
from app.crud import items, users
from app.engine import migrations
from app.engine.caller import Caller
from app.engine.queries import Filter, Shape
from app.engine.sqlite import DIALECT as SQLITE
from app.engine.statement import Statement
from app.models.base import utcnow
from app.security import Identity
from tests.conftest import PASSWORD, POSTGRES
from tests.scratch import empty_database
from tests.servers import Server, settings_for

USERS, OWNERS, STAMP = 20_000, 200, 7
NOW = "'2026-11-24 00:00:00.000000', '2026-11-24 00:00:00.000000', 1"
NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
SEED_USERS = f"""
    INSERT INTO users (created_at, updated_at, version, username, email, is_active, is_superuser, is_verified,
    credentials_changed_at, hashed_password) {NUMBERS}
    SELECT {NOW}, 'user' || i, 'user' || i || '@example.com', true, i = :rows, false, '2026-11-24', 'none' FROM n"""
SEED_SESSIONS = f"""
    INSERT INTO sessions (created_at, updated_at, version, owner_id, stamp, hashed_family, hashed_refresh, last_used_at,
    expires_at) {NUMBERS}
    SELECT {NOW}, 1 + (i - 1) % {USERS}, {STAMP}, 'family' || i, 'refresh' || i, '2026-11-24', '2100-01-01' FROM n"""
SEED_TOKENS = f"""
    INSERT INTO machine_tokens (created_at, updated_at, version, name, prefix, owner_id, hashed_token) {NUMBERS}
    SELECT {NOW}, 'token', 'cadre_', 1 + (i - 1) % {USERS}, 'hash' || i FROM n"""
SEED_ITEMS = f"""
    INSERT INTO items (created_at, updated_at, version, title, description, owner_id) {NUMBERS}
    SELECT {NOW}, 'Item ' || i, 'Two tins, white.', 1 + i % {OWNERS} FROM n"""

IDENTITIES = {
    "application": None,
    "superuser": Identity(USERS, True, USERS, STAMP),
    "user": Identity(7, False, 7, STAMP),
}
VALUES: dict[str, Any] = {
    **{"row_id": 6, "seen_version": 1, "skip": 0, "limit": 100, "by_owner_id": 7},
    **{"new_owner_id": 7, "new_title": "New", "new_version": 1},
    **{"new_created_at": utcnow(), "new_updated_at": utcnow()},
}
BY_OWNER = "ix_items_owner_id_id"
# Everybody's, newest first: SQLite keeps a table in the order of its ids, and reads it from the end.
NEWEST = "id" if POSTGRES else "scan"
# How a caller is found, and their login; a machine token would be.
MINE = {"me": "id", "my_session": "id", "my_machine_token": "id"}
EVERYBODYS, OWN = {"id"}, {"id", BY_OWNER}
# A verb, its shape, and how the application, a superuser and a user may reach the items.
PLANS: list[tuple[str, tuple[Any, ...], tuple[set[str | None], ...]]] = [
    ("page", (Shape(),), ({NEWEST}, {NEWEST}, {BY_OWNER})),
    ("page", (Shape((Filter("owner_id", ""),)),), ({BY_OWNER}, {BY_OWNER}, {BY_OWNER})),
    ("get", (), (EVERYBODYS, EVERYBODYS, OWN)),
    ("create", ((), "created_at", "owner_id", "title", "updated_at", "version"), ({None}, {None}, {None})),
    ("update", ((), True, "title", "updated_at"), (EVERYBODYS, EVERYBODYS, OWN)),
    ("delete", (True,), (EVERYBODYS, EVERYBODYS, OWN)),
]
MB = 2**20
# What a round of ask() is answered.
ANSWERS = [201, 200, 400, 200, 200, 200, 422, 415, 404, 404, 401, 401, 403, 405, 204, 404]


class Grown:
    """A database with many rows: how it would find those that a statement asks for, and how much work that is."""

    def __init__(self, connection: Connection, rows: int) -> None:
        self.rows = rows
        self._driver: Any = connection.connection.driver_connection

    def plan(self, statement: Statement, values: dict[str, Any]) -> dict[str, str]:
        """How each table is reached: by "id", an index, or a "scan" of it all. And a "sort" where rows are sorted."""
        found = (_postgres_plan if POSTGRES else _sqlite_plan)(self._explain(statement, values))
        return {
            table: re.sub(
                r"^(pk_\w+|ix_sessions_owner_id_id)", "id", re.sub(r"^(uq|sqlite_autoindex)_\w+", "unique", how)
            )
            for table, how in found
        }

    def work(self, statement: Statement, values: dict[str, Any]) -> int:
        """Unlike time the same in every run: PostgreSQL's blocks touched, SQLite's steps of its virtual machine."""
        if POSTGRES:
            plan = self._explain(statement, values, "ANALYZE, BUFFERS, ")
            return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        steps: list[None] = []
        self._driver.set_progress_handler(lambda: steps.append(None), 1)
        compiled = statement.on(SQLITE)
        assert self._driver.execute(compiled.sql, compiled.arguments(values)).fetchall()
        self._driver.set_progress_handler(None, 1)
        return len(steps)

    def _explain(self, statement: Statement, values: dict[str, Any], how: str = "") -> Any:
        if not POSTGRES:
            compiled = statement.on(SQLITE)
            return self._driver.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", compiled.arguments(values)).fetchall()
        from psycopg.sql import SQL, Literal

        from app.engine.postgres import DIALECT

        compiled = statement.on(DIALECT)
        arguments = SQL(", ").join(map(Literal, compiled.arguments(values)))
        self._driver.execute(f"PREPARE probe AS {compiled.sql}")
        explained = self._driver.execute(SQL(f"EXPLAIN ({how}FORMAT JSON) EXECUTE probe ({{}})").format(arguments))
        ((answer,),) = explained.fetchall()
        self._driver.execute("DEALLOCATE probe")
        return answer[0]["Plan"]


def _sqlite_plan(rows: list[tuple[Any, ...]]) -> Iterator[tuple[str, str]]:
    for *_, said in rows:
        if "TEMP B-TREE" in said:
            yield "sort", said
        elif found := re.match(r"(?:SCAN|SEARCH) (?!CONSTANT)(\w+)(?:.* INDEX (\w+)|.* INTEGER (PRIMARY) KEY)?", said):
            table, index, is_primary = found.groups()
            yield table, index or ("id" if is_primary else "scan")


def _postgres_plan(node: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "Sort" in node["Node Type"]:
        yield "sort", node["Node Type"]
    elif "Alias" in node and node["Node Type"] != "ModifyTable":
        yield node["Alias"], node.get("Index Name", "scan")
    for inner in node.get("Plans", ()):
        yield from _postgres_plan(inner)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Iterator[Grown]:
    rows = 2_000_000 if full else 100_000
    with empty_database(tmp_path_factory.mktemp("growth"), "growth") as url:
        migrations.upgrade(url)
        engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            if POSTGRES:
                connection.execute(text("DROP FUNCTION record_change() CASCADE"))  # how these came is no matter
            else:
                connection.connection.create_function("acting", 1, lambda _who: True)
            connection.execute(text(SEED_USERS), {"rows": USERS})
            connection.execute(text(SEED_SESSIONS), {"rows": 2 * USERS})
            connection.execute(text(SEED_TOKENS), {"rows": 2 * USERS})
            connection.execute(text(SEED_ITEMS), {"rows": rows})
            connection.execute(text("VACUUM ANALYZE" if POSTGRES else "ANALYZE"))
            if POSTGRES:
                # As a statement that was prepared, and has been run a few times.
                connection.execute(text("SET plan_cache_mode = force_generic_plan"))
            yield Grown(connection, rows)


def values_of(role: str, **more: object) -> dict[str, Any]:
    nowhere: Any = None
    caller = Caller(nowhere, IDENTITIES[role])
    return {**VALUES, **caller.binds, "acting": caller.acting, **more}


@pytest.mark.parametrize(("verb", "shape", "reached"), PLANS, ids=lambda part: part if isinstance(part, str) else "")
def test_every_verb_finds_its_rows_by_an_index(
    grown: Grown, verb: str, shape: tuple[Any, ...], reached: tuple[set[str | None], ...]
):
    for role, allowed in zip(IDENTITIES, reached, strict=True):
        plan = grown.plan(items._statement(verb, role, shape), values_of(role))
        assert plan.pop("items", None) in allowed
        assert plan == ({} if role == "application" else MINE)


@pytest.mark.parametrize("role", IDENTITIES)
def test_one_row_costs_next_to_nothing(grown: Grown, role: str):
    assert grown.work(items._statement("get", role, ()), values_of(role)) <= 60


@pytest.mark.parametrize(
    ("by", "value", "reached"),
    [
        ("id", 5, {"users": "id"}),
        ("username", "user5", {"users": "unique"}),
        ("email", "user5@example.com", {"users": "unique"}),
    ],
)
def test_a_login_finds_its_account_by_an_index(grown: Grown, by: str, value: object, reached: dict[str, str]):
    assert grown.plan(finding._BY[by], {"value": value}) == reached


def test_a_token_finds_what_it_belongs_to_by_an_index(grown: Grown):
    now = {"now": utcnow(), "before": utcnow()}
    assert grown.plan(machines._FIND, {"value": "hash5", **now}) == {"machine_tokens": "unique", "users": "id"}
    given = {"family": "family5", "spent": "refresh5", "next": "x", **now}
    assert grown.plan(logins._ROTATE, given) == {"sessions": "unique"}


@pytest.mark.parametrize("verb", ["get", "update", "delete"])
def test_an_account_is_found_by_its_id(grown: Grown, verb: str):
    shape = {"get": (), "update": ((), False, "is_active"), "delete": (False,)}[verb]
    values = values_of("superuser", new_is_active=False)
    assert grown.plan(users._statement(verb, "superuser", shape), values) == {"users": "id"} | MINE


def test_the_newest_accounts_are_found_without_reading_the_others(grown: Grown):
    newest, get = users._statement("page", "superuser", (Shape(),)), users._statement("get", "superuser", ())
    assert grown.work(newest, values_of("superuser", limit=1)) <= 2 * grown.work(get, values_of("superuser"))


@pytest.mark.parametrize(("role", "own"), [("user", OWNERS), ("superuser", 1)])
def test_a_page_at_depth_costs_no_more_than_the_first(grown: Grown, role: str, own: int):
    rows = grown.rows // own
    first = items._statement("page", role, (Shape(),))
    onward = items._statement("page", role, (Shape(place="value"),))
    at_first = grown.work(first, values_of(role))
    assert grown.work(onward, values_of(role, place_id=150 * own)) <= 1.5 * at_first
    # Otherwise that would prove nothing: the same place by counting up to it.
    assert grown.work(first, values_of(role, skip=rows - 150)) > 1.5 * at_first


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_stays_flat_whatever_is_asked(tmp_path: Path, full: bool):
    # Whatever is kept of each request shows from 42 bytes on, every day from 420 on.
    requests, bound = (100_000, 4 * MB) if full else (2_500, 1 * MB)
    with empty_database(tmp_path, "memory") as url:
        migrations.upgrade(url)
        server = Server(tmp_path, settings_for(url)).is_up()
        try:
            people = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
            assert server.http.post("/users", json=people).status_code == 201
            assert server.log_in("ann").status_code == 200
            fill_cache(server)
            for number in range(100):
                ask(server, number)
            before = memory_of(server)
            for number in range(100, 100 + requests // len(ANSWERS)):
                ask(server, number)
            assert memory_of(server) - before < bound
        finally:
            server.close()


def fill_cache(server: Server) -> None:
    """SQLite keeps 2 MB of what it has read or written: so that it grows no more."""
    for number in range(150):
        rows = [{"title": f"Cached {number}-{row}", "description": "Two tins, white." * 50} for row in range(20)]
        assert server.http.post("/items/bulk", json=rows).status_code == 201
        assert len(server.http.get("/items", params={"limit": 20}).json()) == 20


def ask(server: Server, number: int) -> None:
    """A round of requests, none like one of another round, so that whatever is remembered of each would show."""
    http = server.http
    created = http.post("/items", json={"title": f"Item {number}", "description": "Two tins, white." * 50})
    item = f"/items/{created.json()['id']}"
    token = {"Authorization": f"Bearer {number}.{number}.{number}"}
    answers = [
        created,
        server.log_in("ann"),
        server.log_in(f"nobody{number}"),
        http.get(item),
        http.get("/items", params={"skip": number}),
        http.patch(item, json={"title": f"Changed {number}"}),
        http.patch(item, json={f"unknown{number}": number}),
        http.post("/items", content=f'{{"title": "{number}'),
        http.get(f"/items/{10**9 + number}"),
        http.get(f"/nothing/{number}"),
        http.get("/users/me", headers=token),
        http.get("/users/me", headers={"Authorization": "", "X-Token": str(number)}),
        http.get("/admin/counts", params={"number": number}),
        http.put(item, json={}),
        http.delete(item),
        http.delete(item),
    ]
    assert [answer.status_code for answer in answers] == ANSWERS


def memory_of(server: Server) -> int:
    """Bytes of it that are in RAM."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
