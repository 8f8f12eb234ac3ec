//! `gemma4 quantize`: a drafter's checkpoint folder as a GGUF file.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use gemma4_core::gguf::TensorInfo;
use gemma4_core::gguf::write::Writer;
use gemma4_core::hf::Folder;
use gemma4_core::model::config::Span;
use gemma4_core::model::dflash::DFlashConfig;
use gemma4_core::model::drafter::{DraftFile, OpenDraft};
use gemma4_core::model::mtp::MtpFile;
use gemma4_core::model::weights::WeightSource;
use gemma4_core::ops::glu::Activation;
use gemma4_core::quant;
use gemma4_core::tensor::{Bytes, DType, Tensor};

use crate::failure::Failure;

const EXAMPLES: &str = "\
Norms and scales stay F32; a matrix whose rows blocks do not fill becomes F16. An assistant is written as
llama.cpp's `gemma4-assistant`, a DFlash drafter as lucebox's `gemma4-dflash-draft`.

Examples:
  gemma4 quantize gemma-4-31B-it-DFlash gemma-4-31B-it-DFlash-Q8_0.gguf
  gemma4 quantize --type q4_0 gemma-4-31B-it-assistant assistant-Q4_0.gguf";

/// Write a drafter's checkpoint folder as a smaller GGUF file
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct QuantizeArgs {
    /// The folder: config.json and safetensors of an MTP assistant or a DFlash drafter
    folder: PathBuf,
    /// The file to write
    file: PathBuf,
    /// Type of the matrices
    #[arg(long = "type", value_enum, default_value_t = Type::Q8_0)]
    kind: Type,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

/// Types that matrices can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    /// 8 bits, 8.5 with scales
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, 4.5 with scales
    #[value(name = "q4_0")]
    Q4_0,
    /// 16 bits, as in the checkpoint
    #[value(name = "bf16")]
    BF16,
}

/// What can go wrong beside the drafter.
#[derive(Debug, thiserror::Error)]
enum QuantizeError {
    /// The file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is there already.
    #[error("{0} is there already; --force writes over it")]
    Exists(PathBuf),
    /// A tensor that the drafter was found to have is gone.
    #[error("{path}: tensor `{tensor}` cannot be read again")]
    Gone {
        /// The folder.
        path: PathBuf,
        /// The tensor.
        tensor: String,
    },
}

pub(crate) fn run(args: &QuantizeArgs) -> Result<ExitCode, Failure> {
    if !args.force && args.file.exists() {
        return Err(QuantizeError::Exists(args.file.clone()).into());
    }
    // Reading it as a drafter checks every tensor that is going to be written.
    let folder = Folder::open(&args.folder)?;
    let open = OpenDraft::from_folder(&folder)?;
    let dtype = match args.kind {
        Type::Q8_0 => DType::Q8_0,
        Type::Q4_0 => DType::Q4_0,
        Type::BF16 => DType::BF16,
    };
    let (writer, tensors) = match &open.file {
        DraftFile::Mtp(file) => assistant(file, &folder, dtype)?,
        DraftFile::DFlash(file) => dflash(&file.config, &folder, dtype)?,
    };
    write(&args.file, &writer, &tensors)
        .map_err(|source| QuantizeError::Write { path: args.file.clone(), source })?;
    let bytes: usize = tensors.iter().map(|tensor| tensor.bytes.len()).sum();
    let line = format!("{}: {} tensors, {:.1} MB\n", args.file.display(), tensors.len(), bytes as f64 * 1e-6);
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// A tensor of the file to be.
struct Out {
    info: TensorInfo,
    bytes: Vec<u8>,
}

fn write(path: &Path, writer: &Writer, tensors: &[Out]) -> std::io::Result<()> {
    // Under another name first: who reads it must not find half a file.
    let part = path.with_extension("gguf.part");
    let mut writer = writer.clone();
    for tensor in tensors {
        writer.copy(&tensor.info)?;
    }
    let mut out = writer.start(BufWriter::new(File::create(&part)?))?;
    for tensor in tensors {
        out.write(&tensor.bytes)?;
    }
    out.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&part, path)
}

/// A tensor in the type that it is written in.
fn encode(name: &str, tensor: &Tensor, dtype: DType) -> Out {
    let fits = dtype.row_bytes(tensor.cols).is_some();
    let dtype = match (tensor.rows > 1, fits) {
        (false, _) => DType::F32,
        (true, true) => dtype,
        (true, false) => DType::F16,
    };
    let row_bytes = dtype.row_bytes(tensor.cols).unwrap_or(0);
    let mut values = vec![0.0f32; tensor.cols];
    let mut bytes = vec![0u8; row_bytes * tensor.rows];
    for (row, out) in bytes.chunks_exact_mut(row_bytes.max(1)).enumerate() {
        quant::decode(tensor.dtype, tensor.row(0, row), &mut values);
        quant::encode(dtype, &values, out).expect("a type that can be written");
    }
    let dims = if tensor.rows > 1 { vec![tensor.cols, tensor.rows] } else { vec![tensor.cols] };
    Out { info: info(name, dtype.ggml(), dims, bytes.len()), bytes }
}

