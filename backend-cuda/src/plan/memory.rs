//! Where in the scratch memory of a step things are.
//!
//! A thing lives from the first launch that names it to the last; two that live at once have memory of their own.

use std::collections::HashMap;
use std::hash::Hash;

/// Addresses are multiples of this, as allocations of the driver are.
const ALIGN: u64 = 256;

/// What needs memory within a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Thing {
    /// First and last launch.
    first: usize,
    last: usize,
    bytes: u64,
}

/// Where each thing starts, and how much memory all of them need.
#[derive(Clone, Debug)]
pub(super) struct Places<K> {
    starts: HashMap<K, u64>,
    pub(super) bytes: u64,
}

impl<K: Copy + Eq + Hash + Ord> Places<K> {
    /// Places everything that `launches` name; `bytes` says how large a thing is.
    pub(super) fn of<I: IntoIterator<Item = K>>(
        launches: impl IntoIterator<Item = I>,
        bytes: impl Fn(K) -> u64,
    ) -> Self {
        let mut things: HashMap<K, Thing> = HashMap::new();
        for (at, named) in launches.into_iter().enumerate() {
            for key in named {
                let thing = things.entry(key);
                thing.or_insert_with(|| Thing { first: at, last: at, bytes: bytes(key).max(1) }).last = at;
            }
        }
        let mut order: Vec<(K, Thing)> = things.into_iter().collect();
        // The largest first, as small ones fit between others; keys make the order the same every time.
        order.sort_by_key(|(key, thing)| (std::cmp::Reverse(thing.bytes), *key));
        let mut placed: Vec<(Thing, u64)> = Vec::new();
        let mut starts = HashMap::new();
        for (key, thing) in order {
            let start = first_gap(&thing, &placed);
            // Sorted by where they start.
            let at = placed.partition_point(|(_, other)| *other < start);
            placed.insert(at, (thing, start));
            starts.insert(key, start);
        }
        let ends = placed.iter().map(|(thing, start)| (start + thing.bytes).next_multiple_of(ALIGN));
        Self { starts, bytes: ends.max().unwrap_or(0) }
    }

    /// Where a thing starts.
    pub(super) fn start(&self, key: K) -> Option<u64> {
        self.starts.get(&key).copied()
    }
}

/// The lowest place for `thing` beside those of `placed`, in the order of their starts, that live when it does.
fn first_gap(thing: &Thing, placed: &[(Thing, u64)]) -> u64 {
    let mut start = 0;
    for (other, begin) in
        placed.iter().filter(|(other, _)| other.first <= thing.last && thing.first <= other.last)
    {
        if start + thing.bytes <= *begin {
            break;
        }
        start = start.max((begin + other.bytes).next_multiple_of(ALIGN));
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks that nothing overlaps that lives at once, and returns the bytes needed.
    fn check(launches: &[&[usize]], sizes: &[u64]) -> u64 {
        let named = || launches.iter().map(|named| named.iter().copied());
        let places = Places::of(named(), |key: usize| sizes[key]);
        for named in launches {
            for &a in *named {
                // What is in memory at this launch: named before or here, and here or later.
                let at = launches.iter().position(|other| std::ptr::eq(*other, *named)).unwrap();
                let lives = |key: usize| {
                    launches[..=at].iter().any(|l| l.contains(&key))
                        && launches[at..].iter().any(|l| l.contains(&key))
                };
                let from = places.start(a).unwrap();
                assert_eq!(from % ALIGN, 0);
                for b in (0..sizes.len()).filter(|&b| b != a && lives(b)) {
                    let other = places.start(b).unwrap();
                    assert!(from + sizes[a] <= other || other + sizes[b] <= from, "{a} and {b}");
                }
                assert!(from + sizes[a] <= places.bytes);
            }
        }
        places.bytes
    }

    #[test]
    fn a_chain_needs_room_for_two() {
        let launches: Vec<Vec<usize>> = (0..20).map(|i| vec![i, i + 1]).collect();
        let launches: Vec<&[usize]> = launches.iter().map(Vec::as_slice).collect();
        assert_eq!(check(&launches, &[1024; 21]), 2048);
    }

    #[test]
    fn what_lives_long_is_not_overwritten() {
        let launches: [&[usize]; 6] = [&[0, 1], &[1, 2], &[2, 3, 0], &[3, 4], &[4, 5], &[5, 0]];
        let bytes = check(&launches, &[700, 3000, 10, 5000, 256, 900]);
        assert!(bytes <= 768 + 5120 + 256 + 1024, "{bytes}");
    }

    #[test]
    fn nothing_named_needs_nothing() {
        let places = Places::of([[0usize; 0]], |_| 1);
        assert_eq!((places.bytes, places.start(0)), (0, None));
    }
}
