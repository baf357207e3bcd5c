"""What comes in over the wire, byte by byte: whatever it is, one answer to each request, and a server that lives on."""

import json
import re
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from select import select

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from app.engine import migrations
from app.engine.http.wire import Wire
from tests.conftest import PASSWORD
from tests.scratch import empty_database
from tests.servers import SERVE, Server, settings_for

# `python3 -m app serve`, less patient, and with routes that take their time or do not listen.
HASTY = """
import asyncio
from contextlib import suppress
from fastapi import Request, Response
from starlette.requests import ClientDisconnect
from app import cli, main
from app.engine.http import dispatch
from app.engine.http.wire import Wire
from app.routers import health

Wire.TICK, Wire.FOR_HEAD, Wire.FOR_BODY, Wire.FOR_READING, Wire.FOR_LINGERING = 0.1, 1, 1, 1, 3

@main.app.get("/slow")
async def slow():
    await asyncio.sleep(0.15)
    return "slow"

@main.app.get("/large")
async def large():
    return Response(b"x" * 30_000_000)

@main.app.post("/echo")
async def echo(request: Request):
    body = b""
    with suppress(ClientDisconnect):
        body = await request.body()
    return dict(body=body.decode("latin-1"), names=list(request.headers), scheme=request.url.scheme)

dispatch.install(main.app, dispatch.Limits(ungated=health.PATHS))
cadre = main.app

async def app(scope, receive, send):
    is_unread = scope.get("path") == "/unread"  # the routing table would read the body first
    await (Response("not read") if is_unread else cadre)(scope, receive, send)

main.app = app
cli.main()
"""
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
GET, SLOW = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
ECHO = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("wire")
    with empty_database(folder, "wire") as url:
        migrations.upgrade(url)
        server = Server(folder, settings_for(url) | {"BCRYPT_ROUNDS": "10"}, ("-c", HASTY, *SERVE[2:]))
        try:
            server.is_up()
            body = {"username": "ann", "email": "ann@example.com", "password": PASSWORD}
            assert server.http.post("/users", json=body).status_code == 201
            assert server.log_in("ann").status_code == 200
            yield server
            assert server.stop() == 0
            assert "Traceback" not in server.said
        finally:
            server.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def connect(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the server closes, which it must within five seconds."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(2**16):
            received += piece
    return received


def ask(server: Server, *pieces: bytes, pause: float = 0.02) -> list[Answer]:
    """Send `pieces`, and return the answers. The connection must be closed after them."""
    with connect(server) as connection:
        for piece in pieces:
            with suppress(ConnectionError):
                connection.sendall(piece)
            if piece is not pieces[-1]:
                time.sleep(pause)
        return parsed(everything(connection))


def parsed(received: bytes) -> list[Answer]:
    """Answers and nothing else, each as RFC 9112 has it."""
    answers = []
    while received:
        head, end, received = received.partition(b"\r\n\r\n")
        status, *fields = head.decode("ascii").split("\r\n")
        assert end, head
        match = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) [\w -]+", status)
        assert match, status
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        code = int(match[1])
        length = 0 if code in (100, 204, 304) else int(headers["content-length"])
        assert len(received) >= length
        answers.append(Answer(code, headers, received[:length]))
        received = received[length:]
    return answers


def assert_refused(answers: list[Answer], *statuses: int) -> None:
    """One answer, and it is a refusal like any other."""
    (answer,) = answers
    assert answer.status in statuses
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["status"] == answer.status
    carried = [answer.headers[name] for name in ("connection", "cache-control", "x-content-type-options")]
    assert carried == ["close", "no-store", "nosniff"]
    assert "server" not in answer.headers


