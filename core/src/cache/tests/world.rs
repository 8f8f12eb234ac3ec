//! A naive model of the pools: every cell of a page remembers which token was written there, so that reading back
//! shows at once who overwrote whom.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::Random;

/// What a cell of a page holds: a token that was written only once in the world, and its position.
type Cell = Option<(u64, usize)>;

pub(super) type Checked<T = ()> = Result<T, String>;

/// How the simulated kernels differ from right ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kernels {
    /// Slots of the ring that they use; those of the table if `None`.
    pub(super) ring: Option<usize>,
    /// Added to the end that the mask is built from.
    pub(super) end_error: isize,
}

pub(super) struct World {
    pub(super) cache: Cache,
    global: Vec<Cell>,
    local: Vec<Cell>,
    pub(super) sequences: Vec<(SeqId, Vec<u64>)>,
    pub(super) snapshots: Vec<(Snapshot, Vec<u64>)>,
    pub(super) kernels: Kernels,
    next: u64,
    /// Sequences that went on from another.
    adopted: BTreeSet<SeqId>,
}

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(super) use ensure;

impl World {
    pub(super) fn new(spec: CacheSpec) -> Self {
        Self {
            cache: Cache::new(spec).unwrap(),
            global: vec![None; spec.global_pages * PAGE],
            local: vec![None; spec.local_pages * PAGE],
            sequences: Vec::new(),
            snapshots: Vec::new(),
            kernels: Kernels::default(),
            next: 0,
            adopted: BTreeSet::new(),
        }
    }

    fn memory(&self, span: Span) -> &[Cell] {
        match span {
            Span::Global => &self.global,
            Span::Local => &self.local,
        }
    }

    /// Cell of a slot of a table. The slot of a global table is the position.
    fn cell(table: &[PageId], slot: usize) -> Checked<usize> {
        let page = table[slot / PAGE];
        ensure!(page != NO_PAGE, "slot {slot} has no page");
        Ok(page as usize * PAGE + slot % PAGE)
    }

    fn ring(&self) -> usize {
        self.kernels.ring.unwrap_or(self.cache.spec.ring_slots())
    }

    pub(super) fn open(&mut self) -> usize {
        let seq = self.cache.open();
        self.sequences.push((seq, Vec::new()));
        self.sequences.len() - 1
    }

    /// The cell that holds a position of a sequence, if the token is still in it.
    fn present(&self, span: Span, held: &Held, tokens: &[u64], position: usize) -> bool {
        let page = held.page(span, position / PAGE);
        page.is_some_and(|page| {
            let token = tokens.get(position).map(|&token| (token, position));
            token.is_some() && self.memory(span)[page as usize * PAGE + position % PAGE] == token
        })
    }

    /// A step of `n` tokens of sequence `s`: writes them, attends, keeps `kept`.
    pub(super) fn step(
        &mut self,
        s: usize,
        n: usize,
        kept: usize,
        random: &mut Random,
    ) -> Checked<Result<(), CacheError>> {
        let before = format!("{:?}", (&self.cache.sequences, &self.cache.global, &self.cache.local));
        let (seq, ref tokens) = self.sequences[s];
        let len = tokens.len();
        let pages = match self.cache.reserve(seq, n) {
            Ok(pages) => pages,
            Err(error) => {
                let after = format!("{:?}", (&self.cache.sequences, &self.cache.global, &self.cache.local));
                // Snapshots that were dropped may have been collected; a world without them stays to the letter.
                ensure!(
                    before == after || !self.snapshots.is_empty(),
                    "a refused step changed the cache: {error}"
                );
                return Ok(Err(error));
            }
        };
        // Fresh pages hold what others left: readers of a page that is not theirs to lose would see it go.
        for page in &pages.fresh_global {
            self.global[*page as usize * PAGE..][..PAGE].fill(None);
        }
        for page in &pages.fresh_local {
            self.local[*page as usize * PAGE..][..PAGE].fill(None);
        }
        let written: Vec<u64> = (0..n as u64).map(|i| self.next + i).collect();
        self.next += n as u64;
        for (span, runs) in [(Span::Global, &pages.global), (Span::Local, &pages.local)] {
            let table = self.cache.table(seq, span).unwrap().to_vec();
            if table.is_empty() {
                continue;
            }
            let mut cells = runs.iter().flat_map(|run| {
                let first = run.page as usize * PAGE + run.offset;
                first..first + run.rows
            });
            for (i, &token) in written.iter().enumerate() {
                let position = len + i;
                let ring = if span == Span::Local { self.ring() } else { usize::MAX };
                let cell = Self::cell(&table, position % ring)?;
                ensure!(
                    cells.next() == Some(cell) || self.kernels.ring.is_some(),
                    "the runs miss position {position}"
                );
                match span {
                    Span::Global => self.global[cell] = Some((token, position)),
                    Span::Local => self.local[cell] = Some((token, position)),
                }
            }
            ensure!(
                cells.next().is_none() || self.kernels.ring.is_some(),
                "the runs are longer than the step"
            );
        }
        let mut all = self.sequences[s].1.clone();
        all.extend(written);
        if n > 0 {
            let queries = [len, len + n - 1, len + random.below(n), len + random.below(n)];
            for query in queries {
                self.attend(seq, &all, query)?;
            }
        }
        self.cache.commit(seq, kept).map_err(|error| error.to_string())?;
        all.truncate(len + kept);
        self.sequences[s].1 = all;
        Ok(Ok(()))
    }

