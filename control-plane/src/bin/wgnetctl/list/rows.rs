//! What of each row is shown to people.

use comfy_table::Cell;
use serde::Serialize;
use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::fleet::problems::{ProblemRow, Severity};
use wgnet_control_plane::fleet::rows::{
    EndpointRow, EndpointState, Filter, HostRow, HostState, NetworkRow, NetworkState, PeerRow,
    PeerState,
};

use crate::table::{Tone, age, bytes, cell, joined};

/// A row of a listing. Its JSON is what `--json` promises.
pub(crate) trait Row: Serialize + PartialEq + Sized {
    const HEADER: &[&str];
    /// Said in place of an empty table.
    const NONE: &str;
    /// Whether it is problems that are listed.
    const IS_PROBLEM: bool = false;
    /// Whether this host's driver knows more than etcd.
    const ASKS_DRIVER: bool = false;

    fn of(fleet: &Fleet, filter: &Filter, now: u64) -> Vec<Self>;

    /// Whether the row says that something is wrong.
    fn is_wrong(&self) -> bool {
        false
    }

    /// What stays when a row changes.
    fn key(&self) -> String;

    fn cells(&self, now: u64) -> Vec<Cell>;

    /// Lines below the table.
    fn after(_fleet: &Fleet, _rows: &[Self]) -> Vec<String> {
        Vec::new()
    }
}

fn plain(text: impl ToString) -> Cell {
    cell(text, Tone::Plain)
}

/// A state as it is called in JSON, too.
fn state(state: &impl Serialize, tone: Tone) -> Cell {
    let name = serde_json::to_value(state).ok();
    cell(name.as_ref().and_then(|name| name.as_str()).unwrap_or("?"), tone)
}

impl Row for NetworkRow {
    const HEADER: &[&str] =
        &["network", "subnets", "state", "members", "endpoints", "generation", "options"];
    const NONE: &str = "No networks (docker network create -d wgnet:latest --attachable NAME, then run a container on it).";

    fn of(fleet: &Fleet, filter: &Filter, _now: u64) -> Vec<Self> {
        fleet.network_rows(filter)
    }

    fn key(&self) -> String {
        self.network.to_string()
    }

    fn cells(&self, _now: u64) -> Vec<Cell> {
        let tone = match self.state {
            NetworkState::Up => Tone::Good,
            NetworkState::Freed => Tone::Plain,
            NetworkState::Unrecorded => Tone::Warn,
        };
        let members = if self.alive == self.members {
            plain(self.members)
        } else {
            cell(format!("{} of {} alive", self.alive, self.members), Tone::Warn)
        };
        vec![
            plain(&self.network),
            plain(joined(&self.subnets)),
            state(&self.state, tone),
            members,
            plain(self.endpoints),
            plain(self.generation),
            plain(joined(self.options.iter().map(|(name, value)| format!("{name}={value}")))),
        ]
    }
}

impl Row for HostRow {
    const HEADER: &[&str] = &[
        "host",
        "id",
        "state",
        "underlay",
        "version",
        "wireguard",
        "networks",
        "endpoints",
        "unpublished",
    ];
    const NONE: &str = "No hosts (start wgnet-driver on them).";

    fn of(fleet: &Fleet, filter: &Filter, _now: u64) -> Vec<Self> {
        fleet.host_rows(filter)
    }

    fn key(&self) -> String {
        self.host.to_string()
    }

    fn cells(&self, _now: u64) -> Vec<Cell> {
        let tone = match self.state {
            HostState::Alive => Tone::Good,
            HostState::Revoked => Tone::Warn,
            HostState::Gone | HostState::Unrecorded => Tone::Bad,
        };
        let unpublished = match self.unpublished {
            None => plain("-"),
            Some(0) => plain(0),
            Some(count) => cell(count, Tone::Warn),
        };
        vec![
            plain(&self.name),
            plain(self.host.short()),
            state(&self.state, tone),
            plain(joined(&self.underlay)),
            plain(&self.version),
            plain(&self.backend),
            plain(self.networks),
            plain(self.endpoints),
            unpublished,
        ]
    }
}

impl Row for EndpointRow {
    const HEADER: &[&str] = &["network", "addresses", "host", "state", "mac", "endpoint"];
    const NONE: &str = "No endpoints (run a container on a network of wgnet).";

