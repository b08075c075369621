//! Docker on this host, asked by its API socket.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::Docker;
use bollard::query_parameters::ListNetworksOptions;

const SECONDS: u64 = 10;

pub(crate) async fn connect(socket: &Path) -> Result<Docker, bollard::errors::Error> {
    let socket = socket.to_string_lossy();
    let docker = Docker::connect_with_unix(&socket, SECONDS, bollard::API_DEFAULT_VERSION)?;
    docker.negotiate_version().await
}

/// Names of the networks that Docker lists, by id.
pub(crate) async fn networks(
    socket: &Path,
) -> Result<BTreeMap<String, String>, bollard::errors::Error> {
    let docker = connect(socket).await?;
    let listed = docker.list_networks(None::<ListNetworksOptions>).await?;
    let named = listed.into_iter().filter_map(|it| Some((it.id?, it.name.unwrap_or_default())));
    Ok(named.collect())
}
