//! Weights that any program regenerates from a tensor's name, so that golden models store none.
//!
//! With `base = FNV-1a-64(name + "#" + seed)`, element `i` (row-major, from 0) is
//! `u = (splitmix64(base + (i + 1) · golden) >> 40) / 2^23 - 1`, in `[-1, 1)`; the name's end decides what `u`
//! becomes. All arithmetic on values is in `f32`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gemma4_core::error::ModelError;
use gemma4_core::model::weights::{Naming, WeightSource};
use gemma4_core::tensor::{Bytes, DType, Tensor};

/// The 64-bit FNV-1a hash.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// Uniform numbers in `[-1, 1)`, without end.
fn uniform(name: &str, seed: u64) -> impl Iterator<Item = f32> {
    let base = fnv1a(&format!("{name}#{seed}"));
    (1u64..).map(move |i| {
        let mut x = base.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^= x >> 31;
        (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
}

/// The values of tensor `name` of shape `shape` (slowest dimension first), for a target or an assistant.
///
/// Names of DFlash drafters start with `dflash.`; `token_ordering` is an integer tensor and not made here.
#[must_use]
pub fn values(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let len = shape.iter().product();
    let u = uniform(name, seed).take(len);
    let norm = |scale: f32| move |u: f32| scale * (1.0 + 0.3 * u);
    if name.ends_with("layer_scalar") {
        u.map(|u| 0.75 + 0.25 * u).collect()
    } else if (name.ends_with("q_norm.weight") || name.ends_with("k_norm.weight"))
        && !name.starts_with("dflash.")
    {
        // Keeps attention soft, as trained weights do.
        u.map(norm(0.3)).collect()
    } else if name.ends_with("norm.weight")
        || name.contains("layernorm")
        || name.ends_with("router.scale")
        || name.ends_with("per_expert_scale")
    {
        u.map(norm(1.0)).collect()
    } else if name.ends_with("router.proj.weight") {
        u.map(|u| 3.0 * u).collect()
    } else {
        let last = shape.last().copied().unwrap_or(1);
        #[expect(clippy::cast_possible_truncation, reason = "the recipe rounds the square root to f32")]
        let scale = (3.0 / last as f64).sqrt() as f32;
        u.map(|u| u * scale).collect()
    }
}

/// Weights made from names.
#[derive(Debug)]
pub struct Procedural {
    path: PathBuf,
    shapes: BTreeMap<String, Vec<usize>>,
    seed: u64,
}

impl Procedural {
    /// Tensors of these names and shapes (slowest dimension first); `path` is for errors.
    #[must_use]
    pub fn new(path: &Path, shapes: BTreeMap<String, Vec<usize>>, seed: u64) -> Self {
        Self { path: path.to_owned(), shapes, seed }
    }
}

impl WeightSource for Procedural {
    fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(shape) = self.shapes.get(name) else {
            return Ok(None);
        };
        let full = match shape[..] {
            [cols] => [1, 1, cols],
            [rows, cols] => [1, rows, cols],
            [experts, rows, cols] => [experts, rows, cols],
            _ => return Ok(None),
        };
        let values = values(name, shape, self.seed);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(Tensor::new(name, DType::F32, full, Bytes::from_owner(bytes)))
    }

    fn ids(&self, name: &str) -> Result<Option<Vec<i64>>, ModelError> {
        let len = self.shapes.get(name).map(|shape| shape.iter().product::<usize>());
        Ok(len.filter(|_| name.ends_with("token_ordering")).map(|len| {
            let len = i64::try_from(len).unwrap_or(i64::MAX);
            (0..len).map(|i| i * 389 % len).collect()
        }))
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn naming(&self) -> Naming {
        let suffix = "embed_tokens.weight";
        let prefix = self.shapes.keys().find_map(|name| name.strip_suffix(suffix)).unwrap_or("model.");
        Naming::Hf { prefix: prefix.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_numbers_are_those_of_the_recipe() {
        assert_eq!(fnv1a("model.embed_tokens.weight#1"), 0xe632_dc1c_2b7c_9a9a);
        let u: Vec<f32> = uniform("model.embed_tokens.weight", 1).take(4).collect();
        for (got, want) in u.iter().zip([-0.430_060_27f32, 0.691_289_07, 0.166_386_01, -0.177_819_01]) {
            assert!((got - want).abs() < 1e-7, "{got} against {want}");
        }
    }
}
