"""What is written is read back equal, value and type, through either door and on either database. docs/types.md."""

import json
import math
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.config import Config
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sqlalchemy import NullPool, Numeric, create_engine, inspect, text
from sqlmodel import SQLModel, delete, select

from alembic import command
from app.engine import dispatch, migrations
from app.engine.sessions import create_session_engine, open_session
from app.main import create_app
from app.models.base import clean
from app.models.types import DAY, FIRST, LAST
from app.settings import ROOT, Settings
from tests.conftest import POSTGRES, Person
from tests.samples import Kind, Sample, SampleCreate, SampleRead, SampleUpdate, router, samples
from tests.scratch import World, awaited, empty_database, tables, world_at

FIELDS = [name for name in SampleCreate.model_fields if not name.startswith("maybe_")]
# A character of every plane that has any; and marks, directions and joiners, which stand for nothing by themselves.
PLANES = [chr(plane * 0x10000 + 0x1234) for plane in range(17)] + [chr(plane * 0x10000 + 0xFFFF) for plane in range(17)]
ODD = [
    "e\u0301",
    "\u05e9\u05dc\u05d5\u05dd",
    "\u202eabc\u202c",
    "\U0001f469\U0001f3fd\u200d\U0001f692",
    "\ufeff",
    "\t\r\n",
]

words = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from([*PLANES, "\t", "\n", "\r"]), max_size=99
)
zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))) | st.timezones()
# JSONB knows no minus zero, and writes a float of 1e16 and more as the whole number that it is.
json_numbers = st.integers(-(2**80), 2**80) | st.floats(-1e15, 1e15).map(lambda number: number + 0.0)
json_values = st.recursive(
    st.none() | st.booleans() | json_numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "yes": st.booleans(),
    "at": st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=zones),
    "day": st.dates(),
    "price": st.decimals(Decimal("-9999999999999.99"), Decimal("9999999999999.99"), places=2),
    "key": st.uuids(),
    "kind": st.sampled_from(Kind),
    "json_": st.lists(json_values, max_size=4) | st.dictionaries(words, json_values, max_size=4),
    "data": st.binary(max_size=99),
    "number": st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 0]),
    "ratio": st.floats(allow_nan=False, allow_infinity=False),
    "words": words,
}
everything = st.builds(
    SampleCreate, **VALUES, **{f"maybe_{name}": st.none() | strategy for name, strategy in VALUES.items()}
)
often = hypothesis(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

LOWEST: dict[str, Any] = {
    "yes": False,
    "at": FIRST + DAY,
    "day": date.min,
    "price": Decimal("-9999999999999.99"),
    "key": UUID(int=0),
    "kind": Kind.OPEN,
    "json_": {},
    "data": b"",
    "number": -(2**63),
    "ratio": -sys.float_info.max,
    "words": "",
}
HIGHEST: dict[str, Any] = {
    "yes": True,
    "at": LAST - DAY,
    "day": date.max,
    "price": Decimal("9999999999999.99"),
    "key": UUID(int=2**128 - 1),
    "kind": Kind.CLOSED,
    "json_": [{"": [None, True, 0, 2**80, 0.1, "\U0001f512"]}, [[]], *PLANES],
    "data": bytes(range(256)),
    "number": 2**63 - 1,
    "ratio": sys.float_info.min,
    "words": "".join(PLANES + ODD),
}
SMALL = SampleCreate(**LOWEST)
LARGE = SampleCreate(**HIGHEST, **{f"maybe_{name}": value for name, value in HIGHEST.items()})


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with tables(database_url, [Sample.__table__]), world_at(database_url) as world:
        yield world


@pytest.fixture
def session_of(database_url: str) -> Iterator[Callable[..., Any]]:
    """`session_of()`: a Session as SessionDep opens it."""
    engine = create_session_engine(database_url)
    yield lambda: open_session(engine, writes=True)
    engine.dispose()


@pytest.fixture
def client(database_url: str, settings: Settings, start: Callable[..., TestClient]) -> Iterator[TestClient]:
    app = create_app(settings)
    app.include_router(router)
    dispatch.install(app)
    with tables(database_url, [Sample.__table__]):
        yield start(app)


def shown(value: object) -> tuple[type, object]:
    """The value so that what is equal and yet another (True and 1, 1 and 1.0, a zone) is not the same."""
    if isinstance(value, datetime):
        return datetime, value.astimezone(UTC).isoformat()
    return type(value), json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def fields_of(sample: Any) -> dict[str, tuple[type, object]]:
    return {name: shown(getattr(sample, name)) for name in SampleCreate.model_fields}


@pytest.mark.parametrize("sample", [SMALL, LARGE], ids=["lowest", "highest"])
def test_the_extremes_are_kept(world: World, session_of: Callable[..., Any], sample: SampleCreate):
    assert_kept(world, session_of, sample)


@often
@given(sample=everything)
def test_whatever_is_written_is_read_back_equal(world: World, session_of: Callable[..., Any], sample: SampleCreate):
    assert_kept(world, session_of, sample)


def assert_kept(world: World, session_of: Callable[..., Any], sample: SampleCreate) -> None:
    """Written by verbs and by a Session, each row is read by both, and found by both, beside one that is another."""
    run, ann = world.runner.run, world.ann
    other = LARGE if sample == SMALL else SMALL
    stranger = run(samples.create(ann, other))
    created = run(samples.create(ann, sample))
    changed = run(samples.update(ann, run(samples.create(ann, other)).id, SampleUpdate(**sample.__dict__)))
    with session_of() as session:
        added = Sample(**sample.__dict__, owner_id=ann.id)
        session.add(added)
        session.commit()
        ids = [created.id, changed.id, added.id]
    rows = [created, changed, *(run(samples.get(ann, row_id)) for row_id in ids)]
    found = {name: ids_of(run(samples.page(ann, **{name: getattr(sample, name)}))) for name in FIELDS}
    with session_of() as session:
        rows += [session.get_one(Sample, row_id) for row_id in ids]
        for row in rows:
            assert fields_of(row) == fields_of(sample)
        for name in FIELDS:
            value = getattr(sample, name)
            same = {stranger.id} if getattr(other, name) == value else set()
            assert found[name] == {*ids, *same}, name
            assert ids_of(session.exec(select(Sample).where(getattr(Sample, name) == value))) == found[name], name
        session.exec(delete(Sample))
        session.commit()


def ids_of(rows: Iterable[Any]) -> set[int]:
    return {row.id for row in rows}
