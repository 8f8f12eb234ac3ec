//! Compiled code on disk.
//!
//! A file for each piece of code, named by its key. Files are written beside their place and moved there, so that nobody
//! reads half of one, and say how long they are and what their bytes add up to, so that a damaged one is made anew.
//! Whatever goes wrong here costs time and nothing else.

use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use etcetera::BaseStrategy as _;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// Where compiled code is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Folder {
    /// In the cache folder of the user.
    #[default]
    User,
    /// In this folder.
    At(PathBuf),
    /// Nowhere: everything is compiled.
    Nowhere,
}

/// Changes with the form of the files.
const MAGIC: [u8; 8] = *b"gemma4k1";
/// Bytes before the code: the magic, and a hash of the code.
const HEADER: usize = 24;
/// Files that are kept; beyond, the oldest go. A version of the program has about a hundred.
const MOST: usize = 1024;

/// What code depends on, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key(u128);

impl Key {
    /// Hashes what `of` puts into the hasher.
    pub(crate) fn of(of: impl FnOnce(&mut SipHasher13)) -> Self {
        let mut hasher = SipHasher13::new();
        of(&mut hasher);
        // Integers are hashed as they lie in memory.
        (MAGIC, cfg!(target_endian = "big")).hash(&mut hasher);
        Self(hasher.finish128().as_u128())
    }
}

/// A folder of compiled code.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache at that place; `None` if there is none.
    pub(crate) fn open(folder: &Folder) -> Option<Self> {
        let folder = match folder {
            Folder::User => etcetera::choose_base_strategy().ok()?.cache_dir().join("gemma4").join("kernels"),
            Folder::At(folder) => folder.clone(),
            Folder::Nowhere => return None,
        };
        Some(Self { folder })
    }

    fn file(&self, Key(key): Key) -> PathBuf {
        self.folder.join(format!("{key:032x}"))
    }

    /// The code of a key, if it is there and whole.
    pub(crate) fn load(&self, key: Key) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.file(key)).ok()?;
        let code = bytes.get(HEADER..).filter(|code| !code.is_empty())?;
        if bytes[..HEADER] != header(code) {
            return None;
        }
        bytes.drain(..HEADER);
        Some(bytes)
    }

    /// Keeps the code of a key.
    pub(crate) fn store(&self, key: Key, code: &[u8]) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let beside = self.folder.join(format!("{}-{number}.new", std::process::id()));
        let write = || {
            fs::create_dir_all(&self.folder)?;
            let mut file = fs::File::create(&beside)?;
            file.write_all(&header(code))?;
            file.write_all(code)?;
            // Closed before it is moved, as Windows asks for.
            drop(file);
            fs::rename(&beside, self.file(key))
        };
        if write().is_err() {
            let _ = fs::remove_file(&beside);
        }
    }

    /// Removes the oldest files where there are too many.
    pub(crate) fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let age = |entry: &fs::DirEntry| entry.metadata().and_then(|data| data.modified()).ok();
        let mut files: Vec<(Option<SystemTime>, PathBuf)> =
            entries.flatten().map(|entry| (age(&entry), entry.path())).collect();
        if files.len() <= MOST {
            return;
        }
        files.sort();
        for (_, file) in &files[..files.len() - MOST] {
            let _ = fs::remove_file(file);
        }
    }
}

fn header(code: &[u8]) -> [u8; HEADER] {
    let mut hasher = SipHasher13::new();
    hasher.write(code);
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..].copy_from_slice(&hasher.finish128().as_u128().to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> Key {
        Key::of(|hasher| number.hash(hasher))
    }

    #[test]
    fn what_was_kept_comes_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&Folder::At(folder.path().join("new/kernels"))).unwrap();
        assert_eq!(cache.load(key(1)), None);
        cache.store(key(1), b"one");
        cache.store(key(2), b"two");
        cache.store(key(1), b"one again");
        assert_eq!(cache.load(key(1)).as_deref(), Some(&b"one again"[..]));
        assert_eq!(cache.load(key(2)).as_deref(), Some(&b"two"[..]));
        assert_eq!(cache.load(key(3)), None);
        let left: Vec<_> = fs::read_dir(&cache.folder).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn a_damaged_file_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&Folder::At(folder.path().to_owned())).unwrap();
        cache.store(key(1), b"some code");
        let whole = fs::read(cache.file(key(1))).unwrap();
        let mut flipped = whole.clone();
        flipped[HEADER + 3] ^= 1;
        for bytes in [&whole[..whole.len() - 1], &whole[..HEADER], &whole[..5], &[], &flipped] {
            fs::write(cache.file(key(1)), bytes).unwrap();
            assert_eq!(cache.load(key(1)), None);
        }
        cache.store(key(1), b"some code");
        assert!(cache.load(key(1)).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = Cache::open(&Folder::At(file)).unwrap();
        cache.store(key(1), b"code");
        assert_eq!(cache.load(key(1)), None);
        cache.prune();
        assert!(Cache::open(&Folder::Nowhere).is_none());
    }

    #[test]
    fn the_oldest_files_go_where_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&Folder::At(folder.path().to_owned())).unwrap();
        let count = u32::try_from(MOST).unwrap() + 2;
        for number in 0..count {
            cache.store(key(number), b"code");
        }
        for number in [7, 9] {
            let file = fs::File::options().append(true).open(cache.file(key(number))).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        cache.prune();
        let gone: Vec<u32> = (0..count).filter(|&number| cache.load(key(number)).is_none()).collect();
        assert_eq!(gone, [7, 9]);
    }
}
