//! The state as rows, and rows as the state.

use std::collections::BTreeMap;

use redb::{ReadTransaction, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wgnet_core::NetworkDefinition;
use wgnet_proto::Generation;

use super::*;

/// A network without its keys and endpoints, which have tables of their own.
#[derive(Serialize, Deserialize)]
struct NetworkRow {
    definition: NetworkDefinition,
    lingering: bool,
    /// When its keys were made, as far as that is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    made: BTreeMap<Generation, u64>,
}

pub(super) enum Unreadable {
    Storage(redb::Error),
    Newer(u32),
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for Unreadable {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}

pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value)
        .expect("the journal's types have text keys and no fallible serializer")
}

fn parse<T: DeserializeOwned>(
    bytes: &[u8],
    what: impl FnOnce() -> String,
) -> Result<T, Unreadable> {
    serde_json::from_slice(bytes)
        .map_err(|error| Unreadable::Damaged(format!("{}: {error}", what())))
}

pub(super) fn load(transaction: &ReadTransaction) -> Result<(HostKey, State), Unreadable> {
    let meta = transaction.open_table(META)?;
    let schema: u32 = match meta.get("schema")? {
        Some(value) => parse(value.value(), || "schema".to_owned())?,
        None => return Err(Unreadable::Damaged("it names no schema".to_owned())),
    };
    if schema > SCHEMA {
        return Err(Unreadable::Newer(schema));
    }
    let key = meta.get("host_key")?;
    let key = key.as_ref().and_then(|bytes| <[u8; 32]>::try_from(bytes.value()).ok());
    let key = Zeroizing::new(
        key.ok_or_else(|| Unreadable::Damaged("the host's key is missing".to_owned()))?,
    );

    let mut state = State::default();
    if let Some(value) = meta.get("boot")? {
        state.boot = parse(value.value(), || "boot".to_owned())?;
    }
    if let Some(value) = meta.get("cluster")? {
        state.cluster = parse(value.value(), || "cluster".to_owned())?;
    }
    if let Some(value) = meta.get("history")? {
        (state.incarnation, state.history) = parse(value.value(), || "history".to_owned())?;
    }
    if let Some(value) = meta.get("written_from")? {
        state.written_from = parse(value.value(), || "written_from".to_owned())?;
    }
    if let Some(value) = meta.get("store_revision")? {
        state.store_revision = parse(value.value(), || "store_revision".to_owned())?;
    }
    if let Some(value) = meta.get("seq")? {
        state.reserved_seq = parse(value.value(), || "seq".to_owned())?;
    }
    load_networks(transaction, &mut state)?;
    load_marks(transaction, &mut state)?;
    Ok((HostKey::from_bytes(*key), state))
}

fn load_networks(transaction: &ReadTransaction, state: &mut State) -> Result<(), Unreadable> {
    let (mut networks, mut made) = (BTreeMap::new(), BTreeMap::new());
    for row in transaction.open_table(NETWORKS)?.range::<&str>(..)? {
        let (id, value) = row?;
        let row: NetworkRow = parse(value.value(), || format!("network {}", id.value()))?;
        let network = LocalNetwork {
            definition: row.definition,
            slots: Vec::new(),
            endpoints: BTreeMap::new(),
            lingering: row.lingering,
        };
        made.insert(id.value().to_owned(), row.made);
        networks.insert(network.definition.docker_id.clone(), network);
    }
    let keys = transaction.open_table(KEYS)?;
    for row in transaction.open_table(SLOTS)?.range::<(&str, u32)>(..)? {
        let (key, port) = row?;
        let (id, generation) = key.value();
        let private_key = keys.get((id, generation))?;
        let private_key =
            private_key.as_ref().and_then(|bytes| <[u8; 32]>::try_from(bytes.value()).ok());
        let (Some(private_key), Some(network)) = (private_key, network_of(&mut networks, id))
        else {
            return Err(Unreadable::Damaged(format!(
                "network {id} has no key of generation {generation}"
            )));
        };
        let private_key = PrivateKey::from_bytes(private_key);
        let made = made.get(id).and_then(|made| made.get(&generation)).copied();
        network.slots.push(LocalSlot { generation, private_key, made, port: port.value() });
    }
    for row in transaction.open_table(ENDPOINTS)?.range::<(&str, &str)>(..)? {
        let (key, value) = row?;
        let (id, endpoint_id) = key.value();
        let endpoint: wgnet_core::LocalEndpoint =
            parse(value.value(), || format!("endpoint {endpoint_id}"))?;
        let Some(network) = network_of(&mut networks, id) else {
            return Err(Unreadable::Damaged(format!("endpoint {endpoint_id} has no network")));
        };
        network.endpoints.insert(endpoint.id.clone(), endpoint);
    }
    for (id, network) in networks {
        if network.lingering {
            state.lingers_until.insert(id.clone(), sweep::LINGER);
        }
        state.networks.insert(id, Arc::new(network));
    }
    Ok(())
}

