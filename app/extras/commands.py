"""Files by the command line: as somebody, or as the application itself, which sees all and owns nothing."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import typer

from app import accounts
from app.engine.caller import Caller
from app.engine.files.chunks import Progress
from app.engine.files.faults import Fault
from app.engine.files.importing import Import
from app.engine.files.report import Report, import_class
from app.engine.files.writing import Export, export_class
from app.errors import CannotStart, Missing
from app.extras import registered


async def export_rows(application: Caller, rows: str, username: str | None, to: Path | None, form: str) -> None:
    """All rows that `username` sees into the file `to`, or to standard output. Raises Missing."""
    verbs, _, _ = _known(rows)
    asked = export_class(verbs.entity).model_validate({"format": form})
    pieces = await Export(verbs).begin(await _acting(application, username), asked)
    with _written(to) as file:
        async for piece in pieces:
            file.write(piece)


async def import_rows(
    application: Caller, rows: str, username: str | None, file: BinaryIO, asked: Mapping[str, object]
) -> Report:
    """As the route does. Raises Missing, BadFile, and ValidationError for what cannot be `asked`."""
    verbs, create, update = _known(rows)
    by_name = "jsonl" if Path(file.name).suffix in (".jsonl", ".ndjson") else "csv"
    how = import_class(verbs.entity, create).model_validate({**asked, "format": asked["format"] or by_name})
    caller = await _acting(application, username)
    with _seekable(file) as source, _bar(source, passes=1 if how.dry_run or how.mode == "good" else 2) as progress:
        return await Import(verbs, create, update).run(caller, source, how, progress)


def told(report: Report) -> str:
    """To the person at the terminal."""
    counts = (
        f"{report.created} created, {report.changed} changed, {report.unchanged} unchanged, {report.failed} failed."
    )
    lines = [Fault(each.line, each.column, each.message).told for each in report.errors]
    return "\n".join([f"{'Nothing is kept of this dry run: ' if report.dry_run else ''}{counts}", *lines])


def _known(rows: str) -> tuple[Any, ...]:
    if rows not in registered:
        raise Missing(f"There is no table {rows} here, but: {', '.join(sorted(registered))}.")
    return registered[rows]


async def _acting(application: Caller, username: str | None) -> Caller:
    return replace(application, identity=await accounts.identify(application, username)) if username else application


@contextmanager
def _written(to: Path | None) -> Iterator[BinaryIO]:
    """A file that is there when it is whole; or standard output, for as long as somebody reads it."""
    if to is None:
        try:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        return
    place = to.resolve()  # a link stays one
    # What is there and no file, as a pipe or /dev/null, is written to, and not replaced.
    draft = place if place.exists() and not place.is_file() else place.with_name(f".{place.name}.part")
    try:
        with draft.open("wb") as file:
            yield file
        if draft != place:
            draft.replace(place)
    except OSError as error:
        raise CannotStart(f"{to} cannot be written: {error.strerror}.") from None
    finally:
        if draft != place:
            draft.unlink(missing_ok=True)


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """`file` itself, or all of what comes through a pipe."""
    if file.seekable():
        yield file
        return
    with TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        yield copy


@contextmanager
def _bar(file: BinaryIO, *, passes: int) -> Iterator[Progress]:
    """A progress bar on standard error, for a file that is read so many times."""
    done = 0

    def progress(position: int) -> None:
        nonlocal done
        bar.update(position - done if position >= done else position)  # else it begins once more
        done = position

    with typer.progressbar(length=passes * file.seek(0, os.SEEK_END), file=sys.stderr) as bar:
        yield progress
