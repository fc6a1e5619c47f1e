"""The README's examples run as they stand, and say what a reader expects."""

import re
import shlex
from pathlib import Path

import pytest

from docs.tables import with_table
from steelman.cli import main

pytestmark = pytest.mark.usefixtures("short_probes")
README = (Path(__file__).parents[2] / "README.md").read_text()


def _block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)[0]


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    code = _block("python")
    assert len(code.strip().splitlines()) <= 11  # ten lines and a blank one
    exec(compile(code, "README.md", "exec"), {})
    natural, robust, *checks = capsys.readouterr().out.splitlines()
    assert natural.endswith("n = 359")
    assert float(robust.split()[0]) < float(natural.split()[0])
    assert any(line.startswith("ok logits") for line in checks)


def test_the_command_line_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = _block("sh").strip().splitlines()
    assert len(lines) == 5
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "steelman"
        assert main(words) == 0, line
    assert Path("sets/plain.safetensors").is_file()
    assert capsys.readouterr().out.splitlines()[-1].endswith("report.html")


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"    make {target}" in README
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_the_table_of_attacks_is_that_of_the_catalogue() -> None:
    """When this fails: `make docs`."""
    assert with_table(README) == README
