//! nftables, through the `nft` program: the guard in the host's namespace, the MSS clamp in each
//! network's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::process::{Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use wgnet_core::Namespace;

use super::netlink::{Requests, attribute};
use super::netns;
use super::space::{Blocking, Space};

const DEADLINE: Duration = Duration::from_secs(10);

/// The one table in a network's namespace.
const CLAMP_TABLE: &str = "wgnet";

/// Before any filter of the host's, so that no accept of another table is asked first.
const GUARD_PRIORITY: i32 = -10;

pub(crate) const GUARD_PREFIX: &str = "wgnet-guard-";

/// The comment of a guard's rules: a table of ours by more than its name.
const MARK: &str = "wgnet";

/// One table for each network: networks may overlap.
fn guard_table(namespace: &Namespace) -> String {
    format!("{GUARD_PREFIX}{}", &namespace.as_str()[Namespace::PREFIX.len()..])
}

/// What the tables of ours in a namespace say, read again only after the kernel's rules changed.
pub(crate) struct Ruleset {
    socket: Blocking<Requests>,
    read: Mutex<BTreeMap<String, (u32, Option<Value>)>>,
}

impl Ruleset {
    pub(crate) fn new(netfilter: Requests) -> Self {
        Self { socket: Blocking::new(netfilter), read: Mutex::default() }
    }

    /// The number of the last change to any rule; `None` where the kernel has no nftables.
    async fn generation(&self) -> io::Result<Option<u32>> {
        const NFT_MSG_GETGEN: u16 = (10 << 8) | 16;
        const NFTA_GEN_ID: u16 = 1;
        let replies = self.socket.run(|socket| socket.request(NFT_MSG_GETGEN, &[0; 4])).await;
        let replies = match replies {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::EINVAL | nix::libc::EOPNOTSUPP)
                ) =>
            {
                return Ok(None);
            }
            other => other?,
        };
        let id = replies.first().and_then(|reply| attribute(reply.get(4..)?, NFTA_GEN_ID));
        match id.and_then(|id| <[u8; 4]>::try_from(id).ok()) {
            Some(id) => Ok(Some(u32::from_be_bytes(id))),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel's answer has no ruleset generation",
            )),
        }
    }
}

/// The table's listing; `None` if there is no such table, or no nftables at all.
async fn table(space: &Space, name: &str) -> io::Result<Option<Value>> {
    let Some(generation) = space.ruleset.generation().await? else {
        return Ok(None);
    };
    let known = || space.ruleset.read.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, listing)) = known().get(name)
        && *at == generation
    {
        return Ok(listing.clone());
    }
    let output = match run(space, &["-j", "list", "table", "inet", name], "").await {
        // Whoever has no nft made no table with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let listing = if output.status.success() {
        Some(serde_json::from_slice(&output.stdout)?)
    } else if String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
        None
    } else {
        return Err(complaint(&output));
    };
    known().insert(name.to_owned(), (generation, listing.clone()));
    Ok(listing)
}

/// What somebody outside began with a published port is answered, wherever he is.
const ANSWERS: &str = "    ct direction reply ct status dnat return\n";

/// Makes the host drop what comes from a bridge (docker_gwbridge, or a container's second network) for
/// these subnets: a container that lost its interface would otherwise send to them through its default
/// route, in the clear. Also to another bridge, which may be the host's uplink; but not within one
/// bridge and without a next hop, where a plain network may use the same subnet.
pub(crate) async fn set_guard(
    host: &Space,
    namespace: &Namespace,
    subnets: &BTreeSet<IpNet>,
) -> io::Result<()> {
    if subnets.is_empty() {
        return remove_guard(host, namespace).await;
    }
    let rules = subnets.iter().map(|subnet| {
        let family = if subnet.addr().is_ipv4() { "ip" } else { "ip6" };
        let from = "meta iifkind \"bridge\"";
        let within = format!("fib daddr . iif oif exists rt {family} nexthop {subnet}");
        format!(
            "    {from} {within} return comment \"{MARK}\"\n    \
             {from} {family} daddr {subnet} counter drop comment \"{MARK}\"\n"
        )
    });
    let chain = format!(
        "  chain forward {{\n    type filter hook forward priority {GUARD_PRIORITY}; policy accept;\n{ANSWERS}{}  }}",
        rules.collect::<String>()
    );
    replace(host, &guard_table(namespace), &chain).await
}

