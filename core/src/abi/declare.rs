//! What constants and structs are declared with: the macros, and what they say of a declaration to the generators.

/// A type that a field or a constant may have: what CUDA, WGSL and `repr(C)` store in the same 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `unsigned int` in CUDA.
    U32,
    /// `int` in CUDA.
    I32,
    /// `float` in CUDA.
    F32,
}

/// One field of a [`Layout`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name, the same in all three languages.
    pub name: &'static str,
    /// Type.
    pub scalar: Scalar,
    /// Its doc comment.
    pub doc: &'static str,
}

/// A parameter struct: field `i` is at byte `4 * i`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Name, the same in all three languages.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// Fields in memory order.
    pub fields: &'static [Field],
}

/// A constant that kernels use by name.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Name, the same in all three languages.
    pub name: &'static str,
    /// Its doc comment.
    pub doc: &'static str,
    /// What it stands for.
    pub value: Value,
}

/// What a [`Constant`] stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A scalar.
    One(Number),
    /// A lookup table: an array of scalars, all of one type.
    Table(Vec<Number>),
}

/// A scalar with its type.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the types they hold")]
pub enum Number {
    U32(u32),
    I32(i32),
    F32(f32),
}

impl Number {
    /// Its type.
    #[must_use]
    pub const fn scalar(self) -> Scalar {
        match self {
            Number::U32(_) => Scalar::U32,
            Number::I32(_) => Scalar::I32,
            Number::F32(_) => Scalar::F32,
        }
    }
}

/// A Rust type that is a [`Scalar`]. A field or a constant of another type does not compile.
pub(super) trait FourBytes: bytemuck::Pod {
    const SCALAR: Scalar;
}

macro_rules! four_bytes {
    ($($type:ty => $variant:ident;)+) => {$(
        impl FourBytes for $type {
            const SCALAR: Scalar = Scalar::$variant;
        }
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Value::One(Number::$variant(value))
            }
        }
        impl<const N: usize> From<[$type; N]> for Value {
            fn from(values: [$type; N]) -> Self {
                Value::Table(values.map(Number::$variant).to_vec())
            }
        }
    )+};
}

four_bytes! {
    u32 => U32;
    i32 => I32;
    f32 => F32;
}

/// Declares constants and the function that lists them for the generators: scalars such as `PAGE: u32 = 256;` and
/// tables such as `CODES: [f32; 8] = module::CODES;`, whose values stay in the module that explains them.
macro_rules! consts {
    ($(#[doc = $list_doc:literal])+ $list:ident:
     $($(#[doc = $doc:literal])+ $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[doc = $doc])+ pub const $name: $type = $value;)*

        $(#[doc = $list_doc])+
        #[must_use]
        pub fn $list() -> Vec<Constant> {
            vec![$(Constant {
                name: stringify!($name),
                doc: concat!($($doc, "\n"),+),
                value: Value::from($name),
            }),*]
        }
    };
}

/// Declares `repr(C)` structs of 4-byte scalars and the table of their layouts.
macro_rules! abi {
    ($(#[doc = $list_doc:literal])+ $layouts:ident: $($(#[doc = $doc:literal])+ $name:ident {
        $($(#[doc = $field_doc:literal])+ $field:ident: $type:ident,)+
    })*) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
            #[repr(C)]
            pub struct $name {
                $($(#[doc = $field_doc])+ pub $field: $type,)+
            }
        )*

        $(#[doc = $list_doc])+
        pub const $layouts: &[Layout] = &[$(Layout {
            name: stringify!($name),
            doc: concat!($($doc, "\n"),+),
            fields: &[$(Field {
                name: stringify!($field),
                scalar: <$type as FourBytes>::SCALAR,
                doc: concat!($($field_doc, "\n"),+),
            }),+],
        }),*];
    };
}
