"""`driver.log`: the log messages of a sweep's driver, of Ray and of other libraries."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from dfml import storage
from dfml.errors import InvalidInput
from orchestration.sweep_folder import layout

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
UPLOAD_SECONDS = 60.0  # seconds between uploads of the log of a sweep on S3

log = logging.getLogger("orchestration")


@contextlib.contextmanager
def driver_log(sweep: str, verbose: bool = False) -> Iterator[None]:
    """Append all log messages of the driver to the sweep's `driver.log`.

    The log of a sweep on S3 is kept in a temporary file and uploaded now and then; failed uploads
    are ignored.

    Args:
        sweep: the sweep's folder or URI.
        verbose: whether messages are printed on standard error too.
    """
    uri = storage.join(sweep, layout.DRIVER_LOG)
    with contextlib.ExitStack() as stack:
        file = Path(uri)
        if "://" in uri:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / layout.DRIVER_LOG
            if storage.exists(uri):
                file.write_bytes(storage.read(uri))
            stack.enter_context(_uploads(file, uri))
        file.parent.mkdir(parents=True, exist_ok=True)
        handlers: list[logging.Handler] = [logging.FileHandler(file, encoding="utf-8")]
        if verbose:
            handlers.append(logging.StreamHandler(sys.stderr))
        for handler in handlers:
            handler.setFormatter(logging.Formatter(FORMAT))
        loggers = [logging.getLogger(), logging.getLogger("ray")]  # Ray's logger doesn't propagate
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.INFO)
            for handler in handlers:
                logger.addHandler(handler)
        logging.captureWarnings(True)
        try:
            yield
        except Exception:
            log.exception("the sweep failed")
            raise
        finally:
            logging.captureWarnings(False)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
                for handler in handlers:
                    logger.removeHandler(handler)
            for handler in handlers:
                handler.close()


@contextlib.contextmanager
def _uploads(file: Path, uri: str) -> Iterator[None]:
    """Upload a file now and then, and at the end."""
    ended = threading.Event()

    def upload() -> None:
        with contextlib.suppress(OSError, InvalidInput):
            if file.exists():
                storage.write(uri, file.read_bytes())

    def work() -> None:
        while not ended.wait(UPLOAD_SECONDS):
            upload()

    thread = threading.Thread(target=work, name="driver-log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        upload()
