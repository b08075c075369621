//! Reads HTML just well enough to tell what a browser would make of it.

use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag {
    /// With a slash in front where it closes.
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Tag {
    /// Its name and those of its attributes.
    pub(crate) fn shape(&self) -> String {
        let names: Vec<&str> = self.attributes.iter().map(|(name, _)| name.as_str()).collect();
        format!("{} {}", self.name, names.join(" "))
    }
}

/// Every tag, in order; panics where a browser would have to guess.
pub(crate) fn tags(html: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "a stray > in {text:?}");
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix("!DOCTYPE html>") {
            rest = after;
            continue;
        }
        let (tag, after) = tag(rest);
        tags.push(tag);
        rest = after;
    }
    tags
}

fn tag(text: &str) -> (Tag, &str) {
    let end = text.find([' ', '>']).expect("a tag ends");
    let name = &text[..end];
    let is_name = |c: char| c.is_ascii_alphanumeric();
    assert!(name.trim_start_matches('/').chars().all(is_name), "no tag is called {name:?}");
    let mut tag = Tag { name: name.to_owned(), attributes: Vec::new() };
    let mut rest = &text[end..];
    loop {
        rest = rest.trim_start_matches(' ');
        if let Some(after) = rest.strip_prefix('>') {
            return (tag, after);
        }
        let end = rest.find([' ', '>', '=']).expect("an attribute ends");
        let name = rest[..end].to_owned();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "attribute {name:?}");
        let (value, after) = match rest[end..].strip_prefix("=\"") {
            Some(value) => value.split_once('"').expect("a value ends"),
            None => ("", &rest[end..]),
        };
        tag.attributes.push((name, value.to_owned()));
        rest = after;
    }
}

/// Panics unless nothing in it runs, styles or leads elsewhere, and everything that opens closes.
pub(crate) fn assert_harmless(html: &str) {
    let mut open: Vec<String> = Vec::new();
    let mut ids = BTreeSet::new();
    for tag in tags(html) {
        if let Some(name) = tag.name.strip_prefix('/') {
            let last = open.pop();
            assert_eq!(last.as_deref(), Some(name), "closed in another order");
            continue;
        }
        let allowed = !matches!(
            &*tag.name,
            "style" | "iframe" | "object" | "embed" | "base" | "img" | "template" | "foreignObject"
        );
        assert!(allowed, "{tag:?}");
        let has = |wanted: &str| tag.attributes.iter().any(|(name, _)| name == wanted);
        assert!(tag.name != "script" || has("src"), "a script in the page");
        for (name, value) in &tag.attributes {
            assert!(!name.starts_with("on") && name != "style", "{tag:?}");
            if matches!(&**name, "href" | "src" | "action" | "data-href") {
                let is_own = value.starts_with('#') || value.starts_with('/');
                assert!(is_own && !value.starts_with("//"), "{tag:?}");
            }
            if name == "id" {
                assert!(ids.insert(value.clone()), "two of {value}");
            }
        }
        if !matches!(&*tag.name, "meta" | "link" | "input") {
            open.push(tag.name);
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
}
