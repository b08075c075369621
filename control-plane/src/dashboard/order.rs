//! Names as people order them: `host2` before `host10`.

use std::cmp::Ordering;

/// Compares digits as the numbers they are.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (parts(a), parts(b));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (a, b) if a == b => {}
            (Some(a), Some(b)) => return compare(a, b),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

fn compare(a: &str, b: &str) -> Ordering {
    let is_number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    if !(is_number(a) && is_number(b)) {
        return a.cmp(b);
    }
    let (short_a, short_b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    short_a.len().cmp(&short_b.len()).then(short_a.cmp(short_b)).then(a.cmp(b))
}

/// Digits and what is between them, in turns.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let is_digit = rest.chars().next()?.is_ascii_digit();
        let end = rest.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_ordered_by_their_size() {
        let ordered =
            ["", "10", "a", "host", "host01", "host1", "host2", "host10", "host10b", "hostb", "z"];
        for (place, a) in ordered.iter().enumerate() {
            for (other, b) in ordered.iter().enumerate() {
                assert_eq!(natural(a, b), place.cmp(&other), "{a} {b}");
            }
        }
    }
}
