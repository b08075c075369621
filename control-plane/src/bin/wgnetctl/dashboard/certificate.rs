//! The dashboard's certificate: read at the start, and again when its files hold something else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{DEFAULT_VERSIONS, ServerConfig};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the files held when they were last read, be it of use or not.
type Fingerprint = [u8; 32];

/// The two files, followed as long as the dashboard runs.
pub(super) struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    read: Fingerprint,
    in_use: watch::Sender<TlsAcceptor>,
}

impl Certificate {
    /// # Errors
    ///
    /// When a file cannot be read, or both do not fit.
    pub(super) fn read(chain: &Path, key: &Path) -> anyhow::Result<Self> {
        let (read, acceptor) = load(chain, key)?;
        let in_use = watch::Sender::new(acceptor?);
        Ok(Self { chain: chain.to_owned(), key: key.to_owned(), read, in_use })
    }

    /// What new connections are to use.
    pub(super) fn in_use(&self) -> watch::Receiver<TlsAcceptor> {
        self.in_use.subscribe()
    }

    /// Takes what is renewed, until cancelled. Of two files one is written first: while they do not
    /// fit, the certificate in use stays.
    pub(super) async fn follow(mut self, cancel: CancellationToken) {
        let follow = async {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                if let Some(news) = self.look() {
                    eprintln!("wgnetctl: {news}");
                }
            }
        };
        cancel.run_until_cancelled(follow).await;
    }

    /// Reads the files again; what there is to say about it.
    fn look(&mut self) -> Option<String> {
        let stays = "; the certificate that was read before stays in use";
        let (read, acceptor) = match load(&self.chain, &self.key) {
            Ok(loaded) => loaded,
            Err(error) => {
                let is_news = std::mem::take(&mut self.read) != Fingerprint::default();
                return is_news.then(|| format!("{error:#}{stays}"));
            }
        };
        if read == self.read {
            return None;
        }
        self.read = read;
        match acceptor {
            Ok(acceptor) => {
                self.in_use.send_replace(acceptor);
                Some(format!("took the renewed certificate from {}", self.chain.display()))
            }
            Err(error) => Some(format!("{error:#}{stays}")),
        }
    }
}

/// What is in the files, and what follows from it. The outer error is that of a file.
fn load(chain: &Path, key: &Path) -> anyhow::Result<(Fingerprint, anyhow::Result<TlsAcceptor>)> {
    let chain_pem = std::fs::read(chain)
        .with_context(|| format!("cannot read certificates from {}", chain.display()))?;
    let key_pem = std::fs::read(key)
        .with_context(|| format!("cannot read a private key from {}", key.display()))?;
    let key_pem = Zeroizing::new(key_pem);
    let parts = [Sha256::digest(&chain_pem), Sha256::digest(&*key_pem)];
    let fingerprint = Sha256::digest(parts.concat()).into();
    Ok((fingerprint, acceptor((chain, &chain_pem), (key, &key_pem))))
}

fn acceptor(
    (chain, chain_pem): (&Path, &[u8]),
    (key, key_pem): (&Path, &[u8]),
) -> anyhow::Result<TlsAcceptor> {
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("cannot read certificates from {}", chain.display()))?;
    let secret = PrivateKeyDer::from_pem_slice(key_pem)
        .with_context(|| format!("cannot read a private key from {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(DEFAULT_VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(certificates, secret)
        .with_context(|| format!("{} and {} do not fit", chain.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
