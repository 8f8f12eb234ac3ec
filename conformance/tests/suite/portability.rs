//! Every shader that can be asked for parses, validates and translates for Vulkan, Metal and D3D12, and agrees with the
//! host about structs, constants and workgroups.
//!
//! Which shaders there are is not listed by hand: the cases of all ops are compiled for the device, with every set of
//! variants, and whatever shaders they ask for are looked at. A file that nobody asked for is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gemma4_conformance::{Failure, backends, cases};
use gemma4_core::abi::{self, Number, Scalar, Value};
use gemma4_core::backend::Backend as _;
use gemma4_core::ops::Op;
use gemma4_core::program::{Class, Program, Weight, WeightSpec};
use gemma4_core::tensor::{Bytes, DType, Tensor};
use gemma4_wgpu::shaders::{self, Shader};
use gemma4_wgpu::{Options, ShaderEdit, Variants, Wgpu};
use naga::back::{self, PipelineConstants};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage, TypeInner};

/// Sets of variants that lowerings distinguish.
const VARIANTS: [Variants; 3] = [Variants::ALL, Variants::EXACT, Variants::CORE];

/// Largest workgroup and workgroup memory of core WebGPU.
const CORE_INVOCATIONS: u32 = 256;
const CORE_WORKGROUP_BYTES: u32 = 16384;
/// Largest workgroup of D3D12 and Metal.
const MOST_INVOCATIONS: u32 = 1024;

/// A device that keeps what shaders it is asked for. To its driver it hands an empty one for each: drivers take most of the
/// time, and what they make of shaders is for the tests that run them.
fn recorder(allow: Variants) -> Wgpu {
    let empty = |shader: &Shader, source| {
        // Variants follow from what a driver makes of this one.
        if shader.entry == shaders::PROBE.name {
            return source;
        }
        let constants = shader.constants.iter().map(|(name, _)| format!("override {name}: u32;\n"));
        format!("{}@compute @workgroup_size(1) fn {}() {{}}", constants.collect::<String>(), shader.entry)
    };
    let options = Options { allow, edit: Some(ShaderEdit::new(empty)), ..Options::default() };
    Wgpu::new(&options).unwrap_or_else(|error| panic!("{error}"))
}

/// Compiles what the cases of all ops ask for.
fn compile_cases(backends: &[Wgpu]) -> Result<(), Failure> {
    for op in Op::ALL {
        for case in cases::of(op) {
            backends.iter().try_for_each(|backend| case.compile(backend))?;
        }
    }
    Ok(())
}

/// The same of products of every type of weight.
fn compile_products(backend: &Wgpu) -> Result<(), Failure> {
    for dtype in DType::ALL {
        let cols = 512;
        let zeros = vec![0; dtype.row_bytes(cols).expect("whole blocks") * 2];
        let tensor = Tensor::new("w", dtype, [1, 2, cols], Bytes::from_owner(zeros)).expect("it fits");
        let device = Failure::device::<Wgpu>;
        let weight = backend.upload(&tensor).map_err(device)?;
        for class in [Class::Prefill, Class::Decode] {
            for rows in [1, 64, 256] {
                let mut program =
                    Program::new(class, rows, rows, [WeightSpec::of(&tensor)].into(), [].into());
                let x = program.embed(Weight::new(0), 1.0);
                let out = program.linear(x, &[Weight::new(0)])?;
                program.output(out);
                backend.compile(&program, std::slice::from_ref(&weight), &[]).map_err(device)?;
            }
        }
    }
    Ok(())
}

/// One entry point with its constants filled in, as it is translated.
struct Fixed<'a> {
    shader: &'a Shader,
    module: Module,
    info: ModuleInfo,
}

