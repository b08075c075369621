//! `wgnetctl dashboard`: the cluster in a browser.

mod certificate;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::dashboard::guard::{Guard, Token};
use wgnet_control_plane::dashboard::server;
use wgnet_proto::text::clipped;

use crate::settings::ClusterArgs;
use certificate::Certificate;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen. Where others than this host can reach it, --tls-cert, --tls-key and
    /// --token-file are needed.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "WGNET_DASHBOARD_LISTEN",
        default_value = "127.0.0.1:7587"
    )]
    listen: SocketAddr,
    /// A name by which browsers reach the dashboard, beside addresses and `localhost`; may be given
    /// several times. Needed behind a proxy that hands its own name on, and for names in DNS.
    #[arg(long = "name", value_name = "NAME", env = "WGNET_DASHBOARD_NAME", value_delimiter = ',')]
    names: Vec<String>,
    /// The certificate, with those between it and its CA (PEM). A renewed one is taken by itself.
    #[arg(long, value_name = "FILE", env = "WGNET_DASHBOARD_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM).
    #[arg(long, value_name = "FILE", env = "WGNET_DASHBOARD_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A file with the token that browsers have to give as password (any user name), and programs as
    /// `Authorization: Bearer`. Make it by: openssl rand -hex 32
    #[arg(long, value_name = "FILE", env = "WGNET_DASHBOARD_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

pub(crate) async fn run(options: &Options) -> anyhow::Result<()> {
    let cluster = options.cluster.load()?;
    let (store, secrets) = (cluster.store()?, cluster.secrets()?);
    let (guard, certificate) = options.protection()?;
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!("cannot listen on {}; --listen names another address", options.listen)
    })?;
    let address = listener.local_addr()?;
    let scheme = if certificate.is_some() { "https" } else { "http" };
    let cancel = CancellationToken::new();
    // A browser that goes away in the middle of an answer must not end the program.
    let _pipe = signal(SignalKind::pipe())?;
    tokio::spawn(end_on_signal(cancel.clone())?);
    println!("The dashboard is at {scheme}://{}/ (Ctrl-C ends it)", shown(address, options));
    let tls = certificate.as_ref().map(Certificate::in_use);
    let renewal = certificate.map(|certificate| tokio::spawn(certificate.follow(cancel.clone())));
    server::serve(listener, server::Options { guard, tls }, store, secrets, cancel).await;
    if let Some(renewal) = renewal {
        renewal.await?;
    }
    Ok(())
}

/// Where a browser on this host finds it.
fn shown(address: SocketAddr, options: &Options) -> String {
    match options.names.first() {
        Some(name) if !address.ip().is_loopback() => format!("{name}:{}", address.port()),
        _ if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        _ => address.to_string(),
    }
}

fn end_on_signal(
    cancel: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        // Both arms are cancel-safe; nothing is awaited inside an arm.
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancel.cancel();
    })
}

impl Options {
    /// Who is let in, and how.
    ///
    /// # Errors
    ///
    /// When others than this host's users could read along, or ask without a token.
    fn protection(&self) -> anyhow::Result<(Guard, Option<Certificate>)> {
        let listen = self.listen;
        if !is_of_this_host(listen.ip()) {
            if self.tls_cert.is_none() {
                bail!(
                    "{listen} can be reached from elsewhere, so the dashboard needs TLS there: give --tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that authenticates"
                );
            }
            if self.token_file.is_none() {
                bail!(
                    "{listen} can be reached from elsewhere, so the dashboard needs a token there: openssl rand -hex 32 > /etc/wgnet/dashboard.token, and give --token-file with it; or listen on 127.0.0.1 behind a proxy that authenticates"
                );
            }
        }
        for name in &self.names {
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
            if name.is_empty() || !name.chars().all(is_name) {
                bail!(
                    "--name {}: a host name without scheme and port is wanted",
                    clipped(name, 80)
                );
            }
        }
        let token = self.token_file.as_deref().map(token).transpose()?;
        let certificate = match (&self.tls_cert, &self.tls_key) {
            (Some(chain), Some(key)) => Some(Certificate::read(chain, key)?),
            _ => None,
        };
        Ok((Guard::new(self.names.iter().cloned(), token, certificate.is_some()), certificate))
    }
}

fn is_of_this_host(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn token(file: &Path) -> anyhow::Result<Token> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token from {}", file.display()))?;
    Token::new(&text).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        use clap::{Args as _, FromArgMatches as _};
        let command = Options::augment_args(clap::Command::new("dashboard"));
        let arguments = ["dashboard"].iter().chain(arguments);
        Options::from_arg_matches(&command.try_get_matches_from(arguments).unwrap()).unwrap()
    }

    fn why_not(arguments: &[&str]) -> String {
        format!("{:#}", options(arguments).protection().map(drop).unwrap_err())
    }

    #[test]
    fn elsewhere_than_on_loopback_it_takes_tls_and_a_token() {
        for listen in
            ["0.0.0.0:80", "[::]:80", "192.0.2.1:80", "[2001:db8::1]:80", "[::ffff:192.0.2.1]:1"]
        {
            assert!(why_not(&["--listen", listen]).contains("needs TLS"), "{listen}");
            let with_tls = ["--listen", listen, "--tls-cert", "c", "--tls-key", "k"];
            assert!(why_not(&with_tls).contains("needs a token"), "{listen}");
        }
        for listen in ["127.0.0.1:80", "127.1.2.3:1", "[::1]:0"] {
            assert!(options(&["--listen", listen]).protection().is_ok(), "{listen}");
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_and_a_key_that_does_not_fit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let short = file("short", "secret\n");
        assert!(why_not(&["--token-file", &short]).contains("openssl rand"));
        assert!(!why_not(&["--token-file", &short]).contains("secret\n"));
        let empty = file("empty", "");
        let unfit = why_not(&["--tls-cert", &empty, "--tls-key", &empty]);
        assert!(unfit.contains("private key from"), "{unfit}");
        assert!(why_not(&["--name", "http://x"]).contains("without scheme"));
    }
}
