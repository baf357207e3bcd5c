"""What is wrong with a file, and where: in which line, and in which column."""

from collections.abc import Iterable
from typing import NamedTuple

from app.errors import Refusal, problem

MOST = 100  # that are told


class Fault(NamedTuple):
    """In `line`, counted from 1, or in the file as a whole; in `column`, or in the line as a whole."""

    line: int | None
    column: str | None
    message: str
    kind: str = "file_invalid"

    @property
    def loc(self) -> list[str | int]:
        """Where, as every refusal says it."""
        line: list[str | int] = ["file"] if self.line is None else ["line", self.line]
        return line if self.column is None else [*line, self.column]

    @property
    def told(self) -> str:
        """To a person: `line 3, title: must not be blank`."""
        line = "the file" if self.line is None else f"line {self.line}"
        return f"{line}{f', {self.column}' if self.column else ''}: {self.message}"


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """From the first line to the last."""
    return sorted(faults, key=lambda fault: fault.line or 0)


class BadFile(Refusal):
    """Nothing of the file was kept. Tells the first MOST `faults`."""

    status, otherwise = 422, "The file cannot be read."

    def __init__(self, *faults: Fault) -> None:
        self.faults = in_order(faults)[:MOST]
        super().__init__("\n".join(each.told for each in self.faults))

    def content(self) -> dict[str, object]:
        return problem(self.status, [{"loc": each.loc, "msg": each.message, "type": each.kind} for each in self.faults])
