# SPDX-License-Identifier: BSD-3-Clause
"""Who may use whom, and what has one home: read from the sources and from the objects."""

import ast
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "bpfree_fast"

# bindings, capi -> methods -> network -> product, random, linalg -> simd -> base.
# The formulas are a leaf: templates over simd's vectors, which know nothing of ours else.
BELOW_PRODUCT = {"base", "simd", "formulas"}
LAYERS = {
    "base": set(),
    "simd": {"base"},
    "formulas": {"simd"},
    "product": BELOW_PRODUCT,
    "random": BELOW_PRODUCT,
    "linalg": BELOW_PRODUCT | {"product"},
    "network": BELOW_PRODUCT | {"product", "random", "linalg"},
    "methods": BELOW_PRODUCT | {"product", "random", "linalg", "network"},
    "bindings": BELOW_PRODUCT | {"product", "random", "linalg", "network", "methods"},
    "capi": BELOW_PRODUCT | {"product", "random", "linalg", "network", "methods", "bpfree"},
}
INTRINSICS = re.compile(r"\w*intrin\.h|arm_neon\.h|arm_sve\.h")
PYTHON_HEADERS = re.compile(r"Python\.h|pybind11/.*|numpy/.*|nanobind/.*")
ISA_TAGS = {
    "scalar": "Scalar",
    "avx2": "Avx2",
    "avx512": "Avx512",
    "avx512bf16": "Avx512Bf16",
    "neon": "Neon",
}
# Python: a module of ours may import what stands beside it, and itself. Absent: anything.
PYTHON_FORBIDDEN = {
    "_validation": {"cli", "report", "estimators", "data", "kernels"},
    "data": {"cli", "report", "estimators"},
    "estimators": {"cli", "report", "data"},
    "kernels": {"cli", "report", "estimators", "data"},
    "info": {"cli", "report", "estimators", "data"},
    "report": {"cli"},
}


def sources(*suffixes: str) -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in suffixes)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.M)


def where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_include_directions():
    wrong = []
    for path in sources(".h", ".cpp"):
        layer = path.relative_to(CSRC).parts[0]
        for name in includes(path):
            other = name.split("/")[0] if "/" in name else None
            if other in {*LAYERS, "bpfree"} and other not in LAYERS[layer] | {layer}:
                wrong.append(f"{where(path)} includes {name}")
    assert not wrong


def test_every_folder_of_csrc_is_a_layer():
    assert {path.name for path in CSRC.iterdir()} <= set(LAYERS)


@pytest.mark.parametrize(
    ("header", "home"),
    [
        (re.compile(r"omp\.h"), "csrc/base/parallel.cpp"),
        (INTRINSICS, "csrc/simd/"),
        (PYTHON_HEADERS, "csrc/bindings/"),
    ],
    ids=["omp", "intrinsics", "python"],
)
def test_header_has_one_home(header, home):
    users = [
        where(path)
        for path in sources(".h", ".cpp")
        if any(header.fullmatch(name) for name in includes(path))
    ]
    assert [user for user in users if not user.startswith(home)] == []


def test_pragma_omp_has_one_home():
    users = [where(path) for path in sources(".h", ".cpp") if "#pragma omp" in path.read_text()]
    assert users in ([], ["csrc/base/parallel.cpp"])


def test_no_macros():
    found = [
        f"{where(path)}:{number}"
        for path in sources(".h", ".cpp")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*#\s*define\b", line)
    ]
    assert not found


def test_conditional_code_is_in_base_and_simd():
    """The C header may ask whether it is read as C++; the version comes in by one name."""
    found = [
        f"{where(path)}:{number}"
        for path in sources(".h", ".cpp")
        if path.relative_to(CSRC).parts[0] not in {"base", "simd"}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*#\s*(if|ifdef|ifndef|elif)\b", line) and "__cplusplus" not in line
    ]
    assert not found


def test_headers_have_pragma_once():
    assert [where(path) for path in sources(".h") if "#pragma once" not in path.read_text()] == []


