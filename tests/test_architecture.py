"""The house: what may be imported where, and what an import costs."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import cryptoml
from tests.conftest import REPOSITORY

HEAVY = ("torch", "ray", "pandas", "pyarrow", "optuna", "lightgbm", "plotly")
LIBRARY_WITHOUT_RAY = ("data", "features", "models", "training", "trading", "evaluation", "config.py", "pipeline.py", "errors.py")


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(loaded.stdout.split())


def test_import_is_light():
    assert not modules_loaded_by("import cryptoml") & set(HEAVY)


def test_pipeline_needs_no_ray():
    assert "ray" not in modules_loaded_by("import cryptoml.pipeline")


@pytest.mark.parametrize("name", [name for name in cryptoml.__all__ if name != "__version__"])
def test_public_name_exists(name: str):
    assert getattr(cryptoml, name).__module__.startswith("cryptoml.")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        cryptoml.Nonsense  # noqa: B018


def python_files() -> list[Path]:
    tops = ("cryptoml", "jobs", "serve", "benchmarks")
    return [path for top in tops for path in sorted((REPOSITORY / top).rglob("*.py"))]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_file_reads_as_one_idea(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert text.count("\n") <= 400
    assert not text.strip() or ast.get_docstring(tree), "a module says what it is"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            assert not body or node.end_lineno - body[0].lineno < 50, f"{node.name} is longer than 50 lines"


def test_every_room_has_its_tests():
    rooms = {path.name for path in (REPOSITORY / "cryptoml").iterdir() if path.is_dir() and path.name != "__pycache__"}
    tested = {path.name for path in (REPOSITORY / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert rooms <= tested


def test_public_modules_declare_their_names():
    missing = []
    for path in (REPOSITORY / "cryptoml").rglob("*.py"):
        if path.name == "__init__.py":
            continue
        module = import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
        if not hasattr(module, "__all__"):
            missing.append(str(path))
    assert not missing
