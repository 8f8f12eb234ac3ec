//! Tensors of a file, whether or not the model uses them.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use gemma4_core::checkpoint::Checkpoint;
use gemma4_core::plan::Size;
use serde::Serialize;

/// All tensors in the order of the file.
#[derive(Debug)]
pub(super) struct List(Vec<Entry>);

#[derive(Debug, Serialize)]
pub(super) struct Entry {
    name: String,
    /// The slowest dimension first.
    shape: Vec<u64>,
    #[serde(rename = "type")]
    kind: String,
    bytes: u64,
}

/// All tensors of a type.
#[derive(Debug, Default, Serialize)]
pub(super) struct Total {
    #[serde(rename = "type")]
    kind: String,
    tensors: usize,
    values: u64,
    bytes: u64,
}

impl List {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        Self(match checkpoint {
            Checkpoint::Gguf(gguf) => {
                let entry = |tensor: &gemma4_core::gguf::TensorInfo| Entry {
                    name: tensor.name.clone(),
                    shape: tensor.dims.iter().rev().map(|&n| n as u64).collect(),
                    kind: tensor.type_name(),
                    bytes: tensor.bytes.len() as u64,
                };
                gguf.tensors().map(entry).collect()
            }
            Checkpoint::Folder(folder) => {
                let entry = |tensor: gemma4_core::hf::TensorInfo<'_>| Entry {
                    name: tensor.name.to_owned(),
                    shape: tensor.shape.iter().map(|&n| n as u64).collect(),
                    kind: tensor.dtype.to_string(),
                    bytes: tensor.bytes as u64,
                };
                folder.tensors().map(entry).collect()
            }
        })
    }

    pub(super) fn tensors(&self) -> &[Entry] {
        &self.0
    }

    /// Totals of each type, the largest first.
    pub(super) fn types(&self) -> Vec<Total> {
        let mut types = BTreeMap::<&str, Total>::new();
        for entry in &self.0 {
            let total = types.entry(&entry.kind).or_default();
            total.kind.clone_from(&entry.kind);
            total.tensors += 1;
            total.values += entry.shape.iter().product::<u64>();
            total.bytes += entry.bytes;
        }
        let mut types: Vec<Total> = types.into_values().collect();
        types.sort_by_key(|total| std::cmp::Reverse(total.bytes));
        types
    }

    pub(super) fn types_text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        writeln!(out, "{:<8} {:>7} {:>14} {:>10}", "type", "tensors", "values", "size")?;
        let types = self.types();
        for Total { kind, tensors, values, bytes } in &types {
            writeln!(out, "{kind:<8} {tensors:>7} {values:>14} {:>10}", Size(*bytes))?;
        }
        if types.len() > 1 {
            let (tensors, values, bytes) = types.iter().fold((0, 0, 0), |(tensors, values, bytes), total| {
                (tensors + total.tensors, values + total.values, bytes + total.bytes)
            });
            writeln!(out, "{:<8} {tensors:>7} {values:>14} {:>10}", "all", Size(bytes))?;
        }
        Ok(out + "\n")
    }

    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let width = self.0.iter().map(|entry| entry.name.len()).max().unwrap_or(0);
        writeln!(out, "{:<width$}  {:<8} {:>12}  shape", "name", "type", "bytes")?;
        for Entry { name, shape, kind, bytes } in &self.0 {
            writeln!(out, "{name:<width$}  {kind:<8} {bytes:>12}  {shape:?}")?;
        }
        Ok(out)
    }
}
