# SPDX-License-Identifier: BSD-3-Clause
"""Random streams: known answers, positions, instruction sets, and whether they look random."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from oracle import random as oracle

from bpfree_fast import _core as core

FILLS = {"random_bits": np.uint32, "uniform": np.float32, "normal": np.float32, "sign": np.float32}
WEIGHTS, BIASES, PERMUTATION, FEEDBACK = 1, 2, 3, 4
SEED = 0x0123456789ABCDEF

# A normal against float64: it is at most 6.6, its radius 2 and its sine 2 units in the last place
# off, 2^-22 each at that size; measured 7e-7.
NORMAL = 2e-6


def draw(name, n, seed=SEED, dtype=None, **position):
    out = np.empty(n, dtype or FILLS[name])
    getattr(core, name)(out, seed, **position)
    return out


def expected(name, n, seed=SEED, stream=0, offset=0):
    if name == "sign":
        word = oracle.words(seed, (offset % 32 + n + 31) // 32, stream, offset // 32)
        return oracle.sign(word)[offset % 32 :][:n]
    word = oracle.words(seed, n + 2, stream, offset - offset % 2)
    if name == "normal":
        return oracle.normal(word[: len(word) & ~1])[offset % 2 :][:n]
    return (oracle.uniform(word) if name == "uniform" else word)[offset % 2 :][:n]


# The published vectors of the paper's authors, for ten rounds.
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)  # fmt: skip
def test_published_vectors(counter, key, words):
    counter, key, words = (
        tuple(int(word, 16) for word in text.split()) for text in (counter, key, words)
    )
    assert tuple(core.philox(counter, key)) == words
    assert tuple(oracle.philox(counter, key).tolist()) == words


# Frozen: whoever changes one of these changes every result that anyone has stored a seed for.
FROZEN = {
    "random_bits": (
        "b6f1008e f7a82027 056b7a76 f2887c53 1c52af09 3476798a",
        "7ed0e9918993e2e5f9bf59ffc35cf3377d6a46d6d3c145cf6d81b1a6a5e2a658",
    ),
    "uniform": (
        "3f36f100 3f77a820 3cad6f40 3f72887c 3de29578 3e51d9e4",
        "13613e5a38a5aa30f118931b2bf73d537a957d70af908b5bee4b462182420813",
    ),
    "normal": (
        "3ef24f41 3eba5336 3d477636 3eb96634 3e9aa102 3fa97af3",
        "1a5aa7abdb3d43efa648aeb53eae31c38999ef99b98281928a59a7a1070ba31a",
    ),
    "sign": (
        "bf800000 3f800000 3f800000 3f800000 bf800000 bf800000",
        "aceaf7740fba52bd83983bb739bf03fd009d9b37af542d4ed362c072c7032ece",
    ),
}


@pytest.mark.parametrize("name", FILLS)
def test_frozen(name):
    first, digest = FROZEN[name]
    out = draw(name, 100_003, stream=0xFEDCBA9876543210, offset=5)
    assert " ".join(f"{word:08x}" for word in out[:6].view(np.uint32)) == first
    assert hashlib.sha256(out.astype(out.dtype.newbyteorder("<")).tobytes()).hexdigest() == digest


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("stream", [0, 1, 2**32, 2**64 - 1])
@pytest.mark.parametrize("seed", [0, SEED, 2**64 - 1])
def test_against_definition(name, stream, seed):
    for offset, n in [(0, 1000), (1, 7), (3, 130), (31, 33), (127, 500), (2**31 + 5, 9)]:
        actual = draw(name, n, seed, stream=stream, offset=offset)
        np.testing.assert_allclose(
            actual,
            expected(name, n, seed, stream, offset),
            rtol=0,
            atol=NORMAL if name == "normal" else 0,
        )


@pytest.mark.parametrize("name", FILLS)
def test_offset_is_tail(name):
    whole = draw(name, 1200)
    for k in [*range(70), 127, 128, 129, 1023, 1024, 1025, 1199, 1200]:
        np.testing.assert_array_equal(draw(name, 1200 - k, offset=k), whole[k:])


@pytest.mark.parametrize("name", FILLS)
def test_length_touches_nothing_else(name):
    whole = draw(name, 200)
    for n in range(140):
        out = np.full(200, 7, FILLS[name])
        getattr(core, name)(out[3 : 3 + n], SEED)
        np.testing.assert_array_equal(out[3 : 3 + n], whole[:n])
        assert (out[:3] == 7).all()
        assert (out[3 + n :] == 7).all()


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_threads_change_no_bit(name, n_threads):
    whole = draw(name, 300_007, offset=11, n_threads=1)
    again = draw(name, 300_007, offset=11, n_threads=n_threads)
    np.testing.assert_array_equal(again, whole)
    pieces = [draw(name, 100_000, offset=11 + start) for start in (0, 100_000, 200_000)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole[:300_000])


@pytest.mark.parametrize("name", ["uniform", "normal", "sign"])
def test_float64_is_float32_widened(name):
    wide = draw(name, 1000, dtype=np.float64, offset=3)
    np.testing.assert_array_equal(wide, draw(name, 1000, offset=3).astype(np.float64))


@pytest.mark.parametrize("name", FILLS)
def test_beyond_32_bits_of_blocks(name):
    """c3 counts the overflows of c0, so the stream goes on and does not repeat."""
    per_block = 128 if name == "sign" else 4
    edge = 2**32 * per_block
    across = draw(name, 2000, offset=edge - 1000)
    np.testing.assert_allclose(
        across, expected(name, 2000, offset=edge - 1000), rtol=0, atol=NORMAL
    )
    assert (across[1000:] != draw(name, 1000)).any()
    last = 2**56 * per_block
    np.testing.assert_allclose(
        draw(name, 10, offset=last - 10),
        expected(name, 10, offset=last - 10),
        rtol=0,
        atol=NORMAL,
    )
    for offset, n in [(last - 9, 10), (2**64 - 1, 1)]:
        with pytest.raises(ValueError, match="elements"):
            draw(name, n, offset=offset)


ISA_SCRIPT = """
import hashlib, numpy as np
from bpfree_fast import _core as core
print(core.isa())
for name in ("random_bits", "uniform", "normal", "sign"):
    for dtype in ("u4",) if name == "random_bits" else ("f4", "f8"):
        out = np.empty(1_000_003, dtype)
        getattr(core, name)(out, 1, 2, 3)
        print(name, dtype, hashlib.sha256(out.tobytes()).hexdigest())
