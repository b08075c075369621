use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

const COUNTING: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const ONES: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn counting() -> [u8; 32] {
    std::array::from_fn(|n| n as u8)
}

fn network() -> NetworkKey {
    "s-0123456789abcdefghijklmno".parse().unwrap()
}

/// A secret file with this text and mode 0600.
fn file(text: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    (directory, path)
}

fn refusal(path: &Path) -> String {
    ClusterSecrets::load(path).unwrap_err().to_string()
}

// The expected bytes were computed apart from this code, from the definition of HKDF (RFC 5869).

#[test]
fn the_mac_of_a_secret_never_changes() {
    let mac = ClusterSecrets::generate(counting()).mac(b"hello");
    let expected = "3e8c16de621d0d884f68b53a8bafa7d1feeeb617eaef8f613dd4421b7d28f8ec";
    assert_eq!(hex::encode(mac), expected);
}

#[test]
fn the_preshared_key_of_two_hosts_never_changes() {
    let secrets = ClusterSecrets::generate(counting());
    let (one, other) = (HostId([0x11; 16]), HostId([0x22; 16]));
    let key = secrets.preshared_key(1, &network(), 7, one, other).unwrap();
    let expected = "e08769328c10efa75c44ce6c2f800e521de988a08865423013ac8c7f8e02ca8d";
    assert_eq!(hex::encode(key.expose()), expected);
    assert_eq!(secrets.preshared_key(1, &network(), 7, other, one), Some(key));
}

#[test]
fn preshared_keys_differ_by_everything_they_are_made_of() {
    let secrets = ClusterSecrets::generate(counting());
    let (a, b, c) = (HostId([1; 16]), HostId([2; 16]), HostId([3; 16]));
    let key = |secrets: &ClusterSecrets, network: &str, generation, host| {
        let network = network.parse().unwrap();
        *secrets.preshared_key(1, &network, generation, a, host).unwrap().expose()
    };
    let keys = [
        key(&secrets, "s-x", 1, b),
        key(&secrets, "s-y", 1, b),
        key(&secrets, "s-x", 2, b),
        key(&secrets, "s-x", 1, c),
        key(&ClusterSecrets::generate([9; 32]), "s-x", 1, b),
    ];
    for (n, one) in keys.iter().enumerate() {
        assert!(keys[..n].iter().all(|other| other != one));
    }
    assert_eq!(secrets.preshared_key(2, &network(), 1, a, b), None);
}

#[test]
fn a_written_secret_loads_again_and_only_its_owner_can_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etc/wgnet/secret");
    ClusterSecrets::generate(counting()).write_new(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().contains(&format!("epoch 1 {COUNTING}\n")));
    let loaded = ClusterSecrets::load(&path).unwrap();
    assert_eq!(loaded.current_epoch(), 1);
    assert!(loaded.admits(1, b"m", &ClusterSecrets::generate(counting()).mac(b"m")));
}

#[test]
fn where_no_secret_can_be_made_another_file_is_to_be_named() {
    let error = ClusterSecrets::generate([1; 32]).write_new(Path::new("/proc/foo")).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/proc/foo cannot be written; name a file"), "{text}");
}

#[test]
fn only_a_file_without_a_byte_is_called_empty() {
    for (text, what) in [("", "is empty"), ("\n \n", "only comments"), ("#ab", "only comments")] {
        let (_directory, path) = file(text);
        assert!(refusal(&path).contains(what), "{text:?}: {}", refusal(&path));
    }
    let (_directory, path) = file("abc");
    assert!(!refusal(&path).contains("empty"), "{}", refusal(&path));
}