def test_flags_that_break_the_promises():
    """Native code generation breaks other CPUs, fast math breaks the bits."""
    forbidden = re.compile("-march=" + "native|-O" + "fast|-f" + "fast-math|-O3")
    files = [ROOT / "CMakeLists.txt", ROOT / "CMakePresets.json", ROOT / "pyproject.toml"]
    for path in [*files, *(ROOT / "cmake").iterdir()]:
        code = re.sub(r"#.*", "", path.read_text())
        assert not forbidden.search(code), path.name


# Shown in pytest's warning summary, and no failure: a seam is looked for well before, not forced.
@pytest.mark.filterwarnings("default::UserWarning")
def test_file_sizes():
    folders = [CSRC, PACKAGE, ROOT / "tests", ROOT / "bench"]
    suffixes = {".h", ".cpp", ".py", ".pyx", ".pyi"}
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    lines = {where(path): len(path.read_text().splitlines()) for path in files}
    for name, count in sorted(lines.items()):
        if count > 500:
            warnings.warn(f"{name} has {count} lines: look for the seam", stacklevel=1)
    assert {name: count for name, count in lines.items() if count > 1000} == {}


def imported(path: Path) -> set[str]:
    """Top modules of the package that a file imports, inside functions too."""
    depth = len(path.relative_to(PACKAGE).parts)  # 1 for a module, 2 for a module of a subpackage
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                if node.level < depth:
                    continue  # within its own subpackage
                base = ".".join(filter(None, ["bpfree_fast", base]))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "bpfree_fast" and len(parts) > 1:
                found.add(parts[1])
    return found


def test_import_directions():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        wrong += [
            f"{where(path)} imports {name}"
            for name in imported(path) & PYTHON_FORBIDDEN.get(top, set())
        ]
    assert not wrong


def test_optional_packages_are_not_imported_with_the_package(tmp_path):
    code = (
        "import sys, bpfree_fast\n"
        "names = 'sklearn safetensors tqdm matplotlib dask torch jax scipy'.split()\n"
        "print([name for name in names if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def program(name: str) -> str:
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def isa_objects(build_type: str, folder: Path) -> list[Path]:
    """The per-ISA objects: of the build folder that BPFREE_BUILD_DIR names, or built here."""
    given = os.environ.get("BPFREE_BUILD_DIR")
    if given:
        cache = (Path(given) / "CMakeCache.txt").read_text()
        if f"CMAKE_BUILD_TYPE:STRING={build_type}" in cache:
            return sorted((Path(given) / "CMakeFiles" / "bpfree_isa.dir").rglob("*.o"))
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={program('ninja')}"]
    configure = [program("cmake"), *generator, f"-DCMAKE_BUILD_TYPE={build_type}"]
    for command in (
        [*configure, "-DBPFREE_WARNINGS_AS_ERRORS=ON", "-S", str(ROOT), "-B", str(folder)],
        [program("cmake"), "--build", str(folder), "--target", "bpfree_isa"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return sorted((folder / "CMakeFiles" / "bpfree_isa.dir").rglob("*.o"))


@pytest.mark.slow
@pytest.mark.parametrize("build_type", ["Release", "Debug"])
def test_per_isa_objects_share_no_symbol(build_type, tmp_path):
    """The linker keeps one copy of an untagged symbol, perhaps the AVX-512 one for every CPU."""
    objects = isa_objects(build_type, tmp_path)
    assert objects
    untagged = []
    for path in objects:
        isa = re.search(r"_([a-z0-9]+)\.cpp\.o$", path.name)
        assert isa, path.name
        tag = re.compile(rf"\bisa::{ISA_TAGS[isa[1]]}\b")
        listing = subprocess.run(
            [program("nm"), "-C", "--defined-only", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for line in listing.splitlines():
            kind, _, name = line[17:].partition(" ")
            if kind in "VvWwu" and not tag.search(name):
                untagged.append(f"{path.name}: {name}")
    assert not untagged, "\n".join(untagged)
