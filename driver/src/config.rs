//! The driver's settings: one TOML file, environment over it, flags over both. Read once; nothing
//! else in the driver looks at files of settings or the environment.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use hyper::Uri;
use serde::Deserialize;
use wgnet_control_plane::settings::{Mistake, mistake};
use wgnet_proto::text::clipped;

use crate::files;

pub const DEFAULT_FILE: &str = "/etc/wgnet/driver.toml";

/// Docker network driver: answers Docker on this host and keeps its networks' WireGuard interfaces.
///
/// Settings come from the file, from the environment (WGNET_ and the flag's name) and from flags;
/// later ones win. Every flag's long name with `_` for `-` is a key of the file.
#[derive(Debug, Parser)]
#[command(name = "wgnet-driver", version, max_term_width = 100)]
pub struct Cli {
    /// Settings file [default: /etc/wgnet/driver.toml, if it exists].
    #[arg(long, env = "WGNET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Check settings, secret, privileges and kernel, say what is wrong, and exit (0: all well).
    #[arg(long)]
    pub check: bool,

    /// Remove what this host's networks left in the kernel, and exit (0: nothing is left). For a
    /// host that wgnet is removed from; the driver must not run.
    #[arg(long, conflicts_with = "check")]
    pub clean_up: bool,

    #[command(flatten)]
    pub settings: Settings,
}

/// Every setting, unset where neither flag nor environment nor file names it.
#[derive(Debug, Default, Clone, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Settings {
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
    /// The cluster secret, the same on every host [default: /etc/wgnet/secret].
    #[arg(long, env = "WGNET_SECRET", value_name = "FILE")]
    secret: Option<PathBuf>,
    /// Run without a cluster secret: whoever can write to etcd can then join.
    #[arg(long, env = "WGNET_INSECURE", num_args = 0..=1, default_missing_value = "true")]
    insecure: Option<bool>,
    /// Where the journal is kept [default: /var/lib/wgnet].
    #[arg(long, env = "WGNET_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Sockets and other things of this boot [default: /run/wgnet].
    #[arg(long, env = "WGNET_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Where Docker's plugins have their sockets [default: /run/docker/plugins].
    #[arg(long, env = "WGNET_PLUGINS_DIR", value_name = "DIR")]
    plugins_dir: Option<PathBuf>,
    /// Also serve engines without swarm, as the driver `wgnet`.
    #[arg(long, env = "WGNET_LEGACY_SOCKET", num_args = 0..=1, default_missing_value = "true")]
    legacy_socket: Option<bool>,
    /// WireGuard of the kernel or of wgnet-engine [default: auto].
    #[arg(long, env = "WGNET_BACKEND", value_enum)]
    backend: Option<BackendSetting>,
    /// The userspace engine's program [default: wgnet-engine beside this program, else in
    /// /usr/lib/wgnet].
    #[arg(long, env = "WGNET_ENGINE", value_name = "FILE")]
    engine: Option<PathBuf>,
    /// UDP ports for WireGuard, FIRST-LAST [default: 51820-52819].
    #[arg(long, env = "WGNET_PORTS", value_name = "RANGE")]
    ports: Option<String>,
    /// This host's underlay addresses, best first [default: those of the route to etcd].
    #[arg(long, env = "WGNET_UNDERLAY", value_name = "IP", value_delimiter = ',')]
    underlay: Option<Vec<IpAddr>>,
    /// How long a host must be gone before the others remove its records, as in 90s, 12h or 7d
    /// [default: 7d].
    #[arg(long, env = "WGNET_DEAD_HOST_GRACE", value_name = "TIME")]
    dead_host_grace: Option<String>,
    /// Where Prometheus finds /metrics, or off [default: 127.0.0.1:7586].
    #[arg(long, env = "WGNET_METRICS", value_name = "ADDRESS:PORT")]
    metrics: Option<String>,
    /// This host's name for people [default: its hostname].
    #[arg(long, env = "WGNET_NAME", value_name = "NAME")]
    name: Option<String>,
    /// What to log: error, warn, info, debug, trace, or tracing's filter syntax [default: info].
    #[arg(long, env = "WGNET_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How to log [default: text].
    #[arg(long, env = "WGNET_LOG_FORMAT", value_enum)]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum BackendSetting {
    /// The kernel's WireGuard where it has it, else the userspace engine.
    Auto,
    Kernel,
    Userspace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// The settings, complete and checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub etcd: Vec<String>,
    pub etcd_prefix: String,
    pub etcd_tls: Option<EtcdTls>,
    pub secret: PathBuf,
    pub insecure: bool,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub plugins_dir: PathBuf,
    pub legacy_socket: bool,
    pub backend: BackendSetting,
    pub engine: PathBuf,
    pub ports: RangeInclusive<u16>,
    pub underlay: Vec<IpAddr>,
    pub dead_host_grace: Duration,
    pub metrics: Option<SocketAddr>,
    pub name: String,
    pub log: String,
    pub log_format: LogFormat,
}

