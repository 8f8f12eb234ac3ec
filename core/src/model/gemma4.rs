//! Gemma 4, recorded as programs.

use std::sync::Arc;

use super::config::{Config, LayerConfig, Rope, Span};
use super::weights::{self, Weights};
use crate::kv_type::KvType;
use crate::numeric;
use crate::ops::attention::{Mask, Reach};
use crate::ops::attn_prepare::{Heads, OwnKeys, Values};
use crate::ops::glu::Columns;
use crate::ops::moe_ffn::GateUp;
use crate::program::{Act, Class, Program, Ring, ShapeError, State, StateSpec, Weight, WeightSpec};
use crate::tensor::{Bytes, DType, Tensor};

/// A model ready to be recorded: its weights in a table, and what each layer does with them.
#[derive(Debug)]
pub struct Gemma4 {
    /// Hyper-parameters.
    pub config: Config,
    /// Weights; entry `i` is `Weight(i)` of every program.
    pub tensors: Vec<Tensor>,
    specs: Arc<[WeightSpec]>,
    pub(super) embedding: Weight,
    pub(super) head: Weight,
    pub(super) final_norm: Weight,
    ple: Option<PleTables>,
    pub(super) layers: Vec<Layer>,
    keeps: Keeps,
}

/// What every step keeps for drafters, beside what it computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keeps {
    /// Outputs of layers, side by side in the rows of a ring.
    pub features: Option<(Ring, Vec<usize>)>,
    /// The hidden state of picked rows after the final norm.
    pub hidden: Option<Ring>,
}

/// Per-layer embeddings of the E models.
#[derive(Debug)]
struct PleTables {
    table: Weight,
    projection: Weight,
    norm: Weight,
    width: usize,
}

#[derive(Debug)]
pub(super) struct Layer {
    attn_norm: Weight,
    qkv: Vec<Weight>,
    q_norm: Weight,
    /// Norm of the layer's own keys and the source of its values; `None` if it reads a donor's cache.
    own: Option<(Weight, Values)>,
    heads: Heads,
    frequency: Weight,
    mask: Mask,
    /// Where the visible keys end.
    reach: Reach,
    cache: (State, State),
    attn_out: Weight,
    post_attn_norm: Weight,
    ffn_norm: Weight,
    gate_up: [Weight; 2],
    down: Weight,
    ffn: usize,
    moe: Option<Moe>,
    post_ffn_norm: Weight,
    ple: Option<Ple>,
    scalar: f32,
}

/// The experts that run beside the dense branch.
#[derive(Debug)]
struct Moe {
    router: [Weight; 3],
    top_k: usize,
    pre_norm: Weight,
    gate_up: GateUp,
    down: Weight,
    post_dense_norm: Weight,
    post_expert_norm: Weight,
}

/// One layer's gate on its per-layer input.
#[derive(Debug)]
struct Ple {
    gate: Weight,
    projection: Weight,
    post_norm: Weight,
}

/// Stored types of a group of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvTypes {
    /// Of keys.
    pub k: KvType,
    /// Of values.
    pub v: KvType,
}

impl std::fmt::Display for KvTypes {
    /// `k,v`, as the command line takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.k, self.v)
    }
}

/// Types and pages of the whole cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Types of local layers.
    pub local: KvTypes,
    /// Types of global layers.
    pub global: KvTypes,
    /// Pages of each local pool.
    pub local_pages: usize,
    /// Pages of each global pool.
    pub global_pages: usize,
}

/// A recorded step and the activations that the host reads.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The program.
    pub program: Program,
    /// Capped logits of the picked rows, `[picked, vocab]`.
    pub logits: Act,
    /// Sampled tokens of the picked rows, `[picked, 1]`.
    pub tokens: Act,
    /// Hidden states of the picked rows, if they were asked for, `[picked, hidden]`: the scaled embedding, the
    /// output of each layer, and the last one after the final norm.
    pub hidden: Vec<Act>,
}

