//! Takes keys out of text. Two nets, either of which would do: the secrets of this host's files are
//! searched for in every form, and whatever has the form of a 32-byte key is masked unless it is
//! known to be public.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use wgnet_control_plane::fleet::Fleet;
use wgnet_proto::status::DriverStatus;

/// Base64 and hex of 32 bytes, without padding.
const BASE64: usize = 43;
const HEX: usize = 64;

/// Far above every file that keeps a key.
const LARGEST_FILE: usize = 64 << 10;

/// Shorter lines of a PEM file would be met by chance.
const SHORTEST: usize = 16;

#[derive(Default)]
pub(super) struct Scrub {
    /// Public keys in base64, and ids in hex, that may be shown.
    public: BTreeSet<String>,
    /// What must not be, in every form that it may have.
    secret: Vec<String>,
}

impl Scrub {
    pub(super) fn know_status(&mut self, status: &DriverStatus) {
        for network in &status.networks {
            let slots = network.slots.iter().map(|slot| slot.public_key.to_string());
            let members = network.members.iter().map(|member| member.public_key.to_string());
            self.public.extend(slots.chain(members));
            self.public.extend(network.endpoints.iter().map(|endpoint| endpoint.id.to_string()));
            self.public.insert(network.docker_id.to_string());
        }
        self.public.extend(status.lingering.iter().map(ToString::to_string));
    }

    pub(super) fn know_fleet(&mut self, fleet: &Fleet) {
        for (key, network) in &fleet.view().networks {
            let slots = network.members.values().flat_map(|member| &member.slots);
            self.public.extend(slots.map(|slot| slot.public_key.to_string()));
            self.public.extend(network.endpoints.values().map(|it| it.endpoint.to_string()));
            self.public.extend(key.as_str().split_once('-').map(|(_, id)| id.to_owned()));
        }
    }

    /// Hides every key in a file, and every line of a key in PEM. One that cannot be read cannot
    /// have been copied, either.
    pub(super) fn hide_file(&mut self, path: &Path) {
        let Ok(bytes) = std::fs::read(path) else { return };
        let bytes = &bytes[..bytes.len().min(LARGEST_FILE)];
        let text = String::from_utf8_lossy(bytes);
        for line in text.lines().filter(|line| !line.starts_with(['#', '-'])) {
            for word in line.split_whitespace() {
                let raw = STANDARD.decode(word).or_else(|_| hex::decode(word).map_err(|_| ()));
                match raw {
                    // Hex is base64, too.
                    _ if word.len() == HEX && hex::decode(word).is_ok() => {
                        self.hide(&hex::decode(word).unwrap_or_default());
                    }
                    Ok(raw) if raw.len() == 32 => self.hide(&raw),
                    _ if word.len() >= SHORTEST => self.secret.push(word.to_owned()),
                    _ => {}
                }
            }
        }
    }

    /// Hides these bytes.
    pub(super) fn hide(&mut self, raw: &[u8]) {
        let lower = hex::encode(raw);
        self.secret.push(lower.to_uppercase());
        self.secret.push(lower);
        self.secret.push(STANDARD_NO_PAD.encode(raw));
        self.secret.push(URL_SAFE_NO_PAD.encode(raw));
        if let Ok(text) = std::str::from_utf8(raw) {
            self.secret.push(text.to_owned());
        }
        // As bytes in brackets, as Rust and others print them.
        let listed: Vec<String> = raw.iter().map(u8::to_string).collect();
        self.secret.push(listed.join(", "));
        self.secret.push(listed.join(","));
        self.secret.push(listed.join(" "));
    }

    pub(super) fn clean(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        for secret in self.secret.iter().filter(|secret| !secret.is_empty()) {
            if clean.contains(secret.as_str()) {
                clean = clean.replace(secret.as_str(), "[secret]");
            }
        }
        self.mask(&clean)
    }

