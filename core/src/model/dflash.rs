//! DFlash drafters: a few layers that see what the target computed for all committed tokens and denoise a block of masks
//! at once, recorded as programs.

mod file;

use std::sync::Arc;

use super::config::{Rope, Span};
use super::drafter::DraftError;
use super::gemma4::{Gemma4, KvTypes, frequencies};
use crate::numeric;
use crate::ops::attention::{Mask, Reach};
use crate::ops::attn_prepare::{Heads, OwnKeys, Values};
use crate::ops::glu::Columns;
use crate::program::{Act, Class, Program, Ring, ShapeError, State, StateSpec, Weight, WeightSpec};
use crate::tensor::Tensor;

pub use file::{DFlashConfig, DFlashFile};

/// A drafter bound to its target.
///
/// Its layers are those of Qwen 3: norms before the branches only, logits scaled by `1 / sqrt(head_dim)`, values without
/// a norm, `silu`. The scale is in the norm weight of the queries, for rotation keeps it.
///
/// Source: `DFlashDraftModel` in z-lab/dflash, `model.py`.
#[derive(Debug)]
pub struct DFlash {
    /// Hyper-parameters.
    pub config: DFlashConfig,
    /// Its own weights; entry `i` is `Weight(i)` of its programs. The target's embedding and output matrix follow them.
    pub tensors: Vec<Tensor>,
    specs: Arc<[WeightSpec]>,
    fc: Weight,
    hidden_norm: Weight,
    norm: Weight,
    layers: Vec<Layer>,
    frequency: Weight,
    embedding: Weight,
    head: Weight,
    embedding_scale: f32,
}

#[derive(Debug)]
struct Layer {
    input_norm: Weight,
    qkv: [Weight; 3],
    q_norm: Weight,
    k_norm: Weight,
    output: Weight,
    post_norm: Weight,
    gate_up: [Weight; 2],
    down: Weight,
    mask: Mask,
    reach: Reach,
    pools: (State, State),
}

/// A recorded block.
#[derive(Clone, Debug)]
pub struct DFlashBlock {
    /// The program.
    pub program: Program,
    /// Hidden states of the picked rows after the final norm, `[picked, hidden]`.
    pub hidden: Act,
    /// Capped logits of the picked rows, `[picked, vocab]`.
    pub logits: Act,
    /// Tokens of the picked rows at their own positions, `[picked, 1]`.
    pub tokens: Act,
}

impl DFlash {
    /// Binds a drafter to the target whose activations it is going to see.
    ///
    /// `causal` overrides whether the rows of a block see only those before them in sliding layers.
    ///
    /// # Errors
    ///
    /// [`DraftError`] naming what differs, on both sides.
    pub fn bind(file: DFlashFile, target: &Gemma4, causal: Option<bool>) -> Result<Self, DraftError> {
        let DFlashFile { path, config, weights, .. } = file;
        let same = |what: &str, drafter: usize, target: usize| {
            if drafter == target {
                return Ok(());
            }
            let (what, drafter, target) = (what.to_owned(), drafter.to_string(), target.to_string());
            Err(DraftError::Differs { path: path.clone(), what, drafter, target })
        };
        let of_target = &target.config;
        same("width of the hidden states", config.hidden, of_target.hidden)?;
        if let Some(vocab) = config.vocab {
            same("number of tokens", vocab, of_target.vocab)?;
        }
        if let Some(layers) = config.target_layers {
            same("number of layers of the target", layers, of_target.layers.len())?;
        }
        let last = config.taps.iter().copied().max().unwrap_or(0);
        if last + 1 >= of_target.layers.len() {
            same(
                "last layer that is looked at, at most the last but one,",
                last,
                of_target.layers.len() - 1,
            )?;
        }
        if config.mask_token as usize >= of_target.vocab {
            same(
                "mask token, which has to be below the number of tokens,",
                config.mask_token as usize,
                of_target.vocab,
            )?;
        }

        let mut tensors: Vec<Tensor> = Vec::new();
        let mut add = |tensor: Tensor| {
            tensors.push(tensor);
            Weight::new(tensors.len() - 1)
        };
        let rope = Rope { theta: config.theta, factors: Vec::new() };
        let frequency = add(Tensor::vector("rope_frequencies", &frequencies(&rope, config.head_dim)));
        let (fc, hidden_norm, norm) = (add(weights.fc), add(weights.hidden_norm), add(weights.norm));
        let causal = causal.or(config.causal);
        let scale = 1.0 / (config.head_dim as f64).sqrt();
        let layers = weights.layers.into_iter().zip(&config.layers).enumerate().map(|(l, (layer, &span))| {
            // Of a block, sliding layers were trained to look back only, full ones to look everywhere.
            let looks_back = causal.unwrap_or(span == Span::Local);
            Layer {
                input_norm: add(layer.input_norm),
                qkv: layer.qkv.map(&mut add),
                q_norm: add(scaled(&layer.q_norm, scale)),
                k_norm: add(layer.k_norm),
                output: add(layer.output),
                post_norm: add(layer.post_norm),
                gate_up: layer.gate_up.map(&mut add),
                down: add(layer.down),
                mask: if span == Span::Local { Mask::Window(config.window) } else { Mask::Causal },
                reach: if looks_back { Reach::Own } else { Reach::Block },
                pools: (State::new(2 * l), State::new(2 * l + 1)),
            }
        });
        let layers = layers.collect();
        let own = tensors.len();
        let shared = target.shared().map(|weight| target.specs()[weight.index()].clone());
        let specs = tensors.iter().map(WeightSpec::of).chain(shared).collect();
        let embedding_scale = config.embedding_scale.unwrap_or_else(|| target.embedding_scale());
        Ok(Self {
            config,
            tensors,
            specs,
            fc,
            hidden_norm,
            norm,
            layers,
            frequency,
            embedding: Weight::new(own),
            head: Weight::new(own + 1),
            embedding_scale,
        })
    }