/// What is recorded besides logits and tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taps {
    /// Nothing.
    None,
    /// The hidden states of the picked rows.
    Hidden,
}

impl Gemma4 {
    /// Arranges `weights` into the table that programs and backends share.
    #[must_use]
    pub fn new(config: Config, weights: Weights) -> Self {
        let states = states_of(&config);
        Self::over(config, weights, &states, Reach::Own)
    }

    /// The same where layer `l` reads the pools `states[l]`, as far as `reach`.
    pub(super) fn over(config: Config, weights: Weights, states: &[(State, State)], reach: Reach) -> Self {
        let mut table = Table { tensors: Vec::new() };
        let frequency = [Span::Local, Span::Global].map(|span| table.frequencies(&config, span));
        let embedding = table.add(weights.token_embd);
        let head = weights.output.map_or(embedding, |output| table.add(output));
        let final_norm = table.add(weights.output_norm);
        let ple = weights.ple.map(|ple| PleTables {
            width: ple.per_layer_proj_norm.cols,
            table: table.add(ple.per_layer_token_embd),
            projection: table.add(ple.per_layer_model_proj),
            norm: table.add(ple.per_layer_proj_norm),
        });
        let layers = weights.layers.into_iter().zip(&config.layers).enumerate();
        let layers = layers
            .map(|(l, (layer, shape))| Layer {
                reach,
                ..table.layer(&config, shape, layer, frequency, states[l])
            })
            .collect();
        let specs = table.tensors.iter().map(WeightSpec::of).collect();
        let keeps = Keeps::default();
        Self { config, tensors: table.tensors, specs, embedding, head, final_norm, ple, layers, keeps }
    }

    /// What every step recorded from now on keeps for drafters. It does not change what a step computes.
    pub fn keep(&mut self, keeps: Keeps) {
        self.keeps = keeps;
    }

    /// What every step keeps.
    #[must_use]
    pub fn keeps(&self) -> &Keeps {
        &self.keeps
    }

    /// Pools of keys and values that layer `l` reads: its own or its donor's.
    pub(crate) fn pools(&self, l: usize) -> (State, State) {
        self.layers[l].cache
    }

    /// Shapes of the weights.
    pub(crate) fn specs(&self) -> &Arc<[WeightSpec]> {
        &self.specs
    }

    /// The embedding table and the output matrix, which drafters share.
    pub(crate) fn shared(&self) -> [Weight; 2] {
        [self.embedding, self.head]
    }

    /// Factor of the embedding.
    pub(crate) fn embedding_scale(&self) -> f32 {
        numeric::round((self.config.hidden as f64).sqrt())
    }

    /// The pools that a cache of this layout needs; entry `i` is `State(i)` of every program.
    #[must_use]
    pub fn states(&self, layout: &KvLayout) -> Arc<[StateSpec]> {
        let owners = self.config.layers.iter().enumerate().filter(|(_, layer)| layer.donor.is_none());
        let pools = owners.flat_map(|(l, layer)| {
            let (types, pages) = match layer.span {
                Span::Local => (layout.local, layout.local_pages),
                Span::Global => (layout.global, layout.global_pages),
            };
            [("k", types.k), ("v", types.v)].map(|(half, kv_type)| StateSpec {
                name: format!("blk.{l}.{half}"),
                span: layer.span,
                kv_type,
                kv_heads: layer.kv_heads,
                head_dim: layer.head_dim,
                pages,
            })
        });
        pools.collect()
    }

    /// Records a step over up to `rows` rows of prompts.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, which the loader excludes.
    pub fn prefill(
        &self,
        states: &Arc<[StateSpec]>,
        rows: usize,
        picked: usize,
        taps: Taps,
    ) -> Result<Recorded, ShapeError> {
        self.record(Class::Prefill, states, rows, picked, taps)
    }

    /// Records a step that decodes one token for each of up to `sequences` sequences.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, which the loader excludes.
    pub fn decode(&self, states: &Arc<[StateSpec]>, sequences: usize) -> Result<Recorded, ShapeError> {
        self.record(Class::Decode, states, sequences, sequences, Taps::None)
    }

