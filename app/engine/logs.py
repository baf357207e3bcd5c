"""The log: a line for each request and each event, JSON outside development. It holds no secret, and nobody forges one.

What a database or a validator says about a row often repeats it, hashes and all: an exception's message is left out
where that can be, and what is left is escaped.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

Line = Mapping[str, object]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
# What could end a line, move a terminal's cursor, or be no text.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
encode = json.JSONEncoder(default=str).encode


def as_json(line: Line) -> str:
    return encode({name: value for name, value in line.items() if value is not None})


def as_text(line: Line) -> str:
    """For people: the time, what happened, to whom. A traceback follows, each line of it indented."""
    at, level, message = str(line["time"])[11:19], str(line["level"]), str(line["message"])
    notes = [f"{name}={line[name]}" for name in ("ms", "user", "request") if line.get(name) is not None]
    told = " ".join([at, level.upper().ljust(7), UNSAFE.sub(_escape, message), *notes])
    below = str(line.get("exception") or "").splitlines()
    return "\n    ".join([told, *(UNSAFE.sub(_escape, part) for part in below)])


shape: Callable[[Line], str] = as_text


def configure(*, for_people: bool) -> None:
    """From now on all that this process logs goes to stdout in one shape, what libraries and uvicorn say too."""
    global shape
    shape = as_text if for_people else as_json
    root = logging.getLogger()
    if HANDLER not in root.handlers:
        root.addHandler(HANDLER)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        # An access line would hold the query string, and what does not belong into a log. write_request stands for it.
        logger.propagate = name != "uvicorn.access"
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


def write_request(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    """The line about a request that was answered, from its ASGI scope: no query string, no header. Never raises.

    By hand, in half the time that logging takes.
    """
    path = scope.get("raw_path", b"")[:200].decode("latin-1")
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "info",
        "message": f"{scope['method']} {path} {status}",
        "method": scope["method"],
        "route": scope.get("route_path"),
        "path": path,
        "status": status,
        "ms": round(seconds * 1000, 2),
        "user": scope.get("user_id"),
        "request": scope.get("request_id"),
        "client": (scope.get("client") or (None,))[0],
    }
    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stdout.write(shape(line) + "\n")
        sys.stdout.flush()


class Formatter(logging.Formatter):
    """An event in the shape of the day."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        error = record.exc_info[1] if record.exc_info else None
        return shape(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
                "level": record.levelname.lower(),
                # asyncio adds the exception's own words.
                "message": message.partition("\n")[0] if record.name == "asyncio" else message,
                "logger": record.name,
                "request": request_id.get(),
                "exception": describe(error) if error else None,
            }
        )


class Output(logging.StreamHandler[TextIO]):
    """Standard output, whichever that is now: pytest puts another one in its place for each test."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(Formatter())

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute in logging
        return sys.stdout


HANDLER = Output()


def tell(error: BaseException) -> str:
    """What went wrong, in one line, without the data that it went wrong with."""
    kind, diagnosis = type(error).__name__, getattr(error, "diag", None)
    if isinstance(original := getattr(error, "orig", None), BaseException):  # SQLAlchemy's, around a driver's
        return f"{kind} of {tell(original)}"
    if diagnosis is not None:  # PostgreSQL's details repeat the row, and the messages of class 22 the value
        state = str(diagnosis.sqlstate or "")
        return f"{kind} {state}: {'' if state.startswith('22') else diagnosis.message_primary}"
    if callable(errors := getattr(error, "errors", None)):  # a validator's
        return f"{kind}: {[(wrong.get('loc'), wrong.get('type')) for wrong in errors()][:20]}"
    return UNSAFE.sub(_escape, f"{kind}: {str(error)[:1000]}")


def describe(error: BaseException) -> str:
    """The traceback of `error`, after those of what led to it."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    earlier = f"{describe(before)}\nwhich led to\n" if before else ""
    within = "".join(f"\nand within it\n{describe(part)}" for part in getattr(error, "exceptions", ()))
    return f"{earlier}{''.join(traceback.format_tb(error.__traceback__))}{tell(error)}{within}"


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "backslashreplace").decode("ascii")