fn fix<'a>(shader: &'a Shader, module: &Module, capabilities: Capabilities) -> Result<Fixed<'a>, String> {
    let info = Validator::new(ValidationFlags::all(), capabilities).validate(module);
    let info = info.map_err(|error| error.emit_to_string(&shader.source()))?;
    let constants: PipelineConstants =
        shader.constants.iter().map(|&(name, value)| (name.to_owned(), f64::from(value))).collect();
    let entry = Some((ShaderStage::Compute, shader.entry));
    let fixed = back::pipeline_constants::process_overrides(module, &info, entry, &constants);
    let (module, info) = fixed.map_err(|error| error.to_string())?;
    Ok(Fixed { shader, module: module.into_owned(), info: info.into_owned() })
}

/// Writes an entry point in a language; returns how much was written.
type Translate = fn(&Module, &Shader) -> Result<usize, String>;

/// The languages, and the least version of each that has what the shader uses.
const LANGUAGES: [(&str, Translate); 3] = [("SPIR-V", spirv), ("MSL", msl), ("HLSL", hlsl)];

fn spirv(module: &Module, shader: &Shader) -> Result<usize, String> {
    let Fixed { module, info, .. } = fix(shader, module, back::spv::supported_capabilities())?;
    let options = back::spv::Options { lang_version: (1, 3), ..back::spv::Options::default() };
    let pipeline = back::spv::PipelineOptions {
        shader_stage: ShaderStage::Compute,
        entry_point: shader.entry.to_owned(),
    };
    let words = back::spv::write_vec(&module, &info, &options, Some(&pipeline));
    words.map(|words| words.len()).map_err(|error| error.to_string())
}

fn msl(module: &Module, shader: &Shader) -> Result<usize, String> {
    let Fixed { module, info, .. } = fix(shader, module, back::msl::supported_capabilities())?;
    // 2.4 came with macOS 12.
    let options = back::msl::Options { lang_version: (2, 4), ..back::msl::Options::default() };
    let pipeline = back::msl::PipelineOptions {
        entry_point: Some((ShaderStage::Compute, shader.entry.to_owned())),
        ..back::msl::PipelineOptions::default()
    };
    let text = back::msl::write_string(&module, &info, &options, &pipeline);
    let (text, translated) = text.map_err(|error| error.to_string())?;
    let name = translated.entry_point_names.into_iter().next().expect("an entry point was asked for");
    name.map(|_| text.len()).map_err(|error| error.to_string())
}

fn hlsl(module: &Module, shader: &Shader) -> Result<usize, String> {
    let Fixed { module, info, .. } = fix(shader, module, back::hlsl::supported_capabilities())?;
    // Subgroups came with 6.0, 16-bit floats with 6.2, and products of packed integers with 6.4.
    let options =
        back::hlsl::Options { shader_model: back::hlsl::ShaderModel::V6_4, ..back::hlsl::Options::default() };
    let pipeline =
        back::hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, shader.entry.to_owned())) };
    let mut text = String::new();
    let translated = back::hlsl::Writer::new(&mut text, &options, &pipeline).write(&module, &info, None);
    let translated = translated.map_err(|error| error.to_string())?;
    let name = translated.entry_point_names.into_iter().next().expect("an entry point was asked for");
    name.map(|_| text.len()).map_err(|error| error.to_string())
}

/// Structs of a module whose layout is not that of `abi.rs`, and how many were compared.
fn layouts(module: &Module) -> Result<usize, String> {
    let mut compared = 0;
    for (_, ty) in module.types.iter() {
        let (Some(name), TypeInner::Struct { members, span }) = (&ty.name, &ty.inner) else { continue };
        let Some(layout) = abi::LAYOUTS.iter().find(|layout| layout.name == name) else { continue };
        let got: Vec<_> = members
            .iter()
            .map(|member| {
                let scalar = match module.types[member.ty].inner {
                    TypeInner::Scalar(naga::Scalar::U32) => Some(Scalar::U32),
                    TypeInner::Scalar(naga::Scalar::I32) => Some(Scalar::I32),
                    TypeInner::Scalar(naga::Scalar::F32) => Some(Scalar::F32),
                    _ => None,
                };
                (member.name.clone().unwrap_or_default(), member.offset, scalar)
            })
            .collect();
        let fields = layout.fields.iter();
        let want: Vec<_> =
            (0..).zip(fields).map(|(i, field)| (field.name.to_owned(), 4 * i, Some(field.scalar))).collect();
        let bytes = 4 * u32::try_from(want.len()).expect("a few fields");
        if got != want || *span != bytes {
            return Err(format!(
                "{name} is {got:?} in {span} bytes, but {want:?} in {bytes} bytes in abi.rs"
            ));
        }
        compared += 1;
    }
    Ok(compared)
}