/// GGUF's number of 32-bit integers.
const I32: u32 = 26;

fn info(name: &str, ggml_type: u32, dims: Vec<usize>, len: usize) -> TensorInfo {
    // Only the length of the bytes is looked at.
    let bytes = Bytes::from_owner(vec![0u8; len]);
    TensorInfo { name: name.to_owned(), ggml_type, dims, bytes, file: Arc::from(Path::new("")) }
}

/// What is written of a drafter: metadata, and the tensors in order.
type Drafter = (Writer, Vec<Out>);

/// The tensors of a folder under the names of a GGUF file; `optional` ones may be missing.
struct Renamed<'a> {
    folder: &'a Folder,
    dtype: DType,
    out: Vec<Out>,
}

impl Renamed<'_> {
    fn find(&self, names: &[String]) -> Result<Option<Tensor>, Failure> {
        for name in names {
            if let Some(tensor) = self.folder.load(name)? {
                return Ok(Some(tensor));
            }
        }
        Ok(None)
    }

    fn add(&mut self, gguf: &str, names: &[String]) -> Result<(), Failure> {
        let Some(tensor) = self.find(names)? else {
            let tensor = names.first().cloned().unwrap_or_default();
            return Err(QuantizeError::Gone { path: self.folder.path().to_owned(), tensor }.into());
        };
        self.out.push(encode(gguf, &tensor, self.dtype));
        Ok(())
    }
}

/// Names of layers that both kinds of drafters have.
const LAYER: [(&str, &str); 8] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("post_attention_norm.weight", "post_attention_layernorm.weight"),
];

