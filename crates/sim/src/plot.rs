//! Plots of one run, as SVG.

use crate::{Outcome, STEP};
use plotters::prelude::*;
use std::path::{Path, PathBuf};

const SIZE: (u32, u32) = (900, 500);
const LINE: u32 = 2;
/// Dark enough on white, and different for those who see no red or green (Okabe and Ito).
const COLORS: [RGBColor; 3] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
];

/// Why a plot was not drawn.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", file.display())]
pub struct PlotError {
    file: PathBuf,
    problem: String,
}

/// A named line through points.
type Curve = (String, Vec<(f64, f64)>);

/// Draws the run into three files of the folder, `SCENARIO-SEED-….svg`: `completion` (which share is done by when),
/// `links` (which share of the uplinks is used) and `copies` (copies of the rarest, the median and the most common
/// piece). Returns them.
///
/// # Errors
/// [`PlotError`] when a file cannot be written.
pub fn plot(outcome: &Outcome, folder: &Path) -> Result<Vec<PathBuf>, PlotError> {
    let end = outcome.last.as_secs_f64();
    let plots = [
        ("completion", "% done", 100.0, completion(outcome)),
        ("links", "% of uplink used", 110.0, links(outcome)),
        (
            "copies",
            "copies of a piece",
            outcome.leeches.len() as f64,
            copies(outcome),
        ),
    ];
    let mut files = Vec::new();
    for (kind, what, top, curves) in plots {
        let name = format!("{}-{}-{kind}.svg", outcome.name, outcome.seed);
        let file = folder.join(name);
        draw(&file, &outcome.name, what, end, top, &curves).map_err(|problem| PlotError {
            file: file.clone(),
            problem,
        })?;
        files.push(file);
    }
    Ok(files)
}

fn completion(outcome: &Outcome) -> Vec<Curve> {
    let mut done: Vec<f64> = outcome
        .leeches
        .iter()
        .filter_map(|m| Some((m.joined + m.took?).as_secs_f64()))
        .collect();
    done.sort_unstable_by(f64::total_cmp);
    let all = outcome.leeches.len() as f64;
    let mut points = vec![(0.0, 0.0)];
    for (i, at) in done.into_iter().enumerate() {
        points.push((at, 100.0 * i as f64 / all));
        points.push((at, 100.0 * (i + 1) as f64 / all));
    }
    let bound = outcome.bound.as_secs_f64();
    vec![
        ("machines".to_owned(), points),
        ("bound".to_owned(), vec![(bound, 0.0), (bound, 100.0)]),
    ]
}

fn links(outcome: &Outcome) -> Vec<Curve> {
    let names = ["seeds", "origins", "leeches"];
    let used = (0..3).filter(|role| outcome.timeline.iter().any(|bytes| bytes[*role] > 0));
    used.map(|role| {
        let whole = outcome.uplinks[role] as f64 * STEP.as_secs_f64();
        let share = |bytes: &[u64; 3]| 100.0 * bytes[role] as f64 / whole;
        let points = outcome.timeline.iter().enumerate();
        let points = points.map(|(i, bytes)| ((i as f64 + 0.5) * STEP.as_secs_f64(), share(bytes)));
        (names[role].to_owned(), points.collect())
    })
    .collect()
}

fn copies(outcome: &Outcome) -> Vec<Curve> {
    let kinds = ["rarest", "median", "most common"];
    let of = |kind: usize| {
        let points = outcome.spread.iter().enumerate().map(|(i, c)| {
            let count = [c.least, c.median, c.most][kind];
            (i as f64 * STEP.as_secs_f64(), f64::from(count))
        });
        (kinds[kind].to_owned(), points.collect())
    };
    (0..3).map(of).collect()
}

fn draw(
    file: &Path,
    title: &str,
    what: &str,
    end: f64,
    top: f64,
    curves: &[Curve],
) -> Result<(), String> {
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    // Tenths where the whole run takes a few seconds.
    let decimals = usize::from(end < 10.0);
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..end.max(0.1), 0.0..top)?;
        chart
            .configure_mesh()
            .x_desc("seconds")
            .y_desc(what)
            .x_label_formatter(&|x| format!("{x:.decimals$}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .light_line_style(WHITE)
            .draw()?;
        for (i, (name, points)) in curves.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let points = points.iter().map(|(x, y)| (*x, y.min(top)));
            chart
                .draw_series(LineSeries::new(points, color.stroke_width(LINE)))?
                .label(name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 20, y)], color.stroke_width(LINE))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::MiddleLeft)
            .margin(16)
            .legend_area_size(30)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| error.to_string())
}
