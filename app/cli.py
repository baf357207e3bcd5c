"""The commands: `python3 -m app [run|serve|worker|jobs|demo|new|migrate|superuser|user|token|export|import|openapi]`.

__main__.py answers `test`.
"""

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from app import accounts, job_commands, scaffold, user_commands
from app.demo import fill
from app.engine import logs, migrations
from app.errors import CannotStart
from app.models import MachineTokenCreate
from app.models.base import Access
from app.settings import ROOT, get_settings
from app.start import answer, lead_links_to, opened, prepare, say

main = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)
main.add_typer(job_commands.commands)
main.add_typer(user_commands.user, name="user")
GRACE = 8  # seconds to finish what is under way: a stalled client must not keep a server alive, and Docker kills at 10
Port = Annotated[int, typer.Option(help="Where to listen.", min=1, max=65535)]
Workers = Annotated[int, typer.Option(help="How many processes.", min=1, max=64)]
Rows = Annotated[str, typer.Argument(help="A table: items.")]
Form = Annotated[Literal["csv", "jsonl"], typer.Option("--format", help="CSV, or JSON Lines.")]
As = Annotated[str | None, typer.Option("--as", help="Somebody's username; otherwise it is the application itself.")]
Host = Annotated[str, typer.Option(help="Which of this machine's addresses; 0.0.0.0 for all.")]


@main.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    """A backend for small teams. Without a command: run."""
    if context.invoked_subcommand is None:
        run()


@main.command()
def run(host: Host = "127.0.0.1", port: Port = 8000, reload: bool = True) -> None:
    """Bring the database up to date and serve, with reload after each change of the code."""
    here = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104  # comparing, not binding
    lead_links_to(here)
    make_ready("run", host, port)
    say(f"  API         {here}/api/v1\n  Docs        {here}/docs   (log in with Authorize)\n  Front page  {here}/\n")
    import uvicorn  # late: the other commands need no server

    uvicorn.run(**hardened(), host=host, port=port, reload=reload, reload_dirs=["app"] if reload else None, workers=1)


@main.command()
def serve(host: Host = "127.0.0.1", port: Port = 8000, workers: Workers = 1) -> None:
    """Serve, for production: several processes if you like, and one that died is replaced."""
    make_ready("serve", host, port)
    import uvicorn  # late: the other commands need no server
    from uvicorn.config import STARTUP_FAILURE
    from uvicorn.supervisors import Multiprocess

    if workers == 1:
        uvicorn.run(**hardened(), host=host, port=port, workers=1)
        return
    config = uvicorn.Config(**hardened(), host=host, port=port, workers=workers)
    supervisor = Multiprocess(config, sockets=[config.bind_socket()])
    supervisor.run()
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        # uvicorn would end as if somebody had asked for it.
        raise CannotStart("A worker could not start: see above why.")


@main.command()
def migrate() -> None:
    """Bring the database to the newest migration. For production, before the servers start."""
    migrations.upgrade(get_settings().database_url)
    say("The database is at the newest migration.")


@main.command()
def superuser(username: str, email: str) -> None:
    """Create a superuser, also on the day when nobody can log in. The password is printed once."""
    user_commands.create(username, email, superuser=True)


@main.command()
def token(
    username: str,
    name: str = "machine",
    scope: Annotated[str | None, typer.Option(help="What it may do: 'items:read'. Otherwise all.")] = None,
    days: Annotated[int | None, typer.Option(help="How long it is valid. Otherwise until it is revoked.")] = None,
) -> None:
    """Create a token for a program that acts as that user, to send as X-Token. It is printed once."""
    from app import routers  # noqa: F401  # late: with them come the scopes, and the web framework

    async def work() -> None:
        data = MachineTokenCreate(name=name, scope=scope, days=days)
        async with opened(get_settings()) as (application, _hasher):
            made = await accounts.create_machine_token_for(application, username, data)
            say(f"X-Token: {made.token}\nIt is shown only this once. Whoever has it acts as {username}.")

    answer(work())


@main.command()
def demo() -> None:
    """Fill a development database with believable people and items."""
    if get_settings().environment != "development":
        raise CannotStart("Demo data is for development only: ENVIRONMENT says otherwise.")

    async def work() -> None:
        await prepare(get_settings())
        async with opened(get_settings()) as (application, hasher):
            say(await fill(application, hasher))

    answer(work())


@main.command("export")
def export_(rows: Rows, form: Form = "csv", to: Path | None = None, username: As = None) -> None:
    """Write a table's rows to a file, or to standard output."""
    from app import routers  # noqa: F401  # late: with them come the tables, and the web framework
    from app.extras import commands

    async def work() -> None:
        async with opened(get_settings()) as (application, _hasher):
            await commands.export_rows(application, rows, username, to, form)

    answer(work())


