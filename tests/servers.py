"""Real server processes, started as people start them, to be worked with over HTTP, and killed."""

import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine, text

from app.engine import migrations
from app.settings import ROOT
from tests.conftest import PASSWORD
from tests.scratch import empty_database, environment

CADRE = ("-c", "from app.cli import main; main()")  # what `python3 -m app` runs once everything is installed
RUN = (*CADRE, "run", "--no-reload", "--port", "{port}")
SERVE = (*CADRE, "serve", "--port", "{port}")
KEY = "7xQ-oPz_49dVbYw2LmKJhTRsE0aNcUfG8iXyZ1CqW5tDnBvM"

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request is too many


class Server:
    """A server process. What it says is in `said`, once it has ended."""

    def __init__(self, folder: Path, settings: dict[str, str], arguments: Iterable[str] = RUN) -> None:
        self.port = free_port()
        self.log = folder / f"server-{self.port}.log"
        command = [sys.executable, *(argument.format(port=self.port) for argument in arguments)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(**settings), stdout=log, stderr=log)
        self.http = self.client()

    @property
    def said(self) -> str:
        return self.log.read_text()

    def client(self, *, timeout: float = 10) -> httpx.Client:
        """Another client, with a connection of its own."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/api/v1", timeout=timeout, trust_env=False)

    def is_up(self) -> "Server":
        for _ in range(600):
            assert self.process.poll() is None, self.said
            try:
                self.http.get("/items")
            except httpx.ConnectError:
                time.sleep(0.05)
            else:
                return self
        raise AssertionError(f"Not up after 30 seconds: {self.said}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def kill(self) -> None:
        """As the kernel does when memory runs out: nothing is finished, nothing is said."""
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.kill()

    def log_in(self, username: str, password: str = PASSWORD) -> httpx.Response:
        answer = self.http.post("/token", data={"username": username, "password": password})
        if answer.status_code == 200:
            self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return answer


def settings_for(url: str, environment: str = "test") -> dict[str, str]:
    """For a server on the database at `url`, which throttles nobody."""
    often = dict.fromkeys(("LOGIN_ATTEMPTS", "SIGN_UP_ATTEMPTS"), "100000")
    return {"DATABASE_URL": url, "ENVIRONMENT": environment, "SECRET_KEY": KEY, "BCRYPT_ROUNDS": "4", **often}


@contextmanager
def servers_on_one_database(
    folder: Path, name: str, *commands: Iterable[str], **changed: str
) -> Iterator[tuple[str, list[Server]]]:
    """A new database of that `name`, and for each of `commands` a server on it, which is up."""
    with ExitStack() as stack:
        url = stack.enter_context(empty_database(folder, name))
        migrations.upgrade(url)
        started = [Server(folder, settings_for(url) | changed, command) for command in commands]
        for server in started:
            stack.callback(server.close)
        yield url, [server.is_up() for server in started]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def sql(engine: Engine, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """What the database itself says, past every server."""
    with engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
        result = connection.execute(text(statement), values)
        return [tuple(row) for row in result] if result.returns_rows else []


def keeper(engine: Engine) -> Callable[[], None]:
    """What it returns makes everybody who has an account now what they are now, and brings back what they come with."""
    kept = {table: _rows(engine, table) for table in ("users", "sessions", "machine_tokens")}

    def restore() -> None:
        with engine.execution_options(begin="BEGIN IMMEDIATE").begin() as connection:
            for table, rows in kept.items():
                if rows:
                    names = ", ".join(rows[0])
                    values = ", ".join(f":{name}" for name in rows[0])
                    new = ", ".join(f"{name} = excluded.{name}" for name in rows[0])
                    again = f"UPDATE SET {new}" if table == "users" else "NOTHING"
                    insert = f"INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT (id) DO {again}"
                    connection.execute(text(insert), rows)

    return restore


def _rows(engine: Engine, table: str) -> list[dict[str, Any]]:
    with engine.begin() as connection:
        return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]
