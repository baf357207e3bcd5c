"""Rows as the bytes of a file, a page of them at a time: a table of any length takes the memory of one page."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model
from sqlmodel import SQLModel

from app.engine.caller import Caller
from app.engine.files import cells
from app.engine.queries import PAGING, Query, query_class
from app.engine.verbs import Verbs
from app.models.base import Entity

Read = TypeVar("Read", bound=SQLModel)
Format = Literal["csv", "jsonl"]
PAGE = 100  # rows: more would hold up the others
SLICE = 10  # rows: after so many others get their turn
MEDIA_TYPES: dict[Format, str] = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}


class Asked(BaseModel):
    """Which rows, in which order, and as what."""

    model_config = ConfigDict(extra="forbid")

    format_: Format = Field("csv", alias="format", description="CSV, or JSON Lines: a JSON object in each line.")


def export_class(entity: type[Entity]) -> type[Asked]:
    """All that `entity`'s list can be asked but for its pages; the oldest first, so that they can be made anew so."""
    asked = query_class(entity).model_fields
    fields: dict[str, Any] = {
        name: (field.rebuild_annotation(), field)
        for name, field in asked.items()
        if name not in (*PAGING, "cursor", "sort")
    }
    order = (asked["sort"].rebuild_annotation(), Field("id", description=asked["sort"].description))
    if "format" in fields:  # of the rows
        told = Asked.model_fields["format_"].description
        fields["format_"] = (Format, Field("csv", alias="file_format", description=told))
    return create_model(f"{entity.__name__}Export", __base__=Asked, sort=order, **fields)


class Export(Generic[Read]):
    """What `verbs` show of an entity's rows, as a file."""

    def __init__(self, verbs: Verbs[Read]) -> None:
        self._verbs, self._asked = verbs, query_class(verbs.entity)

    async def begin(self, caller: Caller, asked: Asked) -> AsyncIterator[bytes]:
        """The file, in pieces. Its first page is read already, so that a refusal comes before the first byte.

        Each page is asked for as that caller, who may be nobody any more by then: the pieces end with that refusal.
        """
        given = {name: getattr(asked, name) for name in {*asked.model_fields_set, "sort"} - {"format_"}}
        rows, cursor = await self._page(caller, given, "")
        return self._pieces(caller, given, self._writer(asked.format_), rows, cursor)

    async def _pieces(
        self,
        caller: Caller,
        given: dict[str, Any],
        write: Callable[[Sequence[Read]], bytes],
        rows: list[Read],
        cursor: str | None,
    ) -> AsyncIterator[bytes]:
        yield write(())
        while True:
            for first in range(0, len(rows), SLICE):
                yield write(rows[first : first + SLICE])
                await asyncio.sleep(0)
            if not cursor:
                return
            rows, cursor = await self._page(caller, given, cursor)

    async def _page(self, caller: Caller, given: dict[str, Any], cursor: str) -> tuple[list[Read], str | None]:
        following: list[str | None] = []
        query: Query = self._asked.model_construct(**given)
        query.on_answer(lambda cursor, _total: following.append(cursor))
        rows = await self._verbs.page(caller, query, limit=PAGE, cursor=cursor)
        return rows, following[0]

    def _writer(self, form: Format) -> Callable[[Sequence[Read]], bytes]:
        """What writes rows; called with none it begins the file."""
        shown = self._verbs.read.__pydantic_serializer__
        if form == "jsonl":
            return lambda rows: b"".join(shown.to_json(row) + b"\n" for row in rows)
        names = [*self._verbs.read.model_fields]
        writers = [(name, cells.writer(self._verbs.entity.__table__.c[name])) for name in names]

        def write(rows: Sequence[Read]) -> bytes:
            text = io.StringIO()
            table = csv.writer(text)
            if not rows:
                table.writerow(names)
            for row in rows:
                values = shown.to_python(row, mode="json")
                table.writerow([write_cell(values[name]) for name, write_cell in writers])
            return text.getvalue().encode()

        return write
