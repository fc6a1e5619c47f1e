"""How the program begins and ends: fast help, exit codes, progress, pipes."""

import io
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

import steelman
from steelman.cli import VERBS, bar, help_text, main
from steelman.cli.output import command_line, plain_table
from steelman.errors import Diverged, Interrupted

CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]")


def python(code, *words, **options):
    """Run code in another Python, both outputs piped."""
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, timeout=120, **options)


def test_it_is_there_as_a_module_too():
    words = [sys.executable, "-m", "steelman", "list", "nope"]
    done = subprocess.run(words, capture_output=True, timeout=120, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('steelman: Invalid value "nope"')


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_is_what_cyclopts_would_say(call, capsys, words):
    from steelman.cli.app import app

    app.help_print([], console=Console(file=sys.stdout, width=200, color_system=None))
    real = capsys.readouterr().out
    assert call(*words) == (0, real, "")
    assert all(f"  {verb}: " in help_text() for verb in VERBS)


def test_every_verb_has_the_help_that_is_promised(call):
    for verb, words in VERBS.items():
        code, out, err = call(verb, "--help")
        assert (code, err) == (0, "")
        assert f"steelman {verb}" in out
        assert words in " ".join(out.split())


def test_version(call):
    assert call("--version") == (0, f"{steelman.__version__}\n", "")


def test_help_waits_for_no_heavy_import():
    code = (
        "import sys; from steelman.cli import main; main(['--help']); assert 'cyclopts' not in sys.modules;"
        "[main([verb, '--help']) for verb in ('train', 'attack', 'evaluate', 'study', 'report', 'list')];"
        "assert not {'torch', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    done = python(code)
    assert (done.returncode, done.stderr) == (0, b"")


def test_completion_knows_verbs_options_and_choices(call, tmp_path, monkeypatch):
    from steelman.cli.app import app

    script = app.generate_completion(shell="bash")
    assert all(word in script for word in (*VERBS, "--threat", "--skip-bad", "corrected", "objectives"))
    monkeypatch.setattr("cyclopts.completion.detect.detect_shell", lambda: "fish")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = call("--install-completion")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].startswith(str(tmp_path))
    assert (tmp_path / ".config/fish/completions/steelman.fish").is_file()


def test_an_unknown_shell_is_said(refused, monkeypatch):
    from cyclopts.completion.detect import ShellDetectionError

    def unknown():
        raise ShellDetectionError("csh")

    monkeypatch.setattr("cyclopts.completion.detect.detect_shell", unknown)
    assert "your shell is none of bash, zsh and fish" in refused("--install-completion")


# how it ends


def fails(monkeypatch, error):
    def run(_):
        raise error

    monkeypatch.setattr("steelman.cli._dispatch", run)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (Diverged("the loss is\nno number."), 1, "steelman: the loss is no number.\n"),
        (Interrupted("stopped in epoch 3."), 130, "steelman: stopped in epoch 3.\n"),
        (
            KeyboardInterrupt(),
            130,
            "steelman: stopped by Ctrl-C. Nothing was kept.\n",
        ),
        (
            OSError(28, "No space left on device", "/disk/x"),
            1,
            "steelman: No space left on device: /disk/x. Make room or choose another path, then run it again.\n",
        ),
        (PermissionError(13, "Permission denied", "x\x1b[2J"), 1, None),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)
def test_exit_codes(call, monkeypatch, error, code, said):
    fails(monkeypatch, error)
    found, out, err = call("list", "attacks")
    assert (found, out) == (code, "")
    if said is not None:
        assert err == said
    else:
        assert "Permission denied: x\\x1b[2J" in err


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("steelman.cli.help_text", None)
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):
        main(["--help"])


def test_an_error_in_the_users_own_code_is_one_line_with_its_place(call, monkeypatch):
    fails(monkeypatch, ZeroDivisionError("too many\nimages"))
    code, out, err = call("list", "attacks")
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"steelman: \S*test_main\.py:\d+, in run, raised ZeroDivisionError: too many images\. It must work "
        r"on any batch of images, also with gradients\.\n",
        err,
    )


def test_what_is_kept_without_out_is_said_to_be(call, monkeypatch):
    fails(monkeypatch, KeyboardInterrupt())
    for verb in ("train", "harden", "study"):
        assert "Run the same command again to go on" in call(verb, "x")[2]
    assert call("attack", "x")[2].endswith("Nothing was kept.\n")


def into(file):
    """Print the help into a file that takes nothing."""
    code = "import sys; from steelman.cli import main; sys.exit(main(['--help']))"
    return subprocess.run([sys.executable, "-c", code], stdout=file, stderr=subprocess.PIPE, timeout=120)


