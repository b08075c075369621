//! What README and operator's guide tell people to type is what `wgnetctl` takes, and every problem
//! that wgnet can tell of has its section in the guide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wgnet_proto::Refused;

/// clap's, when it does not understand.
const USAGE: i32 = 2;

fn project(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

// ---- commands

/// Runs `wgnetctl` where nothing can be opened: no file, no socket, no program's own runtime. What it
/// was told is understood before, and nothing of it is done. Returns its exit code and its error.
fn understood(words: &[String]) -> (i32, String) {
    let (code, _, said) = run(words);
    (code, said)
}

/// The same, with what it prints.
fn helped(words: &[String]) -> (i32, String) {
    let (code, printed, _) = run(words);
    (code, printed)
}

fn run(words: &[String]) -> (i32, String, String) {
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 3 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_wgnetctl")])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let code = output.status.code().unwrap_or_else(|| panic!("{words:?}: {}", output.status));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (code, text(&output.stdout), text(&output.stderr))
}

/// Lines of code blocks, each with its number; one that goes on is one with what follows.
fn lines_of_blocks(text: &str) -> Vec<(usize, String)> {
    let mut inside = false;
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (number, line) in (1..).zip(text.lines()) {
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut() {
            _ if line.starts_with("```") => inside = !inside,
            Some((_, open)) if inside && goes_on => open.push_str(part),
            _ if inside => lines.push((number, part.to_owned())),
            _ => {}
        }
        goes_on = inside && more;
    }
    assert!(!inside, "a code block has no end");
    lines
}

/// What stands between backticks outside of code blocks, each with its line.
fn inline_code(text: &str) -> Vec<(usize, String)> {
    let mut code: Vec<(usize, String)> = Vec::new();
    let (mut inside, mut in_block) = (false, false);
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        for (at, part) in line.split('`').enumerate() {
            inside ^= at > 0;
            match code.last_mut() {
                // It goes on from the line before.
                Some((_, open)) if inside && at == 0 => *open = format!("{open} {}", part.trim()),
                _ if inside => code.push((number, part.to_owned())),
                _ => {}
            }
        }
        if line.is_empty() {
            assert!(!inside, "line {number}: a backtick has no other");
        }
    }
    code
}

/// The commands of a line of shell as words; ends at a comment. Quotes hold words together.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let (mut word, mut quote): (Option<String>, _) = (None, None);
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, ' ' | ';' | '|' | '&' | '(' | ')' | '>' | '<') => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            _ => word.get_or_insert_default().push(c),
        }
    }
    assert!(quote.is_none(), "a quote has no end: {line}");
    commands.last_mut().unwrap().extend(word);
    commands
}

/// What comes after the program's name, wherever that stands in a command.
fn arguments(command: &[String]) -> Option<&[String]> {
    let at = command.iter().position(|word| word == "wgnetctl")?;
    Some(&command[at + 1..])
}

#[test]
fn commands_are_taken_apart_as_a_shell_does() {
    let words = |line: &str| -> Vec<Vec<String>> {
        commands(line).iter().filter_map(|it| arguments(it)).map(<[String]>::to_vec).collect()
    };
    assert_eq!(
        words("sudo wgnetctl hosts --json | jq '.[] | a' # wgnetctl x"),
        [["hosts", "--json"]]
    );
    assert_eq!(
        words("a || wgnetctl path 'x y' \"\" > f; wgnetctl"),
        [vec!["path", "x y", ""], vec![]]
    );
    assert_eq!(
        inline_code("a `b c` `d\ne` f\n\n```\n`g`\n```\n"),
        [(1, "b c".into()), (1, "d e".into())]
    );
}

#[test]
fn a_command_is_understood_and_nothing_of_it_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    let words =
        |words: &[&str]| -> Vec<String> { words.iter().map(|it| (*it).to_owned()).collect() };
    let (code, said) = understood(&words(&["secret", "new", file.to_str().unwrap()]));
    assert_ne!(code, USAGE, "{said}");
    assert!(!file.exists());
    let (code, said) =
        understood(&words(&["networks", "--etcd", "http://127.0.0.1:1", "--insecure"]));
    assert_eq!(code, 1, "no connection is tried, which would be 3: {said}");
    for wrong in
        [&["networks", "--jsn"][..], &["path", "10.0.0.1"], &["hosts", "a", "b"], &["shine"]]
    {
        assert_eq!(understood(&words(wrong)).0, USAGE, "{wrong:?}");
    }
}

