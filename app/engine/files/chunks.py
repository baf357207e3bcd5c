"""A file's rows, some hundred at a time, validated, while others get their turn."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import closing

from sqlmodel import SQLModel

from app.engine.files.faults import Fault
from app.engine.files.layout import Layout, Valid
from app.engine.files.reading import Record, Source
from app.engine.files.report import Tally

CHUNK = 50  # rows: with more of them alive at once, Python would look through all there is for garbage
SLICE = 0.0005  # seconds, and others get their turn: a row may have a letter or a million
Progress = Callable[[int], object]  # told how many bytes of the file are read


class Chunks:
    """Of `source`, as `layout` has it. In no chunk are two rows with the same value of `on`: the latter comes later."""

    def __init__(self, source: Source, layout: Layout[SQLModel], on: str | None, progress: Progress) -> None:
        self._source, self._layout, self._on, self._progress = source, layout, on, progress
        self.ignored = layout.ignored & {*source.header}

    async def read(self, tally: Tally) -> AsyncGenerator[list[Valid], None]:
        """All that can be written; the rest `tally` is told."""
        chunk, keys, until = list[Valid](), set[object](), 0.0
        with closing(self._source.rows()) as rows:
            for row in rows:
                if time.perf_counter() > until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + SLICE
                valid = self._validated(row, tally)
                if valid is None:
                    continue
                key = valid.key(self._on) if self._on else None
                if len(chunk) == CHUNK or key in keys:
                    yield chunk
                    self._progress(self._source.position)
                    chunk, keys = [], set()
                chunk.append(valid)
                keys |= {key} - {None}
        if chunk:
            yield chunk
        self._progress(self._source.position)

    def _validated(self, row: Record | Fault | None, tally: Tally) -> Valid | None:
        if not isinstance(row, Record):
            if row:
                tally.fail(row)
            return None
        self.ignored |= self._layout.ignored & row.values.keys()
        valid = self._layout.validate(row)
        if isinstance(valid, Valid):
            return valid
        tally.fail(*valid)
        return None
