//! What is wrong with etcd's members.

use std::time::Duration;

use wgnet_control_plane::store::etcd::health::{Member, Unheard};
use wgnet_proto::text::clipped;

use super::Finding;
use crate::table::bytes;

/// The first version without the lost events that drivers have to look for (README).
const OLDEST: (u32, u32) = (3, 5);

/// etcd's own default of `--quota-backend-bytes`.
const QUOTA: u64 = 2 << 30;

const SLOW: Duration = Duration::from_millis(500);

pub(super) fn bad_settings(error: &anyhow::Error) -> Finding {
    Finding::error(
        "etcd-settings",
        format!("{error:#}"),
        "without etcd hosts do not find each other",
        "correct `etcd_ca`, `etcd_cert` and `etcd_key` in /etc/wgnet/driver.toml",
    )
}

pub(super) fn findings(members: &[Member]) -> Vec<Finding> {
    let mut found = Vec::new();
    for member in members {
        let endpoint = clipped(&member.endpoint, 100);
        let health = match &member.heard {
            Ok(health) => health,
            Err(Unheard::Name(why)) => {
                found.push(Finding::error(
                    "etcd-name",
                    format!("the name in {endpoint} has no address: {}", clipped(why, 200)),
                    "what this host publishes does not reach the others, nor theirs it",
                    "correct the name in `etcd` (/etc/wgnet/driver.toml), or DNS: getent hosts NAME",
                ));
                continue;
            }
            Err(Unheard::Silent(why)) => {
                found.push(Finding::error(
                    "etcd-away",
                    format!("{endpoint} does not answer: {}", clipped(why, 300)),
                    "running traffic goes on; changes do not reach other hosts while no member answers",
                    format!("see whether it runs, and whether TCP to it is open: etcdctl --endpoints {endpoint} endpoint health"),
                ));
                continue;
            }
        };
        if !health.has_leader {
            found.push(Finding::error(
                "etcd-no-leader",
                format!(
                    "{endpoint} has no leader: most members are down, or cannot reach each other"
                ),
                "changes do not reach other hosts meanwhile; running traffic goes on",
                "start the members that are down: etcdctl endpoint status --cluster -w table",
            ));
        }
        for alarm in &health.alarms {
            let next = match alarm.as_str() {
                "NOSPACE" => {
                    "compact and defragment etcd, raise --quota-backend-bytes, then: etcdctl alarm disarm"
                }
                _ => {
                    "see etcd's log; a member with corrupt data is to be removed and added anew: etcdctl alarm list"
                }
            };
            let finding = Finding::error(
                "etcd-alarm",
                format!("etcd has raised the alarm {}", clipped(alarm, 100)),
                "it takes no changes until the alarm is disarmed: new containers are not reachable from other hosts",
                next,
            );
            // Every member tells of all alarms.
            if !found.contains(&finding) {
                found.push(finding);
            }
        }
        if is_older(&health.version) {
            found.push(Finding::warning(
                "etcd-old",
                format!("{endpoint} is etcd {}", clipped(&health.version, 40)),
                "versions before 3.5 can lose events of a watch; wgnet finds out, but only after minutes",
                "upgrade etcd to 3.5 or newer",
            ));
        }
        if health.size > QUOTA / 5 * 4 {
            found.push(Finding::warning(
                "etcd-size",
                format!("the data of {endpoint} take {} on disk; etcd's default quota is {}", bytes(health.size), bytes(QUOTA)),
                "above its quota etcd takes no changes",
                "set --auto-compaction-retention=1h, then: etcdctl defrag --cluster; or raise --quota-backend-bytes",
            ));
        }
        if health.took > SLOW {
            found.push(Finding::warning(
                "etcd-slow",
                format!("{endpoint} took {} ms for one answer", health.took.as_millis()),
                "changes reach the other hosts that much later",
                "see the disk and the load there: etcdctl check perf",
            ));
        }
    }
    found
}

fn is_older(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use wgnet_control_plane::store::etcd::health::Health;

    use super::*;

    fn codes(heard: Result<Health, Unheard>) -> Vec<String> {
        let member = Member { endpoint: "http://e:2379".to_owned(), heard };
        let found = findings(&[member.clone(), member]);
        let codes: std::collections::BTreeSet<_> = found.into_iter().map(|it| it.code).collect();
        codes.into_iter().collect()
    }

    fn healthy() -> Health {
        Health {
            version: "3.5.16".to_owned(),
            has_leader: true,
            size: 20 << 20,
            alarms: Vec::new(),
            took: Duration::from_millis(2),
        }
    }

    #[test]
    fn a_healthy_member_is_not_mentioned() {
        assert!(codes(Ok(healthy())).is_empty());
    }

    #[test]
    fn each_fault_of_etcd_is_found() {
        assert_eq!(codes(Err(Unheard::Name("no such host".to_owned()))), ["etcd-name"]);
        assert_eq!(codes(Err(Unheard::Silent("refused".to_owned()))), ["etcd-away"]);
        assert_eq!(codes(Ok(Health { has_leader: false, ..healthy() })), ["etcd-no-leader"]);
        let alarms = vec!["NOSPACE".to_owned()];
        assert_eq!(codes(Ok(Health { alarms, ..healthy() })), ["etcd-alarm"]);
        let version = "3.4.23".to_owned();
        assert_eq!(codes(Ok(Health { version, ..healthy() })), ["etcd-old"]);
        assert_eq!(codes(Ok(Health { size: 2 << 30, ..healthy() })), ["etcd-size"]);
        assert_eq!(codes(Ok(Health { took: Duration::from_secs(2), ..healthy() })), ["etcd-slow"]);
    }

    #[test]
    fn an_alarm_is_told_once_for_all_members() {
        let health = Health { alarms: vec!["NOSPACE".to_owned()], ..healthy() };
        let member = Member { endpoint: "http://e:2379".to_owned(), heard: Ok(health) };
        assert_eq!(findings(&[member.clone(), member]).len(), 1);
    }
}
