//! The file of the cluster secret.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use wgnet_proto::{ClusterSecrets, HostId, NetworkKey};

/// A file is understood or refused with a line's number, never with what stands there.
pub(crate) fn run(bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("there is a place for files");
    let path = directory.path().join("secret");
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(bytes)).expect("a file can be written");
    match ClusterSecrets::load(&path) {
        Ok(secrets) => {
            let epochs: Vec<_> = secrets.epochs().collect();
            assert!((1..=2).contains(&epochs.len()) && epochs.is_sorted() && !epochs.contains(&0));
            assert_eq!(secrets.current_epoch(), epochs[epochs.len() - 1]);
            assert_eq!(format!("{secrets:?}"), "ClusterSecrets(..)");
            let copy = directory.path().join("copy");
            secrets.write_new(&copy).expect("it can be written");
            let again = ClusterSecrets::load(&copy).expect("what was written can be read");
            assert!(again.epochs().eq(epochs.iter().copied()));
            for epoch in epochs {
                assert!(derived(&again, epoch) == derived(&secrets, epoch));
            }
        }
        Err(error) => {
            let text = wgnet_driver::chain(&error);
            crate::assert_sentence(&text);
            let content = String::from_utf8_lossy(bytes);
            let quoted =
                content.split_whitespace().find(|word| word.len() >= 40 && text.contains(word));
            assert_eq!(quoted, None);
        }
    }
}

fn derived(secrets: &ClusterSecrets, epoch: u32) -> [u8; 32] {
    let network: NetworkKey = "s-blue".parse().expect("it is a key");
    let key = secrets.preshared_key(epoch, &network, 1, HostId([1; 16]), HostId([2; 16]));
    *key.expect("it has this epoch").expose()
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let one = "epoch 1 q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";
    let two = "epoch 2 Q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=";
    let texts = [
        format!("wgnet-cluster-secret v1\n{one}\n"),
        format!("# A comment\r\n\r\n wgnet-cluster-secret v1 \r\n{two}\r\n# between\r\n{one}\r\n"),
        "wgnet-cluster-secret v1\n".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}
