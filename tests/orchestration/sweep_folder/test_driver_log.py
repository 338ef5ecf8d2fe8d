"""The driver's log: all loggers' messages of all sessions, in a folder or on S3."""

from __future__ import annotations

import logging
import warnings

import pytest

from dfml import storage
from orchestration.callbacks.console import Console
from orchestration.sweep_folder.driver_log import driver_log


def text_of(sweep: str) -> str:
    return storage.read(storage.join(sweep, "driver.log")).decode()


def handlers() -> list[logging.Handler]:
    return [*logging.getLogger().handlers, *logging.getLogger("ray").handlers]


def test_messages_of_all_sessions_and_libraries_are_kept(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = handlers()
    for session in ("first", "second"):
        with driver_log(uri):
            Console(1).print(f"the {session} session")
            for name in ("ray", "ray.tune.execution", "dfml.telemetry", "another.library"):
                logging.getLogger(name).info("%s in the %s session", name, session)
            warnings.warn("a warning", stacklevel=1)
    text = text_of(uri)
    for session in ("first", "second"):
        assert f"INFO orchestration.callbacks.console: the {session} session" in text
        for name in ("ray", "ray.tune.execution", "dfml.telemetry", "another.library"):
            assert text.count(f"INFO {name}: {name} in the {session} session") == 1
    assert text.index("first session") < text.index("second session")
    assert "a warning" in text
    assert handlers() == before
    assert capsys.readouterr().err == ""


def test_verbose_prints_them_too(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    with driver_log(uri, verbose=True):
        logging.getLogger("ray.tune").info("told twice")
    assert "told twice" in capsys.readouterr().err
    assert "told twice" in text_of(uri)


def test_the_error_that_ends_a_sweep_is_kept_with_its_traceback(uri: str) -> None:
    with pytest.raises(ZeroDivisionError), driver_log(uri):
        _ = 1 / 0
    assert "ERROR orchestration: the sweep failed" in text_of(uri)
    assert "ZeroDivisionError" in text_of(uri)
