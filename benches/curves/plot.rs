//! A plot of a curve: each figure as a multiple of its first value, both axes logarithmic, between what grows like n
//! and what grows like n log n.

use crate::{Measured, names};
use std::fmt::Write as _;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 330.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
const COLOURS: [&str; 10] = [
    "#4477aa", "#ee6677", "#228833", "#aa8800", "#66ccee", "#aa3377", "#666666", "#994455",
    "#004488", "#117733",
];

/// Where numbers lie in the picture.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let part = |v: f64, (from, to): (f64, f64)| (v.ln() - from.ln()) / (to.ln() - from.ln());
        (
            LEFT + part(x, self.x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - part(y, self.y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn line(&self, points: impl Iterator<Item = (f64, f64)>) -> String {
        let points = points.map(|(x, y)| self.at(x, y));
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        points.join(" ")
    }
}

/// The picture.
pub(crate) fn svg(measured: &Measured) -> String {
    let sizes: Vec<f64> = measured.points.keys().map(|n| f64::from(*n)).collect();
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    let multiples = |name: &String| -> Vec<(f64, f64)> {
        let values: Vec<f64> = measured.points.values().map(|p| p[name]).collect();
        let base = values.iter().copied().find(|v| *v > 0.0).unwrap_or(1.0);
        let values = values.iter().map(|v| v / base);
        // Nothing has no place on a logarithmic axis.
        let points = sizes.iter().copied().zip(values);
        points.filter(|(_, multiple)| *multiple > 0.0).collect()
    };
    let lines: Vec<(&String, Vec<(f64, f64)>)> = names(measured)
        .into_iter()
        .map(|name| (name, multiples(name)))
        .collect();
    let all = lines
        .iter()
        .flat_map(|(_, line)| line.iter().map(|(_, y)| *y));
    let lowest = all.clone().fold(1.0, f64::min);
    let highest = all.fold(1.0, f64::max);
    let n_log_n = |n: f64| n / first * (n.log2().max(1.0) / first.log2().max(1.0));
    let axes = Axes {
        x: (first, last),
        y: (
            10f64.powf(lowest.log10().floor()),
            highest.max(n_log_n(last)),
        ),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    grid(&mut svg, &axes, &sizes);
    let references: [(&str, &dyn Fn(f64) -> f64); 2] =
        [("n", &|n| n / first), ("n log n", &n_log_n)];
    for (name, law) in references {
        let points = axes.line(sizes.iter().map(|n| (*n, law(*n))));
        let (x, y) = axes.at(last, law(last));
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"#aaa\" stroke-dasharray=\"4 3\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#888\">{name}</text>",
            x + 4.0,
            y + 4.0
        );
    }
    for (i, (name, line)) in lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let points = axes.line(line.iter().copied());
        let y = TOP + 60.0 + 18.0 * i as f64;
        let x = WIDTH - RIGHT + 60.0;
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            x + 16.0,
            x + 22.0,
            y + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\n</svg>",
        LEFT + (WIDTH - LEFT - RIGHT) / 2.0,
        HEIGHT - 12.0,
        measured.grows
    );
    svg
}

/// Lines at each size and at each power of ten.
fn grid(svg: &mut String, axes: &Axes, sizes: &[f64]) {
    for n in sizes {
        let (x, y) = axes.at(*n, axes.y.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{n}</text>",
            y + 16.0
        );
    }
    let mut power = axes.y.0;
    while power <= axes.y.1 {
        let (x, y) = axes.at(axes.x.0, power);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">× {power}</text>",
            WIDTH - RIGHT,
            x - 4.0,
            y + 4.0
        );
        power *= 10.0;
    }
}
