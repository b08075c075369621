//! What memory the driver and its engine take while containers come and go: whether it grows.

use std::time::Duration;

use crate::drill::Row;
use crate::lab::{Host, LabError, Result};

/// How much the median of the last quarter may be above that of the second one. (In the first, as many
/// containers come as will be there. Where a slow drill took all of the second, the next look counts.)
const FLAT: f64 = 1.2;

/// Resident memory in MiB, looked at again and again.
#[derive(Debug, Default)]
pub(super) struct Memory(Vec<Look>);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    driver: f64,
    engine: f64,
}

impl Memory {
    /// # Errors
    ///
    /// When a program does not run.
    pub(super) fn look(&mut self, at: Duration, host: &Host) -> Result<()> {
        let resident = |program: &str| -> Result<f64> {
            let said = host.sh(&format!("grep VmRSS /proc/$(pgrep -x {program})/status"))?;
            let kilobytes =
                said.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
            let unread = || LabError::Machine(format!("{}: {program}: {said}", host.name()));
            Ok(kilobytes.ok_or_else(unread)? / 1024.0)
        };
        let (driver, engine) = (resident("wgnet-driver")?, resident("wgnet-engine")?);
        self.0.push(Look { at, driver, engine });
        Ok(())
    }

    pub(super) fn into_row(self, row: Row, length: Duration) -> Row {
        let driver = |look: &Look| look.driver;
        let engine = |look: &Look| look.engine;
        let late = |of: fn(&Look) -> f64| self.median(length * 3 / 4, Duration::MAX, of);
        let first = self.0.iter().map(|look| look.at).find(|at| *at >= length / 4);
        let to = first.map_or(length, |at| at + Duration::from_nanos(1)).max(length / 2);
        let growth = |of| late(of) / self.median(length / 4, to, of);
        row.info("looks at the memory", self.0.len() as f64, "")
            .info("driver's memory", late(driver), "MiB")
            .at_most("last quarter's to the second's", growth(driver), "times", FLAT)
            .info("engine's memory", late(engine), "MiB")
            .at_most("engine's last quarter to the second", growth(engine), "times", FLAT)
    }

    /// No number at all where nobody looked, which misses every bar.
    fn median(&self, from: Duration, to: Duration, of: fn(&Look) -> f64) -> f64 {
        let within = self.0.iter().filter(|look| look.at >= from && look.at < to);
        let mut all: Vec<f64> = within.map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(400);

    fn row(looks: &[(u64, f64)]) -> Row {
        let looks = looks.iter().map(|(at, driver)| {
            let (at, engine) = (Duration::from_secs(*at), 10.0);
            Look { at, driver: *driver, engine }
        });
        Memory(looks.collect()).into_row(Row::new("soak"), LENGTH)
    }

    #[test]
    fn memory_that_grows_is_told_from_memory_that_has_a_peak() {
        let peak = [(10, 5.0), (110, 10.0), (150, 10.5), (190, 10.2), (250, 30.0), (310, 11.0)];
        row(&[&peak[..], &[(350, 40.0), (400, 11.5), (390, 10.0)]].concat()).assert_held();
        let missed = row(&[&peak[..], &[(350, 13.0), (400, 14.0)]].concat()).missed();
        assert_eq!(missed.len(), 1, "{missed:?}");
        assert!(missed[0].contains("last quarter's to the second's 1.27 times"), "{missed:?}");
    }

    #[test]
    fn without_looks_nothing_is_flat() {
        assert_eq!(row(&[(10, 5.0)]).missed().len(), 2);
        assert_eq!(row(&[(10, 5.0), (250, 5.0), (400, 7.0)]).missed().len(), 1);
    }
}
