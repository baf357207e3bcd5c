"""What was acknowledged is there after a crash, and once, whichever process is killed: the app's or the database's."""

import asyncio
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, func, select, text

from app.engine import migrations
from app.engine.database import connect
from app.engine.sessions import create_session_engine
from app.engine.statement import Statement
from app.errors import Unavailable
from tests.clusters import Cluster, cluster, needs_cluster
from tests.conftest import PASSWORD, POSTGRES
from tests.scratch import empty_database
from tests.servers import Server, settings_for, sql

WRITERS = 4
ANN = 1  # the first to sign up
# Rows that have not a change for each of their versions, and changes of rows that are not there.
NOT_RECORDED = """
SELECT id FROM items WHERE version <> (SELECT count(*) FROM changes WHERE entity = 'items' AND row_id = items.id)
UNION ALL SELECT row_id FROM changes WHERE entity = 'items' AND row_id NOT IN (SELECT id FROM items)
"""
log = logging.getLogger(__name__)  # --log-cli-level=INFO shows the figures

State = tuple[int, str]  # a row's version and description
ABSENT = (0, "")
Ledger = dict[str, set[State]]  # for each title the states that its row may be in


class Writer(threading.Thread):
    """A client that creates items and changes them, one request after the other. Each title is sent once.

    Once acknowledged, a row has one state in the ledger. A request that was not adds another: it may have been kept.
    """

    def __init__(self, name: str, server: Server) -> None:
        super().__init__(name=name, daemon=True)
        self.http = server.client(timeout=8)
        self.http.headers["Authorization"] = server.http.headers["Authorization"]
        self.ledger: Ledger = {}
        self.seen: Counter[str] = Counter()
        self.acknowledged_at = 0.0
        self.is_stopped = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.is_stopped.is_set():
            number += 1
            self.write(f"{self.name} {number}", "/items" if number % 2 else f"/users/{ANN}/items")
        self.http.close()

    def write(self, title: str, path: str) -> None:
        """Create an item, by a verb or in a transaction, and change it twice, as long as it is acknowledged."""
        self.ledger[title] = {ABSENT}
        row = self.send("POST", path, title, {"title": title, "description": "new"})
        for description in ("changed", "changed again"):
            if row:
                row = self.send("PATCH", f"/items/{row['id']}", title, {"description": description})

    def send(self, method: str, path: str, title: str, data: dict[str, str]) -> dict[str, Any] | None:
        """The row, if this was acknowledged."""
        before = self.ledger[title]
        self.ledger[title] = before | {(version + 1, data["description"]) for version, _ in before}
        try:
            answer = self.http.request(method, path, json=data)
        except httpx.TimeoutException:
            self.seen["no answer in 8 seconds"] += 1
        except httpx.TransportError:
            self.seen["cut off"] += 1
        else:
            # A refusal must say when to come back.
            later = " later" if "Retry-After" in answer.headers else ""
            self.seen[f"{answer.status_code}{later}"] += 1
            if answer.is_success:
                row: dict[str, Any] = answer.json()
                # A state that cannot be leaves none, and shows as lost.
                self.ledger[title] &= {(row["version"], row["description"])}
                self.acknowledged_at = time.monotonic()
                return row
        time.sleep(0.02)
        return None


@contextmanager
def writing(writers: list[Writer]) -> Iterator[None]:
    """They write for as long as it lasts, each at least one row."""
    for writer in writers:
        writer.start()
    try:
        wait_for(writers)
        yield
    finally:
        for writer in writers:
            writer.is_stopped.set()
        for writer in writers:
            writer.join()


def wait_for(writers: list[Writer]) -> None:
    """Until each of them was acknowledged something from now on."""
    now = time.monotonic()
    while any(writer.acknowledged_at < now for writer in writers):
        assert time.monotonic() < now + 20, [writer.seen for writer in writers]
        time.sleep(0.01)


def a_moment() -> None:
    time.sleep(random.uniform(0, 0.3))  # noqa: S311  # nothing secret


def compare(engine: Engine, ledger: Ledger) -> dict[str, int]:
    """What became of the rows of `ledger`, and of no others."""
    kept: dict[str, list[State]] = {}
    for title, version, description in sql(engine, "SELECT title, version, description FROM items"):
        kept.setdefault(title, []).append((version, description))
    acknowledged = [title for title, states in ledger.items() if ABSENT not in states]
    return {
        "acknowledged": len(acknowledged),
        "lost": sum(not set(kept.get(title, [ABSENT])) <= ledger[title] for title in ledger),
        "doubled": sum(len(states) > 1 for states in kept.values()),
        "unknown": len(kept.keys() - ledger.keys()),
    }