network = core.Network([37, 45, 3], "relu", "softmax_cross_entropy", "float32")
for scheme in ("uniform", "he_normal"):
    network.initialize(5, scheme)
    print(scheme, hashlib.sha256(network.weights(0).tobytes()).hexdigest())
print(core.permutation(1000, 1, 2)[:9])
"""


def on_isa(isa, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ISA_SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"BPFREE_ISA": isa},
        capture_output=True,
        text=True,
        check=True,
    )
    ran, _, printed = done.stdout.partition("\n")
    assert ran == isa
    return printed


def test_same_bits_on_every_isa(tmp_path):
    printed = {isa: on_isa(isa, tmp_path) for isa in core.available_isas()}
    assert "scalar" in printed
    for isa, text in printed.items():
        assert text == printed["scalar"], isa


@pytest.mark.parametrize("shape", [(37, 45), (5, 1), (1, 64), (64, 33)])
def test_weights(shape):
    """Each row starts a block, so how wide a panel is shifts nothing."""
    network = core.Network([*shape, 2], "relu", "softmax_cross_entropy", "float32")
    network.initialize(SEED, "uniform")
    bound = np.float32(1 / np.sqrt(shape[0]))
    word = oracle.matrix_words(SEED, shape, WEIGHTS)[:, : shape[1]]
    np.testing.assert_allclose(
        network.weights(0), bound * (2 * oracle.uniform(word) - 1), rtol=0, atol=1e-7
    )
    word = oracle.matrix_words(SEED, (1, shape[1]), BIASES)[0, : shape[1]]
    np.testing.assert_allclose(
        network.biases(0), bound * (2 * oracle.uniform(word) - 1), rtol=0, atol=1e-7
    )
    network.initialize(SEED, "he_normal")
    word = oracle.matrix_words(SEED, (shape[1], 2), WEIGHTS, tensor=1)
    np.testing.assert_allclose(
        network.weights(1),
        np.sqrt(2 / shape[1]) * oracle.normal(word)[:, :2],
        rtol=0,
        atol=2 * NORMAL,
    )


@pytest.mark.parametrize("distribution", ["uniform", "normal", "sign"])
def test_feedback(distribution):
    n_hidden, n_outputs = 77, 6
    network = core.Network([4, n_hidden, n_outputs], "relu", "softmax_cross_entropy", "float32")
    network.initialize(1, "uniform")
    trainer = core.Trainer(
        network,
        method="feedback",
        feedback_distribution=distribution,
        feedback_scale=2.0,
        seed=SEED,
    )
    per_block = 128 if distribution == "sign" else 4
    word = oracle.matrix_words(SEED, (n_outputs, n_hidden), FEEDBACK, per_block=per_block)
    value = getattr(oracle, distribution)(word)[:, :n_hidden]
    if distribution == "uniform":
        value = 2 * value - 1
    scale = 2 / np.sqrt(n_outputs)
    np.testing.assert_allclose(trainer.feedback(0), scale * value, rtol=0, atol=2 * NORMAL)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 1000, 5000])
def test_permutation(n):
    for seed, epoch in [(0, 0), (SEED, 1), (SEED, 2**32 - 1)]:
        word = oracle.matrix_words(seed, (1, 2 * n + 64), PERMUTATION, step=epoch)[0]
        out = core.permutation(n, seed, epoch)
        assert out.dtype == np.uint32
        assert out.tolist() == oracle.permutation(word, n)


def test_permutations_are_equally_likely():
    orders, counts = np.unique(
        [core.permutation(4, 1, epoch) for epoch in range(24_000)], axis=0, return_counts=True
    )
    assert len(orders) == 24
    # chi squared with 23 degrees of freedom: mean 23, deviation 6.8.
    assert ((counts - 1000) ** 2 / 1000).sum() < 23 + 5 * 6.8


def test_permutation_is_refused():
    with pytest.raises(ValueError, match="epoch is 4294967296"):
        core.permutation(3, 0, 2**32)


# A run of the tests below draws one fixed sample: five deviations are far enough to never be
# chance, and near enough to see a bias of one part in some hundred.


def test_moments():
    n = 1 << 22
    x = draw("normal", n, dtype=np.float64)
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs((x**power).mean() - mean) < 5 * np.sqrt(variance / n), power
    u = draw("uniform", n, dtype=np.float64)
    assert 0 <= u.min() < 5 / n
    assert 1 - 5 / n < u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
    assert abs(((u - 0.5) ** 2).mean() - 1 / 12) < 5 * np.sqrt(1 / 180 / n)
    s = draw("sign", n, dtype=np.float64)
    assert set(np.unique(s)) == {-1, 1}
    assert abs(s.mean()) < 5 / np.sqrt(n)


@pytest.mark.parametrize(("name", "cdf"), [("normal", "norm"), ("uniform", "uniform")])
def test_distribution(name, cdf):
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(draw(name, 1 << 20), cdf).pvalue > 1e-3


def test_tails():
    """Counts beyond 3 to 5 deviations, on either side."""
    n, size = 32, 1 << 20
    beyond = {3.0: 1.349898e-3, 4.0: 3.167124e-5, 4.5: 3.397673e-6, 5.0: 2.866516e-7}
    counts = dict.fromkeys([*beyond, *(-bound for bound in beyond)], 0)
    for part in range(n):
        x = draw("normal", size, offset=part * size)
        for bound in beyond:
            counts[bound] += np.count_nonzero(x > bound)
            counts[-bound] += np.count_nonzero(x < -bound)
    for bound, count in counts.items():
        mean = n * size * beyond[abs(bound)]
        assert abs(count - mean) < 5 * np.sqrt(mean), bound


def test_bits_are_fair():
    word = draw("random_bits", 1 << 20)
    ones = ((word[:, None] >> np.arange(32, dtype=np.uint32)) & 1).mean(axis=0)
    assert (np.abs(ones - 0.5) < 5 * 0.5 / np.sqrt(len(word))).all()
    for shift in (0, 8, 16, 24):
        counts = np.bincount((word >> shift) & 255, minlength=256)
        mean = len(word) / 256
        assert ((counts - mean) ** 2 / mean).sum() < 255 + 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize("name", ["uniform", "normal", "sign"])
def test_no_correlation(name):
    """Between streams, between seeds, between neighbours, and of the sizes of a normal pair."""
    n = 1 << 16
    rows = [draw(name, n, dtype=np.float64, stream=stream) for stream in (0, 1, 2, 2**32, 2**33)]
    rows += [draw(name, n, seed, dtype=np.float64) for seed in (0, 1, 2**32, 2**63)]
    rows += [draw(name, n, dtype=np.float64, offset=lag) for lag in (1, 2, 3, 4, 32, 128)]
    for table in (np.array(rows), np.array(rows) ** 2 if name == "normal" else np.array(rows)):
        correlation = np.corrcoef(table) - np.eye(len(rows))
        assert np.abs(correlation).max() < 5 / np.sqrt(n)


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty(4, np.float16), "float32"),
        (np.empty(4, np.int32), "float32"),
        (np.empty(4, ">f4"), "float32"),
        (np.empty((2, 2), np.float32), "shape"),
        (np.empty(8, np.float32)[::2], "contiguous"),
        (np.frombuffer(bytes(16), np.float32), "read-only"),
    ],
    ids=["float16", "int32", "byte order", "two dimensions", "strided", "read-only"],
)
def test_out_is_refused(out, error):
    for name in ("uniform", "normal", "sign"):
        with pytest.raises((ValueError, TypeError), match=error):
            getattr(core, name)(out, 0)
    with pytest.raises((ValueError, TypeError), match="uint32"):
        core.random_bits(np.empty(4, np.float32), 0)


@pytest.mark.parametrize("seed", [-1, 2**64, 0.5])
def test_seed_is_refused(seed):
    with pytest.raises((TypeError, ValueError, OverflowError)):
        core.normal(np.empty(4, np.float32), seed)