    /// Masks what has the form of a key and is not known to be public.
    fn mask(&self, text: &str) -> String {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '_' | '-');
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find(is_part) {
            let (before, from) = rest.split_at(start);
            let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            masked.push_str(before);
            if word.len() >= BASE64 && after.starts_with('=') {
                let (head, key) = word.split_at(word.len() - BASE64);
                if head.is_empty() && self.public.contains(&format!("{key}=")) {
                    masked.push_str(word);
                } else {
                    masked.push_str(head);
                    masked.push_str(&mask("key", key));
                }
            } else if word.len() >= HEX {
                self.mask_hex(word, masked.ends_with("sha256:"), &mut masked);
            } else {
                masked.push_str(word);
            }
            rest = after;
        }
        masked.push_str(rest);
        masked
    }

    /// Runs of hex digits within a word.
    fn mask_hex(&self, word: &str, is_digest: bool, masked: &mut String) {
        let mut rest = word;
        while !rest.is_empty() {
            let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
            let (digits, after) = rest.split_at(end);
            let is_shown = digits.len() < HEX || is_digest || self.public.contains(digits);
            if is_shown {
                masked.push_str(digits);
            } else {
                masked.push_str(&mask("hex", digits));
            }
            let next = after.find(|c: char| c.is_ascii_hexdigit()).unwrap_or(after.len());
            masked.push_str(&after[..next]);
            rest = &after[next..];
        }
    }
}

/// The same for the same text, so that lines can still be compared.
fn mask(kind: &str, text: &str) -> String {
    format!("[{kind}:{}]", &hex::encode(Sha256::digest(text))[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [0xab; 32];

    #[test]
    fn a_known_secret_is_hidden_in_every_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        wgnet_proto::ClusterSecrets::generate(KEY).write_new(&path).unwrap();
        let mut scrub = Scrub::default();
        scrub.hide_file(&path);
        let forms = [
            STANDARD.encode(KEY),
            STANDARD_NO_PAD.encode(KEY),
            URL_SAFE_NO_PAD.encode(KEY),
            hex::encode(KEY),
            hex::encode_upper(KEY),
            format!("{KEY:?}"),
            format!("x{}y", hex::encode(KEY)),
            format!("path/{}", STANDARD.encode(KEY)),
        ];
        for form in forms {
            let clean = scrub.clean(&format!("before {form} after"));
            assert!(clean.starts_with("before") && clean.ends_with("after"), "{clean}");
            assert!(!clean.contains(&hex::encode(KEY)) && !clean.contains("q6urq6ur"), "{clean}");
            assert!(
                !clean.contains("171, 171") && !clean.to_lowercase().contains("abab"),
                "{clean}"
            );
        }
    }

    #[test]
    fn a_host_key_and_a_tls_key_are_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let (host, tls) = (dir.path().join("host.key"), dir.path().join("key.pem"));
        std::fs::write(&host, format!("wgnet-host-key v1\n{}\n", hex::encode(KEY))).unwrap();
        let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg0123456789abcdef";
        std::fs::write(
            &tls,
            format!("-----BEGIN PRIVATE KEY-----\n{line}\n-----END PRIVATE KEY-----\n"),
        )
        .unwrap();
        let mut scrub = Scrub::default();
        scrub.hide_file(&host);
        scrub.hide_file(&tls);
        scrub.hide_file(Path::new("/nowhere"));
        assert_eq!(scrub.clean(&STANDARD.encode(KEY)), "[secret]=");
        assert_eq!(scrub.clean(line), "[secret]");
    }

    #[test]
    fn what_looks_like_a_key_is_masked_unless_it_is_public() {
        let mut scrub = Scrub::default();
        let (public, id) = (STANDARD.encode([1; 32]), "c".repeat(64));
        scrub.public.extend([public.clone(), id.clone()]);
        let unknown = STANDARD.encode([2; 32]);
        let text =
            format!("private key: {unknown}, public {public} endpoint {id} ({})", "d".repeat(64));
        let clean = scrub.clean(&text);
        assert!(clean.contains(&public) && clean.contains(&id), "{clean}");
        assert!(!clean.contains(&unknown[..20]) && !clean.contains("dddd"), "{clean}");
        assert_eq!(clean, scrub.clean(&text));
        let digest = format!("sha256:{}", "e".repeat(64));
        assert_eq!(scrub.clean(&digest), digest);
        let ordinary = "10.0.0.1 /var/lib/wgnet/journal.redb 1c2f3a4b5c6d Nov 21 a=b";
        assert_eq!(scrub.clean(ordinary), ordinary);
    }
}
