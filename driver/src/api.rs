//! The NetworkDriver plugin protocol over HTTP/1.1 on unix sockets, as dockerd speaks it.
//!
//! Every call becomes a change of the journal; the kernel follows by itself. A handler waits for the
//! kernel only where Docker needs it at once, and never for etcd.
//!
//! - [`wire`] mirrors dockerd's JSON, [`parse`] turns it into domain types.
//! - [`server`] speaks HTTP, [`turns`] keeps the calls of one object in order of arrival and answers
//!   a repeated call once.
//! - [`network`] and [`endpoint`] hold the calls themselves.

mod call;
mod endpoint;
mod error;
mod network;
mod parse;
mod server;
mod turns;
mod wire;

pub use error::CallError;
pub(crate) use server::whole;
pub use server::{Api, serve};

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wgnet_core::ClusterView;
use wgnet_proto::HostId;

use crate::applied::Applied;
use crate::clock::Clock;
use crate::journal::{Journal, Random};
use crate::problems::Problems;

/// How long a call waits for the kernel. Well below the 25 s the shim waits and dockerd's 30 s.
pub const APPLY_WITHIN: Duration = Duration::from_secs(15);

/// Picks a free UDP port: the wanted one if possible, none of the taken ones. The error is a
/// sentence for people.
pub type PortPicker = Arc<dyn Fn(Option<u16>, BTreeSet<u16>) -> PickedPort + Send + Sync>;
pub type PickedPort = Pin<Box<dyn Future<Output = Result<u16, String>> + Send>>;

/// What the calls work with.
#[derive(Clone)]
pub struct Context {
    pub journal: Journal,
    pub applied: Applied,
    pub view: watch::Receiver<Arc<ClusterView>>,
    /// Whether the view has what was known last: without it nobody else seems to have any address.
    pub remembered: watch::Receiver<bool>,
    pub me: HostId,
    /// The MTU of the underlay now.
    pub underlay_mtu: Arc<dyn Fn() -> u16 + Send + Sync>,
    pub random: Random,
    pub clock: Clock,
    pub ports: PortPicker,
    pub problems: Problems,
    /// Usually [`APPLY_WITHIN`].
    pub apply_within: Duration,
}

/// Whose socket a listener is, which decides what the driver says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The shim's: a managed plugin, fit for a swarm.
    Global,
    /// The legacy one, for plain engines.
    Local,
}

impl Scope {
    fn as_str(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Local => "local",
        }
    }
}