#[test]
fn what_the_guides_tell_to_type_is_understood() {
    for (guide, least) in [("README.md", 8), ("deploy/GUIDE.md", 40)] {
        let text = read(&project(guide));
        let mut seen = 0;
        let mut check = |number: usize, words: &[String]| {
            let (code, said) = understood(words);
            assert_ne!(code, USAGE, "{guide}:{number}: wgnetctl {words:?}: {said}");
            seen += 1;
        };
        for (number, line) in lines_of_blocks(&text) {
            if !line.contains("wgnetctl") {
                continue;
            }
            for command in commands(&line) {
                if let Some(words) = arguments(&command) {
                    check(number, words);
                }
            }
        }
        // In a sentence a command may be without what it needs.
        for (number, code) in inline_code(&text) {
            if !code.starts_with("wgnetctl ") {
                continue;
            }
            for command in commands(&code) {
                if let Some(words) = arguments(&command) {
                    check(number, &[words, &["--help".to_owned()]].concat());
                }
            }
        }
        assert!(seen >= least, "{guide}: only {seen} commands were found");
    }
}

#[test]
fn the_stack_runs_a_command_that_is_understood_with_what_it_is_given() {
    let stack = read(&project("deploy/stack.yml"));
    let (_, rest) = stack.split_once("\n    entrypoint: ").expect("it says what it runs");
    let list = &rest[..=rest.find(']').expect("the list has an end")];
    let words: Vec<String> = serde_json::from_str(list).expect("it is written as JSON is");
    let (program, words) = words.split_first().unwrap();
    assert!(stack.contains(&format!("source: {program}, target: {program}, read_only: true")));
    let (code, said) = understood(words);
    assert_ne!(code, USAGE, "{words:?}: {said}");
    for name in words.iter().filter_map(|word| word.strip_prefix("/run/secrets/")) {
        assert!(stack.contains(&format!("\n  {name}: {{file: {name}}}")), "{name} is no secret");
    }
    // Nobody but this host reaches its loopback, so that this would not be noticed.
    let listen = words.iter().position(|word| word == "--listen").expect("it names an address");
    assert!(!words[listen + 1].starts_with("127."), "{words:?}");
    for variable in stack.lines().filter_map(|line| line.strip_prefix("      WGNET_")) {
        let name = format!("WGNET_{}", variable.split(':').next().unwrap());
        let (_, help) = helped(&[words[0].clone(), "--help".to_owned()]);
        assert!(help.contains(&format!("[env: {name}=")), "{name} is no setting: {help}");
    }
}

// ---- problem codes

/// Rust's files below a directory, without tests.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// The first word of what follows, which is a string, a constant or something else.
fn value_of(text: &str) -> &str {
    let text = text.trim_start().trim_start_matches('&');
    let end = text.find([',', '\n', ')']).unwrap_or(text.len());
    text[..end].trim().trim_end_matches(".to_owned(").trim_end_matches(".to_owned()")
}

/// Codes that a file gives to problems and findings, where they are written down: as a field, as
/// the first argument of a finding, after the severity of a problem.
fn codes_of(path: &Path, codes: &mut BTreeMap<String, PathBuf>) {
    let text = read(path);
    let text = text.split("#[cfg(test)]").next().unwrap();
    let literal = |value: &str| Some(value.strip_prefix('"')?.strip_suffix('"')?.to_owned());
    let constant = |name: &str| {
        let declared = format!("const {name}: &str = ");
        text.split_once(&declared).and_then(|(_, rest)| literal(rest.split(';').next()?))
    };
    let mut add = |code: String| codes.insert(code, path.to_owned());
    for begin in
        ["code: ", "Finding::error(", "Finding::warning(", "Severity::Error,", "Severity::Warning,"]
    {
        for (at, _) in text.match_indices(begin) {
            let value = value_of(&text[at + begin.len()..]);
            if let Some(code) = literal(value).or_else(|| constant(value)) {
                add(code);
            }
        }
    }
    // Those of a match: the code with what to do about it.
    if text.contains("let (code, next) = match") {
        for line in text.lines().map(str::trim) {
            let value = line.rsplit_once("=> (").map_or(line, |(_, rest)| rest);
            let value = value.split(',').next().unwrap().trim_start_matches('(');
            if let Some(code) = literal(value).filter(|code| code.starts_with("secret-")) {
                add(code);
            }
        }
    }
}

