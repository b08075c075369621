//! The dockerds of this host, told apart by the socket on which each waits for what its containers' runtime
//! says: it is named after an id that libnetwork draws at every start (`sandbox_externalkey_unix.go` of moby).

use std::collections::BTreeSet;
use std::io;

use wgnet_core::orphan::Engines;

use super::netns;
use super::space::Space;

/// `__SO_ACCEPTCON` of the kernel's net.h: a socket that listens.
const LISTENS: u32 = 1 << 16;

/// Those of one look at the host.
pub(super) async fn engines(host: &Space) -> io::Result<Engines> {
    netns::within(host, || {
        let look = || std::fs::read_to_string("/proc/thread-self/net/unix");
        // What ends while the kernel lists may hide what comes after it; not twice.
        Ok(listed(&look()?).chain(listed(&look()?)).map(str::to_owned).collect::<BTreeSet<_>>())
    })
    .await
}

/// The paths of dockerds' sockets in a list like proc(5) has it: number, references, protocol, flags, type,
/// state, inode, path.
fn listed(sockets: &str) -> impl Iterator<Item = &str> {
    sockets.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let path = fields.nth(3)?;
        (flags & LISTENS != 0 && is_of_a_dockerd(path)).then_some(path)
    })
}

/// `EXEC-ROOT/libnetwork/ID.sock`.
fn is_of_a_dockerd(path: &str) -> bool {
    let id = path.rsplit_once("/libnetwork/").and_then(|(_, file)| file.strip_suffix(".sock"));
    id.is_some_and(|id| id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_on_which_a_dockerd_listens_counts() {
        let list = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 31377 /var/run/docker/libnetwork/0123456789ab.sock
0000000000000000: 00000003 00000000 00000000 0001 03 31378 /var/run/docker/libnetwork/ffffffffffff.sock
0000000000000000: 00000002 00000000 00010000 0001 01 31379 /run/docker.sock
0000000000000000: 00000002 00000000 00010000 0001 01 31380 /srv/exec/libnetwork/fedcba9876543210fedc.sock
0000000000000000: 00000002 00000000 00010000 0001 01 31381 /run/docker/libnetwork/not-an-id-at-all.sock
0000000000000000: 00000003 00000000 00000000 0001 03 31382
0000000000000000: 00000002 00000000 00010000 0001 01 31383 @/libnetwork/0123456789ab
";
        let found: Vec<_> = listed(list).collect();
        let wanted = [
            "/var/run/docker/libnetwork/0123456789ab.sock",
            "/srv/exec/libnetwork/fedcba9876543210fedc.sock",
        ];
        assert_eq!(found, wanted);
    }
}
