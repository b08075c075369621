//! The table, as Markdown that a terminal shows well too, and the same as JSON.

use std::fmt;

use serde_json::{Value, json};

use super::machine::Machine;
use super::statistics::{Aim, Samples, Statistic};

const NOTES: &str = "\
- Both hosts are on this machine: its processors do the work of both ends, and of the whole underlay.
- The overlay encrypts nothing, and between hosts of one machine it is never asked to cut its 64 KB
  segments into packets: its throughput is that of handing memory around.
- Times of `docker run` begin with the command; the first answer is the first one to a container on the
  other host that pings the new one's address every 10 ms. From its return to that answer it is less than
  0 where the answer was there so long before the command returned: nobody waits, and there is no ratio.
- A first connection lost a packet if what a container fetches from the other host, as the first thing it
  does, is not there within a second.
- p99 of fewer than 100 samples is the largest of them.
";

pub(super) struct Report {
    machine: Machine,
    figures: Vec<Figure>,
}

/// One line of the table.
pub(super) struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub statistic: Statistic,
    pub wgnet: Samples,
    /// What it is compared with, by name.
    pub beside: Option<(&'static str, Samples)>,
    pub aim: Option<Aim>,
}

impl Figure {
    /// What is not above 0 has none.
    fn ratio(&self) -> Option<f64> {
        let [ours, theirs] = self.compared()?;
        (ours > 0.0 && theirs > 0.0).then(|| ours / theirs)
    }

    fn compared(&self) -> Option<[f64; 2]> {
        let (_, theirs) = self.beside.as_ref()?;
        Some([self.statistic.of(&self.wgnet), self.statistic.of(theirs)])
    }

    /// Where one of both is nothing, there is no ratio, but one of both is better all the same.
    fn aim_met(&self) -> Option<bool> {
        let (aim, [ours, theirs]) = self.aim.zip(self.compared())?;
        Some(match (self.ratio(), aim) {
            (Some(ratio), aim) => aim.is_met_by(ratio),
            (None, Aim::AtMost(_)) => ours <= 0.0,
            (None, Aim::AtLeast(_)) => theirs <= 0.0,
        })
    }

    fn cells(&self) -> [String; 5] {
        let aim = self.aim.zip(self.aim_met()).map(|(aim, met)| {
            let wanted = match aim {
                Aim::AtLeast(least) => format!(">= {least}"),
                Aim::AtMost(most) => format!("<= {most}"),
            };
            wanted + if met { ", met" } else { ", MISSED" }
        });
        let beside =
            self.beside.as_ref().map(|(name, theirs)| format!("{name}: {}", self.value(theirs)));
        [
            self.title(),
            self.value(&self.wgnet),
            beside.unwrap_or_default(),
            match (self.ratio(), &self.beside) {
                (Some(ratio), _) => format!("{ratio:.2}"),
                (None, Some(_)) if self.statistic != Statistic::Share => "none".to_owned(),
                (None, _) => String::new(),
            },
            aim.unwrap_or_default(),
        ]
    }

    fn title(&self) -> String {
        match self.statistic {
            Statistic::Share => self.what.clone(),
            statistic => format!("{}, {}, {}", self.what, self.unit, statistic.name()),
        }
    }

    fn value(&self, samples: &Samples) -> String {
        if self.statistic == Statistic::Share {
            let hits = samples.taken().iter().filter(|&&sample| sample > 0.0).count();
            return format!("**{hits}** of {}", samples.count());
        }
        let (value, min, max) = (self.statistic.of(samples), samples.min(), samples.max());
        format!("**{}** ({}..{}, n {})", short(value), short(min), short(max), samples.count())
    }

    fn json(&self) -> Value {
        let value = |samples: &Samples| json!({ "value": self.statistic.of(samples), "n": samples.count(), "samples": samples.taken() });
        json!({
            "what": self.what,
            "unit": self.unit,
            "statistic": self.statistic.name(),
            "wgnet": value(&self.wgnet),
            "beside": self.beside.as_ref().map(|(name, theirs)| json!({ "name": name, "figure": value(theirs) })),
            "ratio": self.ratio(),
            "aim_met": self.aim_met(),
        })
    }
}

impl Report {
    pub(super) fn new(machine: Machine) -> Self {
        Self { machine, figures: Vec::new() }
    }

