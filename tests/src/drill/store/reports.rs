//! Whether a driver says that etcd is of another history now.
//!
//! The problem is shown for ten minutes, so that it may be an earlier history's: it has to be about what
//! the driver's log says since.

/// A driver saw it itself by the revision, and names both; or by the record of the cluster; or it was
/// told by another host.
const NOTICES: [&str; 3] = ["The store's revision fell", EARLIER, "Another history of the store"];
const EARLIER: &str = "The store holds an earlier history";

/// How often a driver noticed another history, by its log.
pub(super) fn noticed(log: &str) -> usize {
    notices(log).count()
}

/// Whether the problem's cause is about something that was noticed after the first so many.
pub(super) fn are_of_now(log: &str, before: usize, cause: &str) -> bool {
    notices(log).skip(before).any(|notice| {
        let field = |name: &str| notice.split_whitespace().find_map(|word| word.strip_prefix(name));
        match (field("highest="), field("revision=")) {
            (Some(from), Some(to)) => cause.contains(&format!("fell from {from} to {to}:")),
            _ if notice.contains(EARLIER) => cause.starts_with("etcd holds an earlier history"),
            _ => cause.starts_with("another host saw"),
        }
    })
}

fn notices(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter(|line| NOTICES.iter().any(|notice| line.contains(notice)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FELL: &str = "WARN The store's revision fell: it was wiped or restored";
    const TOLD: &str = "INFO Another history of the store: listing everything incarnation=3236cd1c";

    #[test]
    fn a_report_of_an_earlier_history_is_none_of_this_one() {
        let old = "etcd's revision fell from 14 to 1: it was wiped or restored from a backup";
        let first = format!("{FELL} revision=1 highest=14\n{TOLD}\n");
        assert!(are_of_now(&first, 0, old));
        let before = noticed(&first);
        assert_eq!(before, 2);
        assert!(!are_of_now(&first, before, old));

        let second = format!("{first}INFO something else\n{FELL} revision=3 highest=80\n{TOLD}\n");
        assert!(!are_of_now(&second, before, old));
        let new = old.replace("14 to 1:", "80 to 3:");
        assert!(are_of_now(&second, before, &new));

        let told = format!("{first}{TOLD}\n");
        assert!(!are_of_now(&told, before, old));
        let by_another = "another host saw that etcd was wiped or restored from a backup";
        assert!(are_of_now(&told, before, by_another));
        assert!(!are_of_now(&first, before, by_another));

        let earlier = format!("{first}WARN {EARLIER}: it was restored holds=1 met=2\n");
        let by_the_record = "etcd holds an earlier history than this host has met: it was restored";
        assert!(are_of_now(&earlier, before, by_the_record));
        assert!(!are_of_now(&told, before, by_the_record) && !are_of_now(&earlier, before, old));
    }
}
