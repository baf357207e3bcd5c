"""Rows that are there already are changed where they differ; the others are new."""

from collections.abc import Sequence
from typing import Any, Generic

from sqlmodel import SQLModel

from app.engine.bulk import Bulk
from app.engine.caller import Caller
from app.engine.files.faults import Fault
from app.engine.files.layout import Valid
from app.engine.files.report import Tally
from app.engine.halving import Outcome
from app.engine.verbs import Read, Verbs
from app.errors import phrase

NOTHING = object()
Change = tuple[Valid, int, SQLModel]  # a row of the file, which row it changes, and how


class Upsert(Generic[Read]):
    """Into the table of `verbs`. What a client may change is an `update`."""

    def __init__(self, verbs: Verbs[Read], update: type[SQLModel]) -> None:
        self._verbs, self._update, self._bulk = verbs, update, Bulk(verbs)

    async def write(self, tx: Caller, rows: list[Valid], on: str | None) -> Tally:
        """Write those that are not refused, within the transaction `tx`. No two of them have the same value of `on`."""
        tally, new, changes = Tally(), list[Valid](), list[Change]()
        there = await self._there(tx, rows, on) if on else {}
        for row in rows:
            before = there.get(row.key(on)) if on else None
            if before is not None:
                self._compare(row, before, changes, tally)
            elif on == "id" and row.key(on) is not None:
                tally.fail(Fault(row.line, on, "You see no row with that id.", "missing"))
            else:
                new.append(row)
        told = await self._bulk.update_good(tx, [(row_id, change, None) for _, row_id, change in changes])
        tally.changed += _refused(told, [row for row, *_ in changes], tally)
        more = [{name: value for name, value in row.own.items() if name != "id"} for row in new]
        made = await self._bulk.create_good(tx, [row.data for row in new], more=more)
        tally.created += _refused(made, new, tally)
        return tally

    async def _there(self, tx: Caller, rows: list[Valid], on: str) -> dict[Any, Read]:
        """Those that are there and visible, by what they are recognised by."""
        keys = [key for row in rows if (key := row.key(on)) is not None]
        asked: dict[str, Any] = {f"{on}__in": keys}
        found = await self._verbs.page(tx, limit=len(keys), **asked) if keys else []
        return {getattr(row, on): row for row in found}

    def _compare(self, row: Valid, before: Read, changes: list[Change], tally: Tally) -> None:
        sent = {name: getattr(row.data, name) for name in row.data.model_fields_set}
        differing = {name: value for name, value in sent.items() if getattr(before, name, NOTHING) != value}
        given_away = [name for name, value in row.own.items() if getattr(before, name) != value]
        if given_away:
            tally.fail(Fault(row.line, given_away[0], "It belongs to somebody else.", "conflict"))
        elif differing:
            change = self._update.model_construct(_fields_set={*differing}, **differing)
            changes.append((row, before.id, change))  # type: ignore[attr-defined]  # every Read has one
        else:
            tally.unchanged += 1


def _refused(outcome: Outcome[Read], rows: Sequence[Valid], tally: Tally) -> int:
    """How many were not; `tally` is told of the others."""
    for error in outcome.errors:
        kind = phrase(error.refusal.status).lower().replace(" ", "_")
        tally.fail(Fault(rows[error.position].line, error.field, error.refusal.detail, kind))
    return len(rows) - len(outcome.errors)
