"""Tables that others made go in and out without a loss: the world's languages, and a tenth of its airports."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import airportsdata
import pycountry
import pytest
from pydantic import FiniteFloat
from sqlmodel import Field, SQLModel

from app.crud import verbs
from app.engine.bulk import Bulk
from app.engine.files.importing import Import
from app.engine.files.report import import_class
from app.engine.files.writing import Export, export_class
from app.engine.verbs import Verbs
from app.models.base import Access, Closed, Entity, Line, Partial, Row, Text
from tests.scratch import World, awaited, tables, world_at


class LanguageBase(SQLModel):
    alpha_3: Line = Field(max_length=3, unique=True)
    name: Line = Field(max_length=100)
    scope: Line = Field(max_length=1)
    type: Line = Field(max_length=1)
    alpha_2: Line | None = Field(default=None, max_length=2)
    inverted_name: Line | None = Field(default=None, max_length=100)
    common_name: Line | None = Field(default=None, max_length=100)
    bibliographic: Line | None = Field(default=None, max_length=3)


class LanguageCreate(Closed, LanguageBase):
    pass


class LanguageUpdate(Partial, LanguageBase):
    pass


class LanguageRead(LanguageBase, Row):
    pass


class Language(Entity, LanguageRead, table=True):
    __tablename__ = "scratch_languages"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


class AirportBase(SQLModel):
    icao: Line = Field(max_length=4, unique=True)
    iata: Text | None = Field(default=None, max_length=3)
    name: Text = Field(max_length=200)
    city: Text | None = Field(default=None, max_length=100)
    subd: Text | None = Field(default=None, max_length=100)
    country: Line = Field(max_length=2)
    elevation: FiniteFloat
    lat: FiniteFloat
    lon: FiniteFloat
    tz: Line = Field(max_length=50)
    lid: Text | None = Field(default=None, max_length=10)


class AirportCreate(Closed, AirportBase):
    pass


class AirportUpdate(Partial, AirportBase):
    pass


class AirportRead(AirportBase, Row):
    pass


class Airport(Entity, AirportRead, table=True):
    __tablename__ = "scratch_airports"
    __table_args__ = ({"sqlite_autoincrement": True},)
    __access__ = Access.SHARED


languages = Import(verbs(Language, LanguageRead), LanguageCreate, LanguageUpdate)
airports = Import(verbs(Airport, AirportRead), AirportCreate, AirportUpdate)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with tables(database_url, [Language.__table__, Airport.__table__]), world_at(database_url) as world:
        yield world


def written(rows: list[dict[str, Any]], names: list[str]) -> bytes:
    """As another program writes it."""
    text = io.StringIO()
    table = csv.DictWriter(text, names, delimiter=";", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-16")


async def exported(world: World, of: Verbs[Any], form: str) -> bytes:
    asked = export_class(of.entity).model_validate({"format": form})
    return b"".join([piece async for piece in await Export(of).begin(world.ann, asked)])


async def assert_comes_back(
    world: World, into: Import[Any], create: type[SQLModel], rows: list[dict[str, Any]]
) -> None:
    """In, out, in again where nothing is left, out, and in once more, where all is there already."""
    of, names, count = into._verbs, [*create.model_fields], len(rows)
    how = import_class(of.entity, create)

    async def report(content: bytes, form: str, on: str | None = None) -> list[int]:
        told = await into.run(world.ann, io.BytesIO(content), how.model_validate({"format": form, "on": on}))
        return [told.created, told.changed, told.unchanged, told.failed]

    assert await report(written(rows, names), "csv") == [count, 0, 0, 0]
    first = {form: await exported(world, of, form) for form in ("csv", "jsonl")}
    shown = [json.loads(line) for line in first["jsonl"].splitlines()]
    assert [{name: "" if row[name] is None else row[name] for name in names} for row in shown] == rows
    for form, content in first.items():
        there = await of.page(world.application, limit=count)
        await Bulk(of).delete(world.application, [(row.id, None) for row in there])
        assert await report(content, form) == [count, 0, 0, 0]
        again = await exported(world, of, "csv")
        assert rows_of(again) == rows_of(first["csv"])
        assert await report(again, "csv", names[0]) == [0, 0, count, 0]


def rows_of(file: bytes) -> list[dict[str, str]]:
    """What is not the database's own."""
    rows = csv.DictReader(io.StringIO(file.decode(), newline=""))
    return [{name: value for name, value in row.items() if name not in Row.model_fields} for row in rows]


@awaited
async def test_every_language_comes_back(world: World):
    rows = [{name: getattr(each, name, "") for name in LanguageBase.model_fields} for each in pycountry.languages]
    assert len(rows) > 7900
    await assert_comes_back(world, languages, LanguageCreate, rows)


@awaited
async def test_airports_come_back(world: World):
    await assert_comes_back(world, airports, AirportCreate, [*map(dict, airportsdata.load().values())][::10])
