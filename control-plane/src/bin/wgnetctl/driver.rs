//! The driver on this host, by its admin socket.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use wgnet_control_plane::admin::Unready;
use wgnet_proto::text::{clipped, read_printable};

const PATIENCE: Duration = Duration::from_secs(10);
/// Above the status of a host with a hundred thousand endpoints in sight.
const LARGEST_ANSWER: usize = 256 << 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Driver {
    /// The driver's admin socket.
    #[arg(
        long,
        value_name = "FILE",
        env = "WGNET_ADMIN_SOCKET",
        default_value = "/run/wgnet/admin.sock",
        help_heading = "Where the driver is"
    )]
    socket: PathBuf,
}

impl Driver {
    /// Whether a driver may be asked at all.
    pub(crate) fn is_there(&self) -> bool {
        self.socket.exists()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.ask("GET", path, Bytes::new()).await
    }

    pub(crate) async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.ask("POST", path, serde_json::to_vec(order)?.into()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<T> {
        let body = tokio::time::timeout(PATIENCE, self.talk(method, path, body))
            .await
            .with_context(|| {
                format!(
                    "the driver at {} did not answer within {} s",
                    self.socket.display(),
                    PATIENCE.as_secs()
                )
            })??;
        read_printable(&body).with_context(|| {
            format!(
                "the driver's answer to {path} is not as expected; do driver and wgnetctl have the same version?"
            )
        })
    }

    async fn talk(&self, method: &str, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "cannot reach the driver at {}; is it running (systemctl status wgnet-driver), and are you root?",
                self.socket.display()
            )
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "wgnet-driver")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LARGEST_ANSWER);
        let body = body.collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        connection.abort();
        let text = || clipped(String::from_utf8_lossy(&body).trim(), 2000);
        match code {
            hyper::StatusCode::SERVICE_UNAVAILABLE => match read_printable::<Unready>(&body) {
                Ok(unready) => Err(unready.into()),
                Err(_) => bail!("the driver answered {code}: {}", text()),
            },
            hyper::StatusCode::CONFLICT => bail!("{}", text()),
            code if !code.is_success() => bail!("the driver answered {code}: {}", text()),
            _ => Ok(body),
        }
    }
}