/// Sizes of a model fit 32 bits: they were checked.
fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn assistant(file: &MtpFile, folder: &Folder, dtype: DType) -> Result<Drafter, Failure> {
    const ARCHITECTURE: &str = "gemma4-assistant";
    let config = &file.config;
    let mut writer = Writer::new();
    let key = |name: &str| format!("{ARCHITECTURE}.{name}");
    let dim =
        |span| config.layers.iter().find(|layer| layer.span == span).map_or(0, |layer| small(layer.head_dim));
    let kv_heads: Vec<u32> = config.layers.iter().map(|layer| small(layer.kv_heads)).collect();
    let pattern: Vec<bool> = config.layers.iter().map(|layer| layer.span == Span::Local).collect();
    writer
        .set("general.architecture", ARCHITECTURE)
        .set(&key("block_count"), small(config.layers.len()))
        .set(&key("context_length"), small(config.max_context))
        .set(&key("embedding_length"), small(config.hidden))
        .set(&key("embedding_length_out"), small(file.backbone))
        .set(&key("nextn_predict_layers"), small(config.layers.len()))
        .set(&key("feed_forward_length"), small(config.layers[0].ffn))
        .set(&key("attention.head_count"), small(config.heads))
        .set(&key("attention.head_count_kv"), &kv_heads[..])
        .set(&key("attention.key_length"), dim(Span::Global))
        .set(&key("attention.value_length"), dim(Span::Global))
        .set(&key("attention.key_length_swa"), dim(Span::Local))
        .set(&key("attention.value_length_swa"), dim(Span::Local))
        .set(&key("attention.sliding_window"), small(config.window))
        .set(&key("attention.sliding_window_pattern"), &pattern[..])
        .set(&key("attention.shared_kv_layers"), small(config.layers.len()))
        .set(&key("attention.layer_norm_rms_epsilon"), config.rms_eps)
        .set(&key("rope.freq_base"), config.rope_global.theta)
        .set(&key("rope.freq_base_swa"), config.rope_local.theta)
        .set(&key("rope.dimension_count"), dim(Span::Global))
        .set(&key("rope.dimension_count_swa"), dim(Span::Local));
    let prefix = folder.prefix().unwrap_or("model.").to_owned();
    let outer = prefix.strip_suffix("model.").unwrap_or(&prefix).to_owned();
    let mut tensors = Renamed { folder, dtype, out: Vec::new() };
    tensors.add("nextn.pre_projection.weight", &[format!("{outer}pre_projection.weight")])?;
    tensors.add("nextn.post_projection.weight", &[format!("{outer}post_projection.weight")])?;
    tensors.add("token_embd.weight", &[format!("{prefix}embed_tokens.weight")])?;
    tensors.add("output_norm.weight", &[format!("{prefix}norm.weight")])?;
    for l in 0..config.layers.len() {
        let own = [
            ("ffn_norm.weight", "pre_feedforward_layernorm.weight"),
            ("post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
        ];
        for (gguf, hf) in LAYER.into_iter().chain(own) {
            tensors.add(&format!("blk.{l}.{gguf}"), &[format!("{prefix}layers.{l}.{hf}")])?;
        }
        if let Some(scalar) = tensors.find(&[format!("{prefix}layers.{l}.layer_scalar")])? {
            tensors.out.push(encode(&format!("blk.{l}.layer_output_scale.weight"), &scalar, dtype));
        }
    }
    let factors = match &config.rope_global.factors[..] {
        [] => vec![1.0; dim(Span::Global) as usize / 2],
        factors => factors.to_vec(),
    };
    tensors.out.push(encode("rope_freqs.weight", &Tensor::vector("rope_freqs.weight", &factors), dtype));
    let centroids = format!("{outer}masked_embedding.centroids.weight");
    let ordering = folder.ids(&format!("{outer}masked_embedding.token_ordering"))?;
    if let (Some(centroids), Some(ids)) = (tensors.find(&[centroids])?, ordering) {
        tensors.out.push(encode("masked_embd_centroids.weight", &centroids, dtype));
        let bytes: Vec<u8> =
            ids.iter().flat_map(|&id| i32::try_from(id).unwrap_or(-1).to_le_bytes()).collect();
        let info = info("masked_embd_ordering", I32, vec![ids.len()], bytes.len());
        tensors.out.push(Out { info, bytes });
    }
    Ok((writer, tensors.out))
}

fn dflash(config: &DFlashConfig, folder: &Folder, dtype: DType) -> Result<Drafter, Failure> {
    const ARCHITECTURE: &str = "gemma4-dflash-draft";
    let mut writer = Writer::new();
    let key = |name: &str| format!("{ARCHITECTURE}.{name}");
    let taps: Vec<u32> = config.taps.iter().map(|&tap| small(tap)).collect();
    let pattern: Vec<bool> = config.layers.iter().map(|&span| span == Span::Local).collect();
    writer
        .set("general.architecture", ARCHITECTURE)
        .set(&key("block_count"), small(config.layers.len()))
        .set(&key("embedding_length"), small(config.hidden))
        .set(&key("feed_forward_length"), small(config.ffn))
        .set(&key("attention.head_count"), small(config.heads))
        .set(&key("attention.head_count_kv"), small(config.kv_heads))
        .set(&key("attention.key_length"), small(config.head_dim))
        .set(&key("attention.value_length"), small(config.head_dim))
        .set(&key("attention.layer_norm_rms_epsilon"), config.rms_eps)
        .set(&key("rope.freq_base"), config.theta)
        .set(&key("dflash.block_size"), small(config.block))
        .set(&key("dflash.mask_token_id"), config.mask_token)
        .set(&key("dflash.target_layer_ids"), &taps[..]);
    if config.layers.contains(&Span::Local) {
        writer
            .set(&key("attention.sliding_window"), small(config.window))
            .set(&key("attention.sliding_window_pattern"), &pattern[..]);
    }
    for (name, value) in [("vocab_size", config.vocab), ("dflash.n_target_layers", config.target_layers)] {
        if let Some(value) = value {
            writer.set(&key(name), small(value));
        }
    }
    for (name, value) in
        [("final_logit_softcapping", config.softcap), ("embedding_scale", config.embedding_scale)]
    {
        if let Some(value) = value {
            writer.set(&key(name), value);
        }
    }
    if let Some(causal) = config.causal {
        writer.set(&key("attention.causal"), causal);
    }
    if config.activation == Activation::GeluTanh {
        writer.set(&key("hidden_activation"), "gelu_pytorch_tanh");
    }
    let mut tensors = Renamed { folder, dtype, out: Vec::new() };
    let names = |name: &str| [name.to_owned(), format!("model.{name}")];
    tensors.add("dflash.fc.weight", &names("fc.weight"))?;
    tensors.add("dflash.hidden_norm.weight", &names("hidden_norm.weight"))?;
    tensors.add("output_norm.weight", &names("norm.weight"))?;
    for l in 0..config.layers.len() {
        let own = [
            ("attn_k.weight", "self_attn.k_proj.weight"),
            ("attn_k_norm.weight", "self_attn.k_norm.weight"),
            ("attn_v.weight", "self_attn.v_proj.weight"),
        ];
        for (gguf, hf) in LAYER.into_iter().chain(own) {
            // Here this norm stands before the feed-forward branch.
            let gguf = if gguf == "post_attention_norm.weight" { "ffn_norm.weight" } else { gguf };
            tensors.add(&format!("blk.{l}.{gguf}"), &names(&format!("layers.{l}.{hf}")))?;
        }
    }
    Ok((writer, tensors.out))
}
