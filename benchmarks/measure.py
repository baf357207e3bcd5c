"""Slices of load in turn, A B C and then C B A, while all contenders stay up; each with the CPU that it took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import load
from benchmarks.databases import Databases
from benchmarks.servers import Server

READS = ("me", "one", "list100")
ENDPOINTS = (*READS, "create", "change", "delete", "mix")
DOOMED = {"delete": 30_000, "mix": 3_000}  # rows prepared for each second: more than anybody deletes


@dataclass
class Field:
    """The contenders on one database."""

    databases: Databases
    servers: list[Server]
    tokens: dict[str, Path]  # by server: a file for the load, a token a line
    seconds: int

    def warm_up(self) -> None:
        for server in self.servers:
            self.slice(server, "mix", 16, 0)

    def rounds(self, endpoint: str, connections: int, count: int) -> Iterator[dict[str, Any]]:
        for number in range(1, count + 1):
            for server in self.servers if number % 2 else reversed(self.servers):
                yield self.slice(server, endpoint, connections, number)

    def slice(self, server: Server, endpoint: str, connections: int, number: int) -> dict[str, Any]:
        """What one contender did. One that froze is started anew; the others need nothing in between."""
        doomed = DOOMED.get(endpoint, 0) * self.seconds
        first = self.databases.add_doomed(server.name, doomed) if doomed else 0
        before, database_before = server.cpu(), self.databases.cpu()
        said = load.send(
            server.base_url,
            endpoint,
            self.tokens[server.name],
            connections=connections,
            seconds=self.seconds,
            doomed=first,
            seed=number,
        )
        cpu, database_cpu = server.cpu() - before, self.databases.cpu() - database_before
        if endpoint == "delete" and said["requests"] > doomed:
            raise SystemExit(f"{server.name} deletes faster than rows were prepared: raise DOOMED in measure.py.")
        # A load tool reports no error for a server that is silent.
        froze = said["requests"] < min(connections, 256) / 4
        if froze:
            server.restart()
        else:
            server.settle()
        if endpoint not in READS:
            self.databases.clean(server.name)
        return {
            **{"database": self.databases.kind, "endpoint": endpoint, "connections": connections, "round": number},
            **{"contender": server.name, "at": round(time.time(), 1), "froze": froze, **said},
            **{"cpu": round(cpu, 3), "database_cpu": round(database_cpu, 3)},
        }


def failure(slice_: dict[str, Any]) -> str | None:
    """What went wrong in a slice, or None."""
    wrong = [f"{count} {kind} errors" for kind, count in slice_["errors"].items() if count]
    if slice_["froze"]:
        wrong.insert(0, f"froze: {slice_['requests']} answers")
    where = "{contender} on {database}, {endpoint} at {connections} connections, round {round}".format_map(slice_)
    return f"{where}: {', '.join(wrong)}" if wrong else None
