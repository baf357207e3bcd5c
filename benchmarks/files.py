"""A large file goes in and out in flat memory, and others hardly notice: their p99 at most twice what it is without.

python benchmarks/files.py [--megabytes 200] [--mode all]

On SQLite, and on the PostgreSQL that BENCH_DATABASE_URL names, whose database must end in _bench and is emptied.
Somebody else reads a page of their items every 10 ms meanwhile, by a connection of their own; what they wait counts
from the moment at which they should have asked. Small files take turns with nothing, and the median of the rounds'
ratios counts. Then comes the large one, for its memory.
"""

import argparse
import os
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
from sqlalchemy import NullPool, create_engine, make_url, text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.engine import migrations
from benchmarks.servers import Server

EVERY, WARM_UP, ALONE = 0.01, 2.0, 3.0  # seconds
ROUNDS, SMALL = 7, 3 * 10**6  # bytes
MOST_RATIO, MOST_GROWTH = 2.0, 64.0  # of p99; megabytes
LINE = 'Order number {} of the paint,"Two tins, white, and a brush; for the kitchen, the hall and whatever else"\n'
PASSWORD = "four plain words together"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--mode", choices=("good", "all"), default="good")
    asked = parser.parse_args()
    is_good = True
    with tempfile.TemporaryDirectory() as folder:
        for kind, url in databases(Path(folder)):
            server = Server("cadre", url, secrets.token_urlsafe(48), Path(folder))
            server.start()
            try:
                is_good &= measure(kind, server, Path(folder), asked.megabytes * 10**6, asked.mode)
            finally:
                server.stop()
    return 0 if is_good else 1


def databases(folder: Path) -> Iterator[tuple[str, str]]:
    """Each at the newest migration, and empty."""
    urls = {"SQLite": f"sqlite:///{folder / 'files.db'}", "PostgreSQL": os.environ.get("BENCH_DATABASE_URL", "")}
    for kind, url in urls.items():
        if not url:
            continue
        if kind == "PostgreSQL":
            if not (make_url(url).database or "").endswith("_bench"):
                raise SystemExit("BENCH_DATABASE_URL must name a database that ends in _bench: it is emptied.")
            engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(text("DROP SCHEMA public CASCADE"))
                connection.execute(text("CREATE SCHEMA public"))
        migrations.upgrade(url)
        yield kind, url


def write(file: Path, size: int) -> Path:
    with file.open("w", encoding="utf-8") as out:
        out.write("title,description\n")
        number = 0
        while out.tell() < size:
            out.writelines(LINE.format(number + each) for each in range(1000))
            number += 1000
    return file


def measure(kind: str, server: Server, folder: Path, size: int, mode: str) -> bool:
    ann, bob = client(server, "ann"), client(server, "bob")
    for number in range(10):
        bob.post("/items", json={"title": f"item {number}"}).raise_for_status()
    reader, memory = Reader(bob), Memory(server)
    small, large = write(folder / "small.csv", SMALL), write(folder / "large.csv", size)
    reader.during(lambda: time.sleep(WARM_UP))
    ratios: dict[str, list[float]] = {"import": [], "export": []}
    for _ in range(ROUNDS):
        alone = p99(reader.during(lambda: time.sleep(ALONE))[1])
        ratios["import"].append(p99(reader.during(lambda: import_(ann, small, mode))[1]) / alone)
        ratios["export"].append(p99(reader.during(lambda: export(ann))[1]) / alone)
    is_good = True
    for what, work in {"import": lambda: import_(ann, large, mode), "export": lambda: export(ann)}.items():
        start, before, ratio = time.monotonic(), memory.now(), statistics.median(ratios[what])
        rows, peak = memory.during(work)
        took = time.monotonic() - start
        is_good &= ratio <= MOST_RATIO and peak - before <= MOST_GROWTH
        sys.stdout.write(
            f"{kind:10} {what} {rows:8} rows in {took:5.1f} s, {rows / took:6.0f} a second"
            f"   memory {before:3.0f} + {peak - before:3.0f} MB   p99 of others {ratio:.1f} times\n"
        )
        sys.stdout.flush()
    return is_good


def client(server: Server, name: str) -> httpx.Client:
    http = httpx.Client(base_url=f"{server.base_url}/api/v1", trust_env=False, timeout=3600)
    http.post(
        "/users", json={"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    ).raise_for_status()
    token = http.post("/token", data={"username": name, "password": PASSWORD}).raise_for_status().json()["access_token"]
    http.headers["Authorization"] = f"Bearer {token}"
    return http


def import_(http: httpx.Client, file: Path, mode: str) -> int:
    with file.open("rb") as content:
        answer = http.post(f"/items/import?format=csv&mode={mode}", content=content).raise_for_status()
    return int(answer.json()["created"])


def export(http: httpx.Client) -> int:
    with http.stream("GET", "/items/export") as answer:
        return sum(piece.count(b"\n") for piece in answer.iter_raw(2**16)) - 1


class Reader:
    """Reads every 10 ms, and notes how long each answer took."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def during(self, work: Callable[[], object]) -> tuple[object, list[float]]:
        """What `work` returns, and the waits meanwhile."""
        waits, is_over = list[float](), threading.Event()

        def read() -> None:
            due = time.monotonic()
            while not is_over.is_set():
                self._http.get("/items").raise_for_status()
                waits.append(time.monotonic() - due)
                due = max(due + EVERY, time.monotonic() - 1)
                time.sleep(max(due - time.monotonic(), 0))

        thread = threading.Thread(target=read)
        thread.start()
        try:
            return work(), waits
        finally:
            is_over.set()
            thread.join()


class Memory:
    """Of the server's process, in megabytes."""

    def __init__(self, server: Server) -> None:
        assert server.process is not None
        self._status = Path(f"/proc/{server.process.pid}/status")

    def now(self) -> float:
        (line,) = (line for line in self._status.read_text().splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) / 1e3

    def during(self, work: Callable[[], int]) -> tuple[int, float]:
        """What `work` returns, and the most that there was meanwhile."""
        seen, is_over = [self.now()], threading.Event()

        def look() -> None:
            while not is_over.wait(0.1):
                seen.append(self.now())

        thread = threading.Thread(target=look)
        thread.start()
        try:
            return work(), max(seen)
        finally:
            is_over.set()
            thread.join()


def p99(waits: list[float]) -> float:
    return sorted(waits)[len(waits) * 99 // 100]


if __name__ == "__main__":
    sys.exit(main())