/// Every reason for which a record is refused.
const REFUSED: [Refused; 12] = [
    Refused::Malformed,
    Refused::TooLarge,
    Refused::WrongSecret,
    Refused::BadSignature,
    Refused::ForeignCluster,
    Refused::UnknownCluster,
    Refused::WrongWriter,
    Refused::BadRecord,
    Refused::RolledBack,
    Refused::VoidByFloor,
    Refused::RevokedWriter,
    Refused::Conflicting,
];

fn codes() -> BTreeMap<String, PathBuf> {
    let mut files = Vec::new();
    for directory in ["driver/src", "driver/core/src", "control-plane/src"] {
        sources(&project(directory), &mut files);
    }
    let mut codes = BTreeMap::new();
    files.iter().for_each(|file| codes_of(file, &mut codes));
    for reason in REFUSED {
        codes.insert(format!("refused-{}", reason.code()), project("proto/src/seal/refused.rs"));
    }
    codes
}

#[test]
fn every_problem_code_has_its_section_and_every_section_a_code() {
    let codes = codes();
    // One of each way in which they are written down.
    for known in [
        "insecure",
        "port-taken",
        "journal-damaged",
        "host-silent",
        "etcd-away",
        "no-cluster",
        "versions-differ",
        "endpoint-without-member",
        "docker-away",
        "mtu-hole",
        "secret-open",
        "second-driver",
        "clock",
        "etcd-slow",
        "unclaimed-namespace",
        "refused-too-large",
    ] {
        assert!(
            codes.contains_key(known),
            "{known} is not found in the source any more: {codes:#?}"
        );
    }
    let guide = read(&project("deploy/GUIDE.md"));
    let (_, part) = guide.split_once("\n## Problem codes\n").expect("it has that part");
    let part = part.split("\n## ").next().unwrap();
    let in_order: Vec<(&str, &str)> =
        part.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap()).collect();
    let names: Vec<&str> = in_order.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted_by(|a, b| a < b), "they are to be found by the alphabet, each once");
    let sections: BTreeMap<&str, &str> = in_order.into_iter().collect();
    for (code, source) in &codes {
        let text = sections.get(code.as_str());
        let text = text.unwrap_or_else(|| panic!("no section for {code} of {}", source.display()));
        assert!(text.trim().len() > 40, "the section of {code} says nothing");
    }
    for section in sections.keys() {
        assert!(codes.contains_key(*section), "nothing tells of {section} any more");
    }
}

#[test]
fn every_reason_to_refuse_a_record_is_known_here() {
    let source = read(&project("proto/src/seal/refused.rs"));
    let (_, codes) = source.split_once("pub fn code(").unwrap();
    for line in codes.lines().filter(|line| line.contains("=> \"")) {
        let code = line.split('"').nth(1).unwrap();
        assert!(REFUSED.iter().any(|reason| reason.code() == code), "{code} is missing above");
    }
}

// ---- links

/// The anchor of a heading, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn every_link_of_the_guides_leads_somewhere() {
    for guide in ["README.md", "deploy/GUIDE.md"] {
        let path = project(guide);
        let text = read(&path);
        let links = text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
        for link in links.filter(|link| !link.contains("://")) {
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{guide}: {link}");
            let is_there = place.is_empty()
                || read(&target).lines().any(|line| {
                    line.starts_with('#') && anchor(line.trim_start_matches('#').trim()) == place
                });
            assert!(is_there, "{guide}: {link}");
        }
    }
}
