//! The `dosvc` command: the daemon, and what looks at it and steers it.

mod api;
mod cli;
mod client;
mod config;
mod control;
mod fd;
mod local;
mod settings;

use clap::Parser as _;

fn main() {
    let _ = cli::Cli::parse();
}
