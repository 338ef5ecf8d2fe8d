"""What can go wrong with a reply of S3, as the clients see it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.s3.wire import Head


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one reply. The fields combine, but a `status` is a whole reply: only `delay` joins it."""

    status: int | None = None  # an S3 error, for which the server is not asked
    code: str = "InternalError"  # of that error
    delay: float = 0.0  # seconds before the reply
    cut_after: int | None = None  # the connection ends after so many bytes of the body that was announced
    flip: int | None = None  # the lowest bit of this byte of the body is the other one
    truncate: int | None = None  # the body has only so many bytes, and is announced as such
    pace: float | None = None  # bytes a second

    def announce(self, reply: Head) -> Head:
        """The head of the reply: that of the server, but for a truncated body."""
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
        """The body as the client gets it; raises ConnectionError where it is to be cut."""
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
