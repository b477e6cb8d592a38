# SPDX-License-Identifier: BSD-3-Clause
"""Formatters, linters, the type checker, the docs and the examples in docstrings: zero findings."""

import doctest
import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON_SOURCES = [
    name for name in ("bpfree_fast", "tests", "bench", "docs", "tools") if (ROOT / name).is_dir()
]


def tool(name: str) -> str:
    """Path of a command line tool, the one beside this Python first; skips without it."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed (it is in the extra 'test')")
    return found


def run(*command: str, cwd: Path = ROOT) -> str:
    """Run a command that must succeed, and give what it printed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{' '.join(command[:6])}\n{output}"
    return output


def cpp_files(*suffixes: str) -> list[str]:
    folders = [ROOT / "csrc", ROOT / "tests" / "cpp"]
    return sorted(
        str(path.relative_to(ROOT))
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in suffixes
    )


def test_ruff_check():
    run(tool("ruff"), "check", "--no-cache", *PYTHON_SOURCES)


def test_ruff_format():
    run(tool("ruff"), "format", "--check", "--no-cache", *PYTHON_SOURCES)


def test_mypy(tmp_path):
    pytest.importorskip("mypy", reason="mypy is not installed (it is in the extra 'test')")
    run(sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), "bpfree_fast")


def test_clang_format():
    run(tool("clang-format"), "--dry-run", "-Werror", *cpp_files(".h", ".cpp"))


@pytest.mark.slow
def test_clang_tidy(tmp_path):
    clang_tidy = tool("clang-tidy")
    configure = [tool("cmake"), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    run(*configure, "-DBPFREE_BUILD_TESTS=ON", "-S", str(ROOT), "-B", str(tmp_path))
    database = json.loads((tmp_path / "compile_commands.json").read_text())
    # The per-ISA files hold the headers' code once more, and take minutes each.
    sources = [
        entry["file"] for entry in database if not re.search(r"_(avx\w+|neon)\.cpp$", entry["file"])
    ]
    flags = ["-p", str(tmp_path), "--quiet", "--extra-arg=-Wno-unknown-warning-option"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(run, clang_tidy, *flags, source) for source in sources]
    failed = [str(job.exception()) for job in jobs if job.exception() is not None]
    assert not failed, "\n".join(failed)


def test_every_source_names_its_license():
    suffixes = {".py", ".pyi", ".pyx", ".pxd", ".h", ".cpp", ".cmake", ".toml", ".sh"}
    folders = ["csrc", "bpfree_fast", "tests", "bench", "cmake", "docs", "tools"]
    files = [path for name in folders for path in (ROOT / name).rglob("*")]
    missing = [
        str(path.relative_to(ROOT))
        for path in [*files, ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
        if path.suffix in suffixes
        and "_build" not in path.parts
        and "SPDX-License-Identifier: BSD-3-Clause" not in path.read_text()[:200]
    ]
    assert not missing


def test_no_file_names_a_machine():
    """No path of one machine: a clone works anywhere."""
    pattern = re.compile(r"(?<![\w.$}~-])/(work|root|home|tmp)/[a-z]")
    suffixes = {".py", ".pyi", ".h", ".cpp", ".cmake", ".toml", ".json", ".rst", ".md", ".sh"}
    folders = ["csrc", "bpfree_fast", "tests", "bench", "cmake", "docs", "tools", ".ci"]
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in [*files, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "CMakeLists.txt"]
        if (path.suffix in suffixes or path.parent.name == ".ci") and "_build" not in path.parts
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def package_modules() -> list[str]:
    package = importlib.import_module("bpfree_fast")
    found = pkgutil.walk_packages(package.__path__, "bpfree_fast.")
    names = [module.name for module in found if not module.name.endswith("__main__")]
    return ["bpfree_fast", *(name for name in names if name.rpartition(".")[2] != "_core")]


@pytest.mark.parametrize("name", package_modules())
def test_docstring_examples(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, _ = doctest.testmod(module, optionflags=options)
    assert failed == 0


def test_docs_build_without_a_warning(tmp_path):
    for name in ("sphinx", "myst_parser", "numpydoc"):
        pytest.importorskip(name, reason=f"{name} is not installed (it is in the extra 'test')")
    # In a process of its own, and not from the root: there lies the source without _core.
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-E"]
    run(*command, str(ROOT / "docs"), str(tmp_path / "html"), cwd=tmp_path)
    assert (tmp_path / "html" / "index.html").exists()


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "docs/quickstart.md",
        "docs/kernels.md",
        "docs/methods/ensemble_kalman.md",
        "docs/methods/evolution.md",
        "docs/methods/evolution_strategy.md",
        "docs/methods/forward_forward.md",
        "docs/methods/local_loss.md",
        "docs/methods/noprop.md",
    ],
)
def test_python_examples_of_the_pages(page, tmp_path, monkeypatch):
    """Every Python block of a page runs, one after the other, in one namespace."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": page})
