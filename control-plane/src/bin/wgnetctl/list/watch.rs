//! `--watch`: a listing that follows etcd.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::fleet::{Connection, Fleet, SCOPE};
use wgnet_control_plane::follower::{Follower, FollowerOptions};
use wgnet_control_plane::store::etcd::EtcdStore;
use wgnet_proto::ClusterSecrets;

use super::rows::Row;
use super::{Options, ask, now, text};
use crate::table::{Tone, painted};

/// What happens together is shown together.
const TOGETHER: Duration = Duration::from_millis(100);

/// How often ages are renewed on a terminal, and the driver of this host is asked.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Until the process is ended, or nobody reads on.
pub(super) async fn run<R: Row>(
    options: &Options,
    store: EtcdStore,
    secrets: ClusterSecrets,
) -> anyhow::Result<()> {
    let mut follower =
        Follower::start(store, FollowerOptions::default(), &CancellationToken::new());
    follower.scopes().follow(SCOPE);
    let mut fleet = Fleet::new(secrets);
    let mut screen = Screen::<R>::new(options.json || !std::io::stdout().is_terminal());
    let mut look = Instant::now();
    loop {
        // Both arms are cancel-safe.
        let event = tokio::select! {
            event = follower.next() => event,
            () = sleep_until(look) => None,
        };
        if Instant::now() >= look {
            look = Instant::now() + LOOK_EVERY;
            if R::ASKS_DRIVER {
                ask(&mut fleet, &options.driver).await;
            }
        }
        if let Some(event) = event {
            fleet.take(event);
            let end = Instant::now() + TOGETHER;
            while let Ok(Some(event)) = timeout_at(end, follower.next()).await {
                fleet.take(event);
            }
        }
        // Before the first listing nothing is known, a filter's names neither.
        if fleet.revision() == 0 && *fleet.connection() == Connection::Connecting {
            continue;
        }
        // What a filter names may come later.
        let rows = match options.filter(&fleet) {
            Ok(filter) => R::of(&fleet, &filter, now()),
            Err(_) => Vec::new(),
        };
        screen.show(&fleet, rows)?;
    }
}

struct Screen<R> {
    is_json: bool,
    connection: Connection,
    is_synced: bool,
    shown: BTreeMap<String, Value>,
    _rows: std::marker::PhantomData<R>,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'a str,
    row: &'a Value,
}

impl<R: Row> Screen<R> {
    fn new(is_json: bool) -> Self {
        Self {
            is_json,
            connection: Connection::Connecting,
            is_synced: false,
            shown: BTreeMap::new(),
            _rows: std::marker::PhantomData,
        }
    }

    fn show(&mut self, fleet: &Fleet, rows: Vec<R>) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if !self.is_json {
            out.write_all(frame(fleet, &rows).as_bytes())?;
            return Ok(out.flush()?);
        }
        for line in self.lines(fleet, rows)? {
            writeln!(out, "{line}")?;
        }
        Ok(out.flush()?)
    }

    /// What changed since the last time.
    fn lines(&mut self, fleet: &Fleet, rows: Vec<R>) -> anyhow::Result<Vec<String>> {
        let mut lines = Vec::new();
        if self.connection != *fleet.connection() {
            self.connection = fleet.connection().clone();
            match &self.connection {
                Connection::Connecting => {}
                Connection::Connected => lines.push(json!({ "event": "connected" }).to_string()),
                Connection::Lost(error) => {
                    lines.push(json!({ "event": "disconnected", "error": error }).to_string());
                }
            }
        }
        if fleet.revision() == 0 {
            return Ok(lines);
        }
        let mut current = BTreeMap::new();
        for row in rows {
            current.insert(row.key(), serde_json::to_value(&row)?);
        }
        let line = |event, row| serde_json::to_string(&Line { event, row });
        for (key, row) in &self.shown {
            if !current.contains_key(key) {
                lines.push(line("removed", row)?);
            }
        }
        for (key, row) in &current {
            match self.shown.get(key) {
                None => lines.push(line("added", row)?),
                Some(known) if known != row => lines.push(line("changed", row)?),
                Some(_) => {}
            }
        }
        self.shown = current;
        if !std::mem::replace(&mut self.is_synced, true) {
            lines.push(json!({ "event": "synced" }).to_string());
        }
        Ok(lines)
    }
}

