//! The options of `docker network create -o`: parsed, or refused with a text that helps.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use crate::NetworkOptions;

/// What WireGuard adds to a packet over an IPv6 underlay: 40 + 8 + 32 bytes.
pub const OVERHEAD: u16 = 80;

/// RFC 791's smallest datagram that every host must take.
pub const SMALLEST_MTU: u16 = 576;
/// Below this the kernel takes IPv6 off a link (RFC 8200, section 5).
pub const SMALLEST_MTU_IPV6: u16 = 1280;
pub const LARGEST_MTU: u16 = 9000;

/// An option that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    #[error("network option {key:?} is not known to wgnet; known options: {Known}")]
    Unknown { key: String },
    #[error("network option {key}={value:?} is not valid: want {wanted}; known options: {Known}")]
    Bad {
        key: String,
        value: String,
        wanted: String,
    },
}

/// Parses the options as they came. Keys of Docker's own (`com.docker.…`) pass unread, but for its
/// `com.docker.network.driver.mtu`, which `mtu` overrides. `ipv6`: the network has an IPv6 subnet.
///
/// # Errors
///
/// Names the first unknown or bad option, in the order of their keys.
pub fn parse(raw: &BTreeMap<String, String>, ipv6: bool) -> Result<NetworkOptions, OptionError> {
    let mut options = NetworkOptions::default();
    let mut docker_mtu = None;
    for (key, value) in raw {
        let bad = |wanted: String| OptionError::Bad {
            key: clip(key),
            value: clip(value),
            wanted,
        };
        let number = |range: RangeInclusive<u16>| {
            let wanted = format!("a number from {} to {}", range.start(), range.end());
            let number = canonical_number(value).filter(|n| range.contains(n));
            number.ok_or_else(|| bad(wanted))
        };
        match key.as_str() {
            "mtu" => options.mtu = Some(number(smallest_mtu(ipv6)..=LARGEST_MTU)?),
            DOCKER_MTU => docker_mtu = Some(number(smallest_mtu(ipv6)..=LARGEST_MTU)?),
            "port" => options.port = Some(number(1..=u16::MAX)?),
            "keepalive" => options.keepalive = Some(number(0..=u16::MAX)?).filter(|s| *s > 0),
            "gwbridge" => {
                options.gwbridge = Some(match value.as_str() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(bad("true or false".to_owned())),
                })
            }
            "id" => {
                wgnet_proto::NetworkKey::named(value)
                    .map_err(|_| bad("1 to 40 characters of [a-z0-9-]".to_owned()))?;
                options.id = Some(value.clone());
            }
            _ if key.starts_with("com.docker.") => {}
            _ => return Err(OptionError::Unknown { key: clip(key) }),
        }
    }
    options.mtu = options.mtu.or(docker_mtu);
    Ok(options)
}

/// The MTU of a network's links: the option, else what the underlay leaves.
pub fn mtu(options: &NetworkOptions, underlay_mtu: u16, ipv6: bool) -> u16 {
    let room = underlay_mtu.saturating_sub(OVERHEAD);
    options
        .mtu
        .unwrap_or(room)
        .clamp(smallest_mtu(ipv6), LARGEST_MTU)
}

const DOCKER_MTU: &str = "com.docker.network.driver.mtu";

fn smallest_mtu(ipv6: bool) -> u16 {
    if ipv6 {
        SMALLEST_MTU_IPV6
    } else {
        SMALLEST_MTU
    }
}

/// Only the form a person would expect: no sign, no leading zero, no space.
fn canonical_number(text: &str) -> Option<u16> {
    text.parse().ok().filter(|n: &u16| n.to_string() == text)
}

/// Enough of a text to recognise it, never enough to fill a log.
fn clip(text: &str) -> String {
    text.chars().take(60).collect()
}

/// The known options with their forms, as a person reads them.
struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mtu=<{SMALLEST_MTU} to {LARGEST_MTU}, with IPv6 from {SMALLEST_MTU_IPV6}>, \
             port=<1 to 65535>, keepalive=<seconds, 1 to 65535, or 0 for off>, \
             gwbridge=<true or false>, id=<1 to 40 characters of [a-z0-9-]>"
        )
    }
}
