"""Behavior of all commands: one sentence and exit code 2 for bad input, and defaults in --help."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.command_line import Parser, assignment, check_out, count, exit_code
from dfml.convert import main as convert
from dfml.data.__main__ import main as data
from dfml.embed.__main__ import main as embed
from dfml.errors import InvalidInput
from dfml.evaluate.__main__ import main as evaluate
from dfml.export.__main__ import main as export
from dfml.search.__main__ import main as search
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


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("s3://bucket", "such as s3://bucket/a.png"),
        ("s3://bucket/", "such as s3://bucket/a.png"),
        ("s3://bucket//", "such as s3://bucket/a.png"),
        ("s3://bucket/folder/", "such as s3://bucket/folder/a.png"),
        ("s3:///a.png", "names no bucket"),
    ],
)
def test_a_file_on_s3_needs_a_key(out: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        check_out(out, "a.png")


def test_a_folder_is_no_file_and_a_new_one_may_hold_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"{tmp_path} is a folder; name a file, such as {tmp_path}/a\.png"):
        check_out(str(tmp_path), "a.png")
    check_out(str(tmp_path / "new" / "a.png"), "a.png")
    assert list(tmp_path.iterdir()) == []


NOWHERE = ["--model", "nowhere"]
WRITERS = {
    "dfml.embed": (embed, [*NOWHERE, "--images", "nowhere"], "s3://bucket/folder/"),
    "dfml.search": (search, [*NOWHERE, "--index", "nowhere", "--query", "nowhere"], "s3://bucket.png"),
    "dfml.export": (export, [*NOWHERE, "--format", "torch-export"], "s3://bucket.pt2"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_key_is_asked_for_before_anything_is_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, arguments, out = WRITERS[name]
    assert main([*arguments, "--out", out]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith(f"error: --out {out} names no file on S3; give a key")
    assert said.count("\n") == 1


def test_exit_code_is_the_works_own() -> None:
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 130) == 130
    with pytest.raises(KeyError):  # a bug keeps its traceback
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