    /// Records a step that judges up to `rows` drafted rows: decoding, with every row's logits.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, which the loader excludes.
    pub fn verify(&self, states: &Arc<[StateSpec]>, rows: usize, taps: Taps) -> Result<Recorded, ShapeError> {
        self.record(Class::Decode, states, rows, rows, taps)
    }

    fn record(
        &self,
        class: Class,
        states: &Arc<[StateSpec]>,
        rows: usize,
        picked: usize,
        taps: Taps,
    ) -> Result<Recorded, ShapeError> {
        let mut p = Program::new(class, rows, picked, self.specs.clone(), states.clone());
        let p = &mut p;
        let mut hidden = Vec::new();
        let mut tap = |p: &mut Program, x: Act| {
            if taps == Taps::Hidden {
                let rows = p.gather_rows(x);
                p.output(rows);
                hidden.push(rows);
            }
        };

        let residual = p.embed(self.embedding, self.embedding_scale());
        tap(p, residual);
        let ple_inputs = self.ple_inputs(p, residual)?;
        for (l, layer) in self.layers.iter().enumerate() {
            let input = ple_inputs.map(|(act, width)| Columns { act, start: l * width });
            self.layer(p, layer, residual, input, &mut |p| self.keep_output(p, l, residual))?;
            if l + 1 < self.layers.len() {
                tap(p, residual);
            }
        }

        self.keep_output(p, self.layers.len(), residual)?;

        // Only picked rows need logits; with a vocabulary of 262,144 the head is the largest matrix.
        let x = p.gather_rows(residual);
        let x = p.rms_norm(x, self.final_norm, self.config.rms_eps)?;
        if taps == Taps::Hidden {
            p.output(x);
            hidden.push(x);
        }
        if let Some(ring) = self.keeps.hidden {
            p.keep_rows(x, ring, 0)?;
        }
        let logits = p.linear(x, &[self.head])?;
        if let Some(cap) = self.config.final_softcap {
            p.softcap(logits, cap);
        }
        let tokens = p.sample(logits);
        p.output(logits);
        p.output(tokens);
        Ok(Recorded { program: p.clone(), logits, tokens, hidden })
    }

    /// Keeps the output of the layer before layer `l` as a feature, if it is one.
    fn keep_output(&self, p: &mut Program, l: usize, residual: Act) -> Result<(), ShapeError> {
        let Some((ring, layers)) = &self.keeps.features else { return Ok(()) };
        match layers.iter().position(|&layer| layer + 1 == l) {
            Some(at) => p.keep_rows(residual, *ring, at * self.config.hidden),
            None => Ok(()),
        }
    }

