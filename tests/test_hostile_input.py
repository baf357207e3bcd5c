"""Whatever is sent, the answer is a refusal that repeats none of it, or it comes back unchanged. Never 5xx."""

import json
import re
import time
from typing import Any

import pytest

from tests.conftest import PASSWORD, Person


def send(person: Person, body: bytes, content_type: str | None = "application/json") -> Any:
    headers = {**(person.headers or {}), **({"Content-Type": content_type} if content_type else {})}
    return person.client.post("/api/v1/items", content=body, headers=headers)


def test_a_body_sent_byte_by_byte_is_an_item_like_any_other(ann: Person):
    # Otherwise the refusals below would prove nothing.
    assert send(ann, b'{"title": "Foo"}').json()["title"] == "Foo"


GOOD_TEXT = {
    "emoji of several code points": "\U0001f469\U0001f3fd\u200d\U0001f692 \U0001f1ea\U0001f1f8",
    "right to left": "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "combining, not composed": "e\u0301 o\u0323\u0302",
    "composed": "\u00e9",
    "astral": "\U0001d518\U0001f0a1\U0010fffd",
    "255 characters of four bytes": "\U0001f600" * 255,
    "white space around": "  Foo\u00a0",
    "markup": "<script>alert(1)</script> &amp; \\u0041 %41 ${7*7} {{7*7}}",
    "SQL": "'; DROP TABLE items; -- \" ` \\",
    "words of other languages": "null None undefined NaN true 0",
}


@pytest.mark.promise("V15", "V16")
@pytest.mark.parametrize("text", GOOD_TEXT.values(), ids=GOOD_TEXT)
def test_text_comes_back_unchanged(ann: Person, text: str):
    created = ann.post("/items", {"title": text, "description": text})
    assert created.status_code == 201
    assert (created.json()["title"], created.json()["description"]) == (text, text)
    assert ann.get("/items").json() == [created.json()]


def test_a_description_has_lines_and_a_title_has_one(ann: Person):
    text = "one\ntwo\r\n\tthree"
    assert ann.post("/items", {"title": "Foo", "description": text}).json()["description"] == text
    assert [ann.post("/items", {"title": f"a{char}b"}).status_code for char in "\n\r\t\u2028\u2029"] == [422] * 5


BAD_TITLES = {
    **{
        "empty": "",
        "spaces": "   ",
        "white space of other kinds": "\u00a0\u2003\u3000\ufeff",
        "256 characters": "x" * 256,
    },
    **{"a number": 1, "true": True, "a list": ["Foo"], "an object": {"title": "Foo"}, "100 kB": "x" * 100_000},
}


@pytest.mark.promise("V08", "V13", "V14")
@pytest.mark.parametrize("title", BAD_TITLES.values(), ids=BAD_TITLES)
def test_that_is_no_title(ann: Person, title: object):
    ann.post("/items", {"title": "Foo"})
    assert ann.post("/items", {"title": title}).status_code == 422
    assert ann.patch("/items/1", {"title": title}).status_code == 422
    assert [item["title"] for item in ann.get("/items").json()] == ["Foo"]


@pytest.mark.promise("V08", "V13")
@pytest.mark.parametrize(
    "description", [1, False, [], {}, "x" * 1001], ids=["1", "false", "[]", "{}", "1001 characters"]
)
def test_that_is_no_description(ann: Person, description: object):
    assert ann.post("/items", {"title": "Foo", "description": description}).status_code == 422
    assert ann.post("/items", {"title": "Foo", "description": "x" * 1000}).status_code == 201


@pytest.mark.promise("V01", "V02")
@pytest.mark.parametrize("field", ["title", "description"])
def test_text_that_no_database_keeps_is_refused(ann: Person, field: str):
    # Written as JSON writes it: Python would not even encode half of a surrogate pair.
    bad = (r"\u0000", r"\u0001", r"\u001b", r"\u007f", r"\u0085", r"\ud800", r"\udfff", r"\udc00\ud800")
    answers = [send(ann, f'{{"title": "Foo", "{field}": "a{char}b"}}'.encode()) for char in bad]
    assert [answer.status_code for answer in answers] == [422] * 8
    assert ann.get("/items").json() == []


