//! `wgnetctl revoke`: locks a host out, by a tombstone in etcd.
//!
//! A tombstone counts from whoever holds the cluster secret, whichever key signed it. Here it is one
//! that is made for it and thrown away: no driver has to run where the order is given, and it says
//! nothing against the tombstone if the host it was given on is revoked later.

use std::io::{BufRead, IsTerminal as _, Write};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use wgnet_control_plane::fleet::Fleet;
use wgnet_control_plane::fleet::rows::{Filter, HostState};
use wgnet_control_plane::meant::{By, meant};
use wgnet_control_plane::store::{Op, Store as _, Txn};
use wgnet_control_plane::tombstone;
use wgnet_proto::secret::Epoch;
use wgnet_proto::status::DriverStatus;
use wgnet_proto::text::{clipped, printable};
use wgnet_proto::{ClusterId, ClusterSecrets, HostId, HostKey, Path, Refused};

use crate::driver::Driver;
use crate::settings::ClusterArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The host's name, its id, or the beginning of its id (8 digits at least), as `wgnetctl hosts`
    /// shows them.
    #[arg(value_name = "NAME|ID")]
    host: String,
    /// Do not ask first. Without a terminal nobody can be asked, and this is needed.
    #[arg(long, short)]
    yes: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    driver: Driver,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  wgnetctl hosts                             names, ids and states
  wgnetctl revoke db1                        by its name; asks first
  wgnetctl revoke 5f0c99aa                   by its id, where two hosts have one name
  wgnetctl revoke db1 --yes --json | jq -r .next_step
  wgnetctl secret next --help                what comes next

Fields of --json: host, name, was_revoked (before this order), epoch (of the secret that the tombstone
is sealed with), next_step.";

/// How long this host's driver is waited for, which knows which host this is.
const PATIENCE: Duration = Duration::from_secs(3);

/// A tombstone's reason, before the host's name. When the host's own record is gone the name is known
/// from here.
const REASON: &str = "revoked by an operator: ";

/// A host that may be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    id: HostId,
    name: String,
    state: HostState,
    endpoints: usize,
}

#[derive(Debug, Serialize)]
struct Done {
    host: HostId,
    name: String,
    was_revoked: bool,
    epoch: Epoch,
    next_step: String,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let cluster = options.cluster.load()?;
    let (store, secrets) = (cluster.store()?, cluster.secrets()?);
    let fleet = Fleet::read(&store, secrets.clone()).await?;
    let Some(record) = fleet.cluster() else {
        bail!(no_cluster(&fleet));
    };
    let known = known(&fleet);
    let (host, is_by_id) = find(&known, &options.host).map_err(anyhow::Error::msg)?;

    let tombstone = fleet.tombstone(host.id);
    let was_revoked = host.state == HostState::Revoked;
    let epoch = common_epoch(&fleet, &secrets, host.id);
    let sealed_epoch = tombstone.as_ref().map(|(_, epoch)| *epoch);
    let is_to_be_sealed = sealed_epoch.is_none_or(|sealed| sealed < epoch);
    if !was_revoked {
        if !is_by_id && is_here(host, own_id(&options.driver).await, own_name().as_deref()) {
            bail!(
                "{} is this very host, and a name is easily typed in the wrong window: order it on another host, or, if this one is \
                 meant, by its id: wgnetctl revoke {}",
                host.name,
                host.id
            );
        }
        if !options.yes {
            confirm(host).await?;
        }
    }
    if is_to_be_sealed {
        let reason = tombstone
            .map_or_else(|| format!("{REASON}{}", host.name), |(tombstone, _)| tombstone.reason);
        let secrets = secrets.only(epoch).unwrap_or_else(|| secrets.clone());
        let op = sealed(record.cluster, secrets, host.id, reason)?;
        let txn = Txn { conditions: Vec::new(), ops: vec![op] };
        store
            .commit(txn)
            .await
            .with_context(|| format!("cannot write the tombstone of {} into etcd", host.name))?;
    }
    let done = Done {
        host: host.id,
        name: host.name.clone(),
        was_revoked,
        epoch: if is_to_be_sealed { epoch } else { sealed_epoch.unwrap_or(epoch) },
        next_step: next_step(&secrets, is_to_be_sealed && was_revoked),
    };
    tell(&done, is_to_be_sealed, options.json)
}

