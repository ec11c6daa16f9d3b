//! The `dosvc` command.

#[allow(dead_code, unused_imports, reason = "the commands use it")]
mod config;

fn main() {}
