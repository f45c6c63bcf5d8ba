//! The ratios as a picture: one bar per row, a tick where the aim is.

use std::fmt::Write as _;

use crate::report::Report;

const ROW: usize = 18;
const LABEL: usize = 330;
const UNIT: f64 = 240.0;
/// Longer bars are cut.
const MAX_RATIO: f64 = 2.0;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The rows as SVG.
pub fn svg(report: &Report) -> String {
    let width = LABEL as f64 + UNIT * MAX_RATIO + 60.0;
    let height = ROW * (report.rows.len() + 2);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LABEL}\" y=\"12\">cwasm as a part of wasmtime 48; shorter is better</text>\n"
    );
    let one = LABEL as f64 + UNIT;
    let _ = writeln!(
        svg,
        "<line x1=\"{one}\" x2=\"{one}\" y1=\"{ROW}\" y2=\"{height}\" stroke=\"#888\"/>"
    );
    for (number, row) in report.rows.iter().enumerate() {
        let y = ROW * (number + 1);
        let base = y + 13;
        let length = row.ratio.min(MAX_RATIO) * UNIT;
        let color = match row.bar {
            Some(bar) if row.ratio > bar => "#c44",
            Some(_) => "#394",
            None => "#69b",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LABEL}\" y=\"{}\" width=\"{length:.1}\" height=\"12\" fill=\"{color}\"/>\
             <text x=\"{:.1}\" y=\"{base}\">{:.2}</text>",
            LABEL - 6,
            escape(&row.what),
            y + 3,
            LABEL as f64 + length + 4.0,
            row.ratio,
        );
        if let Some(bar) = row.bar {
            let x = LABEL as f64 + bar.min(MAX_RATIO) * UNIT;
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"black\" \
                 stroke-width=\"2\"/>",
                y + 1,
                y + 17
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}
