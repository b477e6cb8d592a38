# SPDX-License-Identifier: BSD-3-Clause
"""The typed stub says what the compiled module has: every name, every argument, every default."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

STUB = Path(__file__).resolve().parent.parent / "bpfree_fast" / "_core.pyi"

# pybind11's classes have a metaclass that no stub can name.
ALLOWED = r"bpfree_fast\._core\.(Network|Trainer)"


def test_stubtest(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed (it is in the extra 'test')")
    allowlist = tmp_path / "allowed.txt"
    allowlist.write_text(ALLOWED + "\n")
    command = [sys.executable, "-m", "mypy.stubtest", "--allowlist", str(allowlist)]
    done = subprocess.run(
        [*command, "bpfree_fast._core"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def stub_functions() -> dict[str, ast.FunctionDef]:
    """Every function of the stub, by its dotted name below _core."""
    found: dict[str, ast.FunctionDef] = {}
    for node in ast.parse(STUB.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.decorator_list:
                    found[f"{node.name}.{member.name}"] = member
    return found


def arguments(function: ast.FunctionDef) -> list[tuple[str, object]]:
    """Names and defaults in order; a star where keywords begin."""
    spec = function.args
    required = len(spec.args) - len(spec.defaults)
    found = [(argument.arg, ...) for argument in spec.args[:required]]
    found += [
        (argument.arg, ast.literal_eval(default))
        for argument, default in zip(spec.args[required:], spec.defaults, strict=True)
    ]
    if spec.kwonlyargs:
        found.append(("*", ...))
    return found + [
        (argument.arg, ... if default is None else ast.literal_eval(default))
        for argument, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True)
    ]


@pytest.mark.parametrize("name", sorted(stub_functions()))
def test_arguments_match_the_module(name):
    """No tool reads the signature of a compiled function, but its docstring begins with it."""
    target = importlib.import_module("bpfree_fast._core")
    for part in name.split("."):
        target = getattr(target, part)
    signature = target.__doc__.splitlines()[0]
    # The types that pybind11 writes are valid Python once the module's own classes are quoted away.
    text = re.sub(r"\bbpfree_fast\._core\.\w+", "object", signature)
    compiled = ast.parse(f"def {text}: ...").body[0]
    assert isinstance(compiled, ast.FunctionDef)
    assert arguments(compiled) == arguments(stub_functions()[name])
