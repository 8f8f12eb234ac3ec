//! Chains of an MTP assistant.

use std::collections::HashMap;

use super::super::{Engine, EngineError, device, narrow};
use super::{Ask, Drafts, Unread, Watched};
use crate::backend::{Backend, PageTable, Row, Step, Ticket};
use crate::cache::CacheError;
use crate::model::config::Span;
use crate::model::mtp::{Link, Mtp, MtpStep};
use crate::program::Ring;
use crate::sample::Draw;

/// Most tokens of a chain.
pub(super) const MOST: usize = 8;

/// An assistant on a device.
pub(super) struct MtpOn<B: Backend> {
    pub(super) model: Mtp,
    weights: Vec<B::Weight>,
    hidden: Ring,
    plans: HashMap<(usize, Link), (MtpStep, B::Plan)>,
}

impl<B: Backend> MtpOn<B> {
    /// `weights` are those of its programs, `hidden` is where the target keeps its hidden states.
    pub(super) fn new(model: Mtp, weights: Vec<B::Weight>, hidden: Ring) -> Self {
        Self { model, weights, hidden, plans: HashMap::new() }
    }

    pub(super) fn plans(&self) -> usize {
        self.plans.len()
    }

    pub(super) fn forget_plans(&mut self) {
        self.plans.clear();
    }
}

/// A chain that is under way.
#[derive(Clone, Copy)]
struct Chain {
    /// Whose it is, among what was asked.
    at: usize,
    slot: u32,
    /// Position of its first token.
    position: u32,
    /// Its tokens.
    count: usize,
}

/// A step of chains that was enqueued.
#[derive(Debug)]
pub(super) struct Links {
    plan: (usize, Link),
    ticket: Ticket,
    /// Whose the rows are.
    of: Vec<usize>,
}

impl<B: Backend> Engine<B> {
    /// Chains of all sequences, step by step together: each row stays at the position of its anchor, sees the keys
    /// before it, and goes on from the token and the hidden state that the step before left on the device. The host
    /// reads a step's tokens while the next one runs.
    pub(super) fn draft_chains(
        &mut self,
        asks: &[Ask<'_>],
        watched: &mut Option<Watched>,
    ) -> Result<Drafts, EngineError> {
        let mut drafts = Drafts::none(asks.len());
        let mut chains: Vec<Chain> = Vec::new();
        for (at, ask) in asks.iter().enumerate() {
            let position = self.cache.len(ask.seq)?;
            let room = self.options.context.saturating_sub(position + 1);
            let count = ask.count.min(MOST).min(room);
            if count == 0 || position == 0 {
                continue;
            }
            // The page of the anchor's position has to be there, though nothing is written to it yet.
            self.cache.reserve(ask.seq, 1)?;
            self.cache.commit(ask.seq, 0)?;
            drafts.counts[at] = count;
            chains.push(Chain { at, slot: self.slot_of(ask.seq)?, position: narrow(position), count });
        }
        let longest = chains.iter().map(|chain| chain.count).max().unwrap_or(0);
        let mut before: Option<Links> = None;
        for k in 0..longest {
            chains.retain(|chain| k < chain.count);
            let links = self.enqueue_links(asks, &chains, k)?;
            if let Some(before) = before.replace(links) {
                self.read_links(&before, &mut drafts.read, watched)?;
            }
        }
        match before {
            // What is watched is read while it is there.
            Some(last) if watched.is_some() => self.read_links(&last, &mut drafts.read, watched)?,
            last => drafts.last = last.map(Unread::Links),
        }
        Ok(drafts)
    }

    /// Enqueues token `k` of every chain.
    fn enqueue_links(&mut self, asks: &[Ask<'_>], chains: &[Chain], k: usize) -> Result<Links, EngineError> {
        let link = if k == 0 { Link::First } else { Link::Next };
        let row = |chain: &Chain| Row {
            token: if k == 0 { asks[chain.at].anchor } else { Row::drafted(narrow(k)) },
            position: chain.position,
            slot: chain.slot,
        };
        let draw = |chain: &Chain| Draw {
            sampling: asks[chain.at].sampling,
            position: chain.position + narrow(k) + 1,
            edits: asks[chain.at].edits,
            allowed: None,
        };
        let rows: Vec<Row> = chains.iter().map(row).collect();
        let draws: Vec<Draw<'_>> = chains.iter().map(draw).collect();
        let picked: Vec<u32> = (0..narrow(rows.len())).collect();
        let tables: Vec<PageTable<'_>> = self
            .slots
            .iter()
            .map(|slot| match slot {
                Some(seq) => Ok(PageTable {
                    global: self.cache.table(*seq, Span::Global)?,
                    local: self.cache.table(*seq, Span::Local)?,
                }),
                None => Ok(PageTable { global: &[], local: &[] }),
            })
            .collect::<Result<_, CacheError>>()?;
        let drafters = &mut self.drafters;
        let Some(on) = &mut drafters.mtp else { return Err(EngineError::NoDrafter) };
        let key = (rows.len().next_power_of_two(), link);
        if !on.plans.contains_key(&key) {
            let step = on.model.step(&drafters.specs, on.hidden, key.0, link)?;
            let plan = self.backend.compile(&step.program, &on.weights, &drafters.states).map_err(device)?;
            on.plans.insert(key, (step, plan));
        }
        let (_, plan) = on.plans.get_mut(&key).expect("made above");
        let step = Step { rows: &rows, picked: &picked, tables: &tables, draws: &draws };
        let ticket = self.backend.run(plan, &step).map_err(device)?;
        Ok(Links { plan: key, ticket, of: chains.iter().map(|chain| chain.at).collect() })
    }

    pub(super) fn read_links(
        &self,
        links: &Links,
        drafts: &mut [Vec<u32>],
        watched: &mut Option<Watched>,
    ) -> Result<(), EngineError> {
        let Some(on) = &self.drafters.mtp else { return Err(EngineError::NoDrafter) };
        let Links { plan, ticket, of } = links;
        let (step, plan) = &on.plans[plan];
        let mut tokens = vec![0u32; of.len()];
        self.backend.read(plan, *ticket, step.tokens, &mut tokens).map_err(device)?;
        for (&at, token) in of.iter().zip(tokens) {
            drafts[at].push(token);
        }
        if let Some(watched) = watched {
            for (act, into) in [(step.logits, &mut watched.logits), (step.hidden, &mut watched.hidden)] {
                let mut values = vec![0.0f32; of.len() * step.program.cols(act)];
                self.backend.read(plan, *ticket, act, &mut values).map_err(device)?;
                into.push(values);
            }
        }
        Ok(())
    }
}