#[derive(Debug, Clone)]
pub struct EtcdTls {
    pub ca: PathBuf,
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A setting that cannot be used: which, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "cannot read the settings file {path}: {source}; write it, or name another with --config"
    )]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the settings file {path} is wrong in line {line}: {what}")]
    Malformed { path: PathBuf, line: usize, what: String },
    #[error("`{key}` is wrong: {why}")]
    Bad { key: &'static str, why: String },
}

impl Config {
    /// Reads the file and puts the command line's settings over it.
    ///
    /// # Errors
    ///
    /// A sentence that names the file or the key, what is wrong with it and what would be right.
    pub fn load(cli: &Cli) -> Result<Self, ConfigError> {
        let file = match &cli.config {
            Some(path) => read(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read(Path::new(DEFAULT_FILE))?,
            None => Settings::default(),
        };
        cli.settings.clone().over(file).check()
    }

    /// Where `wgnetctl` asks for the status.
    pub fn admin_socket(&self) -> PathBuf {
        self.run_dir.join("admin.sock")
    }

    pub fn engine_socket(&self) -> PathBuf {
        self.run_dir.join("engine.sock")
    }
}

fn read(path: &Path) -> Result<Settings, ConfigError> {
    let text = files::read_text(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let Mistake { line, what } = mistake(&text, &error);
        ConfigError::Malformed { path: path.to_owned(), line, what }
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
            run_dir: self.run_dir.or(file.run_dir),
            plugins_dir: self.plugins_dir.or(file.plugins_dir),
            legacy_socket: self.legacy_socket.or(file.legacy_socket),
            backend: self.backend.or(file.backend),
            engine: self.engine.or(file.engine),
            ports: self.ports.or(file.ports),
            underlay: self.underlay.or(file.underlay),
            dead_host_grace: self.dead_host_grace.or(file.dead_host_grace),
            metrics: self.metrics.or(file.metrics),
            name: self.name.or(file.name),
            log: self.log.or(file.log),
            log_format: self.log_format.or(file.log_format),
        }
    }

    fn check(self) -> Result<Config, ConfigError> {
        let etcd = self.etcd.unwrap_or_else(|| vec!["http://127.0.0.1:2379".to_owned()]);
        check_etcd(&etcd, self.etcd_insecure.unwrap_or(false))?;
        let etcd_tls = tls(&etcd, self.etcd_ca, self.etcd_cert, self.etcd_key)?;
        let etcd_prefix = self.etcd_prefix.unwrap_or_else(|| "/wgnet/v1".to_owned());
        if !etcd_prefix.starts_with('/')
            || etcd_prefix.ends_with('/')
            || etcd_prefix.chars().any(char::is_control)
        {
            let why = "must begin with / and not end with it, as in /wgnet/v1";
            return Err(bad("etcd_prefix", format!("{} {why}", shown(&etcd_prefix))));
        }
        let underlay = self.underlay.unwrap_or_default();
        if let Some(address) =
            underlay.iter().find(|a| a.is_unspecified() || a.is_loopback() || a.is_multicast())
        {
            return Err(bad(
                "underlay",
                format!("{address} is not an address other hosts can reach; name one of `ip addr`"),
            ));
        }
        let name = match self.name {
            Some(name) => name,
            None => hostname(),
        };
        if name.is_empty() || name.len() > 64 || !name.chars().all(|c| c.is_ascii_graphic()) {
            return Err(bad(
                "name",
                format!("{} must be 1 to 64 printable characters without spaces", shown(&name)),
            ));
        }
        Ok(Config {
            etcd,
            etcd_prefix,
            etcd_tls,
            secret: self.secret.unwrap_or_else(|| "/etc/wgnet/secret".into()),
            insecure: self.insecure.unwrap_or(false),
            state_dir: absolute("state_dir", self.state_dir, "/var/lib/wgnet")?,
            run_dir: absolute("run_dir", self.run_dir, "/run/wgnet")?,
            plugins_dir: absolute("plugins_dir", self.plugins_dir, "/run/docker/plugins")?,
            legacy_socket: self.legacy_socket.unwrap_or(false),
            backend: self.backend.unwrap_or(BackendSetting::Auto),
            engine: self.engine.unwrap_or_else(engine_beside_us),
            ports: parse_ports(self.ports.as_deref().unwrap_or("51820-52819"))?,
            underlay,
            dead_host_grace: parse_time(
                "dead_host_grace",
                self.dead_host_grace.as_deref().unwrap_or("7d"),
            )?,
            metrics: parse_metrics(self.metrics.as_deref().unwrap_or("127.0.0.1:7586"))?,
            name,
            log: self.log.unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
        })
    }
}