pub(crate) async fn remove_guard(host: &Space, namespace: &Namespace) -> io::Result<()> {
    let name = guard_table(namespace);
    if table(host, &name).await?.is_none() {
        return Ok(());
    }
    load(host, &format!("table inet {name} {{}}\ndelete table inet {name}\n")).await
}

/// The subnets that the host guards for a network.
pub(crate) async fn guard(host: &Space, namespace: &Namespace) -> io::Result<BTreeSet<IpNet>> {
    let listing = table(host, &guard_table(namespace)).await?;
    Ok(listing.map(|listing| guarded(&listing)).unwrap_or_default())
}

/// The networks that have a guard in the host which is ours by name and mark.
pub(crate) async fn marked_guards(host: &Space) -> io::Result<BTreeSet<Namespace>> {
    if host.ruleset.generation().await?.is_none() {
        return Ok(BTreeSet::new());
    }
    let output = match run(host, &["-j", "list", "tables", "inet"], "").await {
        // Whoever has no nft made no table with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    if !output.status.success() {
        return Err(complaint(&output));
    }
    let tables: Value = serde_json::from_slice(&output.stdout)?;
    let mut guards = BTreeSet::new();
    for namespace in guard_names(&tables) {
        if table(host, &guard_table(&namespace)).await?.is_some_and(|listing| is_marked(&listing)) {
            guards.insert(namespace);
        }
    }
    Ok(guards)
}

fn guard_names(tables: &Value) -> Vec<Namespace> {
    let tables = tables["nftables"].as_array().into_iter().flatten();
    let names = tables.filter_map(|object| object["table"]["name"].as_str());
    let ids = names.filter_map(|name| name.strip_prefix(GUARD_PREFIX));
    ids.filter_map(|id| Namespace::parse(&format!("{}{id}", Namespace::PREFIX))).collect()
}

fn is_marked(listing: &Value) -> bool {
    let objects = listing["nftables"].as_array().into_iter().flatten();
    let mut comments = objects.filter_map(|object| object["rule"]["comment"].as_str());
    comments.any(|comment| comment == MARK)
}

/// TCP connections that leave through WireGuard agree on segments that fit.
pub(crate) async fn clamp_mss(space: &Space) -> io::Result<()> {
    let chain = "  chain forward {\n    type filter hook forward priority mangle; policy accept;\n    \
                 oifname \"wg*\" tcp flags & (syn|rst) == syn tcp option maxseg size set rt mtu\n  }";
    replace(space, CLAMP_TABLE, chain).await
}

pub(crate) async fn clamps_mss(space: &Space) -> io::Result<bool> {
    Ok(table(space, CLAMP_TABLE).await?.is_some_and(|listing| clamps(&listing)))
}

/// In one transaction: nobody ever sees the table without its rules.
async fn replace(space: &Space, name: &str, chain: &str) -> io::Result<()> {
    let script = format!(
        "table inet {name} {{}}\ndelete table inet {name}\ntable inet {name} {{\n{chain}\n}}\n"
    );
    load(space, &script).await
}

async fn load(space: &Space, script: &str) -> io::Result<()> {
    let output = run(space, &["-f", "-"], script).await?;
    if output.status.success() { Ok(()) } else { Err(complaint(&output)) }
}

