"""What may come in over the wire, and for how long: uvicorn's HTTP protocol, with the limits that it lacks.

- A head is one that all servers read in the same way, and has a size: see heads.py.
- What does not fit is answered with problem details, never before or within an answer that is under way.
- Who sends or reads too slowly is let go.
- An answer that overtakes its request's body ends the connection, and time is left to read it.

uvicorn keeps for each request a cycle, which runs the app and writes the answer. Requests that come while an earlier
one is answered wait in `pipeline`, the newest first; `cycle` is that of the newest request, waiting or not.
"""

import asyncio
import secrets
import socket
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.engine import logs
from app.engine.http import heads
from app.engine.http.heads import FIELDS_SIZE, TARGET_SIZE, FieldsTooLarge, NotHttp, TargetTooLong
from app.errors import Refusal, RequestTimeout

PIECE = 16 * 2**10  # bytes: the parser is given so many at once, and then asked what it made of them
BETWEEN, HEAD, BODY = "between requests", "in a head", "in a body"  # where the next byte belongs


class AnswerTransport:
    """The connection as a cycle knows it: to write to, and to close in the Wire's way."""

    def __init__(self, wire: "Wire") -> None:
        self.write, self.close, self._wire = wire.tcp.write, wire.close, wire

    def is_closing(self) -> bool:
        return self._wire.is_closing or self._wire.tcp.is_closing()


class Unchanged:
    """How long something has been what it is, for one who looks now and then. Times are the loop's."""

    def __init__(self, value: object, now: float) -> None:
        self.value, self.since = value, now

    def look(self, value: object, now: float) -> None:
        if value != self.value:
            self.value, self.since = value, now


