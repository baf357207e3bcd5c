"""Many rows, of which some are refused: who is told by halves, down to the single row, whose refusal is its own."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from app.engine.statement import Begun
from app.errors import Clash, Invalid, Missing, Refusal, phrase, problem

MOST_ERRORS = 100  # that are told
CHUNK = 1000  # rows in one statement: more would hold up the loop while they are made and packed

Read = TypeVar("Read")


class RowError(NamedTuple):
    """Why the row at that position is refused; `field` if it is because of a single one."""

    position: int
    refusal: Refusal
    field: str | None = None


class Rejected(Refusal):
    """Rows are refused, each for a reason of its own. Answered with the status of the first."""

    def __init__(self, errors: list[RowError]) -> None:
        super().__init__(errors[0].refusal.detail)
        self.errors, self.status = errors, errors[0].refusal.status

    def content(self) -> dict[str, object]:
        return problem(self.status, [_told(error) for error in self.errors])


class Outcome(NamedTuple, Generic[Read]):
    """What became of each row: None where it is refused. `errors` in the order of the rows."""

    rows: list[Read | None]
    errors: list[RowError]

    def whole(self) -> list[Read]:
        """All the rows. Raises Rejected if one is refused."""
        if self.errors:
            raise Rejected(self.errors[:MOST_ERRORS])
        return [row for row in self.rows if row is not None]


class Sent(NamedTuple):
    """A row at its position, and what is sent of it."""

    position: int
    values: dict[str, Any]


class Halving(Generic[Read]):
    """`write` is given rows, and answers with as many; it raises, and then nothing of what it did is kept.

    Rejected if it knows which are to blame, Clash, Invalid or Missing if it does not; anything else is the end of all.
    After `most` errors nothing more is tried.
    """

    def __init__(
        self, db: Begun, write: Callable[[Sequence[Sent]], Awaitable[list[Read]]], *, most: int | None = None
    ) -> None:
        self._db, self._write, self._most = db, write, most
        self.written: dict[int, Read] = {}
        self.errors: list[RowError] = []

    async def run(self, rows: Iterable[Sent]) -> None:
        remaining = iter(rows)
        while part := [*islice(remaining, CHUNK)]:
            await self._try(part)

    async def _try(self, rows: Sequence[Sent]) -> None:
        if not rows or (self._most is not None and len(self.errors) >= self._most):
            return
        try:
            async with self._db.savepoint():
                written = await self._write(rows)
        except Rejected as rejected:
            self.errors += rejected.errors
            blamed = {error.position for error in rejected.errors}
            await self._try([row for row in rows if row.position not in blamed])
        except (Clash, Invalid, Missing) as refusal:
            if len(rows) == 1:
                self.errors.append(RowError(rows[0].position, refusal, refusal.field))
                return
            # The first half first: what comes later may clash with it.
            await self._try(rows[: len(rows) // 2])
            await self._try(rows[len(rows) // 2 :])
        else:
            self.written.update(zip((row.position for row in rows), written, strict=True))


def _told(error: RowError) -> dict[str, object]:
    """As FieldError describes it."""
    where = ["body", error.position, *([error.field] if error.field else [])]
    kind = phrase(error.refusal.status).lower().replace(" ", "_")
    return {"loc": where, "msg": error.refusal.detail, "type": kind}
