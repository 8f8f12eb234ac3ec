// Where the columns of a chunk are in types of blocks: quads are exchanged within 32 columns.

fn chunk_quad(chunk: u32, chunks: u32, i: u32) -> u32 { return (8u * chunk + (chunk & 7u)) ^ i; }

// The quad of its chunk that a column is in.
fn quad_of(col: u32) -> u32 { return ((col >> 2u) ^ (col >> 5u)) & 7u; }
