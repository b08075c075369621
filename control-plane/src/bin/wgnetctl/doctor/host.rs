//! What is wrong on this host: secret, driver, kernel, files, leftovers.

use std::collections::BTreeSet;

use wgnet_control_plane::admin::Unready;
use wgnet_control_plane::fleet::problems::OUT_OF_SYNC;
use wgnet_proto::status::DriverStatus;
use wgnet_proto::{ClusterSecrets, SecretError};

use super::Finding;
use super::seen::{Kernel, State};
use crate::settings::Cluster;
use crate::table::bytes;

pub(super) const LEFTOVERS: &str = "leftovers";

/// What the journal needs at least to be written anew.
const LITTLE: u64 = 64 << 20;

const OLDEST_KERNEL: (u32, u32) = (5, 10);

pub(super) fn secret(cluster: &Cluster) -> Vec<Finding> {
    if cluster.is_insecure {
        return vec![Finding::warning(
            "insecure",
            "the cluster runs without a secret (`insecure = true`)",
            "whoever can write to etcd can join the cluster and read its traffic",
            "wgnetctl secret new /etc/wgnet/secret; copy it to every host, remove `insecure`, restart the drivers",
        )];
    }
    let path = cluster.secret.display();
    let why = "the driver does not start its work without it, and no record can be judged";
    let Err(error) = ClusterSecrets::load(&cluster.secret) else {
        return Vec::new();
    };
    let (code, next) = match &error {
        SecretError::Missing(_) => (
            "secret-missing",
            format!(
                "copy it from another host; only for a new cluster: wgnetctl secret new {path}"
            ),
        ),
        SecretError::OpenToOthers { .. } => ("secret-open", format!("chmod 0600 {path}")),
        SecretError::ForeignOwner { .. } => ("secret-owner", format!("chown root {path}")),
        SecretError::Unreadable { .. } => {
            ("secret-unreadable", "run this as root: sudo wgnetctl doctor".to_owned())
        }
        SecretError::NotAFile(_)
        | SecretError::Malformed { .. }
        | SecretError::Exists(_)
        | SecretError::Unwritable { .. } => {
            ("secret-malformed", format!("copy {path} again from a host that works"))
        }
    };
    vec![Finding::error(code, error.to_string(), why, next)]
}

pub(super) fn no_driver(error: &anyhow::Error) -> Finding {
    let why = "running containers keep their traffic; none can start or stop on a network of wgnet";
    if let Some(Unready { reason, next_step }) = error.downcast_ref() {
        return Finding::error("driver-unready", reason, why, next_step);
    }
    Finding::error(
        "driver-away",
        format!("{error:#}"),
        why,
        "systemctl start wgnet-driver; journalctl -u wgnet-driver -n 50; wgnet-driver --check",
    )
}

pub(super) fn driver(status: &DriverStatus, processes: &[u32]) -> Vec<Finding> {
    let mut found = Vec::new();
    if processes.len() > 1 {
        let ids: Vec<String> = processes.iter().map(ToString::to_string).collect();
        found.push(Finding::error(
            "second-driver",
            format!("{} drivers run on this host: processes {}", ids.len(), ids.join(", ")),
            "both change the same namespaces, and each undoes what the other does",
            "end all, then start one: systemctl stop wgnet-driver; kill PID of what is left; systemctl start wgnet-driver",
        ));
    }
    if !status.store.connected {
        found.push(Finding::error(
            "driver-without-etcd",
            format!(
                "the driver is not connected to etcd: {}",
                status.store.error.as_deref().unwrap_or("it is connecting")
            ),
            "what starts or stops here is not known elsewhere, and the other way round",
            "see below what etcd says; compare `etcd` in /etc/wgnet/driver.toml with what runs",
        ));
    }
    for network in status.networks.iter().filter(|network| network.error.is_some()) {
        found.push(Finding::error(
            OUT_OF_SYNC,
            format!("{}: {}", network.key, network.error.as_deref().unwrap_or_default()),
            "some containers of this network may not be reached",
            "journalctl -u wgnet-driver -n 50; if it stays so: systemctl restart wgnet-driver",
        ));
    }
    found
}

