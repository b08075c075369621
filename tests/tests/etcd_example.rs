//! The etcd that `deploy/etcd/make` makes: three members start with its files, a driver reaches them,
//! nobody without its certificate does, and one of them may be lost.

use std::path::Path;
use std::process::Command;

use wgnet_tests::lab::binaries;

/// In namespaces of its own, with the programs' directory and a directory to work in.
const SCRIPT: &str = r#"
set -euo pipefail
programs=$1 work=$2 make=$3
# A host each: members look whether a certificate is for the address that it comes from.
mount -t tmpfs tmpfs /run
ip link add underlay type bridge
ip address add 10.9.0.1/24 dev underlay
ip link set underlay up
for host in a=10.9.0.5 b=10.9.0.6 c=10.9.0.7; do
    ip netns add "${host%=*}"
    ip link add "to-${host%=*}" master underlay type veth peer name eth0 netns "${host%=*}"
    ip link set "to-${host%=*}" up
    ip -n "${host%=*}" address add "${host#*=}/24" dev eth0
    ip -n "${host%=*}" link set eth0 up
    ip -n "${host%=*}" link set lo up
done
"$make" "$work/made" a=10.9.0.5 b=10.9.0.6 c=10.9.0.7
before=$(cd "$work/made" && sha256sum ca/* nodes/*/* wgnet/*)
"$make" "$work/made" a=10.9.0.5 b=10.9.0.6 c=10.9.0.7
[ "$before" = "$(cd "$work/made" && sha256sum ca/* nodes/*/* wgnet/*)" ] || { echo "the second run changed something"; exit 1; }

member() { # NAME
    sed "s#/etc/etcd/#$work/made/nodes/$1/#; s#/var/lib/etcd/#$work/$1-#" "$work/made/nodes/$1/etcd.env" > "$work/$1.env"
    (set -a; . "$work/$1.env"; exec ip netns exec "$1" etcd) > "$work/$1.log" 2>&1 &
}
member a; member b; member c
last=$!

files=$work/made/wgnet
ctl() { ETCDCTL_API=3 timeout 10 etcdctl --endpoints=https://10.9.0.5:2379,https://10.9.0.6:2379,https://10.9.0.7:2379 --cacert="$files/etcd-ca.pem" "$@"; }
certified() { ctl --cert="$files/etcd-client.pem" --key="$files/etcd-client-key.pem" "$@"; }
until=$((SECONDS + 60))
until certified endpoint health > "$work/health" 2>&1; do
    [ $SECONDS -lt $until ] || { cat "$work/health" "$work"/*.log; exit 1; }
    sleep 0.1
done
[ "$(grep -c 'is healthy' "$work/health")" = 3 ]
if ctl get / > "$work/refused" 2>&1; then echo "somebody without a certificate was let in"; exit 1; fi

sed "s#/etc/wgnet/#$files/#" "$files/driver.toml" > "$work/driver.toml"
check() { "$programs/wgnet-driver" --config "$work/driver.toml" --state-dir "$work" --run-dir "$work/run" --insecure --backend userspace --check 2>&1 || true; }
check | tee "$work/check" | grep -qx 'ok    etcd' || { cat "$work/check"; exit 1; }
kill -9 $last
# What is asked while there is no leader may never be answered.
until=$((SECONDS + 60))
until certified put one two > "$work/put" 2>&1; do
    [ $SECONDS -lt $until ] || { cat "$work/put" "$work"/*.log; exit 1; }
done
check | tee "$work/check" | grep -qx 'ok    etcd' || { cat "$work/check"; exit 1; }
echo all of it
"#;

#[test]
fn three_members_start_with_what_is_made_and_serve_certified_drivers_only() {
    let dir = tempfile::tempdir().unwrap();
    let make = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/etcd/make");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["bash", "-c", SCRIPT, "script"]);
    command.arg(binaries().unwrap()).arg(dir.path()).arg(make);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let also = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{also}", output.status);
    assert!(said.trim_end().ends_with("all of it"), "{said}\n{also}");
}