fn bad(key: &'static str, why: String) -> ConfigError {
    ConfigError::Bad { key, why }
}

/// Enough of a value to recognise it.
fn shown(value: &str) -> String {
    format!("\"{}\"", clipped(value, 80))
}

fn absolute(
    key: &'static str,
    value: Option<PathBuf>,
    default: &str,
) -> Result<PathBuf, ConfigError> {
    let path = value.unwrap_or_else(|| default.into());
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(bad(key, format!("{} must be an absolute path", shown(&path.to_string_lossy()))))
    }
}

fn parse_metrics(text: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if text == "off" {
        return Ok(None);
    }
    let wrong = "must be an address and a port, as in 127.0.0.1:7586, or off";
    let address = text.parse().map_err(|_| bad("metrics", format!("{} {wrong}", shown(text))))?;
    Ok(Some(address))
}

/// A number and its unit.
fn parse_time(key: &'static str, text: &str) -> Result<Duration, ConfigError> {
    let wrong = || bad(key, format!("{} must be a number and s, m, h or d, as in 7d", shown(text)));
    let unit = text.chars().last().filter(char::is_ascii_alphabetic).ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let time = number.checked_mul(seconds).filter(|time| *time > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(time))
}

fn check_etcd(endpoints: &[String], insecure: bool) -> Result<(), ConfigError> {
    if endpoints.is_empty() {
        return Err(bad(
            "etcd",
            "name at least one endpoint, as in [\"https://10.0.0.5:2379\"]".to_owned(),
        ));
    }
    for endpoint in endpoints {
        // As the client reads it, lest it connect elsewhere than what was judged here.
        let uri: Uri = endpoint.parse().unwrap_or_default();
        let is_https = endpoint.starts_with("https://");
        let (true, Some(host)) = (is_https || endpoint.starts_with("http://"), uri.host()) else {
            let why = "must begin with https:// (or http://) and a host";
            return Err(bad("etcd", format!("{} {why}", shown(endpoint))));
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad(
                "etcd",
                format!("{} must not hold a user; use etcd_cert and etcd_key", shown(host)),
            ));
        }
        let address = host.trim_matches(['[', ']']);
        let local =
            address == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_https && !local && !insecure {
            let why = "would carry every record in the clear; use https:// with etcd_ca, or set etcd_insecure = true";
            return Err(bad("etcd", format!("{} {why}", shown(endpoint))));
        }
    }
    Ok(())
}

fn tls(
    endpoints: &[String],
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<EtcdTls>, ConfigError> {
    let client = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return Err(bad(
                "etcd_cert",
                "etcd_cert and etcd_key belong together; set both or neither".to_owned(),
            ));
        }
    };
    match ca {
        Some(ca) => Ok(Some(EtcdTls { ca, client })),
        None if client.is_some() || endpoints.iter().any(|e| e.starts_with("https://")) => {
            Err(bad(
                "etcd_ca",
                "https to etcd needs the CA that signed etcd's certificate; set etcd_ca = \"FILE\""
                    .to_owned(),
            ))
        }
        None => Ok(None),
    }
}