    /// Whether the query at `query` sees exactly what it should, once all of `tokens` are written.
    fn attend(&self, seq: SeqId, tokens: &[u64], query: usize) -> Checked {
        let end = tokens.len();
        let table = self.cache.table(seq, Span::Global).unwrap();
        if !table.is_empty() {
            for (position, &token) in tokens.iter().enumerate().take(query + 1) {
                let cell = self.global[Self::cell(table, position)?];
                ensure!(cell == Some((token, position)), "global {position} is {cell:?} for query {query}");
            }
        }
        let table = self.cache.table(seq, Span::Local).unwrap();
        if table.is_empty() {
            return Ok(());
        }
        let (ring, window) = (self.ring(), self.cache.spec.window);
        let mut seen = BTreeSet::new();
        for slot in 0..ring {
            if ring::visible(slot, query, end.saturating_add_signed(self.kernels.end_error), ring, window) {
                let cell = self.local[Self::cell(table, slot)?];
                let Some((token, position)) = cell else {
                    return Err(format!("slot {slot} is empty for query {query}"));
                };
                ensure!(
                    tokens.get(position) == Some(&token),
                    "query {query} sees another's token at {position}"
                );
                seen.insert(position);
            }
        }
        let window = (query + 1).saturating_sub(window)..=query;
        ensure!(seen.iter().copied().eq(window), "query {query} of end {end} sees {seen:?}");
        Ok(())
    }

    pub(super) fn rollback(&mut self, s: usize, len: usize) -> Checked<Result<usize, CacheError>> {
        let (seq, ref tokens) = self.sequences[s];
        let window = ring::window_start(len, self.cache.spec.window)..len;
        let held = &self.cache.sequences[&seq].held;
        let has_local = !held.local.is_empty();
        let present =
            !has_local || window.clone().all(|position| self.present(Span::Local, held, tokens, position));
        let before = format!("{:?}", self.cache.sequences);
        let result = self.cache.rollback(seq, len);
        match &result {
            Ok(kept) => {
                ensure!(*kept == len || *kept == len / PAGE * PAGE, "back to {kept} instead of {len}");
                ensure!(present, "went back to {len}, where {window:?} is lost");
                self.sequences[s].1.truncate(*kept);
            }
            Err(error) => {
                ensure!(
                    before == format!("{:?}", self.cache.sequences),
                    "a refused rollback changed the cache"
                );
                if let CacheError::TooFarBack { lowest, .. } = error {
                    ensure!(*lowest > len, "{lowest} is no answer to {len}");
                    // Exact, but in two cases. With a window of 1 nothing is needed from the past, yet the page
                    // itself may be gone. And the last page of another sequence may still have the end of what its
                    // ring held there before, which is not counted on.
                    let exact = self.cache.spec.window > 1 && !self.adopted.contains(&seq);
                    ensure!(!present || !exact, "refused {len}, where all is left");
                }
            }
        }
        Ok(result)
    }

    pub(super) fn snapshot_at(&mut self, s: usize, len: usize) -> Checked<Result<(), CacheError>> {
        let used = self.used();
        let (seq, ref tokens) = self.sequences[s];
        let tokens = tokens[..len].to_vec();
        match self.cache.snapshot_at(seq, len) {
            Ok(snapshot) => self.snapshots.push((snapshot, tokens)),
            Err(error) => return Ok(Err(error)),
        }
        ensure!(used == self.used(), "a snapshot took pages");
        Ok(Ok(()))
    }

    /// Goes on from the first `len` tokens of a snapshot; returns the new sequence and its length.
    pub(super) fn open_from_at(&mut self, snapshot: usize, len: usize) -> Checked<(usize, usize)> {
        let used = self.used();
        let (snapshot, tokens) = &self.snapshots[snapshot];
        let (seq, usable) = self.cache.open_from_at(snapshot, len).map_err(|error| error.to_string())?;
        let tokens = tokens[..usable].to_vec();
        self.adopted(seq, tokens, len, usable, used)
    }

