"""What has changed since: in order, once, to whom it may be told, asked now and then or as it happens."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.engine import history, pruning
from app.models.base import utcnow
from app.settings import Settings
from tests.conftest import Person, sign_up
from tests.kinds import all_tables, app_with_all

Told = list[tuple[str, str]]


def told(answer: Any) -> Told:
    """What happened to which item."""
    assert answer.status_code == 200, answer.text
    return [(change["action"], change["row"]["title"]) for change in answer.json()]


def onward(answer: Any) -> str:
    """Where `Link` says to go on."""
    assert answer.status_code == 200, answer.text
    assert answer.links["next"]["url"].startswith("/api/v1/")
    return str(answer.links["next"]["url"]).removeprefix("/api/v1")


def position(answer: Any) -> str:
    return onward(answer).partition("after=")[2].partition("&")[0]


def read_all(person: Person, address: str) -> tuple[Told, str]:
    """What is told from there on until nothing more comes, and where it goes on."""
    found: Told = []
    while page := told(answer := person.get(address)):
        found += page
        address = onward(answer)
    return found, onward(answer)


def create(person: Person, *titles: str) -> list[int]:
    return [person.post("/items", {"title": title}).json()["id"] for title in titles]


def forget(client: TestClient) -> int:
    """What is older than this moment, as the sweeper does it."""
    assert client.portal is not None
    return client.portal.call(pruning.prune, client.app.state.database, utcnow())  # type: ignore[attr-defined]


# In order, from a position on.


def test_changes_come_oldest_first_and_say_what_the_row_became(ann: Person):
    first, second = create(ann, "one", "two")
    ann.patch(f"/items/{first}", {"title": "uno"})
    ann.delete(f"/items/{second}")

    answer = ann.get("/items/changes")

    assert told(answer) == [("created", "one"), ("created", "two"), ("changed", "uno"), ("deleted", "two")]
    assert [change["row_id"] for change in answer.json()] == [first, second, first, second]
    assert answer.json()[2]["row"] == ann.get(f"/items/{first}").json()
    assert {(change["entity"], change["user_id"]) for change in answer.json()} == {("items", ann.id)}


def test_after_a_position_comes_what_came_to_pass_after_it(ann: Person):
    create(ann, "one", "two", "three")
    changes = ann.get("/items/changes").json()

    told_after = [told(ann.get(f"/items/changes?after={change['position']}")) for change in changes]

    assert told_after == [[("created", "two"), ("created", "three")], [("created", "three")], []]


def test_after_now_comes_only_what_is_still_to_come(ann: Person):
    create(ann, "one")

    answer = ann.get("/items/changes?after=now")
    create(ann, "two")

    assert told(answer) == []
    assert told(ann.get(onward(answer))) == [("created", "two")]


def test_a_limit_is_kept_and_link_goes_on_behind_it(ann: Person):
    create(ann, "one", "two", "three", "four", "five")

    first = ann.get("/items/changes?limit=2")
    second = ann.get(onward(first))
    third = ann.get(onward(second))

    assert told(first) == [("created", "one"), ("created", "two")]
    assert told(second) == [("created", "three"), ("created", "four")]
    assert told(third) == [("created", "five")]
    assert onward(first).endswith("&limit=2")


def test_what_one_transaction_changed_may_be_read_in_parts(ann: Person):
    ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}, {"title": "three"}])

    first = ann.get("/items/changes?limit=2")

    assert told(first) == [("created", "one"), ("created", "two")]
    assert told(ann.get(onward(first))) == [("created", "three")]


def test_link_says_where_to_go_on_when_all_is_told(ann: Person):
    create(ann, "one")
    end = onward(ann.get("/items/changes"))

    again = onward(ann.get(end))
    create(ann, "two")

    assert again == end
    assert told(ann.get(end)) == [("created", "two")]


def test_link_goes_on_behind_what_is_others(ann: Person, bob: Person):
    create(ann, "one")
    before = position(ann.get("/items/changes"))
    create(bob, "his", "too")

    answer = ann.get(f"/items/changes?after={before}")

    assert told(answer) == []
    assert position(answer) == bob.get("/items/changes").json()[-1]["position"]


def test_however_many_changes_of_others_are_between_none_of_ones_own_is_missed(
    ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(history, "WINDOW", 2)
    monkeypatch.setattr(history, "WINDOWS", 2)
    start = onward(ann.get("/items/changes?after=now"))
    create(bob, *"abcdefghi")
    create(ann, "one")
    create(bob, "j")

    answers = [ann.get(start)]
    for _ in range(3):
        answers.append(ann.get(onward(answers[-1])))

    # Four are looked at for each answer.
    assert [told(answer) for answer in answers] == [[], [], [("created", "one")], []]
    create(ann, "two")
    assert told(ann.get(onward(answers[-1]))) == [("created", "two")]


@pytest.mark.parametrize(
    "asked",
    [
        *("after=", "after=1", "after=1-", "after=-1-2", "after=1-2-3", "after=then", "after=1-2%0A", "after=NOW"),
        *("after=9223372036854775808-0", "after=0-9999999999999999999", "after=12345678901234567890-1"),
        *("after=%D9%A3-%D9%A3", "after=1-2%00", "limit=0", "limit=101", "limit=-1", "limit=many"),
    ],
)
def test_what_is_no_position_or_no_limit_is_refused(ann: Person, asked: str):
    answers = [ann.get(f"/items/changes?{asked}")]
    if asked.startswith("after"):
        answers.append(ann.get(f"/items/changes/stream?{asked}"))

    assert {(answer.status_code, answer.headers["content-type"]) for answer in answers} == {
        (422, "application/problem+json")
    }


def test_the_last_position_there_can_be_is_one(ann: Person):
    create(ann, "one")

    answer = ann.get("/items/changes?after=9223372036854775807-9223372036854775807")

    assert (told(answer), position(answer)) == ([], "9223372036854775807-9223372036854775807")


# To whom it may be told.


def test_only_what_its_reader_may_see_is_told(ann: Person, bob: Person, root: Person):
    create(ann, "anns")
    create(bob, "bobs")

    assert told(ann.get("/items/changes")) == [("created", "anns")]
    assert told(bob.get("/items/changes")) == [("created", "bobs")]
    assert told(root.get("/items/changes")) == [("created", "anns"), ("created", "bobs")]


def test_a_row_that_changes_its_owner_is_told_by_whose_it_was_then(
    client: TestClient, ann: Person, bob: Person, root: Person
):
    (item,) = create(ann, "anns")
    change_in_sql(client, f"UPDATE items SET owner_id = {bob.id}, title = 'bobs' WHERE id = {item}")
    bob.delete(f"/items/{item}")

    assert told(ann.get("/items/changes")) == [("created", "anns")]
    assert told(bob.get("/items/changes")) == [("changed", "bobs"), ("deleted", "bobs")]
    assert told(root.get("/items/changes")) == [("created", "anns"), ("changed", "bobs"), ("deleted", "bobs")]


def change_in_sql(client: TestClient, statement: str) -> None:
    with client.app.state.session_engine.begin() as connection:  # type: ignore[attr-defined]
        connection.execute(text(statement))


@pytest.fixture
def everything(start: Callable[..., TestClient], settings: Settings, database_url: str) -> Iterator[TestClient]:
    """The app with entities of every kind."""
    with all_tables(database_url):
        yield start(app_with_all(settings))


def test_what_is_everyones_is_told_to_everyone(everything: TestClient):
    ann, bob = sign_up(everything, "ann"), sign_up(everything, "bob")
    company = ann.post("/scratch_companies", {"name": "Acme"}).json()
    bob.delete(f"/scratch_companies/{company['id']}")

    for reader in (ann, bob):
        changes = reader.get("/scratch_companies/changes").json()
        assert [(change["action"], change["user_id"]) for change in changes] == [
            ("created", ann.id),
            ("deleted", bob.id),
        ]


def test_what_is_for_superusers_is_told_to_them_alone(everything: TestClient):
    ann, root = sign_up(everything, "ann"), sign_up(everything, "root", is_superuser=True)
    root.post("/scratch_verdicts", {"words": "Go on", "low": 1, "high": 2})

    assert [change["row"]["words"] for change in root.get("/scratch_verdicts/changes").json()] == ["Go on"]
    assert [ann.get(f"/scratch_verdicts/changes{path}").status_code for path in ("", "/stream")] == [403, 403]


def test_what_is_a_teams_is_told_to_its_members(everything: TestClient):
    ann, bob, root = (
        sign_up(everything, "ann"),
        sign_up(everything, "bob"),
        sign_up(everything, "root", is_superuser=True),
    )
    team = ann.post("/scratch_teams", {"name": "Blue"}).json()["id"]
    start = onward(bob.get("/scratch_teams/changes"))
    ann.patch(f"/scratch_teams/{team}", {"name": "Red"})
    before = bob.get(start).json()
    root.post("/scratch_memberships", {"team_id": team, "user_id": bob.id})

    assert before == []
    for reader in (ann, bob, root):
        changes = reader.get("/scratch_teams/changes").json()
        assert [(change["action"], change["row"]["name"]) for change in changes] == [
            ("created", "Blue"),
            ("changed", "Red"),
        ]


def test_a_feed_tells_of_its_own_entity_only(everything: TestClient):
    ann = sign_up(everything, "ann")
    create(ann, "one")
    ann.post("/scratch_companies", {"name": "Acme"})

    assert told(ann.get("/items/changes")) == [("created", "one")]


# What is forgotten.


def test_who_comes_too_late_is_told_so(ann: Person, client: TestClient):
    start = onward(ann.get("/items/changes?after=now"))
    first, second = create(ann, "one", "two")
    read = onward(ann.get(f"{start}&limit=1"))
    ann.patch(f"/items/{first}", {"title": "uno"})
    ann.delete(f"/items/{second}")

    assert forget(client) == 2  # both creations

    answers = [ann.get(address) for address in (start, read, read.replace("changes", "changes/stream"))]
    assert [answer.status_code for answer in answers] == [410, 410, 410]
    assert {answer.json()["detail"] for answer in answers} == {
        "What changed since then is no longer all kept: read the list anew, and begin with after=now."
    }


def test_who_does_not_come_too_late_goes_on(ann: Person, client: TestClient):
    first, second = create(ann, "one", "two")
    ann.patch(f"/items/{first}", {"title": "uno"})
    read = onward(ann.get("/items/changes"))
    ann.delete(f"/items/{second}")

    assert forget(client) == 2

    assert told(ann.get(read)) == [("deleted", "two")]


def test_who_has_read_a_part_of_a_transaction_of_which_more_is_lost_comes_too_late(ann: Person, client: TestClient):
    rows = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    half = onward(ann.get("/items/changes?limit=1"))
    whole = onward(ann.get("/items/changes?limit=2"))
    ann.post("/items/bulk/delete", [row["id"] for row in rows])
    create(ann, "three")

    forget(client)

    assert (ann.get(half).status_code, ann.get(whole).status_code) == (410, 410)


def test_nobody_comes_too_late_for_what_they_have_read(ann: Person, client: TestClient):
    rows = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    whole = onward(ann.get("/items/changes?limit=2"))
    for row in rows:
        ann.patch(f"/items/{row['id']}", {"title": "more"})

    assert forget(client) == 2  # the creations, and of them it has read both

    assert told(ann.get(whole)) == [("changed", "more"), ("changed", "more")]


def test_a_transaction_that_was_read_in_part_and_lost_its_end_is_gone(ann: Person, client: TestClient):
    rows = ann.post("/items/bulk", [{"title": "one"}, {"title": "two"}]).json()
    half = onward(ann.get("/items/changes?limit=1"))
    ann.patch(f"/items/{rows[1]['id']}", {"title": "more"})

    assert forget(client) == 1  # the second creation, which it has not read

    assert ann.get(half).status_code == 410


def test_who_begins_anew_reads_what_is_wholly_kept_and_goes_on(ann: Person, client: TestClient):
    first, second, _ = create(ann, "one", "two", "three")
    ann.delete(f"/items/{second}")
    ann.patch(f"/items/{first}", {"title": "uno"})
    forget(client)

    answer = ann.get("/items/changes?limit=1")
    create(ann, "four")

    # The deletion was forgotten, and what came before it is not whole any more.
    assert told(answer) == [("changed", "uno")]
    assert told(ann.get(onward(answer))) == [("created", "four")]


def test_what_is_forgotten_of_one_entity_is_no_gap_in_another(everything: TestClient):
    ann = sign_up(everything, "ann")
    start = onward(ann.get("/scratch_companies/changes"))
    (item,) = create(ann, "one")
    ann.patch(f"/items/{item}", {"title": "uno"})
    ann.post("/scratch_companies", {"name": "Acme"})

    assert forget(everything) == 1

    assert [change["row"]["name"] for change in ann.get(start).json()] == ["Acme"]


def test_a_later_step_of_forgetting_does_not_take_back_what_an_earlier_one_said(
    ann: Person, client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pruning, "STEP", 1)
    monkeypatch.setattr(pruning, "PAUSE", 0.0)
    items = create(ann, "one", "two", "three")
    change_in_sql(client, "UPDATE changes SET transaction_id = 100 - id")  # as transactions may end in any order
    read = [change["position"] for change in ann.get("/items/changes").json()]
    for item in items:
        ann.patch(f"/items/{item}", {"title": "more"})
    change_in_sql(client, "UPDATE changes SET transaction_id = 200 + id WHERE action = 'changed'")

    assert forget(client) == 3

    assert [ann.get(f"/items/changes?after={position}").status_code for position in read] == [410, 410, 200]
