//! The CUDA C++ files, and what they are compiled as.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

macro_rules! files {
    ($($file:literal,)*) => {
        /// Names and texts of all files below `kernels/`.
        pub const FILES: &[(&str, &str)] =
            &[$(($file, include_str!(concat!("../../kernels/", $file)))),*];
    };
}

// Sorted; a test compares it with the folder.
files! {
    "add.cu",
    "attention.cu",
    "attention_any.cu",
    "attention_prefill.cu",
    "attn_prepare.cu",
    "bandwidth.cu",
    "centroid_head.cu",
    "centroid_head_choose.cu",
    "common/activation.cuh",
    "common/attend.cuh",
    "common/attend_chunks.cuh",
    "common/attend_columns.cuh",
    "common/attend_logits.cuh",
    "common/attend_own.cuh",
    "common/attend_work.cuh",
    "common/chain.cuh",
    "common/choose.cuh",
    "common/cluster.cuh",
    "common/copy.cuh",
    "common/glu.cuh",
    "common/gumbel.cuh",
    "common/half.cuh",
    "common/head.cuh",
    "common/heads.cuh",
    "common/kv_any.cuh",
    "common/kv_read.cuh",
    "common/kv_write.cuh",
    "common/lanes.cuh",
    "common/outputs.cuh",
    "common/pages.cuh",
    "common/prepare.cuh",
    "common/product.cuh",
    "common/product_feed.cuh",
    "common/product_sums.cuh",
    "common/raw.cuh",
    "common/reduce.cuh",
    "common/rotate.cuh",
    "common/row.cuh",
    "common/takes.cuh",
    "common/tiles.cuh",
    "common/weight_at.cuh",
    "common/weights.cuh",
    "dequantise.cu",
    "embed.cu",
    "gather_rows.cu",
    "gen/abi.cuh",
    "glu.cu",
    "halves.cu",
    "keep_rows.cu",
    "kv_append.cu",
    "linear.cu",
    "linear_glu.cu",
    "linear_tiles.cu",
    "moe_ffn.cu",
    "moe_tiles.cu",
    "norm_add.cu",
    "planes.cu",
    "ple_inputs.cu",
    "prepare.cu",
    "recall_rows.cu",
    "rms_norm.cu",
    "route.cu",
    "sample.cu",
    "softcap.cu",
}

/// The macro of `kernels/common/prepare.cuh`.
const VALUE_BYTES: &str = "VALUE_BYTES";

/// What becomes one binary: a file of `kernels/` with values for its macros.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit {
    /// File below `kernels/`, without `.cu`.
    pub file: &'static str,
    /// Macros and their values.
    pub defines: Vec<(&'static str, Cow<'static, str>)>,
}

impl Unit {
    /// A file without macros.
    #[must_use]
    pub fn new(file: &'static str) -> Self {
        Self { file, defines: Vec::new() }
    }

    /// With a value for a macro.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.defines.push((name, value.into()));
        self
    }

    /// With products that are exact to `f32`: where activations are prepared for them, with four bytes a value.
    #[must_use]
    pub fn exact(self) -> Self {
        let prepares = self.headers().iter().any(|(name, _)| *name == "common/prepare.cuh");
        if prepares { self.with(VALUE_BYTES, "4") } else { self }
    }

    /// Whether it is in a list, or the exact form of one that is.
    #[must_use]
    pub fn is_one_of(&self, listed: &[Self]) -> bool {
        let mut plain = self.clone();
        plain.defines.retain(|(name, _)| *name != VALUE_BYTES);
        listed.contains(&plain) && (*self == plain || *self == plain.exact())
    }

    /// Its own text.
    ///
    /// # Panics
    ///
    /// If there is no such file: a mistake of a lowering.
    #[must_use]
    pub fn text(&self) -> &'static str {
        let name = format!("{}.cu", self.file);
        text(&name).unwrap_or_else(|| panic!("kernels/{name} is listed in backend-cuda/src/kernels.rs"))
    }

    /// Names and texts of all files that it includes, by way of others too, in the order of their names.
    #[must_use]
    pub fn headers(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.text()];
        while let Some(source) = open.pop() {
            for name in includes(source) {
                if let Some((name, body)) = FILES.iter().find(|(file, _)| *file == name)
                    && found.insert(*name, *body).is_none()
                {
                    open.push(body);
                }
            }
        }
        found.into_iter().collect()
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.cu", self.file)?;
        self.defines.iter().try_for_each(|(name, value)| write!(f, " -D{name}={value}"))
    }
}

fn text(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(file, _)| *file == name).map(|(_, text)| *text)
}

/// Names between quotes behind `#include`.
fn includes(source: &str) -> impl Iterator<Item = &str> {
    source.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("#include")?.trim_start().strip_prefix('"')?;
        Some(rest.split_once('"')?.0)
    })
}

/// Everything that may be compiled, but for [exact](Unit::exact) forms: the units of all ops, and the one that measures
/// bandwidth.
#[must_use]
pub fn units() -> Vec<Unit> {
    let mut units = crate::lower::units();
    units.push(Unit::new(crate::bandwidth::FILE));
    units
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_is_listed_in_order() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels");
        let mut files = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "cu" || end == "cuh") {
                    files.push(path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/"));
                }
            }
        }
        files.sort();
        let listed: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed, files, "list every file of kernels/ in backend-cuda/src/kernels.rs");
    }

    #[test]
    fn every_unit_is_a_file_whose_includes_are_there() {
        let mut units = units();
        for unit in &units {
            let headers = unit.headers();
            let sources = headers.iter().map(|(_, body)| *body).chain([unit.text()]);
            for name in sources.flat_map(includes) {
                assert!(headers.iter().any(|(header, _)| *header == name), "{unit} includes {name}");
            }
        }
        let all = units.len();
        units.sort();
        units.dedup();
        assert_eq!(units.len(), all, "a unit is listed twice");
    }

    #[test]
    fn a_unit_is_named_as_on_a_command_line() {
        let unit = Unit::new("linear").with("WEIGHT", "Q4_K").with("ROWS", 8.to_string());
        assert_eq!(unit.to_string(), "linear.cu -DWEIGHT=Q4_K -DROWS=8");
    }

    #[test]
    fn exact_forms_are_listed_with_what_they_are_forms_of() {
        let [linear, sample] = ["linear", "sample"].map(Unit::new);
        let exact = linear.clone().exact();
        assert_eq!(exact.to_string(), "linear.cu -DVALUE_BYTES=4");
        assert_eq!(sample.clone().exact(), sample, "it prepares nothing");
        let listed = [linear.clone(), sample.clone()];
        assert!([&linear, &exact, &sample].iter().all(|unit| unit.is_one_of(&listed)));
        assert!(!exact.is_one_of(std::slice::from_ref(&sample)));
        assert!(!sample.with(VALUE_BYTES, "4").is_one_of(&listed), "no form of a unit");
    }
}