CHUNKED = "Transfer-Encoding: chunked"
BAD_LENGTHS = [
    *("+5", "-5", "0x5", "5 5", "5, 6", "5,5", "", "5\x00", "5\x0b", "1e1", "9" * 20, "\r\n 5", "5\r\n 6"),
    *("5\r\nContent-Length: 5", "5\r\nContent-Length: 6", "0\r\nContent-Length: 5", f"5\r\n{CHUNKED}"),
]
BAD_FIELDS = [
    *(f"Content-Length: {length}" for length in BAD_LENGTHS),
    *("Content-Length : 5", "Content-Length\t: 5", " Content-Length: 5", "Content-Length\x00: 5", "X: y\r\n folded"),
    *(f"{CHUNKED}\r\nContent-Length: 5", f"{CHUNKED}\r\n{CHUNKED}", f"Transfer-Encoding: identity\r\n{CHUNKED}"),
    *(f"Transfer-Encoding: {value}" for value in ("xchunked", "gzip", "identity", "gzip, chunked", "chunked, gzip")),
    *(f"Transfer-Encoding: {value}" for value in ("chunked, chunked", ",chunked", "chunked;q=1", '"chunked"', "")),
    *(f"Transfer-Encoding: {value}" for value in ("\x0bchunked", "chunked\x00", "\r\n chunked")),
    *("Transfer-Encoding : chunked", "X: a\rb", "X: a\nb", "X: a\x00b", "X y: z", ": y", "X", "X\x00: y", "Host: y"),
]


@pytest.mark.promise("R01", "R02", "R05")
def test_what_two_servers_could_read_in_two_ways_is_refused_and_nothing_behind_it_is_read(server: Server):
    for field in BAD_FIELDS:
        head = b"POST /echo HTTP/1.1\r\nHost: x\r\n" + field.encode("latin-1") + b"\r\n\r\n"
        assert_refused(ask(server, head + b"0\r\n\r\n" + SMUGGLED), 400)


@pytest.mark.promise("R01")
@pytest.mark.parametrize(
    "chunks",
    [
        *(b"5\nabcde\n0\n\n", b"5\r\nabcdeX\r\n0\r\n\r\n", b"0x5\r\nabcde", b"+5\r\nabcde", b"-1\r\n", b"5 \r\nabcde"),
        *(b"F" * 17 + b"\r\n", b"5;\nabcde", b'5;a="\n"\r\nabcde', b"\r\n5\r\nabcde", b"5\rabcde"),
        *(b"5\r\nabcde0\r\n\r\n", b"5\r\nabcde\r\n0\r\nContent-Length: 3\r\n\r\nabc"),
        b"5\r\nabcde\r\n0\r\n" + CHUNKED.encode() + b"\r\n\r\n",
        *(b"5;a=" + b"x" * 100_000, b"5\r\nabcde\r\n0\r\nX: " + b"x" * 100_000),
    ],
    ids=lambda chunks: repr(chunks[:20]),
)
def test_chunks_that_are_none_are_refused(server: Server, chunks: bytes):
    assert_refused(ask(server, ECHO + CHUNKED.encode() + b"\r\n\r\n" + chunks + SMUGGLED), 400)


