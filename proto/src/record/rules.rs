//! What a record must keep to, whoever wrote it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{EndpointRecord, HostRecord, MemberRecord, NetworkRecord, Record, Slot, StatusRecord};
use crate::Path;
use crate::status::Problem;

/// Far above what any network counts to, and with room above it: one host must not use the last up.
const MAX_CLAIM: crate::Claim = 1 << 62;
/// Addresses of a host, slot or endpoint, and subnets of a network.
pub const MAX_ADDRESSES: usize = 16;
pub const MAX_SLOTS: usize = 4;
pub const MAX_NAME: usize = 64;
pub const MAX_REASON: usize = 256;
pub const MAX_OPTIONS: usize = 64;
pub const MAX_OPTION_KEY: usize = 128;
pub const MAX_OPTION_VALUE: usize = 4096;
/// Of all options of a network together.
pub const MAX_OPTIONS_SIZE: usize = 32 * 1024;
/// A status in protobuf.
pub const MAX_STATUS: usize = 32 * 1024;
/// A sentence in a status.
pub const MAX_SENTENCE: usize = 512;

/// A record that breaks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field {field:?} breaks its rule: {rule}")]
pub struct BadRecord {
    pub field: &'static str,
    pub rule: &'static str,
}

impl BadRecord {
    pub(super) fn new(field: &'static str, rule: &'static str) -> Self {
        Self { field, rule }
    }
}

impl Record {
    /// Whether this record may stand at this path. Readers refuse what does not pass, so a writer
    /// asks first.
    pub fn check(&self, path: &Path) -> Result<(), BadRecord> {
        match (path, self) {
            (Path::Cluster, Self::Cluster(record)) => {
                rule(record.schema > 0, "schema", "at least 1")
            }
            (Path::Host(_), Self::Host(record)) => check_host(record),
            (Path::Alive(_), Self::Alive(record)) => printable("boot", &record.boot, MAX_NAME),
            (Path::Status(_), Self::Status(record)) => check_status(record, self.encode().len()),
            (Path::Tombstone(_), Self::Tombstone(record)) => {
                printable("reason", &record.reason, MAX_REASON)
            }
            (Path::Network(_), Self::Network(record)) => check_network(record),
            (Path::Generation(_), Self::Generation(_)) => Ok(()),
            (Path::Member(..), Self::Member(record)) => check_member(record),
            (Path::Endpoint(_, primary), Self::Endpoint(record)) => {
                check_endpoint(*primary, record)
            }
            _ => Err(BadRecord::new("record", "of the kind the path says")),
        }
    }
}

fn check_host(record: &HostRecord) -> Result<(), BadRecord> {
    printable("name", &record.name, MAX_NAME)?;
    rule(!record.name.is_empty(), "name", "not empty")?;
    printable("version", &record.version, MAX_NAME)?;
    printable("backend", &record.backend, MAX_NAME)?;
    underlay(&record.underlay)
}

fn check_network(record: &NetworkRecord) -> Result<(), BadRecord> {
    let subnets = &record.subnets;
    at_most("subnets", subnets.len(), MAX_ADDRESSES)?;
    rule(all_differ(subnets), "subnets", "no subnet twice")?;
    for subnet in subnets {
        rule(*subnet == subnet.trunc(), "subnets", "no bits set after the prefix")?;
        rule(subnet.prefix_len() >= 8, "subnets", "a prefix length of at least 8")?;
        rule(can_be_inside(&subnet.network()), "subnets", "unicast addresses")?;
    }
    rule(record.options.len() <= MAX_OPTIONS, "options", "at most 64")?;
    let mut size = 0;
    for (key, value) in &record.options {
        rule(!key.is_empty() && key.len() <= MAX_OPTION_KEY, "options", "keys of 1 to 128 bytes")?;
        rule(value.len() <= MAX_OPTION_VALUE, "options", "values of at most 4096 bytes")?;
        rule(!has_control(key) && !has_control(value), "options", "no control characters")?;
        size += key.len() + value.len();
    }
    rule(size <= MAX_OPTIONS_SIZE, "options", "at most 32 KiB together")
}