fn tell(done: &Done, is_sealed: bool, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(done)?);
        return Ok(());
    }
    let Done { host, name, epoch, next_step, .. } = done;
    match (done.was_revoked, is_sealed) {
        (false, _) => println!(
            "Revoked {name} ({host}): nothing it writes counts any more, and the other hosts drop its keys within a second."
        ),
        (true, true) => println!(
            "{name} ({host}) is revoked already; its tombstone is sealed with epoch {epoch} of the secret now."
        ),
        (true, false) => println!("{name} ({host}) is revoked already; nothing was changed."),
    }
    println!("Next: {next_step}");
    Ok(())
}

fn next_step(secrets: &ClusterSecrets, is_sealed_anew: bool) -> String {
    if secrets.is_insecure() {
        return "the cluster runs without a secret, so that whoever writes to etcd can join as another host: close the host's way to \
                etcd, and give the cluster a secret (wgnetctl secret new --help)"
            .to_owned();
    }
    if is_sealed_anew {
        return "if every host has the new secret by now, take the old one away: wgnetctl secret drop-old /etc/wgnet/secret on each, \
                then restart its driver"
            .to_owned();
    }
    "the host knew the cluster secret, and can join as another host as long as that counts: if it was not replaced since, do it now \
     (wgnetctl secret next --help), without that host. Before the old one is dropped order this again, which seals the tombstone \
     with the new one"
        .to_owned()
}

/// Why nothing can be sealed.
fn no_cluster(fleet: &Fleet) -> String {
    let problem = fleet.problems(&Filter::default()).into_iter().next();
    problem.map_or_else(
        || "there is no cluster in this etcd".to_owned(),
        |problem| format!("{}: {}; {}", problem.object, problem.cause, problem.next_step),
    )
}

/// Every host there is, or was and is locked out.
fn known(fleet: &Fleet) -> Vec<Known> {
    let rows = fleet.host_rows(&Filter::default()).into_iter();
    let mut known: Vec<Known> = rows
        .map(|row| {
            let tombstone = fleet.tombstone(row.host);
            let name = tombstone.as_ref().and_then(|(it, _)| it.reason.strip_prefix(REASON));
            let name = name.map_or(row.name, |name| printable(name).into_owned());
            Known { id: row.host, name, state: row.state, endpoints: row.endpoints }
        })
        .collect();
    // Tombstones that no secret in use opens any more can be sealed anew.
    for (key, refusal) in fleet.refused() {
        if let Some(Path::Tombstone(id)) = Path::parse(key)
            && refusal.reason == Refused::WrongSecret
            && known.iter().all(|host| host.id != id)
        {
            let state = HostState::Revoked;
            known.push(Known { id, name: id.short(), state, endpoints: 0 });
        }
    }
    known
}

/// The one host that is meant, and whether it was its id that was given.
fn find<'k>(known: &'k [Known], wanted: &str) -> Result<(&'k Known, bool), String> {
    let found = meant(known, wanted, |host| host.id, |host| host.name == wanted);
    let (by, mut found) = found.unwrap_or((By::Name, Vec::new()));
    let is_revoked = |host: &&Known| host.state == HostState::Revoked;
    if by == By::Name && !found.iter().all(is_revoked) {
        // Of a revoked host the name is another's by now.
        found.retain(|host| !is_revoked(host));
    }
    match found.as_slice() {
        [host] => Ok((host, by != By::Name)),
        [] => Err(format!(
            "there is no host {}; there are: {}",
            clipped(wanted, 80),
            shown(&known.iter().collect::<Vec<_>>())
        )),
        several => Err(format!(
            "{} can be several hosts: {}; name one by its id",
            clipped(wanted, 80),
            shown(several)
        )),
    }
}