@main.command("import")
def import_(
    rows: Rows,
    file: Annotated[typer.FileBinaryRead, typer.Argument(help="`-` for standard input.")],
    form: Annotated[Literal["csv", "jsonl"] | None, typer.Option("--format", help="Otherwise by its name.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would come of it, and keep nothing.")] = False,
    mode: Annotated[
        Literal["all", "good"], typer.Option(help="Keep all rows or none, or those that are good.")
    ] = "all",
    on: Annotated[str | None, typer.Option(help="By which column to recognise rows that are there.")] = None,
    encoding: Annotated[str, typer.Option(help="If it shall not be found out: cp1252.")] = "",
    username: As = None,
) -> None:
    """Make rows of a file's lines, or change those that are there. Ends with 1 if a line failed."""
    from app import routers  # noqa: F401  # late: as above
    from app.extras import commands

    asked = {"format": form, "dry_run": dry_run, "mode": mode, "on": on, "encoding": encoding}

    async def work() -> None:
        async with opened(get_settings()) as (application, _hasher):
            report = await commands.import_rows(application, rows, username, file, asked)
            say(commands.told(report))
            raise typer.Exit(int(report.failed > 0))

    answer(work())


@main.command(epilog=scaffold.HELP)
def new(
    name: Annotated[str, typer.Argument(help="What one of them is called: project, or purchase_order.")],
    fields: Annotated[list[str] | None, typer.Argument(help="name:type[:arguments][?], see below.")] = None,
    access: Annotated[Literal["owned", "shared", "restricted"], typer.Option(help=scaffold.ACCESS)] = "owned",
    plural: Annotated[str | None, typer.Option(help="If it is not by the rules: --plural people.")] = None,
    unique: Annotated[
        list[str] | None, typer.Option(help="A field that no two may have alike. Can be repeated.")
    ] = None,
    link: Annotated[bool, typer.Option("--link", help="Many to many: of two refs, each pair once.")] = False,
) -> None:
    """Write an entity's model, routes and migration, and register them. Nothing is overwritten."""
    kind = Access[access.upper()]
    plan = scaffold.plan(name, fields or [], access=kind, plural=plural, link=link, unique=unique or ())
    say(scaffold.told(plan, scaffold.write(plan)))


@main.command()
def openapi() -> None:
    """Write docs/openapi.json anew, after a change of the API."""
    from app.main import app  # late: the other commands need no server

    document = json.dumps(app.openapi(), indent=1, ensure_ascii=False)
    (ROOT / "docs" / "openapi.json").write_text(f"{document}\n", encoding="utf-8")
    say("docs/openapi.json is as the API is now.")


def make_ready(command: str, host: str, port: int) -> None:
    """Raise CannotStart for what is wrong here and now: a worker would say it in a traceback, and each its own."""
    settings = get_settings()
    logs.configure(for_people=settings.environment == "development")
    if any(network.prefixlen == 0 for network in settings.proxies):
        raise CannotStart("PROXIES would believe everybody: name the machines that stand in front of this one.")
    refuse_taken_port(command, host, port)
    asyncio.run(prepare(settings))
    # uvicorn ends what is under way, and then sends itself the signal again: that is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def hardened() -> dict[str, Any]:
    """What uvicorn needs to be told to stand in the open. `uvicorn app.main:app` has none of it."""
    from app.engine.http.wire import Wire  # late: the other commands need no server

    proxies = get_settings().proxies
    return {
        "app": "app.main:app",
        "http": Wire,
        "ws": "none",
        "loop": "auto",  # uvloop, or asyncio on Windows
        "log_config": None,  # logs.py has it
        "server_header": False,
        # Else uvicorn would believe whatever runs on this machine, or FORWARDED_ALLOW_IPS.
        "proxy_headers": bool(proxies),
        "forwarded_allow_ips": [str(network) for network in proxies],
        # No limit_concurrency: it counts idle connections, and refuses /health. The app counts requests itself.
        "backlog": 2048,
        "timeout_graceful_shutdown": GRACE,
    }


def refuse_taken_port(command: str, host: str, port: int) -> None:
    """Raise CannotStart now, in one sentence, rather than in the middle of uvicorn's log."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            cure = f"python3 -m app {command} --port {port + 1}" if port < 65535 else "another --port"
            raise CannotStart(f"Port {port} of {host} cannot be used ({error.strerror}). Try: {cure}") from None
