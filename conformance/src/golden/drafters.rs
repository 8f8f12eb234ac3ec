//! Golden drafters: what transformers and a plain `DFlash` in `PyTorch` drafted for the golden targets.

use std::collections::BTreeMap;
use std::path::Path;

use gemma4_core::backend::Backend;
use gemma4_core::cache::SeqId;
use gemma4_core::engine::{Ask, DraftKind, DraftOptions, Engine, Part, Pick, Watched};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::dflash::DFlashFile;
use gemma4_core::model::drafter::DraftFile;
use gemma4_core::model::gemma4::{KvTypes, Taps};
use gemma4_core::model::mtp::MtpFile;
use gemma4_core::program::Class;
use gemma4_core::sample::{Draw, Sampling};
use serde_json::Value;

use super::{BOUND, Golden, GoldenError, Recorded, TIE, Target, bad, parse, read_bytes};
use crate::compare::{Agreement, compare};
use crate::procedural::Procedural;

/// A golden drafter with its target.
#[derive(Debug)]
pub struct Drafter {
    kind: DraftKind,
    target: Target,
    file: DraftFile,
    rounds: Vec<Round>,
}

/// One recorded draft.
#[derive(Debug)]
struct Round {
    /// What it belongs to: rounds of one prompt go on from one another.
    prompt: usize,
    /// Committed tokens, the newest at the end.
    context: Vec<u32>,
    drafts: Vec<u32>,
    /// `[rows, vocab]`: of a block the row of the newest token too.
    logits: Vec<f32>,
    /// `[rows, hidden]`.
    hidden: Vec<f32>,
}

/// What a drafter showed.
#[derive(Clone, Debug, Default)]
pub struct Drafted {
    /// Agreement of the logits.
    pub logits: Agreement,
    /// Agreement of the hidden states.
    pub hidden: Agreement,
    /// Drafts compared.
    pub tokens: usize,
}

impl Drafted {
    /// Values compared.
    #[must_use]
    pub fn comparisons(&self) -> usize {
        self.logits.count + self.hidden.count + self.tokens
    }

    /// Errors and counts, for people.
    #[must_use]
    pub fn summary(&self) -> String {
        let (logits, hidden) = (self.logits.worst, self.hidden.worst);
        format!("logits within {logits:.1e}, hidden within {hidden:.1e}, {} drafts equal", self.tokens)
    }
}

