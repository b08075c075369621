//! What operators order: believe a held listing, forget a host.

use tokio::sync::{mpsc, oneshot};
use tracing::info;
use wgnet_control_plane::admin::{ForgetHost, Forgotten, HeldListing, Release};
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
        let held = self.history.held().map(|(scope, vanishing, of, left)| HeldListing {
            scope: scope.to_owned(),
            vanishing: vanishing.len(),
            of,
            hosts: vanishing.iter().map(name).collect(),
            believed_in: left.as_secs(),
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
        let hosts = &self.judge.view().hosts;
        let names = hosts.iter().map(|(host, record)| (*host, record.name.as_str()));
        named(names, wanted)
    }
}

/// Which held listings are meant.
fn chosen(held: Vec<HeldListing>, network: Option<&str>) -> Result<Vec<HeldListing>, String> {
    let Some(network) = network else {
        return Ok(held);
    };
    let is_meant = |held: &HeldListing| {
        held.scope == network || held.scope.strip_prefix("networks/") == Some(network)
    };
    let found: Vec<HeldListing> = held.into_iter().filter(is_meant).collect();
    if found.is_empty() {
        return Err(format!(
            "no listing of {network} is held; wgnetctl release without arguments shows which are"
        ));
    }
    Ok(found)
}

/// The host of this name or id.
fn named<'a>(
    hosts: impl Iterator<Item = (HostId, &'a str)>,
    wanted: &str,
) -> Result<HostId, String> {
    if let Ok(id) = wanted.parse::<HostId>() {
        return Ok(id);
    }
    let found: Vec<HostId> =
        hosts.filter(|(_, name)| *name == wanted).map(|(host, _)| host).collect();
    match found.as_slice() {
        [host] => Ok(*host),
        [] => {
            Err(format!("no host is called {wanted}; wgnetctl status --json shows names and ids"))
        }
        several => {
            let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!(
                "several hosts are called {wanted}; name one by its id: {}",
                ids.join(", ")
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(scope: &str) -> HeldListing {
        HeldListing { scope: scope.to_owned(), vanishing: 3, of: 4, hosts: vec![], believed_in: 9 }
    }

    #[test]
    fn a_held_listing_is_chosen_by_network_or_scope_or_not_at_all() {
        let all = || vec![held("networks/n-blue"), held("networks/n-red")];
        assert_eq!(chosen(all(), None), Ok(all()));
        assert_eq!(chosen(all(), Some("n-red")), Ok(vec![held("networks/n-red")]));
        assert_eq!(chosen(all(), Some("networks/n-blue")), Ok(vec![held("networks/n-blue")]));
        assert!(chosen(all(), Some("n-green")).unwrap_err().contains("n-green"));
    }

    #[test]
    fn a_host_is_found_by_name_or_id_and_never_guessed() {
        let (one, two) = (HostId([1; 16]), HostId([2; 16]));
        let find = |wanted: &str| named([(one, "a"), (two, "b"), (one, "b")].into_iter(), wanted);
        assert_eq!(find("a"), Ok(one));
        assert_eq!(find(&two.to_string()), Ok(two));
        assert!(find("b").unwrap_err().contains("several"));
        assert!(find("c").unwrap_err().contains("no host"));
    }
}
