//! Which host people mean: by its id, its name, or the beginning of its id.

use wgnet_proto::HostId;

/// A beginning of an id that is shorter means nobody: two hosts' would soon be the same. Tables show as
/// much.
pub const SHORTEST_ID: usize = 8;

/// What a host was found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Id,
    Name,
    Beginning,
}

/// Those of the known that can be meant. A whole id goes before a name, and a name before the beginning
/// of an id.
pub fn meant<'k, T>(
    known: &'k [T],
    wanted: &str,
    id: impl Fn(&T) -> HostId,
    is_called: impl Fn(&T) -> bool,
) -> Option<(By, Vec<&'k T>)> {
    let has_id = |host: &T| id(host).to_string() == wanted;
    let begins = |host: &T| wanted.len() >= SHORTEST_ID && id(host).to_string().starts_with(wanted);
    [By::Id, By::Name, By::Beginning].into_iter().find_map(|by| {
        let is_meant = |host: &&T| match by {
            By::Id => has_id(host),
            By::Name => is_called(host),
            By::Beginning => begins(host),
        };
        let found: Vec<&T> = known.iter().filter(is_meant).collect();
        (!found.is_empty()).then_some((by, found))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_goes_before_a_name_and_a_name_before_a_beginning() {
        let whole = HostId([0x22; 16]).to_string();
        let known =
            [(0x11, "a"), (0x22, "b"), (0x33, "b"), (0x44, "11111111"), (0x55, whole.as_str())];
        let find = |wanted: &str| {
            let id = |(first, _): &(u8, &str)| HostId([*first; 16]);
            let found = meant(&known, wanted, id, |(_, name)| *name == wanted)?;
            Some((found.0, found.1.iter().map(|(first, _)| *first).collect::<Vec<u8>>()))
        };
        assert_eq!(find(&whole), Some((By::Id, vec![0x22])));
        assert_eq!(find("b"), Some((By::Name, vec![0x22, 0x33])));
        assert_eq!(find("11111111"), Some((By::Name, vec![0x44])));
        assert_eq!(find("33333333"), Some((By::Beginning, vec![0x33])));
        for unknown in ["", "c", "3333333", "33333334"] {
            assert_eq!(find(unknown), None, "{unknown}");
        }
    }
}