def test_a_surrogate_pair_is_one_character(ann: Person):
    assert send(ann, rb'{"title": "\ud83d\ude00"}').json()["title"] == "\U0001f600"


@pytest.mark.parametrize(
    "path",
    [
        "/items?x=%ed%a0%80",
        "/items?limit=%ff",
        "/items/%ed%a0%80",
        "/users/%00",
        "/admin/users/%ff/promote",
        "/%00",
        "/%ff",
    ],
)
def test_bytes_that_are_no_text_are_no_address(root: Person, path: str):
    assert root.get(path).status_code in (404, 405, 422)


BAD_BODIES = {
    **{"nothing": b"", "white space": b"  ", "half": b'{"title": "Foo"', "half a word": b'{"title": "Foo'},
    **{
        "apostrophes": b"{'title': 'Foo'}",
        "a comma too many": b'{"title": "Foo",}',
        "more after it": b'{"title": "Foo"} {}',
    },
    **{"a comment": b'{"title": "Foo"} // why', "a list": b'[{"title": "Foo"}]', "text": b'"Foo"', "a number": b"1"},
    **{
        "null": b"null",
        "true": b"true",
        "a line break in text": b'{"title": "a\nb"}',
        "bad escape": rb'{"title": "\x41"}',
    },
    **{
        "NaN": b'{"title": "Foo", "description": NaN}',
        "NaN alone": b"NaN",
        "NaN as a key": b'{"title": "Foo", "x": NaN}',
    },
    **{"Infinity": b'{"title": Infinity}', "-Infinity": b'{"title": -Infinity}', "1e999": b'{"title": 1e999}'},
    **{"1e999 beside it": b'{"title": "Foo", "x": 1e999}', "5000 digits": b'{"title": ' + b"9" * 5000 + b"}"},
    **{
        "Latin-1": '{"title": "é"}'.encode("latin-1"),
        "no UTF-8": b'{"title": "\xff"}',
        "overlong": b'{"title": "\xc0\xaf"}',
    },
    **{
        "a surrogate in UTF-8": b'{"title": "\xed\xa0\x80"}',
        "NUL": b'{"title": "Foo"}\x00',
        "NUL within": b'{"title": "a\x00b"}',
    },
    **{f"UTF-{kind}": '{"title": "Foo"}'.encode(f"utf-{kind}") for kind in ("16", "16-le", "16-be", "32")},
    **{
        "deep list": b"[" * 100_000,
        "deep object": b'{"a":' * 25_000,
        "deep, and closed": b"[" * 60_000 + b"]" * 60_000,
        "not so deep": b"[" * 201 + b"]" * 201,
    },
    "deep title": b'{"title": ' + b"[" * 900 + b"]" * 900 + b"}",
}


@pytest.mark.promise("V03", "V04", "V10")
def test_a_body_that_is_no_item_in_json_is_refused(ann: Person):
    answers = {name: send(ann, body) for name, body in BAD_BODIES.items()}
    accepted = {name: answer.status_code for name, answer in answers.items() if answer.status_code != 422}
    assert accepted == {}
    for answer in answers.values():
        # The refusal itself is JSON, which has no NaN, and small.
        assert json.loads(answer.content, parse_constant=pytest.fail)["status"] == answer.status_code
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert len(answer.content) < 5000
    assert ann.get("/items").json() == []


@pytest.mark.promise("V09")
def test_of_a_key_sent_twice_both_are_refused_or_one_is_kept(ann: Person):
    response = send(ann, b'{"title": "Foo", "title": "Bar"}')
    assert response.status_code in (201, 400, 422)
    assert [item["title"] for item in ann.get("/items").json()] in ([], ["Bar"])


