"""Whatever a table holds is the same after it went out as a file and came in again."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Field, SQLModel

from app.engine.files.cells import FORMULA, escape, unescape
from app.engine.files.writing import export_class
from app.engine.http import dispatch
from app.main import create_app
from app.models.base import Access, Entity, Line, Row, listed
from app.settings import Settings
from tests.conftest import Person
from tests.samples import Sample, SampleCreate, router
from tests.scratch import tables
from tests.test_types import LARGE, SMALL, any_sample, moments, often

FORMATTED = Field(max_length=9, sa_column_kwargs=listed("filter"))
MEDIA = {"csv": "text/csv", "jsonl": "application/x-ndjson"}
# What a table in CSV is made of, and what breaks it.
PARTS = ["title", "description", "id", ",", ";", "\t", '"', "'", "=", "\n", "\r", "\r\n", "x", "\u00e9", "\ufeff", "\0"]
PARTS += ["{", "}", "[", ":", "null", "1e999", '"title"', "\\ud800", " ", "title\n", "title,description\n", "owner_id"]
files = st.lists(st.sampled_from(PARTS) | st.text(max_size=9), max_size=30).map("".join)
files |= files.map(lambda file: f"title,description\n{file}") | files.map(lambda file: f'{{"title": "x"}}\n{file}')
ENCODINGS = ["", "utf-8", "utf-16", "cp1252", "gb18030", "utf-7", "hz", "x"]


@pytest.fixture
def client(database_url: str, settings: Settings, start: Callable[..., TestClient]) -> Iterator[TestClient]:
    app = create_app(settings)
    app.include_router(router)
    dispatch.install(app)
    with tables(database_url, [Sample.__table__]):
        yield start(app)


def send(person: Person, to: str, file: bytes, form: str, query: str = "") -> Any:
    headers = {**(person.headers or {}), "Content-Type": MEDIA[form]}
    return person.client.post(f"/api/v1/{to}/import?{query}", content=file, headers=headers)


def samples(person: Person, form: str) -> bytes:
    return bytes(person.get(f"/scratch_samples/export?format={form}").content)


def declared(lines: bytes) -> list[dict[str, Any]]:
    """What a client may send of each row."""
    return [{name: json.loads(line)[name] for name in SampleCreate.model_fields} for line in lines.splitlines()]


def assert_comes_back(ann: Person, *made: SampleCreate) -> None:
    """Out and in, in either format and from one to the other, and out again."""
    posted = [ann.post("/scratch_samples", sample.model_dump(mode="json")).json() for sample in made]
    exported = {form: samples(ann, form) for form in MEDIA}
    assert [json.loads(line) for line in exported["jsonl"].splitlines()] == posted
    wanted = declared(exported["jsonl"])
    for form, file in exported.items():
        answer = send(ann, "scratch_samples", file, form)
        assert (answer.status_code, answer.json().get("created")) == (200, len(made)), answer.text
    assert declared(samples(ann, "jsonl")) == wanted * 3
    ids = [json.loads(line)["id"] for line in samples(ann, "jsonl").splitlines()]
    assert ann.post("/scratch_samples/bulk/delete", ids).status_code == 204


def test_the_extremes_of_every_type_come_back(ann: Person):
    assert_comes_back(ann, SMALL, LARGE)


@often
@given(made=st.lists(any_sample(at=moments), min_size=3, max_size=3))
def test_every_value_comes_back(ann: Person, made: list[SampleCreate]):
    assert_comes_back(ann, *made)


def test_what_comes_back_by_its_id_has_not_changed(ann: Person):
    for sample in (SMALL, LARGE):
        ann.post("/scratch_samples", sample.model_dump(mode="json"))
    for form in MEDIA:
        answer = send(ann, "scratch_samples", samples(ann, form), form, "on=id").json()
        assert (answer["created"], answer["changed"], answer["unchanged"]) == (0, 0, 2)


@pytest.mark.once
@pytest.mark.promise("V22")
def test_an_escaped_text_is_no_formula_and_is_unescaped_to_what_it_was():
    signs = "'=+-@\t\r\nx\uff1d"
    texts = ["", *signs, *(a + b + c for a in signs for b in signs for c in signs)]
    cells = [escape(text) for text in texts]
    assert [unescape(cell) for cell in cells] == texts
    assert [cell for cell in cells if cell == "" or cell[0] in "=+-@\t\r\n\uff1d"] == []
    assert len({*cells}) == len({*texts})
    assert FORMULA.match("=")


@often
@given(
    file=files,
    form=st.sampled_from([*MEDIA]),
    encoding=st.sampled_from(ENCODINGS),
    mode=st.sampled_from(["all", "good"]),
)
def test_whatever_is_in_a_file_is_kept_or_told(ann: Person, file: str, form: str, encoding: str, mode: str):
    before = ann.get("/items?count=true&limit=1").headers["X-Total-Count"]
    answer = send(ann, "items", file.encode("utf-8", "replace"), form, f"mode={mode}&encoding={encoding}")
    after = ann.get("/items?count=true&limit=1").headers["X-Total-Count"]
    if answer.status_code == 200:
        assert int(after) - int(before) == answer.json()["created"]
    else:
        assert (answer.status_code, before) == (422, after)
        assert {"loc", "msg", "type"} == {*answer.json()["detail"][0]}


def test_a_spreadsheet_reads_what_a_program_reads(ann: Person):
    ann.post("/scratch_samples", LARGE.model_dump(mode="json"))
    (row,) = csv.DictReader(io.StringIO(samples(ann, "csv").decode(), newline=""))
    told = json.loads(samples(ann, "jsonl"))
    assert row["yes"] == "true"
    assert json.loads(row["json_"]) == told["json_"]
    same = [name for name in SampleCreate.model_fields if name not in ("yes", "maybe_yes", "json_", "maybe_json_")]
    assert {name: unescape(row[name]) for name in same} == {name: str(told[name]) for name in same}


@pytest.mark.once
def test_rows_that_have_a_format_of_their_own_can_be_asked_for_by_it():
    base = type("BookBase", (Row,), {"__annotations__": {"format": Line}, "__module__": __name__, "format": FORMATTED})
    of: dict[str, Any] = {"__tablename__": "scratch_books", "__access__": Access.SHARED, "__module__": __name__}
    book: Any = type(SQLModel)("Book", (Entity, base), of, table=True)
    try:
        asked = export_class(book).model_validate({"format": "paper", "file_format": "jsonl"})
        assert (asked.format_, asked.model_dump()["format"]) == ("jsonl", "paper")
    finally:
        SQLModel.metadata.remove(book.__table__)
        SQLModel._sa_registry._dispose_cls(book)
