"""What an import was asked, and what became of it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from sqlalchemy import UniqueConstraint
from sqlmodel import SQLModel

from app.engine.files.faults import MOST, Fault, in_order
from app.models.base import Entity

Separator = Literal[",", ";", "|", "tab"]


class Asked(BaseModel):
    """How a file shall be read, and what shall become of its rows."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["csv", "jsonl"] | None = Field(None, description="What it is, if its Content-Type does not say so.")
    mode: Literal["all", "good"] = Field(
        "all",
        description="Keep all rows or none; or those that are `good`, in steps, and tell what is wrong with the rest.",
    )
    dry_run: bool = Field(False, description="Do all of it, tell what came of it, and keep nothing.")
    on: str | None = None
    encoding: str = Field("", max_length=40, description="As Python calls it, if it shall not be found out: `cp1252`.")
    separator: Separator | None = Field(None, description="What stands between cells, if it shall not be found out.")


class LineError(BaseModel):
    """One thing that is wrong with a file."""

    line: int | None = Field(description="Counted from 1.")
    column: str | None = Field(description="Empty if it is the line as a whole.")
    message: str


class Report(BaseModel):
    """What became of a file's rows. In a dry run: what would."""

    created: int = 0
    changed: int = 0
    unchanged: int = Field(0, description="They are there already, and as the file has them.")
    failed: int = 0
    dry_run: bool
    ignored: list[str] = Field(description="Columns that only the database sets.")
    errors: list[LineError] = Field([], description=f"The first {MOST}.")
    encoding: str
    separator: Separator | None = Field(description="Empty for JSON Lines.")


@dataclass
class Tally:
    """Of some rows."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    failed: int = 0
    faults: list[Fault] = field(default_factory=list)

    def fail(self, *faults: Fault) -> None:
        """One row more that failed, and why."""
        self.failed += 1
        self.faults += faults[: MOST - len(self.faults)]

    def add(self, other: "Tally") -> None:
        """Those of `other` as well."""
        self.created += other.created
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.failed += other.failed
        self.faults += other.faults[: MOST - len(self.faults)]

    def told(self) -> dict[str, Any]:
        """As a Report says it."""
        errors = [LineError(line=each.line, column=each.column, message=each.message) for each in in_order(self.faults)]
        numbers = ("created", "changed", "unchanged", "failed")
        return {"errors": errors, **{name: getattr(self, name) for name in numbers}}


def import_class(entity: type[Entity], create: type[SQLModel]) -> type[Asked]:
    """What an import of `entity` can be asked: to recognise rows by its id, or by a column that is unique."""
    told = "Change the rows that are there already, recognised by this; create only the others."
    known = Literal[("id", *_unique(entity, create))]  # type: ignore[valid-type]  # computed
    on: Any = (known | None, Field(None, description=told))
    return create_model(f"{entity.__name__}Import", __base__=Asked, on=on)


def _unique(entity: type[Entity], create: type[SQLModel]) -> list[str]:
    """The columns whose value no two rows share."""
    table = entity.__table__
    keys = [each.columns for each in table.constraints if isinstance(each, UniqueConstraint)]
    keys += [each.columns for each in table.indexes if each.unique and not each.dialect_kwargs]
    alone = {columns.keys()[0] for columns in keys if len(columns) == 1}
    return [name for name in create.model_fields if name in alone]
