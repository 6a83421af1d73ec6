"""What the probe found, kept between boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from kernel.engine import rowsfile

FLASH, PLAIN = rowsfile.key(True, True, 0), rowsfile.key(False, True, 0)


def test_what_was_found_is_found_again_for_each_way_of_running(tmp_path: Path):
    choices = str(tmp_path / "deep" / "model.json")
    assert rowsfile.read(choices, FLASH) is None
    rowsfile.write(choices, FLASH, (4, 4, 1))
    rowsfile.write(choices, PLAIN, (1, 1, 4))
    assert rowsfile.read(choices, FLASH) == (4, 4, 1)
    assert rowsfile.read(choices, PLAIN) == (1, 1, 4)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model.passes.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"x": 1}', f'{{"{FLASH}": [0, 0]}}', f'{{"{FLASH}": 7}}'])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, text: str):
    (tmp_path / "model.passes.json").write_text(text)
    assert rowsfile.read(str(tmp_path / "model.json"), FLASH) is None


def test_no_choices_file_and_no_place_to_write_are_no_errors(tmp_path: Path):
    rowsfile.write("", FLASH, (1, 1, 4))
    (tmp_path / "file").write_text("")
    rowsfile.write(str(tmp_path / "file" / "model.json"), FLASH, (1, 1, 4))
    assert rowsfile.read("", FLASH) is None
