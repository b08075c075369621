//! What `iptables-save -t filter` prints.

use super::rules::{Policy, Rule, Ruleset, Verdict, is_new, range};

pub(super) fn parse(text: &str) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for line in text.lines() {
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            let (Some(name), Some(policy)) = (words.next(), words.next()) else { continue };
            let chain = ruleset.chains.entry(name.to_owned()).or_default();
            chain.input = (name == "INPUT").then_some(match policy {
                "DROP" => Policy::Drop,
                _ => Policy::Accept,
            });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let mut words = rule.split_whitespace();
            let Some(name) = words.next() else { continue };
            let words: Vec<&str> = words.collect();
            ruleset.chains.entry(name.to_owned()).or_default().rules.push(read(&words));
        }
    }
    ruleset
}

fn read(words: &[&str]) -> Rule {
    let mut rule = Rule::default();
    let mut words = words.iter().peekable();
    let mut negated = false;
    while let Some(word) = words.next() {
        match *word {
            "!" => {
                negated = true;
                continue;
            }
            "-p" => rule.is_for_others |= (words.next() == Some(&"udp")) == negated,
            "-i" => match words.next() {
                Some(&"lo") if !negated => rule.is_for_others = true,
                _ => rule.is_conditional = true,
            },
            "--dport" | "--dports" if !negated => {
                let ports = words.next().map(|list| list.split(',').map(range).collect());
                match ports {
                    Some(Some(ports)) => rule.ports = ports,
                    _ => rule.is_conditional = true,
                }
            }
            "--ctstate" | "--state" if !negated => {
                let states = words.next().map(|list| list.split(',').map(str::to_owned).collect());
                rule.is_for_others |= !is_new(&states.unwrap_or_default());
            }
            // What is said by the options that follow.
            "-m" => match words.next() {
                Some(&("udp" | "multiport" | "conntrack" | "state")) => {}
                Some(&"comment") => {
                    // A comment may be of several words, in quotes.
                    words.next_if(|word| **word == "--comment");
                    if words.next().is_some_and(|word| word.starts_with('"') && !closes(word)) {
                        while words.next().is_some_and(|word| !closes(word)) {}
                    }
                }
                Some(&("tcp" | "icmp" | "icmp6")) => rule.is_for_others = true,
                _ => rule.is_conditional = true,
            },
            "-j" | "-g" => {
                let is_jump = *word == "-j";
                rule.verdict = words.next().map(|target| match *target {
                    "ACCEPT" => Verdict::Accept,
                    "DROP" | "REJECT" => Verdict::Drop,
                    "RETURN" => Verdict::Return,
                    "QUEUE" | "NFQUEUE" => Verdict::Unknown,
                    target => Verdict::Jump(target.to_owned(), is_jump),
                });
                // What follows is of the target.
                if let Some(Verdict::Jump(target, _)) = &rule.verdict
                    && matches!(target.as_str(), "LOG" | "NFLOG" | "MARK" | "CONNMARK" | "TRACE")
                {
                    rule.verdict = None;
                }
                break;
            }
            _ => rule.is_conditional = true,
        }
        negated = false;
    }
    rule
}

fn closes(word: &str) -> bool {
    word.len() > 1 && word.ends_with('"') && !word.ends_with("\\\"")
}

#[cfg(test)]
mod tests {
    use super::super::rules::Fate;
    use super::*;

    fn fate(text: &str) -> Fate {
        let ruleset = parse(text);
        let chain = ruleset.inputs().next().unwrap();
        ruleset.fate(chain, 51_820)
    }

    const CLOSED: &str = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        -A INPUT -i lo -j ACCEPT\n\
        -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A INPUT -p tcp -m tcp --dport 22 -m comment --comment \"way in\" -j ACCEPT\n";

    #[test]
    fn a_usual_firewall_without_our_ports_is_closed_and_with_them_open() {
        assert_eq!(fate(CLOSED), Fate::Dropped);
        let open = format!("{CLOSED}-A INPUT -p udp -m udp --dport 51820:52819 -j ACCEPT\n");
        assert_eq!(fate(&open), Fate::Accepted);
        let several =
            format!("{CLOSED}-A INPUT -p udp -m multiport --dports 53,51000:52000 -j ACCEPT\n");
        assert_eq!(fate(&several), Fate::Accepted);
    }

    #[test]
    fn chains_are_followed_as_ufw_and_docker_make_them() {
        let ufw = ":INPUT DROP [0:0]\n:ufw-before - [0:0]\n:ufw-user - [0:0]\n\
            -A INPUT -j ufw-before\n-A ufw-before -i lo -j ACCEPT\n-A ufw-before -j ufw-user\n\
            -A ufw-user -p udp -m udp --dport 51820 -j ACCEPT\n-A ufw-before -j RETURN\n";
        assert_eq!(fate(ufw), Fate::Accepted);
        assert_eq!(fate(&ufw.replace("51820", "51821")), Fate::Dropped);
        let docker = ":INPUT ACCEPT [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";
        assert_eq!(fate(docker), Fate::Accepted);
    }

    #[test]
    fn of_what_depends_on_the_sender_nothing_is_claimed() {
        assert_eq!(fate(&format!("{CLOSED}-A INPUT -s 10.0.0.0/8 -j ACCEPT\n")), Fate::Unknown);
        assert_eq!(fate(&format!("{CLOSED}-A INPUT -i eth1 -j ACCEPT\n")), Fate::Unknown);
        let blocked = ":INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 51820 -j DROP\n";
        assert_eq!(fate(blocked), Fate::Dropped);
        let one =
            ":INPUT ACCEPT [0:0]\n-A INPUT -s 192.0.2.1/32 -p udp -m udp --dport 51820 -j DROP\n";
        assert_eq!(fate(one), Fate::Accepted);
    }

    #[test]
    fn any_text_is_read_without_harm() {
        for text in ["", ":", ":INPUT", "-A ", "-A INPUT -j", "-A INPUT -m comment --comment \"a"] {
            parse(text);
        }
    }
}
