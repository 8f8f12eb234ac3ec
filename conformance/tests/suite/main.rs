//! Every property of every backend, in one program: generic code of engines is compiled once, a device is opened once, and
//! what a driver compiles for one property serves the others. `cargo test --workspace --test suite kv::` runs one file's.

mod ahead;
mod bisect;
mod company;
mod cuda;
mod draft_files;
mod drafters;
mod failing_loads;
mod features;
mod gate;
mod golden;
mod invariance;
mod kernels;
mod kv;
mod ops;
mod pocket;
mod pocket_drafts;
mod portability;
mod program;
mod rounds;
mod session;
mod speculate;
mod wgpu_attention;
