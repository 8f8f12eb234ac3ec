//! The tables of [`abi`](super) as source text.

use super::{
    CUDA_LAYOUTS, Constant, Field, LAYOUTS, Layout, Number, Scalar, Value, constants, cuda_constants,
};

const HEADER: &str =
    "// Written by `cargo xtask abi` from core/src/abi.rs: change that file, then run it again.";

/// The text of `kernels/gen/abi.cuh`: no includes, so that NVRTC compiles it without a search path.
#[must_use]
pub fn cuda() -> String {
    cuda_text(&[constants(), cuda_constants()].concat(), &[LAYOUTS, CUDA_LAYOUTS].concat())
}

/// The text of `shaders/gen/abi.wgsl`, which the host puts in front of every shader.
#[must_use]
pub fn wgsl() -> String {
    wgsl_text(&constants(), LAYOUTS)
}

pub(super) fn cuda_text(constants: &[Constant], layouts: &[Layout]) -> String {
    let mut lines = vec![HEADER.to_owned(), "#pragma once".to_owned()];
    for Constant { name, doc, value } in constants {
        lines.push(String::new());
        lines.extend(comment(doc, ""));
        match value {
            Value::One(number) => {
                lines.push(format!(
                    "constexpr {} {name} = {};",
                    cuda_name(number.scalar()),
                    literal(*number)
                ));
            }
            // A table is an object: without `__device__` it would belong to the host. `static`, as every unit
            // that includes this has its own; `constexpr`, as a fixed index then costs no load.
            Value::Table(numbers) => {
                let scalar = cuda_name(table_scalar(numbers));
                lines.push(format!("static __device__ constexpr {scalar} {name}[{}] = {{", numbers.len()));
                lines.extend(entries(numbers));
                lines.push("};".to_owned());
            }
        }
    }
    for Layout { name, doc, fields } in layouts {
        lines.push(String::new());
        lines.extend(comment(doc, ""));
        lines.push(format!("struct {name} {{"));
        for Field { name, scalar, doc } in *fields {
            lines.extend(comment(doc, "    "));
            lines.push(format!("    {} {name};", cuda_name(*scalar)));
        }
        lines.push("};".to_owned());
        let bytes = 4 * fields.len();
        lines.push(format!("static_assert(sizeof({name}) == {bytes}, \"{name} must have no padding\");"));
    }
    lines.join("\n") + "\n"
}

pub(super) fn wgsl_text(constants: &[Constant], layouts: &[Layout]) -> String {
    let mut lines = vec![HEADER.to_owned()];
    for Constant { name, doc, value } in constants {
        lines.push(String::new());
        lines.extend(comment(doc, ""));
        match value {
            Value::One(number) => {
                lines.push(format!("const {name}: {} = {};", wgsl_name(number.scalar()), literal(*number)));
            }
            Value::Table(numbers) => {
                let scalar = wgsl_name(table_scalar(numbers));
                lines.push(format!("const {name} = array<{scalar}, {}>(", numbers.len()));
                lines.extend(entries(numbers));
                lines.push(");".to_owned());
            }
        }
    }
    for Layout { name, doc, fields } in layouts {
        lines.push(String::new());
        lines.extend(comment(doc, ""));
        lines.push(format!("struct {name} {{"));
        for Field { name, scalar, doc } in *fields {
            lines.extend(comment(doc, "    "));
            lines.push(format!("    {name}: {},", wgsl_name(*scalar)));
        }
        lines.push("}".to_owned());
    }
    lines.join("\n") + "\n"
}

fn cuda_name(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::U32 => "unsigned int",
        Scalar::I32 => "int",
        Scalar::F32 => "float",
    }
}

fn wgsl_name(scalar: Scalar) -> &'static str {
    match scalar {
        Scalar::U32 => "u32",
        Scalar::I32 => "i32",
        Scalar::F32 => "f32",
    }
}

fn table_scalar(numbers: &[Number]) -> Scalar {
    numbers.first().expect("a table has at least one entry").scalar()
}

/// A number in the spelling that both languages read back bit for bit.
///
/// An `i32` has no suffix: `-2147483648i` would be the negation of a number that does not fit.
fn literal(number: Number) -> String {
    match number {
        // Larger ones are bits rather than counts.
        Number::U32(value) if value > 0xffff => format!("{value:#x}u"),
        Number::U32(value) => format!("{value}u"),
        Number::I32(value) => format!("{value}"),
        Number::F32(value) => {
            assert!(value.is_finite(), "neither language has a literal for {value}");
            format!("{value:?}f")
        }
    }
}

/// The entries of a table, eight to a line.
fn entries(numbers: &[Number]) -> Vec<String> {
    let line = |line: &[Number]| line.iter().map(|number| literal(*number)).collect::<Vec<_>>().join(", ");
    numbers.chunks(8).map(|numbers| format!("    {},", line(numbers))).collect()
}

/// A doc comment as line comments, which both languages share.
fn comment(doc: &str, indent: &str) -> Vec<String> {
    doc.lines().map(|line| format!("{indent}//{line}")).collect()
}