fn network_of<'a>(
    networks: &'a mut BTreeMap<DockerNetworkId, LocalNetwork>,
    id: &str,
) -> Option<&'a mut LocalNetwork> {
    networks.get_mut(&id.parse().ok()?)
}

fn load_marks(transaction: &ReadTransaction, state: &mut State) -> Result<(), Unreadable> {
    fn id<T: std::str::FromStr<Err = wgnet_proto::IdError>>(text: &str) -> Result<T, Unreadable> {
        text.parse().map_err(|error: wgnet_proto::IdError| Unreadable::Damaged(error.to_string()))
    }
    for row in transaction.open_table(FREED)?.range::<&str>(..)? {
        state.freed.insert(id(row?.0.value())?);
    }
    for row in transaction.open_table(CLAIMS)?.range::<&str>(..)? {
        let (key, claim) = row?;
        state.claims.insert(id(key.value())?, claim.value());
    }
    let mut floors = BTreeMap::new();
    for row in transaction.open_table(FLOORS)?.range::<(&str, &str)>(..)? {
        let (key, floor) = row?;
        let (network, host) = key.value();
        floors.insert((id(network)?, id(host)?), floor.value());
    }
    state.floors = Arc::new(floors);
    let mut deleted = BTreeMap::new();
    for row in transaction.open_table(DELETED)?.range::<&str>(..)? {
        deleted.insert(id(row?.0.value())?, sweep::DELETED_KEPT);
    }
    state.deleted = Arc::new(deleted);
    Ok(())
}