fn shown(hosts: &[&Known]) -> String {
    const MOST: usize = 20;
    let names = hosts.iter().take(MOST);
    let mut names: Vec<String> =
        names.map(|host| format!("{} ({}, {})", host.name, host.id, state(host.state))).collect();
    match hosts.len().saturating_sub(MOST) {
        0 if hosts.is_empty() => names.push("none".to_owned()),
        0 => {}
        more => names.push(format!("and {more} more (wgnetctl hosts)")),
    }
    names.join(", ")
}

fn state(state: HostState) -> &'static str {
    match state {
        HostState::Alive => "alive",
        HostState::Gone => "gone",
        HostState::Revoked => "revoked",
        HostState::Unrecorded => "unrecorded",
    }
}

/// What the driver here says which host it is.
async fn own_id(driver: &Driver) -> Option<HostId> {
    if !driver.is_there() {
        return None;
    }
    let status = tokio::time::timeout(PATIENCE, driver.get::<DriverStatus>("/status")).await;
    Some(status.ok()?.ok()?.host_id)
}

fn own_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok()
}

/// Whether this is the host that the order is given on. Without its driver the name tells.
fn is_here(host: &Known, own_id: Option<HostId>, own_name: Option<&str>) -> bool {
    match own_id {
        Some(own) => own == host.id,
        None => own_name == Some(host.name.as_str()),
    }
}

/// The epoch that every living host knows: while the secret is replaced, some have only the old one.
fn common_epoch(fleet: &Fleet, secrets: &ClusterSecrets, but: HostId) -> Epoch {
    let others = fleet.view().alive.iter().filter(|host| **host != but);
    others.filter_map(|host| fleet.epoch(*host)).min().unwrap_or(secrets.current_epoch())
}

fn sealed(
    cluster: ClusterId,
    secrets: ClusterSecrets,
    host: HostId,
    reason: String,
) -> anyhow::Result<Op> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the kernel gives no random bytes")?;
    let op = tombstone::sealed(cluster, secrets, HostKey::from_random(random), host, reason);
    op.context("no other host would believe this tombstone")
}

/// Asks whoever sits at the terminal.
async fn confirm(host: &Known) -> anyhow::Result<()> {
    let Known { id, name, state: standing, endpoints } = host;
    let standing = state(*standing);
    if !std::io::stdin().is_terminal() {
        bail!(
            "to lock {name} ({id}, {standing}) out cannot be taken back, and without a terminal nobody can be asked; if it is meant: \
             wgnetctl revoke {id} --yes"
        );
    }
    let question = format!(
        "{name} ({id}, {standing}, {endpoints} endpoints) is to be locked out for good: nothing it writes counts any more, every other \
         host drops its keys, and its containers reach no other host's.\nType yes to do it: "
    );
    // What talks to etcd goes on meanwhile.
    let asked = tokio::task::spawn_blocking(move || {
        is_confirmed(&question, &mut std::io::stdin().lock(), &mut std::io::stderr())
    });
    if !asked.await?.context("cannot ask on this terminal; add --yes")? {
        bail!("nothing was changed: the answer was not yes");
    }
    Ok(())
}

fn is_confirmed(
    question: &str,
    answers: &mut impl BufRead,
    out: &mut impl Write,
) -> std::io::Result<bool> {
    out.write_all(question.as_bytes())?;
    out.flush()?;
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}

#[cfg(test)]
mod tests {
    use wgnet_proto::record::TombstoneRecord;
    use wgnet_proto::{Opener, Record};

    use super::*;

    fn host(number: u8, name: &str, state: HostState) -> Known {
        Known { id: HostId([number; 16]), name: name.to_owned(), state, endpoints: 0 }
    }

