"""Writes the golden files beside it: random blocks and what gguf-py makes of them.

`TYPE.bin` holds blocks, then their values as f32. `TYPE.encode.bin` holds values as f32, then their blocks.
Both little-endian; how many follows from the length. Run with `gguf` 0.19.0 and numpy 2.4.6; the files are
the same each time.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

HERE = Path(__file__).parent

# Byte offsets of the f16 scales.
SCALES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.IQ4_NL: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_XS: [0],
}
# The largest half, the smallest normal one and its neighbour below, the smallest of all, zeros, negative ones.
EXTREMES = [0x7bff, 0x0400, 0x03ff, 0x8001, 0x8000, 0xbc00]
# Of MXFP4, whose scale is a power of two: both subnormal scales, the smallest normal one, and 2^122.
EXPONENTS = [0, 1, 2, 3, 250]


def blocks(rng, dtype):
    values, size = GGML_QUANT_SIZES[dtype]
    count = 8 if values == 256 else 24
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if dtype == T.MXFP4:
        data[:, 0] = rng.integers(110, 135, count)
        data[: len(EXPONENTS), 0] = EXPONENTS
    for field, at in enumerate(SCALES.get(dtype, [])):
        scales = (rng.normal(size=count) * 10.0 ** rng.uniform(-5, 0, count)).astype(np.float16)
        # Not the same extreme in both fields of a block.
        scales[: len(EXTREMES)] = np.roll(np.array(EXTREMES, np.uint16), field).view(np.float16)
        data[:, at : at + 2] = scales.view(np.uint8).reshape(count, 2)
    return data


def plain(rng, dtype):
    """Single values: random bits, without NaNs but with zeros, subnormals and infinities."""
    if dtype == T.F32:
        bits = rng.integers(0, 2**32, 256, dtype=np.uint32)
        bits[:6] = [0, 0x80000000, 1, 0x807FFFFF, 0x7F800000, 0xFF800000]
        bad = np.isnan(bits.view(np.float32))
    else:
        infinity, subnormal = (0x7C00, 0x3FF) if dtype == T.F16 else (0x7F80, 0x7F)
        bits = rng.integers(0, 2**16, 256, dtype=np.uint16)
        bits[:6] = [0, 0x8000, 1, 0x8000 | subnormal, infinity, 0x8000 | infinity]
        bad = (bits & 0x7FFF) > infinity
    bits[bad] = 0
    return bits.view(np.uint8)


def rows(rng, dtype):
    """Rows of 32 values of very different sizes, with outliers, ties, zeros and values of one magnitude."""
    x = (rng.normal(size=(32, 32)) * 10.0 ** rng.uniform(-4, 3, (32, 1))).astype(np.float32)
    x[::4, 7] *= 40
    x[1] = 0
    x[2] = -0.0
    x[3] = np.where(np.arange(32) % 2 == 0, 2.5, -2.5)
    x[4] = np.where(np.arange(32) % 2 == 0, -2.5, 2.5)
    # Quotients that end in one half exactly, and the neighbours of one half, for Q8_0 and Q4_0.
    x[5] = np.arange(32) - 15.5
    x[5, 0] = 127
    x[6] = (np.arange(32) - 16) / 4
    x[7] = np.float32(0.5)
    x[7, 1] = np.nextafter(np.float32(0.5), np.float32(0))
    x[7, 2] = -x[7, 1]
    x[7, 0] = 127
    if dtype in (T.F16, T.BF16):
        # Ties of both roundings, and what rounds to the smallest values and to infinity.
        bits = rng.integers(0, 2**16, 64).astype(np.uint32) << 16 | 0x8000
        x[8:10] = np.where(np.isnan(bits.view(np.float32)), 0, bits.view(np.float32)).reshape(2, 32)
        x[10] = (1 + (2 * np.arange(32) + 1) * 2.0**-11) * 2.0 ** (np.arange(32) - 24)
        x[11, :4] = [65519, 65520, 3.4e38, -np.inf]
    return x


def main():
    for dtype in [*SCALES, T.MXFP4]:
        rng = np.random.default_rng([dtype.value, 1])
        data = blocks(rng, dtype)
        values = dequantize(data, dtype)
        assert np.isfinite(values).all(), dtype
        (HERE / f"{dtype.name}.bin").write_bytes(data.tobytes() + values.astype("<f4").tobytes())
    for dtype in [T.F32, T.F16, T.BF16]:
        data = plain(np.random.default_rng([dtype.value, 1]), dtype)
        values = dequantize(data, dtype)
        (HERE / f"{dtype.name}.bin").write_bytes(data.tobytes() + values.astype("<f4").tobytes())
    for dtype in [T.F16, T.BF16, T.Q8_0, T.Q4_0]:
        x = rows(np.random.default_rng([dtype.value, 2]), dtype)
        with np.errstate(over="ignore"):
            data = quantize(x, dtype)
        (HERE / f"{dtype.name}.encode.bin").write_bytes(x.astype("<f4").tobytes() + data.tobytes())


main()