/// One picture: from the screen's first line on, each line cleared behind its text.
fn frame<R: Row>(fleet: &Fleet, rows: &[R]) -> String {
    let head = match fleet.connection() {
        Connection::Connected => format!("etcd revision {}", fleet.revision()),
        Connection::Connecting => painted("connecting to etcd", Tone::Warn),
        Connection::Lost(error) => {
            painted(&format!("not connected to etcd, what is shown may be old: {error}"), Tone::Bad)
        }
    };
    let (height, width) = size();
    let mut lines = vec![head, String::new()];
    lines.extend(text(fleet, rows));
    if lines.len() >= height {
        let more = lines.len() - (height - 2);
        lines.truncate(height - 2);
        lines.push(format!(
            "... {more} more lines; a filter shows less, without --watch all is shown"
        ));
    }
    let mut frame = String::from("\u{1b}[H");
    for line in lines {
        frame.push_str(&cut(&line, width));
        frame.push_str("\u{1b}[K\n");
    }
    frame.push_str("\u{1b}[J");
    frame
}

/// The part of a line that fits; a line that wraps would shift all below it.
fn cut(line: &str, width: usize) -> String {
    // Colours take no room; a coloured line is left to the terminal.
    if line.contains('\u{1b}') || line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width).collect()
}

/// Lines and columns of the terminal.
fn size() -> (usize, usize) {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes a winsize where the pointer is, and it lives through the call.
    let asked = unsafe { window_size(1, &raw mut size) };
    match asked {
        Ok(_) if size.ws_row > 3 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => (24, 200),
    }
}

#[cfg(test)]
mod tests {
    use wgnet_control_plane::fleet::rows::HostRow;
    use wgnet_control_plane::follower::Followed;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize)]
    struct Fake(&'static str, u8);

    impl Row for Fake {
        const HEADER: &[&str] = &["name", "value"];
        const NONE: &str = "None.";
        fn of(_: &Fleet, _: &wgnet_control_plane::fleet::rows::Filter, _: u64) -> Vec<Self> {
            Vec::new()
        }
        fn key(&self) -> String {
            self.0.to_owned()
        }
        fn cells(&self, _: u64) -> Vec<comfy_table::Cell> {
            Vec::new()
        }
    }

    fn listed() -> Fleet {
        let mut fleet = Fleet::new(ClusterSecrets::generate([1; 32]));
        let scope = String::new();
        fleet.take(Followed::Listed { scope, revision: 5, entries: Vec::new() });
        fleet.take(Followed::Connected);
        fleet
    }

    #[test]
    fn json_lines_tell_what_differs_and_nothing_twice() {
        let mut fleet = listed();
        let mut screen = Screen::<Fake>::new(true);
        let lines = screen.lines(&fleet, vec![Fake("a", 1), Fake("b", 1)]).unwrap();
        let first = [
            r#"{"event":"connected"}"#,
            r#"{"event":"added","row":["a",1]}"#,
            r#"{"event":"added","row":["b",1]}"#,
            r#"{"event":"synced"}"#,
        ];
        assert_eq!(lines, first);
        assert!(screen.lines(&fleet, vec![Fake("a", 1), Fake("b", 1)]).unwrap().is_empty());
        fleet.take(Followed::Disconnected { error: "no way".to_owned() });
        let lines = screen.lines(&fleet, vec![Fake("b", 2)]).unwrap();
        let then = [
            r#"{"error":"no way","event":"disconnected"}"#,
            r#"{"event":"removed","row":["a",1]}"#,
            r#"{"event":"changed","row":["b",2]}"#,
        ];
        assert_eq!(lines, then);
    }

    #[test]
    fn a_picture_says_how_old_it_may_be() {
        let mut fleet = listed();
        assert!(frame::<HostRow>(&fleet, &[]).contains("etcd revision 5"));
        fleet.take(Followed::Disconnected { error: "no way".to_owned() });
        assert!(frame::<HostRow>(&fleet, &[]).contains("may be old: no way"));
    }
}
