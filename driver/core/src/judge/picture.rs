//! How the places, and what follows from them, are kept in line.

use std::collections::{BTreeMap, BTreeSet};

use wgnet_proto::{NetworkKey, Path, Record};

use super::place::{Held, Place};
use super::{Judge, bury};
use crate::view::{NetworkView, Shared};

impl Judge {
    pub(super) fn place_mut(&mut self, path: &Path) -> &mut Place {
        self.places.entry(path.clone()).or_insert_with(|| {
            self.strays += 1;
            Place::default()
        })
    }

    pub(super) fn remove(&mut self, path: &Path) {
        let Some(place) = self.places.get_mut(path) else {
            return;
        };
        if matches!(path, Path::Tombstone(_)) && !place.is_stray() {
            place.held = Held::Absent;
        } else {
            for valid in self.take(path).records {
                bury(&mut self.graves, path, &valid);
            }
        }
        self.settle(path);
    }

    pub(super) fn take(&mut self, path: &Path) -> Place {
        let place = self.places.remove(path).unwrap_or_default();
        if place.is_stray() {
            self.strays = self.strays.saturating_sub(1);
        }
        place
    }

    /// Brings what follows from a place in line with it.
    pub(super) fn settle(&mut self, path: &Path) {
        let place = self.places.get(path);
        set(&mut self.clobbered, path, place.is_some_and(|place| place.is_clobbered(path)));
        let writer = place.and_then(|place| place.held.writer());
        set(&mut self.own_in_store, path, writer == Some(self.own));
        let valid = place.and_then(|place| place.in_force(path));
        let is_weak = valid.is_some_and(|valid| valid.is_weak);
        let record = valid.map(|valid| valid.record(path));
        self.show(path, record, is_weak);
    }

    /// Puts the record in force into the view.
    fn show(&mut self, path: &Path, record: Option<Record>, is_weak: bool) {
        let view = &mut self.view;
        match (path, record) {
            (Path::Cluster, record) => {
                let cluster = match record {
                    Some(Record::Cluster(record)) => Some(record),
                    _ => None,
                };
                self.changed.cluster |= cluster != self.cluster;
                self.cluster = cluster;
            }
            (Path::Host(host), Some(Record::Host(record))) => {
                self.changed.hosts |= replace(&mut view.hosts, *host, record);
            }
            (Path::Host(host), _) => self.changed.hosts |= remove(&mut view.hosts, host),
            (Path::Alive(host), record) => {
                let is_news = view.alive.contains(host) != record.is_some();
                if is_news {
                    set(&mut view.alive, host, record.is_some());
                }
                self.changed.hosts |= is_news;
            }
            (Path::Status(_) | Path::Tombstone(_), _) => {}
            (Path::Network(key) | Path::Generation(key), record) => {
                self.show_in(key, |network| match (path, record) {
                    (Path::Generation(_), Some(Record::Generation(generation))) => {
                        std::mem::replace(&mut network.generation, generation) != generation
                    }
                    (Path::Generation(_), _) => std::mem::take(&mut network.generation) != 0,
                    (_, Some(Record::Network(record))) => {
                        network.record.replace(record.clone()) != Some(record)
                    }
                    _ => network.record.take().is_some(),
                });
            }
            (Path::Member(key, host), record) => self.show_in(key, |network| {
                let Some(Record::Member(record)) = record else {
                    return remove(&mut network.members, host);
                };
                replace(&mut network.members, *host, record)
            }),
            (Path::Endpoint(key, ip), record) => self.show_in(key, |network| {
                let Some(Record::Endpoint(record)) = record else {
                    return network.endpoints.remove(ip).is_some();
                };
                let endpoints = &mut network.endpoints;
                let is_news =
                    endpoints.get(ip) != Some(&record) || endpoints.is_weak(ip) != is_weak;
                if is_news {
                    endpoints.insert(*ip, record);
                }
                if is_weak {
                    endpoints.weaken(*ip);
                }
                is_news
            }),
        }
    }

    fn show_in(&mut self, key: &NetworkKey, edit: impl FnOnce(&mut NetworkView) -> bool) {
        let network = self.view.networks.entry(key.clone()).or_default();
        if edit(network) {
            self.changed.networks.insert(key.clone());
        }
        if *network == NetworkView::default() {
            self.view.networks.remove(key);
        }
    }
}

/// Adds or removes an element; whether that changed the set.
fn set<T: Ord + Clone>(elements: &mut BTreeSet<T>, element: &T, is_in: bool) -> bool {
    if is_in { elements.insert(element.clone()) } else { elements.remove(element) }
}

/// Sets a value; whether that changed the map, which is copied only then.
fn replace<K: Ord + Clone, V: PartialEq + Clone>(
    map: &mut Shared<BTreeMap<K, V>>,
    key: K,
    value: V,
) -> bool {
    let is_news = map.get(&key) != Some(&value);
    if is_news {
        map.insert(key, value);
    }
    is_news
}

fn remove<K: Ord + Clone, V: Clone>(map: &mut Shared<BTreeMap<K, V>>, key: &K) -> bool {
    map.contains_key(key) && map.remove(key).is_some()
}
