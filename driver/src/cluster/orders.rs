//! What operators order: believe a held listing, forget a host.

use std::collections::BTreeSet;

use tokio::sync::{mpsc, oneshot};
use tracing::info;
use wgnet_control_plane::admin::{ForgetHost, Forgotten, HeldListing, Release, called};
use wgnet_control_plane::meant::{By, SHORTEST_ID, meant};
use wgnet_control_plane::store::Store;
use wgnet_proto::{HostId, Path};

use super::Task;

/// An order, and where its answer goes: what was done, or a sentence.
#[derive(Debug)]
pub enum Order {
    Release(Release, oneshot::Sender<Result<Vec<HeldListing>, String>>),
    ForgetHost(ForgetHost, oneshot::Sender<Result<Forgotten, String>>),
}

/// Where the cluster task gets its orders from; by default nobody gives any.
#[derive(Debug, Default)]
pub struct Orders(Option<mpsc::Receiver<Order>>);

/// Gives orders.
#[derive(Debug, Clone)]
pub struct Orderer(mpsc::Sender<Order>);

/// More orders than people can give at once.
const QUEUE: usize = 16;

pub fn orders() -> (Orderer, Orders) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Orderer(sender), Orders(Some(receiver)))
}

impl Orders {
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Order {
        let order = match &mut self.0 {
            Some(orders) => orders.recv().await,
            None => None,
        };
        match order {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }
}

impl Orderer {
    /// # Errors
    ///
    /// A sentence.
    pub async fn release(&self, release: Release) -> Result<Vec<HeldListing>, String> {
        self.give(|answer| Order::Release(release, answer)).await
    }

    /// # Errors
    ///
    /// A sentence.
    pub async fn forget_host(&self, forget: ForgetHost) -> Result<Forgotten, String> {
        self.give(|answer| Order::ForgetHost(forget, answer)).await
    }

    async fn give<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, String>>) -> Order,
    ) -> Result<T, String> {
        let ending = || "the driver is about to end; ask again when it has started".to_owned();
        let (answer, answered) = oneshot::channel();
        self.0.send(order(answer)).await.map_err(|_| ending())?;
        answered.await.map_err(|_| ending())?
    }
}

impl<S: Store> Task<S> {
    pub(super) async fn obey(&mut self, order: Order) {
        // Whoever asked may have given up waiting.
        match order {
            Order::Release(release, answer) => drop(answer.send(self.release(&release))),
            Order::ForgetHost(forget, answer) => {
                let forgotten = self.forget_host(&forget.host).await;
                drop(answer.send(forgotten));
            }
        }
    }

    /// The listings that are not believed yet.
    pub(super) fn held(&self) -> Vec<HeldListing> {
        let hosts = &self.judge.view().hosts;
        let name = |host: &HostId| {
            hosts.get(host).map_or_else(|| host.short(), |record| record.name.clone())
        };
        let held = self.history.held().map(|(scope, vanishing, of)| HeldListing {
            scope: scope.to_owned(),
            vanishing: vanishing.len(),
            of,
            hosts: vanishing.iter().map(name).collect(),
        });
        held.collect()
    }

    fn release(&mut self, release: &Release) -> Result<Vec<HeldListing>, String> {
        let released = chosen(self.held(), release.network.as_deref())?;
        for held in &released {
            info!(scope = held.scope, "An operator released a held listing");
            self.history.release(&held.scope);
        }
        if let (false, Some(scopes)) = (released.is_empty(), &self.scopes) {
            scopes.list_again();
        }
        Ok(released)
    }

    async fn forget_host(&mut self, wanted: &str) -> Result<Forgotten, String> {
        if !self.is_home() {
            return Err("this cluster's etcd is not connected, so that nobody can say whether the host lives; try again when it is (wgnetctl status)".to_owned());
        }
        let host_id = self.find_host(wanted)?;
        let name = match self.judge.view().hosts.get(&host_id) {
            Some(record) => record.name.clone(),
            None => host_id.short(),
        };
        if host_id == self.inputs.facts.me {
            return Err(format!("{name} is this very host; order it on another one"));
        }
        if self.judge.in_store(&Path::Alive(host_id)).is_some() {
            return Err(format!(
                "{name} is alive, or was less than a minute ago: stop its wgnet-driver first and wait until wgnetctl status shows it as gone"
            ));
        }
        let was_known = self.knows(host_id);
        match self.remove_records_of(host_id).await {
            Ok(0) if !was_known => Err(format!(
                "nothing is known of a host {host_id}: etcd has no record of it; wgnetctl hosts shows every host"
            )),
            Ok(records) => {
                self.sweeper.forgotten.insert(host_id);
                info!(host = %host_id, name, records, "An operator made the cluster forget a host");
                Ok(Forgotten { host_id, name, records })
            }
            Err(error) => Err(format!("cannot forget {name}: {error}")),
        }
    }

    /// Whether anything is or was known of a host, be it that it was revoked or forgotten.
    fn knows(&self, host: HostId) -> bool {
        let view = self.judge.view();
        view.hosts.contains_key(&host)
            || view.revoked.contains(&host)
            || view.networks.values().any(|network| network.members.contains_key(&host))
            || self.history.keeps().contains(&host)
            || self.sweeper.forgotten.contains(&host)
    }

