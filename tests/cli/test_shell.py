"""`steelman shell`: what is at hand, what it draws, and the notebook that does the same."""

import base64
import json
import math
import sys
import types
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from steelman.cli.session import Session
from steelman.cli.shell import inline
from steelman.data import Data
from steelman.errors import UsageError

NOTEBOOK = Path(__file__).parents[2] / "examples" / "resistance.ipynb"


class Plane(nn.Module):
    """Two classes on either side of mean brightness 1/2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lead = 20 * (x.flatten(1).mean(1) - 0.5)
        return torch.stack((-lead, lead), 1)


@pytest.fixture(scope="module")
def session() -> Session:
    levels = torch.tensor([51, 102, 204], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4).contiguous()
    return Session(Plane(), Data(levels, torch.tensor([0, 1, 1]), ("dark", "light")), steps=20)


class TestSession:
    def test_the_smallest_norm_is_the_distance_to_the_plane(self, session: Session) -> None:
        """|mean - 1/2| times sqrt(16) in L2, and times 1 in L-inf."""
        shot = session.minimal_attack(0, p=2, a=0, b=4, lr=0.2)
        assert shot.success
        assert (shot.before, shot.after) == ("dark", "light")
        assert shot.norm == pytest.approx(1.2, abs=5e-3)
        assert session.nearest(0).norm == pytest.approx(1.2, rel=0.01)
        assert session.nearest(0, p=math.inf).norm == pytest.approx(0.3, rel=0.01)

    def test_an_attack_keeps_its_norm(self, session: Session) -> None:
        assert session.attack(0, lr=0.2, div=1.5).norm == pytest.approx(1.5, abs=1e-3)
        short = session.attack(0, lr=0.2, div=1.0)
        assert not short.success
        assert "failed, it stays dark" in repr(short)
        assert "dark (100 %) to light" in repr(session.attack(0, lr=0.2, div=1.5))

    def test_from_above_its_interval_it_finds_nothing_below(self, session: Session) -> None:
        assert not session.minimal_attack(0, a=0, b=1, lr=0.2).success

    def test_wrong_images_are_found(self, session: Session) -> None:
        assert session.wrong() == [1]

    def test_a_shot_is_a_picture(self, session: Session, tmp_path: Path) -> None:
        for name, shot in (("hit", session.nearest(0)), ("miss", session.attack(0, div=0.5))):
            (tmp_path / name).write_bytes(shot._repr_png_())
            with Image.open(tmp_path / name) as picture:
                assert picture.format == "PNG"

    @pytest.mark.parametrize(
        ("call", "words"),
        [
            (lambda one: one.attack(7), "no image 7. Possible: 0 to 2"),
            (lambda one: one.attack(0, div=0.0), "the norm is 0"),
            (lambda one: one.minimal_attack(0, a=2.0, b=1.0), "a is 2.0 and b is 1.0"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, session: Session, call, words: str) -> None:
        with pytest.raises(UsageError, match=words):
            call(session)


def test_terminals_that_show_pictures_get_the_whole_file() -> None:
    png = bytes(range(256)) * 40
    text = base64.b64encode(png).decode()
    kitty = inline(png, {"KITTY_WINDOW_ID": "1"})
    assert kitty is not None
    pieces = [piece.partition(";")[2] for piece in kitty.split("\x1b\\")[:-1]]
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 4096
    assert kitty.count("m=0") == 1
    assert inline(png, {"TERM_PROGRAM": "iTerm.app"}) == f"\x1b]1337;File=inline=1;size={len(png)}:{text}\a"
    assert inline(png, {"TERM": "xterm-256color"}) is None


def test_without_ipython_one_line_says_what_to_install(call, runs, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    code, _, err = call("shell", runs / "plain")
    assert code == 2
    assert err == "steelman: IPython is not installed. Install it: pip install ipython.\n"


def test_the_shell_has_the_attacks_at_hand_and_saves_figures(call, runs, monkeypatch) -> None:
    asked: dict = {}

    def start_ipython(argv: list[str], user_ns: dict) -> None:
        asked.update(user_ns)
        user_ns["nearest"](0)

    stand_in = types.SimpleNamespace(start_ipython=start_ipython, version_info=(9, 0))  # matplotlib asks for a version
    monkeypatch.setitem(sys.modules, "IPython", stand_in)
    code, out, err = call("shell", runs / "plain")
    assert (code, err) == (0, "")
    assert {"attack", "minimal_attack", "nearest", "wrong", "model", "data", "strike", "PGD", "Linf"} <= set(asked)
    saved = Path(out.splitlines()[-1])
    assert saved.parent == runs / "plain" / "figures"
    with Image.open(saved) as picture:
        assert picture.width > picture.height


def test_a_run_without_a_network_is_refused(call, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace())
    (tmp_path / "spec.txt").write_text("Finetune()\n")
    (tmp_path / "env.json").write_text("{}\n")
    code, _, err = call("shell", tmp_path)
    assert code == 2
    assert "holds no trained network" in err


def test_the_notebook_runs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert names["smallest"].success
