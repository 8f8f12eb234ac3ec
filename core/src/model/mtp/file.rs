//! Files of MTP assistants: checkpoint folders, and GGUF files in the dialects of `llama.cpp` and of `AtomicChat`.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::error::ModelError;
use crate::gguf::Gguf;
use crate::hf;
use crate::model::config::gguf::GgufKeys;
use crate::model::config::json::JsonKeys;
use crate::model::config::keys::{Keys, sizes};
use crate::model::config::{Config, HIDDEN};
use crate::model::drafter::{need, shape_error};
use crate::model::weights::{Naming, WeightSource, Weights};
use crate::tensor::Tensor;

/// Clusters that are looked into where the file does not say.
const TOP_K: usize = 32;

/// An assistant as a file holds it, checked by itself but not yet against a target.
#[derive(Clone, Debug)]
pub struct MtpFile {
    /// File or folder.
    pub path: PathBuf,
    /// Hyper-parameters; no layer has keys and values of its own.
    pub config: Config,
    /// Width of the target's hidden states.
    pub backbone: usize,
    /// Drafts a round that its makers advise.
    pub advised: Option<usize>,
    /// What is worth telling a user about how the file was read.
    pub notes: Vec<String>,
    pub(super) weights: Weights,
    /// The columns of the projection that meet the embedding, and those that meet the hidden state.
    pub(super) pre: [Tensor; 2],
    pub(super) post: Tensor,
    pub(super) centroids: Option<CentroidTensors>,
}

/// What a head by clusters needs beside the embedding table.
#[derive(Clone, Debug)]
pub(super) struct CentroidTensors {
    pub(super) centroids: Tensor,
    pub(super) ordering: Tensor,
    pub(super) top_k: usize,
}

/// What a file says of its head.
struct Head {
    /// Whether it says that there are clusters; not every dialect does.
    ordered: Option<bool>,
    top_k: usize,
}

impl MtpFile {
    /// Reads a checkpoint folder: its `config.json` at `path`, and its weights.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key or tensor that is missing or wrong.
    pub fn from_json(path: &Path, text: &str, source: &dyn WeightSource) -> Result<Self, ModelError> {
        let object = hf::json::object(path, text)?;
        let whole = JsonKeys::new(path, &object);
        let text_config = match object.get("text_config") {
            Some(Json::Object(text_config)) => text_config.clone(),
            _ => return Err(whole.missing("text_config", "the assistant's own hyper-parameters")),
        };
        let inner = JsonKeys::new(path, &text_config);
        let layers = inner.size("num_hidden_layers", sizes(1..=1024))?;
        if let (Some(layers), Some(sharing)) = (layers, inner.size("num_kv_shared_layers", sizes(0..=1024))?)
            && layers != sharing
        {
            let expected = format!("{layers}, for all layers of an assistant read the target's cache");
            return Err(whole.bad("text_config.num_kv_shared_layers", sharing, expected));
        }
        let config = Config::from_json(path, &as_target(text_config).to_string())?;
        let backbone = whole.need_size("backbone_hidden_size", HIDDEN)?;
        let head = Head {
            ordered: whole.flag("use_ordered_embeddings")?,
            top_k: whole.size("centroid_intermediate_top_k", sizes(1..=1 << 22))?.unwrap_or(TOP_K),
        };
        Self::read(config, backbone, &head, source)
    }

    /// Reads a GGUF file whose keys begin with `architecture`.
    ///
    /// # Errors
    ///
    /// [`ModelError`] naming the key or tensor that is missing or wrong.
    pub fn from_gguf(gguf: &Gguf, architecture: &str) -> Result<Self, ModelError> {
        let config = Config::of_assistant(gguf, architecture)?;
        let keys = GgufKeys(gguf, architecture);
        let key = |name: &str| format!("gemma4.{name}");
        // The width shows in the projection too; a key that says something else is wrong about one of the two.
        let (_, post) = first(gguf, &POST)?;
        let rows = post.as_ref().map(|post| post.rows);
        let mut backbone = rows;
        for name in ["embedding_length_out", "n_embd_backbone"] {
            let Some(found) = keys.size(&key(name), HIDDEN)? else { continue };
            if let Some(rows) = rows.filter(|&rows| rows != found) {
                return Err(keys.bad(&key(name), found, format!("{rows}, the rows of the projection back")));
            }
            backbone = Some(found);
        }
        let backbone = backbone.ok_or_else(|| keys.missing(&key("embedding_length_out"), HIDDEN))?;
        let head = Head {
            ordered: keys.flag(&key("use_ordered_embeddings"))?,
            top_k: keys.size(&key("centroid_top_k"), sizes(1..=1 << 22))?.unwrap_or(TOP_K),
        };
        Self::read(config, backbone, &head, gguf)
    }

