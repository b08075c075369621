//! Clocks that differ between hosts, by the times in their status records.

use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::fleet::rows::HostState;
use wgnet_proto::HostId;

use super::Finding;
use crate::table::age;

/// What a record needs to get here, and clocks that are kept may differ by.
const ALLOWED: u64 = 20;

const WHY: &str = "WireGuard takes no handshake that is older than one it has seen: after a clock went \
                   back, a host is not answered until it has caught up; times in status and logs mislead";

/// One record: its host, when it was written, and within what time the next one is.
struct Written {
    name: String,
    is_me: bool,
    written: u64,
    next_within: u64,
}

pub(super) fn findings(fleet: &Fleet, me: Option<HostId>, now: u64) -> Vec<Finding> {
    let alive =
        fleet.reports().iter().filter(|(host, _)| fleet.state_of(**host) == HostState::Alive);
    let records = alive.filter_map(|(host, report)| {
        Some(Written {
            name: fleet.host_name(*host),
            is_me: Some(*host) == me,
            written: report.written?,
            next_within: report.next_within.into(),
        })
    });
    judge(&records.collect::<Vec<_>>(), now)
}

fn judge(records: &[Written], now: u64) -> Vec<Finding> {
    let others: Vec<&Written> = records.iter().filter(|record| !record.is_me).collect();
    let off: Vec<(&Written, String)> =
        others.iter().filter_map(|record| Some((*record, off(record, now)?))).collect();
    // If all others seem to be wrong, it is this clock.
    if off.len() > 1 && off.len() == others.len() {
        return vec![Finding::error(
            "clock",
            format!(
                "this host's clock differs from those of all {} others: {} is {}",
                off.len(),
                off[0].0.name,
                off[0].1
            ),
            WHY,
            "set it and keep it: timedatectl set-ntp true; timedatectl status",
        )];
    }
    let each = off.into_iter().map(|(record, how)| {
        Finding::error(
            "clock",
            format!("the clock of {} is {how}", record.name),
            WHY,
            format!("on {}: timedatectl set-ntp true; timedatectl status", record.name),
        )
    });
    each.collect()
}

/// How a record's clock differs from this one, if it does.
fn off(record: &Written, now: u64) -> Option<String> {
    if record.written > now + ALLOWED {
        return Some(format!("{} ahead of this one", age(record.written - now)));
    }
    let late = now.saturating_sub(record.written);
    // Its lease lives, so its driver does; a record may be delayed by as much again.
    (late > 2 * record.next_within + 3 * ALLOWED)
        .then(|| format!("{} behind this one, or its driver is stuck", age(late)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn written(offsets: &[i64]) -> Vec<Finding> {
        let records = offsets.iter().enumerate().map(|(number, offset)| Written {
            name: format!("h{number}"),
            is_me: number == 0,
            written: NOW.saturating_add_signed(*offset),
            next_within: 15,
        });
        judge(&records.collect::<Vec<_>>(), NOW)
    }

    #[test]
    fn kept_clocks_are_not_mentioned() {
        assert!(written(&[-1, 0, 3, -14]).is_empty());
    }

    #[test]
    fn a_clock_that_is_off_by_an_hour_is_found_either_way() {
        assert!(written(&[0, 3600, 0])[0].what.contains("h1 is 60 min ahead"));
        assert!(written(&[0, 0, -3600])[0].what.contains("h2 is 60 min behind"));
    }

    #[test]
    fn where_all_others_are_off_it_is_this_clock() {
        let found = written(&[0, 3600, 3601, 3599]);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.starts_with("this host's clock"));
    }
}
