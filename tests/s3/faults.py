"""Faults of an S3 server's replies, as its clients see them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.s3.wire import Head


@dataclass(frozen=True)
class Fault:
    """The faults of one reply. The fields combine, but a `status` combines with `delay` only.

    Attributes:
        status: an S3 error to reply with, without asking the server.
        code: the code of that error.
        delay: the seconds before the reply.
        cut_after: the bytes of the body after which the connection ends.
        flip: the position of a byte of the body whose lowest bit is flipped.
        truncate: the length of the body, which is also announced.
        pace: the bytes per second.
    """

    status: int | None = None
    code: str = "InternalError"
    delay: float = 0.0
    cut_after: int | None = None
    flip: int | None = None
    truncate: int | None = None
    pace: float | None = None

    def announce(self, reply: Head) -> Head:
        """Return the reply's head: the server's, with the length of a truncated body."""
        if self.truncate is None or reply.length is None:
            return reply
        length = min(self.truncate, reply.length)
        head = reply.without("content-length", "content-range")
        head.fields.append(("Content-Length", str(length)))
        if found := re.fullmatch(r"bytes (\d+)-\d+/(.+)", reply.get("content-range") or ""):
            start, total = found.groups()
            head.fields.append(("Content-Range", f"bytes {start}-{int(start) + length - 1}/{total}"))
        return head

    def spoil(self, body: Iterator[memoryview]) -> Iterator[memoryview]:
        """Yield the body as the client gets it.

        Raises:
            ConnectionError: the connection is to be cut here.
        """
        sent = 0
        for part in self._paced(body):
            for end in (self.truncate, self.cut_after):
                part = part if end is None else part[: max(0, end - sent)]
            if self.flip is not None and sent <= self.flip < sent + len(part):
                part[self.flip - sent] ^= 1
            if part:
                yield part
            sent += len(part)
            if self.cut_after is not None and sent >= self.cut_after:
                raise ConnectionError("cut on purpose")
            if self.truncate is not None and sent >= self.truncate:
                return

    def _paced(self, body: Iterator[memoryview]) -> Iterator[memoryview]:
        if self.pace is None:
            yield from body
            return
        step = max(1, int(self.pace / 20))
        for piece in body:
            for start in range(0, len(piece), step):
                part = piece[start : start + step]
                time.sleep(len(part) / self.pace)
                yield part
