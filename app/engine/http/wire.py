"""What may come in over the wire, and for how long: uvicorn's HTTP protocol, with the limits that it lacks.

llhttp, uvicorn's parser, refuses most of what two servers could read in two ways. Added here:

- a head has a size, one host, version 1.0 or 1.1, and at most a plain `Transfer-Encoding: chunked`;
- what does not fit is answered with problem details, never before or within an answer that is under way;
- who sends or reads too slowly is let go;
- an answer that overtakes its request's body ends the connection, and time is left to read it.

Deadlines cost a request nothing: once a second each connection looks whether it still waits for the same thing.
"""

import asyncio
import json
import secrets
import socket
from types import SimpleNamespace
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.errors import problem

PIECE = 16 * 2**10  # the parser is given so much at once, and then asked what it made of it
BETWEEN, HEAD, BODY = "between requests", "in a head", "in a body"  # where the next byte belongs
NO_HTTP, TOO_LARGE = "That is no HTTP request.", "The header fields are too large."


class Refused(Exception):
    """Raised in the parser's callbacks. The parser raises an error of its own then, with this as its context."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Wire(HttpToolsProtocol):
    """One connection."""

    ADDRESS = 8 * 2**10  # bytes of a path with its query
    FIELDS, FIELDS_SIZE = 100, 16 * 2**10
    QUEUE = 32  # requests that wait while an earlier one is answered
    LEFTOVER = 16 * 2**20  # bytes thrown away after the last answer
    TICK = 1.0  # seconds, like all below
    FOR_HEAD = 10.0
    FOR_BODY, RATE = 20.0, 500.0  # and a second more for each so many bytes, as Apache's mod_reqtimeout has it
    FOR_READING = 30.0  # without any progress
    FOR_LEAVING = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.wire = transport
        if self.client and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else progress hides in megabytes of the kernel's
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**15)
        # What answers are written to. One that thinks it was the last closes it.
        self.door = SimpleNamespace(write=transport.write, close=self.leave, is_closing=transport.is_closing)
        self.transport = cast(asyncio.Transport, self.door)
        self.stage = self.seen = BETWEEN
        self.awaited: object = None
        self.line: list[RequestResponseCycle] = []  # of pipelined requests, the unanswered
        self.useless = self.arrived = self.leftover = self.unsent = 0
        self.is_deaf = self.is_leaving = self.is_persistent = False
        self.since = self.moved = self.loop.time()
        self.until = self.last_call = float("inf")
        self.timer = self.loop.call_later(self.TICK, self.look_after)

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.transport = self.wire
        for cycle in self.line:  # uvicorn tells only the newest
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if len(data) > PIECE:
            for start in range(0, len(data), PIECE):
                self.data_received(data[start : start + PIECE])
            return
        self._unset_keepalive_if_required()
        if self.is_deaf:
            self.leftover += len(data)
            if self.leftover > self.LEFTOVER:
                self.wire.abort()
            return
        self.useless += len(data)  # until a callback finds a use for it
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserError as error:
            why = error.__context__
            self.refuse(why if isinstance(why, Refused) else Refused(400, NO_HTTP))
        else:
            if self.useless > self.ADDRESS + self.FIELDS_SIZE:
                # A head without an end; or chunk extensions, trailers, empty lines.
                self.refuse(Refused(431, TOO_LARGE) if self.stage is HEAD else Refused(400, NO_HTTP))

    def on_url(self, url: bytes) -> None:
        self.url += url
        self.stage, self.useless = HEAD, 0
        if len(self.url) > self.ADDRESS:
            raise Refused(414, "The address is too long.")

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refused(400, "This is no proxy.")
            return
        self.check_head()
        before = self.cycle
        super().on_headers_complete()
        if self.pipeline:
            unanswered = [cycle for cycle in self.line if not cycle.response_complete and cycle is not before]
            self.line = [*unanswered, before, self.cycle]
        self.headers = []  # for trailers, which must not join the fields of a request that is under way
        self.stage, self.useless, self.arrived = BODY, 0, 0
        # An answer that overtakes the body must say `connection: close`.
        self.is_persistent, self.cycle.keep_alive = self.cycle.keep_alive, False

    def check_head(self) -> None:
        version, fields = self.parser.get_http_version(), dict(self.headers)
        plain = version == "1.1" and b"host" in fields and b"transfer-encoding" not in fields and self.url[:1] == b"/"
        if plain and len(fields) == len(self.headers) <= self.FIELDS and not self.useless and not self.pipeline:
            return  # for speed: so are most
        if version not in ("1.1", "1.0"):
            raise Refused(400, "This server speaks HTTP/1.1.")
        hosts = [value.lower() for name, value in self.headers if name == b"host"]
        named = hosts if self.url[:1] in (b"/", b"*") else self.url.lower().split(b"/", 3)[2:3]  # http://host/path
        if named != hosts or len(hosts) > 1 or (not hosts and version == "1.1"):
            raise Refused(400, "There must be one Host.")
        encodings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if encodings and (encodings != [b"chunked"] or version != "1.1"):
            raise Refused(400, "The only Transfer-Encoding is chunked, in HTTP/1.1.")
        if len(self.headers) > self.FIELDS:
            raise Refused(431, f"There are more than {self.FIELDS} header fields.")
        # What came in one piece is not too large.
        if self.useless and sum(len(name) + len(value) + 4 for name, value in self.headers) > self.FIELDS_SIZE:
            raise Refused(431, TOO_LARGE)
        if len(self.pipeline) >= self.QUEUE:
            raise Refused(400, "Too many requests that do not wait for an answer.")

    def on_body(self, body: bytes) -> None:
        self.useless = 0
        self.arrived += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.stage is HEAD:
            return  # an upgrade: the request itself is still to come
        cycle, self.stage, self.useless = self.cycle, BETWEEN, 0
        if not cycle.response_started:
            cycle.keep_alive = self.is_persistent and self.parser.should_keep_alive()  # trailers may end it
        cycle.more_body = False
        cycle.message_event.set()

    def ignore_upgrade(self, rest: bytes) -> None:
        """Read the same request once more without that wish: the parser would not read its body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.data_received(b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, b"".join(fields), rest))

    def refuse(self, why: Refused) -> None:
        """Read no further. Answer, unless something is being answered: then that was the last answer."""
        self.logger.info("Refused with %d: %s", why.status, why.detail)
        self.is_deaf = True
        last: RequestResponseCycle | None = self.cycle
        if self.stage is BODY:  # so it is the newest request that is refused
            if self.pipeline:
                self.pipeline.popleft()
                last, self.stage = self.line[-2], BETWEEN
            elif not self.cycle.response_started:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                last = None
        else:
            self.stage = BETWEEN
        if last is None or last.response_complete:
            self.write_refusal(why)
            self.leave()
        else:
            last.keep_alive = False
            self.cycle = last  # as uvicorn knows it, the newest

    def write_refusal(self, why: Refused) -> None:
        body = json.dumps(problem(why.status, why.detail)).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            (b"x-request-id", secrets.token_hex(8).encode()),
            (b"connection", b"close"),
        ]
        lines = [b"%b: %b\r\n" % header for header in headers]
        self.wire.write(b"%b%b\r\n%b" % (STATUS_LINE[why.status], b"".join(lines), body))

    def leave(self) -> None:
        """Close, and where more is coming first let it come: closing would take the answer away from its reader."""
        if self.is_leaving:
            return
        self.is_leaving, self.door.is_closing = True, lambda: True
        if not (self.is_deaf or self.stage is BODY) or self.wire.is_closing():
            self.wire.close()
            return
        self.is_deaf, self.until = True, self.loop.time() + self.FOR_LEAVING
        self.flow.resume_reading()
        self.wire.write_eof()

    def shutdown(self) -> None:
        """The server stops. What is under way may finish, and a body may still arrive for most of the grace."""
        self.last_call = self.loop.time() + max((self.config.timeout_graceful_shutdown or 10) - 2, 0)
        self.is_persistent = False
        super().shutdown()
        if self.is_leaving:
            self.wire.close()

    def look_after(self) -> None:
        """Close what has waited for too long."""
        now = self.loop.time()
        self.timer = self.loop.call_later(self.TICK, self.look_after)
        awaited = self.scope if self.stage is HEAD else self.cycle
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if awaited is not self.awaited or self.stage is not self.seen or (self.stage is BETWEEN and is_answering):
            self.awaited, self.seen, self.since = awaited, self.stage, now
        if self.flow.read_paused:
            self.since += self.TICK  # it is us who are slow
        unsent = self.wire.get_write_buffer_size()
        if unsent != self.unsent:
            self.unsent, self.moved = unsent, now
        if unsent and now - self.moved > self.FOR_READING:
            self.wire.abort()
        elif self.is_leaving:
            if now > min(self.until, self.last_call) and not unsent:
                self.wire.abort()
        elif self.stage is BODY:
            if now > min(self.since + self.FOR_BODY + self.arrived / self.RATE, self.last_call):
                if self.is_deaf:
                    self.wire.abort()  # the last answer does not end
                else:
                    self.refuse(Refused(408, "The body took too long."))
        elif self.stage is HEAD and now - self.since > self.FOR_HEAD:
            self.refuse(Refused(408, "The header took too long."))
        elif now - self.since > self.FOR_HEAD:
            self.leave()
