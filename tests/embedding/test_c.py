# SPDX-License-Identifier: BSD-3-Clause
"""A C program against the installed package, found in three ways; its numbers are bf.kernels'."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bpfree_fast as bf
from bpfree_fast import _core as core

HERE = Path(__file__).resolve().parent
INCLUDE = Path(bf.get_include())
LIBRARIES = INCLUDE.parent / "lib"
STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
kernels = bf.kernels


def tool(*names):
    """The first program of these that is there, beside this Python or in the path; else a skip."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    return pytest.skip(f"{' or '.join(names)} is not installed")


def run(*command, **keywords):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **keywords)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def numbers():
    """What the program prints, computed through Python."""
    x = kernels.normal(1, 6 * 37).reshape(6, 37)
    W, b = kernels.uniform(2, 37 * 40).reshape(37, 40), kernels.sign(3, 40)
    e = kernels.normal(4, 18).reshape(6, 3)
    d, u = (fill(5, 4, dtype="float64").reshape(2, 2) for fill in (kernels.normal, kernels.uniform))
    a = np.empty((6, 40), np.float32)
    expected = {
        "bits": kernels.random_bits(1, 5, stream=2, offset=3),
        "product": kernels.product(d, u, transpose_b=True),
        "signs": kernels.sign(5, 4, dtype="float64"),
        "squares": np.float32([[10, 14], [14, 20]]),
        "gram": kernels.product(x, x, transpose_b=True),
        "h": kernels.dense_forward(x, W, b, activation="gelu", preactivation=a),
        "a": a.copy(),
    }
    source = {"seed": 9, "layer": 1, "distribution": "normal", "scale": 2.0}
    delta = kernels.project_feedback(e, 40, **source, h=a, activation="gelu")
    state = [np.zeros_like(array) for array in (W, b, W, b)]
    kernels.dense_update(
        W, b, x, delta, learning_rate=0.125, solver="adam", weight_decay=0.5, state=state
    )
    expected |= {"delta": delta, "W": W.copy(), "b": b.copy(), "v": state[2].copy()}
    r, h = np.empty(6, np.float32), np.empty((6, 40), np.float32)
    expected["g"] = kernels.goodness(x, kind="mean", row_factor=r)
    loss = kernels.forward_forward_update(
        W, b, x, 3, learning_rate=0.125, solver="adam", weight_decay=0.5, state=state,
        temperature=4.0, h_out=h,
    )  # fmt: skip
    expected |= {"r": r, "loss": np.float64(loss), "h_ff": h, "W_ff": W.copy(), "b_ff": b.copy()}
    M, c = kernels.normal(6, 40 * 3).reshape(40, 3), kernels.sign(7, 3)
    h = kernels.dense_forward(x, W, b, activation="gelu", preactivation=a)
    loss = kernels.local_loss_update(
        W, b, M, c, x, h, np.int32([0, 2, 1, 1, 0, 2]), local_loss="predsim", activation="gelu",
        preactivation=a, learning_rate=0.125, solver="adam", weight_decay=0.5, state=state,
        head_state=[np.zeros_like(array) for array in (M, c, M, c)],
    )  # fmt: skip
    expected |= {"loss_local": np.float64(loss), "W_local": W, "b_local": b}
    expected |= {"M": M.copy(), "c": c.copy()}
    denoised = np.empty((6, 3), np.float32)
    loss = kernels.noprop_update(
        M, c, h, np.int32([0, 2, 1, 1, 0, 2]), weight=2.0, error=denoised, learning_rate=0.125,
        solver="adam", weight_decay=0.5, state=[np.zeros_like(array) for array in (M, c, M, c)],
    )  # fmt: skip
    expected |= {
        "loss_noprop": np.float64(loss),
        "M_noprop": M,
        "c_noprop": c,
        "e_noprop": denoised,
    }
    labels = np.int32([0, 2, 1, 1, 0, 2])
    expected["e_head"] = kernels.denoising_head(
        denoised, labels, embedding=M[:3].copy(), weight=0.5
    )
    expected["table"] = kernels.posterior_coefficients([0.0, 0.3, 0.7, 0.9])
    theta, noise = np.concatenate([W.ravel(), b]), {"seed": 9, "antithetic": True}
    member = kernels.perturb(theta, member=5, std=0.5, shapes=[(37, 40), (40,)], **noise)
    utilities = kernels.fitness_shaping(np.array([1.0, 3.0, 3.0, 2.0]), maximize=True)
    gradient = kernels.perturbation_gradient(
        utilities, theta.size, first_member=2, kind="rademacher", generation=1, **noise
    )
    expected |= {"member": member, "utilities": utilities, "gradient": gradient}
    population = kernels.low_rank_forward(
        x, W, b, n_members=2, first_member=3, std=0.5, tensor=4, generation=1, rank=2,
        activation="tanh", **noise,
    )  # fmt: skip
    expected["population"] = population
    expected["covariance"] = kernels.ensemble_covariance(x, e, localization="sec")
    members, report = kernels.ensemble_update(
        x, e, utilities[:3], 0.5, method="enkf", dt=0.5, random_state=9, iteration=2,
        return_report=True,
    )  # fmt: skip
    expected |= {"ensemble": members, "misfit": report.misfit}
    expected["rank"] = np.float64(report.effective_rank)
    root = kernels.ensemble_update(x, e, utilities[:3], 0.5, method="etki")
    return expected | {"root": root}


