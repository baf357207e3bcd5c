"""The contenders as processes of their own: how each is started, what CPU it has used, and how it is stopped."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import httpx

ROOT = Path(__file__).resolve().parent.parent
FASTIFY = ROOT / "benchmarks" / "fastify"
TICKS = os.sysconf("SC_CLK_TCK")
UVICORN = (sys.executable, "-m", "uvicorn", "--no-access-log", "--log-level=warning", "--loop=uvloop")
PYTHON_APPS = {
    "cadre": "app.main:app",
    "cadre20": "benchmarks.contenders.cadre20:app",
    "base": "benchmarks.contenders.base:app",
    "limit": "benchmarks.contenders.limit:app",
}
CONTENDERS = (*PYTHON_APPS, "fastify")


@dataclass
class Server:
    """One contender on one database. It stays up until `stop`."""

    name: str
    url: str  # of its database
    key: str
    folder: Path  # for its log
    checkout: Path = ROOT
    port: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        if self.name == "fastify":
            return ["node", str(FASTIFY / "server.js")]
        app = PYTHON_APPS.get(self.name, PYTHON_APPS["cadre"])  # or the app of another commit
        is_ours = self.name.startswith("cadre") and (self.checkout / "app" / "engine" / "http" / "wire.py").exists()
        http = "app.engine.http.wire:Wire" if is_ours else "httptools"  # as `serve` has it
        return [*UVICORN, f"--http={http}", "--backlog=4096", f"--port={self.port}", app]

    def start(self) -> None:
        """Returns when it answers. Raises SystemExit if it does not within 30 seconds."""
        self.port = free_port()
        settings = {"DATABASE_URL": self.url, "SECRET_KEY": self.key, "ENVIRONMENT": "production"}
        environment = {**os.environ, **settings, "PORT": str(self.port), "NODE_ENV": "production"}
        log = self.folder / f"{self.name}.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command(), cwd=self.checkout, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        deadline = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                httpx.get(f"{self.base_url}/api/v1/users/me", trust_env=False)
                return
            except httpx.ConnectError:
                time.sleep(0.05)
        self.stop()
        raise SystemExit(f"{self.name} did not start:\n{log.read_text()[-2000:]}")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def cpu(self) -> float:
        """Seconds of CPU that its process group has used, children that have ended included."""
        assert self.process is not None
        return sum(process.cpu for process in processes().values() if process.group == self.process.pid)

    def settle(self) -> None:
        """Wait until it has nothing left to do: what one slice left behind must not be counted in another's."""
        before, deadline = -1.0, time.monotonic() + 30
        while (now := self.cpu()) != before and time.monotonic() < deadline:
            before = now
            time.sleep(0.05)


class Process(NamedTuple):
    parent: int
    group: int
    cpu: float  # seconds of it and of its children that have ended


def processes() -> dict[int, Process]:
    """Every process of this machine by its id."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            cpu = sum(map(int, fields[11:15])) / TICKS
            found[int(stat.parent.name)] = Process(int(fields[1]), int(fields[2]), cpu)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def install_fastify() -> str | None:
    """Why Fastify cannot take part, or None. Its packages are fetched the first time."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "node and npm are not installed"
    if not (FASTIFY / "node_modules").exists():
        command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--silent"]
        if subprocess.run(command, cwd=FASTIFY, check=False).returncode:
            return "npm install failed"
    return None
