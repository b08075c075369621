//! The driver's settings, from its file and from its command line. (What comes from the environment goes through the
//! parsers of the flags.)

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use clap::Parser as _;
use nix::sys::memfd::{MFdFlags, memfd_create};
use wgnet_driver::config::{Cli, Config};

thread_local! {
    /// A file without a name.
    static FILE: RefCell<File> =
        RefCell::new(memfd_create("settings", MFdFlags::MFD_CLOEXEC).expect("there is memory").into());
}

/// A file is understood whole, or refused with one sentence; what was understood can be worked with.
pub(crate) fn file(bytes: &[u8]) {
    let cli = Cli::try_parse_from(["wgnet-driver"]).expect("no flag is needed");
    let is_insecure = std::str::from_utf8(bytes).is_ok_and(|text| {
        text.parse::<toml::Table>()
            .is_ok_and(|table| table.get("etcd_insecure") == Some(&true.into()))
    });
    match load(cli, bytes) {
        Ok(config) => check(&config, is_insecure),
        Err(text) => crate::assert_sentence(&text),
    }
}

/// The words of a command line, one a line.
pub(crate) fn arguments(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let words = std::iter::once("wgnet-driver").chain(text.lines());
    // A refusal repeats the words to whoever typed them.
    let Ok(cli) = Cli::try_parse_from(words) else { return };
    if let Ok(config) = load(cli, b"") {
        check(&config, text.contains("--etcd-insecure"));
    }
}

fn load(mut cli: Cli, bytes: &[u8]) -> Result<Config, String> {
    FILE.with_borrow_mut(|file| {
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(bytes))
            .expect("memory can be written");
        cli.config = Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into());
        Config::load(&cli).map_err(|error| error.to_string())
    })
}

fn check(config: &Config, is_insecure: bool) {
    assert!(*config.ports.start() >= 1 && config.ports.start() <= config.ports.end());
    let prefix = &config.etcd_prefix;
    assert!(prefix.starts_with('/') && !prefix.ends_with('/'));
    assert!(!prefix.chars().any(char::is_control), "{prefix:?}");
    assert!(
        (1..=64).contains(&config.name.len()) && config.name.bytes().all(|b| b.is_ascii_graphic())
    );
    for directory in [&config.state_dir, &config.run_dir, &config.plugins_dir] {
        assert!(directory.is_absolute());
    }
    assert!(
        !config.underlay.iter().any(|a| a.is_unspecified() || a.is_loopback() || a.is_multicast())
    );
    assert!(!config.etcd.is_empty());
    for endpoint in &config.etcd {
        // As the client reads it that connects there.
        let uri: hyper::Uri = endpoint.parse().expect("an endpoint is a URL");
        let host = uri.host().expect("an endpoint has a host").trim_matches(['[', ']']);
        let is_local =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match uri.scheme_str() {
            Some("https") => assert!(config.etcd_tls.is_some()),
            Some("http") => assert!(is_local || is_insecure, "{endpoint:?} is in the clear"),
            other => panic!("{endpoint:?}: {other:?}"),
        }
    }
}

pub(crate) fn file_seeds() -> Vec<Vec<u8>> {
    let full = r#"# Everything
etcd = ["https://10.0.0.5:2379", "http://127.0.0.1:2379", "http://[::1]:2379"]
etcd_prefix = "/wgnet/v1"
etcd_ca = "/etc/wgnet/ca.pem"
etcd_cert = "/etc/wgnet/cert.pem"
etcd_key = '/etc/wgnet/key.pem'
etcd_insecure = false
secret = "/etc/wgnet/secret"
insecure = false
state_dir = "/var/lib/wgnet"
run_dir = "/run/wgnet"
plugins_dir = "/run/docker/plugins"
legacy_socket = true
backend = "auto"
engine = "/usr/lib/wgnet/wgnet-engine"
ports = "51820-52819"
underlay = ["192.0.2.1", "2001:db8::1"]
name = "h1"
log = "info,wgnet_driver=debug"
log_format = "json"
"#;
    let texts = [
        full,
        "",
        "ports = \"5000\"\nbackend = \"userspace\"\n",
        "etcd = [\"http://10.0.0.5:2379\"]\netcd_insecure = true\n",
        "etcd = [\"http://localhost:2379\"]\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

pub(crate) fn argument_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "--etcd\nhttps://10.0.0.5:2379,http://127.0.0.1:2379\n--etcd-ca=/etc/ca.pem\n--name\nh1",
        "--insecure\n--legacy-socket=false\n--backend\nkernel\n--ports\n6000-6010",
        "--underlay\n192.0.2.1,2001:db8::1\n--log\ndebug\n--log-format=json\n--check",
        "--state-dir\n/var/lib/wgnet\n--run-dir=/run/wgnet\n--engine\n/usr/bin/true\n--secret=/s",
        "--etcd-insecure\n--etcd=http://10.0.0.5:2379\n--etcd-prefix=/w",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