TYPES = [
    None,
    "application/json; charset=utf-16",
    "application/jsonp",
    "multipart/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/json",
    "nonsense",
    "",
]


@pytest.mark.promise("V11")
@pytest.mark.parametrize("content_type", TYPES)
def test_json_that_is_not_called_json_is_refused(ann: Person, content_type: str | None):
    # A web page anywhere can send these without asking, in the name of whoever looks at it.
    assert send(ann, b'{"title": "Foo"}', content_type).status_code == 415
    assert ann.get("/items").json() == []


@pytest.mark.parametrize(
    "content_type", ["APPLICATION/JSON", "application/json; charset=UTF-8", "application/merge-patch+json ; a=b"]
)
def test_json_may_be_called_json_in_other_words(ann: Person, content_type: str):
    assert send(ann, b'{"title": "Foo"}', content_type).status_code == 201


MARK = "hailhydra"


@pytest.mark.promise("P15", "V08")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/items", {"title": MARK * 100}),
        ("POST", "/items", {"title": [MARK]}),
        ("POST", "/items", {"title": "Foo", "description": {MARK: MARK}}),
        ("POST", "/items", {"title": f"{MARK}\x00"}),
        ("POST", "/items", MARK),
        ("PATCH", "/items/1", {"owner_id": MARK}),
        ("GET", f"/items?limit={MARK}", None),
        ("GET", f"/items/{MARK}", None),
        ("POST", "/users", {"username": f"{MARK}!", "email": MARK, "password": MARK, "full_name": f"{MARK}\n"}),
        ("PATCH", "/users/me", {"email": MARK, "username": f"{MARK}@", "current_password": [MARK]}),
        ("PATCH", "/users/me/password", {"current_password": [MARK], "new_password": MARK}),
        ("GET", f"/{MARK}", None),
    ],
)
def test_a_refusal_does_not_repeat_what_was_sent(ann: Person, method: str, path: str, body: object):
    response = ann.client.request(method, f"/api/v1{path}", json=body, headers=ann.headers)
    assert response.status_code in (404, 422)
    assert MARK not in response.text


@pytest.mark.promise("V20")
def test_a_refusal_says_where_and_what_and_no_more(ann: Person):
    response = ann.post("/items", {"title": "", "description": 1})
    assert (response.status_code, response.headers["Content-Type"]) == (422, "application/problem+json")
    problem = response.json()
    assert (problem["status"], problem["type"]) == (422, "about:blank")
    assert [set(wrong) for wrong in problem["detail"]] == [{"loc", "msg", "type"}] * 2
    assert [wrong["loc"] for wrong in problem["detail"]] == [["body", "title"], ["body", "description"]]


@pytest.mark.promise("V08", "V20")
@pytest.mark.parametrize(
    "body",
    [{str(n): n for n in range(8_000)}, {f"{n}{'x' * 2_000}": n for n in range(50)}, {"\U0001f600" * 10_000: 1}],
    ids=["8,000 keys", "50 long keys", "one very long key"],
)
def test_a_refusal_is_bounded_in_number_and_in_size(ann: Person, body: dict[str, int]):
    response = ann.post("/items", body)
    assert response.status_code == 422
    assert len(response.json()["detail"]) <= 20
    assert len(response.content) < 10_000


@pytest.mark.promise("V08")
def test_an_address_without_an_end_holds_nobody_up(ann: Person):
    # In an order that Unicode's normal forms sort one by one.
    for address in ("\u0300\u0316" * 30_000, f"{' ' * 300}Ann@Example.com"):
        body = {"username": "bob", "email": address, "password": PASSWORD}
        began = time.process_time()
        response = ann.client.post(
            "/api/v1/users", content=json.dumps(body, ensure_ascii=False), headers={"Content-Type": "application/json"}
        )
        assert time.process_time() - began < 0.5
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", "email"])


