//! Where etcd's names lead. Each is searched by a thread of its own, for which nobody has to wait: the
//! C library cannot be told to stop, and may take a minute while DNS does not answer.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

/// A name that does not resolve by then leads to where it led before.
const RESOLVE_WITHIN: Duration = Duration::from_secs(3);

type Resolve = Arc<dyn Fn(&str) -> Vec<SocketAddr> + Send + Sync>;

pub(super) struct Names {
    names: Vec<Name>,
    resolve: Resolve,
}

struct Name {
    endpoint: String,
    /// Where it led when that was found last.
    known: Vec<SocketAddr>,
    /// A search that has not ended; never two at once.
    search: Option<oneshot::Receiver<Vec<SocketAddr>>>,
    is_overdue: bool,
}

impl Names {
    pub(super) fn new(endpoints: Vec<String>) -> Self {
        Self::resolved_by(endpoints, Arc::new(resolve))
    }

    fn resolved_by(endpoints: Vec<String>, resolve: Resolve) -> Self {
        let names = endpoints.into_iter().map(|endpoint| Name {
            endpoint,
            known: Vec::new(),
            search: None,
            is_overdue: false,
        });
        Self { names: names.collect(), resolve }
    }

    /// All that the names lead to, as far as it is known in time.
    pub(super) async fn remotes(&mut self) -> Vec<SocketAddr> {
        for name in &mut self.names {
            name.begin(&self.resolve);
        }
        let by = Instant::now() + RESOLVE_WITHIN;
        let mut remotes = Vec::new();
        for name in &mut self.names {
            name.wait(by).await;
            remotes.extend_from_slice(&name.known);
        }
        remotes
    }
}

impl Name {
    fn begin(&mut self, resolve: &Resolve) {
        if self.search.is_some() {
            return;
        }
        let (sender, receiver) = oneshot::channel();
        let (endpoint, resolve) = (self.endpoint.clone(), Arc::clone(resolve));
        let search = move || {
            // Nobody may wait any more.
            let _ = sender.send(resolve(&endpoint));
        };
        let thread = std::thread::Builder::new().name("resolver".to_owned()).spawn(search);
        match thread {
            Ok(_) => self.search = Some(receiver),
            Err(error) => debug!(%error, "Cannot start a thread"),
        }
    }

    async fn wait(&mut self, by: Instant) {
        let Some(search) = &mut self.search else {
            return;
        };
        // It was waited for already.
        let by = if self.is_overdue { Instant::now() } else { by };
        match timeout_at(by, search).await {
            Ok(found) => {
                if let Ok(found) = found
                    && !found.is_empty()
                {
                    self.known = found;
                }
                (self.search, self.is_overdue) = (None, false);
            }
            Err(_) => {
                debug!(endpoint = self.endpoint, "The name of etcd does not resolve in time");
                self.is_overdue = true;
            }
        }
    }
}

fn resolve(endpoint: &str) -> Vec<SocketAddr> {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let addresses = authority.to_socket_addrs().or_else(|_| (authority, 2379).to_socket_addrs());
    addresses.map(Iterator::collect).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc;

    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    /// What DNS answers, in order; who waits for it ends when this is dropped.
    pub(in crate::underlay) type Answers = mpsc::Sender<Vec<SocketAddr>>;

    /// A name, whose searches are told of and wait for an answer.
    pub(in crate::underlay) fn unanswered(name: &str) -> (Names, UnboundedReceiver<()>, Answers) {
        let (asking, asked) = unbounded_channel();
        let (answers, answer) = mpsc::channel();
        let answer = Mutex::new(answer);
        let resolve: Resolve = Arc::new(move |_| {
            asking.send(()).unwrap();
            answer.lock().unwrap().recv().unwrap_or_default()
        });
        (Names::resolved_by(vec![name.to_owned()], resolve), asked, answers)
    }

    fn remote(last: u8) -> Vec<SocketAddr> {
        vec![([192, 0, 2, last], 2379).into()]
    }

    #[tokio::test]
    async fn while_dns_does_not_answer_a_name_leads_to_where_it_led_before() {
        let (mut names, mut asked, answers) = unanswered("http://etcd:2379");
        answers.send(remote(1)).unwrap();
        assert_eq!(names.remotes().await, remote(1));
        // What DNS refuses to tell is no news either.
        answers.send(Vec::new()).unwrap();
        assert_eq!(names.remotes().await, remote(1));
        tokio::time::pause();
        let begun = Instant::now();
        assert_eq!(names.remotes().await, remote(1));
        let waited = begun.elapsed();
        assert!(waited >= RESOLVE_WITHIN && waited < 2 * RESOLVE_WITHIN, "{waited:?}");
        // The next one does not wait again, and asks nobody else.
        assert_eq!(names.remotes().await, remote(1));
        assert!(begun.elapsed() < waited + RESOLVE_WITHIN / 2);
        for _ in 0..3 {
            asked.recv().await.unwrap();
        }
        assert!(asked.is_empty());
        answers.send(remote(2)).unwrap();
        while names.remotes().await != remote(2) {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn an_address_in_an_endpoint_is_where_it_leads() {
        assert_eq!(resolve("http://192.0.2.1:2379/x"), remote(1));
        assert_eq!(resolve("192.0.2.1"), remote(1));
    }
}
