"""Run benchmarks by name: `python -m benchmarks [NAME ...] [--list]`.

Without names all of them run, one after the other, each in a process of its own. A benchmark's own options are those of
`python -m benchmarks.NAME --help`. The exit code is 1 where one of them missed a bar.
"""

import ast
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

__all__ = ["SuiteArguments", "available", "main"]

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class SuiteArguments:
    """Run benchmarks, each printing figures measured in one run beside the bars that they must clear.

    Attributes:
        names: Which to run, such as `features`; all of them by default.
        list: Only name them.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    list: bool = False


def available() -> dict[str, str]:
    """Return the first line of each benchmark's docstring by its name: the modules that can be run."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not path.stem.startswith("_") and any(
            "__name__" in ast.unparse(node) for node in tree.body if isinstance(node, ast.If)
        ):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(arguments: SuiteArguments) -> int:
    """Run the named benchmarks and return the exit code."""
    known = available()
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        sys.stderr.write(f"benchmark must be one of {', '.join(known)}, was {unknown[0]}\n")
        return 2
    if arguments.list:
        sys.stdout.writelines(f"{name:16} {line}\n" for name, line in known.items())
        return 0
    codes = {name: subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode for name in arguments.names or known}
    failed = [name for name, code in codes.items() if code]
    sys.stdout.write(f"missed: {', '.join(failed)}\n" if failed else "every bar is met\n")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(SuiteArguments, prog="python -m benchmarks")))
