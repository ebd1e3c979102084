//! Renders the graph as a self-contained SVG, for light and dark pages.

use std::fmt::Write;

use super::layout::{self, Layout, Size};
use super::{Graph, Kind, Packed, Part};
use crate::display;

/// Margin around the picture.
const MARGIN: i64 = 28;
/// Height of title and summary above the boxes.
const HEADER: i64 = 74;
/// Height of the legend.
const FOOTER: i64 = 40;
/// Padding in a box.
const PAD: i64 = 16;
/// Height of a box's heading, with the space below it.
const TITLE: i64 = 24;
/// Height of a text line.
const LINE: i64 = 18;
/// Height of a row of packages.
const CELL_HEIGHT: i64 = 18;
/// Width of a column of packages: a name and its size.
const CELL_WIDTH: i64 = 208;
/// Rows of packages per column, until `MAX_COLUMNS` is reached.
const ROWS: usize = 9;
/// Limit on the columns.
const MAX_COLUMNS: usize = 4;
/// Width of a box without packages.
const STEP_WIDTH: i64 = 268;
/// Longest package name that fits beside its size.
const NAME_CHARS: usize = 23;
/// Longest line that fits in a box without packages.
const LINE_CHARS: usize = 36;

const STYLE: &str = "\
text{font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','Liberation Sans','DejaVu Sans',sans-serif;font-size:12px;fill:#57606a}
.page{fill:#ffffff}
.head{font-size:20px;font-weight:600;fill:#1f2328}
.title{font-size:14px;font-weight:600;fill:#1f2328}
.name{fill:#1f2328}
.size{text-anchor:end;fill:#818b98;font-size:11px}
.box{stroke-width:1}
.packages{fill:#f3f8ff;stroke:#b6d4fb}
.step{fill:#fff8e8;stroke:#ecd08a}
.image{fill:#eefaf0;stroke:#a3dcae}
.bar{stroke:none}
.packages.bar{fill:#2f81f7}
.step.bar{fill:#bf8700}
.image.bar{fill:#2da44e}
.arrow{fill:none;stroke:#8c959f;stroke-width:1.5}
.tip{fill:#8c959f}
@media (prefers-color-scheme:dark){
text{fill:#9198a1}
.page{fill:#0d1117}
.head,.title,.name{fill:#e6edf3}
.size{fill:#7d8590}
.packages{fill:#101c2e;stroke:#254a7a}
.step{fill:#241d0c;stroke:#5f4a14}
.image{fill:#0f2417;stroke:#245c35}
.packages.bar{fill:#388bfd}
.step.bar{fill:#d29922}
.image.bar{fill:#3fb950}
.arrow{stroke:#6e7681}
.tip{fill:#6e7681}
}
";

/// Renders a graph.
pub fn write(graph: &Graph) -> String {
    let sizes: Vec<Size> = graph.parts.iter().map(size).collect();
    let layout = layout::layout(&sizes, &graph.arrows);
    let width = layout.size.width.max(text_width(&graph.summary)) + 2 * MARGIN;
    let height = layout.size.height + HEADER + FOOTER + 2 * MARGIN;
    let left = (width - layout.size.width) / 2;
    let mut out = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">"
    );
    let _ = writeln!(out, "<title>{}</title>\n<desc>{}</desc>", escaped(&graph.title), escaped(&graph.summary));
    let _ = writeln!(out, "<style>\n{STYLE}</style>\n<rect class=\"page\" width=\"{width}\" height=\"{height}\"/>");
    let _ = writeln!(out, "<text class=\"head\" x=\"{MARGIN}\" y=\"{}\">{}</text>", MARGIN + 18, escaped(&graph.title));
    let _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{}\">{}</text>", MARGIN + 42, escaped(&graph.summary));
    let (x, y) = (left, MARGIN + HEADER);
    push_arrows(&mut out, &layout, x, y);
    for ((part, size), corner) in graph.parts.iter().zip(&sizes).zip(&layout.boxes) {
        push_part(&mut out, part, *size, (corner.0 + x, corner.1 + y));
    }
    let note = "Each package is a layer. Arrows point from inputs to the layers made of them; the image is all layers stacked.";
    let _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{}\">{note}</text>\n</svg>", height - MARGIN);
    out
}

fn size(part: &Part) -> Size {
    let (columns, rows) = grid(part.packages.len());
    let lines = LINE * part.lines.len() as i64;
    let cells = if rows > 0 { 10 + CELL_HEIGHT * rows as i64 } else { 0 };
    let width = if columns > 0 { columns as i64 * CELL_WIDTH + 2 * PAD - 20 } else { STEP_WIDTH };
    Size { width: width.max(STEP_WIDTH), height: 2 * PAD - 6 + TITLE + lines + cells }
}

/// Returns the columns and rows for a number of packages.
fn grid(count: usize) -> (usize, usize) {
    let columns = count.div_ceil(ROWS).min(MAX_COLUMNS);
    (columns, if columns > 0 { count.div_ceil(columns) } else { 0 })
}

/// Estimates the width of a line. The font is unknown; a slightly large value is harmless.
fn text_width(text: &str) -> i64 {
    text.chars().count() as i64 * 7
}

fn push_arrows(out: &mut String, layout: &Layout, x: i64, y: i64) {
    for points in &layout.arrows {
        let points: Vec<(i64, i64)> = points.iter().map(|(px, py)| (px + x, py + y)).collect();
        let Some(((tx, ty), rest)) = points.split_last() else { continue };
        let Some((first, between)) = rest.split_first() else { continue };
        let mut path = format!("M{} {}", first.0, first.1);
        let mut at = *first;
        // The line ends at the base of the arrowhead.
        for next in between.iter().copied().chain([(*tx, ty - 7)]) {
            let bend = (next.1 - at.1) / 2;
            let _ = if at.0 == next.0 {
                write!(path, "V{}", next.1)
            } else {
                write!(path, "C{} {} {} {} {} {}", at.0, at.1 + bend, next.0, next.1 - bend, next.0, next.1)
            };
            at = next;
        }
        let _ = writeln!(out, "<path class=\"arrow\" d=\"{path}\"/><path class=\"tip\" d=\"M{tx} {ty}l-5 -9h10z\"/>");
    }
}

fn push_part(out: &mut String, part: &Part, size: Size, (x, y): (i64, i64)) {
    let class = match part.kind {
        Kind::Packages => "packages",
        Kind::Step => "step",
        Kind::Image => "image",
    };
    let Size { width, height } = size;
    let _ = writeln!(out, "<g>");
    if part.title.chars().count() > LINE_CHARS {
        let _ = writeln!(out, "<title>{}</title>", escaped(&part.title));
    }
    let _ = writeln!(out, "<rect class=\"box {class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>");
    let _ = writeln!(out, "<rect class=\"bar {class}\" x=\"{x}\" y=\"{}\" width=\"4\" height=\"{}\" rx=\"2\"/>", y + 10, height - 20);
    let mut line = y + PAD + 12;
    let _ = writeln!(out, "<text class=\"title\" x=\"{}\" y=\"{line}\">{}</text>", x + PAD, escaped(&cut(&part.title, LINE_CHARS - 4)));
    line += TITLE - LINE;
    for text in &part.lines {
        line += LINE;
        let _ = writeln!(out, "<text x=\"{}\" y=\"{line}\">{}</text>", x + PAD, escaped(&cut(text, LINE_CHARS)));
    }
    push_packages(out, &part.packages, x + PAD, line + 10);
    let _ = writeln!(out, "</g>");
}

fn push_packages(out: &mut String, packages: &[Packed], x: i64, y: i64) {
    let (columns, rows) = grid(packages.len());
    let width = if columns == 1 { STEP_WIDTH - 2 * PAD } else { CELL_WIDTH - 20 };
    for (number, package) in packages.iter().enumerate() {
        let left = x + (number / rows) as i64 * CELL_WIDTH;
        let base = y + (number % rows) as i64 * CELL_HEIGHT + CELL_HEIGHT - 4;
        let title = escaped(&format!("{} {}", package.name, package.version));
        let name = escaped(&cut(&package.name, NAME_CHARS));
        let _ = write!(out, "<text class=\"name\" x=\"{left}\" y=\"{base}\"><title>{title}</title>{name}</text>");
        let right = left + width;
        let _ = writeln!(out, "<text class=\"size\" x=\"{right}\" y=\"{base}\">{}</text>", display::bytes(package.bytes));
    }
}

/// Shortens a text that does not fit.
fn cut(text: &str, max: usize) -> String {
    match text.chars().count() {
        count if count <= max => text.to_owned(),
        _ => text.chars().take(max - 1).chain(['…']).collect(),
    }
}

/// Escapes XML metacharacters, and replaces characters that XML forbids.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
