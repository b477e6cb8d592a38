# SPDX-License-Identifier: BSD-3-Clause
"""Every instruction set of this machine: forced, proved to have run, compared with scalar."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tolerances import ISA_BF16_NORM, ISA_F32_NORM

from bpfree_fast import _core as core

KNOWN = ("scalar", "avx2", "avx512", "avx512bf16", "neon")

# Prints which instruction set ran, and saves what it computed.
SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
import numpy as np
from bpfree_fast import _core as core
from methods.test_threads import train
assert core.config()["isa"] == core.isa()
print(core.isa(), core.config()["bfloat16"])
saved = {}
for rule in (
    "backprop", "direct", "layerwise", "kolen_pollack", "sign_symmetric_fixed", "target",
    "local_pred", "local_sim", "local_predsim", "local_projection",
):
    for dtype in ("float32", "bfloat16"):
        for i, a in enumerate(train(rule, 1, dtype=dtype, steps=10, epsilon=1e-3)):
            saved[f"{rule} {dtype} {i}"] = a
rng = np.random.default_rng(0)
a, b = rng.normal(size=(37, 61)), rng.normal(size=(61, 45))
for t in (np.float32, np.float64):
    out = np.empty((37, 45), t)
    core.product(a.astype(t), b.astype(t), out, False, False)
    saved[f"product {np.dtype(t).name} 0"] = out
for name in ("random_bits", "uniform", "normal", "sign"):
    out = np.empty(1000, np.uint32 if name == "random_bits" else np.float32)
    getattr(core, name)(out, 7, 3, 5)
    saved[f"random {name}"] = out
np.savez(sys.argv[2], **saved)
"""


def run(tmp_path, isa, script=SCRIPT, bfloat16=None):
    tests = str(Path(__file__).resolve().parent)
    forced = {"BPFREE_ISA": isa, "BPFREE_BF16": bfloat16}
    environment = {k: v for k, v in os.environ.items() if k not in forced}
    environment.update({k: v for k, v in forced.items() if v is not None})
    return subprocess.run(
        [sys.executable, "-c", script, tests, str(tmp_path / "saved.npz")],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """What an instruction set computes, each once."""

    @functools.cache
    def compute(isa, bfloat16=None):
        folder = tmp_path_factory.mktemp(isa or "default")
        done = run(folder, isa, bfloat16=bfloat16)
        assert done.returncode == 0, done.stderr
        with np.load(folder / "saved.npz") as saved:
            return done.stdout.split(), dict(saved)

    return compute


def test_available_instruction_sets():
    available = core.available_isas()
    assert available[0] == "scalar"
    assert set(available) <= set(KNOWN)
    assert core.isa() in available
    assert core.config()["isa"] == core.isa()
    assert core.config()["isa_available"] == available


def test_the_best_one_is_the_default(computed):
    assert computed(None)[0][0] == core.available_isas()[-1]


@pytest.mark.parametrize("isa", core.available_isas())
def test_forced(computed, isa):
    """The one that was asked for ran, and training agrees with scalar."""
    check_against_scalar(computed, *computed(isa), isa=isa)


@pytest.mark.skipif(
    "avx512bf16" not in core.available_isas(), reason="this CPU has no dot product of bfloat16"
)
@pytest.mark.parametrize("way", ["dot", "widened"])
def test_both_ways_to_multiply_bfloat16(computed, way):
    """Whichever is the faster here, the other one is right too."""
    ran, saved = computed("avx512bf16", way)
    assert ran[1] == way
    check_against_scalar(computed, ran, saved, isa="avx512bf16")


@pytest.mark.parametrize("value", ["native", "dot"])
def test_a_way_to_multiply_bfloat16_that_is_not_there(tmp_path, value):
    script = "from bpfree_fast import _core; print(_core.isa())"
    done = run(tmp_path, "scalar", script, bfloat16=value)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.strip().splitlines()[-1]
    assert "BPFREE_BF16" in last
    assert value in last


def check_against_scalar(computed, said, saved, *, isa):
    ran, bfloat16 = said
    assert ran == isa
    assert bfloat16 == "widened" or (isa == "avx512bf16" and bfloat16 == "dot")
    scalar = computed("scalar")[1]
    for name, expected in scalar.items():
        if name.startswith("random"):
            np.testing.assert_array_equal(saved[name], expected, err_msg=name)
            continue
        error = np.linalg.norm(saved[name] - expected) / np.linalg.norm(expected)
        bound = ISA_BF16_NORM if "bfloat16" in name else ISA_F32_NORM
        assert error <= bound, f"{name}: {error}"


def test_instruction_sets_are_different_code(computed):
    """Sums in another order end in other bits: were they all the same, one code would have run."""
    available = core.available_isas()
    if len(available) < 2:
        pytest.skip("this machine has one instruction set")
    saved = {isa: computed(isa)[1]["direct float32 0"] for isa in available[:2]}
    assert not np.array_equal(*saved.values())


@pytest.mark.parametrize(
    "isa", [*(k for k in KNOWN if k not in core.available_isas()), "sse9", "AVX2"]
)
def test_forcing_what_is_not_there_is_an_error_of_one_sentence(tmp_path, isa):
    script = "from bpfree_fast import _core; print(_core.isa())"
    done = run(tmp_path, isa, script)
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert "BPFREE_ISA" in last
    assert isa in last
    assert all(name in last for name in core.available_isas())


def test_an_empty_value_forces_nothing(tmp_path):
    done = run(tmp_path, "", "from bpfree_fast import _core; print(_core.isa())")
    assert done.stdout.strip() == core.available_isas()[-1], done.stderr