    pub(super) fn add(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    pub(super) fn note_others(&mut self, shares: [f64; 2]) {
        shares.into_iter().for_each(|share| self.machine.note_others(share));
    }

    pub(super) fn json(&self) -> Value {
        let figures: Vec<Value> = self.figures.iter().map(Figure::json).collect();
        json!({ "machine": self.machine.json(), "figures": figures })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        let head =
            ["figure (min..max, samples)", "wgnet", "beside", "ratio", "aim"].map(str::to_owned);
        let rows: Vec<[String; 5]> = self.figures.iter().map(Figure::cells).collect();
        write!(f, "{}\n{NOTES}", table(&head, &rows))
    }
}

/// Three digits that matter; more before the point as they come.
fn short(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.places$}")
}

fn table(head: &[String; 5], rows: &[[String; 5]]) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().chain([head]).map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let line = |cells: &[String; 5]| {
        let cells = cells.iter().zip(&widths).map(|(cell, &width)| format!(" {cell:<width$} |"));
        format!("|{}\n", cells.collect::<String>())
    };
    let rule: String = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect();
    let rows: String = rows.iter().map(line).collect();
    format!("{}|{rule}\n{rows}", line(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(wgnet: &[f64], theirs: &[f64], aim: Aim) -> Figure {
        Figure {
            what: "stream".into(),
            unit: "Mbit/s",
            statistic: Statistic::Median,
            wgnet: Samples::new(wgnet.to_vec()),
            beside: Some(("other", Samples::new(theirs.to_vec()))),
            aim: Some(aim),
        }
    }

    #[test]
    fn a_line_shows_both_medians_with_spread_and_number_their_ratio_and_the_aim() {
        let met = figure(&[900.0, 1500.0, 1200.0], &[400.0, 300.0, 350.0], Aim::AtLeast(3.0));
        let cells = met.cells();
        assert_eq!(cells[0], "stream, Mbit/s, median");
        assert_eq!(cells[1], "**1200** (900..1500, n 3)");
        assert_eq!(cells[2], "other: **350** (300..400, n 3)");
        assert_eq!(cells[3..], ["3.43", ">= 3, met"]);
        let missed = figure(&[11.0], &[10.0], Aim::AtMost(1.0));
        assert_eq!(missed.cells()[3..], ["1.10", "<= 1, MISSED"]);
        assert_eq!(missed.json()["aim_met"], false);
    }

    #[test]
    fn a_share_is_shown_as_so_many_of_all() {
        let lost = Figure {
            what: "lost".into(),
            unit: "",
            statistic: Statistic::Share,
            wgnet: Samples::new(vec![0.0, 1.0, 0.0]),
            beside: None,
            aim: None,
        };
        assert_eq!(lost.cells()[..2], ["lost", "**1** of 3"]);
    }

    #[test]
    fn there_is_no_ratio_to_nothing_but_the_aim_is_met_or_missed() {
        let cells = |ours, theirs, aim| figure(&[ours], &[theirs], aim).cells()[3..].to_vec();
        for ours in [0.0, -40.0] {
            assert_eq!(cells(ours, -50.0, Aim::AtMost(1.0)), ["none", "<= 1, met"]);
            assert_eq!(cells(ours, 5.0, Aim::AtMost(1.0)), ["none", "<= 1, met"]);
        }
        assert_eq!(cells(5.0, -1.0, Aim::AtMost(1.0)), ["none", "<= 1, MISSED"]);
        assert_eq!(cells(0.0, 5.0, Aim::AtLeast(3.0)), ["none", ">= 3, MISSED"]);
        let waits = figure(&[5.0], &[0.0], Aim::AtMost(1.0)).json();
        assert_eq!((&waits["ratio"], &waits["aim_met"]), (&Value::Null, &json!(false)));
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(
            [1234.5, 12.34, 1.234, 0.0, 0.012].map(short),
            ["1234", "12.3", "1.23", "0", "0.01"]
        );
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cell: &str| {
            [cell.to_owned(), String::new(), String::new(), String::new(), String::new()]
        };
        let table = table(&row("a"), &[row("abc"), row("")]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines,
            [
                "| a   |  |  |  |  |",
                "|-----|--|--|--|--|",
                "| abc |  |  |  |  |",
                "|     |  |  |  |  |"
            ]
        );
    }
}
