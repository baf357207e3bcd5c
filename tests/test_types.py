"""What is written is read back equal, value and type, through either door and on either database. docs/types.md."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sqlalchemy import text
from sqlmodel import delete, select

from app.engine.bulk import Bulk
from app.engine.http import dispatch
from app.engine.sessions import create_session_engine, open_session
from app.main import create_app
from app.models.types import DAY, FIRST, LAST
from app.settings import Settings
from tests.conftest import POSTGRES, Person
from tests.samples import Kind, Sample, SampleCreate, SampleRead, SampleUpdate, router, samples
from tests.scratch import World, awaited, tables, world_at

FIELDS = [name for name in SampleCreate.model_fields if not name.startswith("maybe_")]
# Of every plane a character, and the last, which stands for nothing.
PLANES = [chr(plane * 0x10000 + place) for plane in range(17) for place in (0x1234, 0xFFFF)]
# Marks, joiners, directions: what may be folded or lost by whoever means well.
ODD = "e\u0301 \u05e9\u05dc\u05d5\u05dd \u202eabc\u202c \U0001f469\U0001f3fd\u200d\U0001f692 \ufeff\t\r\n"

words = st.text(
    st.characters(exclude_categories=["Cc", "Cs"]) | st.sampled_from([*PLANES, "\t", "\n", "\r"]), max_size=99
)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
# JSONB knows no minus zero, and writes a float of 1e16 and more as the whole number that it is.
json_numbers = st.integers(-(2**80), 2**80) | st.floats(-1e15, 1e15).map(lambda number: number + 0.0)
json_values = st.recursive(
    st.none() | st.booleans() | json_numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=20,
)
moments = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=offsets)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "yes": st.booleans(),
    "at": moments | st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.timezones()),
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


def any_sample(**changed: st.SearchStrategy[Any]) -> st.SearchStrategy[SampleCreate]:
    required = VALUES | changed
    optional = {f"maybe_{name}": st.none() | strategy for name, strategy in required.items()}
    return st.builds(SampleCreate, **required, **optional)


# The same examples in every run; not shrunk, which would take minutes: the failing one says enough.
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
    "words": "".join(PLANES) + ODD,
}
SMALL = SampleCreate(**LOWEST)
LARGE = SampleCreate(**HIGHEST, **{f"maybe_{name}": value for name, value in HIGHEST.items()})

STORED = "SELECT at, kind, maybe_kind FROM scratch_samples"
if POSTGRES:
    STORED = STORED.replace("at,", "to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'),")


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
@given(sample=any_sample())
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


@pytest.mark.parametrize("many", [[SMALL, LARGE]], ids=["extremes"])
def test_the_extremes_are_kept_when_many_are_written_at_once(
    world: World, session_of: Callable[..., Any], many: list[SampleCreate]
):
    assert_stored_alike(world, session_of, many)


@hypothesis(often, max_examples=20)
@given(many=st.lists(any_sample(), min_size=1, max_size=3))
def test_many_at_once_are_stored_as_one_by_one(world: World, session_of: Callable[..., Any], many: list[SampleCreate]):
    assert_stored_alike(world, session_of, many)


def assert_stored_alike(world: World, session_of: Callable[..., Any], many: list[SampleCreate]) -> None:
    """By what is in the database, value and type, whether it was created or changed, at once or one by one."""
    run, ann, bulk = world.runner.run, world.ann, Bulk(samples)
    one_by_one = [run(samples.create(ann, sample)) for sample in many]
    created = run(bulk.create(ann, many))
    others = run(bulk.create(ann, [LARGE if sample == SMALL else SMALL for sample in many]))
    changes = [(row.id, SampleUpdate(**sample.__dict__), 1) for row, sample in zip(others, many, strict=True)]
    changed = run(bulk.update(ann, changes))
    raw = {}
    with session_of() as session:
        for row in session.execute(text(f"SELECT id, {', '.join(SampleCreate.model_fields)} FROM scratch_samples")):
            raw[row.id] = [(type(value), value) for value in row[1:]]
    for rows in zip(many, one_by_one, created, changed, strict=True):
        assert [fields_of(row) for row in rows] == [fields_of(rows[0])] * 4
        assert [raw[row.id] for row in rows[1:]] == [raw[rows[1].id]] * 3


@awaited
async def test_values_are_in_the_same_order_as_in_python(world: World, session_of: Callable[..., Any]):
    zone = timezone(timedelta(hours=14))
    noon = datetime(2026, 11, 24, 12, tzinfo=UTC)
    columns: dict[str, list[Any]] = {
        # Later on the wall, earlier in truth; and with and without microseconds.
        "at": [noon.astimezone(zone) - timedelta(hours=1), noon, noon + timedelta(microseconds=1), LAST - DAY],
        "day": [date.min, date(2026, 9, 30), date(2026, 11, 1), date.max],
        "price": [Decimal("-10.00"), Decimal("-9.50"), Decimal("9.00"), Decimal("10.00")],
        "number": [-(2**63), -1, 2**53, 2**53 + 1],
        "ratio": [-1e300, -1.5, 0.0, 10.0],
    }
    ids = []
    for place in range(4):
        changed = {name: ordered[place] for name, ordered in columns.items()}
        ids.append((await samples.create(world.ann, SMALL.model_copy(update=changed))).id)
    with session_of() as session:
        for name, ordered in columns.items():
            column = getattr(Sample, name)
            for place, value in enumerate(ordered):
                smaller = session.exec(select(Sample.id).where(column < value).order_by(column)).all()
                larger = session.exec(select(Sample.id).where(column > value).order_by(column)).all()
                assert (name, smaller, larger) == (name, ids[:place], ids[place + 1 :])


@awaited
async def test_objects_with_their_keys_in_another_order_are_equal(world: World):
    created = await samples.create(world.ann, SMALL.model_copy(update={"json_": {"a": {"b": 1, "c": 2}, "d": 3}}))
    assert await samples.page(world.ann, json_={"d": 3, "a": {"c": 2, "b": 1}}) == [created]


@awaited
async def test_an_enum_is_stored_by_its_value_and_an_instant_in_utc(world: World, session_of: Callable[..., Any]):
    at = datetime(2026, 11, 24, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    await samples.create(world.ann, LARGE.model_copy(update={"at": at}))
    with session_of() as session:
        row = session.exec(text(STORED)).one()
    assert tuple(row) == ("2026-11-23 20:00:00.000000", "geschlossen \U0001f512", "geschlossen \U0001f512")


@awaited
async def test_none_is_the_databases_null(world: World, session_of: Callable[..., Any]):
    created = await samples.create(world.ann, SMALL)
    optional = [getattr(Sample, name) for name in SampleCreate.model_fields if name.startswith("maybe_")]
    with session_of() as session:
        rows = session.exec(select(Sample.id).where(*(column.is_(None) for column in optional))).all()
    assert rows == [created.id]


@pytest.mark.parametrize("sample", [SMALL, LARGE], ids=["lowest", "highest"])
def test_the_extremes_pass_through_json(ann: Person, sample: SampleCreate):
    assert_passes(ann, sample)


@often
@given(sample=any_sample(at=moments))  # JSON has no zone with seconds, as the old ones had
def test_whatever_is_sent_as_json_is_answered_equal(ann: Person, sample: SampleCreate):
    assert_passes(ann, sample)


def assert_passes(ann: Person, sample: SampleCreate) -> None:
    """Created, read, changed and listed, each answered in JSON."""
    body = sample.model_dump(mode="json")
    posted = ann.post("/scratch_samples", body)
    assert posted.status_code == 201, posted.text
    other = ann.post("/scratch_samples", SMALL.model_dump(mode="json")).json()
    patched = ann.patch(f"/scratch_samples/{other['id']}", body)
    read = ann.get(f"/scratch_samples/{posted.json()['id']}")
    listed = ann.get("/scratch_samples", params={"limit": 2})
    assert read.json() == posted.json()
    assert listed.json() == [patched.json(), posted.json()]
    for answer in (posted, patched):
        assert fields_of(SampleRead.model_validate_json(answer.content)) == fields_of(sample)


# As it stands in the body, since Python's own JSON would not even write some of it.
BAD = {
    "yes": ["2", '"perhaps"'],
    "at": [
        *('"2026-11-24T12:00:00"', '"10000-01-01T00:00:00Z"', '"2026-11-24T25:00:00Z"', "1e18", '"yesterday"'),
        *('"0001-01-01T00:00:00Z"', '"9999-12-31T00:00:00Z"', '"0001-01-01T00:00:00+23:59"'),
        '"9999-12-31T23:59:59-23:59"',
        *("0", "0.5", '"0"', "true"),
    ],
    "day": ["0", '"0"', "true", '"10000-01-01"', '"0000-01-01"', '"2026-02-30"', "1e18"],
    "price": ["10000000000000.00", "0.001", "NaN", '"NaN"', '"Infinity"', "1e400", '"1e-400"'],
    "key": ['"1234"', "7"],
    "kind": ['"OPEN"', '"open"', '""', "0"],
    "json_": [
        *(r'["\u0000"]', r'{"\u0000": 1}', r'{"a": [{"b": "\ud800"}]}', "[1e999]"),
        *("[NaN]", '{"a": -Infinity}', "7", '"text"', "[" * 300 + "]" * 300, "[" * 60_000 + "]" * 60_000),
    ],
    "data": ['"!!!!"', '"AAA"', '"AA AA"', '"\u00e9\u00e9\u00e9\u00e9"', r'"\ud800"', f'"{"A" * 1336}AAAA"', "[0]"],
    "number": ["9223372036854775808", "-9223372036854775809", "1e19", "0.5", "9" * 5000],
    "ratio": ["1e999", '"NaN"', '"inf"', "NaN", "Infinity", "-Infinity"],
    "words": [r'"\u0000"', r'"\ud800"', '"' + "x" * 1001 + '"'],
}


@pytest.mark.parametrize("field", BAD)
def test_what_a_database_would_not_keep_is_422_and_nothing_has_changed(ann: Person, field: str):
    refused = [(name, bad) for name in (field, f"maybe_{field}") for bad in BAD[field]]
    sound = SMALL.model_dump(mode="json")
    headers = {**(ann.headers or {}), "Content-Type": "application/json"}
    ann.post("/scratch_samples", sound)
    answered = {}
    for name, bad in [*refused, (field, "null")]:
        whole = json.dumps(sound | {name: "HERE"}).replace('"HERE"', bad)
        post = ann.client.post("/api/v1/scratch_samples", content=whole, headers=headers)
        patch = ann.client.patch("/api/v1/scratch_samples/1", content=f'{{"{name}": {bad}}}', headers=headers)
        answered[name, bad[:40]] = post.status_code, patch.status_code
    assert {case: codes for case, codes in answered.items() if codes != (422, 422)} == {}
    assert [sample["version"] for sample in ann.get("/scratch_samples").json()] == [1]