@pytest.mark.promise("F01")
def test_what_was_acknowledged_survives_the_servers(tmp_path: Path, full: bool):
    """Two servers on one database. One of them is killed in mid-write, or both at once, and started again."""
    ledger: Ledger = {}
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        url = stack.enter_context(empty_database(tmp_path, "crash"))
        migrations.upgrade(url)
        engine = create_session_engine(url)
        stack.callback(engine.dispose)

        def serve() -> Server:
            server = Server(tmp_path, settings_for(url) | {"ACCESS_TOKEN_MINUTES": "60"})
            stack.callback(server.close)
            return server

        servers = [serve(), serve()]
        sign_up(servers[0].is_up())
        for number in range(50 if full else 4):
            for server in servers:
                assert server.is_up().log_in("ann").status_code == 200
            writers = [Writer(f"{number} {n}", servers[n % 2]) for n in range(WRITERS)]
            with writing(writers):
                a_moment()
                killed = servers if number % 2 else servers[:1]
                for server in killed:
                    server.kill()
                a_moment()
            survivors = [writer for n, writer in enumerate(writers) if servers[n % 2] not in killed]
            assert all(writer.seen.keys() <= {"200", "201"} for writer in survivors)
            servers = [serve() if server in killed else server for server in servers]
            for server in servers:
                server.is_up()
            for writer in writers:
                ledger |= writer.ledger
                seen += writer.seen
            figures = compare(engine, ledger)
            assert figures == {"acknowledged": figures["acknowledged"], "lost": 0, "doubled": 0, "unknown": 0}
            assert sql(engine, NOT_RECORDED) == []
            if not POSTGRES:
                assert sql(engine, "PRAGMA integrity_check") == [("ok",)]
            # Else ours would hold SQLite's log open, and nobody would have to recover it.
            engine.dispose()
        assert seen.keys() == {"200", "201", "cut off"}
        log.info("%s, of %s", figures, dict(seen))


@pytest.mark.promise("I18")
def test_what_is_sent_again_until_it_is_answered_is_done_once_whichever_server_dies(tmp_path: Path, full: bool):
    """What the dead server had kept is answered again, by one that was started since; what it had not is done now."""
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        url = stack.enter_context(empty_database(tmp_path, "again"))
        migrations.upgrade(url)
        engine = create_session_engine(url)
        stack.callback(engine.dispose)

        def serve() -> Server:
            server = Server(tmp_path, settings_for(url) | {"ACCESS_TOKEN_MINUTES": "60"})
            stack.callback(server.close)
            return server

        dying, other = serve(), serve()
        sign_up(other.is_up())
        assert other.log_in("ann").status_code == 200
        pool = stack.enter_context(ThreadPoolExecutor(WRITERS))
        for number in range(30 if full else 2):
            dying.is_up().http.headers["Authorization"] = other.http.headers["Authorization"]
            cut_off = [pool.submit(create_until_cut_off, dying, f"{number} {n}") for n in range(WRITERS)]
            a_moment()
            create_unheard(dying, f"{number} unheard", engine)
            dying.kill()
            assert create(other.http, f"{number} unheard").headers["Idempotency-Replayed"] == "true"
            for title in [each.result() for each in cut_off]:
                seen[create(other.http, title).headers.get("Idempotency-Replayed", "done now")] += 1
            dying, other = other, serve().is_up()
            other.http.headers["Authorization"] = dying.http.headers["Authorization"]
        titles = [title for (title,) in sql(engine, "SELECT title FROM items")]
        assert len(titles) == len(set(titles))
        log.info("%s, of %d in all", dict(seen), len(titles))


def create(http: httpx.Client, title: str) -> httpx.Response:
    """An item, under a key that is its title."""
    answer = http.post("/items", json={"title": title}, headers={"Idempotency-Key": title.replace(" ", "-")})
    assert answer.status_code == 201
    return answer


def create_until_cut_off(server: Server, name: str) -> str:
    """One item after the other; the title of the first that was not answered."""
    with server.client() as http:
        http.headers["Authorization"] = server.http.headers["Authorization"]
        for number in count():
            try:
                create(http, f"{name} {number}")
            except httpx.TransportError:
                return f"{name} {number}"
    raise AssertionError


