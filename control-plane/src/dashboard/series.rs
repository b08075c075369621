//! What is plotted: samples in buckets of equal width, for an hour and for a day. Where nothing was
//! known there is a gap, and not zero.

use std::collections::VecDeque;

/// How many buckets a plot has.
pub(super) const BUCKETS: usize = 240;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Span {
    #[default]
    Hour,
    Day,
}

impl Span {
    /// Seconds.
    fn bucket(self) -> u64 {
        match self {
            Self::Hour => 15,
            Self::Day => 360,
        }
    }
}

/// What of several samples in one bucket is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Mean,
    Highest,
}

#[derive(Debug, Clone)]
pub(super) struct Series {
    keep: Keep,
    hour: Ring,
    day: Ring,
}

impl Series {
    pub(super) fn new(keep: Keep) -> Self {
        Self { keep, hour: Ring::new(Span::Hour), day: Ring::new(Span::Day) }
    }

    /// `now` is in seconds since the epoch.
    pub(super) fn sample(&mut self, now: u64, value: f32) {
        self.hour.sample(self.keep, now, value);
        self.day.sample(self.keep, now, value);
    }

    /// The oldest first, the bucket of `now` last; always [`BUCKETS`].
    pub(super) fn points(&self, span: Span, now: u64) -> Vec<Option<f32>> {
        match span {
            Span::Hour => self.hour.points(now),
            Span::Day => self.day.points(now),
        }
    }
}

#[derive(Debug, Clone)]
struct Ring {
    width: u64,
    /// Of the last bucket: seconds since the epoch by the width.
    newest: u64,
    buckets: VecDeque<Bucket>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    sum: f32,
    samples: u16,
}

impl Ring {
    fn new(span: Span) -> Self {
        Self { width: span.bucket(), newest: 0, buckets: VecDeque::new() }
    }

    fn sample(&mut self, keep: Keep, now: u64, value: f32) {
        let at = now / self.width;
        if at > self.newest {
            let missing = usize::try_from(at - self.newest).unwrap_or(BUCKETS).min(BUCKETS);
            self.newest = at;
            self.buckets.extend(std::iter::repeat_n(Bucket::default(), missing));
            let surplus = self.buckets.len().saturating_sub(BUCKETS);
            self.buckets.drain(..surplus);
        }
        // A clock that was set back adds to the newest bucket.
        let Some(bucket) = self.buckets.back_mut() else { return };
        match keep {
            Keep::Mean if bucket.samples < u16::MAX => {
                bucket.sum += value;
                bucket.samples += 1;
            }
            Keep::Mean => {}
            Keep::Highest => {
                bucket.sum = bucket.sum.max(value);
                bucket.samples = 1;
            }
        }
    }

    fn points(&self, now: u64) -> Vec<Option<f32>> {
        let since = (now / self.width).saturating_sub(self.newest);
        let since = usize::try_from(since).unwrap_or(BUCKETS).min(BUCKETS);
        let known = self.buckets.iter().map(|bucket| {
            (bucket.samples > 0).then(|| bucket.sum / f32::from(bucket.samples.max(1)))
        });
        let known: Vec<Option<f32>> = known.chain(std::iter::repeat_n(None, since)).collect();
        let missing = BUCKETS.saturating_sub(known.len());
        let surplus = known.len().saturating_sub(BUCKETS);
        std::iter::repeat_n(None, missing).chain(known.into_iter().skip(surplus)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_bucket_become_their_mean_or_the_highest() {
        for (keep, kept) in [(Keep::Mean, 2.0), (Keep::Highest, 3.0)] {
            let mut series = Series::new(keep);
            series.sample(1_000_000, 1.0);
            series.sample(1_000_001, 3.0);
            let points = series.points(Span::Hour, 1_000_001);
            assert_eq!(points.len(), BUCKETS);
            assert_eq!(points[BUCKETS - 1], Some(kept));
            assert_eq!(points[BUCKETS - 2], None);
        }
    }

    #[test]
    fn what_was_not_sampled_is_a_gap_and_what_is_old_goes() {
        let mut series = Series::new(Keep::Mean);
        series.sample(1500, 1.0);
        series.sample(1560, 2.0);
        let points = series.points(Span::Hour, 1575);
        assert_eq!(points[BUCKETS - 6..], [Some(1.0), None, None, None, Some(2.0), None]);
        series.sample(1560 + 3600, 7.0);
        let points = series.points(Span::Hour, 1560 + 3600);
        assert_eq!(points.iter().flatten().collect::<Vec<_>>(), [&7.0]);
        assert_eq!(series.points(Span::Day, 1560 + 3600).iter().flatten().count(), 2);
        assert_eq!(series.points(Span::Hour, 1_000_000), vec![None; BUCKETS]);
    }

    #[test]
    fn a_clock_that_was_set_back_breaks_nothing() {
        let mut series = Series::new(Keep::Mean);
        series.sample(10_000, 1.0);
        series.sample(9_000, 3.0);
        assert_eq!(series.points(Span::Hour, 9_000)[BUCKETS - 1], Some(2.0));
    }
}
