//! The drills: something fails while a stream runs, and what was lost is held against a bar.
//!
//! A group of drills shares one lab. [`Scale::Short`] has seconds for minutes and tens for hundreds;
//! `tests/run` takes it, `tests/bench faults` takes the other.

pub(crate) mod begin;
pub mod certificate;
pub mod docker;
pub mod driver;
pub mod host;
pub mod journal;
mod load;
mod objects;
pub mod path;
pub mod simulation;
pub mod soak;
pub mod store;
pub(crate) mod turn;

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::lab::Result;
use crate::stream::Report;

/// What [`Scale::Short`] does not have, for it would take longer than 10 s:
///
/// - An outage of 60 s. Its 5 s cut the same ways, and show what comes back. Only the full ones outlast
///   what counts in tens of seconds: 15 s until a peer is called silent and Docker gives a node up, 45 s
///   of the lease in etcd. Whoever waits less has not seen that.
/// - A move for which Docker waits 25 s, as it does if the old host's driver is down before. The short
///   one is down after Docker's call and before it told anybody.
/// - An hour before a backup is restored, a lost leader of the swarm, a dockerd that stays away or starts
///   slowly, a node that joins again, a stream between hosts while a third one has no power, the simulation
///   and its mutations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Short,
    Full,
}

impl Scale {
    pub fn pick<T>(self, short: T, full: T) -> T {
        if self == Self::Full { full } else { short }
    }
}

/// So many of the 1000 packets a second that a stream sends must have been sent at least, or it was
/// none to speak of. What a busy machine keeps it from sending for long it does not make up for.
pub(crate) const PACE: f64 = 500.0;

/// A group of drills in one lab. What it has measured stands if it cannot go on.
pub type Group = fn(Scale, &mut Rows) -> Result<()>;

/// What a group has measured so far.
#[derive(Debug, Default)]
pub struct Rows(pub Vec<Row>);

impl Rows {
    /// One more, told at once to who waits for the table.
    pub fn add(&mut self, row: Row) {
        eprintln!("  {row}");
        self.0.push(row);
    }
}

/// Runs a group short, as a test does.
///
/// # Errors
///
/// When it cannot go on.
///
/// # Panics
///
/// When a bar is missed.
pub fn hold(group: Group) -> Result<()> {
    let mut rows = Rows::default();
    let done = group(Scale::Short, &mut rows);
    rows.0.iter().for_each(|row| println!("{row}"));
    if let Err(error) = &done {
        println!("it ended there: {error}");
    }
    rows.0.iter().for_each(Row::assert_held);
    done
}

/// Every group, by the name that `--only` takes. The first has an hour to wait for in between.
pub fn all() -> Vec<(&'static str, Group)> {
    vec![
        ("store", store::store as Group),
        ("driver", driver::driver),
        ("docker", docker::docker),
        ("host", host::host),
        ("journal", journal::journal),
        ("certificate", certificate::certificate),
        ("path", path::path),
        ("soak", soak::soak),
        ("simulation", simulation::seeds),
        ("mutations", simulation::mutations),
    ]
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub drill: &'static str,
    pub measured: Vec<Figure>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    /// At most so much.
    pub bar: Option<f64>,
    /// At least so much.
    pub floor: Option<f64>,
    /// Docker's own overlay in the same drill.
    pub docker: Option<f64>,
}

impl Row {
    pub fn new(drill: &'static str) -> Self {
        Self { drill, measured: Vec::new() }
    }

    pub fn at_most(self, name: &'static str, value: f64, unit: &'static str, bar: f64) -> Self {
        self.with(Figure { bar: Some(bar), ..Figure::new(name, value, unit) })
    }

    /// What would prove nothing if it were less.
    pub fn at_least(self, name: &'static str, value: f64, unit: &'static str, floor: f64) -> Self {
        self.with(Figure { floor: Some(floor), ..Figure::new(name, value, unit) })
    }

    pub fn info(self, name: &'static str, value: f64, unit: &'static str) -> Self {
        self.with(Figure::new(name, value, unit))
    }

    /// Docker's own overlay, for the last figure.
    pub fn beside(mut self, docker: f64) -> Self {
        self.measured.last_mut().expect("a figure comes before what is beside it").docker =
            Some(docker);
        self
    }

    /// A stream that must not notice.
    pub fn lost_nothing(self, report: &Report) -> Self {
        self.at_most("lost", report.lost() as f64, "packets", 0.0).of(report).info(
            "longest gap",
            milliseconds(report.longest_gap()),
            "ms",
        )
    }

    /// The same between hosts to which nothing happens.
    pub(crate) fn lost_nothing_between_others(self, report: &Report) -> Self {
        for loss in report.there.losses.iter().chain(&report.back.losses) {
            eprintln!("  {}: {loss:?}", self.drill);
        }
        self.at_most("lost between other hosts", report.lost() as f64, "packets", 0.0)
            .of(report)
            .info("longest gap there", milliseconds(report.longest_gap()), "ms")
    }