async fn run(namespace: &impl AsFd, arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut command = Command::new("nft");
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = netns::within(namespace, move || command.spawn()).await?;
    let mut stdin = child.stdin.take().expect("it was asked for");
    let talk = async {
        // One that dies before it has read everything says why on its error output.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    tokio::time::timeout(DEADLINE, talk)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "nft did not end"))?
}

fn complaint(output: &Output) -> io::Error {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    io::Error::other(format!("nft says: {line}"))
}

/// The rules of a listing that has a chain in the forward hook.
fn forward_rules(listing: &Value) -> impl Iterator<Item = &Vec<Value>> {
    let objects = || listing["nftables"].as_array().into_iter().flatten();
    let hooked = objects().any(|object| object["chain"]["hook"] == "forward");
    objects().filter(move |_| hooked).filter_map(|object| object["rule"]["expr"].as_array())
}

/// A rule of a guard.
#[derive(PartialEq)]
enum Rule {
    Answers,
    Within(IpNet),
    Drop(IpNet),
}

/// The subnets of a guard that is as [`set_guard`] makes it: with any rule more, less or between it
/// may let something through, and guards nothing.
fn guarded(listing: &Value) -> BTreeSet<IpNet> {
    let rules: Option<Vec<Rule>> = forward_rules(listing).map(|it| rule(it)).collect();
    let rules = rules.unwrap_or_default();
    let subnets: BTreeSet<IpNet> = rules
        .iter()
        .filter_map(|rule| if let Rule::Drop(subnet) = rule { Some(*subnet) } else { None })
        .collect();
    let pairs = subnets.iter().flat_map(|subnet| [Rule::Within(*subnet), Rule::Drop(*subnet)]);
    if std::iter::once(Rule::Answers).chain(pairs).eq(rules) { subnets } else { BTreeSet::new() }
}

fn rule(statements: &[Value]) -> Option<Rule> {
    let has = |verdict| statements.iter().any(|statement| statement.get(verdict).is_some());
    let matches: Vec<_> = statements.iter().filter_map(|it| it.get("match")).collect();
    let of = |path: &str, value: &str| {
        let wanted = Value::from(value);
        matches.iter().find(|m| m["left"].pointer(path) == Some(&wanted)).map(|m| &m["right"])
    };
    let from_bridge = || of("/meta/key", "iifkind").is_some_and(|kind| kind == "bridge");
    if has("drop") && matches.len() == 2 && from_bridge() {
        return Some(Rule::Drop(subnet(of("/payload/field", "daddr")?)?));
    }
    if has("return") && matches.len() == 3 && from_bridge() {
        let of_the_route = of("/fib/result", "oif")?;
        let within = Rule::Within(subnet(of("/rt/key", "nexthop")?)?);
        return (*of_the_route == true).then_some(within);
    }
    let answers =
        || Some(of("/ct/key", "direction")? == "reply" && of("/ct/key", "status")? == "dnat");
    (has("return") && matches.len() == 2 && answers()?).then_some(Rule::Answers)
}

/// As a listing has it: a prefix, or an address alone.
fn subnet(right: &Value) -> Option<IpNet> {
    match right.as_str() {
        Some(address) => Some(address.parse::<std::net::IpAddr>().ok()?.into()),
        None => {
            let length = u8::try_from(right["prefix"]["len"].as_u64()?).ok()?;
            IpNet::new(right["prefix"]["addr"].as_str()?.parse().ok()?, length).ok()
        }
    }
}

fn clamps(listing: &Value) -> bool {
    let mangles = |rule: &Vec<Value>| {
        rule.iter().any(|statement| statement["mangle"]["key"]["tcp option"].is_object())
    };
    forward_rules(listing).any(mangles)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn from_bridge() -> Value {
        json!({"match": {"op": "==", "left": {"meta": {"key": "iifkind"}}, "right": "bridge"}})
    }

    fn drops(right: &Value, end: &Value) -> Value {
        let left = json!({"payload": {"protocol": "ip", "field": "daddr"}});
        let counter = json!({"counter": {"packets": 0, "bytes": 0}});
        json!([from_bridge(), {"match": {"op": "==", "left": left, "right": right}}, counter, end])
    }

    fn within(right: &Value) -> Value {
        let fib = json!({"fib": {"result": "oif", "flags": ["daddr", "iif"]}});
        let next_hop = json!({"rt": {"key": "nexthop", "family": "ip"}});
        json!([
            from_bridge(),
            {"match": {"op": "==", "left": fib, "right": true}},
            {"match": {"op": "==", "left": next_hop, "right": right}},
            {"return": null}
        ])
    }

    fn answers() -> Value {
        json!([
            {"match": {"op": "==", "left": {"ct": {"key": "direction"}}, "right": "reply"}},
            {"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}},
            {"return": null}
        ])
    }

    fn listing(rules: &[Value]) -> Value {
        let mut objects = vec![
            json!({"metainfo": {"json_schema_version": 1}}),
            json!({"table": {"family": "inet", "name": "wgnet-guard-a"}}),
            json!({"chain": {"family": "inet", "table": "wgnet-guard-a", "name": "forward", "hook": "forward", "prio": -10}}),
        ];
        objects.extend(rules.iter().map(|rule| json!({"rule": {"expr": rule}})));
        json!({"nftables": objects})
    }

    fn whole(right: &Value) -> [Value; 3] {
        [answers(), within(right), drops(right, &json!({"drop": null}))]
    }

    fn prefix() -> Value {
        json!({"prefix": {"addr": "10.50.0.0", "len": 24}})
    }

    #[test]
    fn a_guard_is_read_back() {
        let expected = BTreeSet::from(["10.50.0.0/24".parse().unwrap()]);
        assert_eq!(guarded(&listing(&whole(&prefix()))), expected);
        let expected = BTreeSet::from(["10.50.0.1/32".parse().unwrap()]);
        assert_eq!(guarded(&listing(&whole(&json!("10.50.0.1")))), expected);
    }

    #[test]
    fn a_guard_with_another_rule_guards_nothing() {
        let whole = whole(&prefix());
        for at in 0..=whole.len() {
            let mut rules = whole.to_vec();
            rules.insert(at, json!([{"return": null}]));
            assert!(guarded(&listing(&rules)).is_empty(), "at {at}");
        }
        for at in 0..whole.len() {
            let mut rules = whole.to_vec();
            rules.remove(at);
            assert!(guarded(&listing(&rules)).is_empty(), "without {at}");
        }
        let [answers, within, mut drops] = whole;
        drops.as_array_mut().unwrap().insert(
            0,
            json!({"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": 7}}),
        );
        assert!(guarded(&listing(&[answers, within, drops])).is_empty(), "it drops some only");
    }

    #[test]
    fn a_guard_is_ours_by_name_and_mark() {
        let tables = json!({"nftables": [
            {"table": {"family": "inet", "name": "wgnet-guard-abc"}},
            {"table": {"family": "inet", "name": "wgnet-guard-NOT"}},
            {"table": {"family": "inet", "name": "filter"}},
        ]});
        assert_eq!(guard_names(&tables), [Namespace::parse("wgnet-abc").unwrap()]);
        assert!(!is_marked(&listing(&whole(&prefix()))));
        assert!(is_marked(&json!({"nftables": [{"rule": {"comment": "wgnet", "expr": []}}]})));
    }

    #[test]
    fn a_rule_that_drops_nothing_guards_nothing() {
        let rules = [answers(), within(&prefix()), drops(&prefix(), &json!({"accept": null}))];
        assert!(guarded(&listing(&rules)).is_empty());
    }

    #[test]
    fn rules_outside_the_forward_hook_guard_nothing() {
        let mut listing = listing(&whole(&prefix()));
        listing["nftables"][2]["chain"]["hook"] = json!("input");
        assert!(guarded(&listing).is_empty());
    }
}
