"""A file's rows as rows of a table: all or none of them, or those that are good, and a report of the rest."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import BinaryIO, Generic

from sqlmodel import SQLModel

from app.engine.caller import Caller
from app.engine.files.chunks import Chunks, Progress
from app.engine.files.faults import MOST, BadFile, Fault
from app.engine.files.layout import Layout, Valid
from app.engine.files.reading import Source
from app.engine.files.report import Asked, Report, Tally
from app.engine.files.upserting import Upsert
from app.engine.verbs import Read, Verbs
from app.engine.waiting import retried
from app.errors import Refusal

LIMIT = 3600.0  # seconds that a file may take


async def nothing() -> None:
    """For who has nothing to begin."""


class Import(Generic[Read]):
    """Of files into the table of `verbs`. `create` and `update` are what a client may send for one row."""

    def __init__(self, verbs: Verbs[Read], create: type[SQLModel], update: type[SQLModel]) -> None:
        self._verbs, self._create, self._upsert = verbs, create, Upsert(verbs, update)

    async def run(
        self,
        caller: Caller,
        file: BinaryIO,
        asked: Asked,
        progress: Progress = lambda _: None,
        begin: Callable[[], Awaitable[None]] = nothing,
    ) -> Report:
        """Write the rows of `file` as `caller`. Raises BadFile and keeps nothing, unless `asked` for what is good.

        While all of them are written at once, nobody else can write to SQLite. `begin` is called before that.
        """
        caller = await self._verbs.standing.recognise(caller)
        is_csv = asked.format == "csv"
        layout, whose = self._layout(caller, asked)
        separator = "\t" if asked.separator == "tab" else asked.separator or ""
        source = await asyncio.to_thread(
            Source, file, layout.cells, is_csv=is_csv, encoding=asked.encoding, separator=separator
        )
        if is_csv:
            layout.check(source.header, whose)
        chunks = Chunks(source, layout, asked.on, progress)
        if asked.mode == "all" and not asked.dry_run:
            await _validate(chunks)
            await begin()
        tally = await self._write(caller, chunks, asked)
        return Report(
            **tally.told(),
            dry_run=asked.dry_run,
            ignored=sorted(chunks.ignored),
            encoding=source.encoding.removesuffix("-sig"),
            separator="tab" if source.separator == "\t" else source.separator or None,
        )

    def _layout(self, caller: Caller, asked: Asked) -> tuple[Layout[SQLModel], list[str]]:
        """And the columns that must be there, besides those that always must."""
        owner = self._verbs.owner
        own = [owner] if owner and caller.role != "user" else []
        layout = Layout(self._verbs.entity, self._verbs.read, self._create, own + (["id"] if asked.on == "id" else []))
        return layout, own if caller.role == "application" else []

    async def _write(self, caller: Caller, chunks: Chunks, asked: Asked) -> Tally:
        if asked.mode == "good" and not asked.dry_run:
            return await self._write_good(caller, chunks, asked.on)
        return await self._write_all(caller, chunks, asked)

    async def _write_good(self, caller: Caller, chunks: Chunks, on: str | None) -> Tally:
        """Each chunk is kept when it is written."""
        tally = Tally()
        async with aclosing(chunks.read(tally)) as read:
            async for rows in read:
                try:
                    tally.add(await self._write_chunk(caller, rows, on))
                except Refusal as refusal:
                    if not (tally.created or tally.changed):
                        raise
                    told = f"{refusal.detail} From here on nothing was kept."
                    tally.fail(Fault(rows[0].line, None, told, "stopped"))
                    break
        return tally

    @retried
    async def _write_chunk(self, caller: Caller, rows: list[Valid], on: str | None) -> Tally:
        async with caller.db.transaction() as db:
            return await self._upsert.write(replace(caller, db=db), rows, on)

    @retried
    async def _write_all(self, caller: Caller, chunks: Chunks, asked: Asked) -> Tally:
        """All or nothing; in a dry run nothing."""
        tally = Tally()
        async with caller.db.transaction(limit=LIMIT) as db:
            with suppress(Undone):
                async with db.savepoint(), aclosing(chunks.read(tally)) as read:
                    async for rows in read:
                        tally.add(await self._upsert.write(replace(caller, db=db), rows, asked.on))
                        if len(tally.faults) >= MOST and not asked.dry_run:
                            break
                    if asked.dry_run:
                        raise Undone
            if tally.faults and not asked.dry_run:
                raise BadFile(*tally.faults)
        return tally


class Undone(Refusal):
    """The end of a dry run: nothing of it is kept."""


async def _validate(chunks: Chunks) -> None:
    """Raise BadFile for what is wrong before the database is asked, so that nobody waits for what comes to nothing."""
    tally = Tally()
    async with aclosing(chunks.read(tally)) as read:
        async for _ in read:
            if len(tally.faults) >= MOST:
                break
    if tally.faults:
        raise BadFile(*tally.faults)
