# SPDX-License-Identifier: BSD-3-Clause
"""The random streams from their definition: Philox4x32-10 (Salmon et al. 2011), numbers by position."""

import numpy as np

PURPOSES = ("user", "weights", "biases", "permutation", "feedback", "dropout", "noise")
PURPOSES += ("noisy_label", "ensemble", "negatives")


def philox(counter, key):
    """Blocks of four words: counter is a list of four arrays of uint64 below 2^32, key two ints."""
    c = [np.asarray(word, np.uint64) for word in counter]
    k = [int(word) for word in key]
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [b >> 32 ^ c[1] ^ np.uint64(k[0]), b & low, a >> 32 ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return np.stack([word.astype(np.uint32) for word in c], axis=-1)


def words(seed, n, *, stream=0, offset=0):
    """Words offset, offset + 1, ... of a public stream; c3 counts the overflows of c0."""
    first, last = offset // 4, (offset + n + 3) // 4
    block = np.uint64(first) + np.arange(last - first, dtype=np.uint64)
    counter = [block & 0xFFFFFFFF, stream % 2**32, stream >> 32, block >> 32]
    shift = offset - 4 * first
    return philox(np.broadcast_arrays(*counter), (seed % 2**32, seed >> 32)).ravel()[shift:][:n]


def tensor_words(seed, n, *, purpose, tensor=0, step=0, member=0, first_block=0):
    """Words of a stream of the library, from the start of a block on."""
    block = np.uint64(first_block) + np.arange((n + 3) // 4, dtype=np.uint64)
    counter = [block, member, step, PURPOSES.index(purpose) << 24 | tensor]
    return philox(np.broadcast_arrays(*counter), (seed % 2**32, seed >> 32)).ravel()[:n]


def uniform(word):
    """The upper 24 bits, in [0, 1): exact in float32."""
    return (word >> 8) * 2.0**-24


def normal(word):
    """Box-Muller on pairs of words (their number is even): radius, then angle."""
    radius, angle = word[0::2], word[1::2]
    u = ((radius & 0x7FFFFFFF) | 1) * 2.0**-31
    # Two bits choose an axis; the others, as a signed number, turn up to an eighth from it.
    turns = (angle >> 30) / 4 + (angle << 2).view(np.int32) * 2.0**-34
    r = np.sqrt(-2 * np.log(u))
    return np.stack([r * np.cos(2 * np.pi * turns), r * np.sin(2 * np.pi * turns)], -1).ravel()


def sign(word):
    """32 elements a word, lowest bit first; a set bit is -1."""
    return 1.0 - 2.0 * ((word[:, None] >> np.arange(32, dtype=np.uint32)) & 1).ravel()


def permutation(n, seed, epoch):
    """Fisher-Yates from the end; the upper half of word * bound, drawn again where that is unfair."""
    out, position = np.arange(n), 0
    source = tensor_words(seed, 4 * n + 64, purpose="permutation", step=epoch)
    for bound in range(n, 1, -1):
        while True:
            product = int(source[position]) * bound
            position += 1
            if product % 2**32 >= 2**32 % bound:
                break
        out[bound - 1], out[product >> 32] = out[product >> 32], out[bound - 1]
    return out