class Wire(HttpToolsProtocol):
    """One connection."""

    QUEUE = 32  # requests that wait while an earlier one is answered
    MOST_DISCARDED = 16 * 2**20  # bytes that come after the last request

    # Seconds.
    TICK = 1.0
    FOR_HEAD = 10.0  # and for the next request to begin
    FOR_BODY, RATE = 20.0, 500.0  # and a second more for each RATE bytes, as Apache's mod_reqtimeout has it
    FOR_READING = 30.0  # an answer, without any progress
    FOR_LINGERING = 10.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        # What is being read.
        self.stage, self.heads = BETWEEN, 0  # and how many heads came
        self.overhead = 0  # bytes since the last that were of use: of an address, a body, a whole head or request
        self.body_size = 0  # bytes of this body that came
        self.is_persistent = False  # whether the connection outlives the answer, once the body is there
        # What is being answered, and how it ends.
        self.running: RequestResponseCycle | None = None  # the newest that is not in the pipeline
        self.is_discarding, self.discarded = False, 0  # whether what comes is no longer read; bytes of it
        self.is_closing = False  # whether nothing more will be answered
        self.linger_until = self.stop_at = float("inf")
        # What check_deadlines saw.
        now = self.loop.time()
        self.awaited, self.unsent = Unchanged((BETWEEN, 0), now), Unchanged(0, now)
        self.timer = self.loop.call_later(self.TICK, self.check_deadlines)
        if self.client and hasattr(socket, "TCP_NOTSENT_LOWAT"):  # else progress hides in megabytes of the kernel's
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 2**15)
        self.tcp = transport
        self.transport = cast(asyncio.Transport, AnswerTransport(self))

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        self.transport = self.tcp  # there is nobody to linger for
        if self.running:  # uvicorn tells only the newest
            _disconnect(self.running)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if len(data) > PIECE:
            for start in range(0, len(data), PIECE):
                self.data_received(data[start : start + PIECE])
            return
        self._unset_keepalive_if_required()
        if self.is_discarding:
            self.discarded += len(data)
            if self.discarded > self.MOST_DISCARDED:
                self.tcp.abort()
            return
        self.overhead += len(data)  # until a callback says otherwise
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            self.ignore_upgrade(data[upgrade.args[0] :])
        except HttpParserError as error:
            # What a callback raises is the context of the parser's own error.
            self.refuse(error.__context__ if isinstance(error.__context__, Refusal) else NotHttp())
        else:
            if self.overhead > TARGET_SIZE + FIELDS_SIZE:
                # A head without an end; or chunk extensions, trailers, empty lines.
                self.refuse(FieldsTooLarge() if self.stage is HEAD else NotHttp())

    # The parser's callbacks, in the order of a request.

    def on_url(self, url: bytes) -> None:
        self.url += url
        self.stage, self.overhead = HEAD, 0
        if len(self.url) > TARGET_SIZE:
            raise TargetTooLong

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise Refusal("This is no proxy.")
            return  # ignore_upgrade is next
        heads.check_head(self.parser.get_http_version(), self.url, self.headers, may_be_large=self.overhead > 0)
        if len(self.pipeline) >= self.QUEUE:
            raise Refusal("Too many requests that do not wait for an answer.")
        super().on_headers_complete()
        self.headers = []  # for trailers, which must not join the fields of a request that is under way
        self.stage, self.overhead, self.body_size = BODY, 0, 0
        self.heads += 1
        # An answer that overtakes the body must say `connection: close`.
        self.is_persistent, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        self.overhead = 0
        self.body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.stage is HEAD:
            return  # an upgrade: the request itself is still to come
        self.stage, self.overhead = BETWEEN, 0
        if not self.cycle.response_started:
            self.cycle.keep_alive = self.is_persistent and self.parser.should_keep_alive()  # trailers may end it
        self.cycle.more_body = False
        self.cycle.message_event.set()

    def ignore_upgrade(self, rest: bytes) -> None:
        """Read the same request once more without that wish: the parser would not read its body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.data_received(b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, self.url, version, b"".join(fields), rest))

    # Answers: uvicorn starts one, and this one or a refusal is the last.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def refuse(self, refusal: Refusal) -> None:
        """Read no further. Answer, unless something is being answered: then that was the last answer."""
        request_id = secrets.token_hex(8)
        logs.request_id.set(request_id)
        self.logger.info("Refused with %d: %s", refusal.status, refusal.detail)
        self.is_discarding = True
        last: RequestResponseCycle | None = self.cycle
        if self.stage is not BODY:
            self.stage = BETWEEN
        elif self.pipeline:  # the newest request is the one that is refused, and it still waits
            self.pipeline.popleft()
            last = self.pipeline[0][0] if self.pipeline else self.running
            self.stage = BETWEEN
        elif not self.cycle.response_started:
            _disconnect(self.cycle)
            last = None
        if last is None or last.response_complete:
            self.tcp.write(heads.answer_bytes(refusal, request_id, self.server_state.default_headers))
            self.close()
        else:
            last.keep_alive = False
            self.cycle = last  # as uvicorn knows it, the newest

    def close(self) -> None:
        """Close, but linger while more is coming: a reset could take the answer from its reader (RFC 9112, 9.6)."""
        if self.is_closing:
            return
        self.is_closing = True
        if not (self.is_discarding or self.stage is BODY) or self.tcp.is_closing():
            self.tcp.close()
            return
        self.is_discarding, self.linger_until = True, self.loop.time() + self.FOR_LINGERING
        self.flow.resume_reading()
        self.tcp.write_eof()

    def shutdown(self) -> None:
        """The server stops. What is under way may finish, and a body may still arrive for most of the grace."""
        self.stop_at = self.loop.time() + max((self.config.timeout_graceful_shutdown or 10) - 2, 0)
        self.is_persistent = False
        for cycle in (self.running, *(cycle for cycle, _ in self.pipeline)):
            if cycle:
                cycle.scope["state"]["stopping"] = True  # for an answer that would go on and on
        super().shutdown()
        if self.is_closing:
            self.tcp.close()

    def check_deadlines(self) -> None:
        """Let go who takes too long. To look every TICK costs a request nothing."""
        self.timer = self.loop.call_later(self.TICK, self.check_deadlines)
        now, unsent = self.loop.time(), self.tcp.get_write_buffer_size()
        self.unsent.look(unsent, now)
        self.awaited.look((self.stage, self.heads), now)
        if self.stage is BETWEEN and self.cycle and not self.cycle.response_complete:
            self.awaited.since = now  # the client is the one who waits
        elif self.flow.read_paused:
            self.awaited.since += self.TICK  # it is us who are slow
        if unsent and now - self.unsent.since > self.FOR_READING:
            self.tcp.abort()
        elif self.is_closing:
            if now > min(self.linger_until, self.stop_at) and not unsent:
                self.tcp.abort()
        elif self.stage is BODY:
            if now > min(self.awaited.since + self.FOR_BODY + self.body_size / self.RATE, self.stop_at):
                if self.is_discarding:
                    self.tcp.abort()  # the last answer does not end
                else:
                    self.refuse(RequestTimeout("The body took too long."))
        elif now - self.awaited.since > self.FOR_HEAD:
            if self.stage is HEAD:
                self.refuse(RequestTimeout("The header took too long."))
            else:
                self.close()


def _disconnect(cycle: RequestResponseCycle) -> None:
    """Tell the app that nobody waits for its answer. Does nothing to one that is complete."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()
