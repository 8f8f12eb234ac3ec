//! Where a prompt goes on from, and what is kept of it for others.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use gemma4_core::backend::Backend;
use gemma4_core::cache::{CacheError, PAGE, SeqId, Snapshot};
use gemma4_core::engine::{Engine, EngineError};
use gemma4_core::model::config::Span;
use gemma4_core::vault::{Key, Manifest, Vault, VaultError, Wanted, read_saved, write_saved};

use super::Exit;
use super::errand::{ErrandError, Moved};
use super::running::Running;
use super::shelf::{Best, Kind, Lookup, common};
use super::work::Work;
use crate::serve::job::{CachePolicy, ReuseEnd};

/// Tokens that have to be saved by it before a conversation is brought back to the device.
const WORTH_RESTORING: usize = 16;

/// Tokens of a conversation that is worth pages outside the device.
const WORTH_SAVING: usize = 32;

/// Most places kept inside one prompt.
const MOST_BORDERS: usize = 48;

/// A sequence that begins like a prompt.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) seq: SeqId,
    /// Its tokens.
    pub(super) len: usize,
    /// How many of them were computed as a prompt.
    pub(super) exact: usize,
    pub(super) why: ReuseEnd,
    /// Most tokens of the prompt that anybody has.
    pub(super) common: usize,
}

/// Whether an engine is only short of pages.
pub(super) fn is_short(error: &EngineError) -> bool {
    matches!(error, EngineError::Cache(CacheError::OutOfPages { .. }))
}

