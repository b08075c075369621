use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const CLUSTER: ClusterId = ClusterId([0xc1; 16]);

fn secrets() -> ClusterSecrets {
    ClusterSecrets::generate([0x5e; 32])
}

fn sealer(host: u8) -> Sealer {
    Sealer::new(HostKey::from_random([host; 32]), secrets(), CLUSTER)
}

fn opener() -> Opener {
    Opener::new(secrets(), Some(CLUSTER))
}

fn member_of(sealer: &Sealer) -> Path {
    Path::Member("s-blue".parse().unwrap(), sealer.writer())
}

/// What a holder of the secret can do to an envelope: change it and make the MAC fit again.
fn altered(path: &Path, sealed: &[u8], alter: impl FnOnce(&mut Envelope)) -> Vec<u8> {
    let mut envelope = Envelope::decode(sealed).unwrap();
    alter(&mut envelope);
    envelope.mac = secrets().mac(&to_authenticate(path, &envelope)).to_vec();
    envelope.encode_to_vec()
}

#[test]
fn what_is_sealed_opens() {
    let sealer = sealer(1);
    let path = member_of(&sealer);
    let sealed = sealer.seal(&path, 42, b"payload".to_vec());
    let opened = opener().open(&path, &sealed).unwrap();
    let writer = sealer.writer();
    let payload = b"payload".to_vec();
    assert_eq!(opened, Opened { writer, seq: 42, epoch: 1, cluster: CLUSTER, payload });
    assert_eq!(claimed_writer(&sealed), Some(sealer.writer()));
    assert_eq!(payload_of(&sealed), Some(b"payload".to_vec()));
}

#[test]
fn sealed_bytes_never_change() {
    let sealed = sealer(1).seal(&Path::Cluster, 7, vec![1, 2, 3]);
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&sealed);
    // Computed apart from this code, with OpenSSL.
    let expected = "7acded55b42dc06ffad0c6226a607e7d36aae270812eff46a7e456682431ed22";
    assert_eq!(hex::encode(digest), expected);
}

#[test]
fn a_host_key_survives_being_kept_as_bytes() {
    let key = HostKey::from_random([3; 32]);
    assert_eq!(HostKey::from_bytes(*key.expose()).id(), key.id());
    assert_eq!(HostId::of(&key.public()), key.id());
}