def test_closed_streams_make_no_traceback():
    code = "from steelman.cli import main; raise SystemExit(main(['list', 'threats']))"
    words = shlex.join((sys.executable, "-c", code))
    done = subprocess.run(["sh", "-c", f"{words} >&-"], stderr=subprocess.PIPE, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(["sh", "-c", f"{words} 2>&-"], stdout=subprocess.PIPE, timeout=120)
    assert done.returncode == 0
    assert b"Linf" in done.stdout


def test_a_reader_that_leaves_makes_no_traceback():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = into(gone)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_makes_no_traceback():
    with Path("/dev/full").open("wb") as full:
        done = into(full)
    assert done.returncode == 1
    assert done.stderr.startswith(b"steelman: No space left on device.")
    assert done.stderr.count(b"\n") == 1


def test_a_command_line_is_read_back_by_a_shell():
    """And is in double quotes where a spec's single ones would otherwise be a thicket."""
    words = ["steelman", "study", "Features(preset='published')", "a b", "it's $HOME", 'say "hi"', "don't `ls`", ""]
    line = command_line(words)
    assert line.startswith("""steelman study "Features(preset='published')" 'a b' """)
    assert shlex.split(line) == words
    assert subprocess.run(["sh", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True).stdout == "".join(
        f"{word}\n" for word in words
    )


def test_piped_output_is_plain_even_where_only_ascii_is_known(runs):
    code = (
        "import sys; from steelman.cli import bar, main; bar.PATIENCE = bar.EVERY = 0.01;sys.exit(main(sys.argv[1:]))"
    )
    words = ("attack", runs / "plain", "PGD()", "--threat", "Linf(9)")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "xterm-256color", "FORCE_COLOR": "0"}
    done = python(code, *words, env=environment)
    assert done.returncode == 0
    assert b"natural" in done.stdout
    assert b"PGD() on plain: 0 %" in done.stderr
    assert not CONTROL.search(done.stdout + done.stderr)


# progress


def test_lines_say_what_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    said = []
    shown = bar.Lines(said.append)
    shown.show()
    shown(0, 200, "training")
    shown.show()
    now[0] += 30
    shown(50, 200, "training, epoch 1")
    shown.show()
    now[0] += 30
    shown(51, 100_000, "attacking\x07")
    now[0] += 1
    shown(52, 100_000, "attacking\x07")
    shown.show()
    shown(100_000, 100_000, "attacking")
    shown.show()
    shown(0, 1, "checking")
    shown.show()
    shown.close()
    assert said == [
        "training: 0 %",
        "training, epoch 1: 25 %, 1 min 30 s left",
        "attacking\\x07: 0 %, 27 h 45 min left",
        "checking",
    ]


def test_short_times_are_told_in_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bar.time, "monotonic", lambda: now[0])
    said = []
    shown = bar.Lines(said.append)
    shown(10, 20, "reading")  # goes on from 10
    now[0] = 4
    shown(12, 20, "reading")
    shown.show()
    assert said == ["reading: 60 %, 16 s left"]


def test_the_bar_shows_words_and_share_and_goes_away():
    file = io.StringIO()
    shown = bar.Bar(Console(file=file, force_terminal=True, width=100))
    shown(1, 4, "training [b]")
    shown.show()
    shown(2, 4, "training [b]")
    shown(0, 3, "attacking")
    shown.close()
    assert "training [b]" in file.getvalue()
    assert "25%" in file.getvalue()
    shown.close()


def test_short_work_says_nothing(capsys):
    with bar.reporting() as progress:
        progress(0, 1, "reading")
        progress(1, 1, "reading")
    assert capsys.readouterr() == ("", "")


def test_long_work_is_shown_without_being_told_of(capsys, monkeypatch):
    monkeypatch.setattr(bar, "PATIENCE", 0.01)
    with bar.reporting() as progress:
        progress(0, 10, "reading")
        deadline = time.monotonic() + 10
        err = ""
        while not err and time.monotonic() < deadline:
            err += capsys.readouterr().err
    assert err == "reading: 0 %\n"


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(bar, "PATIENCE", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    with bar.reporting() as progress:
        progress(1, 10, "reading")
        deadline = time.monotonic() + 10
        while "reading" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "10%" in terminal.getvalue()


# tables


def test_tables_are_aligned_when_piped():
    rows = [("FGSM", "1 gradient"), ("Strongest", "two\nlines")]
    assert plain_table(("name", "cost"), rows) == [
        "name       cost",
        "FGSM       1 gradient",
        "Strongest  two\\nlines",
    ]


def test_tables_are_drawn_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["list", "threats"]) == 0
    out = capsys.readouterr().out
    assert "┃" in out
    assert "Linf" in out


def test_a_verdict_names_the_worst_checks():
    from steelman.cli.results import verdict

    checks = [
        {"name": name, "verdict": word} for name, word in (("a", "ok"), ("b", "warn"), ("c", "warn"), ("d", "info"))
    ]
    assert verdict(checks) == "warn: b, c"
    assert verdict([*checks, {"name": "e", "verdict": "fail"}]) == "fail: e"
    assert verdict(checks[:1]) == "ok"
