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
    Bad { key: String, value: String, wanted: String },
    #[error(
        "network options mtu={ours} and {DOCKER_MTU}={dockers} mean the same and differ; give one of them"
    )]
    TwoMtus { ours: u16, dockers: u16 },
}

/// Parses the options as they came. Keys of Docker's own (`com.docker.…`) pass unread, but for its
/// `com.docker.network.driver.mtu`, which is another name of `mtu`. `ipv6`: the network has an IPv6 subnet.
///
/// # Errors
///
/// Names the first unknown or bad option, in the order of their keys.
pub fn parse(raw: &BTreeMap<String, String>, ipv6: bool) -> Result<NetworkOptions, OptionError> {
    let mut options = NetworkOptions::default();
    let mut docker_mtu = None;
    for (key, value) in raw {
        let bad = |wanted: String| OptionError::Bad { key: clip(key), value: clip(value), wanted };
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
    if let (Some(ours), Some(dockers)) = (options.mtu, docker_mtu)
        && ours != dockers
    {
        return Err(OptionError::TwoMtus { ours, dockers });
    }
    options.mtu = options.mtu.or(docker_mtu);
    Ok(options)
}

/// The MTU of a network's links: the option, else what the underlay leaves.
pub fn mtu(options: &NetworkOptions, underlay_mtu: u16, ipv6: bool) -> u16 {
    let room = underlay_mtu.saturating_sub(OVERHEAD);
    options.mtu.unwrap_or(room).clamp(smallest_mtu(ipv6), LARGEST_MTU)
}

const DOCKER_MTU: &str = "com.docker.network.driver.mtu";

fn smallest_mtu(ipv6: bool) -> u16 {
    if ipv6 { SMALLEST_MTU_IPV6 } else { SMALLEST_MTU }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<NetworkOptions, OptionError> {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        parse(&pairs.iter().map(pair).collect(), false)
    }

    fn refusal(key: &str, value: &str) -> String {
        parsed(&[(key, value)]).unwrap_err().to_string()
    }

    #[test]
    fn known_options_are_understood() {
        let options = parsed(&[
            ("mtu", "1380"),
            ("port", "51900"),
            ("keepalive", "25"),
            ("gwbridge", "0"),
            ("id", "blue-1"),
            ("com.docker.network.enable_ipv6", "false"),
        ]);
        let expected = NetworkOptions {
            mtu: Some(1380),
            port: Some(51900),
            keepalive: Some(25),
            gwbridge: Some(false),
            id: Some("blue-1".to_owned()),
        };
        assert_eq!(options, Ok(expected));
        assert_eq!(parsed(&[]), Ok(NetworkOptions::default()));
    }

    #[test]
    fn an_unknown_option_is_named_and_the_known_ones_are_listed() {
        let text = refusal("mut", "1400");
        assert!(text.contains("\"mut\""), "{text}");
        for known in ["mtu=", "port=", "keepalive=", "gwbridge=", "id="] {
            assert!(text.contains(known), "{text}");
        }
    }

    #[test]
    fn a_bad_value_is_named_with_what_is_wanted() {
        let text = refusal("port", "70000");
        assert!(text.contains("port=\"70000\"") && text.contains("from 1 to 65535"), "{text}");
        for (key, value) in [
            ("mtu", "575"),
            ("mtu", "9001"),
            ("mtu", "+1400"),
            ("mtu", " 1400"),
            ("mtu", "01400"),
            ("mtu", ""),
            ("port", "0"),
            ("keepalive", "-1"),
            ("keepalive", "25s"),
            ("gwbridge", "no"),
            ("gwbridge", ""),
            ("id", "Blue"),
            ("id", ""),
            ("com.docker.network.driver.mtu", "big"),
        ] {
            assert!(refusal(key, value).contains(key), "{key}={value}");
        }
    }

    #[test]
    fn a_long_value_does_not_fill_the_log() {
        assert!(refusal("mtu", &"9".repeat(100_000)).len() < 500);
        assert!(refusal(&"k".repeat(100_000), "1").len() < 500);
    }

    #[test]
    fn dockers_own_mtu_option_is_another_name_of_ours_and_may_not_differ_from_it() {
        let docker = ("com.docker.network.driver.mtu", "1300");
        assert_eq!(parsed(&[docker]).unwrap().mtu, Some(1300));
        assert_eq!(parsed(&[docker, ("mtu", "1300")]).unwrap().mtu, Some(1300));
        let text = parsed(&[docker, ("mtu", "1380")]).unwrap_err().to_string();
        for part in ["mtu=1380", "com.docker.network.driver.mtu=1300", "give one"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn keepalive_0_is_off() {
        assert_eq!(parsed(&[("keepalive", "0")]).unwrap().keepalive, None);
    }

    #[test]
    fn ipv6_needs_a_larger_mtu() {
        let raw = BTreeMap::from([("mtu".to_owned(), "1279".to_owned())]);
        assert!(parse(&raw, false).is_ok());
        assert!(parse(&raw, true).is_err());
    }

    #[test]
    fn without_an_option_the_mtu_is_what_the_underlay_leaves() {
        let none = NetworkOptions::default();
        assert_eq!(mtu(&none, 1500, false), 1420);
        assert_eq!(mtu(&none, 9001, false), 8921);
        assert_eq!(mtu(&none, 65535, false), LARGEST_MTU);
        assert_eq!(mtu(&none, 1300, false), 1220);
        assert_eq!(mtu(&none, 1300, true), SMALLEST_MTU_IPV6);
        assert_eq!(mtu(&none, 0, false), SMALLEST_MTU);
        let option = NetworkOptions { mtu: Some(1400), ..none };
        assert_eq!(mtu(&option, 1500, false), 1400);
    }
}
