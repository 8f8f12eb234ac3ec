// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.
#pragma once

// Tokens of one KV page.
constexpr unsigned int PAGE = 256u;

// Entry of a page table that names no page.
constexpr unsigned int NO_PAGE = 4294967295u;

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
