//! `gemma4 serve` over HTTP, as clients see it: shapes, refusals, faults, its end, and other people's client libraries.
#![cfg(all(feature = "pocket", feature = "serve"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot talk to its server has failed")]

mod clients;
mod faults;
mod refusals;
mod server;
mod shapes;