#[test]
fn a_record_with_any_bit_flipped_is_refused() {
    let sealer = sealer(1);
    let path = member_of(&sealer);
    let sealed = sealer.seal(&path, 300, b"some payload".to_vec());
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(opener().open(&path, &flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_record_that_is_cut_or_extended_is_refused() {
    let sealer = sealer(1);
    let path = member_of(&sealer);
    let sealed = sealer.seal(&path, 300, b"some payload".to_vec());
    for length in 0..sealed.len() {
        assert!(opener().open(&path, &sealed[..length]).is_err(), "{length} bytes");
    }
    let unknown_field = [sealed.as_slice(), &[0xf8, 0x01, 1]].concat();
    assert_eq!(opener().open(&path, &unknown_field), Err(Refused::Malformed));
    let seq_again = [sealed.as_slice(), &[0x20, 0xff, 0x7f]].concat();
    assert_eq!(opener().open(&path, &seq_again), Err(Refused::Malformed));
}

#[test]
fn a_record_moved_to_another_path_is_refused() {
    let sealer = sealer(1);
    let sealed = sealer.seal(&member_of(&sealer), 1, Vec::new());
    let network = |key: &str| key.parse().unwrap();
    for path in [
        Path::Member(network("s-red"), sealer.writer()),
        Path::Member(network("s-blue"), HostId([1; 16])),
        Path::Host(sealer.writer()),
        Path::Network(network("s-blue")),
        Path::Cluster,
    ] {
        assert_eq!(opener().open(&path, &sealed), Err(Refused::WrongSecret), "{path}");
        let with_new_mac = altered(&path, &sealed, |_| {});
        let refused = opener().open(&path, &with_new_mac);
        assert_eq!(refused, Err(Refused::BadSignature), "{path}");
    }
}

#[test]
fn a_holder_of_the_secret_cannot_write_for_another_host() {
    let (victim, attacker) = (sealer(1), sealer(2));
    let path = member_of(&victim);
    let sealed = attacker.seal(&path, 1, Vec::new());
    assert_eq!(opener().open(&path, &sealed), Err(Refused::WrongWriter));
    let disguised = altered(&path, &sealed, |envelope| {
        envelope.writer = victim.key.public().to_vec();
    });
    assert_eq!(opener().open(&path, &disguised), Err(Refused::BadSignature));
    let genuine = victim.seal(&path, 1, b"old".to_vec());
    for alter in [
        (|envelope| envelope.seq += 1) as fn(&mut Envelope),
        |envelope| envelope.payload = b"new".to_vec(),
        |envelope| envelope.cluster = vec![9; 16],
        |envelope| envelope.signature[63] ^= 1,
    ] {
        let altered = altered(&path, &genuine, alter);
        assert_eq!(opener().open(&path, &altered), Err(Refused::BadSignature));
    }
}

#[test]
fn a_public_key_of_small_order_signs_nothing() {
    let path = Path::Cluster;
    let sealed = sealer(1).seal(&path, 1, Vec::new());
    let mut identity = vec![0; 32];
    identity[0] = 1;
    for writer in [vec![0; 32], identity.clone()] {
        let forged = altered(&path, &sealed, |envelope| {
            envelope.writer = writer;
            envelope.signature = [identity.clone(), vec![0; 32]].concat();
        });
        assert_eq!(opener().open(&path, &forged), Err(Refused::BadSignature));
    }
}

#[test]
fn a_record_sealed_with_another_secret_or_epoch_is_refused() {
    let key = HostKey::from_random([1; 32]);
    for secrets in [ClusterSecrets::generate([1; 32]), ClusterSecrets::insecure()] {
        let sealed = Sealer::new(key.clone(), secrets, CLUSTER).seal(&Path::Cluster, 1, vec![1]);
        assert_eq!(opener().open(&Path::Cluster, &sealed), Err(Refused::WrongSecret));
    }
}

#[test]
fn a_record_of_another_cluster_is_refused() {
    let other = ClusterId([0xc2; 16]);
    let foreign = Sealer::new(HostKey::from_random([1; 32]), secrets(), other);
    for path in [Path::Cluster, member_of(&foreign)] {
        let sealed = foreign.seal(&path, 1, Vec::new());
        assert_eq!(opener().open(&path, &sealed), Err(Refused::ForeignCluster));
    }
}

#[test]
fn before_the_cluster_is_known_only_its_record_opens() {
    let sealer = sealer(1);
    let mut opener = Opener::new(secrets(), None);
    let member = sealer.seal(&member_of(&sealer), 1, Vec::new());
    assert_eq!(opener.open(&member_of(&sealer), &member), Err(Refused::UnknownCluster));
    let cluster = sealer.seal(&Path::Cluster, 2, Vec::new());
    let opened = opener.open(&Path::Cluster, &cluster).unwrap();
    opener.pin(opened.cluster);
    assert!(opener.open(&member_of(&sealer), &member).is_ok());
}

#[test]
fn a_value_above_the_limit_is_refused_unread() {
    let sealed = sealer(1).seal(&Path::Cluster, 1, vec![0; MAX_SEALED]);
    assert_eq!(opener().open(&Path::Cluster, &sealed), Err(Refused::TooLarge));
    let sealed = sealer(1).seal(&Path::Cluster, 1, vec![0; MAX_SEALED - 300]);
    assert!(opener().open(&Path::Cluster, &sealed).is_ok());
}

#[test]
fn debug_output_shows_no_secret() {
    let private = crate::PrivateKey::from_bytes([0x5e; 32]);
    let preshared = crate::PresharedKey::from_bytes([0x5e; 32]);
    let key = HostKey::from_bytes([0x5e; 32]);
    let sealer = Sealer::new(key.clone(), secrets(), CLUSTER);
    let shown = [
        format!("{:#?}", (private, preshared)),
        format!("{:#?}", (key, secrets(), sealer, opener())),
        format!("{:?}", (sealer_of_all_kinds(), secrets())),
    ];
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [0x5e; 32]);
    for shown in shown {
        for secret in ["94, 94", "94,\n", "5e5e", "5E5E", "^^^", &base64[..8]] {
            assert!(!shown.contains(secret), "{secret:?} in {shown}");
        }
    }
}

fn sealer_of_all_kinds() -> Vec<Sealer> {
    let kinds = [ClusterSecrets::insecure(), secrets()];
    let key = || HostKey::from_bytes([0x5e; 32]);
    kinds.into_iter().map(|secrets| Sealer::new(key(), secrets, CLUSTER)).collect()
}

proptest! {
    #[test]
    fn any_payload_survives_sealing(
        payload in vec(any::<u8>(), 0..2000),
        seq in any::<u64>(),
        host in any::<u8>(),
    ) {
        let sealer = sealer(host);
        let path = member_of(&sealer);
        let sealed = sealer.seal(&path, seq, payload.clone());
        let opened = opener().open(&path, &sealed).unwrap();
        prop_assert_eq!((opened.seq, opened.payload), (seq, payload));
    }

    #[test]
    fn no_bytes_make_the_opener_panic(bytes in vec(any::<u8>(), 0..400)) {
        let _ = opener().open(&Path::Cluster, &bytes);
        let _ = claimed_writer(&bytes);
    }

    #[test]
    fn no_damaged_envelope_that_the_secret_admits_makes_the_opener_panic(
        writer in vec(any::<u8>(), 0..40),
        signature in vec(any::<u8>(), 0..70),
        cluster in vec(any::<u8>(), 0..20),
    ) {
        let sealed = sealer(1).seal(&Path::Cluster, 1, Vec::new());
        let altered = altered(&Path::Cluster, &sealed, |envelope| {
            envelope.writer = writer;
            envelope.signature = signature;
            envelope.cluster = cluster;
        });
        prop_assert!(opener().open(&Path::Cluster, &altered).is_err());
    }
}
