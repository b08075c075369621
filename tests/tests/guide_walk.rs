//! What the operator's guide tells to type is typed, on three hosts that begin with Docker, a swarm and
//! the package: from etcd's certificates to a host that is taken away. Each command has to succeed.

// tests/run: long oldest

#[path = "guide_walk/instead.rs"]
mod instead;
#[path = "guide_walk/looks.rs"]
mod looks;
#[path = "guide_walk/plan.rs"]
mod plan;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use instead::INSTEAD;
use plan::{ELSEWHERE, Step, plan};
use wgnet_tests::guide::{self, Block, Typed, blocks, filled};
use wgnet_tests::lab::{Host, Lab, LabError, LabOptions, Output, Result, Running};
use wgnet_tests::package::packages;

/// A service that is made waits for its tasks, a moment longer.
const WITHIN: Duration = Duration::from_secs(120);

/// What was exported on a host, for the commands after it: each has a shell of its own.
const EXPORTED: &str = "/root/exported";

/// Where something is typed, and what its words in capitals, and addresses, are there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    /// None: at the administrator's desk, in a checkout.
    host: Option<usize>,
    words: &'static [(&'static str, &'static str)],
}

pub(crate) struct Walk {
    lab: Lab,
    desk: PathBuf,
    /// Of the package, by version.
    packages: PathBuf,
    /// What stands for what in the guide, everywhere.
    words: Vec<(&'static str, String)>,
    /// What doctor is to find.
    wrong: BTreeSet<&'static str>,
    /// What the last command printed.
    said: String,
    /// What was listed before etcd was emptied.
    listed: BTreeSet<String>,
}

impl Walk {
    fn new(lab: Lab, desk: PathBuf, packages: PathBuf) -> Self {
        let nodes = ["10.0.0.5", "10.0.0.6", "10.0.0.7"].into_iter().zip(lab.hosts());
        let words = nodes.map(|(node, host)| (node, host.address())).collect();
        let (wrong, said, listed) = (BTreeSet::new(), String::new(), BTreeSet::new());
        Self { lab, desk, packages, words, wrong, said, listed }
    }

    /// The host that something is typed on.
    fn host(&self, at: At) -> &Host {
        self.lab.host(at.host.expect("this is typed on a host"))
    }

    fn take(&mut self, step: &Step, block: &Block) -> Result<()> {
        println!("{}: {}", block.section, step.block);
        step.before.map_or(Ok(()), |look| look(self))?;
        for at in &step.at {
            for typed in &block.commands {
                self.enter(*at, typed)?;
            }
        }
        step.after.map_or(Ok(()), |look| look(self))
    }

    fn enter(&mut self, at: At, typed: &Typed) -> Result<()> {
        let mut text = typed.text.clone();
        for (word, value) in at.words {
            text = filled(&text, word, value);
        }
        for (word, value) in &self.words {
            text = filled(&text, word, value);
        }
        let place = at.host.map_or("desk".to_owned(), |number| format!("h{number}"));
        println!("  {place}# {text}");
        let outcome = match INSTEAD.iter().find(|entry| entry.is_for(typed)) {
            Some(entry) => {
                println!("    (otherwise: {})", entry.why);
                (entry.deed)(self, at, &text)
            }
            None => self.run(at, &text),
        };
        outcome.map_err(|error| {
            LabError::Machine(format!("deploy/GUIDE.md:{}: {place}# {text}: {error}", typed.line))
        })
    }

    /// Types it, and it has to succeed.
    fn run(&mut self, at: At, text: &str) -> Result<()> {
        self.said = self.output(at, text)?.text()?;
        if text.starts_with("export ") {
            let host = self.host(at);
            let before = host.read(EXPORTED).unwrap_or_default();
            host.write(EXPORTED, format!("{before}{text}\n"))?;
        }
        Ok(())
    }

