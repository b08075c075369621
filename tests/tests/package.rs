//! The Debian package: installed, upgraded, removed and purged in a root of its own, which is the
//! machine's with everything written kept apart.

// tests/run: long oldest

use std::fs;
use std::process::Command;

use wgnet_tests::package::{finish, packages};

/// Runs its argument as a script, in namespaces of its own, below a root that forgets.
const IN_A_ROOT: &str = r#"
set -euo pipefail
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root" "$1/packages"
cp "$2"/*.deb "$1/packages/"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p mnt
mount --bind "$1/packages" mnt
chroot . bash -euc "$3" 2>&1
"#;

#[test]
fn a_package_keeps_settings_through_an_upgrade_and_leaves_nothing_when_purged() {
    let dir = tempfile::tempdir().unwrap();
    let packages = packages(dir.path(), &["1.0.0", "1.0.1"]);
    let place = dir.path().join("root");
    fs::create_dir(&place).unwrap();
    let script = r#"
        ours() { find /etc /usr /lib /var/lib /run -xdev -name '*wgnet*' | sort; }
        before=$(ours)
        wanted=/etc/systemd/system/multi-user.target.wants/wgnet-driver.service

        dpkg -i /mnt/wgnet_1.0.0_*.deb
        [ -L $wanted ] || { echo "the service is not enabled"; exit 1; }
        for program in wgnet-driver wgnetctl /usr/lib/wgnet/wgnet-engine; do
            $program --version
        done
        [ -x /usr/lib/wgnet/wgnet-shim ]
        grep -q ConditionPathExists=/etc/wgnet/secret /lib/systemd/system/wgnet-driver.service
        [ -d /run/netns ] && [ -d /run/docker/plugins ]
        bash -n /usr/share/bash-completion/completions/wgnetctl

        echo '# mine' >> /etc/wgnet/driver.toml
        wgnetctl secret new /etc/wgnet/secret
        mkdir -p /var/lib/wgnet && echo keys > /var/lib/wgnet/journal.redb
        dpkg -i /mnt/wgnet_1.0.1_*.deb
        grep -q '^# mine' /etc/wgnet/driver.toml
        dpkg-query -W -f '${Version}\n' wgnet | grep -qx 1.0.1
        [ -s /etc/wgnet/secret ] && [ -s /var/lib/wgnet/journal.redb ]

        dpkg -r wgnet
        [ ! -e /usr/sbin/wgnet-driver ] && [ ! -e /usr/lib/wgnet ]
        [ -s /etc/wgnet/secret ] && [ -s /etc/wgnet/driver.toml ] && [ -s /var/lib/wgnet/journal.redb ]

        dpkg -P wgnet
        after=$(ours)
        [ "$before" = "$after" ] || { echo "left behind:"; diff <(echo "$before") <(echo "$after"); exit 1; }
        echo all of it
    "#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "bash", "-c", IN_A_ROOT]);
    let said = finish({
        unshare.arg("root").arg(&place).arg(&packages).arg(script);
        unshare
    });
    assert!(said.trim_end().ends_with("all of it"), "{said}");
}
