//! Hyper-parameters.

use std::fmt::{self, Write as _};

use gemma4_core::model::config::{Config, LayerConfig, Rope, Span};
use serde_json::{Value, json};

/// Consecutive layers that are alike, sharing included.
fn runs(config: &Config) -> impl Iterator<Item = (usize, &[LayerConfig])> {
    let mut first = 0;
    config.layers.chunk_by(|a, b| a == b).map(move |run| {
        let start = first;
        first += run.len();
        (start, run)
    })
}

fn span(span: Span) -> &'static str {
    match span {
        Span::Local => "local",
        Span::Global => "global",
    }
}

/// Pairs of a head that rotate, of all pairs.
fn rotating(rope: &Rope, head_dim: usize) -> (usize, usize) {
    let still = rope.factors.iter().filter(|&&f| f >= gemma4_core::model::config::NO_ROTATION).count();
    (head_dim / 2 - still.min(head_dim / 2), head_dim / 2)
}

fn head_dim(config: &Config, of: Span) -> usize {
    config.layers.iter().find(|layer| layer.span == of).map_or(0, |layer| layer.head_dim)
}

pub(super) fn text(config: &Config) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let count = |of| config.layers.iter().filter(|layer| layer.span == of).count();
    let sharing = config.layers.iter().filter(|layer| layer.donor.is_some()).count();
    writeln!(
        out,
        "layers       {} ({} local, {} global)",
        config.layers.len(),
        count(Span::Local),
        count(Span::Global)
    )?;
    if sharing > 0 {
        writeln!(out, "sharing      the last {sharing} layers read the keys and values of earlier ones")?;
    }
    writeln!(out, "hidden       {}", config.hidden)?;
    writeln!(
        out,
        "vocabulary   {} tokens, {} output",
        config.vocab,
        if config.tied { "tied" } else { "separate" }
    )?;
    writeln!(out, "context      {} tokens", config.max_context)?;
    writeln!(out, "window       {} tokens in local layers", config.window)?;
    for (name, rope, of) in
        [("local", &config.rope_local, Span::Local), ("global", &config.rope_global, Span::Global)]
    {
        let (rotating, pairs) = rotating(rope, head_dim(config, of));
        writeln!(out, "rope {name:<7} base {}, {rotating} of {pairs} pairs rotate", rope.theta)?;
    }
    if let Some(moe) = config.moe {
        writeln!(out, "experts      {} of width {}, {} a token", moe.experts, moe.ffn, moe.top_k)?;
    }
    if let Some(width) = config.ple {
        writeln!(out, "per layer    embeddings of width {width}")?;
    }
    let cap = config.final_softcap.map_or_else(|| "none".to_owned(), |cap| cap.to_string());
    writeln!(out, "soft-cap     {cap}")?;
    writeln!(out, "norm eps     {:e}", config.rms_eps)?;
    if !config.suppress.is_empty() {
        writeln!(out, "suppressed   {} tokens", config.suppress.len())?;
    }
    writeln!(
        out,
        "\n{:<8} {:<7} {:>5} {:>8} {:>5} {:>7}  keys and values",
        "layers", "span", "heads", "kv heads", "width", "ffn"
    )?;
    for (first, run) in runs(config) {
        let layer = &run[0];
        let last = first + run.len() - 1;
        let name = if first == last { first.to_string() } else { format!("{first}-{last}") };
        let own = match layer.donor {
            Some(donor) => format!("of layer {donor}"),
            None if layer.k_eq_v => "values are keys".to_owned(),
            None => "own".to_owned(),
        };
        let LayerConfig { kv_heads, head_dim, ffn, .. } = *layer;
        let span = span(layer.span);
        writeln!(out, "{name:<8} {span:<7} {:>5} {kv_heads:>8} {head_dim:>5} {ffn:>7}  {own}", config.heads)?;
    }
    Ok(out + "\n")
}

pub(super) fn json(config: &Config) -> Value {
    let rope = |rope: &Rope, of| {
        let (rotating, pairs) = rotating(rope, head_dim(config, of));
        json!({ "theta": rope.theta, "rotating_pairs": rotating, "pairs": pairs })
    };
    let layers: Vec<Value> = config
        .layers
        .iter()
        .map(|layer| {
            json!({
                "span": span(layer.span),
                "head_dim": layer.head_dim,
                "kv_heads": layer.kv_heads,
                "ffn": layer.ffn,
                "donor": layer.donor,
                "k_eq_v": layer.k_eq_v,
            })
        })
        .collect();
    json!({
        "hidden": config.hidden,
        "vocab": config.vocab,
        "heads": config.heads,
        "max_context": config.max_context,
        "window": config.window,
        "rms_eps": config.rms_eps,
        "final_softcap": config.final_softcap,
        "rope_local": rope(&config.rope_local, Span::Local),
        "rope_global": rope(&config.rope_global, Span::Global),
        "ple": config.ple,
        "moe": config.moe.map(|moe| json!({ "experts": moe.experts, "top_k": moe.top_k, "ffn": moe.ffn })),
        "suppress": config.suppress,
        "tied": config.tied,
        "layers": layers,
    })
}
