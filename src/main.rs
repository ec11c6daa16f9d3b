//! The `dosvc` command.
fn main() {}
