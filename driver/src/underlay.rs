//! Where other hosts reach this one: configured, or found from the route to etcd; and its changes.

mod changes;
mod names;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;
use wgnet_control_plane::store::etcd::EtcdStore;

use changes::Changes;
use names::Names;

/// Ethernet's; what is assumed of an address that is on no interface (yet).
const USUAL_MTU: u16 = 1500;

/// Looked at even if the kernel tells of no change: a name of etcd's may lead elsewhere.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Changes come in bursts (an address, then its routes): look once after the burst.
const SETTLE: Duration = Duration::from_millis(100);

/// Containers that come and go change addresses of the host all the time.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_secs(1);

/// This host on the underlay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Underlay {
    /// Best first.
    pub addresses: Vec<IpAddr>,
    /// The smallest MTU of the interfaces that have them.
    pub mtu: u16,
}

impl Underlay {
    pub fn has_ipv4(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv4)
    }

    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(IpAddr::is_ipv6)
    }
}

/// The configured addresses, else those the host would speak to etcd from, which is at `remotes`.
/// Empty when neither is known yet (no route, no remote): ask again later.
pub fn find(configured: &[IpAddr], remotes: &[SocketAddr]) -> Underlay {
    let mut addresses = configured.to_vec();
    if addresses.is_empty() {
        for remote in remotes {
            if let Some(local) = source_towards(*remote)
                && !addresses.contains(&local)
            {
                addresses.push(local);
            }
        }
    }
    let mtu = addresses.iter().filter_map(|address| mtu_of(*address)).min().unwrap_or(USUAL_MTU);
    Underlay { addresses, mtu }
}

/// Tells the addresses whenever they change. What the store still has under way from an address that
/// is gone would wait for answers in vain, so that its connection is ended.
pub async fn follow(
    configured: Vec<IpAddr>,
    etcd: Vec<String>,
    store: EtcdStore,
    found: watch::Sender<Underlay>,
    cancel: CancellationToken,
) {
    // What is configured needs no search.
    let etcd = if configured.is_empty() { etcd } else { Vec::new() };
    look_and_listen(configured, Names::new(etcd), store, found, cancel).await;
}

async fn look_and_listen(
    configured: Vec<IpAddr>,
    mut names: Names,
    store: EtcdStore,
    found: watch::Sender<Underlay>,
    cancel: CancellationToken,
) {
    let mut changes = Changes::listen();
    loop {
        let looked = Instant::now();
        let Some(remotes) = cancel.run_until_cancelled(names.remotes()).await else {
            return;
        };
        let configured = configured.clone();
        let search = tokio::task::spawn_blocking(move || find(&configured, &remotes)).await;
        let known = found.borrow().clone();
        // Losing the route for a while is no reason to take the address out of the record.
        if let Ok(underlay) = search
            && !underlay.addresses.is_empty()
            && known != underlay
        {
            info!(addresses = ?underlay.addresses, mtu = underlay.mtu, "Underlay");
            if known.addresses.iter().any(|address| !underlay.addresses.contains(address)) {
                store.hang_up().await;
            }
            found.send_replace(underlay);
        }
        // All arms are cancel-safe.
        let told = tokio::select! {
            () = cancel.cancelled() => return,
            () = changes.next() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        if told {
            let due = (looked + LOOK_AT_MOST_EVERY).max(Instant::now() + SETTLE);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep_until(due) => changes.drain(),
            }
        }
    }
}

/// The address the kernel would send from; connecting a UDP socket sends nothing.
fn source_towards(remote: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(remote).ok()?;
    let local = socket.local_addr().ok()?.ip();
    let usable = !local.is_loopback() && !local.is_unspecified();
    usable.then_some(local)
}

fn mtu_of(address: IpAddr) -> Option<u16> {
    let owner = getifaddrs().ok()?.find(|interface| {
        let Some(owned) = &interface.address else {
            return false;
        };
        let v4 = owned.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = owned.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        v4.or(v6) == Some(address)
    })?;
    let path = Path::new("/sys/class/net").join(owner.interface_name).join("mtu");
    let mtu: u32 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(u16::try_from(mtu).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use wgnet_control_plane::store::etcd::EtcdOptions;

    use super::*;

    #[test]
    fn configured_addresses_are_taken_as_they_are() {
        let wanted: Vec<IpAddr> =
            vec!["2001:db8::1".parse().unwrap(), "192.0.2.9".parse().unwrap()];
        let underlay = find(&wanted, &["127.0.0.1:2379".parse().unwrap()]);
        assert_eq!(underlay.addresses, wanted);
        assert_eq!(underlay.mtu, USUAL_MTU);
    }

    #[test]
    fn an_etcd_on_loopback_tells_nothing_about_the_underlay() {
        let remotes = ["127.0.0.1:2379", "[::1]:2379"].map(|remote| remote.parse().unwrap());
        assert!(find(&[], &remotes).addresses.is_empty());
    }

    #[tokio::test]
    async fn whoever_is_told_to_stop_does_not_wait_for_dns() {
        let (names, mut asked, _never_answered) = names::tests::unanswered("http://etcd:2379");
        let options = EtcdOptions {
            endpoints: vec!["http://192.0.2.1:2379".to_owned()],
            prefix: "/wgnet/".to_owned(),
            tls: None,
        };
        let (found, stop) = (watch::channel(Underlay::default()).0, CancellationToken::new());
        let store = EtcdStore::new(options).unwrap();
        let following = look_and_listen(Vec::new(), names, store, found, stop.clone());
        let following = tokio::spawn(following);
        asked.recv().await.unwrap();
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(2), following).await.unwrap().unwrap();
    }
}
