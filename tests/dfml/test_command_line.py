"""What all commands share: bad input is one sentence and exit code 2, and help says every default once."""

from __future__ import annotations

import pytest

from dfml.command_line import Parser, assignment, count, exit_code
from dfml.convert import main as convert
from dfml.data.__main__ import main as data
from dfml.errors import InvalidInput
from dfml.evaluate.__main__ import main as evaluate
from dfml.train.__main__ import main as train

COMMANDS = {"dfml.convert": convert, "dfml.data": data, "dfml.evaluate": evaluate, "dfml.train": train}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--routers", "three"]], ids=" ".join)
def test_flags_that_cannot_be_used_are_one_sentence_and_exit_code_2(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert COMMANDS[name](arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert f"python -m {name}" in printed.err
    assert "--help" in printed.err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_no_default_that_is_none(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        COMMANDS[name](["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert f"python -m {name}" in printed
    assert "None" not in printed


def test_defaults_are_said_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="p")
    parser.add_argument("--pixels", type=int, default=224, help="side")
    parser.add_argument("--seen", action="store_true", help="a switch")
    parser.add_argument("--own", help="a place (default: where it is)")
    parser.add_argument("--set", action="append", default=[], help="repeatable")
    printed = parser.format_help()
    assert printed.count("(default") == 2
    assert "side (default: 224)" in printed


def test_exit_code_is_the_works_own() -> None:
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 130) == 130
    with pytest.raises(KeyError):  # a defect of ours keeps its traceback
        exit_code(lambda: {}["missing"])


def test_of_torchruns_processes_one_complains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise InvalidInput("no")

    for number in ("0", "1"):
        monkeypatch.setenv("RANK", number)
        assert exit_code(refuse) == 2
    assert capsys.readouterr().err == "error: no\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=0.5", ("lr", 0.5)),
        ("blocks=2-3", ("blocks", "2-3")),
        ("compile=true", ("compile", True)),
        ("a=b=c", ("a", "b=c")),
    ],
)
def test_assignment_reads_its_value_as_yaml(text: str, expected: tuple[str, object]) -> None:
    assert assignment(text) == expected


@pytest.mark.parametrize("text", ["lr", "=3", "", "lr=[1"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="NAME=VALUE"):
        assignment(text)


@pytest.mark.parametrize("text", ["0", "-2"])
def test_count_below_1_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="give 1 or more"):
        count(text)
