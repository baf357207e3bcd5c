"""What a request costs: the app beside what it is compared with, in server CPU. One command, from start to report.

python benchmarks/compare.py                    # SQLite, and PostgreSQL if BENCH_DATABASE_URL names one
python benchmarks/compare.py --quick            # a first look, in about three minutes
python benchmarks/compare.py --against REV      # what has changed since another commit of the app
python benchmarks/compare.py --check            # exit 1 if the app misses the floor

Exits 1 too when the app answered anything with an error or not at all. It needs wrk, Linux, and `pip install -e
'.[bench]'`; Fastify takes part where there is npm. benchmarks/README.md says more.
"""

import argparse
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import make_url

from benchmarks import load, logins, machine, plot, report, same
from benchmarks.databases import Databases
from benchmarks.figures import figures
from benchmarks.measure import ENDPOINTS, Field, failure
from benchmarks.servers import CONTENDERS, ROOT, Server, install_fastify

CONNECTIONS = [16, 64, 256, 1000]
MANY = ("one", "mix")  # what is asked at more than the fewest connections, in fewer rounds
MANY_ROUNDS = 2
MANY_SECONDS = 3  # it takes a while until a thousand connections are served
LOGINS = ("base", "cadre")
OURS = ("cadre", "cadre20")  # whose failures fail the run


def main() -> int:
    options = parse()
    load.refuse_without_wrk()
    allow_many_files()
    began, notes = time.monotonic(), []
    if "fastify" in options.contenders:
        say("fastify: installing it, the first time")
        if reason := install_fastify():
            options.contenders.remove("fastify")
            notes.append(f"Fastify is left out: {reason}")
    if "postgresql" not in options.databases:
        notes.append("PostgreSQL is left out: it takes BENCH_DATABASE_URL or --postgres")
    data: dict[str, Any] = {
        "machine": machine.describe(options.postgres, with_fastify="fastify" in options.contenders),
        "contenders": options.contenders,
        "notes": notes,
        "load": [os.getloadavg()[0]],
        "slices": [],
        "logins": [],
    }
    with checkouts(options) as where:
        for kind in options.databases:
            measure(kind, options, where, data)
    data["load"].append(os.getloadavg()[0])
    data["minutes"] = (time.monotonic() - began) / 60
    say(f"{write(data, options.output)}\n\n{options.output}")
    return judge(data, options)


def measure(kind: str, options: argparse.Namespace, where: dict[str, Path], data: dict[str, Any]) -> None:
    """Everything on one database."""
    with field(kind, options, where) as there:
        for connections in options.connections:
            is_fewest = connections == min(options.connections)
            endpoints = [name for name in options.endpoints if is_fewest or name in MANY]
            for endpoint in endpoints:
                say(f"{kind}, {connections} connections, {endpoint}")
                there.seconds = options.seconds if is_fewest else max(options.seconds, MANY_SECONDS)
                rounds = options.rounds if is_fewest else min(options.rounds, MANY_ROUNDS)
                data["slices"] += there.rounds(endpoint, connections, rounds)
        if not options.quick:
            for clients in logins.CLIENTS:
                say(f"{kind}, {clients} clients log in")
                data["logins"] += [
                    logins.measure(there, server, clients) for server in there.servers if server.name in LOGINS
                ]


@contextmanager
def field(kind: str, options: argparse.Namespace, where: dict[str, Path]) -> Iterator[Field]:
    """All contenders up on databases of their own, compared and warm."""
    key = secrets.token_urlsafe(48)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        databases = Databases(kind, key, folder, options.postgres)
        stack.callback(databases.drop)
        servers, said, tokens = [], {}, {}
        say(f"{kind}: making the databases")
        for name in options.contenders:
            checkout = where.get(name, ROOT)
            server = Server(name, databases.make(name, checkout), key, folder, checkout)
            server.start()
            stack.callback(server.stop)
            said[name] = same.answers(server.base_url, databases.tokens[checkout])
            tokens[name] = folder / f"{name}.tokens"
            tokens[name].write_text("".join(f"{token}\n" for token in databases.tokens[checkout]))
            servers.append(server)
        same.refuse_if_different(said)
        for server in servers:
            databases.clean(server.name)
        there = Field(databases, servers, tokens, options.seconds)
        there.warm_up()
        yield there


@contextmanager
def checkouts(options: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """Where the contenders are that are not in this checkout: the app of another commit."""
    if not options.against:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "app"
        git("worktree", "add", "--detach", str(there), options.against)
        try:
            yield {options.other: there}
        finally:
            git("worktree", "remove", "--force", str(there))


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def write(data: dict[str, Any], folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps(data, indent=1))
    plot.draw(data, folder / "plot.png")
    text = report.write(data)
    (folder / "report.md").write_text(text)
    return text


def judge(data: dict[str, Any], options: argparse.Namespace) -> int:
    """1 if the app failed, or with --check if it missed the floor."""
    slices = data["slices"] + data["logins"]
    wrong = [failed for slice_ in slices if slice_["contender"] in OURS and (failed := failure(slice_))]
    if options.check:
        wrong += report.below_floor(figures(data["slices"]))
    for line in wrong:
        say(line)
    return 1 if wrong else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = {"type": lambda text: text.split(","), "metavar": "A,B"}
    parser.add_argument("--postgres", default=os.environ.get("BENCH_DATABASE_URL"), metavar="URL")
    parser.add_argument("--databases", **listed)
    parser.add_argument("--contenders", **listed)
    parser.add_argument("--endpoints", default=list(ENDPOINTS), **listed)
    parser.add_argument("--connections", type=lambda text: [int(word) for word in text.split(",")], metavar="A,B")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", default=1, type=int)
    parser.add_argument("--quick", action="store_true", help="two rounds at 16 connections, no logins")
    parser.add_argument("--against", metavar="REV", help="another commit of the app beside this one")
    parser.add_argument("--check", action="store_true", help="exit 1 if the floor is missed")
    parser.add_argument("--output", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    if options.postgres and not (make_url(options.postgres).database or "").endswith(("_test", "_bench")):
        parser.error("The database must end in _test or _bench: others are made and dropped beside it.")
    options.databases = options.databases or ["sqlite", *(["postgresql"] if options.postgres else [])]
    options.contenders = options.contenders or list(CONTENDERS)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    if options.against:
        commit = git("rev-parse", "--short", options.against)
        options.other, day = f"cadre-{commit}", f"{day}-against-{commit}"
        options.contenders = ["cadre", options.other, "base"]
    options.output = options.output or ROOT / "benchmarks" / "results" / day
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.connections = options.connections or (CONNECTIONS[:1] if options.quick else CONNECTIONS)
    return options


def allow_many_files() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
