//! Charts of what was measured, as one SVG.

use std::fmt::{self, Write as _};

/// Points of one thing, in the order of their x.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines over a common axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chart {
    /// What is up and what is to the right, with units.
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

/// Colours of lines, told apart by everybody. Source: Okabe and Ito, "Color universal design", 2008.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;

/// The charts that have points, one below the other.
pub(super) fn svg(charts: &[Chart]) -> Result<String, fmt::Error> {
    let drawn: Vec<&Chart> = charts.iter().filter(|c| c.lines.iter().any(|l| !l.points.is_empty())).collect();
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>",
        HEIGHT * drawn.len().max(1) as f64
    )?;
    for (at, chart) in drawn.into_iter().enumerate() {
        writeln!(out, "<g transform=\"translate(0 {})\">", HEIGHT * at as f64)?;
        draw(&mut out, chart)?;
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn draw(out: &mut String, chart: &Chart) -> fmt::Result {
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let right = points().map(|point| point.0).fold(1e-9, f64::max);
    let up = points().map(|point| point.1).fold(1e-9, f64::max);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * value / right;
    let y = |value: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / (1.1 * up);
    writeln!(out, "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>", escaped(&chart.title))?;
    for i in 0..=4 {
        let value = up * f64::from(i) / 4.0;
        let digits = usize::from(up < 20.0);
        writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.digits$}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y(value) + 4.0,
            at = y(value)
        )?;
    }
    let mut places: Vec<f64> = points().map(|point| point.0).collect();
    places.sort_by(f64::total_cmp);
    let mut free = f64::NEG_INFINITY;
    for place in places {
        // Numbers that would touch the one before are left out.
        if x(place) >= free {
            let below = HEIGHT - BOTTOM + 18.0;
            writeln!(out, "<text x=\"{:.1}\" y=\"{below}\" text-anchor=\"middle\">{place}</text>", x(place))?;
            free = x(place) + 44.0;
        }
    }
    for (i, line) in chart.lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let path: Vec<String> =
            line.points.iter().map(|&(px, py)| format!("{:.1},{:.1}", x(px), y(py))).collect();
        writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join(" ")
        )?;
        for &(px, py) in &line.points {
            writeln!(out, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(px), y(py))?;
        }
        let (at, label) = (TOP + 18.0 * i as f64, WIDTH - RIGHT + 12.0);
        writeln!(out, "<text x=\"{label}\" y=\"{at}\" fill=\"{colour}\">{}</text>", escaped(&line.name))?;
    }
    Ok(())
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_without_points_are_left_out_and_text_is_no_markup() {
        let line = |points| Line { name: "a<b".to_owned(), points };
        let chart = |points| Chart { title: "rates & times".to_owned(), lines: vec![line(points)] };
        let svg = svg(&[chart(vec![]), chart(vec![(0.0, 2.0), (4096.0, 1.0)])]).unwrap_or_default();
        assert_eq!(svg.matches("<polyline").count(), 1);
        assert!(
            svg.contains("a&lt;b") && svg.contains("rates &amp; times") && svg.contains(">4096<"),
            "{svg}"
        );
    }
}