    /// Bytes of its weights as the file holds them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let layers = self.weights.layers.iter().flat_map(|layer| {
            [&layer.attn_q, &layer.attn_output, &layer.ffn_gate, &layer.ffn_up, &layer.ffn_down]
        });
        let own = [&self.weights.token_embd, &self.pre[0], &self.pre[1], &self.post];
        let head = self.centroids.iter().flat_map(|head| [&head.centroids, &head.ordering]);
        layers.chain(own).chain(head).map(|tensor| tensor.data.len() as u64).sum()
    }

    fn read(
        mut config: Config,
        backbone: usize,
        head: &Head,
        source: &dyn WeightSource,
    ) -> Result<Self, ModelError> {
        // Layers with a donor have no keys and values of their own to be looked for.
        config.layers.iter_mut().for_each(|layer| (layer.donor, layer.k_eq_v) = (Some(0), false));
        config.tied = true;
        let weights = Weights::load(&config, source)?;
        let hidden = config.hidden;
        let pre = need(source, &PRE.names(source), [1, hidden, 2 * backbone])?;
        let post = need(source, &POST.names(source), [1, backbone, hidden])?;
        let half = |name: &str, at: usize| {
            pre.columns(name, at..at + backbone)
                .ok_or_else(|| shape_error(source, &pre, [1, hidden, 2 * backbone]))
        };
        let pre = [half("pre_projection.embedding", 0)?, half("pre_projection.hidden", backbone)?];
        let mut notes = Vec::new();
        let centroids = if head.ordered == Some(false) {
            None
        } else {
            match centroids(&config, head, source)? {
                None => None,
                Some(Ok(head)) => Some(head),
                Some(Err(why)) => {
                    notes.push(format!(
                        "{}: its clusters of tokens cannot be used ({why}); all tokens are looked at instead",
                        source.path().display()
                    ));
                    None
                }
            }
        };
        let path = source.path().to_owned();
        Ok(Self { path, config, backbone, advised: None, notes, weights, pre, post, centroids })
    }
}

/// Names of a tensor outside of the layers.
struct Names {
    gguf: &'static [&'static str],
    hf: &'static str,
}

const PRE: Names = Names {
    gguf: &["nextn.pre_projection.weight", "mtp.pre_projection.weight"],
    hf: "pre_projection.weight",
};
const POST: Names = Names {
    gguf: &["nextn.post_projection.weight", "mtp.post_projection.weight"],
    hf: "post_projection.weight",
};
const CENTROIDS: Names = Names {
    gguf: &["masked_embd_centroids.weight", "mtp.centroids.weight"],
    hf: "masked_embedding.centroids.weight",
};
const ORDERING: Names = Names {
    gguf: &["masked_embd_ordering", "masked_embd_ordering.weight", "mtp.token_ordering.weight"],
    hf: "masked_embedding.token_ordering",
};

impl Names {
    fn names(&self, source: &dyn WeightSource) -> Vec<String> {
        match source.naming() {
            Naming::Gguf => self.gguf.iter().map(|&name| name.to_owned()).collect(),
            // They are beside the inner model, whose names begin with "model.".
            Naming::Hf { prefix } => {
                let outer = prefix.strip_suffix("model.").unwrap_or(&prefix);
                vec![format!("{outer}{}", self.hf)]
            }
        }
    }
}

fn first(source: &dyn WeightSource, names: &Names) -> Result<(String, Option<Tensor>), ModelError> {
    let names = names.names(source);
    for name in &names {
        if let Some(tensor) = source.load(name)? {
            return Ok((name.clone(), Some(tensor)));
        }
    }
    Ok((names.into_iter().next().unwrap_or_default(), None))
}

