//! Names and numbers that nobody can foresee.

use std::hash::{BuildHasher, Hasher, RandomState};

/// 64 random bits.
pub(crate) fn random() -> u64 {
    // The standard library's only source of randomness: the keys of a new hasher.
    RandomState::new().build_hasher().finish()
}

/// A new name such as `call_0123456789abcdef01234567`.
pub(crate) fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_comes_twice() {
        let names: std::collections::BTreeSet<String> = (0..1000).map(|_| fresh("x_")).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 26 && name.starts_with("x_")));
    }
}