    /// Records one decoder layer. Source: `Block.__call__`, google-deepmind/gemma `gemma4/_modules.py`.
    ///
    /// `after_norm` records what reads the stream as the layer finds it. It comes behind the first norm, which backends
    /// join with the end of the layer before: what they compute must not depend on whether something is kept.
    pub(super) fn layer(
        &self,
        p: &mut Program,
        layer: &Layer,
        residual: Act,
        ple_input: Option<Columns>,
        after_norm: &mut dyn FnMut(&mut Program) -> Result<(), ShapeError>,
    ) -> Result<(), ShapeError> {
        let eps = self.config.rms_eps;
        let (k, v) = layer.cache;
        let own = layer.own.map(|(k_norm, values)| OwnKeys { k_norm, values, k, v });

        let h = p.rms_norm(residual, layer.attn_norm, eps)?;
        after_norm(p)?;
        let qkv = p.linear(h, &layer.qkv)?;
        let q = p.attn_prepare(qkv, layer.heads, (layer.q_norm, layer.frequency), own, eps)?;
        let a = p.attention_reaching(q, layer.heads, layer.cache, layer.mask, layer.reach)?;
        let a = p.linear(a, &[layer.attn_out])?;
        p.norm_add(residual, a, layer.post_attn_norm, 1.0, eps)?;

        let h = p.rms_norm(residual, layer.ffn_norm, eps)?;
        // Experts are chosen before the dense branch, so that they are known by the time it is done. The router reads the
        // stream as it is.
        let route = |moe: &Moe| p.route(residual, moe.router, moe.top_k, eps);
        let chosen = layer.moe.as_ref().map(route).transpose()?;
        let y = self.dense(p, layer, h)?;
        if let (Some(moe), Some(chosen)) = (&layer.moe, chosen) {
            self.experts(p, moe, chosen, residual, y)?;
        }

        // The layer scalar multiplies the whole stream once, at the very end of the layer.
        let (Some(ple), Some(input)) = (&layer.ple, ple_input) else {
            return p.norm_add(residual, y, layer.post_ffn_norm, layer.scalar, eps);
        };
        p.norm_add(residual, y, layer.post_ffn_norm, 1.0, eps)?;
        // The gate reads the stream as it is, not normalised.
        let gate = p.linear(residual, &[ple.gate])?;
        let y = p.glu(Columns { act: gate, start: 0 }, input, p.cols(gate))?;
        let y = p.linear(y, &[ple.projection])?;
        p.norm_add(residual, y, ple.post_norm, layer.scalar, eps)
    }

    /// The dense branch; beside experts it has a post-norm of its own.
    fn dense(&self, p: &mut Program, layer: &Layer, h: Act) -> Result<Act, ShapeError> {
        let eps = self.config.rms_eps;
        let both = p.linear(h, &layer.gate_up)?;
        let (gate, up) = (Columns { act: both, start: 0 }, Columns { act: both, start: layer.ffn });
        let y = p.glu(gate, up, layer.ffn)?;
        let y = p.linear(y, &[layer.down])?;
        match &layer.moe {
            Some(moe) => p.rms_norm(y, moe.post_dense_norm, eps),
            None => Ok(y),
        }
    }

    /// The chosen experts, added to the dense branch `y`.
    fn experts(
        &self,
        p: &mut Program,
        moe: &Moe,
        chosen: (Act, Act),
        residual: Act,
        y: Act,
    ) -> Result<(), ShapeError> {
        let eps = self.config.rms_eps;
        let h = p.rms_norm(residual, moe.pre_norm, eps)?;
        let e = p.moe_ffn(h, chosen, moe.gate_up, moe.down)?;
        let e = p.rms_norm(e, moe.post_expert_norm, eps)?;
        p.add(y, e)
    }

    /// The inputs of all layers, and the width of one.
    fn ple_inputs(&self, p: &mut Program, embedding: Act) -> Result<Option<(Act, usize)>, ShapeError> {
        let Some(ple) = &self.ple else { return Ok(None) };
        let context = p.linear(embedding, &[ple.projection])?;
        let (hidden, eps) = (self.config.hidden, self.config.rms_eps);
        Ok(Some((p.ple_inputs(context, ple.table, ple.norm, hidden, eps)?, ple.width)))
    }
}

/// Pools of keys and values that each layer reads: its own or its donor's.
fn states_of(config: &Config) -> Vec<(State, State)> {
    let mut states: Vec<(State, State)> = Vec::new();
    let mut owned = 0;
    for layer in &config.layers {
        states.push(if let Some(donor) = layer.donor {
            states[donor]
        } else {
            owned += 2;
            (State::new(owned - 2), State::new(owned - 1))
        });
    }
    states
}

/// The table of weights while it is filled.
struct Table {
    tensors: Vec<Tensor>,
}

impl Table {
    fn add(&mut self, tensor: Tensor) -> Weight {
        self.tensors.push(tensor);
        Weight::new(self.tensors.len() - 1)
    }