fn check_member(record: &MemberRecord) -> Result<(), BadRecord> {
    let slots = &record.slots;
    at_most("slots", slots.len(), MAX_SLOTS)?;
    let generations: Vec<_> = slots.iter().map(|slot| slot.generation).collect();
    rule(all_differ(&generations), "slots", "no generation twice")?;
    let keys: Vec<_> = slots.iter().map(|slot| slot.public_key).collect();
    rule(all_differ(&keys), "slots", "no public key twice")?;
    slots.iter().try_for_each(check_slot)
}

fn check_slot(slot: &Slot) -> Result<(), BadRecord> {
    rule(slot.public_key.0 != [0; 32], "public_key", "not all zero")?;
    rule(slot.port != 0, "port", "1 to 65535")?;
    underlay(&slot.underlay)
}

fn check_endpoint(primary: IpAddr, record: &EndpointRecord) -> Result<(), BadRecord> {
    let addresses = &record.addresses;
    at_most("addresses", addresses.len(), MAX_ADDRESSES)?;
    rule(addresses.first() == Some(&primary), "addresses", "the one of the path first")?;
    rule(all_differ(addresses), "addresses", "no address twice")?;
    rule(addresses.iter().all(can_be_inside), "addresses", "unicast addresses")?;
    let [first, ..] = record.mac.0;
    rule(first & 1 == 0 && record.mac.0 != [0; 6], "mac", "a unicast address")?;
    rule((1..=MAX_CLAIM).contains(&record.claim), "claim", "from 1 to 2^62")
}

fn check_status(record: &StatusRecord, size: usize) -> Result<(), BadRecord> {
    status_size(size)?;
    printable("name", &record.name, MAX_NAME)?;
    printable("version", &record.version, MAX_NAME)?;
    printable("backend", &record.backend, MAX_NAME)?;
    printable("kernel", &record.kernel, MAX_NAME)?;
    underlay(&record.underlay)?;
    sentence("store", &record.store.error)?;
    let keys: Vec<_> = record.networks.iter().map(|network| &network.docker_id).collect();
    rule(all_differ(&keys), "networks", "no network twice")?;
    for network in &record.networks {
        sentence("networks", &network.error)?;
        at_most("unpublished", network.unpublished.len(), MAX_ADDRESSES)?;
    }
    record.problems.iter().try_for_each(check_problem)?;
    record.refused.keys().try_for_each(|reason| printable("refused", reason, MAX_NAME))
}

fn check_problem(problem: &Problem) -> Result<(), BadRecord> {
    rule(!problem.code.is_empty(), "problems", "with a code")?;
    printable("problems", &problem.code, MAX_NAME)?;
    let texts = [&problem.object, &problem.cause, &problem.next_step];
    texts.into_iter().try_for_each(|text| sentence("problems", text))
}

fn sentence(field: &'static str, text: &str) -> Result<(), BadRecord> {
    rule(text.len() <= MAX_SENTENCE, field, "sentences of at most 512 bytes")?;
    rule(!has_control(text), field, "no control characters")
}

/// Asked before parsing, too: what is refused anyway is not taken apart.
pub(super) fn status_size(size: usize) -> Result<(), BadRecord> {
    rule(size <= MAX_STATUS, "status", "at most 32 KiB")
}

fn underlay(addresses: &[IpAddr]) -> Result<(), BadRecord> {
    at_most("underlay", addresses.len(), MAX_ADDRESSES)?;
    rule(all_differ(addresses), "underlay", "no address twice")?;
    rule(addresses.iter().all(is_unicast), "underlay", "unicast addresses")
}

pub(super) fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), BadRecord> {
    rule(count <= limit, field, if limit == MAX_SLOTS { "at most 4" } else { "at most 16" })
}

fn rule(kept: bool, field: &'static str, rule: &'static str) -> Result<(), BadRecord> {
    if kept { Ok(()) } else { Err(BadRecord::new(field, rule)) }
}

fn printable(field: &'static str, text: &str, limit: usize) -> Result<(), BadRecord> {
    let clean = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
    rule(clean, field, "printable ASCII characters")?;
    rule(text.len() <= limit, field, "at most 64 characters (256 for a reason)")
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

fn is_unicast(address: &IpAddr) -> bool {
    let one_way_to_write_it = match address {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
    };
    one_way_to_write_it && !address.is_unspecified() && !address.is_multicast()
}

fn can_be_inside(address: &IpAddr) -> bool {
    is_unicast(address) && !address.is_loopback()
}

fn all_differ<T: Ord>(items: &[T]) -> bool {
    items.iter().collect::<BTreeSet<_>>().len() == items.len()
}
