//! Pictures as SVG: plots, a network's tunnels, the matrix. No styles in them, classes only: the
//! style sheet knows both light and dark.

use std::f64::consts::TAU;
use std::fmt::Write as _;

use maud::{Markup, html};

use super::series::{BUCKETS, Span};
use super::tunnels::{Matrix, Standing};

/// One line of a plot.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) class: &'a str,
    pub(super) points: Vec<Option<f32>>,
}

const HEIGHT: f64 = 60.0;

/// Lines over time, with what they are now and the highest.
pub(super) fn plot(
    title: &str,
    lines: &[Line<'_>],
    shown: fn(f64) -> String,
    span: Span,
) -> Markup {
    let highest = lines.iter().flat_map(|line| line.points.iter().flatten()).copied();
    let highest = f64::from(highest.fold(0.0, f32::max));
    let top = round_up(highest);
    let last = |line: &Line<'_>| {
        let newest = line.points.iter().rev().take(3).flatten().next();
        newest.map_or_else(|| "unknown".to_owned(), |value| shown(f64::from(*value)))
    };
    let now: Vec<String> =
        lines.iter().map(|line| format!("{} {}", line.name, last(line))).collect();
    let past = match span {
        Span::Hour => "1 h ago",
        Span::Day => "1 d ago",
    };
    let says =
        format!("{title}, from {past} until now: {}; highest {}", now.join(", "), shown(highest));
    html! {
        figure.plot {
            figcaption {
                span.plot-title { (title) }
                @for (line, now) in lines.iter().zip(&now) {
                    span.plot-now.(line.class) { (now) }
                }
            }
            div.plot-box {
                span.plot-top aria-hidden="true" { (shown(top)) }
                svg viewBox=(format!("0 0 {BUCKETS} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(says) {
                    path.grid d=(format!("M0 .5H{BUCKETS}M0 {}H{BUCKETS}M0 {}H{BUCKETS}", HEIGHT / 2.0, HEIGHT - 0.5)) {}
                    @for line in lines {
                        @let (stroke, area) = curve(&line.points, top);
                        path.area.(line.class) d=(area) {}
                        path.line.(line.class) d=(stroke) {}
                    }
                }
            }
            div.plot-x aria-hidden="true" { span { (past) } span { "now" } }
        }
    }
}

/// A small plot in a row of a table.
pub(super) fn spark(points: &[Option<f32>]) -> Markup {
    let highest = f64::from(points.iter().flatten().copied().fold(0.0, f32::max));
    let (stroke, _) = curve(points, round_up(highest));
    html! {
        svg.spark viewBox=(format!("0 0 {} {HEIGHT}", points.len())) preserveAspectRatio="none" aria-hidden="true" {
            path.line.sent d=(stroke) {}
        }
    }
}

/// The line, and the area below it.
fn curve(points: &[Option<f32>], top: f64) -> (String, String) {
    let (mut line, mut area) = (String::new(), String::new());
    let mut begun: Option<usize> = None;
    for (x, point) in points.iter().enumerate() {
        let Some(value) = point else {
            if let Some(first) = begun.take() {
                close(&mut line, &mut area, first, x - 1);
            }
            continue;
        };
        let y = HEIGHT - 1.0 - f64::from(*value).clamp(0.0, top) / top * (HEIGHT - 2.0);
        let is_first = begun.is_none();
        let _ = write!(line, "{}{x} {y:.1}", if is_first { 'M' } else { 'L' });
        let _ = match is_first {
            true => write!(area, "M{x} {HEIGHT}L{x} {y:.1}"),
            false => write!(area, "L{x} {y:.1}"),
        };
        begun.get_or_insert(x);
    }
    if let Some(first) = begun {
        close(&mut line, &mut area, first, points.len() - 1);
    }
    (line, area)
}

fn close(line: &mut String, area: &mut String, first: usize, last: usize) {
    if first == last {
        // A dot, by the round ends of lines.
        line.push_str("h.01");
    }
    let _ = write!(area, "L{last} {HEIGHT}Z");
}

/// The next of 1, 2, 5, 10, ...
fn round_up(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

/// One host in the picture of a network.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) link: String,
    pub(super) class: &'static str,
    pub(super) says: String,
}

/// A tunnel between two nodes, by their places.
pub(super) struct Edge {
    pub(super) ends: (usize, usize),
    pub(super) class: &'static str,
    /// From 0 on, by traffic.
    pub(super) width: u8,
    pub(super) says: String,
}

/// Hosts on a circle with their tunnels between them. Links are for the mouse only; lists beside the
/// picture have the same for everybody.
pub(super) fn ring(says: &str, nodes: &[Node], edges: &[Edge]) -> Markup {
    const RADIUS: f64 = 100.0;
    let is_crowded = nodes.len() > 16;
    let angle = |index: usize| TAU * index as f64 / nodes.len().max(1) as f64 - TAU / 4.0;
    let at = |index: usize, radius: f64| {
        let (sin, cos) = angle(index).sin_cos();
        (cos * radius, sin * radius)
    };
    let (size, font) = match nodes.len() {
        0..=16 => (5.0, 9.0),
        17..=48 => (3.0, 6.0),
        _ => (1.8, 4.6),
    };
    let longest = nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
    let room = longest.min(most(is_crowded)) as f64 * font * 0.6 + size + 8.0;
    let (wide, high) = (RADIUS + room, RADIUS + if is_crowded { room } else { 22.0 });
    let view = format!("{:.0} {:.0} {:.0} {:.0}", -wide, -high, 2.0 * wide, 2.0 * high);
    html! {
        svg.ring.crowded[is_crowded] viewBox=(view) font-size=(font) role="img" aria-label=(says) {
            @for edge in edges {
                @let (x1, y1) = at(edge.ends.0, RADIUS);
                @let (x2, y2) = at(edge.ends.1, RADIUS);
                @let (qx, qy) = ((x1 + x2) * 0.2, (y1 + y2) * 0.2);
                path class=(format!("edge {} w{}", edge.class, edge.width))
                    d=(format!("M{x1:.1} {y1:.1}Q{qx:.1} {qy:.1} {x2:.1} {y2:.1}")) {
                    title { (edge.says) }
                }
            }
            @for (index, node) in nodes.iter().enumerate() {
                @let (x, y) = at(index, RADIUS);
                g class=(format!("node {}", node.class)) data-href=(node.link) {
                    title { (node.says) }
                    circle cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r=(size) {}
                    (label(&node.name, angle(index), RADIUS + size + 4.0, is_crowded))
                }
            }
        }
    }
}

/// How much of a name is shown.
fn most(is_crowded: bool) -> usize {
    if is_crowded { 14 } else { 18 }
}

fn label(name: &str, angle: f64, radius: f64, is_crowded: bool) -> Markup {
    let (sin, cos) = angle.sin_cos();
    let is_left = cos < -0.01;
    let name = cut(name, most(is_crowded));
    if is_crowded {
        let turn = angle.to_degrees() + if is_left { 180.0 } else { 0.0 };
        let x = if is_left { -radius } else { radius };
        let anchor = if is_left { "end" } else { "start" };
        return html! {
            text x=(format!("{x:.1}")) y="0" dy=".35em" text-anchor=(anchor) transform=(format!("rotate({turn:.1})")) { (name) }
        };
    }
    let anchor = match cos {
        cos if cos.abs() < 0.2 => "middle",
        cos if cos < 0.0 => "end",
        _ => "start",
    };
    let drop = if cos.abs() < 0.2 && sin > 0.0 {
        "1em"
    } else if cos.abs() < 0.2 {
        "-.3em"
    } else {
        ".35em"
    };
    html! {
        text x=(format!("{:.1}", cos * radius)) y=(format!("{:.1}", sin * radius)) dy=(drop) text-anchor=(anchor) { (name) }
    }
}

/// The beginning of a text that has to fit.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Hosts as a row of squares.
pub(super) fn strip(says: &str, nodes: &[Node]) -> Markup {
    html! {
        div.strip role="img" aria-label=(says) {
            @for node in nodes {
                span class=(format!("host {}", node.class)) data-href=(node.link) title=(node.says) {}
            }
        }
    }
}

/// A letter for each standing: what the script tells of the cell below the pointer.
pub(super) fn letter(standing: Standing) -> char {
    match standing {
        Standing::Apart => '-',
        Standing::Untold => 't',
        Standing::Up => 'u',
        Standing::Idle => 'i',
        Standing::Gone => 'g',
        Standing::NoHandshake => 'n',
        Standing::Silent => 's',
    }
}

/// From the host of a row to the host of a column. The worse, the more ink; every standing has a
/// shape of its own.
pub(super) fn matrix(says: &str, matrix: &Matrix, names: &[String]) -> Markup {
    let count = matrix.hosts.len();
    let cell = (900 / count.max(1)).clamp(11, 34) as f64;
    let longest = names.iter().map(|name| name.chars().count().min(16)).max().unwrap_or(0);
    let font = (cell * 0.82).min(13.0);
    let room = (longest as f64 * font * 0.62 + 10.0).ceil();
    let side = room + cell * count as f64 + 1.0;
    let cells: String = matrix.cells.iter().map(|standing| letter(*standing)).collect();
    let ids: Vec<String> = matrix.hosts.iter().map(ToString::to_string).collect();
    let legend: Vec<String> =
        Standing::ALL.iter().map(|it| format!("{}={}", letter(*it), it.name())).collect();
    let middle = |index: usize| room + cell * (index as f64 + 0.5);
    html! {
        svg.matrix #matrix width=(side) height=(side) viewBox=(format!("0 0 {side} {side}")) role="img" aria-label=(says)
            font-size=(format!("{font:.1}"))
            data-room=(room) data-cell=(cell) data-names=(names.join("\n")) data-ids=(ids.join(" "))
            data-cells=(cells) data-legend=(legend.join(";")) {
            rect.ground x=(room) y=(room) width=(cell * count as f64) height=(cell * count as f64) {}
            path.lines d=(lines(room, cell, count)) {}
            @for (index, name) in names.iter().enumerate() {
                @let name = cut(name, 16);
                text x=(room - 5.0) y=(middle(index)) dy=".35em" text-anchor="end" { (name) }
                text text-anchor="start" dy=".35em"
                    transform=(format!("translate({:.1} {:.1})rotate(-90)", middle(index), room - 5.0)) { (name) }
            }
            @for standing in Standing::ALL {
                @let shapes = shapes(matrix, standing, room, cell);
                @if !shapes.is_empty() {
                    path class=(format!("cells {}", standing.code())) d=(shapes) {}
                }
            }
            path.itself d=(diagonal(room, cell, count)) {}
            path.cross #cross d="" {}
        }
    }
}

/// Every fifth line, so that the eye keeps its row.
fn lines(room: f64, cell: f64, count: usize) -> String {
    let mut path = String::new();
    let end = cell * count as f64;
    for index in (0..=count).step_by(5) {
        let at = room + cell * index as f64;
        let _ = write!(path, "M{room} {at}h{end}M{at} {room}v{end}");
    }
    path
}

fn diagonal(room: f64, cell: f64, count: usize) -> String {
    let mut path = String::new();
    for index in 0..count {
        let at = room + cell * index as f64;
        let _ = write!(path, "M{at} {at}l{cell} {cell}");
    }
    path
}

/// All cells of one standing in one path.
fn shapes(matrix: &Matrix, wanted: Standing, room: f64, cell: f64) -> String {
    let mut path = String::new();
    let count = matrix.hosts.len();
    for (index, _) in matrix.cells.iter().enumerate().filter(|(_, it)| **it == wanted) {
        let (x, y) = (room + cell * (index % count) as f64, room + cell * (index / count) as f64);
        let _ = match wanted {
            Standing::Apart => continue,
            Standing::Up => square(&mut path, x, y, cell, cell * 0.14),
            Standing::Idle => square(&mut path, x, y, cell, cell * 0.32),
            Standing::Untold => square(&mut path, x, y, cell, cell * 0.43),
            Standing::Silent => square(&mut path, x, y, cell, 0.0),
            Standing::Gone => {
                write!(path, "M{:.1} {:.1}h{:.1}", x + cell * 0.25, y + cell * 0.5, cell * 0.5)
            }
            Standing::NoHandshake => {
                let (a, b) = (cell * 0.2, cell * 0.6);
                write!(
                    path,
                    "M{:.1} {:.1}l{b:.1} {b:.1}m0 {:.1}l{:.1} {b:.1}",
                    x + a,
                    y + a,
                    -b,
                    -b
                )
            }
        };
    }
    path
}

fn square(path: &mut String, x: f64, y: f64, cell: f64, inset: f64) -> std::fmt::Result {
    let side = cell - 2.0 * inset;
    write!(path, "M{:.1} {:.1}h{side:.1}v{side:.1}h{:.1}z", x + inset, y + inset, -side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_gaps_where_nothing_is_known() {
        let (line, area) = curve(&[Some(0.0), Some(10.0), None, Some(5.0)], 10.0);
        assert_eq!(line, "M0 59.0L1 1.0M3 30.0h.01");
        assert_eq!(area, "M0 60L0 59.0L1 1.0L1 60ZM3 60L3 30.0L3 60Z");
        assert_eq!(curve(&[None, None], 1.0), (String::new(), String::new()));
    }

    #[test]
    fn a_plots_top_is_a_round_number() {
        let tops: Vec<f64> = [0.0, 0.3, 1.0, 1.1, 4200.0, 9e9].into_iter().map(round_up).collect();
        assert_eq!(tops, [1.0, 0.5, 1.0, 2.0, 5000.0, 1e10]);
    }

    #[test]
    fn a_plot_says_in_words_what_it_shows() {
        let line = Line { name: "sent", class: "sent", points: vec![Some(3.0), None] };
        let shown = plot("Traffic", &[line], super::super::text::rate, Span::Hour).into_string();
        assert!(
            shown.contains("Traffic, from 1 h ago until now: sent 3 B/s; highest 3 B/s"),
            "{shown}"
        );
    }
}