    /// Angles a position of one kind of layer, as a weight; `None` if there is no such layer.
    fn frequencies(&mut self, config: &Config, span: Span) -> Option<Weight> {
        let dim = config.layers.iter().find(|layer| layer.span == span)?.head_dim;
        let (name, rope) = match span {
            Span::Local => ("rope_frequencies.local", &config.rope_local),
            Span::Global => ("rope_frequencies.global", &config.rope_global),
        };
        let frequencies = frequencies(rope, dim);
        let bytes: Vec<u8> = frequencies.iter().flat_map(|f| f.to_le_bytes()).collect();
        let tensor = Tensor::new(name, DType::F32, [1, 1, dim / 2], Bytes::from_owner(bytes));
        Some(self.add(tensor.expect("as many bytes as values")))
    }

    fn layer(
        &mut self,
        config: &Config,
        shape: &LayerConfig,
        layer: weights::LayerWeights,
        [local, global]: [Option<Weight>; 2],
        cache: (State, State),
    ) -> Layer {
        let (frequency, mask) = match shape.span {
            Span::Local => (local, Mask::Window(config.window)),
            Span::Global => (global, Mask::Causal),
        };
        let heads = Heads { heads: config.heads, kv_heads: shape.kv_heads, head_dim: shape.head_dim };
        let values = if layer.attn_v.is_some() { Values::Projected } else { Values::RawKeys };
        let qkv = [Some(layer.attn_q), layer.attn_k, layer.attn_v];
        Layer {
            attn_norm: self.add(layer.attn_norm),
            qkv: qkv.into_iter().flatten().map(|tensor| self.add(tensor)).collect(),
            q_norm: self.add(layer.q_norm),
            own: layer.k_norm.map(|norm| (self.add(norm), values)),
            heads,
            frequency: frequency.expect("the layer's own kind has frequencies"),
            mask,
            reach: Reach::Own,
            cache,
            attn_out: self.add(layer.attn_output),
            post_attn_norm: self.add(layer.post_attention_norm),
            ffn_norm: self.add(layer.ffn_norm),
            gate_up: [self.add(layer.ffn_gate), self.add(layer.ffn_up)],
            down: self.add(layer.ffn_down),
            ffn: shape.ffn,
            moe: layer.moe.map(|moe| self.moe(config, moe)),
            post_ffn_norm: self.add(layer.post_ffw_norm),
            ple: layer.ple.map(|ple| Ple {
                gate: self.add(ple.inp_gate),
                projection: self.add(ple.proj),
                post_norm: self.add(ple.post_norm),
            }),
            scalar: layer.layer_output_scale,
        }
    }

    fn moe(&mut self, config: &Config, moe: weights::MoeWeights) -> Moe {
        Moe {
            router: [moe.gate_inp_scale, moe.gate_inp, moe.down_scale].map(|tensor| self.add(tensor)),
            top_k: config.moe.map_or(0, |moe| moe.top_k),
            pre_norm: self.add(moe.pre_norm_2),
            gate_up: match moe.gate_up {
                weights::GateUp::Fused(both) => GateUp::Fused(self.add(both)),
                weights::GateUp::Split { gate, up } => {
                    GateUp::Split { gate: self.add(gate), up: self.add(up) }
                }
            },
            down: self.add(moe.down),
            post_dense_norm: self.add(moe.post_norm_1),
            post_expert_norm: self.add(moe.post_norm_2),
        }
    }
}

/// Angles a position of the pairs of one head: `theta^(-2 i / dim) / factor[i]`, in radians.
///
/// The exponent's denominator is the whole head, also where only a quarter of the pairs rotate. The power and its
/// inverse are rounded to `f32` one after the other, as transformers does: at position 100,000 the last bit of a
/// frequency turns a pair by a hundredth of a radian.
#[must_use]
pub fn frequencies(rope: &Rope, dim: usize) -> Vec<f32> {
    let theta = f64::from(rope.theta);
    let frequency = |i: usize| {
        let power = numeric::round(theta.powf(2.0 * i as f64 / dim as f64));
        1.0 / power / rope.factors.get(i).copied().unwrap_or(1.0)
    };
    (0..dim / 2).map(frequency).collect()
}
