"""What the documents say is there: generated pages, commands, files and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentix.cli.__main__ import make_parser
from agentix.cli.exits import MEANING
from kernel import docs
from kernel.abi.calls import CALLS
from kernel.sched.policy import POLICIES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("name", docs.pages())
def test_a_generated_page_is_what_the_code_says(name):
    assert (ROOT / "docs" / name).read_text() == docs.pages()[name], "run `python -m kernel.docs`"


def test_the_check_notices_a_page_that_is_not_up_to_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(docs, "FOLDER", tmp_path)
    assert docs.main(["--check"]) == 1
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    (tmp_path / "states.md").write_text("stale")
    capsys.readouterr()
    assert docs.main(["--check"]) == 1
    assert "states.md" in capsys.readouterr().err


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_documented_command_exists(path):
    known = next(
        action.choices for action in make_parser()._actions if isinstance(action.choices, dict)
    )
    for command in re.findall(r"(?:^|[`\s/])(?<!from )agentix ([a-z]+)\b", code_of(path)):
        assert command in known, f"{name_of(path)}: agentix {command}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_documented_make_target_exists(path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"\bmake ([a-z]+)", code_of(path)):
        assert target in targets, f"{name_of(path)}: make {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_linked_file_exists(path):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if "://" not in link:
            assert (path.parent / link).exists(), f"{name_of(path)}: {link}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_named_source_file_exists(path):
    for name in re.findall(r"`((?:kernel|shm|agents|benchmarks|tests|docs)/[\w/.-]+\.(?:py|md))`", path.read_text()):
        if "YOUR" not in name and "lifo" not in name and "uptime" not in name:
            assert (ROOT / name).exists(), f"{name_of(path)}: {name}"


def test_the_readme_lists_every_command():
    text = (ROOT / "README.md").read_text()
    known = next(
        action.choices for action in make_parser()._actions if isinstance(action.choices, dict)
    )
    for command in known:
        assert f"`agentix {command}" in text, command


def test_the_errors_page_lists_every_exit_status():
    text = (ROOT / "docs" / "errors.md").read_text()
    for status in MEANING:
        assert re.search(rf"\| {int(status)} \|", text), status


def test_the_protocol_page_lists_every_call():
    text = (ROOT / "docs" / "protocol.md").read_text()
    assert all(f"### {method}\n" in text for method in CALLS)


def test_the_scheduling_page_lists_every_policy():
    text = (ROOT / "docs" / "scheduling.md").read_text()
    assert all(f"`{policy}`" in text for policy in POLICIES)


def code_of(path: Path) -> str:
    """The parts of a page that are code."""
    text = path.read_text()
    blocks = re.findall(r"```.*?```", text, re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`[^`\n]+`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])
