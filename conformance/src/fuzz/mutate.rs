//! Mutations of bytes.

use super::Random;

/// Integers at which sizes, counts and offsets overflow, wrap or change sign.
const EDGES: [u64; 24] = [
    0,
    1,
    2,
    7,
    31,
    32,
    33,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    1 << 48,
    1 << 60,
    1 << 62,
    1 << 63,
    u64::MAX,
];

/// Half of all changes are among this many bytes.
const HEAD: usize = 512;

/// `parent` with one to four changes; chunks come from `other` and from `words`.
pub(super) fn bytes(random: &mut Random, parent: &[u8], other: &[u8], words: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parent.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, other, words);
    }
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8], words: &[Vec<u8>]) {
    // Formats keep what decides about the rest at their start.
    let reach = if random.once_in(2) { bytes.len() } else { bytes.len().min(HEAD) };
    let at = random.below(reach);
    match random.below(11) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = random.byte(),
        2 | 3 => edge(random, bytes, at),
        4 => step(random, bytes, at),
        5 => bytes.truncate(at),
        6 => drop(bytes.drain(chunk(random, bytes.len()))),
        7 => {
            let copy = bytes[chunk(random, bytes.len())].to_vec();
            for _ in 0..=random.below(4) {
                insert(bytes, at, &copy);
            }
        }
        8 => insert(bytes, at, &other[chunk(random, other.len())]),
        9 => {
            // The start of one sample with the end of the other.
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len())..]);
        }
        _ if words.is_empty() => insert(bytes, at, &[random.byte()]),
        _ => {
            let word = random.pick(words);
            if random.once_in(2) {
                insert(bytes, at, word);
            } else {
                overwrite(bytes, at, word);
            }
        }
    }
}

/// A range of at most a quarter of `len`, mostly short.
fn chunk(random: &mut Random, len: usize) -> std::ops::Range<usize> {
    let longest = if random.once_in(2) { 16 } else { len / 4 };
    let start = random.below(len);
    start..start + random.below(longest.min(len - start) + 1)
}

fn insert(bytes: &mut Vec<u8>, at: usize, piece: &[u8]) {
    bytes.splice(at..at, piece.iter().copied());
}

fn overwrite(bytes: &mut [u8], at: usize, piece: &[u8]) {
    let len = piece.len().min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&piece[..len]);
}

/// Replaces a little-endian integer by an interesting one; also by the size of the input and what is left of it.
fn edge(random: &mut Random, bytes: &mut [u8], at: usize) {
    let value = match random.below(6) {
        0 => bytes.len() as u64,
        1 => (bytes.len() - at) as u64,
        2 => u64::MAX - random.below(64) as u64,
        _ => *random.pick(&EDGES),
    };
    let width = *random.pick(&[1, 2, 4, 8]);
    overwrite(bytes, at, &value.to_le_bytes()[..width]);
}

/// Adds a little to a little-endian integer, or takes it away.
fn step(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = (*random.pick(&[1, 2, 4, 8])).min(bytes.len() - at);
    let mut value = [0; 8];
    value[..width].copy_from_slice(&bytes[at..at + width]);
    let delta = 1 + random.below(16) as u64;
    let old = u64::from_le_bytes(value);
    let new = if random.once_in(2) { old.wrapping_add(delta) } else { old.wrapping_sub(delta) };
    overwrite(bytes, at, &new.to_le_bytes()[..width]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_mutations() {
        let run = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| bytes(&mut random, b"parent", b"other", &[])).collect::<Vec<_>>()
        };
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }

    #[test]
    fn any_input_can_be_mutated_and_mostly_changes() {
        let mut random = Random::new(5);
        let words = [b"word".to_vec(), Vec::new()];
        for parent in [&b""[..], b"1", b"12", &[7; 1000]] {
            for other in [&b""[..], b"x", &[9; 100]] {
                let changed =
                    (0..1000).filter(|_| bytes(&mut random, parent, other, &words) != parent).count();
                assert!(changed > 500 || parent.len() < 2, "{changed} of 1000 for {} bytes", parent.len());
            }
        }
    }

    #[test]
    fn sizes_beyond_the_input_turn_up() {
        let mut random = Random::new(6);
        let parent = [0; 16];
        let huge = (0..1000).filter(|_| {
            let bytes = bytes(&mut random, &parent, &parent, &[]);
            bytes.windows(8).any(|window| window == (1_u64 << 62).to_le_bytes())
        });
        assert!(huge.count() > 0);
    }
}
