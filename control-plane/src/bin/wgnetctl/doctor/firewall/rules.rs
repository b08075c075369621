//! Rules of a packet filter, as far as they matter for one UDP packet that begins something.

use std::collections::{BTreeMap, BTreeSet};

/// Chains by table and name.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    pub(super) chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Whether packets to this host go through it, and are dropped at its end.
    pub(super) input: Option<Policy>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Accept,
    Drop,
}

#[derive(Debug, Default)]
pub(super) struct Rule {
    /// Ranges of destination ports; empty: any.
    pub(super) ports: Vec<(u16, u16)>,
    /// It is for other packets: of another protocol, or that begin nothing.
    pub(super) is_for_others: bool,
    /// It asks for something else, too, such as an address.
    pub(super) is_conditional: bool,
    pub(super) verdict: Option<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Return,
    /// To the chain with this key; whether it comes back.
    Jump(String, bool),
    /// Something that cannot be judged.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Accepted,
    Dropped,
    /// Some rule that cannot be judged may let it in.
    Unknown,
    /// It comes out at the chain's end.
    Through,
}

/// Chains that jump to each other in a circle are no kernel's.
const DEEPEST: usize = 16;

impl Ruleset {
    /// The chains that packets to this host go through.
    pub(super) fn inputs(&self) -> impl Iterator<Item = &Chain> {
        self.chains.values().filter(|chain| chain.input.is_some())
    }

    /// What becomes of a packet to a port.
    pub(super) fn fate(&self, chain: &Chain, port: u16) -> Fate {
        match (self.walk(chain, port, 0), chain.input) {
            (Fate::Through, Some(Policy::Drop)) => Fate::Dropped,
            (Fate::Through, _) => Fate::Accepted,
            (fate, _) => fate,
        }
    }

    fn walk(&self, chain: &Chain, port: u16, depth: usize) -> Fate {
        let mut may_be_accepted = false;
        let ending = |fate, may_be_accepted| match fate {
            Fate::Dropped if may_be_accepted => Fate::Unknown,
            fate => fate,
        };
        for rule in &chain.rules {
            let is_other_port = !rule.ports.is_empty()
                && !rule.ports.iter().any(|(first, last)| (*first..=*last).contains(&port));
            if rule.is_for_others || is_other_port {
                continue;
            }
            let fate = match &rule.verdict {
                None => continue,
                Some(Verdict::Accept) => Fate::Accepted,
                Some(Verdict::Drop) => Fate::Dropped,
                Some(Verdict::Return) if rule.is_conditional => {
                    may_be_accepted = true;
                    continue;
                }
                Some(Verdict::Return) => return ending(Fate::Through, may_be_accepted),
                Some(Verdict::Unknown) => Fate::Unknown,
                Some(Verdict::Jump(target, comes_back)) => {
                    match self.chains.get(target).filter(|_| depth < DEEPEST) {
                        None => Fate::Unknown,
                        Some(chain) => match self.walk(chain, port, depth + 1) {
                            Fate::Through if *comes_back => continue,
                            fate => fate,
                        },
                    }
                }
            };
            match fate {
                Fate::Accepted | Fate::Unknown if rule.is_conditional => may_be_accepted = true,
                Fate::Unknown => may_be_accepted = true,
                // A drop under a condition is not for everybody.
                Fate::Dropped | Fate::Through if rule.is_conditional => {}
                fate => return ending(fate, may_be_accepted),
            }
        }
        if may_be_accepted { Fate::Unknown } else { Fate::Through }
    }
}

/// `51820`, `51820:52819` or `51820-52819`.
pub(super) fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once([':', '-']).unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// Whether packets that begin something are in one of these states.
pub(super) fn is_new(states: &BTreeSet<String>) -> bool {
    states
        .iter()
        .any(|state| state.eq_ignore_ascii_case("new") || state.eq_ignore_ascii_case("untracked"))
}
