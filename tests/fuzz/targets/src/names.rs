//! Identifiers, addresses and keys of etcd: text that comes from Docker, etcd, people and files.

use std::fmt::Display;
use std::str::FromStr;

use wgnet_core::Namespace;
use wgnet_proto::{
    ClusterId, DockerNetworkId, EndpointId, HostId, IfName, MacAddr, NetworkKey, Path, PublicKey,
};

use crate::assert_sentence;

/// There is one way to write an identifier, and a MAC address or key that is printed is the same again.
pub(crate) fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    one_way::<DockerNetworkId>(text);
    one_way::<EndpointId>(text);
    one_way::<NetworkKey>(text);
    one_way::<HostId>(text);
    one_way::<ClusterId>(text);
    one_way::<IfName>(text);
    if let Ok(key) = again::<PublicKey>(text) {
        assert_eq!(key.to_string(), text);
    }
    if again::<MacAddr>(text).is_ok() {
        assert!(
            text.len() == 17
                && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'-')
        );
    }
    if let Ok(key) = NetworkKey::named(text) {
        assert_eq!(key.as_str().parse(), Ok(key.clone()));
    }
    if let Some(namespace) = Namespace::parse(text) {
        assert_eq!(namespace.as_str(), text);
        assert!(!text.contains('/'));
    }
    if let Some(path) = Path::parse(text) {
        assert_eq!(path.to_string(), text);
        assert!(text.len() <= 200 && !text.chars().any(char::is_control));
    }
}

fn one_way<T>(text: &str)
where
    T: FromStr + Display + PartialEq + std::fmt::Debug,
    T::Err: Display,
{
    if let Ok(id) = again::<T>(text) {
        assert_eq!(id.to_string(), text);
    }
}

fn again<T>(text: &str) -> Result<T, ()>
where
    T: FromStr + Display + PartialEq + std::fmt::Debug,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value));
            Ok(value)
        }
        Err(error) => {
            assert_sentence(&error.to_string());
            Err(())
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let host = "00112233445566778899aabbccddeeff";
    let texts = [
        "m3v0gvk6pj5e0l1y9h3kz1v2c".to_owned(),
        "ab".repeat(32),
        host.to_owned(),
        "s-m3v0gvk6pj5e0l1y9h3kz1v2c".to_owned(),
        "n-blue-1".to_owned(),
        "wgnet-m3v0gvk6pj5e".to_owned(),
        "02:42:0a:32:00:02".to_owned(),
        "2z8yFb2lTdAPkA1MbkGK0ZfPAtIWMQbPjwmDWPzAd3o=".to_owned(),
        "wg0".to_owned(),
        "cluster".to_owned(),
        format!("hosts/{host}"),
        format!("tombstones/{host}"),
        "networks/s-blue".to_owned(),
        "networks/s-blue/generation".to_owned(),
        format!("networks/n-blue-1/members/{host}"),
        "networks/s-blue/endpoints/10.50.0.2".to_owned(),
        "networks/s-blue/endpoints/fd50::2".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}