    #[test]
    fn a_host_is_found_by_name_or_id_and_never_guessed() {
        use HostState::{Alive, Gone, Revoked};
        let known = [
            host(0x11, "a", Alive),
            host(0x22, "b", Alive),
            host(0x33, "b", Gone),
            host(0x44, "c", Revoked),
            host(0x55, "c", Alive),
            host(0x66, "d", Revoked),
            host(0x77, "11111111", Alive),
            host(0x88, &"22".repeat(16), Alive),
        ];
        let find = |wanted: &str| find(&known, wanted).map(|(host, by_id)| (host.id.0[0], by_id));
        assert_eq!(find("a"), Ok((0x11, false)));
        assert_eq!(find(&"33".repeat(16)), Ok((0x33, true)));
        assert_eq!(find("33333333"), Ok((0x33, true)));
        assert_eq!(find("c"), Ok((0x55, false)), "the name is another host's by now");
        assert_eq!(find("d"), Ok((0x66, false)), "it can be said of one that is revoked already");
        assert_eq!(find("11111111"), Ok((0x77, false)), "a name goes before a beginning");
        assert_eq!(find(&"22".repeat(16)), Ok((0x22, true)), "a name is nobody else's id");
        let several = find("b").unwrap_err();
        for part in ["several", &"22".repeat(16), &"33".repeat(16), "gone"] {
            assert!(several.contains(part), "{several}");
        }
        for unknown in ["", "e", "1111111", "3333333", &"99".repeat(16)] {
            let none = find(unknown).unwrap_err();
            assert!(none.contains("there is no host") && none.contains("a (1111"), "{none}");
        }
    }

    #[test]
    fn where_there_is_no_host_or_are_many_the_list_says_so() {
        assert!(find(&[], "a").unwrap_err().ends_with("there are: none"));
        let many: Vec<Known> = (0..25).map(|number| host(number, "h", HostState::Alive)).collect();
        let told = find(&many, "x").unwrap_err();
        assert!(told.ends_with("and 5 more (wgnetctl hosts)"), "{told}");
    }

    #[test]
    fn this_very_host_is_known_by_its_driver_and_else_by_its_name() {
        let host = host(1, "a", HostState::Alive);
        assert!(is_here(&host, Some(host.id), None));
        assert!(!is_here(&host, Some(HostId([2; 16])), Some("a")), "the driver knows better");
        assert!(is_here(&host, None, Some("a")));
        assert!(!is_here(&host, None, Some("b")));
        assert!(!is_here(&host, None, None));
    }

    #[test]
    fn nothing_but_yes_is_yes() {
        let asked = |answer: &str| {
            let mut out = Vec::new();
            let is_yes = is_confirmed("Sure? ", &mut answer.as_bytes(), &mut out).unwrap();
            assert_eq!(out, b"Sure? ");
            is_yes
        };
        assert!(asked("yes\n") && asked(" YES \n") && asked("yes"));
        assert!(!asked("\n") && !asked("") && !asked("y\n") && !asked("no\nyes\n"));
    }

    #[test]
    fn a_tombstone_opens_with_the_secret_and_is_signed_with_a_key_of_its_own() {
        let (cluster, secrets) = (ClusterId([1; 16]), ClusterSecrets::generate([9; 32]));
        let host = HostId([3; 16]);
        let open = || {
            let op = sealed(cluster, secrets.clone(), host, format!("{REASON}h3")).unwrap();
            let Op::Put { key, value } = op else { panic!("it is put") };
            let path = Path::parse(&key).unwrap();
            assert_eq!(path, Path::Tombstone(host));
            let opened = Opener::new(secrets.clone(), Some(cluster)).open(&path, &value).unwrap();
            let reason = "revoked by an operator: h3".to_owned();
            let record = Record::Tombstone(TombstoneRecord { reason });
            assert_eq!(Record::decode(&path, &opened.payload), Ok(record));
            opened.writer
        };
        assert_ne!(open(), open());
        // The longest name a host can have still fits.
        sealed(cluster, secrets.clone(), host, format!("{REASON}{}", "h".repeat(64))).unwrap();
        sealed(cluster, secrets.clone(), host, "\u{1b}".to_owned()).unwrap_err();
    }

    #[test]
    fn the_next_step_is_the_secret_or_that_there_is_none() {
        let secrets = ClusterSecrets::generate([9; 32]);
        assert!(next_step(&secrets, false).contains("wgnetctl secret next"));
        assert!(next_step(&secrets, true).contains("wgnetctl secret drop-old"));
        assert!(next_step(&ClusterSecrets::insecure(), false).contains("without a secret"));
    }
}
