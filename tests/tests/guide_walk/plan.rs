//! In which order the guide's blocks are typed, where, and what has to be so before and after.

use wgnet_tests::guide::{Block, Typed};
use wgnet_tests::lab::Result;

use super::looks;
use crate::{At, Walk};

/// Chapters whose commands are not typed here, and why.
pub(crate) const ELSEWHERE: [(&str, &str); 3] = [
    ("Monitoring", "it is about Prometheus, Grafana, browsers and certificates of yours"),
    ("Problem codes", "each wants its problem; the test of doctor plants them"),
    ("Runbook of the alerts", "each wants its alert"),
];

pub(crate) type Look = fn(&mut Walk) -> Result<()>;

/// A block, which is named by its section and by how its first command begins.
pub(crate) struct Step {
    pub(crate) section: &'static str,
    pub(crate) block: &'static str,
    pub(crate) at: Vec<At>,
    pub(crate) before: Option<Look>,
    pub(crate) after: Option<Look>,
}

impl Step {
    pub(crate) fn is_for(&self, block: &Block) -> bool {
        let Typed { text, .. } = &block.commands[0];
        block.section == self.section && text.starts_with(self.block)
    }

    fn before(self, look: Look) -> Self {
        Self { before: Some(look), ..self }
    }

    fn after(self, look: Look) -> Self {
        Self { after: Some(look), ..self }
    }
}

fn step<const N: usize>(section: &'static str, block: &'static str, at: [At; N]) -> Step {
    Step { section, block, at: at.into(), before: None, after: None }
}

pub(crate) const fn on(host: usize) -> At {
    At { host: Some(host), words: &[] }
}

const fn with(host: usize, words: &'static [(&'static str, &'static str)]) -> At {
    At { host: Some(host), words }
}

const fn desk(words: &'static [(&'static str, &'static str)]) -> At {
    At { host: None, words }
}

const EVERYWHERE: [At; 3] = [on(1), on(2), on(3)];

/// h1 manages the swarm; etcd's nodes a, b and c are h1, h2 and h3; at last h3 is taken away, and h2
/// locked out.
pub(crate) fn plan() -> Vec<Step> {
    vec![
        step("etcd", "deploy/etcd/make", [desk(&[])]),
        step(
            "etcd",
            "scp -r",
            [
                desk(&[]),
                desk(&[("nodes/a", "nodes/b"), ("10.0.0.5", "10.0.0.6")]),
                desk(&[("nodes/a", "nodes/c"), ("10.0.0.5", "10.0.0.7")]),
            ],
        ),
        step("etcd", "apt install", EVERYWHERE).after(looks::etcd_answers),
        step("Hosts", "apt install", EVERYWHERE).before(|walk| looks::bring_package(walk, "1.0.0")),
        step(
            "Hosts",
            "scp -p",
            [desk(&[("HOST", "h1")]), desk(&[("HOST", "h2")]), desk(&[("HOST", "h3")])],
        )
        .after(looks::take_over_settings),
        step("Hosts", "wgnetctl secret new", [with(1, &[("HOST2", "h2")])])
            .after(looks::secret_to_the_third),
        step("Hosts", "wgnet-driver --check", EVERYWHERE).before(|walk| {
            walk.wrong = ["plugin-missing"].into();
            Ok(())
        }),
        step("Firewall", "nft insert", EVERYWHERE).before(looks::close_firewalls),
        step("Plugin", "wgnetctl plugin install", EVERYWHERE).before(|walk| {
            walk.wrong.clear();
            Ok(())
        }),
        step("Plugin", "docker network create", [on(1)])
            .before(looks::swarm_knows_the_plugin)
            .after(looks::containers_reach_each_other),
        step(
            "Find out what is wrong",
            "wgnetctl problems",
            [with(1, &[("A", "10.0.3.7"), ("B", "10.0.3.9")])],
        )
        .before(looks::nothing_is_wrong),
        step("Find out what is wrong", "wgnetctl path", [with(1, &[("CONTAINER", "near")])]),
        step("Find out what is wrong", "wgnetctl bundle", [on(1)]),
        step("Sizing of etcd", "grep", EVERYWHERE),
        step("Sizing of etcd", "export", [on(1)]),
        step("Upgrade", "apt install", EVERYWHERE)
            .before(|walk| looks::bring_package(walk, "1.0.1"))
            .after(looks::containers_still_reach_each_other),
        step("Upgrade", "wgnetctl plugin install", EVERYWHERE).after(looks::nothing_to_do),
        step("Upgrade", "pkill", [on(1)]).after(looks::containers_still_reach_each_other),
        step("The cluster secret", "cp -p", [on(1)]).after(|walk| looks::secret_to(walk, 3)),
        step("The cluster secret", "systemctl restart", EVERYWHERE),
        step("The cluster secret", "wgnetctl secret drop-old", EVERYWHERE)
            .before(looks::nothing_is_wrong)
            .after(looks::containers_still_reach_each_other),
        step("Back up and restore", "ETCDCTL_ENDPOINTS", [on(1)]),
        step("Back up and restore", "rm -r", EVERYWHERE).before(looks::stop_etcd),
        step("Back up and restore", "systemctl start etcd", EVERYWHERE)
            .after(looks::all_is_listed_again),
        step("Back up and restore", "wgnetctl hosts", [on(1)])
            .after(looks::containers_still_reach_each_other),
        step("Remove a host", "docker node update", [with(1, &[("HOST", "h3")])]),
        step("Remove a host", "docker swarm leave", [on(3)])
            .before(looks::stop_the_third)
            .after(looks::third_has_no_networks),
        step("Remove a host", "wgnetctl forget-host", [with(1, &[("HOST", "h3")])])
            .before(looks::third_is_gone),
        step("Remove a host", "apt purge", [on(3)]).after(looks::third_has_no_files),
        step("Lock a host out", "wgnetctl hosts", [with(1, &[("HOST", "h2")])])
            .after(looks::second_is_not_reached),
        // As its first step says.
        step("The cluster secret", "cp -p", [on(1)]).after(|walk| looks::secret_to(walk, 1)),
        step("The cluster secret", "systemctl restart", [on(1)]),
        step("Lock a host out", "wgnetctl revoke", [with(1, &[("HOST", "h2")])]),
        step("The cluster secret", "wgnetctl secret drop-old", [on(1)])
            .before(looks::all_use_the_new_secret)
            .after(looks::first_is_alive),
        step("Lock a host out", "docker node rm", [with(1, &[("HOST", "h2")])]),
    ]
}
