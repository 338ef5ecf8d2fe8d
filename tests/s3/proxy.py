"""An HTTP/1.1 proxy for an S3 server that counts fetched bytes, adds latency and injects faults.

For benchmarks: `python -m tests.s3.proxy --upstream http://127.0.0.1:9000 --latency 0.02`; the
first line that it prints is its endpoint. `GET /__counts__` and `POST /__reset__` work from any
process.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

from tests.s3.faults import Fault
from tests.s3.servers import HOST, free_port
from tests.s3.wire import Head, Wire


class Proxy:
    """A proxy; use it as a context manager.

    `fault` and `latency` may be changed at any time and apply to the next requests. `fault(method,
    path, number)` returns a request's fault; `number` counts the earlier requests of this method
    and path. Paths are "/bucket/key", unquoted and without the query.
    """

    def __init__(self, upstream: str, port: int | None = None, latency: float = 0.0) -> None:
        address = urlsplit(upstream)
        self.upstream = (address.hostname or HOST, address.port or 80)
        self.port = port or free_port()
        self.endpoint = f"http://{HOST}:{self.port}"
        self.latency = latency
        self.fault: Callable[[str, str, int], Fault | None] | None = None
        self.requests: list[tuple[str, str, int]] = []  # (method, path, status) in the order of the replies
        self._bytes: Counter[str] = Counter()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._listener: _Listener | None = None
        self._switch = threading.RLock()
        self._back: threading.Timer | None = None

    def __enter__(self) -> Proxy:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def up(self) -> None:
        """Listen again, on the same port."""
        with self._switch:
            self._forget_timer()
            if self._listener is None:
                self._listener = _Listener((HOST, self.port), self)

    def down(self, seconds: float | None = None) -> None:
        """Refuse connections and drop open ones, for `seconds` or (None) until `up`."""
        with self._switch:
            self._forget_timer()
            if self._listener is not None:
                self._listener.stop()
                self._listener = None
            if seconds is not None:
                self._back = threading.Timer(seconds, self._come_back)
                self._back.daemon = True
                self._back.start()

    def _come_back(self) -> None:
        with self._switch:
            if self._back is threading.current_thread():  # otherwise `up` or `down` was called before
                self.up()

    def _forget_timer(self) -> None:
        if self._back is not None:
            self._back.cancel()
            self._back = None

    def bytes_of(self, prefix: str) -> int:
        """Return the body bytes of all GET replies, also faulty ones, for paths with a prefix."""
        return self._sum("bytes", prefix)

    def gets_of(self, prefix: str) -> int:
        return self._sum("gets", prefix)

    def _sum(self, kind: str, prefix: str) -> int:
        prefix = "/" + prefix.lstrip("/")
        return sum(count for path, count in self.counts()[kind].items() if path.startswith(prefix))

    def counts(self) -> dict[str, dict[str, int]]:
        with self._lock:
            gets = {path: count for (method, path), count in self._seen.items() if method == "GET"}
            return {"bytes": dict(self._bytes), "gets": gets}

    def reset(self) -> None:
        with self._lock:
            self._bytes.clear()
            self._seen.clear()
            self.requests.clear()

    def arrived(self, method: str, path: str) -> Fault:
        with self._lock:
            number = self._seen[method, path]
            self._seen[method, path] += 1
        return (self.fault and self.fault(method, path, number)) or Fault()

    def replied(self, method: str, path: str, status: int) -> None:
        with self._lock:
            self.requests.append((method, path, status))

    def sent(self, method: str, path: str, count: int) -> None:
        if method == "GET":
            with self._lock:
                self._bytes[path] += count


class _Listener(socketserver.ThreadingTCPServer):
    """A listener. An `HTTPServer` would look up the machine's name, which can take seconds."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], proxy: Proxy) -> None:
        self.proxy = proxy
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(address, _Handler)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        # Closing alone would leave it listening in processes that were forked meanwhile.
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.server_close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # raised if the connection has ended meanwhile
                    connection.shutdown(socket.SHUT_RDWR)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        with self._lock:
            self._open.add(connection)
        return connection, address

    def close_request(self, request: socket.socket) -> None:  # type: ignore[override]
        with self._lock:
            self._open.discard(request)
        super().close_request(request)


