//! Where etcd and the secret are: the driver's own settings file, environment over it, flags over
//! both. What else is in the file concerns the driver only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use wgnet_control_plane::settings::{Mistake, mistake};
use wgnet_control_plane::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use wgnet_proto::ClusterSecrets;
use wgnet_proto::text::clipped;

const FILE: &str = "/etc/wgnet/driver.toml";

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Where etcd and the secret are")]
pub(crate) struct ClusterArgs {
    /// The driver's settings, which name etcd and the secret [default: /etc/wgnet/driver.toml, if
    /// it exists].
    #[arg(long, env = "WGNET_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    over: Settings,
}

/// What is taken from the settings; other keys of the file are the driver's.
#[derive(Debug, Clone, Default, Deserialize, clap::Args)]
struct Settings {
    /// etcd endpoints, comma separated [default: http://127.0.0.1:2379].
    #[arg(long, env = "WGNET_ETCD", value_name = "URL", value_delimiter = ',')]
    etcd: Option<Vec<String>>,
    /// Where the cluster's keys begin in etcd [default: /wgnet/v1].
    #[arg(long, env = "WGNET_ETCD_PREFIX", value_name = "PREFIX")]
    etcd_prefix: Option<String>,
    /// CA certificate of etcd (PEM).
    #[arg(long, env = "WGNET_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd (PEM).
    #[arg(long, env = "WGNET_ETCD_CERT", value_name = "FILE")]
    etcd_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM).
    #[arg(long, env = "WGNET_ETCD_KEY", value_name = "FILE")]
    etcd_key: Option<PathBuf>,
    /// Allow plain http to an etcd that is not on this host.
    #[arg(long, env = "WGNET_ETCD_INSECURE", num_args = 0..=1, default_missing_value = "true")]
    etcd_insecure: Option<bool>,
    /// The cluster secret [default: /etc/wgnet/secret].
    #[arg(long, env = "WGNET_SECRET", value_name = "FILE")]
    secret: Option<PathBuf>,
    /// The cluster runs without a secret.
    #[arg(long, env = "WGNET_INSECURE", num_args = 0..=1, default_missing_value = "true")]
    insecure: Option<bool>,
    #[arg(skip)]
    state_dir: Option<PathBuf>,
    #[arg(skip)]
    ports: Option<String>,
    #[arg(skip)]
    legacy_socket: Option<bool>,
}

/// The settings, complete.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) etcd: Vec<String>,
    pub(crate) prefix: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    pub(crate) secret: PathBuf,
    pub(crate) is_insecure: bool,
    pub(crate) state_dir: PathBuf,
    /// First and last.
    pub(crate) ports: (u16, u16),
    /// Whether engines without swarm are served.
    pub(crate) is_legacy: bool,
}

impl ClusterArgs {
    /// The settings file, if there is one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| Path::new(FILE).exists().then(|| FILE.into()))
    }

    pub(crate) fn load(&self) -> anyhow::Result<Cluster> {
        let file = match self.file() {
            Some(path) => read(&path)?,
            None => Settings::default(),
        };
        self.over.clone().over(file).check()
    }
}

fn read(path: &Path) -> anyhow::Result<Settings> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!("cannot read the settings file {}; name another with --config", path.display())
    })?;
    toml::from_str(&text).map_err(|error| {
        let Mistake { line, what } = mistake(&text, &error);
        anyhow::anyhow!("the settings file {} is wrong in line {line}: {what}", path.display())
    })
}

impl Settings {
    fn over(self, file: Self) -> Self {
        Self {
            etcd: self.etcd.or(file.etcd),
            etcd_prefix: self.etcd_prefix.or(file.etcd_prefix),
            etcd_ca: self.etcd_ca.or(file.etcd_ca),
            etcd_cert: self.etcd_cert.or(file.etcd_cert),
            etcd_key: self.etcd_key.or(file.etcd_key),
            etcd_insecure: self.etcd_insecure.or(file.etcd_insecure),
            secret: self.secret.or(file.secret),
            insecure: self.insecure.or(file.insecure),
            state_dir: self.state_dir.or(file.state_dir),
            ports: self.ports.or(file.ports),
            legacy_socket: self.legacy_socket.or(file.legacy_socket),
        }
    }

