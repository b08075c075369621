//! The fleet's problems as findings, with why each matters.

use wgnet_control_plane::fleet::problems::{OUT_OF_SYNC, ProblemRow, Severity as Fleet};

use super::{Finding, Severity};

pub(super) fn findings(problems: &[ProblemRow]) -> Vec<Finding> {
    problems.iter().map(finding).collect()
}

fn finding(problem: &ProblemRow) -> Finding {
    let teller = problem.told_by.as_ref().map(|name| format!(" (told by {name})"));
    Finding {
        severity: match problem.severity {
            Fleet::Error => Severity::Error,
            Fleet::Warning => Severity::Warning,
            Fleet::Note => Severity::Note,
        },
        code: problem.code.clone(),
        what: format!("{}: {}{}", problem.object, problem.cause, teller.unwrap_or_default()),
        why: why(&problem.code).to_owned(),
        next_step: problem.next_step.clone(),
    }
}

fn why(code: &str) -> &'static str {
    match code {
        "host-gone" => "its containers are reached only as long as they stay where they are",
        "host-unrecorded" | "no-underlay" => "its containers cannot be reached from other hosts",
        "host-silent" => "its containers cannot be reached from the host that says so",
        "endpoint-without-member" => "this container cannot be reached from other hosts",
        "versions-differ" => "what only the newer version can do does not work everywhere",
        "same-name" => "people and tools take one for the other; of a copied host only one works",
        "secret-epochs-differ" => {
            "between these hosts there is no traffic, as their pre-shared keys differ"
        }
        "wrong-secret" | "no-cluster" => "this host sees no other, and no other sees it",
        "keys-behind" => "a network goes on with its old keys until every member has the new ones",
        "network-unrecorded" | "not-republished" => "hosts that start now do not know everything",
        OUT_OF_SYNC => "some containers of this network may not be reached",
        "address-contested" => "only one of the two containers is reached",
        "port-taken" => "the firewall may be open for the wanted port only",
        code if code.starts_with("refused-") => {
            "it has no effect; but somebody writes into etcd who should not, or has another secret"
        }
        _ => "its driver says so, as something does not work as it should",
    }
}