impl<B: Backend> Work<'_, B> {
    /// Opens a sequence with as much of `tokens` as the cache has, at most `most`.
    pub(super) fn place(
        &mut self,
        tokens: &[u32],
        most: usize,
        policy: CachePolicy,
    ) -> Result<Placed, EngineError> {
        if policy == CachePolicy::None {
            let (seq, why) = (self.engine.open()?, ReuseEnd::Off);
            return Ok(Placed { seq, len: 0, exact: 0, why, common: 0 });
        }
        let window = self.engine.cache().spec().window;
        let wanted = Wanted { tokens, most, exact: policy == CachePolicy::Exact, window };
        let here = self.shelf.find(&mut self.engine, &wanted);
        let Lookup { best, common: on_device, ends, .. } = &here;
        let elsewhere = self.vaults().map(|vault| vault.common(tokens)).max().unwrap_or(0);
        let all = elsewhere.max(*on_device);
        let found = match self.bring_back(&wanted, &here)? {
            Some(restored) => Some(restored),
            None => match best {
                Some(best) => self.branch(best)?,
                None => None,
            },
        };
        let (seq, len, exact) = match found {
            Some(found) => found,
            None => (self.engine.open()?, 0, 0),
        };
        let evicted = self.shelf.evicted(tokens);
        let why = if len >= most {
            ReuseEnd::Whole
        } else if evicted > all && evicted > len {
            ReuseEnd::Evicted { common: evicted }
        } else if all <= 1 {
            ReuseEnd::NewConversation
        } else if len >= all {
            if elsewhere <= *on_device && !ends { ReuseEnd::EditedAt(len) } else { ReuseEnd::NewTokens }
        } else if wanted.exact && best.as_ref().is_some_and(|best| best.exact < all) {
            ReuseEnd::Generated { common: all }
        } else {
            ReuseEnd::WindowGone { common: all }
        };
        Ok(Placed { seq, len, exact, why, common: all })
    }

    /// Goes on from a place on the device, or from the page border below where there is no page for a copy.
    fn branch(&mut self, best: &Best) -> Result<Option<(SeqId, usize, usize)>, EngineError> {
        self.shelf.touch(best.id);
        self.save_to_disk(best.id)?;
        for len in [best.len, best.len / PAGE * PAGE] {
            loop {
                match self.engine.branch(&best.snapshot, len) {
                    Ok(seq) => return Ok(Some((seq, len, best.exact.min(len)))),
                    Err(error) if is_short(&error) => {
                        if !self.evict()? {
                            break;
                        }
                    }
                    Err(EngineError::Cache(CacheError::TooFarBack { .. })) => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    /// Brings a conversation back to the device, if one has more of the prompt than is there.
    fn bring_back(
        &mut self,
        wanted: &Wanted<'_>,
        here: &Lookup,
    ) -> Result<Option<(SeqId, usize, usize)>, EngineError> {
        let least = here.best.as_ref().map_or(0, |best| best.len) + WORTH_RESTORING;
        loop {
            let found = self.vaults().enumerate().filter_map(|(at, vault)| Some((at, vault.find(wanted)?)));
            let Some((at, found)) = found.max_by_key(|(at, found)| (found.len, std::cmp::Reverse(*at)))
            else {
                return Ok(None);
            };
            if found.len < least {
                return Ok(None);
            }
            // Whole pages of global layers that are still there are shared instead.
            let base = here.base.as_ref().map(|base| (base, base.len.min(found.len) / PAGE));
            let base = base.filter(|(_, pages)| *pages > 0);
            let exact = match base {
                Some((base, pages)) if base.exact < pages * PAGE => found.manifest.exact.min(base.exact),
                _ => found.manifest.exact,
            };
            let base = base.map(|(base, pages)| (&base.snapshot, pages));
            let seq = match self.restore(at, &found.manifest, found.len, base)? {
                Restored::Sequence(seq) => seq,
                Restored::Damaged => {
                    if let Some(vault) = self.vaults_mut().nth(at) {
                        vault.forget(&found.key);
                    }
                    continue;
                }
                Restored::NoRoom => return Ok(None),
            };
            self.life.desk.lock().counters.restored += 1;
            // The next prompt finds it on the device.
            let tokens = Arc::clone(&found.manifest.tokens);
            if let Ok(snapshot) = self.engine.snapshot_at(seq, found.len) {
                let id = self.shelf.keep(&tokens, snapshot, exact.min(found.len), Kind::End);
                if found.len == tokens.len()
                    && self.life.vaults.disk.as_ref().is_some_and(|disk| disk.contains(&found.manifest))
                {
                    self.shelf.mark_saved(id);
                }
            }
            return Ok(Some((seq, found.len, exact.min(found.len))));
        }
    }

    fn restore(
        &mut self,
        vault: usize,
        manifest: &Manifest,
        len: usize,
        base: Option<(&Snapshot, usize)>,
    ) -> Result<Restored, EngineError> {
        loop {
            let source = [&self.life.vaults.memory, &self.life.vaults.disk].into_iter().flatten().nth(vault);
            let mut page = |span: Span, logical: usize| source?.page(manifest.page(span, logical)?);
            match self.engine.restore(len, manifest.oldest, base, &mut page) {
                Ok(Some(seq)) => return Ok(Restored::Sequence(seq)),
                Err(error) if is_short(&error) => {
                    if !self.evict()? {
                        return Ok(Restored::NoRoom);
                    }
                }
                // Pages that are not there, or lengths that contradict this cache's: the file is not for it.
                Ok(None) | Err(EngineError::Cache(_)) => return Ok(Restored::Damaged),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes room by taking the place that goes first from the device; `false` if there is none.
    pub(super) fn evict(&mut self) -> Result<bool, EngineError> {
        let Some(victim) = self.shelf.victim() else { return Ok(false) };
        let (id, kind) = (victim.id, victim.kind);
        if kind == Kind::End {
            self.save_to_memory(id)?;
            self.save_to_disk(id)?;
        }
        self.shelf.remove(id);
        self.life.desk.lock().counters.evicted += 1;
        Ok(true)
    }

    /// Keeps a place of a running request, if its window is still there.
    pub(super) fn keep(
        &mut self,
        seq: SeqId,
        tokens: &Arc<[u32]>,
        len: usize,
        exact: usize,
        kind: Kind,
    ) -> Result<Option<u64>, EngineError> {
        if len == 0 {
            return Ok(None);
        }
        let snapshot = match self.engine.snapshot_at(seq, len) {
            Ok(snapshot) => snapshot,
            // A place that the ring has passed already is of no use.
            Err(EngineError::Cache(CacheError::TooFarBack { .. })) => return Ok(None),
            Err(error) => return Err(error),
        };
        let id = self.shelf.keep(tokens, snapshot, exact.min(len), kind);
        while self.shelf.is_full() {
            self.evict()?;
        }
        Ok(Some(id))
    }

    /// Keeps the end of a request that leaves its sequence.
    pub(super) fn keep_end(&mut self, request: &Running, seq: SeqId) -> Result<(), EngineError> {
        if request.job.cache == CachePolicy::None {
            return Ok(());
        }
        // A token in flight that nobody wants any more is no part of it.
        let len = request.fed.min(request.len().saturating_sub(usize::from(!request.generated.is_empty())));
        let tokens: Arc<[u32]> = if len > request.prompt.len() {
            Arc::from(request.stream(len))
        } else {
            Arc::clone(&request.prompt)
        };
        let Some(end) = self.keep(seq, &tokens, len, request.exact, Kind::End)? else { return Ok(()) };
        if len > request.prompt.len() {
            self.shelf.rebase(&request.prompt, &tokens);
        }
        if let Some(prompt) = request.prompt_place.filter(|prompt| *prompt != end) {
            if len / PAGE == request.prompt.len() / PAGE {
                // The same pages, and the window of any length in the last one is there: one place serves both.
                self.shelf.replace(prompt);
            } else {
                self.save_to_disk(prompt)?;
            }
        }
        self.save_to_disk(end)
    }

    /// Lengths of a prompt at which places are to be kept, above `reused`, the first one last.
    pub(super) fn borders(&self, request: &Running, common: usize) -> Vec<usize> {
        if request.job.cache == CachePolicy::None {
            return Vec::new();
        }
        let prompt = &request.prompt;
        let ends = &self.life.desk.limits.turn_ends;
        let behind =
            prompt.iter().enumerate().filter(|(_, token)| ends.contains(token)).map(|(at, _)| at + 1);
        let asked = request.job.borders.iter().copied();
        // Where others went another way, the next one may.
        let mut all: Vec<usize> = behind.chain(asked).chain([common]).collect();
        all.retain(|&len| len > request.fed && len < prompt.len());
        all.sort_unstable();
        all.dedup();
        thin(&mut all, MOST_BORDERS);
        all.reverse();
        all
    }

    fn manifest(&self, id: u64) -> Result<Option<(Manifest, Snapshot)>, EngineError> {
        let Some(fingerprint) = self.life.vaults.fingerprint else { return Ok(None) };
        let Some(kept) = self.shelf.get(id).filter(|kept| kept.len() >= WORTH_SAVING) else {
            return Ok(None);
        };
        let contents = self.engine.cache().contents(&kept.snapshot)?;
        let page_bytes = |span| self.engine.page_bytes(span);
        let manifest = Manifest::new(&fingerprint, kept.tokens().into(), kept.exact, &contents, page_bytes);
        Ok(Some((manifest, kept.snapshot.clone())))
    }

    fn save_to_memory(&mut self, id: u64) -> Result<(), EngineError> {
        if self.life.vaults.memory.is_none() {
            return Ok(());
        }
        let Some((manifest, snapshot)) = self.manifest(id)? else { return Ok(()) };
        if let Some(memory) = &mut self.life.vaults.memory {
            put(memory, &self.engine, &manifest, &snapshot)?;
        }
        Ok(())
    }

    pub(super) fn save_to_disk(&mut self, id: u64) -> Result<(), EngineError> {
        let wanted = self.shelf.get(id).is_some_and(|kept| !kept.saved && kept.kind == Kind::End);
        if !wanted || self.life.vaults.disk.is_none() {
            return Ok(());
        }
        let Some((manifest, snapshot)) = self.manifest(id)? else { return Ok(()) };
        if let Some(disk) = &mut self.life.vaults.disk
            && put(disk, &self.engine, &manifest, &snapshot)?
        {
            self.shelf.mark_saved(id);
        }
        Ok(())
    }

    /// Moves what is worth keeping off the device before the engine goes. What was used last comes last, so that it stays
    /// where not all fits.
    pub(super) fn rescue(&mut self, exit: &Exit) -> Result<(), EngineError> {
        for id in self.shelf.by_use() {
            // Main memory does not outlive the process.
            if matches!(exit, Exit::Parked) {
                self.save_to_memory(id)?;
            }
            self.save_to_disk(id)?;
        }
        self.shelf.clear();
        Ok(())
    }

    fn vaults(&self) -> impl Iterator<Item = &Vault> {
        [&self.life.vaults.memory, &self.life.vaults.disk].into_iter().flatten()
    }

    fn vaults_mut(&mut self) -> impl Iterator<Item = &mut Vault> {
        let vaults = &mut self.life.vaults;
        [&mut vaults.memory, &mut vaults.disk].into_iter().flatten()
    }

    pub(super) fn forget(&mut self) -> Moved {
        let tokens = self.shelf.clear();
        let bytes = self.vaults().map(|vault| vault.stats().bytes).sum();
        self.vaults_mut().for_each(Vault::clear);
        Moved { tokens, bytes }
    }

    /// Writes the longest kept beginning of `tokens` to a file.
    pub(super) fn save_file(&mut self, tokens: &[u32], path: &Path) -> Result<Moved, ErrandError> {
        let fingerprint = self.fingerprint()?;
        // A place of its own, so that the file has the tokens that were asked for and no more.
        let placed = self.place(tokens, tokens.len(), CachePolicy::Reuse)?;
        let result = (|| {
            if placed.len == 0 {
                return Err(ErrandError::NothingKept);
            }
            let snapshot = self.engine.snapshot_at(placed.seq, placed.len)?;
            let contents = self.engine.cache().contents(&snapshot).map_err(EngineError::from)?;
            let page_bytes = |span| self.engine.page_bytes(span);
            let kept: Arc<[u32]> = tokens[..placed.len].into();
            let manifest = Manifest::new(&fingerprint, kept, placed.exact, &contents, page_bytes);
            write_saved::<ErrandError>(path, &fingerprint, &manifest, &mut |page| {
                Ok(read(&self.engine, &snapshot, page.span, page.logical)?)
            })?;
            Ok(Moved { tokens: placed.len, bytes: manifest.bytes() })
        })();
        self.engine.close(placed.seq)?;
        result
    }

    /// Keeps the conversation of a file.
    pub(super) fn restore_file(&mut self, path: &Path) -> Result<Moved, ErrandError> {
        let fingerprint = self.fingerprint()?;
        let io = |source| VaultError::Io { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let most = [Span::Global, Span::Local].map(|span| self.engine.page_bytes(span) as u64);
        // Pages in main memory first: half a conversation must not reach the device.
        let mut pages: Vec<Vec<u8>> = Vec::new();
        let [global, local] = most;
        let manifest = read_saved(path, &mut file, &fingerprint, global.max(local), &mut |_, _, page| {
            pages.push(page);
        })?;
        let damaged = |reason: &str| VaultError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
        let (len, vocab) = (manifest.tokens.len(), self.life.desk.limits.vocab);
        if manifest.tokens.iter().any(|&token| token as usize >= vocab) {
            return Err(damaged("it holds a token that the vocabulary lacks").into());
        }
        let mut page = |span: Span, logical: usize| {
            let at = manifest.pages.iter().position(|page| (page.span, page.logical) == (span, logical))?;
            pages.get(at).cloned()
        };
        let seq = loop {
            match self.engine.restore(len, manifest.oldest, None, &mut page) {
                Ok(Some(seq)) => break seq,
                Ok(None) => return Err(damaged("it lacks a page").into()),
                Err(error) if is_short(&error) => {
                    if !self.evict()? {
                        return Err(ErrandError::NoRoom { needed: len });
                    }
                }
                Err(error) => return Err(error.into()),
            }
        };
        let kept = self.keep(seq, &manifest.tokens, len, manifest.exact, Kind::End);
        self.engine.close(seq)?;
        if let Some(id) = kept? {
            self.save_to_disk(id)?;
        }
        Ok(Moved { tokens: len, bytes: manifest.bytes() })
    }

    fn fingerprint(&self) -> Result<Key, ErrandError> {
        self.life.vaults.fingerprint.ok_or(ErrandError::Stopped)
    }
}

/// What came of bringing a conversation back.
enum Restored {
    Sequence(SeqId),
    Damaged,
    NoRoom,
}

fn put<B: Backend>(
    vault: &mut Vault,
    engine: &Engine<B>,
    manifest: &Manifest,
    snapshot: &Snapshot,
) -> Result<bool, EngineError> {
    vault.put(manifest, &mut |page| read(engine, snapshot, page.span, page.logical))
}

/// Reads a page of a snapshot from the device.
fn read<B: Backend>(
    engine: &Engine<B>,
    snapshot: &Snapshot,
    span: Span,
    logical: usize,
) -> Result<Vec<u8>, EngineError> {
    let contents = engine.cache().contents(snapshot)?;
    let held = contents.pages.iter().find(|page| page.span == span && page.logical == logical);
    engine.read_page(span, held.ok_or(CacheError::UnknownSnapshot)?.page)
}

/// Leaves at most `most` of rising lengths: the last ones, where prompts part most often, and of those before them
/// every so many.
fn thin(lengths: &mut Vec<usize>, most: usize) {
    if lengths.len() <= most {
        return;
    }
    let (early, late) = lengths.split_at(lengths.len() - most / 2);
    let step = early.len().div_ceil(most - most / 2);
    *lengths = early.iter().copied().step_by(step).chain(late.iter().copied()).collect();
}

/// The running request whose prompt has most of `tokens` still to be computed, and how many.
pub(super) fn leader(running: &[Running], tokens: &[u32], kept: usize) -> Option<(u64, usize)> {
    let most = tokens.len().saturating_sub(1);
    let leads = running.iter().filter(|other| other.job.cache != CachePolicy::None).filter_map(|other| {
        let shared = common(&other.prompt, tokens).min(most);
        // Less than a page is computed sooner than waited for.
        (shared >= kept.max(1) + PAGE && other.fed < shared).then_some((shared, other.order))
    });
    leads.max().map(|(shared, order)| (order, shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_places_the_last_and_some_of_the_first_are_left() {
        let mut few = vec![3, 5];
        thin(&mut few, 4);
        assert_eq!(few, [3, 5]);
        for count in [5, 49, 50, 1000] {
            let mut many: Vec<usize> = (0..count).collect();
            thin(&mut many, 4);
            assert!(many.len() <= 4 && many[0] == 0 && many.ends_with(&[count - 2, count - 1]), "{many:?}");
        }
    }
}