    fn find_host(&self, wanted: &str) -> Result<HostId, String> {
        let view = self.judge.view();
        let name = |host: &HostId| view.hosts.get(host).map(|record| record.name.as_str());
        let members = view.networks.values().flat_map(|network| network.members.keys());
        let mut known: BTreeSet<HostId> = view.hosts.keys().chain(members).copied().collect();
        known.extend(view.revoked.iter().copied());
        known.extend(self.history.keeps());
        known.extend(self.sweeper.forgotten.iter().copied());
        let known: Vec<_> = known.iter().map(|host| (*host, name(host))).collect();
        named(&known, wanted)
    }
}

/// As many hosts a sentence names.
const NAMED: usize = 8;

/// Which held listings are meant.
fn chosen(held: Vec<HeldListing>, network: Option<&str>) -> Result<Vec<HeldListing>, String> {
    let Some(network) = network else {
        return Ok(held);
    };
    let is_meant = |held: &HeldListing| held.scope == network || called(&held.scope).0 == network;
    let found: Vec<HeldListing> = held.into_iter().filter(is_meant).collect();
    if found.is_empty() {
        return Err(format!(
            "no listing of {network} is held; wgnetctl release without arguments shows which are"
        ));
    }
    Ok(found)
}

/// The host of this name or id, or the only one whose id begins so.
fn named(known: &[(HostId, Option<&str>)], wanted: &str) -> Result<HostId, String> {
    let found = meant(known, wanted, |(host, _)| *host, |(_, name)| *name == Some(wanted));
    let (by, found) = found.unwrap_or((By::Id, Vec::new()));
    let found: Vec<_> = found.into_iter().copied().collect();
    match (found.as_slice(), by) {
        ([(host, _)], _) => Ok(*host),
        // Of one that is not known here etcd may have records all the same.
        ([], _) => wanted.parse::<HostId>().map_err(|_| {
            format!(
                "no host is called {wanted}, and no id begins so ({SHORTEST_ID} digits at least); known are: {}",
                listed(known, HostId::short)
            )
        }),
        (several, By::Name) => Err(format!(
            "several hosts are called {wanted}; name one by its id: {}",
            listed(several, HostId::to_string)
        )),
        (several, By::Id | By::Beginning) => Err(format!(
            "several hosts' ids begin with {wanted}; name one by more of its id: {}",
            listed(several, HostId::to_string)
        )),
    }
}

/// Hosts with their names, or the first of many.
fn listed(hosts: &[(HostId, Option<&str>)], id: impl Fn(&HostId) -> String) -> String {
    let shown = |(host, name): &(HostId, Option<&str>)| match name {
        Some(name) => format!("{name} ({})", id(host)),
        None => id(host),
    };
    let first: Vec<String> = hosts.iter().take(NAMED).map(shown).collect();
    match hosts.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more (wgnetctl hosts)", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(scope: &str) -> HeldListing {
        HeldListing { scope: scope.to_owned(), vanishing: 3, of: 4, hosts: vec![] }
    }

    #[test]
    fn a_held_listing_is_chosen_by_network_or_scope_or_not_at_all() {
        let all = || vec![held("networks/n-blue"), held("networks/n-red"), held("hosts/")];
        assert_eq!(chosen(all(), None), Ok(all()));
        assert_eq!(chosen(all(), Some("n-red")), Ok(vec![held("networks/n-red")]));
        assert_eq!(chosen(all(), Some("networks/n-blue")), Ok(vec![held("networks/n-blue")]));
        for hosts in ["hosts", "hosts/"] {
            assert_eq!(chosen(all(), Some(hosts)), Ok(vec![held("hosts/")]));
        }
        assert!(chosen(all(), Some("n-green")).unwrap_err().contains("n-green"));
    }

    #[test]
    fn a_host_is_found_by_name_id_or_beginning_of_one_and_never_guessed() {
        let id = |first: u8, fifth: u8| {
            HostId([first, 0xcd, 0xef, 0x01, fifth, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
        };
        let (a, b, other_b) = (id(0xa0, 0x10), id(0xa0, 0x11), id(0xb0, 0x20));
        let (nameless, odd) = (id(0xc0, 0x30), id(0xd0, 0x40));
        let known = [
            (a, Some("a")),
            (b, Some("b")),
            (other_b, Some("b")),
            (nameless, None),
            (odd, Some("a0cdef0111")),
        ];
        let find = |wanted: &str| named(&known, wanted);
        assert_eq!(find("a"), Ok(a));
        assert_eq!(find(&other_b.to_string()), Ok(other_b));
        let unknown = id(0x99, 0);
        assert_eq!(find(&unknown.to_string()), Ok(unknown), "a whole id is nobody's beginning");
        assert_eq!(find("b0cdef012"), Ok(other_b));
        assert_eq!(find(&nameless.short()), Ok(nameless), "as every table shows it");
        assert_eq!(find("a0cdef0111"), Ok(odd), "a name comes first");
        let error = find("b").unwrap_err();
        assert!(error.contains("called b") && error.contains(&b.to_string()), "{error}");
        let error = find("a0cdef01").unwrap_err();
        let named = [a, b].map(|host| host.to_string());
        assert!(error.contains("begin with a0cdef01") && !error.contains("b0cdef01"), "{error}");
        assert!(named.iter().all(|host| error.contains(host)), "{error}");
        for wanted in ["c", "b0cdef0", "b0cdef02", ""] {
            let error = find(wanted).unwrap_err();
            assert!(error.contains("no host is called") && error.contains("a (a0cdef01)"));
        }
        let many: Vec<_> = (0..20).map(|first| (id(first, 0), Some("h"))).collect();
        assert!(super::named(&many, "x").unwrap_err().ends_with("and 12 more (wgnetctl hosts)"));
    }
}