def create_unheard(server: Server, title: str, engine: Engine) -> None:
    """An item that is there, but whose answer has reached nobody."""
    request = server.http.build_request(
        "POST", "/items", json={"title": title}, headers={"Idempotency-Key": title.replace(" ", "-")}
    )
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"POST /api/v1/items HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        while not is_there(engine, title):
            time.sleep(0.01)


def is_there(engine: Engine, title: str) -> bool:
    """Read without a lock, which could not be had while so many write."""
    with engine.connect() as connection:
        return bool(connection.execute(text("SELECT id FROM items WHERE title = :title"), {"title": title}).first())


def sign_up(server: Server) -> None:
    body = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
    assert server.http.post("/users", json=body).status_code == 201


@pytest.fixture(scope="module")
def postgres() -> Iterator[Cluster]:
    with cluster() as started:
        migrations.upgrade(started.url)
        yield started


@pytest.fixture(scope="module")
def server(postgres: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app on that cluster. It is never started again."""
    server = Server(tmp_path_factory.mktemp("crash"), settings_for(postgres.url) | {"ACCESS_TOKEN_MINUTES": "60"})
    try:
        sign_up(server.is_up())
        server.log_in("ann")
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.said
    finally:
        server.close()


def terminate(postgres: Cluster, _server: Server) -> None:
    with engine_of(postgres) as engine:
        sql(engine, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def lose_a_process(postgres: Cluster, _server: Server) -> None:
    """As when memory runs out. PostgreSQL then ends all the others too, and recovers."""
    with engine_of(postgres) as engine:
        clients = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        os.kill(sql(engine, clients)[0][0], signal.SIGKILL)
    time.sleep(0.3)  # until it has noticed


def restart(postgres: Cluster, _server: Server) -> None:
    postgres.restart()


def crash(postgres: Cluster, server: Server) -> None:
    postgres.kill9()
    while (answer := server.http.get("/items")).status_code == 200:
        pass  # its last processes may still work
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    postgres.start()


@pytest.mark.promise("F30", "F31")
@needs_cluster
@pytest.mark.parametrize("incident", [terminate, lose_a_process, restart, crash])
def test_the_server_survives_its_database(
    postgres: Cluster, server: Server, full: bool, incident: Callable[[Cluster, Server], None]
):
    """It says 503 for as long as there is none, and then works as before. Nothing acknowledged is lost."""
    ledger: Ledger = {}
    seen: Counter[str] = Counter()
    with engine_of(postgres) as engine:
        sql(engine, "DELETE FROM items")
    for number in range(50 if full else 2):
        writers = [Writer(f"{number} {n}", server) for n in range(WRITERS)]
        with writing(writers):
            a_moment()
            incident(postgres, server)
            wait_for(writers)
        for writer in writers:
            ledger |= writer.ledger
            seen += writer.seen
    with engine_of(postgres) as engine:
        figures = compare(engine, ledger)
    log.info("%s: %s, of %s", incident.__name__, figures, dict(seen))
    assert figures == {"acknowledged": figures["acknowledged"], "lost": 0, "doubled": 0, "unknown": 0}
    assert seen.keys() <= {"200", "201", "503 later"}


@needs_cluster
@pytest.mark.skipif(sys.platform == "win32", reason="There is no uvloop on Windows.")
def test_a_connection_that_is_reset_is_noticed_at_once(postgres: Cluster):
    """Also with uvloop, which then calls once only: to read the server's last words, and never for the end."""
    import uvloop

    whoami = Statement(select(func.pg_backend_pid()))

    async def lose_a_connection() -> None:
        async with connect(postgres.url) as database:
            ((pid,),) = await database.run(whoami, {})
            os.kill(pid, signal.SIGSTOP)
            question = asyncio.create_task(database.run(whoami, {}))
            await asyncio.sleep(0.1)
            # It ends without having read the question: that resets the connection.
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.2)  # noqa: ASYNC251  # its last words and the end shall be there together
            with suppress(Unavailable):
                await asyncio.wait_for(question, 3)

    uvloop.run(lose_a_connection())


@contextmanager
def engine_of(postgres: Cluster) -> Iterator[Engine]:
    engine = create_session_engine(postgres.url)
    try:
        yield engine
    finally:
        engine.dispose()
