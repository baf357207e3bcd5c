"""The last of 20 entities answers as fast as the first: at most 1.2 times the CPU, measured in one process.

python benchmarks/routing.py

Each entity has 12 routes and is included two levels deep. Its null endpoint is called without a server or a network in
between; first and last take turns, and the median of the rounds' ratios counts. FastAPI's own router stands beside it.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.engine.http import dispatch

ENTITIES, MOST = 20, 1.2
ROUNDS, CALLS = 41, 100
ROUTES = [
    *(("GET", ""), ("POST", ""), ("GET", "/mine"), ("GET", "/counts"), ("GET", "/{row_id}"), ("PATCH", "/{row_id}")),
    *(("DELETE", "/{row_id}"), ("GET", "/{row_id}/parts"), ("POST", "/{row_id}/parts"), ("GET", "/{row_id}/history")),
    *(("POST", "/{row_id}/archive"), ("GET", "/{row_id}/null")),
]


def main() -> int:
    ours, plain = measure(generated(dispatch.install)), measure(generated(lambda app: None))
    say("Cadre", *ours)
    say("plain FastAPI", *plain)
    if ours[2] > MOST:
        sys.stdout.write(f"The last of {ENTITIES} entities may cost {MOST} times the first at most.\n")
        return 1
    return 0


def generated(install: Callable[[FastAPI], None]) -> FastAPI:
    """An app with that many entities."""

    async def null() -> None:
        return None

    api = APIRouter()
    for number in range(ENTITIES):
        router = APIRouter()
        for method, path in ROUTES:
            router.add_api_route(path, null, methods=[method])
        api.include_router(router, prefix=f"/entities{number:02}")
    app = FastAPI(redirect_slashes=False, telemetry={"tracing": False, "metrics": False, "logs": False})
    app.include_router(api, prefix="/api/v1")
    install(app)
    return app


def measure(app: FastAPI) -> tuple[float, float, float]:
    """Microseconds of CPU for a request to the first entity and to the last, and the ratio."""
    paths = [f"/api/v1/entities{number:02}/7/null" for number in (0, ENTITIES - 1)]
    rounds = []
    with asyncio.Runner() as runner:
        for number in range(ROUNDS + 1):
            # Each begins every other round: whatever warms up or slows down hits both alike.
            costs = {path: runner.run(cost(app, path)) for path in (paths if number % 2 else paths[::-1])}
            rounds.append((costs[paths[0]], costs[paths[1]]))
    rounds = rounds[1:]  # the one before only warms up
    first, last = (statistics.median(side) for side in zip(*rounds, strict=True))
    return first, last, statistics.median(last / first for first, last in rounds)


async def cost(app: FastAPI, path: str) -> float:
    statuses = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "GET"},
        **{"path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": []},
        **{"server": ("localhost", 80), "client": ("localhost", 50000)},
    }
    start = time.process_time()
    for _ in range(CALLS):
        await app(dict(scope), receive, send)
    took = time.process_time() - start
    if statuses.count(200) != CALLS:
        raise SystemExit(f"{path} did not answer 200 every time.")
    return took / CALLS * 1e6


def say(name: str, first: float, last: float, ratio: float) -> None:
    sys.stdout.write(f"{name:14} first {first:5.0f} us   last {last:5.0f} us   ratio {ratio:.2f}\n")


if __name__ == "__main__":
    sys.exit(main())
