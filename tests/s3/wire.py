"""HTTP/1.1 on a socket: heads and bodies as bytes, with little work per megabyte."""

from __future__ import annotations

import socket
from collections.abc import Iterator

BUFFER = 1 << 20


class Head:
    """The start line and the headers, each unchanged, because a signature covers some of them."""

    def __init__(self, start: str, fields: list[tuple[str, str]]) -> None:
        self.start = start
        self.fields = fields

    @classmethod
    def parse(cls, raw: bytes) -> Head:
        start, *lines = raw.decode("latin-1").split("\r\n")
        return cls(start, [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])

    def get(self, name: str) -> str | None:
        return next((value for given, value in self.fields if given.lower() == name), None)

    def without(self, *names: str) -> Head:
        return Head(self.start, [field for field in self.fields if field[0].lower() not in names])

    @property
    def status(self) -> int:
        """Return the status of a reply."""
        return int(self.start.split(" ")[1])

    @property
    def length(self) -> int | None:
        """Return the announced length of the body, or None."""
        value = self.get("content-length")
        return None if value is None else int(value)

    @property
    def chunked(self) -> bool:
        return (self.get("transfer-encoding") or "").lower() == "chunked"

    @property
    def closes(self) -> bool:
        """Return whether the sender closes the connection after this message."""
        return "HTTP/1.0" in self.start or (self.get("connection") or "").lower() == "close"

    def __bytes__(self) -> bytes:
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Wire:
    """A socket with a buffer of bytes that were read ahead."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0  # of the bytes that were read ahead

    @property
    def ahead(self) -> bool:
        return self._start < self._end

    def body(self, head: Head, reply: bool = False) -> Iterator[memoryview]:
        """Return the body after this head; only a reply's may end with the connection."""
        if head.chunked:
            return self.chunks()
        return self.pieces(None if reply and head.length is None else head.length or 0)

    def head(self) -> Head | None:
        """Return the next message's head, or None if the other side has closed the connection."""
        raw = self._until(b"\r\n\r\n")
        return None if raw is None else Head.parse(raw)

    def pieces(self, length: int | None) -> Iterator[memoryview]:
        """Yield `length` bytes, or (None) all to the end; a piece is valid until the next one."""
        while length is None or length > 0:
            if not self.ahead and not self._fill():
                if length is None:
                    return
                raise ConnectionError(f"closed {length} bytes too early")
            count = self._end - self._start if length is None else min(length, self._end - self._start)
            piece = self._view[self._start : self._start + count]
            self._start += count
            if length is not None:
                length -= count
            yield piece

    def chunks(self) -> Iterator[memoryview]:
        """Return the data of a body in `Transfer-Encoding: chunked`, without the chunks' sizes."""
        while size := int(self._line().partition(b";")[0], 16):
            yield from self.pieces(size)
            self._line()
        while self._line():
            pass  # trailers: S3 sends its checksums within the body instead

    def send(self, head: Head) -> None:
        self.socket.sendall(bytes(head))

    def send_piece(self, piece: memoryview, chunked: bool) -> None:
        if chunked:
            self.socket.sendall(b"%x\r\n" % len(piece))
        self.socket.sendall(piece)
        if chunked:
            self.socket.sendall(b"\r\n")

    def send_end(self, chunked: bool) -> None:
        if chunked:
            self.socket.sendall(b"0\r\n\r\n")

    def _line(self) -> bytes:
        line = self._until(b"\r\n")
        if line is None:
            raise ConnectionError("closed within a chunked body")
        return line

    def _until(self, mark: bytes) -> bytes | None:
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            if not self._fill():
                if self.ahead:
                    raise ConnectionError("closed within a head")
                return None
        raw = bytes(self._view[self._start : found])
        self._start = found + len(mark)
        return raw

    def _fill(self) -> int:
        """Read once, and append to the buffer."""
        if self._start:
            rest = bytes(self._view[self._start : self._end])
            self._view[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        if self._end == BUFFER:
            raise ConnectionError("a head of more than a megabyte")
        count = self.socket.recv_into(self._view[self._end :])
        self._end += count
        return count
