// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.

// Tokens of one KV page.
const PAGE: u32 = 256u;

// Entry of a page table that names no page.
const NO_PAGE: u32 = 4294967295u;

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
