//! Hostile inputs made of valid ones: bits flipped, parts cut, repeated and mixed, JSON with keys twice,
//! values replaced and nested deep, text that is none.

/// One change, as numbers of which any are good: small ones for small changes, so that a failing test
/// can be made small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub kind: u8,
    pub a: u16,
    pub b: u16,
    pub c: u16,
}

/// No input grows beyond this.
const MOST: usize = 1 << 17;

/// What breaks parsers.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\"",
    b"\\",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"-",
    b"/",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"0",
    b"-1",
    b"65536",
    b"4294967296",
    b"18446744073709551615",
    b"18446744073709551616",
    b"9223372036854775808",
    b"1e999",
    b"-0.0",
    b"\xff\xfe",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\x1b[2J\x1b]0;x\x07",
    b"\xc2\x9b2J",
    b"\xe2\x80\xae",
    b"\xef\xbb\xbf",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"Content-Length: 0\r\n",
    b"Content-Length: 18446744073709551615\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"0.0.0.0/0",
    b"255.255.255.255",
    b"::ffff:10.0.0.1",
    b"::/0",
    b"10.50.0.1/33",
    b"../../etc/passwd",
    b"%s%n",
    b"__proto__",
];

/// Applies one change. `others` are further inputs to mix with.
pub fn mutate<S: AsRef<[u8]>>(input: &[u8], others: &[S], change: Change) -> Vec<u8> {
    let Change { kind, a, b, c } = change;
    let at = place(a, input.len());
    let end = (at + usize::from(b)).min(input.len());
    let mut changed = match kind % 14 {
        0 => {
            let mut bytes = input.to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (b % 8);
            }
            bytes
        }
        1 => {
            let mut bytes = input.to_vec();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add(b as u8);
            }
            bytes
        }
        2 => input[..at].to_vec(),
        3 => spliced(input, at, end, b""),
        4 => spliced(input, at, at, &input[at..end]),
        5 => spliced(input, at, at, TOKENS[usize::from(b) % TOKENS.len()]),
        6 => spliced(input, at, end, TOKENS[usize::from(c) % TOKENS.len()]),
        7 => {
            let other =
                others.get(usize::from(b) % others.len().max(1)).map_or(input, AsRef::as_ref);
            spliced(input, at, input.len(), &other[place(c, other.len())..])
        }
        8 => {
            let other =
                others.get(usize::from(b) % others.len().max(1)).map_or(input, AsRef::as_ref);
            let from = place(c, other.len());
            spliced(input, at, at, &other[from..(from + 64).min(other.len())])
        }
        9 => {
            // Long, but not so long that nothing else is tried.
            let unit = TOKENS[usize::from(b) % TOKENS.len()];
            spliced(input, at, at, &unit.repeat(1 << (c % 13)))
        }
        10 => json(input, a, |member, _| [member, b",", member].concat()),
        11 => json(input, a, |member, value| {
            let key = &member[..member.len() - value.len()];
            [key, TOKENS[usize::from(b) % TOKENS.len()]].concat()
        }),
        12 => json(input, a, |member, value| {
            let key = &member[..member.len() - value.len()];
            let depth = 1 << (b % 10);
            [key, &b"[".repeat(depth), value, &b"]".repeat(depth)].concat()
        }),
        _ => json(input, a, |member, value| {
            let key = &member[..member.len() - value.len()];
            let text = TOKENS[usize::from(b) % TOKENS.len()].repeat(1 << (c % 12));
            [key, b"\"", text.as_slice(), b"\""].concat()
        }),
    };
    changed.truncate(MOST);
    changed
}

fn place(number: u16, length: usize) -> usize {
    usize::from(number) * length / 65536
}

fn spliced(input: &[u8], from: usize, to: usize, middle: &[u8]) -> Vec<u8> {
    [&input[..from], middle, &input[to..]].concat()
}

/// Replaces one `"key":value` by what `replace` makes of the whole and of its value.
fn json(input: &[u8], which: u16, replace: impl Fn(&[u8], &[u8]) -> Vec<u8>) -> Vec<u8> {
    let members = members(input);
    let Some(member) = members.get(place(which, members.len())) else {
        return input.to_vec();
    };
    let replacement = replace(&input[member.start..member.end], &input[member.value..member.end]);
    spliced(input, member.start, member.end, &replacement)
}

struct Member {
    start: usize,
    value: usize,
    end: usize,
}

/// Where the members of JSON objects are in a text that may be other things around it.
fn members(text: &[u8]) -> Vec<Member> {
    let mut members = Vec::new();
    let mut at = 0;
    while at < text.len() && members.len() < 1000 {
        if text[at] != b'"' {
            at += 1;
            continue;
        }
        let start = at;
        at = string_end(text, at);
        let colon = skip_space(text, at);
        if text.get(colon) == Some(&b':') {
            let value = skip_space(text, colon + 1);
            members.push(Member { start, value, end: value_end(text, value) });
            at = value;
        }
    }
    members
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn string_end(text: &[u8], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < text.len() {
        match text[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn value_end(text: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at = string_end(text, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(input: &str, kind: u8, a: u16, b: u16) -> String {
        let change = Change { kind, a, b, c: 0 };
        String::from_utf8(mutate(input.as_bytes(), &[] as &[&[u8]], change)).unwrap()
    }

    #[test]
    fn json_is_changed_where_its_members_are() {
        let text = r#"Join {"a":{"b":[1,"}"]},"c":"x\"y"}"#;
        assert_eq!(
            changed(text, 10, 65535, 0),
            r#"Join {"a":{"b":[1,"}"]},"c":"x\"y","c":"x\"y"}"#
        );
        assert_eq!(changed(text, 12, 30000, 1), r#"Join {"a":{"b":[[[1,"}"]]]},"c":"x\"y"}"#);
        assert_eq!(changed(text, 11, 0, 14), r#"Join {"a":null,"c":"x\"y"}"#);
    }

    #[test]
    fn any_numbers_are_a_change() {
        for kind in 0..=255 {
            for n in [0, 1, 255, 4096, u16::MAX] {
                for input in [&b""[..], b"\"", b"{\"a\":1}", b"\"a\\"] {
                    let change = Change { kind, a: n, b: n, c: n };
                    assert!(mutate(input, &[input], change).len() <= MOST);
                }
            }
        }
    }
}
