"""The log: a line for each request and each event, JSON outside development. It holds no secret, and nobody forges one.

What a database or a validator says about a row often repeats it, hashes and all: an exception's message is left out
where that can be, and what is left is escaped.
"""

import asyncio
import logging
import re
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TextIO

from pydantic_core import to_json

Line = Mapping[str, object]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
DELAY, MOST_PENDING = 0.05, 200  # seconds that a request's line may wait, and how many may
# What could end a line, move a terminal's cursor, or be no text.
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def as_json(line: Line) -> str:
    return to_json(line, fallback=str).decode()


def as_text(line: Line) -> str:
    """For people: the time, what happened, to whom. A traceback follows, each line of it indented."""
    time_of_day, level, message = str(line["time"])[11:19], str(line["level"]), str(line["message"])
    notes = [f"{name}={line[name]}" for name in ("ms", "user", "request") if name in line]
    told = " ".join([time_of_day, level.upper().ljust(7), message, *notes])
    return "\n    ".join([told, *str(line.get("exception", "")).splitlines()])


shape: Callable[[Line], str] = as_text  # of every line, until configure() says otherwise


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
        # An access line would hold the query string, and what does not belong into a log. note_request stands for it.
        logger.propagate = name != "uvicorn.access"
    for name in ("app", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)


pending: deque[tuple[float, str, bytes, int, float, str, str | None, int | None, str | None]] = deque()


def note_request(scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
    """Log that a request, of that ASGI scope, was answered: without its query string and its headers.

    Not at once: in a row the lines cost a third of what each costs by itself.
    """
    if not pending:
        asyncio.get_running_loop().call_later(DELAY, flush)
    client, path = scope.get("client"), scope.get("raw_path", b"")
    # Not the scope itself: hundreds of them alive would cost more than the lines.
    told = time.time(), scope["method"], path, status, seconds, scope["request_id"]
    pending.append((*told, scope.get("route_path"), scope.get("user_id"), client and client[0]))
    if len(pending) > MOST_PENDING:
        flush()


def flush() -> None:
    """Write what was noted and is not written yet, from whichever thread. Never raises."""
    lines = []
    for now, method, path, status, seconds, request, route, user, client in _taken():
        message = safe(f"{method} {path[:200].decode('latin-1')} {status}")
        line = {"time": at(now), "level": "info", "message": message, "method": method, "status": status}
        line |= {"ms": round(seconds * 1000, 2), "request": request}
        address = client and safe(client[:64])  # from X-Forwarded-For perhaps
        line |= {name: value for name, value in (("route", route), ("user", user), ("client", address)) if value}
        lines.append(shape(line))
    with suppress(OSError, ValueError):  # nobody reads it any more
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def _taken() -> Iterator[tuple[Any, ...]]:
    """Each once, though another thread may be taking too."""
    with suppress(IndexError):
        while True:
            yield pending.popleft()


class Formatter(logging.Formatter):
    """An event in the shape that configure() chose."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        line = {
            "time": at(record.created),
            "level": record.levelname.lower(),
            # asyncio adds the exception's own words.
            "message": safe(message.partition("\n")[0] if record.name == "asyncio" else message),
            "logger": record.name,
        }
        if request := request_id.get():
            line["request"] = request
        if record.exc_info and record.exc_info[1]:
            line["exception"] = describe(record.exc_info[1])
        return shape(line)


class Output(logging.StreamHandler[TextIO]):
    """Standard output, whichever that is now: pytest puts another one in its place for each test."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """In the order of what happened."""
        flush()
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # as logging calls it
        """Nobody reads it any more, which is no reason to stop, nor to tell each time."""

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # an attribute in logging
        return sys.stdout


HANDLER = Output()


def at(seconds: float) -> str:
    """A time since 1970 as RFC 3339 has it, in UTC."""
    return f"{_second(int(seconds))}.{int(seconds % 1 * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def safe(text: str) -> str:
    """`text` in one line, with nothing in it that a terminal would obey."""
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


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
    return safe(f"{kind}: {str(error)[:1000]}")


def describe(error: BaseException) -> str:
    """The traceback of `error`, after those of what led to it."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    earlier = f"{describe(before)}\nwhich led to\n" if before else ""
    within = "".join(f"\nand within it\n{describe(part)}" for part in getattr(error, "exceptions", ()))
    return f"{earlier}{''.join(traceback.format_tb(error.__traceback__))}{tell(error)}{within}"
