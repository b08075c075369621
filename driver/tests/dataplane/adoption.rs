//! A driver that starts where another one ended reads, and writes nothing.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use wgnet_driver::dataplane::linux::Choice;
use wgnet_driver::dataplane::{Claimed, Dataplane, Joined};

use crate::bench::start;
use crate::host::Host;
use crate::traffic::{Side, namespace};

pub(crate) fn a_start_over_what_is_there_writes_nothing(choice: &Choice) {
    let side = Side::start(1, choice);
    side.make_network();
    side.make_wireguard();
    // The kernel itself is at work until its own addresses are settled.
    let settled = format!(
        "for i in $(seq 100); do ip -n {0} -6 addr show tentative | grep -q . || exit 0; sleep 0.1; done; exit 1",
        namespace()
    );
    side.host.sh(&settled);

    let mut monitors = Monitors::start(&side.host);
    let beginning = monitors.mark();
    let again = choice.clone();
    side.host.run(async move {
        let plane = start(&again).await;
        let claimed = Claimed { namespaces: [namespace()].into(), ..Claimed::default() };
        let swept = plane.sweep(|| claimed.clone()).await;
        assert!(swept.is_ok_and(|swept| swept.removed.is_empty()));
        let seen = plane.observe(&namespace(), &Joined::new()).await;
        assert!(matches!(seen, wgnet_core::Seen::Present(_)));
    });
    let end = monitors.mark();
    assert_eq!(monitors.between(beginning, end), "", "a start wrote to the kernel");

    // The check can fail: it sees what somebody does.
    side.host.sh(&format!("ip -n {} link add dummy0 type bridge", namespace()));
    let later = monitors.mark();
    assert!(monitors.between(end, later).contains("dummy0"));
}

/// Where the monitors run.
const PLACES: [&str; 2] = ["host", "network"];
/// Every change to links, addresses, routes and rules.
const KINDS: [&str; 2] = ["ip -o monitor link address route rule nsid", "nft monitor"];

/// The priority of a rule that nobody else makes.
const FIRST_MARK: u32 = 4000;

const WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Write down what anybody changes, in the host's namespace and in the network's.
struct Monitors<'h> {
    host: &'h Host,
    logs: TempDir,
    marks: u32,
}

impl<'h> Monitors<'h> {
    /// Returns when each of them writes.
    fn start(host: &'h Host) -> Self {
        let logs = tempfile::Builder::new().prefix("wgnett-").tempdir().unwrap();
        let mut monitors = Self { host, logs, marks: 0 };
        for (place, kind) in monitors.all() {
            let (within, log) = (within(place), monitors.log(place, kind));
            std::fs::write(&log, "").unwrap();
            let pids = monitors.logs.path().join("pids");
            // Ends by itself if the test cannot end it.
            let monitor =
                format!("{within} timeout 60 {kind} >> {log} 2>&1 & echo $! >> {}", pids.display());
            host.sh(&monitor);
        }
        let deadline = Instant::now() + WITHIN;
        while !monitors.all().all(|(place, kind)| !monitors.read(place, kind).is_empty()) {
            assert!(Instant::now() < deadline, "every monitor writes");
            monitors.set();
            std::thread::sleep(LOOK_EVERY);
        }
        monitors
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &'static str)> + use<> {
        PLACES.into_iter().flat_map(|place| KINDS.map(|kind| (place, kind)))
    }

    fn log(&self, place: &str, kind: &str) -> String {
        let tool = kind.split(' ').next().unwrap();
        self.logs.path().join(format!("{place}-{tool}")).display().to_string()
    }

    fn read(&self, place: &str, kind: &str) -> String {
        std::fs::read_to_string(self.log(place, kind)).unwrap()
    }

    /// Changes what every monitor tells and nobody uses: a rule and a table of nft.
    fn set(&mut self) -> u32 {
        self.marks += 1;
        let number = FIRST_MARK + self.marks;
        for place in PLACES {
            let within = within(place);
            self.host.sh(&format!("{within} ip rule add pref {number} lookup main"));
            self.host.sh(&format!("{within} nft add table inet mark-{number}"));
        }
        number
    }

    /// Returns when every monitor has written a new mark, and so all that happened before.
    fn mark(&mut self) -> u32 {
        let mark = self.set();
        let deadline = Instant::now() + WITHIN;
        let is_told = |log: String| log.lines().any(|line| is_mark(line, mark));
        while !self.all().all(|(place, kind)| is_told(self.read(place, kind))) {
            assert!(Instant::now() < deadline, "every monitor tells of mark {mark}");
            std::thread::sleep(LOOK_EVERY);
        }
        mark
    }

    /// What all of them have written between two marks.
    fn between(&self, from: u32, to: u32) -> String {
        let mut told = String::new();
        for (place, kind) in self.all() {
            let log = self.read(place, kind);
            let lines = log.lines().skip_while(|line| !is_mark(line, from)).skip(1);
            for (number, line) in lines.take_while(|line| !is_mark(line, to)).enumerate() {
                // The mark's own.
                if number > 0 || !line.starts_with("# new generation") {
                    told.push_str(&format!("{place}: {line}\n"));
                }
            }
        }
        told
    }
}

impl Drop for Monitors<'_> {
    fn drop(&mut self) {
        let _ = self.host.try_sh(&format!("kill $(cat {}/pids)", self.logs.path().display()));
    }
}

fn within(place: &str) -> String {
    if place == "network" { format!("ip netns exec {}", namespace()) } else { String::new() }
}

fn is_mark(line: &str, mark: u32) -> bool {
    line.starts_with(&format!("{mark}:")) || line.ends_with(&format!(" mark-{mark}"))
}
