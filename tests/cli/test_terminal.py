"""Output for people: safe on any terminal, no wider than it, and without noise."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from command_line import NO_MODELS, OURS, run
from hostile import hostile_texts

from genrec.cli import terminal


class TestTerminal:
    """Titles are data: they cannot colour, move, ring or rename the terminal they are shown in."""

    def test_hostile_titles_reach_no_terminal(self, tmp_path: Path) -> None:
        hostile = [
            *hostile_texts(200, seed=5),
            "\x1b]0;pwned\x07",
            "[bold red]x[/bold red]",
            "a\u202egnp.exe",
            "\x9b31m",
        ]
        rows = [json.dumps({"item_id": str(row), "title": f"t {text}"}) for row, text in enumerate(hostile)]
        (tmp_path / "items.jsonl").write_text("\n".join(rows), encoding="utf-8")
        common = ("--items", tmp_path / "items.jsonl")
        for arguments in (("recommend", *common, *NO_MODELS, "--k", "250"), ("data", "describe", *common)):
            result = run(*arguments)
            assert result.exit_code == 0, result.err
            assert not _commands(result.out)
        shown = run("recommend", *common, *NO_MODELS, "--k", "250").out
        assert "[bold red]x[/bold red]" in shown, "markup in a title is text"

    def test_hostile_words_reach_no_terminal(self, files: Path) -> None:
        result = run("prompt", "render", "next-item", "--words", "\x1b[2J\u202e[red]tea", "--history", "a", *OURS)
        assert not _commands(result.out)
        assert "[red]tea" in result.out

    def test_json_is_ascii(self, tmp_path: Path) -> None:
        rows = [
            json.dumps({"item_id": str(row), "title": f"t {text}"})
            for row, text in enumerate(hostile_texts(50, seed=6))
        ]
        (tmp_path / "items.jsonl").write_text("\n".join(rows), encoding="utf-8")
        result = run("recommend", "--items", tmp_path / "items.jsonl", *NO_MODELS, "--k", "50", "--json")
        assert result.out.isascii()
        assert not _commands(result.out)
        assert len(result.json[0]["items"]) == 50

    def test_clean_text_is_one_harmless_line(self) -> None:
        for text in hostile_texts(1000, seed=7):
            cleaned = terminal.sanitize_line(text)
            assert not _commands(cleaned)
            assert "\n" not in cleaned
            assert len(cleaned) <= 200

    def test_lines_of_progress_are_rare(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A log must not fill with progress: nothing for what is quick, and one line in ten seconds."""
        clock = iter(range(100))
        progress = terminal.Progress(None, clock=lambda: next(clock))
        progress.close()
        for done in range(1, 26):  # one a second
            progress("items", done, 25)
        assert capsys.readouterr().err.splitlines() == ["items: 2 of 25", "items: 12 of 25", "items: 22 of 25"]


def _commands(text: str) -> list[str]:
    """Characters that a terminal might obey."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [one for one in text if one not in "\n\u200c\u200d" and unicodedata.category(one) in kinds]


def test_an_evaluation_is_read_as_one_table() -> None:
    """Every figure of a ranker stands in its row, beside what it is worth over popularity."""
    result = run("evaluate", "--protocol", "by-time", "--at", "2011-11-01", "--users", "50", *NO_MODELS)
    assert result.exit_code == 0
    assert re.search(r"blend +│ ndcg@10 +│ \d+\.\d\d \[.*\] +│ -?\d+\.\d\d \[.*\] +│ \d\.\d{4}", result.out)
    assert max(map(len, result.out.splitlines())) <= 80
    assert "50 users, by-time" in result.out


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_fits_the_terminal(width: int, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody should have to scroll sideways."""
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("recommend", "u1", "u2", *OURS, *NO_MODELS, "--explain")
    assert max(map(len, result.out.splitlines())) <= width
    assert "Blue Lamp" in result.out


def test_the_table_shows_reasons_and_drivers_on_request(files: Path) -> None:
    """A reason nobody asked for costs time and space."""
    plain = run("recommend", "u1", *OURS, *NO_MODELS).out
    explained = run("recommend", "u1", *OURS, *NO_MODELS, "--explain").out
    assert "driven by" not in plain
    assert "driven by Blue Lamp (-" in " ".join(explained.split())
    assert "Because of Blue Lamp" in explained