/// Constants of a module that are not those of `abi.rs`, and how many were compared.
fn constants(module: &Module) -> Result<usize, String> {
    let values: BTreeMap<&str, Value> =
        abi::constants().into_iter().map(|constant| (constant.name, constant.value)).collect();
    let mut compared = 0;
    for (_, constant) in module.constants.iter() {
        let Some(Value::One(want)) = constant.name.as_deref().and_then(|name| values.get(name)) else {
            continue;
        };
        let got = match &module.global_expressions[constant.init] {
            naga::Expression::Literal(naga::Literal::U32(value)) => Number::U32(*value),
            naga::Expression::Literal(naga::Literal::I32(value)) => Number::I32(*value),
            naga::Expression::Literal(naga::Literal::F32(value)) => Number::F32(*value),
            other => return Err(format!("{constant:?} is {other:?}")),
        };
        if got != *want {
            return Err(format!("{:?} is {got:?}, but {want:?} in abi.rs", constant.name));
        }
        compared += 1;
    }
    Ok(compared)
}

/// The size of a workgroup: that of the constant it is declared with, and at most so many invocations.
fn workgroup(fixed: &Fixed<'_>, most: u32) -> Result<[u32; 3], String> {
    let Fixed { module, shader, .. } = fixed;
    let entry =
        module.entry_points.iter().find(|entry| entry.name == shader.entry).ok_or("no entry point")?;
    let size = entry.workgroup_size;
    let source = shader.source();
    let declared = source.split("@workgroup_size(").skip(1).find_map(|rest| {
        let (size, rest) = rest.split_once(')')?;
        let (_, rest) = rest.split_once("fn ")?;
        (rest.split(['(', '<']).next()? == shader.entry).then_some(size)
    });
    let declared = declared.ok_or("no @workgroup_size")?;
    let constant = abi::constants().into_iter().find(|constant| constant.name == declared);
    if let Some(Value::One(Number::U32(threads))) = constant.map(|constant| constant.value)
        && size != [threads, 1, 1]
    {
        return Err(format!("the workgroup is {size:?}, but {declared} is {threads} in abi.rs"));
    }
    let invocations: u32 = size.iter().product();
    if invocations == 0 || invocations > most {
        return Err(format!("a workgroup of {size:?} has no invocations, or more than {most}"));
    }
    Ok(size)
}

/// Bytes of workgroup memory that the entry point uses.
fn workgroup_bytes(fixed: &Fixed<'_>) -> Result<u32, String> {
    let Fixed { module, info, shader } = fixed;
    let index =
        module.entry_points.iter().position(|entry| entry.name == shader.entry).ok_or("no entry point")?;
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| error.to_string())?;
    let used = info.get_entry_point(index);
    let globals = module.global_variables.iter().filter(|(handle, global)| {
        global.space == naga::AddressSpace::WorkGroup && !used[*handle].is_empty()
    });
    Ok(globals.map(|(_, global)| layouter[global.ty].size).sum())
}

