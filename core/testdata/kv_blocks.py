"""Blocks of q8_0 and q4_0 as the `gguf` package stores them; writes kv_blocks.txt beside this file.

python3 -m pip install gguf==0.19.0 numpy && python3 kv_blocks.py

A line: type, name of the case, 32 f32 values (little endian, hex), the block's bytes (hex).
"""

import pathlib
from importlib.metadata import version

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType as T

rng = np.random.default_rng(2)
ramp = np.arange(32, dtype=np.float32)
gauss = rng.standard_normal((3, 32), dtype=np.float32)
spike = gauss[1].copy()
spike[17] *= 40
twins = gauss[2] * np.float32(0.25)
twins[[5, 20]] = [-3.0, 3.0]  # q4_0 takes the first of two largest
cases = {
    "gauss": gauss[0],
    "outlier": spike,
    "minus_before_plus": twins,
    "plus_before_minus": -twins,
    "zero": np.zeros(32, np.float32),
    "one": np.where(ramp == 9, np.float32(1), np.float32(0)),
    # The step is exactly 1: every value lies half-way between two of q8_0's.
    "halves": np.where(ramp == 0, np.float32(127), (ramp - 16) + np.float32(0.5)),
    "minus_halves": np.where(ramp == 0, np.float32(-8), (ramp - 16) / 4),
    "largest_f16": np.where(ramp % 2 == 0, np.float32(65504), np.float32(-65504)),
    "small": gauss[0] * np.float32(1e-5),  # the step is a subnormal f16
}

lines = [f"# gguf.quants.quantize of gguf {version('gguf')}; see kv_blocks.py"]
for kind in (T.Q8_0, T.Q4_0):
    for name, x in cases.items():
        x = np.ascontiguousarray(x, np.float32)
        block = gguf.quants.quantize(x.reshape(1, 32), kind)
        lines.append(f"{kind.name.lower()} {name} {x.astype('<f4').tobytes().hex()} {block.tobytes().hex()}")
pathlib.Path(__file__).with_suffix(".txt").write_text("\n".join(lines) + "\n")
