//! Has the linker put the functions of daily use side by side in release builds.
//!
//! They are a quarter of the program, and lie all over it otherwise. The kernel maps 16 pages around each one that is
//! touched, so a daemon that does nothing had two thirds of the program in memory, now a third. Which functions these
//! are is in `layout/often.txt`, which `layout/update` writes.

use std::{env, fmt::Write as _, fs, io, path::PathBuf};

const LIST: &str = "layout/often.txt";
/// For linkers that can't read such scripts (gold): set it to build without the order.
const OFF: &str = "DOSVC_NO_LAYOUT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={LIST}");
    println!("cargo::rerun-if-env-changed={OFF}");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    // Profiles that inherit from `release` count as that.
    if !is("PROFILE", "release")
        || !is("CARGO_CFG_TARGET_OS", "linux")
        || env::var_os(OFF).is_some()
    {
        return Ok(());
    }
    let script =
        PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no OUT_DIR"))?)
            .join("often.ld");
    fs::write(&script, linker_script(&fs::read_to_string(LIST)?))?;
    println!(
        "cargo::rustc-link-arg-bin=dosvc=-Wl,-T,{}",
        script.display()
    );
    Ok(())
}

/// The functions with these names come first in the section of all code; it adds to the linker's own script. What the
/// compiler takes for unlikely has a prefix, which says nothing about how often it runs. (GNU ld makes two sections of that
/// name, which is as good.)
fn linker_script(names: &str) -> String {
    let mut script = String::from("SECTIONS\n{\n  .text :\n  {\n");
    for name in names.lines() {
        let _ = writeln!(script, "    *(.text.{name} .text.unlikely.{name})");
    }
    script.push_str("  }\n}\nINSERT BEFORE .init;\n");
    script
}
