//! Bytes of the KV cache, and of everything else in memory.

use std::fmt::Write as _;

use gemma4_core::cache::CacheError;
use gemma4_core::engine::{CHUNK, Options};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::{Config, Span};
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::plan::{self, MemoryPlan, Size};
use serde::Serialize;
use serde_json::{Value, json};

use crate::failure::Failure;

/// Contexts whose totals are shown, in tokens.
const CONTEXTS: [usize; 3] = [8 << 10, 64 << 10, 256 << 10];

/// The cache of one sequence with one type for keys and values.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Bytes that a token takes in all local layers, as long as it is in the ring.
    local_token: u64,
    /// Bytes that a token takes in all global layers.
    global_token: u64,
    totals: Vec<Total>,
}

#[derive(Debug, Serialize)]
struct Total {
    /// Tokens.
    context: usize,
    /// Bytes of the rings of local layers.
    local: u64,
    /// Bytes of global layers.
    global: u64,
}

/// One row for each type that fills the heads of the model. Contexts are cut to the model's own.
pub(super) fn rows(config: &Config) -> Result<Vec<Row>, CacheError> {
    let mut contexts = CONTEXTS.map(|context| context.min(config.max_context)).to_vec();
    contexts.dedup();
    let mut rows = Vec::new();
    for kind in KvType::ALL {
        let types = KvTypes { k: kind, v: kind };
        let token = |span| plan::token_bytes(config, span, types);
        let (Some(local_token), Some(global_token)) = (token(Span::Local), token(Span::Global)) else {
            continue;
        };
        let total = |&context: &usize| {
            let options = Options {
                context,
                sequences: 1,
                kv_local: types,
                kv_global: types,
                chunk: CHUNK,
                snapshots: 0,
                pool: None,
            };
            let [local, global] = plan::cache_bytes(config, &options)?;
            Ok(Total { context, local, global })
        };
        let totals = contexts.iter().map(total).collect::<Result<_, CacheError>>()?;
        rows.push(Row { kind: kind.name(), local_token, global_token, totals });
    }
    Ok(rows)
}

pub(super) fn text(config: &Config) -> Result<String, Failure> {
    let rows = rows(config)?;
    let mut out = String::new();
    write!(out, "{:<8} {:>17}", "KV cache", "a token")?;
    let contexts = rows.first().map_or(&[][..], |row| &row.totals);
    for Total { context, .. } in contexts {
        write!(out, "   {:>23}", format!("{context} tokens"))?;
    }
    writeln!(out)?;
    write!(out, "{:<8} {:>8} {:>8}", "", "local", "global")?;
    for _ in contexts {
        write!(out, "   {:>11} {:>11}", "local ring", "global")?;
    }
    writeln!(out)?;
    for Row { kind, local_token, global_token, totals } in &rows {
        write!(out, "{kind:<8} {local_token:>8} {global_token:>8}")?;
        for Total { local, global, .. } in totals {
            write!(out, "   {:>11} {:>11}", Size(*local), Size(*global))?;
        }
        writeln!(out)?;
    }
    if CONTEXTS.iter().any(|&context| context > config.max_context) {
        writeln!(out, "(totals stop at {} tokens, the model's own context)", config.max_context)?;
    }
    Ok(out + "\n")
}

pub(super) fn memory_text(plan: &MemoryPlan, options: &Options) -> Result<String, Failure> {
    let mut out = String::new();
    let Options { context, sequences, snapshots, .. } = *options;
    writeln!(
        out,
        "memory on the cpu backend: context {context}, sequences {sequences}, turns to come back to {snapshots}"
    )?;
    let lines = [
        ("cache of local layers", plan.kv_local, options.kv_local.to_string()),
        ("cache of global layers", plan.kv_global, options.kv_global.to_string()),
        ("scratch", plan.scratch, "activations of all plans".to_owned()),
        ("decoded", plan.decoded, "one layer's cache as f32, while a step reads it".to_owned()),
        ("needed", plan.total(), String::new()),
        (
            "weights",
            plan.weights,
            "mapped: they stay in the file, and memory holds as much of them as is free".to_owned(),
        ),
    ];
    for (what, bytes, note) in lines {
        writeln!(out, "{}", format!("{what:<23} {:>10}  {note}", Size(bytes)).trim_end())?;
    }
    Ok(out)
}

pub(super) fn memory_json(plan: &MemoryPlan, options: &Options) -> Value {
    json!({
        "context": options.context,
        "sequences": options.sequences,
        "snapshots": options.snapshots,
        "kv": options.kv_global.to_string(),
        "kv_local": options.kv_local.to_string(),
        "kv_local_bytes": plan.kv_local,
        "kv_global_bytes": plan.kv_global,
        "scratch_bytes": plan.scratch,
        "decoded_bytes": plan.decoded,
        "needed_bytes": plan.total(),
        "weights_bytes": plan.weights,
        "weights_mapped": true,
    })
}
