"""Which columns a file of an entity may have, for whom; and a row of it as what a client may send."""

from collections.abc import Collection
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError
from sqlmodel import SQLModel

from app.engine.files import cells
from app.engine.files.faults import BadFile, Fault
from app.engine.files.reading import ABSENT, Cell, Record
from app.models.base import Entity, Ref

Create = TypeVar("Create", bound=SQLModel)


class Valid(NamedTuple):
    """A row as it may be written."""

    line: int
    data: SQLModel
    own: dict[str, Any]  # its id and whose it is, where the file may say so

    def key(self, on: str) -> object:
        """What it is recognised by."""
        return self.own.get(on) if on == "id" else getattr(self.data, on)


class Layout(Generic[Create]):
    """What `create` takes is read, and what is only ever shown, `read`, is ignored. `own` columns are read besides."""

    def __init__(
        self, entity: type[Entity], read: type[SQLModel], create: type[Create], own: Collection[str] = ()
    ) -> None:
        self._create = TypeAdapter(create)
        fields = create.model_fields
        self._own = {name: TypeAdapter[Any](Ref | None if name == "id" else Ref) for name in own if name not in fields}
        self.ignored = {*read.model_fields} - {*fields} - {*self._own}
        self.required = [name for name, field in fields.items() if field.is_required()]
        columns = entity.__table__.c
        self.cells: dict[str, Cell] = dict.fromkeys(self.ignored, _ignore)
        for name, field in fields.items():
            may_be_text = name not in columns or cells.holds_text(columns[name])
            is_nullable = name in columns and columns[name].nullable
            has_default = not field.is_required()
            empty = None if is_nullable else "" if may_be_text and not has_default else ABSENT
            read_cell = cells.reader(columns[name]) if name in columns else cells.unescape
            self.cells[name] = _unless_empty(read_cell, empty)
        self.cells |= {name: _unless_empty(str, None if name == "id" else ABSENT) for name in self._own}

    def check(self, header: list[str], needed: Collection[str] = ()) -> None:
        """Raise BadFile for columns that there are not, or twice, and for those that must be there and are not."""
        faults = [
            Fault(None, name, "There is no such column.", "extra_forbidden")
            for name in header
            if name not in self.cells
        ]
        faults += [Fault(None, name, "It is there twice.", "twice") for name in {*header} if header.count(name) > 1]
        missing = [name for name in (*self.required, *needed) if name not in header]
        faults += [Fault(None, name, "That column must be there.", "missing") for name in missing]
        if faults:
            raise BadFile(*faults)

    def validate(self, record: Record) -> Valid | list[Fault]:
        """The row, or all that is wrong with it."""
        values = {name: value for name, value in record.values.items() if name not in self.ignored}
        faults, own = list[Fault](), dict[str, Any]()
        for name, adapter in self._own.items():
            if name in values:
                try:
                    own[name] = adapter.validate_python(values.pop(name))
                except ValidationError as error:
                    faults += _faults(record.line, error, name)
        try:
            data = self._create.validate_python(values)
        except ValidationError as error:
            faults += _faults(record.line, error)
        return faults or Valid(record.line, data, own)


def _faults(line: int, error: ValidationError, column: str | None = None) -> list[Fault]:
    """Clients choose the names of unknown columns, and their length."""
    return [
        Fault(line, column or (str(wrong["loc"][0])[:200] if wrong["loc"] else None), wrong["msg"], wrong["type"])
        for wrong in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _ignore(_cell: str) -> object:
    return ABSENT


def _unless_empty(read: Cell, empty: object) -> Cell:
    return lambda cell: read(cell) if cell else empty
