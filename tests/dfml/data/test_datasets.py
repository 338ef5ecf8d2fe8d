"""The location of a data set, by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfml.data.datasets import SHIPPED, locate, recall_at
from dfml.data.packing.pack import pack
from dfml.errors import InvalidInput
from tests.images import ANIMALS


def test_what_ships_with_the_project_needs_no_place() -> None:
    assert locate("emoji", None) == str(SHIPPED["emoji"])


def test_a_place_that_is_given_is_taken(tmp_path: Path) -> None:
    assert locate("mine", str(tmp_path)) == str(tmp_path)
    assert locate("SOP", "s3://bucket/sop") == "s3://bucket/sop"


@pytest.mark.parametrize("kind", ["folder", "moto"])
def test_others_are_looked_for_below_the_users_own_place_and_then_where_training_packs_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "moto":
        from tests.s3.locations import new_bucket, use

        server = request.getfixturevalue("moto")
        use(server, monkeypatch)
        own = f"s3://{new_bucket(server)}/sets"
    else:
        own = str(tmp_path / "sets")
    monkeypatch.setenv("DFML_DATA", own)
    pack(ANIMALS, tmp_path / "data" / "packed" / "sop", "sop")
    assert locate("SOP", None) == str(tmp_path / "data" / "packed" / "sop")
    pack(ANIMALS, f"{own}/sop", "sop")
    assert locate("SOP", None) == f"{own}/sop"


def test_a_known_set_that_is_nowhere_says_how_to_pack_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DFML_DATA", str(tmp_path / "sets"))
    with pytest.raises(
        InvalidInput, match=r"SOP isn't packed at .*/sets/sop or .*/data/packed/sop; pack it with .*--dataset SOP"
    ):
        locate("SOP", None)


def test_an_unknown_set_names_those_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"'birds'.*emoji, cub, cars, sop, inshop, imagenet.*--data"):
        locate("birds", None)


def test_recalls_are_those_that_papers_report() -> None:
    assert recall_at("SOP") == (1, 10, 100, 1000)
    assert recall_at("Inshop") == (1, 10, 20, 30, 40, 50)
    assert recall_at("mine") == (1, 2, 4, 8)