#[test]
fn an_existing_secret_is_never_overwritten() {
    let (_directory, path) = file("precious");
    let error = ClusterSecrets::generate([1; 32]).write_new(&path).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn while_a_secret_is_replaced_both_are_accepted_and_the_newer_one_seals() {
    let text = format!("# comment\n{HEADER}\n\nepoch 4 {ONES}\nepoch 3 {COUNTING}\n");
    let (_directory, path) = file(&text);
    let secrets = ClusterSecrets::load(&path).unwrap();
    assert_eq!(secrets.epochs().collect::<Vec<_>>(), [3, 4]);
    assert_eq!(secrets.current_epoch(), 4);
    assert_eq!(secrets.mac(b"m"), Secret::new(4, [1; 32]).mac(b"m"));
    assert!(secrets.admits(3, b"m", &Secret::new(3, counting()).mac(b"m")));
    assert!(!secrets.admits(4, b"m", &Secret::new(3, counting()).mac(b"m")));
    assert!(!secrets.admits(5, b"m", &Secret::new(5, counting()).mac(b"m")));
    assert_eq!(*secrets.render(), *ClusterSecrets::parse(&secrets.render()).unwrap().render());
}

#[test]
fn one_of_two_epochs_seals_alone_if_that_is_wanted() {
    let (_directory, path) = file(&format!("{HEADER}\nepoch 3 {COUNTING}\nepoch 4 {ONES}\n"));
    let secrets = ClusterSecrets::load(&path).unwrap();
    for (epoch, bytes) in [(3, counting()), (4, [1; 32])] {
        let only = secrets.only(epoch).unwrap();
        assert_eq!(only.epochs().collect::<Vec<_>>(), [epoch]);
        assert_eq!(only.mac(b"m"), Secret::new(epoch, bytes).mac(b"m"));
    }
    assert!(secrets.only(5).is_none());
}

#[test]
fn a_missing_secret_names_the_command_that_makes_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none");
    let error = refusal(&path);
    let command = format!("`wgnetctl secret new {}`", path.display());
    assert!(error.contains("does not exist") && error.contains(&command), "{error}");
}

#[test]
fn a_secret_that_others_can_read_is_refused() {
    for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
        let (_directory, path) = file(&format!("{HEADER}\nepoch 1 {ONES}\n"));
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let error = refusal(&path);
        let command = format!("`chmod 0600 {}`", path.display());
        assert!(error.contains(&format!("{mode:04o}")) && error.contains(&command), "{error}");
    }
}

#[test]
fn a_secret_of_another_user_is_refused() {
    let (_directory, path) = file(&format!("{HEADER}\nepoch 1 {ONES}\n"));
    chown(&path, Some(12345), None).expect("tests run as root");
    let error = refusal(&path);
    assert!(error.contains("12345") && error.contains("`chown root "), "{error}");
}

#[test]
fn what_is_no_file_is_refused_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    assert!(refusal(directory.path()).contains("not a regular file"));
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(refusal(&fifo).contains("not a regular file"));
    let dangling = directory.path().join("dangling");
    symlink("nowhere", &dangling).unwrap();
    assert!(refusal(&dangling).contains("does not exist"));
}

#[test]
fn a_malformed_secret_is_refused_by_line_and_never_quoted() {
    let cases = [
        (String::new(), 1),
        ("# only a comment\n".into(), 1),
        (format!("epoch 1 {ONES}\n"), 1),
        (HEADER.into(), 1),
        (format!("{HEADER}\nepoch 0 {ONES}\n"), 2),
        (format!("{HEADER}\nepoch -1 {ONES}\n"), 2),
        (format!("{HEADER}\nepoch 1 {}\n", &ONES[..40]), 2),
        (format!("{HEADER}\nepoch 1 {ONES} {ONES}\n"), 2),
        (format!("{HEADER}\nepoch 1 {ONES}\nepoch 1 {COUNTING}\n"), 3),
        (format!("{HEADER}\nepoch 1 {ONES}\nepoch 2 {ONES}\nepoch 3 {ONES}\n"), 4),
        (format!("{HEADER}\nepoch 1 {ONES}\n{}", "#".repeat(5000)), 1),
    ];
    for (text, line) in cases {
        let (_directory, path) = file(&text);
        let error = ClusterSecrets::load(&path).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains(&format!("line {line} should be")), "{text:?}: {shown}");
        assert!(!shown.contains("AQEB") && !shown.contains("AAEC"), "{shown}");
    }
    let (_directory, path) = file("");
    fs::write(&path, [0xff, 0xfe, 0]).unwrap();
    assert!(refusal(&path).contains("should be text"));
}

#[test]
fn a_host_without_a_secret_and_one_with_refuse_each_other() {
    let (insecure, secret) = (ClusterSecrets::insecure(), ClusterSecrets::generate([1; 32]));
    assert!(insecure.is_insecure() && !secret.is_insecure());
    assert!(!secret.admits(insecure.current_epoch(), b"m", &insecure.mac(b"m")));
    assert!(!insecure.admits(secret.current_epoch(), b"m", &secret.mac(b"m")));
    assert!(insecure.admits(0, b"m", &ClusterSecrets::insecure().mac(b"m")));
}