    /// Branches off at `len` tokens of a snapshot, with the copies that this asks for.
    pub(super) fn branch(&mut self, snapshot: usize, len: usize) -> Checked<Result<usize, CacheError>> {
        let (snapshot, tokens) = self.snapshots[snapshot].clone();
        let before = format!("{:?}", self.cache);
        let possible = self.cache.branches_at(&snapshot, len).map_err(|error| error.to_string())?;
        let Branch { seq, copies } = match self.cache.branch(&snapshot, len) {
            Ok(branch) => branch,
            Err(error) => {
                let far = matches!(error, CacheError::TooFarBack { .. });
                ensure!(possible != far, "{error} at {len}, said to be possible: {possible}");
                ensure!(before == format!("{:?}", self.cache), "a refused branch changed the cache");
                return Ok(Err(error));
            }
        };
        ensure!(possible, "went on at {len} where that was said to be impossible");
        ensure!(copies.len() <= 2 && (copies.is_empty() || !len.is_multiple_of(PAGE)), "{copies:?} at {len}");
        for PageCopy { span, from, to } in copies {
            let memory = match span {
                Span::Global => &mut self.global,
                Span::Local => &mut self.local,
            };
            memory.copy_within(from as usize * PAGE..(from as usize + 1) * PAGE, to as usize * PAGE);
        }
        ensure!(self.cache.len(seq) == Ok(len), "the length is not what was asked for");
        self.adopted.insert(seq);
        self.sequences.push((seq, tokens[..len].to_vec()));
        Ok(Ok(self.sequences.len() - 1))
    }

    /// Saves a snapshot's pages, and restores them behind the first `shared` global pages of the snapshot.
    pub(super) fn restore(&mut self, snapshot: usize, shared: usize) -> Checked<Result<usize, CacheError>> {
        let (snapshot, tokens) = self.snapshots[snapshot].clone();
        let Contents { pages, oldest } = self.cache.contents(&snapshot).map_err(|error| error.to_string())?;
        let before = format!("{:?}", self.cache);
        let base = (shared > 0).then_some((&snapshot, shared));
        let seq = match self.cache.restore(snapshot.len(), oldest, base) {
            Ok(seq) => seq,
            Err(error) => {
                ensure!(before == format!("{:?}", self.cache), "a refused restore changed the cache");
                return Ok(Err(error));
            }
        };
        for HeldPage { span, logical, page, tokens } in pages {
            let table = self.cache.table(seq, span).unwrap();
            let to = table[logical % table.len()];
            if span == Span::Global && logical < shared {
                ensure!(to == page, "global page {logical} is {to}, not the shared {page}");
                continue;
            }
            ensure!(to != page, "page {page} is no copy");
            let memory = match span {
                Span::Global => &mut self.global,
                Span::Local => &mut self.local,
            };
            let from = page as usize * PAGE;
            memory.copy_within(from..from + tokens, to as usize * PAGE);
        }
        self.adopted.insert(seq);
        self.sequences.push((seq, tokens));
        Ok(Ok(self.sequences.len() - 1))
    }

    pub(super) fn fork(&mut self, s: usize, len: usize) -> Checked<(usize, usize)> {
        let used = self.used();
        let (seq, tokens) = &self.sequences[s];
        let (seq, usable) = self.cache.fork(*seq, len).map_err(|error| error.to_string())?;
        let tokens = tokens[..usable].to_vec();
        self.adopted(seq, tokens, len, usable, used)
    }

    fn adopted(
        &mut self,
        seq: SeqId,
        tokens: Vec<u64>,
        len: usize,
        usable: usize,
        used: (usize, usize),
    ) -> Checked<(usize, usize)> {
        ensure!(usable == len || usable == len / PAGE * PAGE || usable == 0, "{usable} of {len} usable");
        ensure!(self.cache.len(seq) == Ok(usable), "the length is not what was said");
        ensure!(used == self.used(), "sharing took pages");
        self.adopted.insert(seq);
        self.sequences.push((seq, tokens));
        Ok((self.sequences.len() - 1, usable))
    }

    pub(super) fn release(&mut self, s: usize) {
        let (seq, _) = self.sequences.swap_remove(s);
        self.cache.release(seq).unwrap();
        assert_eq!(self.cache.release(seq), Err(CacheError::UnknownSequence));
    }

    pub(super) fn used(&mut self) -> (usize, usize) {
        let stats = self.cache.stats();
        (stats.global.used, stats.local.used)
    }