NO_TEXT = r'"\ud800"'  # and so the whole body is no JSON
UNFIT = (r'"a\u0000b"', r'"a\u001bb"', NO_TEXT, f'"{"x" * 100_000}"', "1", "true", "[]", "{}")
COMPARED = {"current_password", "token"}  # and stored nowhere: any text may be a wrong one


@pytest.mark.promise("U19", "V01", "V02", "V08", "V13")
def test_every_text_of_every_body_refuses_what_no_database_keeps(root: Person):
    # From the document itself, so that an entity added tomorrow is asked too.
    document = root.client.app.openapi()  # type: ignore[attr-defined]
    asked, accepted = set(), []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            many = body and body["schema"].get("items")  # where it is a list of such objects
            name = (many or body["schema"]).get("$ref", "").rpartition("/")[2] if body else ""
            for field, schema in document["components"]["schemas"].get(name, {"properties": {}})["properties"].items():
                kinds = {kind.get("type") for kind in schema.get("anyOf", [schema])}
                if "string" not in kinds or "number" in kinds:  # a decimal is both
                    continue
                asked.add(f"{name}.{field}")
                for unfit in UNFIT[2:] if field in COMPARED else UNFIT:
                    headers = {**(root.headers or {}), "Content-Type": "application/json"}
                    content = f'[{{"{field}": {unfit}}}]' if many else f'{{"{field}": {unfit}}}'
                    answer = root.client.request(method, re.sub(r"{\w+}", "1", path), content=content, headers=headers)
                    told = [wrong["loc"] for wrong in answer.json()["detail"]] if answer.status_code == 422 else []
                    where = ["body"] if unfit == NO_TEXT else ["body", *([0] if many else []), field]
                    if where not in told or len(answer.content) > 5000:
                        accepted.append((method, path, field, unfit[:20], answer.status_code))
    assert accepted == []
    assert {"ItemCreate.title", "ItemUpdate.description", "UserCreate.password", "UserUpdate.email"} <= asked


@pytest.mark.promise("V01")
def test_what_no_password_can_be_is_a_wrong_one(ann: Person):
    for path, new in (
        ("/users/me", '"email": "new@example.com"'),
        ("/users/me/password", f'"new_password": "{PASSWORD}"'),
    ):
        content = f'{{"current_password": "{PASSWORD}\\u0000", {new}}}'
        headers = {**(ann.headers or {}), "Content-Type": "application/json"}
        assert ann.client.patch(f"/api/v1{path}", content=content, headers=headers).status_code == 403


@pytest.mark.promise("V02")
def test_the_name_of_an_unknown_key_may_be_no_text(ann: Person):
    assert send(ann, rb'{"title": "Foo", "\ud800": 1, "\u0000": 2}').status_code == 422


@pytest.mark.promise("V16")
@pytest.mark.parametrize(
    "login", ["' OR '1'='1", "ann' --", "ann'; DROP TABLE users; --", 'ann" OR ""="', "%", "ann%", "_nn", "ann\\", "*"]
)
def test_sql_in_a_login_finds_nobody(ann: Person, login: str):
    for username, password in ((login, PASSWORD), ("ann", login)):
        response = ann.client.post("/api/v1/token", data={"username": username, "password": password})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")
    assert ann.get("/users/me").status_code == 200


@pytest.mark.promise("V18")
@pytest.mark.parametrize(
    "name", ["%ff", "%00", "ann%00", "%ed%a0%80", "ann%0D%0A", "%1b", "%c0%af", "%EF%BF%BF", "%", "%zz"]
)
@pytest.mark.parametrize("field", ["username", "password"])
def test_bytes_that_are_no_text_log_nobody_in(ann: Person, field: str, name: str):
    fields = {"username": "ann", "password": "wrong", field: name}
    form = "&".join(f"{key}={value}" for key, value in fields.items())
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    response = ann.client.post("/api/v1/token", content=form, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"] in ("invalid_request", "invalid_grant")
