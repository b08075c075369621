//! What is wrong with Docker and the plugin.

use std::path::Path;

use wgnet_proto::text::clipped;

use super::{Area, Finding};
use crate::dockerd;

const AREA: &str = "docker and the plugin";
const PLUGIN: &str = "wgnet:latest";
const OLDEST: (u32, u32) = (20, 10);

/// What Docker says of itself and of the plugin.
struct Seen {
    version: String,
    is_swarm: bool,
    /// Whether it is enabled.
    plugin: Option<bool>,
}

pub(super) async fn area(socket: &Path, is_legacy: bool) -> Area {
    match look(socket).await {
        Ok(seen) => Area::new(AREA, findings(&seen, is_legacy)),
        Err(error) => Area::new(
            AREA,
            vec![Finding::error(
                "docker-away",
                format!(
                    "Docker at {} does not answer: {}",
                    socket.display(),
                    clipped(&error.to_string(), 200)
                ),
                "running containers keep their traffic; none can start or stop",
                "systemctl start docker; journalctl -u docker -n 50",
            )],
        ),
    }
}

async fn look(socket: &Path) -> Result<Seen, bollard::errors::Error> {
    let docker = dockerd::connect(socket).await?;
    let info = docker.info().await?;
    let plugins =
        docker.list_plugins(None::<bollard::query_parameters::ListPluginsOptions>).await?;
    let plugin = plugins.into_iter().find(|plugin| plugin.name == PLUGIN);
    let node = info.swarm.and_then(|swarm| swarm.node_id).unwrap_or_default();
    Ok(Seen {
        version: info.server_version.unwrap_or_default(),
        is_swarm: !node.is_empty(),
        plugin: plugin.map(|plugin| plugin.enabled),
    })
}

fn findings(seen: &Seen, is_legacy: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    if is_older(&seen.version) {
        found.push(Finding::error(
            "docker-old",
            format!("Docker is {}", clipped(&seen.version, 40)),
            "wgnet is made for Docker 20.10 and newer",
            "upgrade Docker on this host",
        ));
    }
    match seen.plugin {
        // Docker asks neither, also not while the plugin is disabled.
        Some(_) if is_legacy && !seen.is_swarm => found.push(Finding::error(
            "legacy-beside-plugin",
            format!("the plugin {PLUGIN} is installed, and the driver has `legacy_socket`, too"),
            "from Docker's next start on, networks made with -d wgnet cannot be used and their containers do not start",
            format!("docker plugin rm -f {PLUGIN}"),
        )),
        Some(true) => {}
        Some(false) => found.push(Finding::error(
            "plugin-disabled",
            format!("the plugin {PLUGIN} is disabled"),
            "Docker asks nobody about networks of wgnet: containers cannot start on them",
            "wgnetctl plugin install",
        )),
        // Plain engines need none.
        None if is_legacy && !seen.is_swarm => {}
        None => found.push(Finding::error(
            "plugin-missing",
            format!("the plugin {PLUGIN} is not installed"),
            "swarm places no task with a network of wgnet on this node",
            "wgnetctl plugin install; on an engine without swarm: legacy_socket = true in /etc/wgnet/driver.toml",
        )),
    }
    found
}

fn is_older(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>());
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(version: &str, is_swarm: bool, plugin: Option<bool>, is_legacy: bool) -> Vec<String> {
        let seen = Seen { version: version.to_owned(), is_swarm, plugin };
        findings(&seen, is_legacy).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn each_fault_of_docker_is_found_and_nothing_else() {
        assert!(codes("20.10.24+dfsg1", true, Some(true), false).is_empty());
        assert!(codes("28.5.2", false, None, true).is_empty());
        assert_eq!(codes("19.03.15", true, Some(true), false), ["docker-old"]);
        assert_eq!(codes("28.5.2", true, None, true), ["plugin-missing"]);
        assert_eq!(codes("28.5.2", false, None, false), ["plugin-missing"]);
        assert_eq!(codes("28.5.2", true, Some(false), false), ["plugin-disabled"]);
        for plugin in [true, false] {
            assert_eq!(codes("28.5.2", false, Some(plugin), true), ["legacy-beside-plugin"]);
        }
        assert!(codes("28.5.2", true, Some(true), true).is_empty(), "the driver says that");
    }
}
