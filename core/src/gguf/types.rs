//! Every tensor type of GGUF (`ggml_type`), those this program computes with and those it only names.

/// A type: its number, GGUF's name, and values and bytes a block.
struct Row {
    id: u32,
    name: &'static str,
    /// `None` for types that GGUF no longer has.
    block: Option<(usize, usize)>,
}

const fn row(id: u32, name: &'static str, values: usize, bytes: usize) -> Row {
    Row { id, name, block: Some((values, bytes)) }
}

const fn withdrawn(id: u32, name: &'static str) -> Row {
    Row { id, name, block: None }
}

/// `ggml.h`, `enum ggml_type`, and the block structures of `ggml-common.h`.
const ROWS: [Row; 43] = [
    row(0, "F32", 1, 4),
    row(1, "F16", 1, 2),
    row(2, "Q4_0", 32, 18),
    row(3, "Q4_1", 32, 20),
    withdrawn(4, "Q4_2"),
    withdrawn(5, "Q4_3"),
    row(6, "Q5_0", 32, 22),
    row(7, "Q5_1", 32, 24),
    row(8, "Q8_0", 32, 34),
    row(9, "Q8_1", 32, 36),
    row(10, "Q2_K", 256, 84),
    row(11, "Q3_K", 256, 110),
    row(12, "Q4_K", 256, 144),
    row(13, "Q5_K", 256, 176),
    row(14, "Q6_K", 256, 210),
    row(15, "Q8_K", 256, 292),
    row(16, "IQ2_XXS", 256, 66),
    row(17, "IQ2_XS", 256, 74),
    row(18, "IQ3_XXS", 256, 98),
    row(19, "IQ1_S", 256, 50),
    row(20, "IQ4_NL", 32, 18),
    row(21, "IQ3_S", 256, 110),
    row(22, "IQ2_S", 256, 82),
    row(23, "IQ4_XS", 256, 136),
    row(24, "I8", 1, 1),
    row(25, "I16", 1, 2),
    row(26, "I32", 1, 4),
    row(27, "I64", 1, 8),
    row(28, "F64", 1, 8),
    row(29, "IQ1_M", 256, 56),
    row(30, "BF16", 1, 2),
    withdrawn(31, "Q4_0_4_4"),
    withdrawn(32, "Q4_0_4_8"),
    withdrawn(33, "Q4_0_8_8"),
    row(34, "TQ1_0", 256, 54),
    row(35, "TQ2_0", 256, 66),
    withdrawn(36, "IQ4_NL_4_4"),
    withdrawn(37, "IQ4_NL_4_8"),
    withdrawn(38, "IQ4_NL_8_8"),
    row(39, "MXFP4", 32, 17),
    row(40, "NVFP4", 64, 36),
    row(41, "Q1_0", 128, 18),
    row(42, "Q2_0", 64, 18),
];

fn find(id: u32) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

/// GGUF's name of type `id`, or `type 99` for a number it does not have.
#[must_use]
pub fn name(id: u32) -> String {
    find(id).map_or_else(|| format!("type {id}"), |row| row.name.to_owned())
}

/// Values and bytes of a block of type `id`, if they are known.
#[must_use]
pub fn block(id: u32) -> Option<(usize, usize)> {
    find(id)?.block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn the_table_agrees_with_the_types_that_are_computed() {
        for dtype in DType::ALL {
            assert_eq!(name(dtype.ggml()), dtype.name());
            assert_eq!(block(dtype.ggml()), Some((dtype.block_len(), dtype.block_bytes())));
        }
    }

    #[test]
    fn numbers_count_up_from_zero_and_names_occur_once() {
        for (i, row) in ROWS.iter().enumerate() {
            assert_eq!(row.id as usize, i);
            assert!(ROWS[..i].iter().all(|other| other.name != row.name));
        }
    }
}
