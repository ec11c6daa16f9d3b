//! What things cost as the work grows: contents held, connections, requests in flight, pieces of one content.
//!
//! ```text
//! cargo build --release --bins --example curves && target/release/examples/curves
//! ```
//!
//! measures everything and writes `docs/img/curves.json` and a plot of each curve beside it; names of curves as
//! arguments measure only those, and `plot` none. Every point is a process of its own, so that memory is
//! its own. Contents and connections are measured with the real daemon (`target/release/dosvc`, or `CURVES_DOSVC`) on
//! loopback; state folders are made where temporary files go.

mod cores;
mod daemon;
mod plot;

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, env, fs, path::PathBuf, process::Command, time::Instant};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What one point costs; the name of each figure says its unit.
type Point = BTreeMap<String, f64>;

/// One curve: what grows, how far, and how a point is measured.
struct Curve {
    name: &'static str,
    grows: &'static str,
    sizes: &'static [u32],
    measure: fn(u32) -> Result<Point>,
}

const CURVES: [Curve; 4] = [
    Curve {
        name: "contents",
        grows: "contents held",
        sizes: &[1, 10, 100, 1000],
        measure: daemon::contents,
    },
    Curve {
        name: "connections",
        grows: "connected peers",
        sizes: &[1, 8, 64, 500],
        measure: daemon::connections,
    },
    Curve {
        name: "in-flight",
        grows: "requests in flight",
        sizes: &[100, 1000, 10_000],
        measure: cores::in_flight,
    },
    Curve {
        name: "pieces",
        grows: "pieces of one content",
        sizes: &[1000, 10_000, 100_000, 1_000_000],
        measure: cores::pieces,
    },
];

/// A measured curve, as it is written down.
#[derive(Serialize, Deserialize)]
struct Measured {
    grows: String,
    points: BTreeMap<u32, Point>,
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [first, name, size] = &args[..]
        && first == "point"
    {
        let curve = CURVES.iter().find(|c| c.name == name);
        let curve = curve.ok_or("there is no such curve")?;
        let point = (curve.measure)(size.parse()?)?;
        println!("{}", serde_json::to_string(&point)?);
        return Ok(());
    }
    let images = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/img");
    fs::create_dir_all(&images)?;
    let json = images.join("curves.json");
    let mut all: BTreeMap<String, Measured> = match fs::read_to_string(&json) {
        Ok(text) => serde_json::from_str(&text)?,
        Err(_) => BTreeMap::new(),
    };
    for curve in &CURVES {
        if !args.is_empty() && !args.iter().any(|name| name == curve.name) {
            continue;
        }
        let mut points = BTreeMap::new();
        for &size in curve.sizes {
            let begun = Instant::now();
            let point = point(curve, size)?;
            eprintln!(
                "{} {size} ({:.1} s)",
                curve.name,
                begun.elapsed().as_secs_f64()
            );
            points.insert(size, point);
        }
        let measured = Measured {
            grows: curve.grows.to_owned(),
            points,
        };
        println!("{}", table(&measured));
        all.insert(curve.name.to_owned(), measured);
    }
    for (name, measured) in &all {
        fs::write(images.join(format!("{name}.svg")), plot::svg(measured))?;
    }
    fs::write(json, serde_json::to_string_pretty(&all)? + "\n")?;
    Ok(())
}

fn point(curve: &Curve, size: u32) -> Result<Point> {
    let run = Command::new(env::current_exe()?)
        .args(["point", curve.name, &size.to_string()])
        .output()?;
    if !run.status.success() {
        let text = String::from_utf8_lossy(&run.stderr);
        return Err(format!("{} at {size}: {}\n{text}", curve.name, run.status).into());
    }
    Ok(serde_json::from_slice(&run.stdout)?)
}

/// A table in Markdown: one line for each figure, one column for each size.
fn table(measured: &Measured) -> String {
    let sizes: Vec<String> = measured.points.keys().map(u32::to_string).collect();
    let mut text = format!("| {} | {} |\n|---|", measured.grows, sizes.join(" | "));
    text.push_str(&"---|".repeat(sizes.len()));
    for name in names(measured) {
        let cells: Vec<String> = measured
            .points
            .values()
            .map(|point| point.get(name).map_or(String::new(), |v| short(*v)))
            .collect();
        text.push_str(&format!("\n| {name} | {} |", cells.join(" | ")));
    }
    text.push('\n');
    text
}

/// The figures of a curve.
fn names(measured: &Measured) -> Vec<&String> {
    let first = measured.points.values().next();
    first
        .map(|point| point.keys().collect())
        .unwrap_or_default()
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A figure of `/proc/PID/status` in KiB.
fn status_kib(pid: u32, key: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with(key));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(value.ok_or("the kernel does not say")?.parse()?)
}