pub(super) fn kernel(kernel: &Kernel, status: Option<&DriverStatus>) -> Vec<Finding> {
    let mut found = Vec::new();
    if is_older(&kernel.release) {
        found.push(Finding::error(
            "kernel-old",
            format!("the kernel is {}", kernel.release),
            "wgnet is made for Linux 5.10 and newer",
            "boot a newer kernel: apt install linux-image-amd64, or as your distribution has it",
        ));
    }
    let backend = status.map(|status| status.backend.as_str());
    if !kernel.has_wireguard && !kernel.has_tun {
        found.push(Finding::error(
            "no-wireguard",
            "the kernel has no WireGuard, and /dev/net/tun does not exist for the userspace engine",
            "no tunnel can be made",
            "modprobe wireguard, or boot a kernel that has it; for the engine: modprobe tun",
        ));
    } else if kernel.has_wireguard && backend == Some("userspace") {
        found.push(Finding::warning(
            "userspace-wireguard",
            "the userspace engine is used, though the kernel has WireGuard",
            "it takes more CPU for the same traffic",
            "modprobe wireguard; unless `backend = \"userspace\"` is wanted: systemctl restart wgnet-driver",
        ));
    }
    if !kernel.has_nft {
        found.push(Finding::error(
            "no-nft",
            "the program nft is not installed",
            "the driver cannot close the way on which a container's traffic might leave in the clear",
            "apt install nftables, or as your distribution has it",
        ));
    }
    found
}

fn is_older(release: &str) -> bool {
    let mut parts = release.split(['.', '-']).map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST_KERNEL,
        _ => false,
    }
}

pub(super) fn state(state: &State) -> Vec<Finding> {
    let mut found = Vec::new();
    let path = state.path.display();
    if let Some(error) = &state.unwritable {
        found.push(Finding::error(
            "state-unwritable",
            format!("{path} cannot be written: {error}"),
            "the driver answers no call that it could not write down: containers cannot start",
            format!("mount -o remount,rw {path}; see why it became read-only: dmesg | tail"),
        ));
    }
    if let Some(free) = state.free.filter(|free| *free < LITTLE) {
        found.push(Finding::warning(
            "state-full",
            format!("{path} has only {} left", bytes(free)),
            "when it is full, containers cannot start",
            format!("df -h {path}; remove what is not needed"),
        ));
    }
    if !state.aside.is_empty() {
        found.push(Finding::warning(
            "state-damaged",
            format!("a damaged journal was replaced: {}", state.aside.join(", ")),
            "nothing was lost, but the disk or the memory may be bad",
            format!("look at the disk (smartctl -a), then: rm {path}/*.damaged-*"),
        ));
    }
    found
}

/// Which of these namespaces no network of the driver uses.
pub(super) fn unused(namespaces: &BTreeSet<String>, status: &DriverStatus) -> BTreeSet<String> {
    let used = status.networks.iter().map(|network| network.namespace.clone()).collect();
    namespaces - &used
}

