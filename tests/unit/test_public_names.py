"""The names that `import steelman` promises."""

import subprocess
import sys

import pytest

import steelman


def test_the_public_names_are_sorted_and_few():
    constants = [name for name in steelman.__all__ if name.isupper()]  # first, as ruff sorts them
    assert steelman.__all__ == sorted(constants) + sorted(set(steelman.__all__) - set(constants))
    assert len(steelman.__all__) == len(set(steelman.__all__)) <= 20


def test_every_public_name_is_there_and_has_its_words():
    for name in steelman.__all__:
        value = getattr(steelman, name)
        assert value.__doc__
        assert value.__name__ == name


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'steelman' has no attribute 'attack_everything'"):
        _ = steelman.attack_everything


def test_dir_shows_what_is_public():
    assert {*steelman.__all__, "__version__"} <= set(dir(steelman))


def test_the_version_is_the_package_s():
    from importlib.metadata import version

    assert steelman.__version__ == version("steelman")


def test_importing_steelman_waits_for_nothing():
    code = "import sys, steelman; sys.exit(bool({'torch', 'numpy', 'cyclopts', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_types_are_checked_against_the_same_names():
    """What a type checker sees (the imports under TYPE_CHECKING) is what there is at run time."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(steelman.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: line.module for line in block.body for alias in line.names}
    assert set(seen) == set(steelman.__all__)
    assert {name: f"steelman.{home}" for name, home in steelman._HOMES.items()} == seen