/// The clusters, if there are any; why they cannot be used, if they cannot: then all tokens are looked at.
fn centroids(
    config: &Config,
    head: &Head,
    source: &dyn WeightSource,
) -> Result<Option<Result<CentroidTensors, String>>, ModelError> {
    let (name, Some(centroids)) = first(source, &CENTROIDS)? else { return Ok(None) };
    let mut ordering = None;
    for name in ORDERING.names(source) {
        ordering = ordering.or(source.ids(&name)?);
    }
    let Some(ordering) = ordering else { return Ok(None) };
    Ok(Some(clusters(config.vocab, config.hidden, head.top_k, &centroids, &ordering).map(|ordering| {
        let centroids = Tensor { name, ..centroids };
        CentroidTensors { centroids, ordering, top_k: head.top_k }
    })))
}

/// The ordering as a tensor, or what is wrong with the clusters.
fn clusters(
    vocab: usize,
    hidden: usize,
    top_k: usize,
    centroids: &Tensor,
    ordering: &[i64],
) -> Result<Tensor, String> {
    let count = centroids.rows;
    if centroids.cols != hidden || centroids.experts != 1 {
        return Err(format!("centroids of {} values, expected {hidden}", centroids.cols));
    }
    if count == 0 || !vocab.is_multiple_of(count) {
        return Err(format!("{vocab} tokens do not fill {count} clusters"));
    }
    if top_k > count {
        return Err(format!("{top_k} of {count} clusters are to be looked into"));
    }
    if ordering.len() != vocab {
        return Err(format!("an ordering of {} tokens, expected {vocab}", ordering.len()));
    }
    let mut seen = vec![false; vocab];
    let mut ids = Vec::with_capacity(vocab);
    for &id in ordering {
        let place = usize::try_from(id).ok().and_then(|id| seen.get_mut(id));
        match place {
            Some(seen) if !*seen => *seen = true,
            Some(_) => return Err(format!("token {id} is ordered twice")),
            None => return Err(format!("token {id} is not among {vocab}")),
        }
        #[expect(clippy::cast_precision_loss, reason = "a vocabulary has at most 2^22 tokens")]
        ids.push(id as f32);
    }
    Ok(Tensor::vector("token_ordering", &ids))
}

/// An assistant's own configuration as that of a model whose layers own their caches, to be read like one.
fn as_target(mut text_config: Map<String, Json>) -> Json {
    for key in ["num_kv_shared_layers", "hidden_size_per_layer_input"] {
        text_config.insert(key.to_owned(), 0.into());
    }
    text_config.insert("model_type".to_owned(), "gemma4_text".into());
    text_config.remove("enable_moe_block");
    json!({ "model_type": "gemma4", "text_config": text_config })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{Bytes, DType};

    fn centroids(count: usize, hidden: usize) -> Tensor {
        let bytes = Bytes::from_owner(vec![0u8; count * hidden * 4]);
        Tensor::new("centroids", DType::F32, [1, count, hidden], bytes).expect("the bytes of the shape")
    }

    #[test]
    fn s14_clusters_that_make_no_sense_are_refused() {
        let good: Vec<i64> = (0..16).map(|i| i * 5 % 16).collect();
        assert!(clusters(16, 32, 2, &centroids(4, 32), &good).is_ok());
        let mut twice = good.clone();
        twice[3] = twice[4];
        let mut outside = good.clone();
        outside[7] = 16;
        let mut negative = good.clone();
        negative[7] = -1;
        for (count, top_k, ordering, part) in [
            (5, 2, &good, "do not fill 5 clusters"),
            (4, 5, &good, "5 of 4 clusters"),
            (4, 2, &twice, "ordered twice"),
            (4, 2, &outside, "token 16 is not among"),
            (4, 2, &negative, "token -1 is not among"),
            (4, 2, &vec![0; 16], "token 0 is ordered twice"),
            (4, 2, &good[..15].to_vec(), "an ordering of 15"),
        ] {
            let why = clusters(16, 32, top_k, &centroids(count, 32), ordering).expect_err(part);
            assert!(why.contains(part), "{why}");
        }
    }
}
