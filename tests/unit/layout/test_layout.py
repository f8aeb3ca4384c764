"""The tree's shape: top-level folders hold packages and are none, and nothing shadows a library."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
IGNORED = {"build", "dist"}


def folders() -> list[Path]:
    return [
        path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".") and path.name not in IGNORED
    ]


def test_top_level_folders_are_never_packages() -> None:
    assert len(folders()) > 5
    assert [str(path) for path in folders() if (path / "__init__.py").exists()] == []


def test_tests_are_never_packages() -> None:
    assert [str(path) for path in (ROOT / "tests").rglob("__init__.py")] == []


def test_transformers_is_hugging_faces_package_even_from_the_repository_root() -> None:
    code = "import importlib.util as u; print(u.find_spec('transformers').origin)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert "site-packages" in found.stdout


def test_every_package_is_named_after_its_project_and_typed() -> None:
    packages = [path.parent for folder in folders() for path in folder.glob("pilotlight_*/__init__.py")]
    assert len(packages) >= 6
    for package in packages:
        assert (package / "py.typed").exists(), package
        assert importlib.util.find_spec(package.name) is not None


def test_no_module_is_named_after_a_stdlib_module() -> None:
    taken = {
        str(path.relative_to(ROOT))
        for folder in folders()
        for path in folder.glob("pilotlight_*/**/*.py")
        if path.stem in sys.stdlib_module_names and not path.stem.startswith("__")
    }
    assert taken == set()
