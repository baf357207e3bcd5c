"""What two server processes make of requests that come at the same moment, read from the database they share."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from app.engine.sessions import create_session_engine
from tests.conftest import PASSWORD
from tests.servers import RUN, Server, servers_on_one_database, sql

CLIENTS = 6
log = logging.getLogger(__name__)  # --log-cli-level=INFO shows what was seen
Act = Callable[[httpx.Client], int]  # a request; it returns the status


@dataclass
class Person:
    """Somebody with a token. What they `do` is for a race: nothing is sent yet."""

    id: int
    token: str

    def do(self, method: str, path: str, json: object = None) -> Act:
        headers = {"Authorization": f"Bearer {self.token}"}
        return lambda client: client.request(method, path, json=json, headers=headers).status_code


def sign_up_as(body: dict[str, str]) -> Act:
    return lambda client: client.post("/users", json=body).status_code


class Arena:
    """Two servers on one database. Of the clients, every other one talks to the other server."""

    def __init__(self, servers: list[Server], engine: Engine, pool: ThreadPoolExecutor, rounds: int) -> None:
        self.servers, self.engine, self.pool, self.rounds = servers, engine, pool, rounds
        self.clients = deque(servers[number % 2].client() for number in range(CLIENTS))
        self.names = 0

    def sql(self, statement: str, **values: object) -> list[tuple[Any, ...]]:
        return sql(self.engine, statement, **values)

    def race(self, *acts: Act) -> tuple[int, ...]:
        """Start them at the same moment, each by a client of its own. Returns their statuses."""
        barrier = Barrier(len(acts), timeout=10)

        def start(act: Act, client: httpx.Client) -> int:
            barrier.wait()
            return act(client)

        self.clients.rotate(1)  # so that no act is always at the same server
        return tuple(self.pool.map(start, acts, self.clients))

    def sign_up(self, *, is_superuser: bool = False) -> Person:
        self.names += 1
        name, http = f"person{self.names}", self.servers[0].http
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        user_id = http.post("/users", json=body).json()["id"]
        if is_superuser:
            self.promote(user_id)
        token = http.post("/token", data={"username": name, "password": PASSWORD}).json()["access_token"]
        return Person(user_id, token)

    def promote(self, user_id: int) -> None:
        self.sql("UPDATE users SET is_superuser = true WHERE id = :id", id=user_id)

    def create_item(self, owner: Person) -> int:
        headers = {"Authorization": f"Bearer {owner.token}"}
        answer = self.servers[0].http.post("/items", json={"title": "one"}, headers=headers)
        return int(answer.json()["id"])

    def item(self, item_id: int) -> list[tuple[Any, ...]]:
        return self.sql("SELECT title, description, version FROM items WHERE id = :id", id=item_id)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Iterator[Arena]:
    folder = tmp_path_factory.mktemp("races")
    with ExitStack() as stack:
        url, servers = stack.enter_context(servers_on_one_database(folder, "races", RUN, RUN))
        engine = create_session_engine(url)
        stack.callback(engine.dispose)
        pool = stack.enter_context(ThreadPoolExecutor(CLIENTS))
        arena = Arena(servers, engine, pool, rounds=50 if full else 8)
        for client in arena.clients:
            stack.callback(client.close)
        yield arena
        for server in servers:
            assert server.stop() == 0
            assert "Traceback" not in server.said


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Iterator["Counter[tuple[int, ...]]"]:
    """How often each combination of statuses occurred, for the log."""
    counter: Counter[tuple[int, ...]] = Counter()
    yield counter
    log.info("%s %s", request.node.name, dict(sorted(counter.items())))


@pytest.mark.promise("U07")
@pytest.mark.parametrize("same", ["username", "email"])
def test_of_many_who_sign_up_with_one_name_or_address_one_gets_it(arena: Arena, seen: Any, same: str):
    for number in range(arena.rounds):
        names = [f"{same}{number}x{n}" for n in range(CLIENTS)]
        bodies = [{"username": name, "email": f"{name}@example.com", "password": PASSWORD} for name in names]
        one = bodies[0][same]
        for n, body in enumerate(bodies):
            body[same] = one if n % 2 else one.title()  # in one spelling or another
        statuses = arena.race(*(sign_up_as(body) for body in bodies))
        seen[tuple(sorted(statuses))] += 1
        assert sorted(statuses) == [201, 409, 409, 409, 409, 409]
        kept = arena.sql("SELECT username, email FROM users WHERE username LIKE :like", like=f"{same}{number}x%")
        winner = bodies[statuses.index(201)]
        assert kept == [(winner["username"].lower(), winner["email"].lower())]


def test_changes_of_different_fields_both_survive(arena: Arena, seen: Any):
    ann = arena.sign_up()
    for _ in range(arena.rounds):
        path = f"/items/{(item_id := arena.create_item(ann))}"
        statuses = arena.race(ann.do("PATCH", path, {"title": "two"}), ann.do("PATCH", path, {"description": "both"}))
        seen[statuses] += 1
        assert statuses == (200, 200)
        assert arena.item(item_id) == [("two", "both", 3)]


def test_of_bulks_on_the_same_rows_each_is_done_whole_or_not_at_all(arena: Arena, seen: Any):
    ann = arena.sign_up()
    for _ in range(arena.rounds):
        ids = [arena.create_item(ann) for _ in range(5)]
        changes = [[{"id": each, "title": title} for each in ids] for title in ("a", "b")]
        acts = [ann.do("PATCH", "/items/bulk", changes[0]), ann.do("PATCH", "/items/bulk", changes[1][::-1])]
        assert arena.race(*acts) == (200, 200)
        kept = {arena.item(each)[0] for each in ids}
        assert kept in ({("a", None, 3)}, {("b", None, 3)})
        statuses = arena.race(*acts, ann.do("POST", "/items/bulk/delete", ids))
        seen[statuses] += 1
        assert (statuses[2], {*statuses[:2]} <= {200, 404}, [arena.item(each) for each in ids]) == (204, True, [[]] * 5)


def test_a_change_does_not_bring_back_what_is_deleted(arena: Arena, seen: Any):
    ann = arena.sign_up()
    for _ in range(arena.rounds):
        path = f"/items/{(item_id := arena.create_item(ann))}"
        statuses = arena.race(ann.do("PATCH", path, {"title": "two"}), ann.do("DELETE", path))
        seen[statuses] += 1
        assert statuses in {(200, 204), (404, 204)}
        assert arena.item(item_id) == []


@pytest.mark.promise("I16")
def test_what_is_deleted_twice_was_deleted_once(arena: Arena, seen: Any):
    ann = arena.sign_up()
    for _ in range(arena.rounds):
        path = f"/items/{(item_id := arena.create_item(ann))}"
        statuses = arena.race(ann.do("DELETE", path), ann.do("DELETE", path))
        seen[statuses] += 1
        assert sorted(statuses) == [204, 404]
        assert arena.item(item_id) == []


@pytest.mark.promise("I18")
def test_what_is_sent_again_under_its_key_is_done_once_whichever_server_it_comes_to(arena: Arena):
    ann = arena.sign_up()
    for number in range(arena.rounds):
        headers = {"Authorization": f"Bearer {ann.token}", "Idempotency-Key": f"k{number}"}
        again: list[str | None] = []

        def send(client: httpx.Client, headers: Any = headers, again: list[str | None] = again) -> int:
            answer = client.post("/items", json={"title": headers["Idempotency-Key"]}, headers=headers)
            again.append(answer.headers.get("Idempotency-Replayed"))
            return int(answer.json()["id"])

        ids = arena.race(*[send] * CLIENTS)
        assert arena.sql("SELECT id FROM items WHERE title = :title", title=f"k{number}") == [(ids[0],)]
        assert (set(ids), Counter(again)) == ({ids[0]}, {None: 1, "true": CLIENTS - 1})


@pytest.mark.promise("U15")
def test_an_item_does_not_outlive_its_owner(arena: Arena, seen: Any):
    root = arena.sign_up(is_superuser=True)
    for number in range(arena.rounds):
        ann = arena.sign_up()

        def delete_ann(_client: httpx.Client, ann: Person = ann, pause: float = number % 8 / 2000) -> int:
            time.sleep(pause)  # a request takes longer to arrive than this statement
            return len(arena.sql("DELETE FROM users WHERE id = :id RETURNING id", id=ann.id))

        by_her = ann.do("POST", "/items", {"title": "hers"})
        for_her = root.do("POST", f"/users/{ann.id}/items", {"title": "for her"})
        *statuses, deleted = arena.race(by_her, for_her, by_her, for_her, delete_ann)
        seen.update((status,) for status in statuses)
        assert deleted == 1
        # Created, and gone with her. Or too late: then her token is nobody's (401), or she is not there (404). On
        # PostgreSQL she may go between the statement's start and the check of its foreign key (409).
        assert set(statuses[::2]) <= {201, 401, 409}
        assert set(statuses[1::2]) <= {201, 404, 409}
        assert arena.sql("SELECT id FROM items WHERE owner_id = :id", id=ann.id) == []


@pytest.mark.promise("U18")
@pytest.mark.parametrize(
    ("method", "verb", "done", "refusal"),
    [("POST", "/demote", 200, 403), ("POST", "/deactivate", 200, 401), ("DELETE", "", 204, 401)],
)
def test_of_two_superusers_who_shut_each_other_out_one_stays(
    arena: Arena, seen: Any, method: str, verb: str, done: int, refusal: int
):
    arena.sql("UPDATE users SET is_superuser = false")
    for _ in range(arena.rounds):
        pair = ann, bob = [arena.sign_up(is_superuser=True) for _ in range(2)]
        acts = [(ann, bob), (bob, ann)]
        statuses = arena.race(*(one.do(method, f"/admin/users/{other.id}{verb}") for one, other in acts))
        seen[statuses] += 1
        assert sorted(statuses) == [done, refusal]
        winner = pair[statuses.index(done)]
        assert arena.sql("SELECT id FROM users WHERE is_superuser AND is_active") == [(winner.id,)]
        arena.sql("UPDATE users SET is_superuser = false")


def test_who_is_being_demoted_promotes_nobody_any_more(arena: Arena, seen: Any):
    arena.sql("UPDATE users SET is_superuser = false")
    root, bob, eve = arena.sign_up(is_superuser=True), arena.sign_up(), arena.sign_up()
    for _ in range(arena.rounds):
        arena.sql("UPDATE users SET is_superuser = (id IN (:root, :bob))", root=root.id, bob=bob.id)
        demoted, himself, her = statuses = arena.race(
            root.do("POST", f"/admin/users/{bob.id}/demote"),
            bob.do("POST", f"/admin/users/{bob.id}/promote"),
            bob.do("POST", f"/admin/users/{eve.id}/promote"),
        )
        seen[statuses] += 1
        assert demoted == 200
        assert {himself, her} <= {200, 403}
        # Had he promoted himself after he was demoted, he would be one.
        superusers = {root.id, eve.id} if her == 200 else {root.id}
        assert {row[0] for row in arena.sql("SELECT id FROM users WHERE is_superuser")} == superusers


def test_a_transaction_and_a_verb_on_one_row_both_count(arena: Arena, seen: Any):
    """Promotions and demotions are transactions that change her row; she changes it by a verb meanwhile."""
    root = arena.sign_up(is_superuser=True)
    for _ in range(arena.rounds):
        ann = arena.sign_up()

        def change(client: httpx.Client, ann: Person = ann) -> int:
            statuses = [ann.do("PATCH", "/users/me", {"full_name": f"Ann {n}"})(client) for n in range(10)]
            # Should her role turn twice while one request asks for it, she is told 404, and nothing is changed.
            assert set(statuses) <= {200, 404}
            return statuses.count(200)

        def waver(client: httpx.Client, ann: Person = ann) -> int:
            verbs = ("promote", "demote") * 5
            return [root.do("POST", f"/admin/users/{ann.id}/{verb}")(client) for verb in verbs].count(200)

        changed, wavered = arena.race(change, waver)
        seen[changed, wavered] += 1
        assert wavered == 10
        row = arena.sql("SELECT is_superuser, version FROM users WHERE id = :id", id=ann.id)
        assert row == [(False, 1 + changed + wavered)]


def test_a_transaction_and_verbs_about_one_person_lose_nothing(arena: Arena, seen: Any):
    """Creating an item for somebody is a transaction that reads their row while they change it."""
    root = arena.sign_up(is_superuser=True)
    for _ in range(arena.rounds):
        ann = arena.sign_up()
        item_id = arena.create_item(ann)
        create = root.do("POST", f"/users/{ann.id}/items", {"title": "for her"})
        statuses = arena.race(
            create,
            ann.do("PATCH", "/users/me", {"full_name": "Ann Archer"}),
            ann.do("PATCH", f"/items/{item_id}", {"title": "two"}),
            ann.do("PATCH", f"/items/{item_id}", {"description": "both"}),
            create,
        )
        seen[statuses] += 1
        assert statuses == (201, 200, 200, 200, 201)
        assert arena.item(item_id) == [("two", "both", 3)]
        assert arena.sql("SELECT full_name, version FROM users WHERE id = :id", id=ann.id) == [("Ann Archer", 2)]
        assert arena.sql("SELECT count(*) FROM items WHERE owner_id = :id", id=ann.id) == [(3,)]