    /// How much was sent, and whether it arrived once and in order.
    fn of(self, report: &Report) -> Self {
        self.info("of", report.sent() as f64, "packets")
            .at_least("sent a second each way", report.per_second(), "packets", PACE)
            .at_most("duplicated", report.duplicated() as f64, "packets", 0.0)
            .info("reordered", report.reordered() as f64, "packets")
    }

    /// What misses its bar, one sentence each.
    pub fn missed(&self) -> Vec<String> {
        let missed = self.measured.iter().filter(|figure| figure.missed());
        missed
            .map(|figure| {
                let bars = figure.bars().map(|(words, _, amount)| format!(", {words} {amount}"));
                format!("{}: {figure}{}", self.drill, bars.collect::<String>())
            })
            .collect()
    }

    /// # Panics
    ///
    /// When a bar is missed.
    pub fn assert_held(&self) {
        assert_eq!(self.missed(), Vec::<String>::new(), "{self}");
    }

    fn with(mut self, figure: Figure) -> Self {
        self.measured.push(figure);
        self
    }
}

/// As a table of Markdown wants it.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |texts: Vec<String>| texts.join("; ");
        let figures = &self.measured;
        let bars = figures.iter().flat_map(|figure| {
            figure.bars().map(move |(_, sign, amount)| format!("{} {sign} {amount}", figure.name))
        });
        let beside = figures.iter().filter_map(|figure| {
            let value = figure.docker?;
            Some(format!("{}", Figure { value, ..figure.clone() }))
        });
        let held = if figures.iter().any(Figure::missed) { "**MISSED**" } else { "held" };
        write!(
            f,
            "| {} | {} | {} | {} | {held} |",
            self.drill,
            joined(bars.collect()),
            joined(figures.iter().map(Figure::to_string).collect()),
            joined(beside.collect()),
        )
    }
}

impl Figure {
    fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, bar: None, floor: None, docker: None }
    }

    fn missed(&self) -> bool {
        // What is no number at all misses, too.
        let over = self.bar.is_some_and(|bar| self.value.is_nan() || self.value > bar);
        let under = self.floor.is_some_and(|floor| self.value.is_nan() || self.value < floor);
        over || under
    }

    /// Each in words, as a sign, and its amount.
    fn bars(&self) -> impl Iterator<Item = (&'static str, &'static str, String)> + use<> {
        let amount = |value| Self { value, ..self.clone() }.amount();
        let most = self.bar.map(|bar| ("at most", "≤", amount(bar)));
        let least = self.floor.map(|floor| ("at least", "≥", amount(floor)));
        most.into_iter().chain(least)
    }

    fn amount(&self) -> String {
        let value = self.value;
        if value.is_infinite() {
            return "never".into();
        }
        let number = match value.abs() {
            _ if value.fract() == 0.0 => format!("{value:.0}"),
            large if large >= 100.0 => format!("{value:.0}"),
            middle if middle >= 10.0 => format!("{value:.1}"),
            _ => format!("{value:.2}"),
        };
        if self.unit.is_empty() { number } else { format!("{number} {}", self.unit) }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.amount())
    }
}

pub(crate) fn milliseconds(length: Duration) -> f64 {
    length.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_line_of_the_table() {
        let row = Row::new("cable out")
            .at_most("back after", 0.25, "s", 1.0)
            .beside(f64::INFINITY)
            .info("lost", 12.0, "packets");
        let line = "| cable out | back after ≤ 1 s | back after 0.25 s; lost 12 packets | back after never | held |";
        assert_eq!(row.to_string(), line);
        row.assert_held();
    }

    #[test]
    fn what_is_over_its_bar_or_no_number_is_missed() {
        let row = Row::new("driver killed")
            .at_most("lost", 1.0, "packets", 0.0)
            .at_most("gap", f64::NAN, "ms", 1.0)
            .at_most("leaked", 0.0, "objects", 0.0);
        assert_eq!(row.missed().len(), 2);
        assert_eq!(row.missed()[0], "driver killed: lost 1 packets, at most 0 packets");
        assert!(row.to_string().ends_with("**MISSED** |"));
    }

    #[test]
    fn what_is_under_its_floor_proves_nothing_and_is_missed() {
        let row = Row::new("driver killed").at_least("containers started", 8.0, "", 8.0);
        row.assert_held();
        let line = "| driver killed | containers started ≥ 8 | containers started 8 |  | held |";
        assert_eq!(row.to_string(), line);
        let row = row.at_least("on each host", 0.0, "", 1.0).at_least("for", f64::NAN, "s", 1.0);
        assert_eq!(row.missed().len(), 2);
        assert_eq!(row.missed()[0], "driver killed: on each host 0, at least 1");
    }
}
