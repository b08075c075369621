//! Which namespaces changed: from whoever notices to whoever wants to know.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;
use wgnet_core::Namespace;

use super::Events;

/// Where changes are reported; every subscriber learns each changed namespace at least once.
#[derive(Clone, Default)]
pub(crate) struct Changes {
    subscribers: Arc<Mutex<Vec<Weak<Pending>>>>,
}

#[derive(Default)]
struct Pending {
    namespaces: Mutex<BTreeSet<Namespace>>,
    more: Notify,
}

impl Changes {
    pub(crate) fn report(&self, namespace: &Namespace) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else {
                return false;
            };
            pending
                .namespaces
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(namespace.clone());
            pending.more.notify_one();
            true
        });
    }

    pub(crate) fn subscribe(&self) -> Changed {
        let pending = Arc::new(Pending::default());
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.push(Arc::downgrade(&pending));
        Changed { pending }
    }
}

/// The changed namespaces, each once until it was taken.
pub struct Changed {
    pending: Arc<Pending>,
}

impl Events for Changed {
    async fn next(&mut self) -> Option<Namespace> {
        loop {
            let next =
                self.pending.namespaces.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if next.is_some() {
                return next;
            }
            self.pending.more.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_that_changed_often_is_yielded_once() {
        let changes = Changes::default();
        let mut events = changes.subscribe();
        let (a, b) = (Namespace::parse("wgnet-a").unwrap(), Namespace::parse("wgnet-b").unwrap());
        for namespace in [&b, &a, &b, &a] {
            changes.report(namespace);
        }
        assert_eq!(events.next().await, Some(a));
        assert_eq!(events.next().await, Some(b.clone()));
        changes.report(&b);
        assert_eq!(events.next().await, Some(b));
    }
}