#[test]
fn every_shader_translates_for_vulkan_metal_and_d3d12_and_agrees_with_the_host() {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    let mut distinct: BTreeMap<String, Shader> = BTreeMap::new();
    let mut core: BTreeSet<String> = BTreeSet::new();
    // A device that is missing is said, and fails if it is required, where all backends are opened.
    if backends::covered().iter().all(|at| matches!(at.device, backends::Device::Cpu)) {
        return;
    }
    let recorders = VARIANTS.map(recorder);
    compile_cases(&recorders).unwrap_or_else(|failure| panic!("{failure}"));
    for (allow, backend) in VARIANTS.into_iter().zip(&recorders) {
        compile_products(backend).unwrap_or_else(|failure| panic!("{allow:?}: {failure}"));
        for shader in backend.shaders() {
            let name = format!(
                "{} {:?} {:?}",
                shader.entry,
                shader.constants,
                shader.parts.iter().map(|p| p.name).collect::<Vec<_>>()
            );
            if allow == Variants::CORE {
                core.insert(name.clone());
            }
            distinct.insert(name, shader);
        }
    }
    let (mut complaints, mut structs, mut numbers, mut translations, mut largest) = (Vec::new(), 0, 0, 0, 0);
    let mut modules: BTreeSet<(&str, String)> = BTreeSet::new();
    let mut entries: BTreeSet<&str> = BTreeSet::new();
    for (name, shader) in &distinct {
        used.insert(shaders::ABI.name);
        used.extend(shader.parts.iter().map(|part| part.name));
        entries.insert(shader.entry);
        let mut complain = |what: &str, reason: String| complaints.push(format!("{name}: {what}: {reason}"));
        let options =
            naga::front::wgsl::Options { parse_doc_comments: false, capabilities: Capabilities::all() };
        let source = shader.source();
        let module = match naga::front::wgsl::Frontend::new_with_options(options).parse(&source) {
            Ok(module) => module,
            Err(error) => {
                complain("WGSL", error.emit_to_string(&source));
                continue;
            }
        };
        match layouts(&module).and_then(|n| Ok((n, constants(&module)?))) {
            Ok((layouts, constants)) => (structs, numbers) = (structs + layouts, numbers + constants),
            Err(reason) => complain("abi.rs", reason),
        }
        let fixed = fix(shader, &module, Capabilities::all());
        let most = if core.contains(name) { CORE_INVOCATIONS } else { MOST_INVOCATIONS };
        match fixed.and_then(|fixed| workgroup(&fixed, most).and_then(|_| workgroup_bytes(&fixed))) {
            Ok(bytes) if core.contains(name) && bytes > CORE_WORKGROUP_BYTES => {
                complain("workgroup", format!("{bytes} bytes, more than the {CORE_WORKGROUP_BYTES} of core"));
            }
            Ok(bytes) => largest = largest.max(bytes),
            Err(reason) => complain("workgroup", reason),
        }
        // To a translator constants are numbers in the text: one set of them is as good as another.
        let first = modules.insert((shader.entry, source));
        for (language, translate) in LANGUAGES.into_iter().filter(|_| first) {
            match translate(&module, shader) {
                Ok(size) if size > 0 => translations += 1,
                Ok(_) => complain(language, "nothing was written".to_owned()),
                Err(reason) => complain(language, reason),
            }
        }
    }
    for part in shaders::ALL.iter().filter(|part| !used.contains(part.name)) {
        complaints.push(format!("shaders/{}.wgsl: no case asks for it", part.name));
    }
    complaints.extend(
        files()
            .into_iter()
            .filter(|file| shaders::ALL.iter().all(|part| part.name != file))
            .map(|file| format!("shaders/{file}.wgsl is not in backend-wgpu/src/shaders.rs")),
    );
    backends::say(format_args!(
        "{}portability: {} files, {} pipelines of {} entry points, {} of them from different texts, {translations} translations to SPIR-V 1.3, \
         MSL 2.4 and HLSL 6.4, {structs} structs and {numbers} constants as in abi.rs, up to {largest} bytes of \
         workgroup memory",
        backends::LINE,
        used.len(),
        distinct.len(),
        entries.len(),
        modules.len(),
    ));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(translations > 0 && structs > 0 && numbers > 0);
}

/// Shader files, relative to their folder and without their ending.
fn files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shaders");
    let mut files = Vec::new();
    for folder in ["", "common/", "gen/"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("the folder is in the repository") {
            let name = entry.expect("it can be listed").file_name().to_string_lossy().into_owned();
            files.extend(name.strip_suffix(".wgsl").map(|name| format!("{folder}{name}")));
        }
    }
    files
}