def check_output(text):
    lines = [line.split(" ", 1) for line in text.splitlines()]
    printed = {name: value for name, value in lines if name not in ("status", "error")}
    assert printed.pop("version") == core.__version__
    assert printed.pop("isa") == core.isa()
    assert printed.pop("unchanged") == "7 7"
    expected = numbers()
    assert set(printed) == set(expected)
    for name, value in expected.items():
        assert printed[name] == value.tobytes().hex(), name
    assert [value for name, value in lines if name == "status"] == [
        "1", "1", "1", "1", "3", "1", "1", "1", "1", "1", "1", "1", "1", "1",
    ]  # fmt: skip
    errors = [value for name, value in lines if name == "error"]
    for words, sentence in zip(
        [
            "x is a null pointer",
            "-3",
            "distribution is 9",
            "out overlaps a",
            "state of W is missing",
            "temperature is -2",
            "kind is 7",
            "similarity_weight is 2",
            "std is -0.5",
            "1 elements, expected an even number",
            "NaN or infinite for all 1 members",
            "kind of noise is 0, expected 2 (low_rank)",
            "dt is -4",
        ],
        errors,
        strict=True,
    ):
        assert words in sentence


def environment():
    return {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES)}


def test_find_package(tmp_path):
    compiler = tool("cc", "gcc", "clang")
    cmake, ninja = tool("cmake"), tool("ninja")
    run(
        cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-DCMAKE_C_COMPILER={compiler}",
        f"-Dbpfree_DIR={bf.get_cmake_dir()}", "-S", str(HERE), "-B", str(tmp_path),
    )  # fmt: skip
    run(cmake, "--build", str(tmp_path))
    check_output(run(str(tmp_path / "program")))  # CMake writes the library's folder into it


def test_pkg_config(tmp_path):
    compiler, pkg_config = tool("cc", "gcc", "clang"), tool("pkg-config", "pkgconf")
    variables = {**os.environ, "PKG_CONFIG_PATH": str(LIBRARIES / "pkgconfig")}
    flags = run(pkg_config, "--cflags", "--libs", "bpfree", env=variables).split()
    program = tmp_path / "program"
    run(compiler, *STRICT, str(HERE / "program.c"), "-o", str(program), *flags)
    check_output(run(str(program), env=environment()))
    assert run(pkg_config, "--modversion", "bpfree", env=variables).strip() == core.__version__


def test_plain_flags(tmp_path):
    compiler = tool("cc", "gcc", "clang")
    program = tmp_path / "program"
    flags = [f"-I{INCLUDE}", f"-L{LIBRARIES}", "-lbpfree", f"-Wl,-rpath,{LIBRARIES}"]
    run(compiler, *STRICT, str(HERE / "program.c"), "-o", str(program), *flags)
    check_output(run(str(program)))


def test_the_header_is_also_cpp(tmp_path):
    compiler = tool("c++", "g++", "clang++")
    source = tmp_path / "program.cpp"
    source.write_text(
        "#include <bpfree/bpfree.h>\n#include <bpfree/bpfree.h>\n"
        "int main() { return bpfree_normal_f32(nullptr, 0, 0, 0, 0, 0); }\n"
    )
    program = tmp_path / "program"
    flags = [f"-I{INCLUDE}", f"-L{LIBRARIES}", "-lbpfree", f"-Wl,-rpath,{LIBRARIES}"]
    run(compiler, "-Wall", "-Wextra", "-Wpedantic", str(source), "-o", str(program), *flags)
    run(str(program))


def test_an_isa_that_the_cpu_lacks_is_an_error_and_no_abort(tmp_path):
    compiler = tool("cc", "gcc", "clang")
    source = tmp_path / "program.c"
    source.write_text(
        "#include <bpfree/bpfree.h>\n#include <stdio.h>\n"
        "int main(void) { float x; bpfree_status s = bpfree_normal_f32(&x, 1, 0, 0, 0, 0);\n"
        'printf("%d %d %s", (int)s, bpfree_isa() == NULL, bpfree_last_error()); return 0; }\n'
    )
    program = tmp_path / "program"
    flags = [f"-I{INCLUDE}", f"-L{LIBRARIES}", "-lbpfree", f"-Wl,-rpath,{LIBRARIES}"]
    run(compiler, *STRICT, str(source), "-o", str(program), *flags)
    status, is_null, sentence = run(str(program), env={**os.environ, "BPFREE_ISA": "abacus"}).split(
        " ", 2
    )
    assert status in ("1", "2")
    assert is_null == "1"
    assert "abacus" in sentence


def declared():
    text = (INCLUDE / "bpfree" / "bpfree.h").read_text()
    return set(re.findall(r"\b(bpfree_\w+)\(", re.sub(r"//.*", "", text)))


def test_the_library_exports_the_header_and_nothing_else():
    listing = run(tool("nm"), "-D", "--defined-only", str(LIBRARIES / "libbpfree.so"))
    exported = {line.split()[-1] for line in listing.splitlines() if line}
    assert exported == declared()


def test_every_kernel_has_three_faces():
    """bf.kernels, bpfree.h and cython_kernels.pxd land together."""
    capi = importlib_cython().__pyx_capi__
    in_c = {name.removeprefix("bpfree_") for name in declared()}
    assert set(capi) - {"check"} == in_c - {"version", "isa"}
    for name in kernels.__all__:
        assert any(known == name or known.startswith(f"{name}_") for known in in_c), name


def importlib_cython():
    return pytest.importorskip("bpfree_fast.cython_kernels")
