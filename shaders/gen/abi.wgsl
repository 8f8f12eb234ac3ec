// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.

// Tokens of one KV page.
const PAGE: u32 = 256u;

// Entry of a page table that names no page.
const NO_PAGE: u32 = 0xffffffffu;

// What the 3-bit indices of `TQ3_0` stand for, in units of the norm, ascending.
const TQ3_CENTROIDS = array<f32, 8>(
    -0.190685f, -0.117832f, -0.065717f, -0.02146f, 0.02146f, 0.065717f, 0.117832f, 0.190685f,
);

// Borders between those centroids; a value on a border belongs to the upper one.
const TQ3_THRESHOLDS = array<f32, 7>(
    -0.154259f, -0.091775f, -0.043589f, 0.0f, 0.043589f, 0.091775f, 0.154259f,
);

// Signs before `TQ3_0`'s transform: bit `j` of word `k` is set if element `32 * k + j` changes sign.
const TQ3_SIGNS1 = array<u32, 4>(
    0xe46a0359u, 0x42f85949u, 0xa4c63bbbu, 0x49f250a9u,
);

// Signs after `TQ3_0`'s transform, likewise.
const TQ3_SIGNS2 = array<u32, 4>(
    0x16acee90u, 0x3f628fdcu, 0xb7a5357au, 0xbea56562u,
);

// `1 / sqrt(128)`, the scale of `TQ3_0`'s transform.
const TQ3_SCALE: f32 = 0.08838835f;

// What the codes of `IQ4_NL` and `IQ4_XS` stand for, in units of the block's scale.
const IQ4_VALUES = array<i32, 16>(
    -127, -104, -83, -65, -49, -35, -22, -10,
    1, 13, 25, 38, 53, 69, 89, 113,
);

// What the codes of `MXFP4` stand for, twice over: the scale is `2^(e - 128)`.
const MXFP4_VALUES = array<i32, 16>(
    0, 1, 2, 3, 4, 6, 8, 12,
    0, -1, -2, -3, -4, -6, -8, -12,
);

// What the host tells the device about one row of a step.
struct RowInfo {
    // Token id; ignored where bit 0 of `flags` is set.
    token: u32,
    // Absolute position of the token in its sequence, counted from 0.
    position: u32,
    // The sequence slot whose page tables this row reads.
    slot: u32,
    // Bit 0: take the token from the slot's last sampled one. The other bits are 0.
    flags: u32,
}
