"""Rows go out as a file and come in again: nothing is lost, and what is wrong is told by its line."""

import asyncio
import csv
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlmodel import update

from app.engine.files import chunks, writing
from app.engine.files.faults import BadFile
from app.engine.files.importing import Import
from app.engine.files.layout import Layout
from app.engine.files.reading import Source
from app.engine.files.report import Tally, import_class
from app.engine.http import uploads
from app.engine.sessions import create_session_engine, open_session
from app.extras import files
from app.models import Item, ItemCreate, ItemRead, User
from app.settings import Settings
from tests import asgi
from tests.conftest import Person, sign_up
from tests.kinds import all_tables, app_with_all
from tests.scratch import Booking, BookingCreate, BookingUpdate, World, awaited, bookings, world_at

HEADER = "id,created_at,updated_at,version,title,description,owner_id"
NOT_KEPT = ["created_at", "id", "owner_id", "updated_at", "version"]


def send(person: Person, file: str | bytes, query: str = "", media: str = "text/csv", to: str = "/items") -> Any:
    """Have the file imported."""
    content = file.encode() if isinstance(file, str) else file
    headers = {**(person.headers or {}), "Content-Type": media}
    return person.client.post(f"/api/v1{to}/import?{query}", content=content, headers=headers)


def report(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def counts(answer: Any) -> list[int]:
    """How many were created, changed, unchanged, and failed."""
    said = report(answer)
    return [said["created"], said["changed"], said["unchanged"], said["failed"]]


def faults(answer: Any) -> list[tuple[list[Any], str]]:
    """Where something is wrong with a file of which nothing was kept, and what."""
    assert answer.status_code == 422, answer.text
    return [(each["loc"], each["msg"]) for each in answer.json()["detail"]]


def titles(person: Person) -> list[str]:
    """The oldest first."""
    return [item["title"] for item in reversed(person.get("/items").json())]


def rows_of(answer: Any) -> list[dict[str, str]]:
    """What a spreadsheet makes of it."""
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    return list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))


