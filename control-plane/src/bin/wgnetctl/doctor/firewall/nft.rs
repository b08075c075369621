//! What `nft -j list ruleset` prints.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rules::{Chain, Policy, Rule, Ruleset, Verdict, is_new};

/// None if it is not what nft prints.
pub(super) fn parse(json: &str) -> Option<Ruleset> {
    let value: Value = serde_json::from_str(json).ok()?;
    let mut ruleset = Ruleset::default();
    for item in value.get("nftables")?.as_array()? {
        if let Some(chain) = item.get("chain") {
            let key = key(chain, chain.get("name")?.as_str()?)?;
            ruleset.chains.entry(key).or_default().input = input(chain);
        } else if let Some(rule) = item.get("rule") {
            let key = key(rule, rule.get("chain")?.as_str()?)?;
            let chain: &mut Chain = ruleset.chains.entry(key).or_default();
            chain.rules.push(read(rule)?);
        }
    }
    Some(ruleset)
}

fn key(object: &Value, chain: &str) -> Option<String> {
    let text = |name| object.get(name)?.as_str();
    Some(format!("{} {} {chain}", text("family")?, text("table")?))
}

/// Of IPv4's packets; what only IPv6's go through says nothing of them.
fn input(chain: &Value) -> Option<Policy> {
    let is = |name: &str, wanted: &str| chain.get(name).and_then(Value::as_str) == Some(wanted);
    if !is("hook", "input") || !(is("family", "inet") || is("family", "ip")) {
        return None;
    }
    Some(if is("policy", "drop") { Policy::Drop } else { Policy::Accept })
}

fn read(rule: &Value) -> Option<Rule> {
    let mut read = Rule::default();
    for expression in rule.get("expr")?.as_array()? {
        let (name, value) = expression.as_object()?.iter().next()?;
        match name.as_str() {
            "match" => condition(value, &mut read),
            "accept" => read.verdict = Some(Verdict::Accept),
            "drop" | "reject" => read.verdict = Some(Verdict::Drop),
            "return" => read.verdict = Some(Verdict::Return),
            "jump" | "goto" => {
                let target = key(rule, value.get("target")?.as_str()?)?;
                read.verdict = Some(Verdict::Jump(target, name == "jump"));
            }
            "counter" | "log" | "comment" | "mangle" | "notrack" => {}
            "vmap" | "queue" => read.verdict = Some(Verdict::Unknown),
            // Limits, sets, extensions of iptables.
            _ => read.is_conditional = true,
        }
    }
    Some(read)
}