    fn of(fleet: &Fleet, filter: &Filter, _now: u64) -> Vec<Self> {
        fleet.endpoint_rows(filter)
    }

    fn key(&self) -> String {
        format!("{} {}", self.network, self.endpoint)
    }

    fn cells(&self, _now: u64) -> Vec<Cell> {
        let tone = if self.state == EndpointState::Up { Tone::Good } else { Tone::Bad };
        vec![
            plain(&self.network),
            plain(joined(&self.addresses)),
            plain(&self.host_name),
            state(&self.state, tone),
            plain(self.mac),
            plain(self.endpoint.short()),
        ]
    }
}

impl Row for PeerRow {
    const HEADER: &[&str] =
        &["network", "host", "peer", "state", "handshake", "underlay", "received", "sent", "key"];
    const NONE: &str = "No host tells of tunnels; as root on one of them, its own are shown.";
    const ASKS_DRIVER: bool = true;

    fn of(fleet: &Fleet, filter: &Filter, now: u64) -> Vec<Self> {
        fleet.peer_rows(filter, now)
    }

    fn key(&self) -> String {
        let key = self.public_key.map(|key| key.to_string()).unwrap_or_default();
        format!("{} {} {} {key}", self.network, self.host, self.peer)
    }

    fn cells(&self, now: u64) -> Vec<Cell> {
        let tone = match self.state {
            PeerState::Up => Tone::Good,
            PeerState::Idle => Tone::Plain,
            PeerState::Silent | PeerState::NoHandshake => Tone::Bad,
        };
        let handshake = self.last_handshake;
        let handshake = handshake.map(|at| format!("{} ago", age(now.saturating_sub(at))));
        vec![
            plain(&self.network),
            plain(&self.host_name),
            plain(&self.peer_name),
            state(&self.state, tone),
            plain(handshake.unwrap_or_else(|| "never".to_owned())),
            plain(joined(self.underlay)),
            plain(bytes(self.received_bytes)),
            plain(bytes(self.sent_bytes)),
            plain(joined(self.public_key)),
        ]
    }

    fn after(fleet: &Fleet, _rows: &[Self]) -> Vec<String> {
        let mut silent: Vec<_> =
            fleet.silent_hosts().into_iter().map(|it| fleet.host_name(it)).collect();
        silent.sort_unstable();
        match silent.len() {
            0 => Vec::new(),
            count => vec![
                String::new(),
                format!(
                    "{count} {} not tell of tunnels: {}{}",
                    if count == 1 { "host does" } else { "hosts do" },
                    silent.iter().take(8).cloned().collect::<Vec<_>>().join(", "),
                    if count > 8 { ", ..." } else { "" }
                ),
            ],
        }
    }
}

impl Row for ProblemRow {
    const HEADER: &[&str] = &["severity", "code", "object", "told by", "cause"];
    const NONE: &str = "No problems.";
    const IS_PROBLEM: bool = true;
    const ASKS_DRIVER: bool = true;

    fn of(fleet: &Fleet, filter: &Filter, _now: u64) -> Vec<Self> {
        fleet.problems(filter)
    }

    fn is_wrong(&self) -> bool {
        self.severity != Severity::Note
    }

    fn key(&self) -> String {
        format!("{} {} {:?}", self.code, self.object, self.told_by)
    }

    fn cells(&self, _now: u64) -> Vec<Cell> {
        let tone = match self.severity {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Warn,
            Severity::Note => Tone::Plain,
        };
        vec![
            state(&self.severity, tone),
            plain(&self.code),
            plain(&self.object),
            plain(self.told_by.as_deref().unwrap_or("records")),
            plain(&self.cause),
        ]
    }

    /// What to do, once for each code: a table has no room for it.
    fn after(_fleet: &Fleet, rows: &[Self]) -> Vec<String> {
        let mut steps: Vec<(&str, &str)> =
            rows.iter().map(|row| (row.code.as_str(), row.next_step.as_str())).collect();
        steps.sort_unstable();
        steps.dedup();
        let steps = steps.into_iter().map(|(code, step)| format!("  {code}: {step}"));
        [String::new(), "What to do:".to_owned()].into_iter().chain(steps).collect()
    }
}
