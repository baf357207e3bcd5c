"""The real server in a process of its own, started as people start it, and worked with over HTTP."""

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from app import cli
from app.engine.sessions import create_session_engine
from app.settings import Settings
from tests.conftest import PASSWORD
from tests.scratch import empty_database, python
from tests.servers import CADRE, KEY, RUN, SERVE, Server, free_port, settings_for, sql

NOT_MIGRATED = "The database is not at the newest migration. Run: python3 -m app migrate"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A development machine with an empty database."""
    with empty_database(tmp_path, "server") as url:
        yield settings_for(url, "development")


@pytest.fixture
def serve(tmp_path: Path, settings: dict[str, str]) -> Iterator[Callable[..., Server]]:
    """Start a server: `serve()`, or with other arguments for Python, and with other settings."""
    with ExitStack() as stack:

        def start(*arguments: str, **changed: str) -> Server:
            server = Server(tmp_path, settings | changed, arguments or RUN)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def cadre(settings: dict[str, str]) -> Callable[..., Any]:
    """Run another command: `cadre("demo")`."""
    return lambda *arguments, **changed: python(*CADRE, *arguments, **(settings | changed))


def printed_passwords(said: str) -> list[str]:
    return re.findall(r"password (\S+)$", said, re.MULTILINE)


@pytest.mark.promise("H09")
def test_what_people_did_is_still_there_after_a_restart(serve: Callable[..., Server]):
    server = serve().is_up()
    http = server.http
    body = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
    assert http.post("/users", json=body).status_code == 201
    taken = http.post("/users", json=body | {"email": "other@example.com"})
    assert (taken.status_code, taken.json()["detail"]) == (409, "That username is taken.")
    stranger = http.get("/items")
    assert (stranger.status_code, "Server" in stranger.headers) == (401, False)
    assert server.log_in("ann").status_code == 200
    created = [http.post("/items", json={"title": title}).json() for title in ("one", "two", "three")]
    page = http.get("/items", params={"skip": 1, "limit": 1}).json()
    changed = http.patch(f"/items/{created[0]['id']}", json={"title": "changed"})
    deleted = http.delete(f"/items/{created[2]['id']}")
    assert page == [created[1]]
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert deleted.status_code == 204
    token = http.headers["Authorization"]
    assert server.stop() == 0
    assert "Application shutdown complete." in server.said
    assert len(printed_passwords(server.said)) == 1

    again = serve().is_up()
    again.http.headers["Authorization"] = token
    assert again.http.get("/items").json() == [created[1], changed.json()]
    assert again.log_in("ann@example.com").status_code == 200
    assert again.stop() == 0
    assert printed_passwords(again.said) == []


def test_of_two_servers_that_start_at_once_both_come_up_and_one_prints_a_password(serve: Callable[..., Server]):
    servers = [serve(), serve()]
    for server in servers:
        server.is_up()
    passwords = printed_passwords("".join(server.said for server in servers))
    assert len(passwords) == 1
    for server in servers:
        assert server.log_in("admin", passwords[0]).status_code == 200
        assert server.http.get("/users/me").json()["is_superuser"] is True
        assert "Traceback" not in server.said
        # Each says where everything is, and there it is.
        for path in ("/api/v1", "/docs", "/"):
            assert re.search(rf"http://127\.0\.0\.1:{server.port}{path}(\s|$)", server.said)
        for path in ("/docs", "/"):
            assert server.http.get(f"http://127.0.0.1:{server.port}{path}").status_code == 200


@pytest.mark.promise("F02", "F03")
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_under_way_is_finished_and_who_stalls_does_not_keep_a_server_alive(
    serve: Callable[..., Server], settings: dict[str, str], workers: str
):
    less_patient = CADRE[1].replace("main()", "from app import cli; cli.GRACE = 3; main()")
    server = serve("-c", less_patient, *SERVE[2:], "--workers", workers).is_up()
    server.log_in("admin", printed_passwords(server.said)[0])
    head = (
        f"POST /api/v1/items HTTP/1.1\r\nHost: x\r\nAuthorization: {server.http.headers['Authorization']}\r\n"
        "Content-Type: application/json\r\nContent-Length: 16\r\n\r\n"
    ).encode()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port))) for _ in range(10)]
        idle, stalled, *busy = sockets
        for connection in (stalled, *busy):
            connection.sendall(head + b'{"title"')
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(2**16).startswith(b"HTTP/1.1 200")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        while server.said.count("Shutting down") < int(workers):
            assert server.process.poll() is None
            time.sleep(0.05)
        for connection in busy:
            connection.sendall(b': "Foo"}')
        answers = [connection.recv(2**16) for connection in busy]
        assert server.process.wait(10) == 0
        assert stalled.recv(2**16).startswith(b"HTTP/1.1 408")
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 201"}
    assert all(b"\r\nconnection: close\r\n" in answer for answer in answers)
    engine = create_session_engine(settings["DATABASE_URL"])
    assert sql(engine, "SELECT count(*) FROM items") == [(8,)]
    engine.dispose()
    assert "Application shutdown complete." in server.said
    assert "Traceback" not in server.said


def test_a_worker_that_died_is_replaced_and_no_process_shows_a_secret(serve: Callable[..., Server]):
    server = serve(*SERVE, "--workers", "2").is_up()

    def workers(number: int) -> list[int]:
        while server.said.count("Application startup complete.") < number:
            assert server.process.poll() is None
            time.sleep(0.05)
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)]", server.said)]

    first, second = workers(2)
    os.kill(first, signal.SIGKILL)
    *_, third = workers(3)
    assert server.http.get("/items").status_code == 401
    for shown in (Path(f"/proc/{pid}/cmdline") for pid in (server.process.pid, second, third)):
        assert not shown.exists() or KEY.encode() not in shown.read_bytes()
    assert len(printed_passwords(server.said)) == 1
    assert server.stop() == 0


@pytest.mark.once
def test_where_no_worker_can_start_the_whole_server_says_so(settings: dict[str, str]):
    # What uvicorn leaves behind then. To wait until it has pinged the dead takes it five seconds.
    failing = (
        "from types import SimpleNamespace as Process; from uvicorn.supervisors import Multiprocess\n"
        "Multiprocess.run = lambda self: self.processes.append(Process(exitcode=3))\n"
    )
    told = python("-c", failing + CADRE[1], "serve", "--port", str(free_port()), "--workers", "2", **settings)
    assert told.returncode == 1
    assert told.stderr.endswith("A worker could not start: see above why.\n")


@pytest.mark.promise("H26")
@pytest.mark.parametrize(
    ("proxies", "client", "believed"),
    [
        *(("", "127.0.0.1", False), ("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", "127.0.0.2", False)),
        *(("10.0.0.0/8, ::1", "10.1.2.3", True), ("10.0.0.0/8,::1", "::1", True), ("10.0.0.0/8", "11.1.2.3", False)),
    ],
)
def test_a_proxy_is_believed_if_it_is_named(proxies: str, client: str, believed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # which uvicorn would read
    monkeypatch.setattr(cli, "get_settings", lambda: Settings(proxies=proxies))
    seen: dict[str, Any] = {}

    async def app(scope: dict[str, Any], receive: object, send: object) -> None:
        seen.update(scope)

    config = uvicorn.Config(**{**cli.hardened(), "app": app})
    config.load()
    forwarded = [(b"x-forwarded-proto", b"https"), (b"x-forwarded-for", b"evil, 192.0.2.1")]
    scope = {"type": "http", "scheme": "http", "client": (client, 1), "headers": forwarded}
    asyncio.run(config.loaded_app(scope, None, None))
    assert (seen["scheme"], seen["client"][0]) == (("https", "192.0.2.1") if believed else ("http", client))


@pytest.mark.once
@pytest.mark.parametrize("arguments", [("run", "--no-reload"), ("serve",), ("serve", "--workers", "2")])
def test_a_taken_port_is_told_in_one_sentence(cadre: Callable[..., Any], arguments: tuple[str, ...]):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = cadre(*arguments, "--port", str(port))
    assert (told.returncode, told.stdout) == (1, "")
    cure = f"python3 -m app {arguments[0]} --port {port + 1}"
    assert told.stderr == f"Port {port} of 127.0.0.1 cannot be used (Address already in use). Try: {cure}\n"


@pytest.mark.once
def test_a_server_does_not_believe_everybody(cadre: Callable[..., Any]):
    told = cadre("serve", "--port", str(free_port()), PROXIES="10.0.0.0/8, 0.0.0.0/0")
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr == "PROXIES would believe everybody: name the machines that stand in front of this one.\n"


def test_the_commands_make_people_and_tokens_that_work(serve: Callable[..., Server], cadre: Callable[..., Any]):
    first, second = cadre("demo"), cadre("demo")
    token, superuser = cadre("token", "johndoe"), cadre("superuser", "root", "root@example.com")
    refused = [cadre("superuser", "root", "other@example.com"), cadre("token", "nobody")]
    server = serve("-m", "uvicorn", "app.main:app", "--port", "{port}").is_up()

    assert (first.returncode, second.returncode) == (0, 0)
    assert second.stdout == "The demo people are there already. Delete the database file to begin anew.\n"
    admin, demo = printed_passwords(first.stdout)
    assert server.log_in("admin", admin).status_code == 200
    assert server.log_in("alice", demo).status_code == 400
    assert server.log_in("johndoe", demo).status_code == 200
    titles = {item["title"] for item in server.http.get("/items").json()}
    assert titles == {"Order the paint", "Call the surveyor", "Book the van for Friday"}

    del server.http.headers["Authorization"]
    secret = re.search(r"^X-Token: (\S+)$", token.stdout, re.MULTILINE)[1]
    assert server.http.get("/users/me", headers={"X-Token": secret}).json()["username"] == "johndoe"
    (password,) = re.findall(r"with the password (\S+)", superuser.stdout)
    assert server.log_in("root", password).status_code == 200
    assert server.http.get("/admin/counts").json()["superusers"] == 2

    assert [told.returncode for told in refused] == [1, 1]
    assert [told.stderr for told in refused] == ["That username is taken.\n", "Nobody is called nobody.\n"]


@pytest.mark.promise("F06")
def test_in_production_a_server_starts_only_on_a_migrated_database(serve: Callable[..., Server], cadre: Any):
    production = {"ENVIRONMENT": "production", "BCRYPT_ROUNDS": "10"}
    port = str(free_port())
    refused = [
        cadre(*arguments, "--port", port, **production)
        for arguments in (("run", "--no-reload"), ("serve", "--workers", "2"))
    ]
    by_uvicorn = serve("-m", "uvicorn", "app.main:app", "--port", "{port}", **production)
    by_uvicorn.process.wait(30)
    migrated, demo = cadre("migrate", **production), cadre("demo", **production)
    server = serve(*SERVE, **production).is_up()

    assert [(told.returncode, told.stderr) for told in refused] == [(1, f"{NOT_MIGRATED}\n")] * 2
    assert by_uvicorn.process.returncode != 0
    assert NOT_MIGRATED in by_uvicorn.said
    assert migrated.returncode == 0
    assert (demo.returncode, "development only" in demo.stderr) == (1, True)
    assert server.http.get("/items").status_code == 401
    assert server.stop() == 0
    assert printed_passwords(server.said) == []
