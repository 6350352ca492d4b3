//! The JSON Schemas of `schemas/`: that they are schemas, that every command with `--json` has one,
//! and that what is printed and written follows them.

#[path = "../common/mod.rs"]
mod common;
#[path = "../cache/common.rs"]
#[allow(dead_code, reason = "the tests of the cache use the rest")]
mod machine;
#[path = "../cache/registry.rs"]
#[allow(dead_code, reason = "the tests of the cache use the rest")]
mod registry;

mod form;
mod inputs;
mod printed;
mod values;