    fn output(&self, at: At, text: &str) -> Result<Output> {
        let bash = ["bash", "-euo", "pipefail", "-c"];
        let Some(number) = at.host else {
            let mut command = Command::new(bash[0]);
            command.args(&bash[1..]).arg(text).current_dir(&self.desk);
            return Running::start(command, text.to_owned(), None)?.finish(WITHIN);
        };
        let script = format!("cd /root\n[ ! -e {EXPORTED} ] || . {EXPORTED}\n{text}");
        self.lab.host(number).spawn(&[&bash[..], &[script.as_str()]].concat())?.finish(WITHIN)
    }
}

/// The only block that a step is about.
fn block_of<'b>(blocks: &'b [Block], step: &Step) -> &'b Block {
    let mut found = blocks.iter().filter(|block| step.is_for(block));
    let (first, second) = (found.next(), found.next());
    let name = format!("\"{}\" in the guide's section {}", step.block, step.section);
    assert!(second.is_none(), "several blocks begin with {name}: write more of it");
    first.unwrap_or_else(|| panic!("no block begins with {name} any more: change the plan"))
}

/// Each command of the guide is typed by a step of the plan, or in a chapter that is named with its
/// reason; and each line of the plan and of the tables is about something that is there.
fn nothing_is_left_out(blocks: &[Block], plan: &[Step]) {
    let is_elsewhere = |block: &&Block| ELSEWHERE.iter().any(|(name, _)| *name == block.chapter);
    let (_, here): (Vec<&Block>, Vec<&Block>) = blocks.iter().partition(is_elsewhere);
    for block in &here {
        let Typed { line, text } = &block.commands[0];
        let is_typed = plan.iter().any(|step| step.is_for(block));
        assert!(is_typed, "deploy/GUIDE.md:{line}: no step of the plan types `{text}`");
    }
    for step in plan {
        let block = block_of(blocks, step);
        assert!(here.contains(&block), "{} is walked elsewhere", block.chapter);
    }
    for (chapter, why) in ELSEWHERE {
        let is_there = blocks.iter().any(|block| block.chapter == chapter);
        assert!(is_there && !why.is_empty(), "the guide has no commands in {chapter} any more");
    }
    let typed: Vec<_> = here.iter().flat_map(|block| &block.commands).collect();
    for entry in &INSTEAD {
        let is_used = typed.iter().any(|typed| entry.is_for(typed));
        assert!(is_used, "the guide does not tell to type `{}` any more", entry.begins);
    }
    for typed in typed {
        let entries = INSTEAD.iter().filter(|entry| entry.is_for(typed)).count();
        assert!(entries <= 1, "{entries} entries are for `{}`", typed.text);
    }
}

#[test]
fn no_command_of_the_guide_is_left_out() {
    nothing_is_left_out(&blocks(&guide::text()), &plan());
}

#[test]
#[ignore = "takes minutes"]
fn what_the_guide_tells_to_type_works() -> Result<()> {
    let (blocks, plan) = (blocks(&guide::text()), plan());
    nothing_is_left_out(&blocks, &plan);
    let dir = tempfile::tempdir().expect("a directory can be made");
    let packages = packages(dir.path(), &["1.0.0", "1.0.1"]);
    let desk = dir.path().join("desk");
    fs::create_dir(&desk).expect("the directory is ours");
    let deploy = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    std::os::unix::fs::symlink(deploy, desk.join("deploy")).expect("the directory is ours");

    let options = LabOptions { name: "e2e-guide".into(), etcd: false, ..LabOptions::default() };
    let lab = Lab::start(options)?;
    // The hosts' trees were unpacked, not installed: dpkg there knows of nothing.
    lab.on_all_hosts(|host| host.sh("touch /var/lib/dpkg/status").map(drop))?;
    lab.load_images()?;
    lab.swarm_init()?;
    let mut walk = Walk::new(lab, desk, packages);
    for step in &plan {
        walk.take(step, block_of(&blocks, step))?;
    }
    Ok(())
}