pub(super) fn leftovers(unused: &BTreeSet<String>) -> Vec<Finding> {
    let found = unused.iter().map(|name| {
        Finding::warning(
            "leftover-namespace",
            format!("/run/netns/{name} belongs to no network of the driver"),
            "what is left in it may still route old addresses for a container that has it open",
            format!(
                "see that nothing uses it (ip netns pids {name}), then: ip netns delete {name}"
            ),
        )
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(found: Vec<Finding>) -> Vec<String> {
        found.into_iter().map(|finding| finding.code).collect()
    }

    pub(super) fn status(connected: bool) -> DriverStatus {
        let json = serde_json::json!({
            "host_id": "00".repeat(16), "name": "h1", "version": "0.1.0", "backend": "kernel",
            "underlay": [], "networks": [{
                "key": "n-blue", "docker_id": "blue", "namespace": "wgnet-blue", "subnets": [],
                "mtu": 1420, "slots": [], "members": [], "endpoints": [], "in_sync": true,
                "error": null, "repairs": 0
            }],
            "store": {"connected": connected, "error": null, "revision": 1, "unpublished": 0},
            "hosts": [], "problems": [], "refused": {}
        });
        serde_json::from_value(json).unwrap()
    }

    fn good_kernel() -> Kernel {
        Kernel {
            release: "6.1.0-32-amd64".to_owned(),
            has_wireguard: true,
            has_tun: true,
            has_nft: true,
        }
    }

    #[test]
    fn a_healthy_host_is_not_mentioned() {
        assert!(driver(&status(true), &[7]).is_empty());
        assert!(kernel(&good_kernel(), Some(&status(true))).is_empty());
        assert!(unused(&BTreeSet::from(["wgnet-blue".to_owned()]), &status(true)).is_empty());
        let fine = State { path: "/".into(), unwritable: None, free: Some(1 << 40), aside: vec![] };
        assert!(state(&fine).is_empty());
    }

    #[test]
    fn each_fault_of_the_host_is_found() {
        assert_eq!(codes(driver(&status(true), &[7, 8])), ["second-driver"]);
        assert_eq!(codes(driver(&status(false), &[7])), ["driver-without-etcd"]);
        let mut broken = status(true);
        broken.networks[0].error = Some("no such device".to_owned());
        assert_eq!(codes(driver(&broken, &[7])), ["network-out-of-sync"]);
        assert_eq!(
            codes(leftovers(&unused(&BTreeSet::from(["wgnet-old".to_owned()]), &status(true)))),
            ["leftover-namespace"]
        );
        let old = Kernel { release: "5.4.0".to_owned(), ..good_kernel() };
        assert_eq!(codes(kernel(&old, None)), ["kernel-old"]);
        let bare = Kernel { has_wireguard: false, has_tun: false, ..good_kernel() };
        assert_eq!(codes(kernel(&bare, None)), ["no-wireguard"]);
        assert_eq!(codes(kernel(&Kernel { has_nft: false, ..good_kernel() }, None)), ["no-nft"]);
        let mut userspace = status(true);
        userspace.backend = "userspace".to_owned();
        assert_eq!(codes(kernel(&good_kernel(), Some(&userspace))), ["userspace-wireguard"]);
        let ill = State {
            path: "/".into(),
            unwritable: Some("read-only".to_owned()),
            free: Some(0),
            aside: vec!["journal.redb.damaged-1".to_owned()],
        };
        assert_eq!(codes(state(&ill)), ["state-unwritable", "state-full", "state-damaged"]);
    }

    #[test]
    fn a_driver_that_says_why_it_cannot_work_is_not_told_to_be_away() {
        let reason = "there is no secret".to_owned();
        let unready = Unready { reason, next_step: "copy it".to_owned() };
        let found = no_driver(&anyhow::Error::new(unready).context("asking"));
        assert_eq!(
            (found.code.as_str(), found.what.as_str()),
            ("driver-unready", "there is no secret")
        );
        assert_eq!(found.next_step, "copy it");
        assert_eq!(no_driver(&anyhow::anyhow!("no socket")).code, "driver-away");
    }

    #[test]
    fn each_fault_of_the_secret_is_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let codes = |is_insecure| {
            let cluster = Cluster {
                etcd: vec![],
                prefix: String::new(),
                ca: None,
                client: None,
                secret: path.clone(),
                is_insecure,
                state_dir: "/".into(),
                ports: (1, 2),
                is_legacy: false,
            };
            codes(secret(&cluster))
        };
        assert_eq!(codes(true), ["insecure"]);
        assert_eq!(codes(false), ["secret-missing"]);
        ClusterSecrets::generate([1; 32]).write_new(&path).unwrap();
        assert!(codes(false).is_empty());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(codes(false), ["secret-open"]);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(codes(false), ["secret-malformed"]);
    }
}
