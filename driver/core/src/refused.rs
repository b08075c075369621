//! Which refused records people are told of: those that stand in the store, and for a while those
//! that stood there. Whoever owns a key writes its record again within milliseconds; who attacked it
//! is to be named all the same.

use std::collections::{BTreeMap, VecDeque};

use wgnet_proto::Refused;

use crate::judge::Refusal;

/// Seconds for which a refusal is told once its value is gone.
pub const TOLD_FOR: u64 = 600;

/// Told at most.
const MOST_TOLD: usize = 32;

/// Known at most: rubbish that is removed again must not have taken a place for good.
const MOST: usize = 1024;

/// What is known, the newest last; a path and reason is there once. Times are seconds of a clock that
/// only goes forward.
#[derive(Debug, Clone, Default)]
pub struct RefusedRecords {
    all: VecDeque<Told>,
}

#[derive(Debug, Clone)]
struct Told {
    refusal: Refusal,
    /// Since when its value is not in the store.
    gone: Option<u64>,
}

impl RefusedRecords {
    /// The store holds this value, in place of whatever stood at its key before.
    pub fn stands(&mut self, now: u64, refusal: &Refusal) {
        self.gone(now, |key| key == refusal.path);
        let is_same = |old: &Refusal| old.path == refusal.path && old.reason == refusal.reason;
        self.all.retain(|told| !told.is_over(now) && !is_same(&told.refusal));
        if self.all.len() >= MOST {
            let first = self.all.iter().position(|told| told.gone.is_some()).unwrap_or(0);
            self.all.remove(first);
        }
        self.all.push_back(Told { refusal: refusal.clone(), gone: None });
    }

    /// Whatever was refused at these keys does not stand there any more, as far as anybody knows.
    pub fn gone(&mut self, now: u64, is_gone: impl Fn(&str) -> bool) {
        for told in self.all.iter_mut().filter(|told| told.gone.is_none()) {
            told.gone = is_gone(&told.refusal.path).then_some(now);
        }
    }

    /// What is to be told: the newest, and of what stands rather than of what is gone.
    pub fn told(&self, now: u64) -> impl Iterator<Item = &Refusal> {
        let mut told: Vec<&Told> = self.all.iter().filter(|told| !told.is_over(now)).collect();
        let mut excess = told.len().saturating_sub(MOST_TOLD);
        for may_stand in [false, true] {
            told.retain(|told| {
                let gives_way = excess > 0 && (may_stand || told.gone.is_some());
                excess -= usize::from(gives_way);
                !gives_way
            });
        }
        told.into_iter().map(|told| &told.refusal)
    }

    /// How many more there are than are told, by reason; of more than 1024 in all those that are known.
    pub fn untold(&self, now: u64) -> BTreeMap<Refused, usize> {
        let mut untold = BTreeMap::new();
        for told in self.all.iter().filter(|told| !told.is_over(now)) {
            *untold.entry(told.refusal.reason).or_default() += 1;
        }
        for refusal in self.told(now) {
            untold.entry(refusal.reason).and_modify(|count| *count -= 1);
        }
        untold.retain(|_, count| *count > 0);
        untold
    }
}

impl Told {
    fn is_over(&self, now: u64) -> bool {
        self.gone.is_some_and(|gone| now.saturating_sub(gone) >= TOLD_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str, reason: Refused) -> Refusal {
        let path = path.to_owned();
        Refusal { path, writer: None, reason, detail: String::new(), first_time: true }
    }

    fn paths(records: &RefusedRecords, now: u64) -> Vec<&str> {
        records.told(now).map(|refusal| refusal.path.as_str()).collect()
    }

    #[test]
    fn a_refusal_is_told_while_its_value_stands_and_a_while_longer() {
        let mut records = RefusedRecords::default();
        records.stands(5, &refusal("a", Refused::Malformed));
        records.stands(6, &refusal("b", Refused::Malformed));
        assert_eq!(paths(&records, 1 << 40), ["a", "b"]);
        records.gone(7, |key| key == "a");
        records.gone(500, |key| key == "a");
        assert_eq!(paths(&records, 6 + TOLD_FOR), ["a", "b"]);
        assert_eq!(paths(&records, 7 + TOLD_FOR), ["b"]);
    }

    #[test]
    fn a_value_that_comes_again_stands_again() {
        let mut records = RefusedRecords::default();
        records.stands(5, &refusal("a", Refused::Malformed));
        records.gone(6, |_| true);
        records.stands(7, &refusal("a", Refused::Malformed));
        assert_eq!(paths(&records, 1 << 40), ["a"]);
    }

    #[test]
    fn a_key_holds_one_value_and_the_one_before_is_told_for_its_while() {
        let mut records = RefusedRecords::default();
        records.stands(5, &refusal("a", Refused::WrongSecret));
        records.stands(6, &refusal("a", Refused::RolledBack));
        let reasons = |now| records.told(now).map(|refusal| refusal.reason).collect::<Vec<_>>();
        assert_eq!(reasons(7), [Refused::WrongSecret, Refused::RolledBack]);
        assert_eq!(reasons(6 + TOLD_FOR), [Refused::RolledBack]);
    }

    #[test]
    fn where_there_is_too_much_what_is_gone_gives_way_first() {
        let mut records = RefusedRecords::default();
        for number in 0..MOST_TOLD {
            records.stands(1, &refusal(&format!("a{number}"), Refused::Malformed));
        }
        records.gone(2, |key| key == "a7");
        records.stands(3, &refusal("b", Refused::Malformed));
        assert!(!paths(&records, 4).contains(&"a7"));
        records.stands(3, &refusal("c", Refused::Malformed));
        let told = paths(&records, 4);
        assert_eq!((told.len(), told[0], told[MOST_TOLD - 1]), (MOST_TOLD, "a1", "c"));
    }

    #[test]
    fn what_is_not_told_is_counted_by_reason() {
        let mut records = RefusedRecords::default();
        for number in 0..MOST_TOLD {
            records.stands(1, &refusal(&format!("a{number}"), Refused::Malformed));
        }
        assert_eq!(records.untold(1), BTreeMap::new());
        for number in 0..MOST_TOLD + 3 {
            records.stands(1, &refusal(&format!("b{number}"), Refused::RolledBack));
        }
        let untold = [(Refused::Malformed, MOST_TOLD), (Refused::RolledBack, 3)];
        assert_eq!(records.untold(1), untold.into());
        records.gone(2, |key| key.starts_with('a'));
        assert_eq!(records.untold(2 + TOLD_FOR), [(Refused::RolledBack, 3)].into());
    }

    #[test]
    fn what_rubbish_hid_is_told_again_once_the_rubbish_is_gone() {
        let mut records = RefusedRecords::default();
        records.stands(1, &refusal("real", Refused::WrongSecret));
        for number in 0..MOST - 1 {
            records.stands(2, &refusal(&format!("rubbish{number}"), Refused::Malformed));
        }
        assert!(!paths(&records, 3).contains(&"real"));
        records.gone(4, |key| key.starts_with("rubbish"));
        assert_eq!((paths(&records, 5).len(), paths(&records, 5)[0]), (MOST_TOLD, "real"));
        assert_eq!(paths(&records, 4 + TOLD_FOR), ["real"]);
    }

    #[test]
    fn no_flood_of_refusals_fills_the_memory() {
        let mut records = RefusedRecords::default();
        for number in 0..3 * MOST {
            records.stands(1, &refusal(&format!("a{number}"), Refused::Malformed));
        }
        assert_eq!(records.all.len(), MOST);
    }
}