impl Drafter {
    /// Reads the folder of a drafter, whose config is `text`, and the folder of its target beside it.
    pub(super) fn open(dir: &Path, kind: DraftKind, text: &str) -> Result<Self, GoldenError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((of, _)) = name.rsplit_once('-') else {
            return Err(bad(dir, "the name of a drafter's folder is that of its target, a dash and a word"));
        };
        let Golden::Target(target) = Golden::open(&dir.with_file_name(of))? else {
            return Err(bad(dir, "the target of a drafter is no drafter"));
        };
        let path = dir.join("config.json");
        let json: Value = parse(&path, text)?;
        let shapes = match kind {
            DraftKind::Mtp => assistant_shapes(&json),
            DraftKind::DFlash => dflash_shapes(&json),
        };
        let shapes = shapes.ok_or_else(|| bad(&path, "a size is missing"))?;
        let source = Procedural::new(&path, shapes, target.seed);
        let file = match kind {
            DraftKind::Mtp => DraftFile::Mtp(Box::new(MtpFile::from_json(&path, text, &source)?)),
            DraftKind::DFlash => DraftFile::DFlash(Box::new(DFlashFile::from_json(&path, text, &source)?)),
        };
        let path = dir.join("golden.safetensors");
        let bytes = read_bytes(&path)?;
        let recorded = Recorded::open(&path, &bytes)?;
        let mut rounds = Vec::new();
        for n in recorded.lengths()? {
            let round = |context: Vec<u32>, suffix: &str, hidden: &str| {
                Ok::<_, GoldenError>(Round {
                    prompt: n,
                    context,
                    drafts: recorded.tokens(&format!("draft.{suffix}"), None)?,
                    logits: recorded.floats(&format!("logits.{suffix}"), None)?,
                    hidden: recorded.floats(&format!("{hidden}.{suffix}"), None)?,
                })
            };
            match kind {
                DraftKind::Mtp => {
                    let mut context = recorded.tokens(&format!("prompt.{n}"), Some(n))?;
                    context.extend(recorded.tokens(&format!("bonus.{n}"), Some(1))?);
                    rounds.push(round(context, &n.to_string(), "h_next")?);
                }
                DraftKind::DFlash => {
                    for r in 0..3 {
                        let suffix = format!("{n}.{r}");
                        let context = recorded.tokens(&format!("context.{suffix}"), None)?;
                        rounds.push(round(context, &suffix, "hidden")?);
                    }
                }
            }
        }
        Ok(Self { kind, target: *target, file, rounds })
    }

    /// What it is.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self.kind {
            DraftKind::Mtp => "chains",
            DraftKind::DFlash => "blocks",
        }
    }

    /// Runs every round behind its target, with caches that lose nothing. Between the rounds of a prompt the target
    /// verifies rows of which only the committed ones are kept.
    ///
    /// # Errors
    ///
    /// The first value outside of the bound, the first other draft, or what the engine says.
    pub fn exact<B: Backend>(&self, backend: B) -> Result<Drafted, GoldenError> {
        let mut engine = self.target.engine(backend, KvType::F32, usize::MAX)?;
        let options = DraftOptions { kv: KvTypes { k: KvType::F32, v: KvType::F32 }, causal: None };
        engine.attach(self.file.clone(), options, &mut |_, _| ())?;
        let mut drafted = Drafted::default();
        let mut current: Option<(usize, SeqId)> = None;
        for round in &self.rounds {
            let seq = match current {
                Some((prompt, seq)) if prompt == round.prompt => seq,
                _ => {
                    if let Some((_, seq)) = current {
                        engine.close(seq)?;
                    }
                    engine.open()?
                }
            };
            current = Some((round.prompt, seq));
            advance(&mut engine, seq, &round.context[..round.context.len() - 1])?;
            self.compare(&mut engine, seq, round, &mut drafted)?;
        }
        Ok(drafted)
    }

    fn compare<B: Backend>(
        &self,
        engine: &mut Engine<B>,
        seq: SeqId,
        round: &Round,
        drafted: &mut Drafted,
    ) -> Result<(), GoldenError> {
        let sampling = Sampling::default();
        let anchor = round.context[round.context.len() - 1];
        let ask = Ask { seq, anchor, count: round.drafts.len(), sampling: &sampling, edits: &[] };
        let (drafts, Watched { logits, hidden }) = engine.propose_watched(self.kind, &ask)?;
        let what = |part: &str| format!("{part} behind {} tokens", round.context.len());
        for (index, (&want, &got)) in round.drafts.iter().zip(&drafts).enumerate() {
            if want != got {
                // Of a block the first row is that of the newest token.
                let row = &logits[index + logits.len() - drafts.len()];
                let mut sorted = row.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let margin = sorted[0] - sorted[1];
                if margin >= TIE {
                    return Err(GoldenError::Token { what: what("drafts"), index, want, got, margin });
                }
            }
            drafted.tokens += 1;
        }
        if drafts.len() != round.drafts.len() {
            let text = format!("{} drafts, expected {}", drafts.len(), round.drafts.len());
            return Err(bad(Path::new(&what("drafts")), text));
        }
        let outside = |part: &str| {
            let what = what(part);
            move |source| GoldenError::Outside { what, source }
        };
        let agreement = compare(&round.logits, &logits.concat(), BOUND).map_err(outside("logits"))?;
        drafted.logits = drafted.logits.and(agreement);
        let agreement = compare(&round.hidden, &hidden.concat(), BOUND).map_err(outside("hidden states"))?;
        drafted.hidden = drafted.hidden.and(agreement);
        Ok(())
    }
}

/// Commits what is not yet in the cache of `tokens`: a prompt at once, later tokens among rejected rows.
fn advance<B: Backend>(engine: &mut Engine<B>, seq: SeqId, tokens: &[u32]) -> Result<(), GoldenError> {
    let sampling = Sampling::default();
    let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
    let len = engine.cache().len(seq).map_err(gemma4_core::engine::EngineError::from)?;
    let fresh = &tokens[len..];
    if len == 0 {
        let part = Part { seq, tokens: fresh, pick: Pick::Last };
        engine.step(Class::Prefill, &[part], &[draw], Taps::None)?;
    } else {
        let mut rows = fresh.to_vec();
        let room = engine.options().context - len - fresh.len();
        rows.extend([9, 8, 7].iter().take(room));
        let part = Part { seq, tokens: &rows, pick: Pick::All };
        engine.step(Class::Decode, &[part], &vec![draw; rows.len()], Taps::None)?;
    }
    engine.commit(seq, fresh.len())?;
    Ok(())
}

