// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.
#pragma once

// Tokens of one KV page.
constexpr unsigned int PAGE = 256u;

// Entry of a page table that names no page.
constexpr unsigned int NO_PAGE = 0xffffffffu;

// What the 3-bit indices of `TQ3_0` stand for, in units of the norm, ascending.
static __device__ constexpr float TQ3_CENTROIDS[8] = {
    -0.190685f, -0.117832f, -0.065717f, -0.02146f, 0.02146f, 0.065717f, 0.117832f, 0.190685f,
};

// Borders between those centroids; a value on a border belongs to the upper one.
static __device__ constexpr float TQ3_THRESHOLDS[7] = {
    -0.154259f, -0.091775f, -0.043589f, 0.0f, 0.043589f, 0.091775f, 0.154259f,
};

// Signs before `TQ3_0`'s transform: bit `j` of word `k` is set if element `32 * k + j` changes sign.
static __device__ constexpr unsigned int TQ3_SIGNS1[4] = {
    0xe46a0359u, 0x42f85949u, 0xa4c63bbbu, 0x49f250a9u,
};

// Signs after `TQ3_0`'s transform, likewise.
static __device__ constexpr unsigned int TQ3_SIGNS2[4] = {
    0x16acee90u, 0x3f628fdcu, 0xb7a5357au, 0xbea56562u,
};

// `1 / sqrt(128)`, the scale of `TQ3_0`'s transform.
constexpr float TQ3_SCALE = 0.08838835f;

// What the codes of `IQ4_NL` and `IQ4_XS` stand for, in units of the block's scale.
static __device__ constexpr int IQ4_VALUES[16] = {
    -127, -104, -83, -65, -49, -35, -22, -10,
    1, 13, 25, 38, 53, 69, 89, 113,
};

// What the codes of `MXFP4` stand for, twice over: the scale is `2^(e - 128)`.
static __device__ constexpr int MXFP4_VALUES[16] = {
    0, 1, 2, 3, 4, 6, 8, 12,
    0, -1, -2, -3, -4, -6, -8, -12,
};

// What the host tells the device about one row of a step.
struct RowInfo {
    // Token id; ignored where bit 0 of `flags` is set.
    unsigned int token;
    // Absolute position of the token in its sequence, counted from 0.
    unsigned int position;
    // The sequence slot whose page tables this row reads.
    unsigned int slot;
    // Bit 0: take the token from the slot's last sampled one. The other bits are 0.
    unsigned int flags;
};
static_assert(sizeof(RowInfo) == 16, "RowInfo must have no padding");
