//! What WireGuard itself says of an interface in a host: the kernel, or the userspace engine.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;

use wgnet_engine::{Client, ClientError, DeviceId, DeviceState, Operation};
use wgnet_proto::PublicKey;

use super::{
    error::{LabError, Result},
    host::Host,
};

const ENGINE: &str = "/run/wgnet/engine.sock";

/// One interface; what traffic changes is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireGuard {
    pub public_key: PublicKey,
    pub port: u16,
    /// The addresses that each peer may use.
    pub peers: BTreeMap<PublicKey, BTreeSet<String>>,
}

/// Where an interface sends to each of its peers on the underlay. By itself it changes only when a
/// peer speaks from elsewhere.
pub type PeerAddresses = BTreeMap<PublicKey, Option<SocketAddr>>;

/// All that is read of an interface.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    wireguard: WireGuard,
    underlay: PeerAddresses,
    received: u64,
}

impl Host {
    /// `None` if the namespace has no such interface.
    pub fn wireguard(&self, namespace: &str, interface: &str) -> Result<Option<WireGuard>> {
        Ok(self.ask_wireguard(namespace, interface)?.map(|seen| seen.wireguard))
    }

    /// `None` if the namespace has no such interface.
    pub fn wireguard_underlay(
        &self,
        namespace: &str,
        interface: &str,
    ) -> Result<Option<PeerAddresses>> {
        Ok(self.ask_wireguard(namespace, interface)?.map(|seen| seen.underlay))
    }

    /// How many bytes came from all peers of an interface, since each was added.
    pub fn wireguard_received(&self, namespace: &str, interface: &str) -> Result<u64> {
        let absent = || self.machine(&format!("WireGuard has no {interface} in {namespace}"));
        self.ask_wireguard(namespace, interface)?.map(|seen| seen.received).ok_or_else(absent)
    }

    fn ask_wireguard(&self, namespace: &str, interface: &str) -> Result<Option<Seen>> {
        if !self.path(ENGINE).exists() {
            let dump = format!("ip netns exec {namespace} wg show {interface} dump");
            let said = self.try_exec(&["sh", "-ec", &dump])?;
            return if said.success() { self.parse(&said.stdout).map(Some) } else { Ok(None) };
        }
        let device =
            self.ask_engine(async |engine| engine.get_device(&device(namespace, interface)).await)?;
        Ok(device.filter(DeviceState::is_alive).map(|device| {
            let received = device.peers.iter().map(|peer| peer.rx_bytes).sum();
            let underlay =
                device.peers.iter().map(|peer| (PublicKey(peer.public_key), peer.underlay_address));
            let underlay = underlay.collect();
            let peers = device.peers.iter().map(|peer| {
                let addresses = peer.allowed_ips.iter().map(ToString::to_string).collect();
                (PublicKey(peer.public_key), addresses)
            });
            let public_key = PublicKey(device.public_key);
            let wireguard = WireGuard { public_key, port: device.port, peers: peers.collect() };
            Seen { wireguard, underlay, received }
        }))
    }

    /// As somebody would by hand.
    pub fn remove_peer(&self, namespace: &str, interface: &str, peer: PublicKey) -> Result<()> {
        if !self.path(ENGINE).exists() {
            let set = format!("wg set {interface} peer '{peer}' remove");
            return self.sh(&format!("ip netns exec {namespace} {set}")).map(drop);
        }
        let remove = Operation::RemovePeer(peer.0);
        let failed = self.ask_engine(async |engine| {
            engine.configure(&device(namespace, interface), &[remove]).await
        })?;
        match failed.first() {
            None => Ok(()),
            Some(failure) => Err(self.machine(&format!("cannot remove a peer: {}", failure.text))),
        }
    }

    fn ask_engine<T, A>(&self, ask: impl FnOnce(Client) -> A) -> Result<T>
    where
        A: Future<Output = Result<T, ClientError>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(LabError::io("start", Path::new("a runtime")))?;
        let answer = runtime.block_on(ask(Client::new(self.path(ENGINE))));
        answer.map_err(|error| self.machine(&format!("WireGuard's engine: {error}")))
    }

    /// The lines of `wg show INTERFACE dump`: the interface, then a peer each.
    fn parse(&self, dump: &str) -> Result<Seen> {
        parse(dump).ok_or_else(|| self.machine(&format!("wg says \"{dump}\"")))
    }

    fn machine(&self, text: &str) -> LabError {
        LabError::Machine(format!("{}: {text}", self.name()))
    }
}

fn device(namespace: &str, interface: &str) -> DeviceId {
    DeviceId::new(Path::new("/run/netns").join(namespace), interface)
}

fn parse(dump: &str) -> Option<Seen> {
    let mut lines = dump.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let own = lines.next()?;
    let [_, public_key, port, ..] = own[..] else { return None };
    let (mut peers, mut underlay, mut received) = (BTreeMap::new(), PeerAddresses::new(), 0);
    for line in lines {
        let [peer, _, address, addresses, _, bytes, ..] = line[..] else { return None };
        let peer: PublicKey = peer.parse().ok()?;
        let address = (address != "(none)").then(|| address.parse()).transpose().ok()?;
        underlay.insert(peer, address);
        let addresses = addresses.split(',').filter(|one| *one != "(none)");
        peers.insert(peer, addresses.map(str::to_owned).collect());
        received += bytes.parse::<u64>().ok()?;
    }
    let (public_key, port) = (public_key.parse().ok()?, port.parse().ok()?);
    Some(Seen { wireguard: WireGuard { public_key, port, peers }, underlay, received })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wg_says_is_read() {
        let (own, one, other) = (PublicKey([1; 32]), PublicKey([2; 32]), PublicKey([3; 32]));
        let dump = format!(
            "secret\t{own}\t4100\toff\n\
             {one}\t(none)\t192.0.2.12:4100\t10.0.1.4/32,10.0.1.5/32\t1700000000\t500\t600\t25\n\
             {other}\t(none)\t(none)\t(none)\t0\t7\t0\toff\n"
        );
        let Seen { wireguard, underlay, received } = parse(&dump).unwrap();
        assert_eq!((wireguard.public_key, wireguard.port, received), (own, 4100, 507));
        assert_eq!(
            wireguard.peers[&one],
            ["10.0.1.4/32".to_owned(), "10.0.1.5/32".to_owned()].into()
        );
        assert_eq!(wireguard.peers[&other], BTreeSet::new());
        let address = "192.0.2.12:4100".parse().unwrap();
        assert_eq!(underlay, [(one, Some(address)), (other, None)].into());
        assert_eq!(parse("secret"), None);
        assert_eq!(parse(&dump.replace("192.0.2.12:", "")), None);
    }
}