@pytest.mark.promise("R05", "R06")
@pytest.mark.parametrize(
    "request_",
    [
        *(b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n"),
        *(b"GET /health\r\n\r\n", b"GET /health HTTP/0.9\r\n\r\n", b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n"),
        *(b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", b"\x00" * 99),
        *(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\xff\xfe" * 99),
        *(b"GET /health HTTP/1.1\nHost: x\n\n", b"GET /health HTTP/1.1\r\nHost: x\n\r\n", b"GET /\x00 HTTP/1.1\r\n"),
        *(b" GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"BREW /health HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 20_000),
        *(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET x HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        *(b"GET http://y/health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://x@y/health HTTP/1.1\r\nHost: x\r\n\r\n"),
        b"POST /echo HTTP/1.0\r\n" + CHUNKED.encode() + b"\r\n\r\n0\r\n\r\n",
    ],
    ids=lambda request_: repr(request_[:30]),
)
def test_what_is_no_request_is_told_so(server: Server, request_: bytes):
    assert_refused(ask(server, request_ + SMUGGLED), 400)


@pytest.mark.promise("H13")
def test_a_refusal_is_found_again_in_the_log(server: Server):
    (answer,) = ask(server, b"\x16\x03\x01\x02\r\n\r\n")
    (line,) = [line for line in server.said.splitlines() if answer.headers["x-request-id"] in line]
    assert json.loads(line)["message"] == "Refused with 400: That is no HTTP request."


@pytest.mark.promise("R07", "R08")
def test_a_head_has_a_size(server: Server):
    def head(address: int = 1, fields: int = 0, size: int = 1) -> bytes:
        lines = b"".join(b"X-%d: %s\r\n" % (number, b"x" * size) for number in range(fields))
        return b"GET /health?%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n" % (b"x" * address, lines)

    fits = [head(8000), head(8000, 1, 16_000), head(1, 98), head(8000, 90, 160)]
    assert [answer.status for request in fits for answer in ask(server, request)] == [200] * 4
    # The same in pieces: what matters is the size, not how it was cut.
    for request in fits:
        cut = [request[start : start + 3000] for start in range(0, len(request), 3000)]
        assert [answer.status for answer in ask(server, *cut, pause=0)] == [200]
    for size in (9000, 100_000, 1_000_000):
        assert_refused(ask(server, head(size)), 414)
    for size in (17_000, 100_000, 1_000_000):
        assert_refused(ask(server, head(1, 1, size)), 431)
    for fields, size in ((99, 1), (101, 1), (20_000, 50), (99, 200)):
        assert_refused(ask(server, head(1, fields, size)), 431)
    with connect(server) as endless:
        endless.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
        sent = 0
        while not select([endless], [], [], 0)[0]:
            sent += endless.send(b"x" * 1000)
            time.sleep(0.001)
        assert sent < 100_000
        assert_refused(parsed(everything(endless)), 431)


def test_a_refusal_comes_after_the_answers_that_are_due_and_not_into_them(server: Server):
    bad = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n"
    broken = ECHO + CHUNKED.encode() + b"\r\n\r\nzz"
    for requests, bodies in {
        (SLOW, bad, SMUGGLED): [b'"slow"'],
        (SLOW + bad + SMUGGLED,): [b'"slow"'],
        (SLOW + GET + bad + SMUGGLED,): [b'"slow"', b'{"status":"ok"}'],
        (SLOW + GET + broken + SMUGGLED,): [b'"slow"', b'{"status":"ok"}'],
        (SLOW, broken + SMUGGLED): [b'"slow"'],
    }.items():
        answers = ask(server, *requests, pause=0)
        assert [answer.body for answer in answers] == bodies
        assert [answer.headers.get("connection") for answer in answers][-1] == "close"


def test_only_so_many_requests_wait_for_the_answer_to_an_earlier_one(server: Server):
    few, many = ask(server, SLOW + GET * (Wire.QUEUE - 1) + LAST), ask(server, SLOW + GET * 5000)
    assert len(few) == len(many) == Wire.QUEUE + 1
    assert {answer.status for answer in few + many} == {200}
    assert many[-1].headers["connection"] == "close"


@pytest.mark.once
@pytest.mark.promise("R09")
def test_who_is_too_slow_is_let_go(server: Server):
    half = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    stalled = {
        **{"nothing": (b"", b""), "a letter": (b"G", b""), "half a head": (half, b""), "fields": (half, b"X: y\r\n")},
        **{"the next head": (GET + half, b"X: y\r\n"), "idle": (GET, b""), "empty lines": (GET, b"\r\n")},
        "half a body": (ECHO + b"Content-Length: 9\r\n\r\n12", b""),
        "a chunk at a time": (ECHO + CHUNKED.encode() + b"\r\n\r\n2\r\n12\r\n", b"1\r\n3\r\n"),
    }
    began, taken, received = time.monotonic(), {}, dict.fromkeys(stalled, b"")
    with ExitStack() as stack:
        connections = {name: stack.enter_context(connect(server)) for name in stalled}
        large = stack.enter_context(connect(server))
        large.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        for name, connection in connections.items():
            connection.sendall(stalled[name][0])
        while len(taken) < len(stalled) and time.monotonic() < began + 4:
            for name in stalled.keys() - taken.keys():
                try:
                    piece = connections[name].recv(2**16, socket.MSG_DONTWAIT)
                    received[name] += piece
                    if not piece:
                        taken[name] = time.monotonic() - began
                except BlockingIOError:
                    with suppress(ConnectionError):
                        connections[name].sendall(stalled[name][1])
                except ConnectionResetError:
                    taken[name] = time.monotonic() - began
            time.sleep(0.1)
        assert len(everything(large)) < 30_000_000
    assert taken.keys() == stalled.keys()
    assert all(0.9 < seconds < 3 for seconds in taken.values())
    for name in ("half a head", "half a body"):
        assert_refused(parsed(received[name]), 408)
    assert received["nothing"] == b""
    assert [answer.status for answer in parsed(received["idle"])] == [200]
    # So much for this server; and for those that people start:
    assert (Wire.FOR_HEAD, Wire.FOR_BODY, Wire.RATE, Wire.FOR_READING, Wire.FOR_LINGERING) == (10, 20, 500, 30, 10)


@pytest.mark.once
def test_who_reads_slowly_but_steadily_gets_all_of_it(server: Server):
    with connect(server) as connection:
        connection.sendall(LAST.replace(b"/health", b"/large"))
        received, until = 0, time.monotonic() + 2
        while piece := connection.recv(2**15 if time.monotonic() < until else 2**20):
            received += len(piece)
            time.sleep(0.07 if time.monotonic() < until else 0)
        assert received > 30_000_000


@pytest.mark.promise("R10")
def test_stalled_requests_hold_nobody_up(server: Server):
    with ExitStack() as stack:
        for start in (b"GET /health HTTP/1.1\r\nHos", ECHO + b"Content-Length: 9\r\n\r\n12") * 150:
            stack.enter_context(connect(server)).sendall(start)
        began = time.monotonic()
        assert server.http.get("/items").status_code == 200
        assert time.monotonic() - began < 1


@pytest.mark.promise("R11", "R16")
def test_clients_that_hang_up_leave_a_healthy_server(server: Server):
    token = server.http.headers["Authorization"].encode()
    requests = [
        b"POST /api/v1/items HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Type: application/json\r\n"
        b"Content-Length: 15\r\n\r\n%s" % (token, body)
        for body in (b'{"title": "ok"}', b'{"title"')
    ]
    for number in range(150):
        connection = connect(server)
        connection.sendall((*requests, requests[0] * 3)[number % 3])
        if number % 2:  # the hard way
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    many = server.client(timeout=12)
    many.headers = server.http.headers
    with many, ThreadPoolExecutor(100) as pool:
        for _ in range(2):
            answers = list(pool.map(lambda _: many.get("/items"), range(100)))
            assert [answer.status_code for answer in answers].count(200) >= 90
            assert all(answer.headers["Retry-After"] for answer in answers if answer.status_code != 200)


@pytest.mark.promise("R12")
def test_a_line_break_in_an_address_does_not_reach_the_answers_head(server: Server):
    for path in (
        "/%0d%0aX-Evil:%201",
        "/api/v1/items/1%0d%0aX-Evil:%201?a=%0d%0aX-Evil:%201",
        "/static/%0d%0aX-Evil:1",
    ):
        (answer,) = ask(server, LAST.replace(b"/health", path.encode()))
        assert answer.status in (401, 404, 422)
        assert "x-evil" not in answer.headers


@pytest.mark.promise("R15")
def test_while_thirty_log_in_others_are_answered(server: Server):
    form = {"username": "ann", "password": PASSWORD}
    with server.client() as others, ThreadPoolExecutor(30) as pool:
        logins = [pool.submit(others.post, "/token", data=form) for _ in range(30)]
        time.sleep(0.1)
        began = time.monotonic()
        assert server.http.get("/items").status_code == 200
        assert time.monotonic() - began < 2
        assert {login.result().status_code for login in logins} <= {200, 503}


def test_an_answer_that_overtakes_the_body_is_read_before_the_connection_ends(server: Server):
    for path, length, status in ((b"/unread", 3_000_000, 200), (b"/unread", 3, 200), (b"/echo", 3_000_000, 413)):
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (path, length)
        with connect(server) as connection:
            connection.sendall(head)
            time.sleep(0.1)
            connection.sendall(b"x" * length + SMUGGLED)
            received = b""
            while piece := connection.recv(2**16):  # and no reset
                received += piece
        (answer,) = parsed(received)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
    # But it is not read without an end.
    with connect(server) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % 10**9 + b"x" * 10**8)


def test_a_body_that_nobody_asked_for_is_not_read_as_a_request(server: Server):
    expecting = b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(SMUGGLED)
    (answer,) = ask(server, b"POST /unread HTTP/1.1\r\nHost: x\r\n" + expecting, SMUGGLED, pause=0.2)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    first, second, third = ask(server, ECHO + expecting, SMUGGLED + LAST, pause=0.2)
    assert [first.status, second.status, third.status] == [100, 200, 200]
    assert json.loads(second.body)["body"] == SMUGGLED.decode()


def test_another_protocol_is_not_spoken_here_and_the_request_is_answered_all_the_same(server: Server):
    for wish in (b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eDEyMzQ1Njc4OTAxMjM0NQ==", b"h2c"):
        asked = b"Connection: Upgrade\r\nUpgrade: %s\r\n" % wish
        for body in (b"Content-Length: 5\r\n\r\nabcde", CHUNKED.encode() + b"\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"):
            echoed, last = ask(server, ECHO + asked + body + LAST)
            assert (echoed.status, json.loads(echoed.body)["body"], last.status) == (200, "abcde", 200)
        first, last = ask(server, GET[:-2] + asked + b"\r\n", LAST)
        assert (first.status, last.status) == (200, 200)


def test_an_address_may_be_whole(server: Server):
    (answer,) = ask(server, LAST.replace(b"/health", b"http://X/health"))
    assert (answer.status, answer.body) == (200, b'{"status":"ok"}')


def test_trailers_do_not_join_the_header_fields(server: Server):
    body = CHUNKED.encode() + b"\r\n\r\n5\r\nabcde\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    echoed, _last = ask(server, ECHO + body + LAST)
    assert json.loads(echoed.body)["names"] == ["host", "content-type", "transfer-encoding"]
    # One that says "close" ends the connection: the parser reads nothing behind it.
    (answer,) = ask(server, ECHO + body.replace(b"Authorization: Bearer x", b"Connection: close") + SMUGGLED)
    assert answer.headers["connection"] == "close"


@pytest.mark.promise("H09", "H26")
def test_nobody_is_believed_who_says_to_be_a_proxy(server: Server):
    (answer,) = ask(server, ECHO + b"X-Forwarded-Proto: https\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    assert json.loads(answer.body)["scheme"] == "http"
    assert "server" not in answer.headers


PARTS = [
    *(b"GET ", b"POST ", b"/echo", b"/health", b" HTTP/1.1", b" HTTP/1.0", b"Host: x", b"Connection: close", b"X: y"),
    *(b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
    *(b"Upgrade: h2c\r\nConnection: upgrade", b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"0\r\n\r\n", b"\x00", b"\xff"),
    *(b"0", b"5", b"abcde", b";a=b", b" ", b":"),
]
WHOLE = [
    GET,
    LAST,
    ECHO + b"Content-Length: 5\r\n\r\nabcde",
    ECHO + CHUNKED.encode() + b"\r\n\r\n5\r\nabcde\r\n0\r\n\r\n",
]


@strategies.composite
def mutated(draw: strategies.DrawFn) -> bytes:
    """A good request or two, with parts put in, taken out and changed."""
    sent = bytearray(b"".join(draw(strategies.lists(strategies.sampled_from(WHOLE), min_size=1, max_size=2))))
    for _ in range(draw(strategies.integers(0, 4))):
        at = draw(strategies.integers(0, len(sent)))
        to = min(len(sent), at + draw(strategies.sampled_from([0, 0, 1, 2, 12])))
        sent[at:to] = draw(strategies.sampled_from(PARTS))
    return bytes(sent)


def drawn(strategy: strategies.SearchStrategy[bytes], number: int) -> list[bytes]:
    found: set[bytes] = set()

    @settings(max_examples=number, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def draw(example: bytes) -> None:
        found.add(example)

    draw()
    return list(found)


def thrown(server: Server, sent: list[bytes]) -> Iterator[tuple[bytes, list[Answer]]]:
    """Each on a connection of its own, all at the same time, and what came back until it was closed."""
    with ExitStack() as stack:
        connections = [(stack.enter_context(connect(server)), example) for example in sent]
        for connection, example in connections:
            connection.sendall(example)
        for connection, example in connections:
            yield example, parsed(everything(connection))


@pytest.mark.once
@pytest.mark.promise("R06")
def test_whatever_is_sent_answers_are_well_formed_and_the_server_lives(server: Server):
    for sent, answers in thrown(server, drawn(mutated(), 300)):
        assert all(answer.status < 500 for answer in answers), sent
    assert [answer.status for answer in ask(server, LAST)] == [200]


@pytest.mark.once
@pytest.mark.promise("R01", "R02")
def test_nothing_behind_an_ambiguous_head_is_ever_answered(server: Server):
    heads = strategies.sampled_from(BAD_FIELDS).map(lambda field: ECHO + field.encode("latin-1") + b"\r\n\r\n")
    behind = strategies.lists(strategies.sampled_from([*PARTS, *WHOLE]), max_size=8).map(b"".join)
    examples = drawn(strategies.builds(lambda head, rest: head + rest + SMUGGLED, heads, behind), 200)
    for sent, answers in thrown(server, examples):
        assert len(answers) == 1, sent