@pytest.fixture
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and chunks of three rows."""
    monkeypatch.setattr(writing, "PAGE", 3)
    monkeypatch.setattr(chunks, "CHUNK", 3)


@pytest.fixture
def everything(database_url: str, settings: Settings, start: Callable[..., TestClient]) -> Iterator[TestClient]:
    """The app with entities of every kind."""
    with all_tables(database_url):
        yield start(app_with_all(settings))


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with world_at(database_url) as world:
        yield world


# Out.


def test_a_table_is_a_file_with_a_line_for_each_row_the_oldest_first(ann: Person):
    one = ann.post("/items", {"title": "Paint", "description": 'Two tins, "white"\r\nand a brush'}).json()
    two = ann.post("/items", {"title": "Ladder"}).json()
    answer = ann.get("/items/export")
    assert answer.content.decode() == (
        f"{HEADER}\r\n"
        f'1,{one["created_at"]},{one["updated_at"]},1,Paint,"Two tins, ""white""\r\nand a brush",{ann.id}\r\n'
        f"2,{two['created_at']},{two['updated_at']},1,Ladder,,{ann.id}\r\n"
    )
    lines = ann.get("/items/export?format=jsonl")
    assert [json.loads(line) for line in lines.content.splitlines()] == [one, two]
    assert (answer.headers["Content-Type"], lines.headers["Content-Type"]) == (
        *("text/csv; charset=utf-8", "application/x-ndjson"),
    )


def test_a_browser_saves_it_under_a_name(ann: Person):
    said = ann.get("/items/export?format=jsonl").headers["Content-Disposition"]
    assert said.startswith('attachment; filename="items-20')
    assert said.endswith('.jsonl"')


def test_an_empty_table_is_a_file_that_names_its_columns(ann: Person):
    assert ann.get("/items/export").content.decode() == f"{HEADER}\r\n"
    assert ann.get("/items/export?format=jsonl").content == b""


def test_what_a_list_can_be_asked_a_file_can_be_asked(ann: Person):
    for title in ("Blue paint", "Ladder", "Red paint"):
        ann.post("/items", {"title": title})
    assert [row["title"] for row in rows_of(ann.get("/items/export?q=PAINT&sort=-id"))] == ["Red paint", "Blue paint"]


@pytest.mark.parametrize("query", ["skip=1", "limit=1", "cursor=x", "count=1", "format=xml", "sort=title", "x=1"])
def test_a_question_that_there_is_not_is_refused(ann: Person, query: str):
    answer = ann.get(f"/items/export?{query}")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", query.partition("=")[0]])


@pytest.mark.promise("I03")
def test_a_file_has_what_its_reader_sees_and_nothing_else(ann: Person, bob: Person, root: Person):
    for person in (ann, bob):
        person.post("/items", {"title": f"{person.username}'s"})
    exported = {person.username: rows_of(person.get("/items/export")) for person in (ann, bob, root)}
    assert {name: [row["title"] for row in rows] for name, rows in exported.items()} == {
        "ann": ["ann's"],
        "bob": ["bob's"],
        "root": ["ann's", "bob's"],
    }


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.parametrize("sort", ["id", "-id"])
def test_of_many_pages_each_row_is_there_once(ann: Person, sort: str):
    ann.post("/items/bulk", [{"title": f"item {number}"} for number in range(10)])
    found = [int(row["id"]) for row in rows_of(ann.get(f"/items/export?sort={sort}"))]
    assert found == sorted(range(1, 11), reverse=sort == "-id")


def shut_out(person: Person) -> None:
    """By hand, so that their token is still what it was."""
    engine = create_session_engine(person.client.app.state.settings.database_url)  # type: ignore[attr-defined]
    with open_session(engine, writes=True) as session:
        session.execute(update(User).where(User.__table__.c.id == person.id).values(is_active=False))
        session.commit()
    engine.dispose()


@pytest.mark.promise("A01")
def test_whoever_was_shut_out_is_refused_before_the_first_byte(ann: Person):
    shut_out(ann)
    for query in ("", "?format=jsonl"):
        assert ann.get(f"/items/export{query}").status_code == 401


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.promise("A01")
def test_whoever_is_shut_out_meanwhile_gets_no_further_page_and_no_proper_end(ann: Person):
    ann.post("/items/bulk", [{"title": f"item {number}"} for number in range(10)])
    sent: list[Any] = []

    async def take(message: Any) -> None:
        sent.append(message)
        if b"item 2" in message.get("body", b""):
            shut_out(ann)

    scope = asgi.scope("GET", "/api/v1/items/export", [(b"authorization", ann.headers["Authorization"].encode())])  # type: ignore[index]
    with pytest.raises(RuntimeError, match="response already started"):
        ann.client.portal.call(ann.client.app, scope, asgi.whole(b""), take)  # type: ignore[union-attr]
    body = b"".join(message.get("body", b"") for message in sent)
    assert (b"item 2" in body, b"item 3" in body, sent[-1]["more_body"]) == (True, False, True)


def test_whoever_reads_slowly_holds_none_of_the_places_of_other_requests(ann: Person):
    headers = [(b"authorization", (ann.headers or {})["Authorization"].encode())]
    statuses: list[int] = []

    async def read_slowly() -> None:
        all_wait, go_on = asyncio.Event(), asyncio.Event()

        async def take(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                if len(statuses) == files.AT_ONCE:
                    all_wait.set()
            if len(statuses) <= files.AT_ONCE:
                await go_on.wait()

        async def export() -> None:
            await ann.client.app(asgi.scope("GET", "/api/v1/items/export", headers), asgi.whole(b""), take)

        slow = [asyncio.create_task(export()) for _ in range(files.AT_ONCE)]
        await all_wait.wait()
        await export()
        go_on.set()
        await asyncio.gather(*slow)
        await export()

    ann.client.portal.call(read_slowly)  # type: ignore[union-attr]
    assert statuses == [200] * files.AT_ONCE + [503, 200]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\t=1", "\uff1d1", "'=1", "''", "'", ""])
def test_no_spreadsheet_takes_a_text_for_a_formula(ann: Person, text: str):
    ann.post("/items", {"title": "x", "description": text})
    (row,) = rows_of(ann.get("/items/export"))
    assert row["description"] == f"'{text}"
    assert counts(send(ann, ann.get("/items/export").content)) == [1, 0, 0, 0]
    assert [item["description"] for item in ann.get("/items").json()] == [text, text]


@pytest.mark.parametrize("text", ["it's", "'tis", "1=1", " =1", "'it' = 1", None])
def test_a_text_that_is_harmless_stays_as_it_is(ann: Person, text: str | None):
    ann.post("/items", {"title": "x", "description": text})
    assert rows_of(ann.get("/items/export"))[0]["description"] == (text or "")
    assert counts(send(ann, ann.get("/items/export").content)) == [1, 0, 0, 0]
    assert ann.get("/items").json()[0]["description"] == text


# In.


def test_each_line_is_a_new_row_that_belongs_to_who_sent_it(ann: Person):
    answer = send(ann, "title,description\nPaint,white\nLadder,\n")
    assert report(answer) == {
        **{"created": 2, "changed": 0, "unchanged": 0, "failed": 0, "dry_run": False, "ignored": [], "errors": []},
        **{"encoding": "utf-8", "separator": ","},
    }
    newest, oldest = ann.get("/items").json()
    assert (oldest["title"], oldest["description"], oldest["owner_id"], oldest["version"]) == (
        *("Paint", "white", ann.id, 1),
    )
    assert (newest["title"], newest["description"]) == ("Ladder", None)


@pytest.mark.parametrize(("form", "media"), [("csv", "text/csv"), ("jsonl", "application/x-ndjson")])
def test_what_was_exported_can_be_imported_as_it_is(ann: Person, bob: Person, form: str, media: str):
    ann.post("/items/bulk", [{"title": "one", "description": "=1,\n"}, {"title": "two"}])
    exported = ann.get(f"/items/export?format={form}").content
    said = report(send(bob, exported, media=media))
    assert (said["created"], said["ignored"]) == (2, NOT_KEPT)
    wanted = [{"title": "two", "description": None}, {"title": "one", "description": "=1,\n"}]
    assert [{name: item[name] for name in wanted[0]} for item in bob.get("/items").json()] == wanted
    assert {item["owner_id"] for item in bob.get("/items").json()} == {bob.id}


@pytest.mark.usefixtures("in_small_steps")
def test_one_bad_line_and_nothing_is_kept(ann: Person):
    good = "".join(f"item {number}\n" for number in range(10))
    assert faults(send(ann, f"title\n{good} \n{good}{'x' * 256}\n")) == [
        (["line", 12, "title"], "Value error, must be one line, and not blank"),
        (["line", 23, "title"], "String should have at most 255 characters"),
    ]
    assert ann.get("/items").json() == []


@pytest.mark.usefixtures("in_small_steps")
@awaited
async def test_nobody_waits_for_a_file_that_is_no_good(world: World):
    begun = list[str]()

    async def begin() -> None:
        begun.append("the transaction that has the key")

    importer, how = Import(bookings, BookingCreate, BookingUpdate), import_class(Booking, BookingCreate)(format="csv")
    with pytest.raises(BadFile):
        await importer.run(world.ann, io.BytesIO(b"room,starts,ends\nBlue,nine,ten\n"), how, begin=begin)
    assert begun == []
    await importer.run(world.ann, io.BytesIO(b"room,starts,ends\nBlue,9,10\n"), how, begin=begin)
    assert begun == ["the transaction that has the key"]


def test_those_that_are_good_are_kept_if_that_is_asked_for(ann: Person):
    answer = send(ann, "title,description\none,\n ,\ntwo,\nthree,\x07\n\nfour\nfive,\n", "mode=good")
    assert counts(answer) == [3, 0, 0, 3]
    assert report(answer)["errors"] == [
        {"line": 3, "column": "title", "message": "Value error, must be one line, and not blank"},
        {"line": 5, "column": "description", "message": "Value error, must not hold control characters"},
        {"line": 7, "column": None, "message": "It has 1 cells, and the first line has 2."},
    ]
    assert titles(ann) == ["one", "two", "five"]


@pytest.mark.usefixtures("in_small_steps")
def test_what_the_database_refuses_is_told_by_its_line_too(everything: TestClient):
    ann = sign_up(everything, "ann")
    file = "name\nAcme\nBolt\nCogs\nAcme\nDyno\n"
    taken = (["line", 5, "name"], "That name is taken.")
    assert faults(send(ann, file, to="/scratch_companies")) == [taken]
    assert ann.get("/scratch_companies").json() == []
    good = send(ann, file, "mode=good", to="/scratch_companies")
    assert (counts(good), report(good)["errors"]) == (
        [4, 0, 0, 1],
        [{"line": 5, "column": "name", "message": taken[1]}],
    )
    assert [row["name"] for row in ann.get("/scratch_companies?sort=id").json()] == ["Acme", "Bolt", "Cogs", "Dyno"]


@pytest.mark.usefixtures("in_small_steps")
@pytest.mark.parametrize("mode", ["all", "good"])
def test_a_dry_run_tells_all_that_would_happen_and_keeps_nothing(everything: TestClient, mode: str):
    ann = sign_up(everything, "ann")
    ann.post("/scratch_companies", {"name": "Bolt"})
    file = "name\nAcme\nBolt\nCogs\n\nAcme\n\t\nDyno\n"
    answer = send(ann, file, f"dry_run=true&mode={mode}", to="/scratch_companies")
    assert (counts(answer), report(answer)["dry_run"]) == ([3, 0, 0, 3], True)
    assert [(each["line"], each["message"]) for each in report(answer)["errors"]] == [
        (3, "That name is taken."),
        (6, "That name is taken."),
        (7, "Value error, must be one line, and not blank"),
    ]
    assert [row["name"] for row in ann.get("/scratch_companies").json()] == ["Bolt"]


def test_no_more_than_a_hundred_errors_are_told_and_all_are_counted(ann: Person):
    file = "title\n" + "\t\n" * 250
    assert len(faults(send(ann, file))) == 100
    answer = send(ann, file, "mode=good")
    assert (counts(answer), len(report(answer)["errors"])) == ([0, 0, 0, 250], 100)


@pytest.mark.usefixtures("in_small_steps")
def test_when_the_sender_is_shut_out_in_the_middle_the_report_says_what_was_kept(
    ann: Person, monkeypatch: pytest.MonkeyPatch
):
    validate, seen = chunks.Layout.validate, []

    def validate_and_shut_out(self: Any, record: Any) -> Any:
        seen.append(record)
        if len(seen) == 5:  # the first three are in the database
            shut_out(ann)
        return validate(self, record)

    monkeypatch.setattr(chunks.Layout, "validate", validate_and_shut_out)
    answer = send(ann, "title\n" + "x\n" * 9, "mode=good")
    assert counts(answer) == [3, 0, 0, 1]
    assert report(answer)["errors"] == [
        {"line": 5, "column": None, "message": "That token is not valid, or no longer. From here on nothing was kept."}
    ]


# Rows that are there already.


def test_rows_that_are_there_are_changed_where_they_differ_and_others_created(everything: TestClient):
    ann = sign_up(everything, "ann")
    ann.post("/scratch_companies/bulk", [{"name": "Acme"}, {"name": "Bolt"}])
    answer = send(ann, "name\nAcme\nBolt\nCogs\n", "on=name", to="/scratch_companies")
    assert counts(answer) == [1, 0, 2, 0]
    assert [row["version"] for row in ann.get("/scratch_companies").json()] == [1, 1, 1]


def test_an_export_that_was_edited_comes_back_by_its_ids(ann: Person, bob: Person):
    ann.post("/items/bulk", [{"title": "one", "description": "a"}, {"title": "two", "description": "b"}])
    exported = ann.get("/items/export").content.decode()
    edited = exported.replace(",b,", ",,") + f",,,,three,,{ann.id}\r\n"
    assert counts(send(ann, edited, "on=id")) == [1, 1, 1, 0]
    assert [(item["title"], item["description"], item["version"]) for item in ann.get("/items").json()] == [
        *(("three", None, 1), ("two", None, 2), ("one", "a", 1))
    ]
    assert counts(send(ann, edited, "on=id")) == [1, 0, 2, 0]
    assert faults(send(bob, exported, "on=id")) == [
        *((["line", line, "id"], "You see no row with that id.") for line in (2, 3))
    ]


def test_a_column_that_is_not_in_the_file_stays_as_it_is(ann: Person):
    ann.post("/items", {"title": "one", "description": "a"})
    assert counts(send(ann, "id,title\n1,uno\n", "on=id")) == [0, 1, 0, 0]
    assert (titles(ann), ann.get("/items/1").json()["description"]) == (["uno"], "a")


def test_of_two_lines_for_one_row_the_later_one_holds(ann: Person):
    ann.post("/items", {"title": "one"})
    assert counts(send(ann, "id,title\n1,two\n1,three\n1,three\n", "on=id")) == [0, 2, 1, 0]
    assert titles(ann) == ["three"]


def test_only_what_is_unique_recognises_a_row(ann: Person):
    answer = send(ann, "title\nx\n", "on=title")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "on"])


# Whose.


@pytest.mark.promise("I12")
def test_only_a_superuser_says_whose_a_row_is(ann: Person, bob: Person, root: Person):
    file = f"title,owner_id\nfor bob,{bob.id}\n"
    assert counts(send(ann, file)) == [1, 0, 0, 0]
    assert (titles(ann), titles(bob)) == (["for bob"], [])
    assert counts(send(root, file)) == [1, 0, 0, 0]
    assert titles(bob) == ["for bob"]
    assert counts(send(root, f"{file}nobody's,999\n,\nhers,\n", "mode=good")) == [2, 0, 0, 2]
    assert ann.get("/items").json() == ann.get("/items").json()


def test_everybodys_rows_come_back_to_everybody(ann: Person, bob: Person, root: Person):
    for person in (ann, bob):
        person.post("/items", {"title": f"{person.username}'s"})
    exported = root.get("/items/export").content
    assert counts(send(root, exported)) == [2, 0, 0, 0]
    assert (titles(ann), titles(bob)) == (["ann's"] * 2, ["bob's"] * 2)
    moved = exported.decode().replace(f"ann's,,{ann.id}", f"ann's,,{bob.id}")
    assert faults(send(root, moved, "on=id")) == [(["line", 2, "owner_id"], "It belongs to somebody else.")]


def test_what_is_for_superusers_only_is_for_them_in_files_too(everything: TestClient):
    ann, root = sign_up(everything, "ann"), sign_up(everything, "root", is_superuser=True)
    file = "words,low,high\nGo on,1,2\nStop,2,1\n"
    for answer in (ann.get("/scratch_verdicts/export"), send(ann, file, to="/scratch_verdicts")):
        assert answer.status_code == 403
    answer = send(root, file, "mode=good", to="/scratch_verdicts")
    assert (counts(answer), report(answer)["errors"][0]["message"]) == (
        *([1, 0, 0, 1], "A verdict's range must begin before it ends."),
    )


# How a file may be written.


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encoding_and_separator_are_found_out(ann: Person, encoding: str, separator: str):
    file = f"title{separator}description\r\nM\u00fcller{separator}a, b; c\r\n".replace("a, b; c", '"a, b; c\t|"')
    said = report(send(ann, file.encode(encoding)))
    assert (said["created"], said["encoding"], said["separator"]) == (
        *(1, encoding.removesuffix("-sig"), "tab" if separator == "\t" else separator),
    )
    assert [ann.get("/items").json()[0][name] for name in ("title", "description")] == ["M\u00fcller", "a, b; c\t|"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440", "cp1251"),
        ("\u3053\u3093\u306b\u3061\u306f", "cp932"),
    ],
)
def test_an_encoding_can_be_said(ann: Person, text: str, encoding: str):
    file = f"title\n{text}\n".encode(encoding)
    assert report(send(ann, file, f"encoding={encoding}"))["encoding"] == encoding
    assert report(send(ann, file, media=f"text/csv; charset={encoding}"))["encoding"] == encoding
    assert titles(ann) == [text, text]


def test_where_a_file_leaves_utf8_after_much_it_is_noticed(ann: Person):
    file = ("title\n" + "Order the paint\n" * 20_000 + "M\u00fcller\n").encode("cp1252")
    assert report(send(ann, file, "dry_run=true"))["encoding"] == "cp1252"
    assert faults(send(ann, file, "encoding=utf-8")) == [
        (["line", 20_002], "That is not utf-8. Name the encoding of the file.")
    ]


@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
def test_lines_end_as_any_system_ends_them_and_cells_have_lines_of_their_own(ann: Person, line_break: str):
    file = f'title,description{line_break}one,"a{line_break}b"{line_break}{line_break}two,c'
    assert counts(send(ann, file)) == [2, 0, 0, 0]
    assert [item["description"] for item in ann.get("/items").json()] == ["c", f"a{line_break}b"]
    answer = send(ann, f"{file}{line_break} ,c", "mode=good")
    assert report(answer)["errors"][0]["line"] == 6


ENDLESS = "It has more than 1048576 letters, or 65536 lines; the rest is not read."
BAD = {
    "nothing": (b"", ["file"], "It is empty. Its first line must name the columns."),
    "a spreadsheet": (b"PK\x03\x04\0\0", ["file"], "That is no text. Save it as CSV in UTF-8, or name its encoding."),
    "an unknown column": (b"title,titel\nx,y\n", ["file", "titel"], "There is no such column."),
    "a secret column": (b"title,is_superuser\nx,1\n", ["file", "is_superuser"], "There is no such column."),
    "a column twice": (b"title,title\nx,y\n", ["file", "title"], "It is there twice."),
    "no title": (b"description\nx\n", ["file", "title"], "That column must be there."),
    "a quote that never ends": (
        b'title\nx\n"y\nz\n',
        ["line", 3],
        "A quotation mark is opened here and never closed; the rest is not read.",
    ),
    "a quote within": (b'title\n"x"y\n', ["line", 2], "A quotation mark is out of place; the rest is not read."),
    "too few cells": (b"title,description\nx\n", ["line", 2], "It has 1 cells, and the first line has 2."),
    "too many cells": (b"title\nx,y\n", ["line", 2], "It has 2 cells, and the first line has 1."),
    "a row without an end": (b'title\n"' + b"x\n" * 600_000, ["line", 2], ENDLESS),
    "a row of too many lines": (b'title\nx\n"' + b"\n" * 2**16 + b'"\n', ["line", 3], ENDLESS),
    "too many columns": (",".join(map(str, range(1001))).encode(), ["line", 1], "More than 1000 columns are too many."),
    "a line without an end": (b"title\n" + b"x" * 1_100_000, ["line", 2], ENDLESS),
    "control characters": (b"title\na\x01b\n", ["line", 2, "title"], "Value error, must not hold control characters"),
}


@pytest.mark.parametrize(("file", "loc", "message"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_file_is_told_where_it_is(ann: Person, file: bytes, loc: list[Any], message: str):
    assert faults(send(ann, file)) == [(loc, message)]
    assert ann.get("/items").json() == []


@pytest.mark.once
@pytest.mark.parametrize("head", [b"title\nx\n", b"", b'{"title": "x"}\n'])
def test_others_get_their_turn_while_a_file_has_nothing_but_empty_lines(head: bytes):
    # It came to a minute of everybody's time.
    is_csv = not head.startswith(b"{")
    source = Source(io.BytesIO(head + b"\n" * 200_000 + b"title\n" * (not head)), {"title": str}, is_csv=is_csv)
    read = chunks.Chunks(source, Layout(Item, ItemRead, ItemCreate), None, lambda _: None).read(Tally())

    async def turns() -> int:
        reading = asyncio.create_task(anext(read, None))  # type: ignore[arg-type]  # it is an Awaitable
        number = 0
        while not reading.done():
            await asyncio.sleep(0)
            number += 1
        return number

    assert asyncio.run(turns()) > 10


def test_each_line_of_json_is_told_by_itself(ann: Person):
    lines = ['{"title": "one"}', "", "{", "[]", '{"title": NaN}', '{"title": 5}', '{"titel": "x"}', "[" * 999]
    answer = send(ann, "\n".join(lines), "mode=good", media="application/x-ndjson")
    assert counts(answer) == [1, 0, 0, 6]
    assert [(each["line"], each["column"], each["message"]) for each in report(answer)["errors"]] == [
        (3, None, "That is no JSON, or too deep."),
        (4, None, "That is no JSON object."),
        (5, None, "That is no JSON, or too deep."),
        (6, "title", "Input should be a valid string"),
        (7, "title", "Field required"),
        (7, "titel", "Extra inputs are not permitted"),
        (8, None, "That is no JSON, or too deep."),
    ]


@pytest.mark.parametrize(
    "name", ["nonsense", "idna", "punycode", "unicode_escape", "utf_7", "zlib", "undefined", "%00"]
)
def test_that_is_no_encoding(ann: Person, name: str):
    assert faults(send(ann, "title\nx\n", f"encoding={name}")) == [
        (["file", "encoding"], "That is no encoding: try utf-8 or cp1252.")
    ]


# What is let in.


@pytest.mark.parametrize(
    ("media", "query"), [("application/json", ""), ("", ""), ("multipart/form-data; boundary=x", "format=csv")]
)
def test_a_file_is_sent_as_what_it_is(ann: Person, media: str, query: str):
    assert send(ann, "title\nx\n", query, media=media).status_code == 415


def test_a_format_that_is_said_counts_more_than_the_media_type(ann: Person):
    assert counts(send(ann, "title\nx\n", "format=csv", media="application/x-www-form-urlencoded")) == [1, 0, 0, 0]


@pytest.mark.promise("V07")
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_file_over_the_limit_is_refused(start: Callable[..., TestClient], is_announced: bool):
    ann = sign_up(start(max_import_size=5000), "ann")
    headers = [(b"authorization", ann.headers["Authorization"].encode()), (b"content-type", b"text/csv")]  # type: ignore[index]
    fits, too_large = (b"title\n" + b"x" * size for size in (200, 6000))
    for file, status in ((fits, 200), (too_large, 413)):
        announced = [(b"content-length", b"%d" % len(file))] if is_announced else []
        answer = asgi.ask(ann.client, "POST", "/api/v1/items/import", headers + announced, asgi.whole(file))
        assert (status, answer.status) == (status, status)


def test_a_compressed_file_is_refused(ann: Person):
    headers = {**(ann.headers or {}), "Content-Type": "text/csv", "Content-Encoding": "gzip"}
    assert ann.client.post("/api/v1/items/import", content=b"x", headers=headers).status_code == 415


@pytest.mark.promise("A01")
def test_nobodys_file_is_not_even_read(client: TestClient, ann: Person):
    async def receive() -> Any:
        raise AssertionError("It is read.")

    shut_out(ann)
    for token in ([], [(b"authorization", ann.headers["Authorization"].encode())]):  # type: ignore[index]
        fields = [*token, (b"content-type", b"text/csv"), (b"content-length", b"1000")]
        assert asgi.ask(client, "POST", "/api/v1/items/import", fields, receive).status == 401


def test_a_third_file_at_once_has_to_wait(ann: Person):
    with uploads.spooled(), uploads.spooled():
        answer = send(ann, "title\nx\n")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert counts(send(ann, "title\nx\n")) == [1, 0, 0, 0]


def test_a_client_who_goes_away_leaves_nothing_and_frees_the_place(ann: Person):
    fields = [(b"authorization", ann.headers["Authorization"].encode()), (b"content-type", b"text/csv")]  # type: ignore[index]
    for _ in range(3):
        pieces = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"title\nx\n", "more_body": True}]

        async def receive(pieces: list[Any] = pieces) -> Any:
            return pieces.pop()

        asgi.ask(ann.client, "POST", "/api/v1/items/import", fields, receive)
    assert (ann.get("/items").json(), uploads.taken) == ([], 0)


def test_nothing_is_imported_while_nothing_may_be_written(start: Callable[..., TestClient], ann: Person):
    closed = Person(start(read_only=True), "ann", headers=ann.headers)
    assert (send(closed, "title\nx\n").status_code, closed.get("/items/export").status_code) == (503, 200)


# Who writes at the same time.


def test_of_two_files_at_once_each_row_is_there_once(everything: TestClient):
    ann = sign_up(everything, "ann")
    file = "name\n" + "".join(f"Company {number}\n" for number in range(300))
    with ThreadPoolExecutor(2) as pool:
        answers = [*pool.map(lambda _: send(ann, file, "on=name&mode=good", to="/scratch_companies"), range(2))]
    assert {answer.status_code for answer in answers} == {200}
    assert sum(counts(answer)[0] for answer in answers) == 300
    assert ann.get("/scratch_companies?count=true&limit=1").headers["X-Total-Count"] == "300"