/// Writes every row that differs between the two states.
pub(super) fn write_changes(
    transaction: &WriteTransaction,
    old: &State,
    new: &State,
) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let mut put = |changed: bool, name: &str, value: Vec<u8>| -> Result<(), redb::Error> {
        if changed {
            meta.insert(name, value.as_slice())?;
        }
        Ok(())
    };
    put(old.boot != new.boot, "boot", json(&new.boot))?;
    put(old.cluster != new.cluster, "cluster", json(&new.cluster))?;
    let history = (old.incarnation, old.history) != (new.incarnation, new.history);
    put(history, "history", json(&(new.incarnation, new.history)))?;
    put(old.written_from != new.written_from, "written_from", json(&new.written_from))?;
    put(old.store_revision != new.store_revision, "store_revision", json(&new.store_revision))?;
    put(old.reserved_seq != new.reserved_seq, "seq", json(&new.reserved_seq))?;

    for (id, before, after) in differences(&old.networks, &new.networks) {
        if let (Some(before), Some(after)) = (before, after)
            && Arc::ptr_eq(before, after)
        {
            continue;
        }
        write_network(transaction, id, before.map(Arc::as_ref), after.map(Arc::as_ref))?;
    }

    let mut freed = transaction.open_table(FREED)?;
    for key in old.freed.difference(&new.freed) {
        freed.remove(key.as_str())?;
    }
    for key in new.freed.difference(&old.freed) {
        freed.insert(key.as_str(), ())?;
    }
    let mut claims = transaction.open_table(CLAIMS)?;
    for (key, _, claim) in differences(&old.claims, &new.claims) {
        match claim {
            Some(claim) => drop(claims.insert(key.as_str(), *claim)?),
            None => drop(claims.remove(key.as_str())?),
        }
    }
    if !Arc::ptr_eq(&old.floors, &new.floors) {
        let mut floors = transaction.open_table(FLOORS)?;
        for ((network, host), _, floor) in differences(&old.floors, &new.floors) {
            let (network, host) = (network.as_str(), host.to_string());
            match floor {
                Some(floor) => drop(floors.insert((network, host.as_str()), *floor)?),
                None => drop(floors.remove((network, host.as_str()))?),
            }
        }
    }
    if !Arc::ptr_eq(&old.deleted, &new.deleted) {
        let mut deleted = transaction.open_table(DELETED)?;
        for (id, before, after) in differences(&old.deleted, &new.deleted) {
            match (before, after) {
                (None, Some(_)) => drop(deleted.insert(id.as_str(), ())?),
                (Some(_), None) => drop(deleted.remove(id.as_str())?),
                _ => {}
            }
        }
    }
    Ok(())
}

fn write_network(
    transaction: &WriteTransaction,
    id: &DockerNetworkId,
    old: Option<&LocalNetwork>,
    new: Option<&LocalNetwork>,
) -> Result<(), redb::Error> {
    let id = id.as_str();
    let row = |network: &LocalNetwork| {
        let made = network.slots.iter().filter_map(|slot| Some((slot.generation, slot.made?)));
        json(&NetworkRow {
            definition: network.definition.clone(),
            lingering: network.lingering,
            made: made.collect(),
        })
    };
    let (before, after) = (old.map(row), new.map(row));
    if before != after {
        let mut networks = transaction.open_table(NETWORKS)?;
        match after {
            Some(row) => drop(networks.insert(id, row.as_slice())?),
            None => drop(networks.remove(id)?),
        }
    }
    let slots = |network: Option<&LocalNetwork>| -> BTreeMap<u32, LocalSlot> {
        network
            .into_iter()
            .flat_map(|network| &network.slots)
            .map(|slot| (slot.generation, slot.clone()))
            .collect()
    };
    let (before, after) = (slots(old), slots(new));
    let (mut ports, mut keys) = (transaction.open_table(SLOTS)?, transaction.open_table(KEYS)?);
    for (generation, _, slot) in differences(&before, &after) {
        let Some(slot) = slot else {
            ports.remove((id, *generation))?;
            keys.remove((id, *generation))?;
            continue;
        };
        ports.insert((id, *generation), slot.port)?;
        keys.insert((id, *generation), slot.private_key.expose().as_slice())?;
    }
    let none = BTreeMap::new();
    let (before, after) =
        (old.map_or(&none, |n| &n.endpoints), new.map_or(&none, |n| &n.endpoints));
    let mut endpoints = transaction.open_table(ENDPOINTS)?;
    for (endpoint_id, _, endpoint) in differences(before, after) {
        match endpoint {
            Some(endpoint) => {
                drop(endpoints.insert((id, endpoint_id.as_str()), json(endpoint).as_slice())?)
            }
            None => drop(endpoints.remove((id, endpoint_id.as_str()))?),
        }
    }
    Ok(())
}

/// The keys whose values differ, with both values.
fn differences<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    let gone = old
        .iter()
        .filter(|(key, _)| !new.contains_key(*key))
        .map(|(key, value)| (key, Some(value), None));
    let now = new.iter().map(|(key, value)| (key, old.get(key), Some(value)));
    gone.chain(now.filter(|(_, before, after)| before != after))
}
