"""The rows of a file, one after the other, each with the number of its line; and what is wrong with a line."""

import csv
import io
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

from pydantic_core import from_json

from app.engine.files.detection import encoding_of, separator_of
from app.engine.files.faults import BadFile, Fault

LONGEST = 2**20  # letters of a row
MOST_LINES = 2**16  # of a row, each of which takes a moment
MOST_COLUMNS = 1000  # or keys of a JSON object: each that is unknown costs an error
ABSENT = object()

csv.field_size_limit(LONGEST)  # Python's own is an eighth of it; both are for the whole process

Cell = Callable[[str], object]  # what makes a value of a cell, or ABSENT; raises ValueError


class Record(NamedTuple):
    """A row as it stands in the file."""

    line: int
    values: dict[str, Any]


class Source:
    """A file, which can be read again and again. Raises BadFile if it cannot be read at all."""

    def __init__(
        self, file: BinaryIO, cells: Mapping[str, Cell], *, is_csv: bool, encoding: str = "", separator: str = ""
    ) -> None:
        """`cells` are the columns that are known, and how to read each."""
        self._file, self._cells, self._is_csv = file, cells, is_csv
        self.encoding = encoding_of(file, encoding)
        self.separator, self.header = "", list[str]()
        if is_csv:
            with self._opened() as text:
                self.separator = separator or separator_of(text, cells, LONGEST)
            self.header = self._read_header()

    @property
    def position(self) -> int:
        """How many bytes of it are read, for now."""
        return self._file.tell()

    def rows(self) -> Generator[Record | Fault | None, None, None]:
        """Every row, or what is wrong with it. After a fault that nothing can be read behind there is no more.

        None for a line without anything: there may be millions of them, and others shall get their turn meanwhile.
        """
        with self._opened() as text:
            yield from self._records(text) if self._is_csv else _objects(text)

    @contextmanager
    def _opened(self) -> Iterator[io.TextIOWrapper]:
        self._file.seek(0)
        # newline="" keeps line breaks within cells as they are.
        text = io.TextIOWrapper(self._file, self.encoding, newline="" if self._is_csv else "\n")
        try:
            yield text
        finally:
            text.detach()  # else the file would be closed along with it

    def _read_header(self) -> list[str]:
        with self._opened() as text:
            for row in _rows(text, self.separator):
                if row is None:
                    continue
                if isinstance(row, Fault):
                    raise BadFile(row)
                if len(row[1]) > MOST_COLUMNS:
                    raise BadFile(Fault(row[0], None, f"More than {MOST_COLUMNS} columns are too many.", "too_many"))
                return [name.strip().removeprefix("\ufeff") for name in row[1]]
        raise BadFile(Fault(None, None, "It is empty. Its first line must name the columns.", "no_header"))

    def _records(self, text: io.TextIOWrapper) -> Iterator[Record | Fault | None]:
        is_header = True
        for row in _rows(text, self.separator):
            if row is None or isinstance(row, Fault):
                yield row
            elif is_header:
                is_header = False
            elif len(row[1]) != len(self.header):
                said = f"It has {len(row[1])} cells, and the first line has {len(self.header)}."
                yield Fault(row[0], None, said, "ragged")
            else:
                yield self._record(*row)

    def _record(self, line: int, cells: list[str]) -> Record | Fault:
        values = {}
        for name, cell in zip(self.header, cells, strict=True):
            try:
                value = self._cells[name](cell)
            except ValueError as error:
                return Fault(line, name, str(error), "value_error")
            if value is not ABSENT:
                values[name] = value
        return Record(line, values)


class TooLong(Exception):
    """A row without an end."""


class Lines:
    """The lines of a text. Raises TooLong for a row of more than LONGEST letters or MOST_LINES lines."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self.row = 1  # the line that the row begins in
        self._read, self._size = 0, 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline(LONGEST + 1)
        if not line:
            raise StopIteration
        self._read += 1
        self._size += len(line)
        if self._size > LONGEST or self._read - self.row >= MOST_LINES:
            raise TooLong
        return line

    def next_row(self) -> None:
        self.row, self._size = self._read + 1, 0

    def too_long(self) -> Fault:
        said = f"It has more than {LONGEST} letters, or {MOST_LINES} lines; the rest is not read."
        return Fault(self.row, None, said, "too_long")


def _rows(text: io.TextIOWrapper, separator: str) -> Iterator[tuple[int, list[str]] | Fault | None]:
    """The cells of each row, and the number of its line; None if it is empty."""
    lines = Lines(text)
    reader = csv.reader(lines, delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield (lines.row, cells) if cells else None
            lines.next_row()
    except csv.Error as error:
        is_open = "unexpected end" in str(error)
        said = "A quotation mark is opened here and never closed" if is_open else "A quotation mark is out of place"
        yield Fault(lines.row, None, f"{said}; the rest is not read.", "csv_invalid")
    except TooLong:
        yield lines.too_long()


def _objects(text: io.TextIOWrapper) -> Iterator[Record | Fault | None]:
    lines = Lines(text)
    try:
        for line in lines:
            yield _object(lines.row, line) if line.strip() else None
            lines.next_row()
    except TooLong:
        yield lines.too_long()


def _object(number: int, line: str) -> Record | Fault:
    try:
        values = from_json(line, allow_inf_nan=False, cache_strings=False)
    except ValueError:
        return Fault(number, None, "That is no JSON, or too deep.", "json_invalid")
    if not isinstance(values, dict):
        return Fault(number, None, "That is no JSON object.", "json_invalid")
    if len(values) > MOST_COLUMNS:
        return Fault(number, None, f"More than {MOST_COLUMNS} keys are too many.", "too_many")
    return Record(number, values)
