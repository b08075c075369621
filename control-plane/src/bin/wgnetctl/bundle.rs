//! `wgnetctl bundle`: what somebody needs who helps from afar, in one archive. Everything is text
//! and goes through [`scrub`], so that no key leaves the host.

mod collect;
mod scrub;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::Outcome;
use crate::driver::Driver;
use crate::list::now;
use crate::settings::ClusterArgs;
use scrub::Scrub;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The archive to write [default: wgnet-bundle-HOST-TIME.tar.gz, here].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Docker's API socket.
    #[arg(long, value_name = "FILE", default_value = "/run/docker.sock")]
    docker: PathBuf,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    driver: Driver,
}

/// One file of the archive.
pub(crate) struct Piece {
    pub(crate) name: String,
    pub(crate) text: String,
}

const README: &str = "\
What is here: what `wgnetctl bundle` found on one host, for a bug report.

  doctor.json, status.json       what wgnetctl doctor and wgnetctl status say
  networks.json ... refused.json the cluster, by etcd's records
  settings.toml                  the driver's settings
  log.txt                        the driver's log
  host/, networks/               links, addresses, routes, rules and sockets, of the host and of each
                                 network's namespace

What is not here: the cluster secret, the host's key, WireGuard's private and pre-shared keys, TLS
keys. Where 32 bytes in base64 or hex stood that are not known to be public, there is [key:...] or
[hex:...] with the beginning of their SHA-256. Host names, addresses, network and endpoint ids are
here: look before you publish it.
";

pub(crate) async fn write(options: &Options) -> anyhow::Result<Outcome> {
    let collected = collect::all(&options.cluster, &options.driver, &options.docker).await;
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host: String =
        host.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).collect();
    let name = format!("wgnet-bundle-{host}-{}", now());
    let path = options.output.clone().unwrap_or_else(|| format!("{name}.tar.gz").into());
    let archive = archive(&name, collected.pieces, &collected.scrub)?;
    put(&path, &archive).with_context(|| format!("cannot write {}", path.display()))?;
    println!("Wrote {} ({} KiB, mode 0600).", path.display(), archive.len().div_ceil(1024));
    println!("No key is in it; names and addresses are: look before you publish it.");
    Ok(Outcome::Fine)
}

fn archive(name: &str, mut pieces: Vec<Piece>, scrub: &Scrub) -> anyhow::Result<Vec<u8>> {
    pieces.insert(0, Piece { name: "README.txt".to_owned(), text: README.to_owned() });
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for piece in pieces {
        let text = scrub.clean(&piece.text);
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_mtime(now());
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, format!("{name}/{}", piece.name), text.as_bytes())?;
    }
    Ok(tar.into_inner()?.finish()?)
}

/// An existing file is left alone.
fn put(path: &Path, archive: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(archive)
}
