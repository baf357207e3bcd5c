"""On what it was measured: without it no figure means anything."""

import json
import os
import platform
import sqlite3
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sqlalchemy import NullPool, create_engine, text

from benchmarks.servers import FASTIFY, ROOT

LIBRARIES = ("fastapi", "starlette", "pydantic", "sqlmodel", "sqlalchemy", "uvicorn", "uvloop", "httptools", "psycopg")
PACKAGES = ("fastify", "better-sqlite3", "pg", "fast-jwt")


def describe(postgres: str | None, *, with_fastify: bool) -> dict[str, Any]:
    names = [line.partition(":")[2].strip() for line in cpuinfo() if line.startswith("model name")]
    facts = {
        "day": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": said("git", "describe", "--always", "--dirty"),
        "machine": f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "SQLite": sqlite3.sqlite_version,
        "wrk": said("wrk", "-v").split()[1],
    }
    if postgres:
        with create_engine(postgres, poolclass=NullPool).connect() as connection:
            facts["PostgreSQL"] = connection.execute(text("SHOW server_version")).scalar_one().split()[0]
            facts["PostgreSQL's fsync"] = connection.execute(text("SHOW fsync")).scalar_one()
    if with_fastify:
        facts["Node"] = said("node", "--version").removeprefix("v")
        for name in PACKAGES:
            facts[name] = json.loads((FASTIFY / "node_modules" / name / "package.json").read_text())["version"]
    return facts


def cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()


def said(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
