//! Samples and what is said of them. Pure.

/// Measurements of one thing; never empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Samples {
    /// As they came.
    taken: Vec<f64>,
    sorted: Vec<f64>,
}

impl Samples {
    /// # Panics
    ///
    /// When there is none: a measurement without samples is a mistake of the benchmark.
    pub(super) fn new(taken: Vec<f64>) -> Self {
        assert!(!taken.is_empty(), "nothing was measured");
        let mut sorted = taken.clone();
        sorted.sort_by(f64::total_cmp);
        Self { taken, sorted }
    }

    pub(super) fn count(&self) -> usize {
        self.sorted.len()
    }

    pub(super) fn taken(&self) -> &[f64] {
        &self.taken
    }

    pub(super) fn min(&self) -> f64 {
        self.sorted[0]
    }

    pub(super) fn max(&self) -> f64 {
        self.sorted[self.sorted.len() - 1]
    }

    /// The middle one, or the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let (below, above) = ((self.sorted.len() - 1) / 2, self.sorted.len() / 2);
        (self.sorted[below] + self.sorted[above]) / 2.0
    }

    /// The smallest sample that at least so many percent of all do not exceed: always one that was
    /// measured, and the largest where there are too few.
    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted[rank - 1]
    }
}

/// Which statistic of the samples a figure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statistic {
    Median,
    P99,
    /// How many of all; the samples are 0 and 1.
    Share,
}

impl Statistic {
    pub(super) fn of(self, samples: &Samples) -> f64 {
        match self {
            Self::Median => samples.median(),
            Self::P99 => samples.percentile(99),
            Self::Share => samples.taken.iter().sum::<f64>() / samples.count() as f64,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::P99 => "p99",
            Self::Share => "share",
        }
    }
}

/// What a ratio of ours to theirs should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    pub(super) fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_sample_or_the_mean_of_two() {
        assert_eq!(Samples::new(vec![7.0]).median(), 7.0);
        assert_eq!(Samples::new(vec![9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Samples::new(vec![9.0, 1.0, 4.0, 2.0]).median(), 3.0);
    }

    #[test]
    fn a_percentile_is_a_sample_that_so_many_do_not_exceed() {
        let hundred = Samples::new((1..=100).rev().map(f64::from).collect());
        assert_eq!(hundred.percentile(50), 50.0);
        assert_eq!(hundred.percentile(99), 99.0);
        assert_eq!(hundred.percentile(100), 100.0);
        assert_eq!(hundred.percentile(0), 1.0);
        let two_hundred = Samples::new((1..=200).map(f64::from).collect());
        assert_eq!(two_hundred.percentile(99), 198.0);
    }

    #[test]
    fn p99_of_few_samples_is_the_largest() {
        let few = Samples::new(vec![3.0, 1.0, 2.0]);
        assert_eq!(Statistic::P99.of(&few), few.max());
        assert_eq!(Statistic::P99.of(&few), 3.0);
    }

    #[test]
    fn a_share_is_of_all_samples() {
        assert_eq!(Statistic::Share.of(&Samples::new(vec![0.0, 1.0, 0.0, 0.0])), 0.25);
    }

    #[test]
    fn samples_keep_their_order_and_know_their_spread() {
        let samples = Samples::new(vec![2.0, -1.0, 8.0, 8.0]);
        assert_eq!((samples.count(), samples.min(), samples.max()), (4, -1.0, 8.0));
        assert_eq!(samples.taken(), [2.0, -1.0, 8.0, 8.0]);
    }

    #[test]
    #[should_panic(expected = "nothing was measured")]
    fn no_samples_are_a_mistake() {
        Samples::new(Vec::new());
    }

    #[test]
    fn an_aim_is_met_at_its_border() {
        assert!(Aim::AtLeast(3.0).is_met_by(3.0));
        assert!(!Aim::AtLeast(3.0).is_met_by(2.99));
        assert!(Aim::AtMost(1.0).is_met_by(1.0));
        assert!(!Aim::AtMost(1.0).is_met_by(1.01));
    }
}