class _Handler(socketserver.BaseRequestHandler):
    """A client's connection, and one to the server that is kept for all its requests."""

    def setup(self) -> None:
        self.proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        self.client = Wire(self.request)
        self.upstream: Wire | None = None

    def handle(self) -> None:
        with suppress(OSError):  # either side ended the connection: then so do we
            while (head := self.client.head()) and self._serve(head):
                pass

    def finish(self) -> None:
        self._hang_up()

    def _serve(self, head: Head) -> bool:
        """Answer one request and return whether the client's connection may be used again."""
        method, target, _ = head.start.split(" ")
        path = unquote(target.partition("?")[0])
        if path in ("/__counts__", "/__reset__"):
            if path == "/__reset__":
                self.proxy.reset()
            return self._reply(head, HTTPStatus.OK, "application/json", json.dumps(self.proxy.counts()).encode())
        fault = self.proxy.arrived(method, path)
        if fault.status is not None:
            text = (
                f"<Error><Code>{fault.code}</Code><Message>on purpose</Message>"
                f"<Resource>{escape(path)}</Resource></Error>"
            )
            body = b"" if method == "HEAD" else f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode()
            self._before_reply(method, path, fault.status, fault)
            self.proxy.sent(method, path, len(body))
            return self._reply(head, HTTPStatus(fault.status), "application/xml", body)
        upstream = self._connect()
        reply, in_step = self._ask(head, upstream)
        self._before_reply(method, path, reply.status, fault)
        keep = in_step and not head.closes
        self._forward(method, path, upstream, reply, fault, keep)
        return keep

    def _reply(self, head: Head, status: HTTPStatus, kind: str, body: bytes) -> bool:
        refused = head.get("expect") is not None  # then the client does not send its body
        if not refused:
            for _ in self.client.body(head):
                pass
        keep = not refused and not head.closes
        fields = [("Content-Type", kind), ("Content-Length", str(len(body))), _connection(keep)]
        self.client.send(Head(f"HTTP/1.1 {status.value} {status.phrase}", fields))
        self.client.socket.sendall(body)
        return keep

    def _before_reply(self, method: str, path: str, status: int, fault: Fault) -> None:
        time.sleep(self.proxy.latency + fault.delay)
        self.proxy.replied(method, path, status)

    def _ask(self, head: Head, upstream: Wire) -> tuple[Head, bool]:
        """Forward the request; return the reply's head, and whether the whole request was read."""
        upstream.send(head)
        if head.get("expect") and not self.client.ahead:
            # The server replies with 100 (continue) or an error, or the client stops waiting and
            # sends its body.
            ready, _, _ = select.select([upstream.socket, self.client.socket], [], [])
            if upstream.socket in ready:
                answer = _next_head(upstream)
                if answer.status != 100:
                    return answer, False
                self.client.send(answer)
        refused = False
        for piece in self.client.body(head):
            if not refused:
                try:
                    upstream.send_piece(piece, head.chunked)
                except OSError:  # the server has closed the connection; its reply states the reason
                    refused = True
        if not refused:
            upstream.send_end(head.chunked)
        reply = _next_head(upstream)
        while reply.status == 100:  # arrived after the client had stopped waiting for it
            reply = _next_head(upstream)
        return reply, True

    def _forward(self, method: str, path: str, upstream: Wire, reply: Head, fault: Fault, keep: bool) -> None:
        head = fault.announce(reply).without("connection", "keep-alive", "transfer-encoding")
        head.start = "HTTP/1.1 " + reply.start.partition(" ")[2]
        head.fields.append(_connection(keep))
        empty = method == "HEAD" or reply.status in (204, 304)
        # Also if the server would mark the end by closing the connection.
        chunked = reply.length is None and not empty
        if chunked:
            head.fields.append(("Transfer-Encoding", "chunked"))
        self.client.send(head)
        if not empty:
            for piece in fault.spoil(upstream.body(reply, reply=True)):
                # Counted before sending: a client that has the last byte may check the count.
                self.proxy.sent(method, path, len(piece))
                self.client.send_piece(piece, chunked)
            self.client.send_end(chunked)
        if reply.closes or fault.truncate is not None:
            self._hang_up()

    def _connect(self) -> Wire:
        if self.upstream and select.select([self.upstream.socket], [], [], 0)[0]:
            self._hang_up()  # readable between requests: the server has closed the connection
        if self.upstream is None:
            self.upstream = Wire(socket.create_connection(self.proxy.upstream))
        return self.upstream

    def _hang_up(self) -> None:
        if self.upstream:
            self.upstream.socket.close()
            self.upstream = None


def _next_head(wire: Wire) -> Head:
    head = wire.head()
    if head is None:
        raise ConnectionError("the server closed without a reply")
    return head


def _connection(keep: bool) -> tuple[str, str]:
    return "Connection", "keep-alive" if keep else "close"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True, help="endpoint of the S3 server")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each reply")
    parser.add_argument("--port", type=int, help="default: a free one")
    arguments = parser.parse_args()
    with Proxy(arguments.upstream, arguments.port, arguments.latency) as proxy, suppress(KeyboardInterrupt):
        print(proxy.endpoint, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
