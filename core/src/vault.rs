//! Conversations outside the device: in main memory, or in a folder that survives a restart.
//!
//! A kept conversation is a [`Manifest`], its tokens and the names of its pages, and the pages. A page is named by
//! what it holds: a hash of the model and the cache's types, of all tokens up to its last, and of how many of them were
//! computed as a prompt. So conversations that begin alike share pages here as they do on the device, and a turn adds
//! only its own. Tokens are compared, never hashes of them, when a prompt is looked up.
//!
//! What is too much goes, least recently used conversation first. Nothing here touches a device: keys come and go as
//! bytes, in the form of [`Engine::read_page`](crate::engine::Engine::read_page).

mod folder;
mod index;
mod manifest;
pub mod record;
mod saved;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use folder::Folder;
use index::Index;
pub use index::{Found, Wanted};
pub use manifest::{Key, Manifest, PageRef, fingerprint};
pub use saved::{read_saved, write_saved};

/// A file or folder that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It cannot be read or written.
    #[error("cannot access {path}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses the folder.
    #[error("{path} is in use by another process; choose another folder")]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The file holds something else, or is damaged.
    #[error("{path} is not a saved conversation: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file was written by another model, another kind of cache or another device.
    #[error(
        "{path} was saved with another model, cache type or device; only the one that saved it can go on"
    )]
    Other {
        /// The file.
        path: PathBuf,
    },
}

/// How much a vault holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VaultStats {
    /// Conversations.
    pub conversations: usize,
    /// Pages.
    pub pages: usize,
    /// Bytes of the pages.
    pub bytes: u64,
    /// Most bytes.
    pub limit: u64,
}

#[derive(Debug)]
enum Store {
    Memory(HashMap<Key, Arc<[u8]>>),
    Folder(Folder),
}

/// What tells how much a vault holds, from any thread.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Mutex<Index>>);

impl Meter {
    /// How much the vault holds now.
    #[must_use]
    pub fn stats(&self) -> VaultStats {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).stats()
    }
}

/// A place for conversations.
#[derive(Debug)]
pub struct Vault {
    index: Arc<Mutex<Index>>,
    store: Store,
}

impl Vault {
    /// A vault in main memory, of at most `limit` bytes of pages.
    #[must_use]
    pub fn in_memory(limit: u64) -> Self {
        Self { index: Arc::new(Mutex::new(Index::new(limit))), store: Store::Memory(HashMap::new()) }
    }

    /// A vault in a folder, which is made if there is none, of at most `limit` bytes. Finds what earlier processes
    /// committed for the same `fingerprint`; what they did not finish is removed. The second result is a warning about
    /// damaged files, which are removed as well.
    ///
    /// # Errors
    ///
    /// [`VaultError::Locked`] if another process uses it, [`VaultError::Io`].
    pub fn in_folder(
        path: &Path,
        fingerprint: Key,
        limit: u64,
    ) -> Result<(Self, Option<String>), VaultError> {
        let index = Arc::new(Mutex::new(Index::new(limit)));
        let (folder, warning) = Folder::open(path, fingerprint, &index)?;
        Ok((Self { index, store: Store::Folder(folder) }, warning))
    }

    /// The conversation that has most of the wanted tokens in usable form, if any has one.
    #[must_use]
    pub fn find(&self, wanted: &Wanted<'_>) -> Option<Found> {
        let found = self.lock().find(wanted);
        if let (Some(found), Store::Folder(folder)) = (&found, &self.store) {
            folder.touch(&found.key);
        }
        found
    }

    /// Most tokens that any conversation here has in common with `tokens`, usable or not.
    #[must_use]
    pub fn common(&self, tokens: &[u32]) -> usize {
        self.lock().common(tokens)
    }

    /// Whether this conversation is here, or on its way.
    #[must_use]
    pub fn contains(&self, manifest: &Manifest) -> bool {
        self.lock().contains(&manifest.key())
    }

    /// Takes a conversation in, asking `read` for the pages that are not here yet; says whether it was taken.
    ///
    /// A folder is written in the background. If that cannot keep up, or the conversation alone is more than the limit,
    /// it is not taken.
    ///
    /// # Errors
    ///
    /// That of `read`.
    pub fn put<E>(
        &mut self,
        manifest: &Manifest,
        read: &mut dyn FnMut(&PageRef) -> Result<Vec<u8>, E>,
    ) -> Result<bool, E> {
        let mut missing = Vec::new();
        {
            let mut index = self.lock();
            if index.contains(&manifest.key()) {
                index.touch(&manifest.key());
                return Ok(true);
            }
            if manifest.bytes() > index.limit {
                return Ok(false);
            }
            missing.extend(manifest.pages.iter().filter(|page| !index.has_page(&page.key)).copied());
        }
        let bytes: u64 = missing.iter().map(|page| page.bytes as u64).sum();
        if let Store::Folder(folder) = &self.store
            && !folder.has_room(bytes)
        {
            return Ok(false);
        }
        let mut pages = Vec::with_capacity(missing.len());
        for page in &missing {
            pages.push((page.key, read(page)?));
        }
        match &mut self.store {
            Store::Folder(folder) => Ok(folder.write(manifest.clone(), pages)),
            Store::Memory(held) => {
                let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
                held.extend(pages.into_iter().map(|(key, bytes)| (key, Arc::from(bytes))));
                index.insert(manifest.clone());
                for gone in index.shrink() {
                    gone.pages.iter().for_each(|key| drop(held.remove(key)));
                }
                Ok(index.contains(&manifest.key()))
            }
        }
    }

    /// A page of a conversation that was found; `None` if it is damaged or gone, and then the conversation is
    /// forgotten by [`Vault::forget`].
    #[must_use]
    pub fn page(&self, page: &PageRef) -> Option<Vec<u8>> {
        let bytes = match &self.store {
            Store::Memory(held) => held.get(&page.key).map(|bytes| bytes.to_vec()),
            Store::Folder(folder) => folder.read(page),
        };
        bytes.filter(|bytes| bytes.len() == page.bytes)
    }

    /// Removes a conversation, and the pages that no other has.
    pub fn forget(&mut self, key: &Key) {
        let gone = self.lock().remove(key);
        let Some(gone) = gone else { return };
        match &mut self.store {
            Store::Memory(held) => gone.pages.iter().for_each(|key| drop(held.remove(key))),
            Store::Folder(folder) => folder.remove(&gone),
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.flush();
        let all = self.lock().keys();
        for key in &all {
            self.forget(key);
        }
    }

    /// Waits until everything taken in is committed.
    pub fn flush(&self) {
        if let Store::Folder(folder) = &self.store {
            folder.flush();
        }
    }

    /// How much it holds.
    #[must_use]
    pub fn stats(&self) -> VaultStats {
        self.lock().stats()
    }

    /// What tells [`Vault::stats`] to others, as they are when they ask.
    #[must_use]
    pub fn meter(&self) -> Meter {
        Meter(Arc::clone(&self.index))
    }

    /// What went wrong in the background since the last call, in one sentence.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match &self.store {
            Store::Memory(_) => None,
            Store::Folder(folder) => folder.warning(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // Every change leaves the index whole.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
