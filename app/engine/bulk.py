"""Many rows at once, by the rules of the single verbs: in a few statements, and all of them or none."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from typing import Any

from sqlmodel import SQLModel

from app.engine.bulk_expressions import BulkExpressions
from app.engine.caller import Caller
from app.engine.expressions import Expressions
from app.engine.halving import MOST_ERRORS, Halving, Outcome, Rejected, RowError, Sent
from app.engine.sent import packer
from app.engine.statement import Begun, Row, Statement
from app.engine.statements import Read, Statements
from app.engine.verbs import Verbs
from app.engine.violations import Dangling
from app.engine.waiting import retried
from app.errors import Clash, Invalid, Missing, Refusal
from app.models import base
from app.models.base import utcnow

NEVER_SENT = base.Row.model_fields.keys()  # what the database adds to every row is not for clients to change

Change = tuple[int, SQLModel, int | None]  # a row's id, what to change, and the version that it must have if not None
More = Sequence[Mapping[str, object]]


class Bulk(Statements[Read]):
    """create, update and delete as `verbs` do, for many rows, and each its own transaction or part of the given one.

    All or nothing: if a row is refused, Rejected tells which ones, at most MOST_ERRORS, and why.
    `create_good` and `update_good` keep the others; they are for an open transaction.

    Rules over rows are asked after each CHUNK of rows: within it, two rows may change places.
    """

    def __init__(self, verbs: Verbs[Read]) -> None:
        of = verbs.entity, verbs.read, verbs.standing
        super().__init__(Expressions(*of), verbs.read)
        self._said = lru_cache(2)(lambda dialect: BulkExpressions(*of, dialect))
        self._packer = lru_cache(2)(lambda dialect: packer(self._table, dialect))

    @retried
    async def create(self, caller: Caller, rows: Sequence[SQLModel], *, more: More | None = None) -> list[Read]:
        """The new rows, in the order of `rows`. `more` is for each of them what clients cannot set."""
        async with caller.db.transaction() as db:
            return (await self._create(db, caller, rows, more, MOST_ERRORS)).whole()

    async def create_good(self, tx: Caller, rows: Sequence[SQLModel], *, more: More | None = None) -> Outcome[Read]:
        """Those that are not refused."""
        async with tx.db.transaction() as db:
            return await self._create(db, tx, rows, more, None)

    @retried
    async def update(self, caller: Caller, changes: Sequence[Change]) -> list[Read]:
        """The rows after the changes, in their order."""
        async with caller.db.transaction() as db:
            return (await self._update(db, caller, changes, MOST_ERRORS)).whole()

    async def update_good(self, tx: Caller, changes: Sequence[Change]) -> Outcome[Read]:
        """Those that are not refused."""
        async with tx.db.transaction() as db:
            return await self._update(db, tx, changes, None)

    @retried
    async def delete(self, caller: Caller, ids: Sequence[tuple[int, int | None]]) -> None:
        """Gone. Each row by its id, and the version that it must have if that is not None."""
        async with caller.db.transaction() as db:
            tx = await self._begin(db, caller)
            found, errors = await self._find(tx, ids, deletes=True)
            halving: Halving[None] = Halving(db, partial(self._delete, tx), most=MOST_ERRORS)
            await halving.run(Sent(position, {"row_id": _id_of(row)}) for position, row in found.items())
            _outcome(len(ids), {}, errors + halving.errors).whole()

    async def _create(
        self, db: Begun, caller: Caller, rows: Sequence[SQLModel], more: More | None, most: int | None
    ) -> Outcome[Read]:
        tx, now = await self._begin(db, caller), utcnow()
        given = [*zip(rows, more or [{}] * len(rows), strict=True)]
        names = self._names(caller, given)

        def sent(position: int, data: SQLModel, extra: Mapping[str, object]) -> Sent:
            row = self._new_row(caller, data, extra, now)
            return Sent(position, {f"new_{name}": row[name] for name in names if name in row})

        halving = Halving(db, partial(self._write, tx, "create_all", names), most=most)
        await halving.run(sent(position, *each) for position, each in enumerate(given))
        return _outcome(len(rows), halving.written, halving.errors)

    def _names(self, caller: Caller, given: Sequence[tuple[SQLModel, Mapping[str, object]]]) -> tuple[str, ...]:
        """Of the columns that new rows come with: rows of one class have the same fields, but each its own extras."""
        one_of_each = {type(data): (data, extra) for data, extra in given}.values()
        fields = {name for data, extra in one_of_each for name in self._new_row(caller, data, extra, utcnow())}
        return self._columns(fields | {name for _, extra in given for name in extra})

    async def _update(self, db: Begun, caller: Caller, changes: Sequence[Change], most: int | None) -> Outcome[Read]:
        tx, now = await self._begin(db, caller), utcnow()
        found, errors = await self._find(tx, [(row_id, version) for row_id, _, version in changes], deletes=False)
        asked = {position: changes[position][1] for position in found}
        names = self._columns({name for change in asked.values() for name in change.model_fields_set} - NEVER_SENT)
        sent = (_sent(position, changes[position][0], change, names, now) for position, change in asked.items())
        halving = Halving(db, partial(self._write, tx, "update_all", (*names, "updated_at")), most=most)
        await halving.run(row for row in sent if row)
        return _outcome(len(changes), found | halving.written, errors + halving.errors)

    async def _find(
        self, caller: Caller, wanted: Sequence[tuple[int, int | None]], *, deletes: bool
    ) -> tuple[dict[int, Read], list[RowError]]:
        """The rows, by their positions, held until the transaction ends; and why some are not among them."""
        first = {row_id: position for position, (row_id, _) in reversed([*enumerate(wanted)])}
        sent = [Sent(position, {"row_id": row_id}) for row_id, position in first.items()]
        rows = self._hydrator(caller.db.dialect)(await self._ask(caller, "find_all", (deletes,), sent))
        by_id, found, errors = {_id_of(row): row for row in rows}, dict[int, Read](), list[RowError]()
        for position, (row_id, version) in enumerate(wanted):
            try:
                if position != first[row_id]:
                    raise Invalid("That row comes twice.")
                if row_id not in by_id:
                    raise Missing
                found[position] = self._unless_stale(by_id[row_id], version)
            except Refusal as refusal:
                errors.append(RowError(position, refusal))
        return found, errors

    async def _delete(self, caller: Caller, part: Sequence[Sent]) -> list[None]:
        try:
            rows = await self._ask(caller, "delete_all", (), part)
        except Dangling:
            raise self._in_use() from None
        # Some may have gone already, with those that they belonged to.
        if len(rows) < len(part) and await self._ask(caller.as_application(), "remain_all", (), part):
            raise Missing
        return [None] * len(part)

    def _columns(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those that are columns, in a fixed order."""
        return tuple(sorted(name for name in names if name in self._table.c))

    async def _begin(self, db: Begun, caller: Caller) -> Caller:
        if self._conflicts:
            await self._conflicts.hold_off_others(db)
        return replace(caller, db=db)

    async def _write(self, caller: Caller, verb: str, names: tuple[str, ...], part: Sequence[Sent]) -> list[Read]:
        rows = await self._ask(caller, verb, names, part)
        if len(rows) < len(part):
            await self._check_references(caller, names, part)
            raise Missing
        found = {_id_of(row): row for row in self._hydrator(caller.db.dialect)(rows)}
        # What is new got its ids in the order of positions.
        ids = sorted(found) if verb == "create_all" else [row.values["row_id"] for row in part]
        await self._check_conflicts(caller, ids)
        return [found[row_id] for row_id in ids]

    async def _ask(self, caller: Caller, verb: str, shape: tuple[Any, ...], part: Sequence[Sent]) -> list[Row]:
        """What the statement answers about those rows."""
        dialect = caller.db.dialect
        packed = self._packer(dialect)({"position": row.position, **row.values} for row in part)
        return await self.run(caller, verb, (dialect.name, *shape), {"rows": packed})

    async def _check_references(self, caller: Caller, names: tuple[str, ...], part: Sequence[Sent]) -> None:
        """Raise Rejected for the rows that refer to what is not there for the caller."""
        references = tuple(name for name in names if name in self._say.references)
        rows = await self._ask(caller, "refer_all", references, part) if references else []
        blamed = [
            RowError(position, self._unseen(name), name)
            for position, *seen in rows
            for name in [name for name, is_seen in zip(references, seen, strict=True) if not is_seen][:1]
        ]
        if blamed:
            raise Rejected(sorted(blamed, key=lambda error: error.position))

    async def _check_conflicts(self, caller: Caller, ids: Sequence[int]) -> None:
        """Raise Clash if one of the rows that were just written stands against another."""
        for number, rule in enumerate(self.entity.__conflicts__):
            written = [Sent(position, {"row_id": row_id}) for position, row_id in enumerate(ids)]
            if await self._ask(caller.as_application(), "clash_all", (number,), written):
                raise Clash(rule.sentence)

    def _compile(self, verb: str, role: str, shape: tuple[Any, ...]) -> Statement:
        dialect, *rest = shape
        return Statement(getattr(self._said(dialect), verb)(role, *rest), unbounded=True)


def _id_of(row: Any) -> int:  # noqa: ANN401  # every Read has one, but not its type
    return int(row.id)


def _sent(position: int, row_id: int, changes: SQLModel, names: Sequence[str], now: datetime) -> Sent | None:
    """What is sent of a change; None if it changes nothing."""
    values = {name: getattr(changes, name) for name in names if name in changes.model_fields_set}
    if not values:
        return None
    values["updated_at"] = now
    told = {f"new_{name}": value for name, value in values.items()} | {f"has_{name}": True for name in values}
    return Sent(position, {"row_id": row_id, **told})


def _outcome(count: int, rows: Mapping[int, Read], errors: list[RowError]) -> Outcome[Read]:
    refused = {error.position for error in errors}
    kept = [None if position in refused else rows.get(position) for position in range(count)]
    return Outcome(kept, sorted(errors, key=lambda error: error.position))