    /// Layers of the target whose outputs it sees, in order.
    #[must_use]
    pub fn taps(&self) -> &[usize] {
        &self.config.taps
    }

    /// The pools of its own keys and values, `State(0)` and on of its programs: sliding layers have a ring, which holds
    /// their window and no more. Types are those of keys and of values.
    #[must_use]
    pub fn states(&self, kv: KvTypes, local_pages: usize, global_pages: usize) -> Vec<StateSpec> {
        let DFlashConfig { kv_heads, head_dim, .. } = self.config;
        let pools = self.config.layers.iter().enumerate().flat_map(|(l, &span)| {
            let pages = if span == Span::Local { local_pages } else { global_pages };
            [("k", kv.k), ("v", kv.v)].map(|(half, kv_type)| {
                let name = format!("draft.blk.{l}.{half}");
                StateSpec { name, span, kv_type, kv_heads, head_dim, pages }
            })
        });
        pools.collect()
    }

    /// Records the append of the keys and values of up to `rows` committed tokens, from the features that the target kept
    /// at their positions.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, which the loader excludes.
    pub fn context(
        &self,
        states: &Arc<[StateSpec]>,
        features: Ring,
        class: Class,
        rows: usize,
    ) -> Result<Program, ShapeError> {
        let DFlashConfig { kv_heads, head_dim, rms_eps, .. } = self.config;
        let mut p = Program::new(class, rows, 1, self.specs.clone(), states.clone());
        let seen = p.recall_rows(features, 0);
        let c = p.linear(seen, &[self.fc])?;
        let c = p.rms_norm(c, self.hidden_norm, rms_eps)?;
        for layer in &self.layers {
            let kv = p.linear(c, &layer.qkv[1..])?;
            p.kv_append(kv, (kv_heads, head_dim), self.frequency, layer.own(), rms_eps)?;
        }
        Ok(p)
    }

    /// Records blocks of together up to `rows` rows, of which up to `picked` are drafts: the first row of a block is the
    /// newest token, the others are masks. Their keys and values go behind those of the context, to be overwritten.
    ///
    /// # Errors
    ///
    /// If shapes do not fit, which the loader excludes.
    pub fn block(
        &self,
        states: &Arc<[StateSpec]>,
        rows: usize,
        picked: usize,
    ) -> Result<DFlashBlock, ShapeError> {
        let DFlashConfig { heads, kv_heads, head_dim, ffn, rms_eps, activation, softcap, .. } = self.config;
        let heads = Heads { heads, kv_heads, head_dim };
        let mut program = Program::new(Class::Decode, rows, picked, self.specs.clone(), states.clone());
        let p = &mut program;
        let x = p.embed(self.embedding, self.embedding_scale);
        for layer in &self.layers {
            let h = p.rms_norm(x, layer.input_norm, rms_eps)?;
            let qkv = p.linear(h, &layer.qkv)?;
            let norms = (layer.q_norm, self.frequency);
            let q = p.attn_prepare(qkv, heads, norms, Some(layer.own()), rms_eps)?;
            let a = p.attention_reaching(q, heads, layer.pools, layer.mask, layer.reach)?;
            let a = p.linear(a, &[layer.output])?;
            p.add(x, a)?;
            let h = p.rms_norm(x, layer.post_norm, rms_eps)?;
            let both = p.linear(h, &layer.gate_up)?;
            let (gate, up) = (Columns { act: both, start: 0 }, Columns { act: both, start: ffn });
            let y = p.glu_by(activation, gate, up, ffn)?;
            let y = p.linear(y, &[layer.down])?;
            p.add(x, y)?;
        }
        let x = p.gather_rows(x);
        let hidden = p.rms_norm(x, self.norm, rms_eps)?;
        let logits = p.linear(hidden, &[self.head])?;
        if let Some(cap) = softcap {
            p.softcap(logits, cap);
        }
        let tokens = p.draft(logits);
        p.output(hidden);
        p.output(logits);
        p.output(tokens);
        Ok(DFlashBlock { program, hidden, logits, tokens })
    }
}

impl Layer {
    fn own(&self) -> OwnKeys {
        OwnKeys { k_norm: self.k_norm, values: Values::Plain, k: self.pools.0, v: self.pools.1 }
    }
}

/// The values of a vector times `scale`.
fn scaled(vector: &Tensor, scale: f64) -> Tensor {
    let mut values = vec![0.0f32; vector.cols];
    crate::quant::decode(vector.dtype, &vector.data, &mut values);
    for value in &mut values {
        *value = numeric::round(f64::from(*value) * scale);
    }
    Tensor::vector(&vector.name, &values)
}
