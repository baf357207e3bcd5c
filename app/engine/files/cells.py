"""A value as the text of a cell, and back: nothing is lost, and no spreadsheet takes a text for a formula."""

import json
import re
from collections.abc import Callable
from typing import Any

from pydantic_core import from_json
from sqlalchemy import JSON, Column, LargeBinary, String

from app.engine.queries import plain

# What spreadsheets calculate (OWASP, "CSV Injection"); full-width signs count there as well. And nothing at all, since
# an empty cell says that there is no text.
FORMULA = re.compile(r"'*(?:[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]|\Z)")
ESCAPED = re.compile(f"'{FORMULA.pattern}")


def escape(text: str) -> str:
    """`text`, with one ' more in front where it could be taken for a formula or for no text."""
    return f"'{text}" if FORMULA.match(text) else text


def unescape(cell: str) -> str:
    """What `escape` made that cell of: so exactly one ' is taken off, and none that was there before."""
    return cell[1:] if ESCAPED.match(cell) else cell


def holds_text(column: Column[Any]) -> bool:
    """Whether its values are written as they are. Bytes too: base64 may begin with a plus."""
    return isinstance(plain(column), String | LargeBinary)


def writer(column: Column[Any]) -> Callable[[Any], str]:
    """What makes a cell of the column's value, which is as JSON has it."""
    return _text if holds_text(column) else _other


def reader(column: Column[Any]) -> Callable[[str], object]:
    """What makes a value of the column's cell, for its model to validate. Raises ValueError for what is no JSON."""
    if isinstance(plain(column), JSON):
        return _document
    return unescape if holds_text(column) else str


def _text(value: str | None) -> str:
    return "" if value is None else escape(value)


def _other(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _document(cell: str) -> object:
    try:
        return from_json(cell, allow_inf_nan=False, cache_strings=False)
    except ValueError:
        raise ValueError("must be JSON") from None