    /// Everybody reads back exactly their own tokens, and the references add up.
    pub(super) fn check(&mut self) -> Checked {
        self.cache.collect();
        for (seq, tokens) in &self.sequences {
            let held = &self.cache.sequences[seq].held;
            self.check_stream(held, tokens).map_err(|error| format!("{seq:?}: {error}"))?;
        }
        for (snapshot, tokens) in &self.snapshots {
            let held = &self.cache.snapshots[&snapshot.id()];
            self.check_stream(held, tokens)
                .map_err(|error| format!("snapshot {}: {error}", snapshot.id()))?;
        }
        self.check_references(Span::Global)?;
        self.check_references(Span::Local)
    }

    fn check_stream(&self, held: &Held, tokens: &[u64]) -> Checked {
        ensure!(held.len == tokens.len(), "length {} instead of {}", held.len, tokens.len());
        for position in 0..held.len {
            ensure!(
                held.global.is_empty() || self.present(Span::Global, held, tokens, position),
                "global position {position} of {} is lost",
                held.len
            );
        }
        if held.local.is_empty() || held.len == 0 {
            return Ok(());
        }
        let needed = self.cache.spec.window_start(held.len);
        ensure!(needed >= held.oldest, "the window from {needed} is lost: oldest is {}", held.oldest);
        for position in held.oldest..held.len {
            ensure!(
                self.present(Span::Local, held, tokens, position),
                "local position {position} of {}..{} is lost",
                held.oldest,
                held.len
            );
        }
        Ok(())
    }

    fn check_references(&self, span: Span) -> Checked {
        #[derive(Default)]
        struct Expected {
            sequences: Vec<SeqId>,
            whole: usize,
            partial: Vec<usize>,
        }
        let pages = match span {
            Span::Global => &self.cache.global,
            Span::Local => &self.cache.local,
        };
        let mut expected: BTreeMap<PageId, Expected> = BTreeMap::new();
        for (seq, sequence) in &self.cache.sequences {
            for &page in sequence.held.table(span).iter().filter(|&&page| page != NO_PAGE) {
                expected.entry(page).or_default().sequences.push(*seq);
            }
            let len = sequence.held.len;
            if !sequence.held.table(span).is_empty() && !len.is_multiple_of(PAGE) {
                let tail = sequence.held.tail(span, len).ok_or("no last page")?;
                let (owner, whole, partial) = pages.holders(tail);
                ensure!(owner == Some(*seq), "{span:?} page {tail} belongs to {owner:?}, not to {seq:?}");
                ensure!(whole == 0, "{span:?} page {tail} is appended to and read whole");
                ensure!(
                    partial.iter().all(|&p| p <= len % PAGE),
                    "{span:?} page {tail}: {partial:?} of {len}"
                );
            }
        }
        for held in self.cache.snapshots.values() {
            let all = held.table(span).iter().filter(|&&page| page != NO_PAGE).count();
            let mut clipped = 0;
            for (_, page, relied) in held.clipped_pages().filter(|&(s, ..)| s == span) {
                clipped += 1;
                let page = expected.entry(page).or_default();
                if relied < PAGE {
                    page.partial.push(relied);
                } else {
                    page.whole += 1;
                }
            }
            ensure!(all == clipped, "a snapshot has {all} {span:?} pages and counts {clipped}");
        }
        ensure!(
            pages.used() == expected.len(),
            "{} {span:?} pages used, {} held",
            pages.used(),
            expected.len()
        );
        for (page, mut expected) in expected {
            let (owner, whole, partial) = pages.holders(page);
            let holders = expected.sequences.len();
            expected.sequences.sort_unstable();
            expected.sequences.dedup();
            ensure!(holders == expected.sequences.len(), "{span:?} page {page} is twice in one table");
            let owned = owner.is_some_and(|owner| expected.sequences.contains(&owner));
            ensure!(owned == owner.is_some(), "{span:?} page {page} is owned by {owner:?}, who left");
            expected.whole += holders - usize::from(owned);
            expected.partial.sort_unstable();
            ensure!(
                whole == expected.whole && partial == expected.partial,
                "{span:?} page {page}: {whole} {partial:?} instead of {} {:?}",
                expected.whole,
                expected.partial
            );
        }
        Ok(())
    }

    /// Releases everything; whether all pages came back.
    pub(super) fn end(mut self) -> Checked {
        self.snapshots.clear();
        while !self.sequences.is_empty() {
            self.release(0);
            self.check()?;
        }
        let stats = self.cache.stats();
        let spec = self.cache.spec;
        ensure!(stats.global.used == 0 && stats.local.used == 0, "pages leaked: {stats:?}");
        ensure!(stats.global.free == spec.global_pages && stats.local.free == spec.local_pages, "{stats:?}");
        ensure!(stats.snapshots == 0 && stats.sequences == 0, "{stats:?}");
        Ok(())
    }
}