fn condition(value: &Value, rule: &mut Rule) {
    let left = value.get("left").unwrap_or(&Value::Null);
    let right = value.get("right").unwrap_or(&Value::Null);
    let is_equal =
        value.get("op").and_then(Value::as_str).is_none_or(|op| op == "==" || op == "in");
    let text = |object: &Value, path: &str| {
        object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let payload = (text(left, "/payload/protocol"), text(left, "/payload/field"));
    let meta = text(left, "/meta/key");
    let states = text(left, "/ct/key") == "state";
    match (payload.0.as_str(), payload.1.as_str()) {
        ("udp" | "th", "dport") if is_equal => match ports(right) {
            Some(ports) => rule.ports = ports,
            None => rule.is_conditional = true,
        },
        ("udp" | "th", _) => rule.is_conditional = true,
        ("ip", "protocol") | ("ip6", "nexthdr") => protocol(right, is_equal, rule),
        ("tcp" | "icmp" | "icmpv6" | "sctp", _) => rule.is_for_others = true,
        _ if meta == "l4proto" => protocol(right, is_equal, rule),
        _ if meta == "iifname" && right.as_str() == Some("lo") && is_equal => {
            rule.is_for_others = true;
        }
        _ if states && is_equal => rule.is_for_others |= !is_new(&texts(right)),
        _ => rule.is_conditional = true,
    }
}

fn protocol(right: &Value, is_equal: bool, rule: &mut Rule) {
    let protocols = texts(right);
    let is_udp = protocols.contains("udp") || protocols.contains("17");
    rule.is_for_others |= is_udp != is_equal;
}

/// A value, a list, or a set of them.
fn texts(value: &Value) -> BTreeSet<String> {
    match value {
        Value::String(text) => BTreeSet::from([text.clone()]),
        Value::Number(number) => BTreeSet::from([number.to_string()]),
        Value::Array(items) => items.iter().flat_map(texts).collect(),
        Value::Object(fields) => fields.get("set").map(texts).unwrap_or_default(),
        Value::Null | Value::Bool(_) => BTreeSet::new(),
    }
}

/// None: in a set that has a name.
fn ports(value: &Value) -> Option<Vec<(u16, u16)>> {
    let number = |value: &Value| u16::try_from(value.as_u64()?).ok();
    if let Some(range) = value.get("range").and_then(Value::as_array) {
        return Some(vec![(number(range.first()?)?, number(range.last()?)?)]);
    }
    if let Some(items) = value.get("set").and_then(Value::as_array) {
        let each: Option<Vec<_>> = items.iter().map(ports).collect();
        return Some(each?.into_iter().flatten().collect());
    }
    number(value).map(|port| vec![(port, port)])
}

#[cfg(test)]
mod tests {
    use super::super::rules::Fate;
    use super::*;

    /// What becomes of a packet to 51820 behind these rules, in a chain with this policy.
    fn fate(policy: &str, rules: &[&str]) -> Fate {
        let chain = format!(
            r#"{{"chain":{{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"{policy}"}}}}"#
        );
        let rules = rules.iter().map(|expr| {
            format!(r#",{{"rule":{{"family":"inet","table":"filter","chain":"input","handle":2,"expr":[{expr}]}}}}"#)
        });
        let json =
            format!(r#"{{"nftables":[{{"metainfo":{{}}}},{chain}{}]}}"#, rules.collect::<String>());
        let ruleset = parse(&json).unwrap();
        let chain = ruleset.inputs().next().unwrap();
        ruleset.fate(chain, 51_820)
    }

    const ESTABLISHED: &str = r#"{"match":{"op":"in","left":{"ct":{"key":"state"}},"right":["established","related"]}},{"accept":null}"#;
    const LOOPBACK: &str =
        r#"{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"lo"}},{"accept":null}"#;
    const SSH: &str = r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":22}},{"accept":null}"#;
    const OURS: &str = r#"{"match":{"op":"==","left":{"payload":{"protocol":"udp","field":"dport"}},"right":{"range":[51820,52819]}}},{"accept":null}"#;
    const NEIGHBOURS: &str = r#"{"match":{"op":"==","left":{"payload":{"protocol":"ip","field":"saddr"}},"right":"10.0.0.0"}},{"accept":null}"#;
    const REJECT: &str = r#"{"reject":null}"#;

    #[test]
    fn a_usual_firewall_without_our_ports_is_closed_and_with_them_open() {
        assert_eq!(fate("drop", &[ESTABLISHED, LOOPBACK, SSH]), Fate::Dropped);
        assert_eq!(fate("drop", &[ESTABLISHED, LOOPBACK, SSH, OURS]), Fate::Accepted);
        assert_eq!(fate("accept", &[ESTABLISHED, SSH, REJECT]), Fate::Dropped);
        assert_eq!(fate("accept", &[ESTABLISHED, OURS, REJECT]), Fate::Accepted);
        assert_eq!(fate("accept", &[]), Fate::Accepted);
    }

    #[test]
    fn of_what_depends_on_the_sender_nothing_is_claimed() {
        assert_eq!(fate("drop", &[NEIGHBOURS]), Fate::Unknown);
        let set = OURS.replace(r#"{"range":[51820,52819]}"#, r#""@open""#);
        assert_eq!(fate("drop", &[set.as_str()]), Fate::Unknown);
    }

    #[test]
    fn a_set_of_ports_and_ranges_is_understood() {
        let set =
            OURS.replace(r#"{"range":[51820,52819]}"#, r#"{"set":[53,{"range":[51800,51900]}]}"#);
        assert_eq!(fate("drop", &[set.as_str()]), Fate::Accepted);
        let other = OURS.replace("51820,52819", "60000,60001");
        assert_eq!(fate("drop", &[other.as_str()]), Fate::Dropped);
    }

    #[test]
    fn what_is_no_ruleset_is_nothing() {
        for text in ["", "{}", "[]", r#"{"nftables":[{"rule":{}}]}"#] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert!(parse(r#"{"nftables":[]}"#).is_some());
    }
}
