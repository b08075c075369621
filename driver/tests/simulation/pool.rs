//! A process for each seed, as many at a time as there are cores. This process itself has one
//! thread, and draws nothing from the operating system.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe};

use super::trace::{self, Told};

/// A seed takes well under a second; one that takes so long hangs. Long, as tests/run holds the
/// simulation for minutes while others have the machine.
const LONGEST: Duration = Duration::from_mins(15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Held,
    Wrong,
    /// The process ended without its last word, or had to be ended.
    Died(String),
}

pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) outcome: Outcome,
    pub(crate) hash: u64,
    pub(crate) wrong: Vec<String>,
}

struct Child {
    seed: u64,
    pid: Pid,
    begun: Instant,
    from: File,
    told: Vec<u8>,
}

/// Runs every seed; `report` is told of each that ended, and says whether to go on.
pub(crate) fn run(seeds: Vec<u64>, with: fn(u64) -> Told, mut report: impl FnMut(Report) -> bool) {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    let mut waiting = seeds.into_iter();
    let mut children: Vec<Child> = Vec::new();
    let mut goes_on = true;
    loop {
        while goes_on && children.len() < most {
            let Some(seed) = waiting.next() else { break };
            children.push(start(seed, with));
        }
        if children.is_empty() {
            return;
        }
        for at in ready(&children).into_iter().rev() {
            let mut some = [0; 65536];
            let read = children[at].from.read(&mut some).unwrap_or(0);
            children[at].told.extend_from_slice(&some[..read]);
            if read == 0 {
                let ended = end(children.swap_remove(at));
                goes_on &= report(ended);
            }
        }
        for child in children.iter().filter(|child| child.begun.elapsed() > LONGEST) {
            let _ = kill(child.pid, Signal::SIGKILL);
        }
    }
}

fn ready(children: &[Child]) -> Vec<usize> {
    let fd = |child| PollFd::new(File::as_fd(child), PollFlags::POLLIN);
    let mut fds: Vec<_> = children.iter().map(|child| fd(&child.from)).collect();
    let _ = poll(&mut fds, PollTimeout::from(1000u16));
    let any = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
    fds.iter().enumerate().filter(|(_, fd)| any(fd)).map(|(at, _)| at).collect()
}

fn start(seed: u64, with: fn(u64) -> Told) -> Child {
    let (from, to) = pipe().expect("a pipe can be made");
    // SAFETY: this process has no other thread that could hold a lock.
    match unsafe { fork() }.expect("a process can be made") {
        ForkResult::Parent { child: pid } => {
            drop(to);
            let begun = Instant::now();
            Child { seed, pid, begun, from: File::from(from), told: Vec::new() }
        }
        ForkResult::Child => {
            drop(from);
            work(seed, with, File::from(to));
        }
    }
}

#[allow(clippy::exit, reason = "it is a forked process, and this its end")]
fn work(seed: u64, with: fn(u64) -> Told, mut to: File) -> ! {
    std::panic::set_hook(Box::new(|panic| trace::wrong(format!("panic: {panic}"))));
    super::log();
    // On a thread of its own, which draws its own chance: logging must not change what is drawn.
    let run =
        move || catch_unwind(AssertUnwindSafe(|| with(seed))).unwrap_or_else(|_| trace::take());
    let told = std::thread::spawn(run).join().expect("its panics are caught");
    let mut text = format!("hash {:016x}\n", told.hash);
    let one_line = |line: &String| line.replace('\n', "\u{1}");
    for line in &told.wrong {
        text += &format!("wrong {}\n", one_line(line));
    }
    text += "end\n";
    let _ = to.write_all(text.as_bytes());
    std::process::exit(0)
}

fn end(child: Child) -> Report {
    let status = waitpid(child.pid, None).map_or_else(|e| e.to_string(), |s| format!("{s:?}"));
    let text = String::from_utf8_lossy(&child.told).into_owned();
    let after = |word: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(word));
        lines.map(|line| line.replace('\u{1}', "\n")).collect()
    };
    let wrong = after("wrong ");
    let hash = after("hash ").first().and_then(|hash| u64::from_str_radix(hash, 16).ok());
    let outcome = match (text.ends_with("end\n"), wrong.is_empty()) {
        (false, _) => Outcome::Died(status),
        (true, true) => Outcome::Held,
        (true, false) => Outcome::Wrong,
    };
    Report { seed: child.seed, outcome, hash: hash.unwrap_or(0), wrong }
}