    fn check(self) -> anyhow::Result<Cluster> {
        let etcd = self.etcd.unwrap_or_else(|| vec!["http://127.0.0.1:2379".to_owned()]);
        if !self.etcd_insecure.unwrap_or(false)
            && let Some(endpoint) = etcd.iter().find(|endpoint| !is_safe(endpoint))
        {
            bail!(
                "`etcd`: \"{}\" is plain http to another host; use https:// with etcd_ca, or set etcd_insecure = true",
                clipped(endpoint, 80)
            );
        }
        let client = match (self.etcd_cert, self.etcd_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => bail!("etcd_cert and etcd_key belong together; set both or neither"),
        };
        let ports = self.ports.as_deref().unwrap_or("51820-52819");
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| {
            text.trim().parse().with_context(|| {
                format!("`ports`: \"{}\" must be FIRST-LAST, as in 51820-52819", clipped(ports, 80))
            })
        };
        Ok(Cluster {
            etcd,
            prefix: self.etcd_prefix.unwrap_or_else(|| "/wgnet/v1".to_owned()),
            ca: self.etcd_ca,
            client,
            secret: self.secret.unwrap_or_else(|| "/etc/wgnet/secret".into()),
            is_insecure: self.insecure.unwrap_or(false),
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/wgnet".into()),
            ports: (port(first)?, port(last)?),
            is_legacy: self.legacy_socket.unwrap_or(false),
        })
    }
}

/// Whether nobody on the way can read what is said.
fn is_safe(endpoint: &str) -> bool {
    if endpoint.starts_with("https://") {
        return true;
    }
    let uri: hyper::Uri = endpoint.parse().unwrap_or_default();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    is_here && !is_user
}

impl Cluster {
    pub(crate) fn store(&self) -> anyhow::Result<EtcdStore> {
        Ok(EtcdStore::new(self.etcd_options()?)?)
    }

    pub(crate) fn etcd_options(&self) -> anyhow::Result<EtcdOptions> {
        let pem = |key: &str, path: &PathBuf| {
            std::fs::read(path).with_context(|| {
                format!(
                    "cannot read {}, which `{key}` names; put the PEM file there, or name another",
                    path.display()
                )
            })
        };
        let tls = match (&self.ca, &self.client) {
            (None, None) => None,
            (ca, client) => Some(EtcdTls {
                ca: ca.as_ref().map(|ca| pem("etcd_ca", ca)).transpose()?,
                client: match client {
                    Some((cert, key)) => Some((pem("etcd_cert", cert)?, pem("etcd_key", key)?)),
                    None => None,
                },
                domain: None,
            }),
        };
        Ok(EtcdOptions { endpoints: self.etcd.clone(), prefix: self.prefix.clone(), tls })
    }

    pub(crate) fn secrets(&self) -> anyhow::Result<ClusterSecrets> {
        if self.is_insecure {
            return Ok(ClusterSecrets::insecure());
        }
        ClusterSecrets::load(&self.secret).context("records cannot be judged without the secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> anyhow::Result<Cluster> {
        toml::from_str::<Settings>(text).unwrap().check()
    }

    #[test]
    fn the_drivers_own_file_is_understood() {
        let file = include_str!("../../../../deploy/driver.toml");
        let cluster = cluster(file).unwrap();
        assert_eq!(cluster.etcd.len(), 3);
        assert_eq!(cluster.prefix, "/wgnet/v1");
        assert_eq!(cluster.ports, (51_820, 52_819));
        assert!(cluster.client.is_some());
    }

    #[test]
    fn plain_http_leaves_the_host_only_if_wanted() {
        assert!(cluster("etcd = [\"http://[::1]:2379\", \"http://localhost:1\"]").is_ok());
        for endpoint in ["http://192.0.2.2:2379", "http://localhost@192.0.2.2", "192.0.2.2:2379"] {
            assert!(cluster(&format!("etcd = [\"{endpoint}\"]")).is_err(), "{endpoint}");
            let wanted = format!("etcd = [\"{endpoint}\"]\netcd_insecure = true");
            assert!(cluster(&wanted).is_ok(), "{endpoint}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Settings { etcd_prefix: Some("/a".to_owned()), ..Settings::default() };
        let file = toml::from_str("etcd_prefix = \"/b\"\nsecret = \"/s\"").unwrap();
        let cluster = flags.over(file).check().unwrap();
        assert_eq!((cluster.prefix.as_str(), cluster.secret.to_str().unwrap()), ("/a", "/s"));
    }
}