fn size(json: &Value, key: &str) -> Option<usize> {
    json[key].as_u64().and_then(|size| usize::try_from(size).ok())
}

/// Names and shapes of the tensors of an assistant, as transformers names them, with the prefix of the recipe.
pub(crate) fn assistant_shapes(json: &Value) -> Option<BTreeMap<String, Vec<usize>>> {
    let text = &json["text_config"];
    let (hidden, vocab) = (size(text, "hidden_size")?, size(text, "vocab_size")?);
    let (heads, ffn) = (size(text, "num_attention_heads")?, size(text, "intermediate_size")?);
    let backbone = size(json, "backbone_hidden_size")?;
    let mut shapes = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize]| shapes.insert(format!("assistant.{name}"), shape.to_vec());
    add("pre_projection.weight", &[hidden, 2 * backbone]);
    add("post_projection.weight", &[backbone, hidden]);
    add("model.embed_tokens.weight", &[vocab, hidden]);
    add("model.norm.weight", &[hidden]);
    if json["use_ordered_embeddings"].as_bool() == Some(true) {
        add("masked_embedding.centroids.weight", &[size(json, "num_centroids")?, hidden]);
        add("masked_embedding.token_ordering", &[vocab]);
    }
    for (l, kind) in text["layer_types"].as_array()?.iter().enumerate() {
        let own = &text["per_layer_config"][l.to_string()];
        let global = kind.as_str() == Some("full_attention");
        let wide = size(own, "head_dim").or_else(|| size(text, "global_head_dim")).filter(|_| global);
        let head_dim = wide.or_else(|| size(text, "head_dim"))?;
        let mut add = |name: &str, shape: &[usize]| add(&format!("model.layers.{l}.{name}"), shape);
        for norm in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
            add(&format!("{norm}_layernorm.weight"), &[hidden]);
        }
        add("self_attn.q_proj.weight", &[heads * head_dim, hidden]);
        add("self_attn.q_norm.weight", &[head_dim]);
        add("self_attn.o_proj.weight", &[hidden, heads * head_dim]);
        add("mlp.gate_proj.weight", &[ffn, hidden]);
        add("mlp.up_proj.weight", &[ffn, hidden]);
        add("mlp.down_proj.weight", &[hidden, ffn]);
        add("layer_scalar", &[1]);
    }
    Some(shapes)
}

/// The same of a DFlash drafter.
pub(crate) fn dflash_shapes(json: &Value) -> Option<BTreeMap<String, Vec<usize>>> {
    let (hidden, ffn) = (size(json, "hidden_size")?, size(json, "intermediate_size")?);
    let (head_dim, taps) =
        (size(json, "head_dim")?, json["dflash_config"]["target_layer_ids"].as_array()?.len());
    let q = size(json, "num_attention_heads")? * head_dim;
    let kv = size(json, "num_key_value_heads")? * head_dim;
    let mut shapes = BTreeMap::new();
    let mut add = |name: &str, shape: &[usize]| shapes.insert(format!("dflash.{name}"), shape.to_vec());
    add("fc.weight", &[hidden, taps * hidden]);
    add("hidden_norm.weight", &[hidden]);
    add("norm.weight", &[hidden]);
    for l in 0..size(json, "num_hidden_layers")? {
        let mut add = |name: &str, shape: &[usize]| add(&format!("layers.{l}.{name}"), shape);
        add("input_layernorm.weight", &[hidden]);
        add("post_attention_layernorm.weight", &[hidden]);
        add("self_attn.q_proj.weight", &[q, hidden]);
        add("self_attn.k_proj.weight", &[kv, hidden]);
        add("self_attn.v_proj.weight", &[kv, hidden]);
        add("self_attn.o_proj.weight", &[hidden, q]);
        add("self_attn.q_norm.weight", &[head_dim]);
        add("self_attn.k_norm.weight", &[head_dim]);
        add("mlp.gate_proj.weight", &[ffn, hidden]);
        add("mlp.up_proj.weight", &[ffn, hidden]);
        add("mlp.down_proj.weight", &[hidden, ffn]);
    }
    Some(shapes)
}
