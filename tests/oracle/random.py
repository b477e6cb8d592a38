# SPDX-License-Identifier: BSD-3-Clause
"""Random streams from their definition: Philox4x32-10 (Salmon et al. 2011), numbers by position."""

import numpy as np


def philox(counter, key):
    """Blocks of four words. counter: four integers or arrays below 2^32; key: two integers."""
    c = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counter))
    k = [np.uint64(word) for word in key]
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [b >> high ^ c[1] ^ k[0], b & low, a >> high ^ c[3] ^ k[1], a & low]
        k = [k[0] + np.uint64(0x9E3779B9) & low, k[1] + np.uint64(0xBB67AE85) & low]
    return np.stack(c, axis=-1).astype(np.uint32)


def words(seed, n, stream=0, offset=0):
    """Words offset, offset + 1, ... of a public stream; c3 counts the overflows of c0."""
    first, skip = divmod(offset, 4)
    block = np.uint64(first) + np.arange((skip + n + 3) // 4, dtype=np.uint64)
    counter = block % 2**32, stream % 2**32, stream >> 32, block // 2**32
    return philox(counter, (seed % 2**32, seed >> 32)).ravel()[skip:][:n]


def matrix_words(seed, shape, purpose, tensor=0, step=0, member=0, per_block=4):
    """Words of a tensor of the library; each row starts a block, which makes per_block elements."""
    n_blocks = shape[0] * -(-shape[1] // per_block)
    counter = np.arange(n_blocks), member, step, purpose << 24 | tensor
    return philox(counter, (seed % 2**32, seed >> 32)).reshape(shape[0], -1)


def uniform(word):
    """The upper 24 bits, in [0, 1): exact in float32."""
    return (word >> 8) * 2.0**-24


def normal(word):
    """Box-Muller on pairs of words: the radius, then the angle."""
    radius, angle = word[..., 0::2], word[..., 1::2]
    u = ((radius & 0x7FFFFFFF) | 1).astype(np.float32)  # rounded: it matters next to 1
    r = np.sqrt(-2 * np.log(u.astype(np.float64) * 2.0**-31))
    # Two bits choose an axis; the others, as a signed number, turn up to an eighth from it.
    turns = (angle >> 30) / 4 + (angle << 2).view(np.int32) * 2.0**-34
    angle = 2 * np.pi * turns
    return np.stack([r * np.cos(angle), r * np.sin(angle)], -1).reshape(word.shape)


def sign(word):
    """32 elements a word, lowest bit first; a set bit is -1."""
    bit = word[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return 1.0 - 2.0 * bit.reshape(*word.shape[:-1], -1)


def permutation(word, n):
    """Fisher-Yates from the end: the upper half of word * bound, drawn again where it is unfair."""
    out, word = list(range(n)), iter(word.tolist())
    for bound in range(n, 1, -1):
        product = next(word) * bound
        while product % 2**32 < 2**32 % bound:
            product = next(word) * bound
        out[bound - 1], out[product >> 32] = out[product >> 32], out[bound - 1]
    return out
