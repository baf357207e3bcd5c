"""Reads while people log in, with real password hashes: how long do those wait who only read?"""

import asyncio
import time
from collections import Counter
from dataclasses import replace
from threading import Thread
from typing import Any

import httpx

from benchmarks.measure import Field
from benchmarks.seed import PASSWORD, USERS
from benchmarks.servers import Server

CLIENTS = (0, 8, 64)
SECONDS, LEAD, CONNECTIONS = 8, 1, 16


def measure(field: Field, server: Server, clients: int) -> dict[str, Any]:
    """A slice of `one` while `clients` log in again and again, and what became of their logins."""
    outcome: Counter[str] = Counter()
    crowd = Thread(target=lambda: asyncio.run(log_in_together(server.base_url, clients, outcome)))
    crowd.start()
    time.sleep(LEAD)
    slice_ = replace(field, seconds=SECONDS).slice(server, "one", CONNECTIONS, 0)
    crowd.join()
    server.settle()
    slice_["endpoint"] = f"one while {clients} clients log in"
    return slice_ | {"clients": clients, "logins": dict(outcome)}


async def log_in_together(base_url: str, clients: int, outcome: Counter[str]) -> None:
    deadline = time.monotonic() + LEAD + SECONDS
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=base_url, timeout=None, trust_env=False, limits=limits) as http:  # noqa: S113
        people = [asyncio.create_task(log_in(http, number, deadline, outcome)) for number in range(1, clients + 1)]
        if people:
            _, waiting = await asyncio.wait(people, timeout=deadline - time.monotonic())
            for task in waiting:
                task.cancel()


async def log_in(http: httpx.AsyncClient, number: int, deadline: float, outcome: Counter[str]) -> None:
    form = {"username": f"user{USERS - number}", "password": PASSWORD}
    while time.monotonic() < deadline:
        try:
            answer = await http.post("/api/v1/token", data=form)
        except httpx.HTTPError:
            outcome["broken"] += 1
            await asyncio.sleep(0.1)
            continue
        if answer.status_code == 503 and "Retry-After" in answer.headers:
            outcome["refused"] += 1
            await asyncio.sleep(int(answer.headers["Retry-After"]))
        else:
            outcome["succeeded" if answer.status_code == 200 else "failed"] += 1