/// `51820-52819`, or one port.
fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let error = || {
        bad(
            "ports",
            format!(
                "{} must be FIRST-LAST with 1 <= FIRST <= LAST <= 65535, as in 51820-52819",
                shown(text)
            ),
        )
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let first: u16 = first.trim().parse().map_err(|_| error())?;
    let last: u16 = last.trim().parse().map_err(|_| error())?;
    if first == 0 || first > last {
        return Err(error());
    }
    Ok(first..=last)
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Where a package has it, unless it is where a build has it.
fn engine_beside_us() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|dir| dir.join("wgnet-engine")));
    beside.filter(|file| file.exists()).unwrap_or_else(|| "/usr/lib/wgnet/wgnet-engine".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    fn error(text: &str) -> String {
        settings(text).check().unwrap_err().to_string()
    }

    #[test]
    fn nothing_set_gives_the_defaults() {
        let config = settings("").check().unwrap();
        assert_eq!(config.ports, 51820..=52819);
        assert_eq!(config.etcd_prefix, "/wgnet/v1");
        assert_eq!(config.backend, BackendSetting::Auto);
        assert_eq!(config.admin_socket(), Path::new("/run/wgnet/admin.sock"));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let cli =
            Cli::try_parse_from(["wgnet-driver", "--ports", "6000-6010", "--insecure"]).unwrap();
        let config =
            cli.settings.over(settings("ports = \"7000-7010\"\nname = \"h9\"")).check().unwrap();
        assert_eq!(
            (config.ports, config.name.as_str(), config.insecure),
            (6000..=6010, "h9", true)
        );
    }

    #[test]
    fn a_time_is_a_number_and_its_unit() {
        let grace = |text: &str| settings(text).check().unwrap().dead_host_grace.as_secs();
        assert_eq!(grace(""), 604_800);
        assert_eq!(grace("dead_host_grace = \"90s\""), 90);
        assert_eq!(grace("dead_host_grace = \"2h\""), 7200);
    }

    #[test]
    fn plain_http_is_for_loopback_or_wanted() {
        assert!(
            settings("etcd = [\"http://localhost:2379\", \"http://[::1]:2379\"]").check().is_ok()
        );
        assert!(
            settings("etcd = [\"http://192.0.2.2:2379\"]\netcd_insecure = true").check().is_ok()
        );
        assert!(error("etcd = [\"http://192.0.2.2:2379\"]").contains("etcd_insecure"));
        // The host is what comes after a user.
        for endpoint in ["http://localhost:1@192.0.2.2:2379", "http://localhost@192.0.2.2"] {
            assert!(error(&format!("etcd = [\"{endpoint}\"]")).contains("192.0.2.2"));
        }
    }

    #[test]
    fn each_bad_setting_is_named() {
        assert!(error("ports = \"9-3\"").contains("`ports`"));
        for time in ["", "7", "d", "0s", "-1h", "7 d", "1w", "9999999999999999999d"] {
            let setting = format!("dead_host_grace = \"{time}\"");
            assert!(error(&setting).contains("`dead_host_grace`"), "{time}");
        }
        for address in ["7586", "localhost:7586", "127.0.0.1", ":7586", ""] {
            let setting = format!("metrics = \"{address}\"");
            assert!(error(&setting).contains("`metrics`"), "{address}");
        }
        assert!(error("etcd = []").contains("`etcd`"));
        assert!(error("etcd = [\"192.0.2.2:2379\"]").contains("https://"));
        assert!(error("etcd = [\"https://e:2379\"]").contains("etcd_ca"));
        assert!(error("etcd_cert = \"x\"").contains("etcd_key"));
        assert!(error("underlay = [\"127.0.0.1\"]").contains("127.0.0.1"));
        assert!(error("state_dir = \"x\"").contains("absolute"));
        assert!(error("etcd_prefix = \"wgnet\"").contains("/wgnet/v1"));
        assert!(toml::from_str::<Settings>("prots = 1").unwrap_err().to_string().contains("prots"));
    }
}
