//! MTP assistants (`gemma-4-*-it-assistant`): a few layers that read the target's cache and draft one token after the
//! other, recorded as programs.

mod file;

use std::sync::Arc;

use super::config::{Config, LayerConfig, Span};
use super::drafter::DraftError;
use super::gemma4::Gemma4;
use crate::ops::attention::Reach;
use crate::program::{Act, Class, Program, Ring, ShapeError, StateSpec, Weight, WeightSpec};
use crate::tensor::Tensor;

pub use file::MtpFile;

/// An assistant bound to its target.
///
/// Source: `Gemma4AssistantForCausalLM` in transformers, `modeling_gemma4_assistant.py`.
#[derive(Debug)]
pub struct Mtp {
    /// Its own weights; entry `i` is `Weight(i)` of its programs. The target's embedding follows them.
    pub tensors: Vec<Tensor>,
    specs: Arc<[WeightSpec]>,
    body: Gemma4,
    /// The halves of the projection of embedding and hidden state to the assistant's width.
    pre: [Weight; 2],
    /// From the assistant's width to the target's.
    post: Weight,
    centroids: Option<Centroids>,
    embedding: Weight,
    embedding_scale: f32,
}

/// The head of the assistants of E2B and E4B.
#[derive(Clone, Copy, Debug)]
struct Centroids {
    scores: Weight,
    ordering: Weight,
    top_k: usize,
}

/// One step of a chain, recorded.
#[derive(Clone, Debug)]
pub struct MtpStep {
    /// The program.
    pub program: Program,
    /// Sampled tokens, `[rows, 1]`.
    pub tokens: Act,
    /// Logits, `[rows, vocab]`.
    pub logits: Act,
    /// What the next step gets as the hidden state, `[rows, hidden of the target]`.
    pub hidden: Act,
}

/// Which hidden state a step of a chain begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// The target's, of the token before the row's position.
    First,
    /// The one that the step before left at the row's position.
    Next,
}

/// The layer of the target whose keys and values a layer of an assistant of kind `span` reads: the last of its kind
/// among those that own a cache. What a file says about it does not count.
#[must_use]
pub fn donor(target: &[LayerConfig], span: Span) -> Option<usize> {
    target.iter().rposition(|layer| layer.span == span && layer.donor.is_none())
}

impl Mtp {
    /// Binds an assistant to the target whose cache it is going to read.
    ///
    /// # Errors
    ///
    /// [`DraftError`] naming what differs, on both sides.
    pub fn bind(file: MtpFile, target: &Gemma4) -> Result<Self, DraftError> {
        let MtpFile { path, mut config, backbone, weights, pre, post, centroids, .. } = file;
        let differs = |what: &str, drafter: usize, target: usize| DraftError::Differs {
            path: path.clone(),
            what: what.to_owned(),
            drafter: drafter.to_string(),
            target: target.to_string(),
        };
        let same = |what: &str, drafter: usize, of_target: usize| {
            if drafter == of_target { Ok(()) } else { Err(differs(what, drafter, of_target)) }
        };
        same("width of the target's hidden states", backbone, target.config.hidden)?;
        same("number of tokens", config.vocab, target.config.vocab)?;
        let mut states = Vec::new();
        for (l, layer) in config.layers.iter_mut().enumerate() {
            let Some(donor) = donor(&target.config.layers, layer.span) else {
                let what = format!("{} layers for layer {l} to read", layer.span.name());
                return Err(differs(&what, 1, 0));
            };
            let given = &target.config.layers[donor];
            let heads = format!("width of the heads in layer {l}, which reads layer {donor} of the target");
            same(&heads, layer.head_dim, given.head_dim)?;
            if !config.heads.is_multiple_of(given.kv_heads) {
                let what = format!("key heads that divide the query heads of layer {l}");
                return Err(differs(&what, config.heads, given.kv_heads));
            }
            layer.kv_heads = given.kv_heads;
            states.push(target.pools(donor));
        }
        // The keys that are there are those of the target's window.
        config.window = target.config.window;
        let body = Gemma4::over(config, weights, &states, Reach::Before);
        let mut tensors = body.tensors.clone();
        let mut add = |tensor: Tensor| {
            tensors.push(tensor);
            Weight::new(tensors.len() - 1)
        };
        let pre = pre.map(&mut add);
        let post = add(post);
        let centroids = centroids.map(|head| Centroids {
            scores: add(head.centroids),
            ordering: add(head.ordering),
            top_k: head.top_k,
        });
        let embedding = Weight::new(tensors.len());
        let shared = target.specs()[target.shared()[0].index()].clone();
        let specs = tensors.iter().map(WeightSpec::of).chain([shared]).collect();
        let embedding_scale = target.embedding_scale();
        Ok(Self { tensors, specs, body, pre, post, centroids, embedding, embedding_scale })
    }

    /// Hyper-parameters of the assistant itself.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.body.config
    }

    /// Whether its head looks into the best clusters of tokens only.
    #[must_use]
    pub fn has_centroids(&self) -> bool {
        self.centroids.is_some()
    }

    /// Records a step of the chains of up to `rows` sequences.
    ///
    /// A row is the last token of a chain at the position of its first, which stays the same for all steps; it sees the
    /// keys before that position. `hidden` is where the target keeps its normed hidden states.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, which binding excludes.
    pub fn step(
        &self,
        states: &Arc<[StateSpec]>,
        hidden: Ring,
        rows: usize,
        link: Link,
    ) -> Result<MtpStep, ShapeError> {
        let eps = self.body.config.rms_eps;
        let mut program = Program::new(Class::Decode, rows, rows, self.specs.clone(), states.clone());
        let p = &mut program;
        let embedding = p.embed(self.embedding, self.embedding_scale);
        let before = p.recall_rows(hidden, u32::from(link == Link::First));
        let residual = p.linear(embedding, &[self.pre[0]])?;
        let rest = p.linear(before, &[self.pre[1]])?;
        p.add(residual, rest)?;
        for layer in &self.body.layers {
            self.body.layer(p, layer, residual, None, &mut |_| Ok(()))?;
        }
        let y = p.rms_norm(residual, self.body.final_norm, eps)?;
        let next = p.linear(y, &[self.post])?;
        p.keep_rows(next, hidden, 0)?;
        let y = p.gather_rows(y);
        let logits = match self.centroids {
            Some(Centroids { scores, ordering, top_k }) => {
                let scores = p.linear(y, &[scores])?;
                p.centroid_head((y, scores), (self.body.embedding, ordering), top_k)?
            }
            None => p.linear(y, &[self.body.head])?,
        };
        let tokens = p.draft(logits);
        p.output(logits);
        p.output(tokens);
        p.output(next);
        Ok(MtpStep { program, tokens, logits, hidden: next })
    }
}
