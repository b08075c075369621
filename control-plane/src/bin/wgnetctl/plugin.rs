//! `wgnetctl plugin install`: builds the managed plugin from the shim on disk and enables it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bollard::Docker;
use bollard::models::Plugin;
use bollard::query_parameters::{
    CreatePluginOptionsBuilder, DisablePluginOptionsBuilder, EnablePluginOptionsBuilder,
    ListNetworksOptionsBuilder, RemovePluginOptionsBuilder,
};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

const CONFIG: &str = include_str!("../../../../deploy/plugin/config.json");

/// Where packages put it.
const INSTALLED_SHIM: &str = "/usr/lib/wgnet/wgnet-shim";

const NAME_IT: &str = "name the wgnet-shim of wgnet's package with --shim";

/// What it says of itself before its version.
const SHIM: &str = "wgnet-shim ";

/// Far above what it needs to say so.
const SAYS_WITHIN: Duration = Duration::from_secs(5);

/// In the plugin's environment: tells what it was built from. The shim does not read it.
const DIGEST: &str = "WGNET_CONTENT";

/// Above the shim's own patience (25 s), so that Docker gets the shim's answer.
const CALL_SECONDS: i64 = 30;

/// Enabling takes Docker up to 12 s when the plugin does not come up.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The name Docker knows the plugin by; networks are made with `-d NAME:latest`.
    #[arg(long, default_value = "wgnet")]
    name: String,
    /// The shim's program [default: wgnet-shim beside this program, else /usr/lib/wgnet/wgnet-shim].
    #[arg(long, value_name = "FILE")]
    shim: Option<PathBuf>,
    /// Docker's API socket.
    #[arg(long, value_name = "FILE", default_value = "/run/docker.sock")]
    docker: PathBuf,
    /// Replace a plugin of other content, though its networks' Docker calls fail meanwhile.
    #[arg(long)]
    replace: bool,
}

pub(crate) async fn install(options: &Options) -> anyhow::Result<()> {
    let shim_path = match &options.shim {
        Some(path) => path.clone(),
        None => {
            let beside = std::env::current_exe()?.with_file_name("wgnet-shim");
            if beside.exists() { beside } else { PathBuf::from(INSTALLED_SHIM) }
        }
    };
    let shim = std::fs::read(&shim_path).with_context(|| {
        format!("cannot read the shim {}; name it with --shim", shim_path.display())
    })?;
    if !is_static(&shim) {
        bail!(
            "the shim {} is not a static program; the plugin's root file system has nothing but it; {NAME_IT}",
            shim_path.display()
        );
    }
    check_name(&shim_path).await?;
    let socket = options.docker.to_string_lossy();
    let docker =
        Docker::connect_with_unix(&socket, PATIENCE.as_secs(), bollard::API_DEFAULT_VERSION)
            .with_context(|| format!("cannot use Docker's socket {socket}"))?;
    let docker = docker.negotiate_version().await.with_context(|| {
        format!("cannot reach Docker at {socket}; is it running (systemctl status docker)?")
    })?;

    let reference = format!("{}:latest", options.name.trim_end_matches(":latest"));
    let digest = digest(&shim);
    match find(&docker, &reference).await? {
        Some(plugin) if content(&plugin) == Some(&digest) => {
            if plugin.enabled {
                println!("{reference} is installed and enabled; nothing to do.");
                return Ok(());
            }
            println!("{reference} is installed, with the same content, and disabled; enabling it.");
        }
        Some(_) if !options.replace => bail!("{}", interruption(&docker, &reference).await),
        Some(plugin) => {
            remove(&docker, &reference, &plugin).await?;
            create(&docker, &reference, &shim, &digest).await?;
        }
        None => create(&docker, &reference, &shim, &digest).await?,
    }
    let enable = EnablePluginOptionsBuilder::default().timeout(CALL_SECONDS as i32).build();
    docker.enable_plugin(&reference, Some(enable)).await.with_context(|| {
        format!("Docker cannot enable {reference}; its log says why (journalctl -u docker)")
    })?;
    println!("{reference} is enabled.");
    println!(
        "A swarm node takes up to 20 s to tell its managers; then: docker network create -d {reference} --attachable NAME"
    );
    Ok(())
}

/// Asks the program which one it is: Docker would enable any that stays up, and every call would fail.
async fn check_name(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    let asked = async {
        let mut program = Command::new(path.canonicalize()?)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut said = Vec::new();
        if let Some(output) = program.stdout.take() {
            // What it has said by then counts.
            let _ = timeout(SAYS_WITHIN, output.take(64).read_to_end(&mut said)).await;
        }
        std::io::Result::Ok(said)
    };
    let said = asked.await.with_context(|| {
        format!("cannot run {shown} to see that it is wgnet-shim; make it executable (chmod +x {shown}), or {NAME_IT}")
    })?;
    if !said.starts_with(SHIM.as_bytes()) {
        let said = String::from_utf8_lossy(&said);
        let said = said.lines().next().unwrap_or_default();
        bail!("{shown} is not wgnet-shim: asked with --version, it says {said:?}; {NAME_IT}");
    }
    Ok(())
}

async fn find(docker: &Docker, reference: &str) -> anyhow::Result<Option<Plugin>> {
    let plugins = docker
        .list_plugins(None::<bollard::query_parameters::ListPluginsOptions>)
        .await
        .context("cannot list Docker's plugins")?;
    Ok(plugins.into_iter().find(|plugin| plugin.name == reference))
}

fn content(plugin: &Plugin) -> Option<&str> {
    let env = plugin.settings.env.iter();
    env.filter_map(|variable| variable.strip_prefix(DIGEST)?.strip_prefix('=')).next()
}

async fn create(docker: &Docker, reference: &str, shim: &[u8], digest: &str) -> anyhow::Result<()> {
    println!("Creating {reference} from the shim (no mount, no network, no capability).");
    let options = CreatePluginOptionsBuilder::default().name(reference).build();
    let archive = archive(shim, digest)?;
    docker
        .create_plugin(options, bollard::body_full(archive.into()))
        .await
        .with_context(|| format!("Docker cannot create the plugin {reference}"))
}

async fn remove(docker: &Docker, reference: &str, plugin: &Plugin) -> anyhow::Result<()> {
    println!("Replacing {reference}.");
    if plugin.enabled {
        let force = DisablePluginOptionsBuilder::default().force(true).build();
        docker
            .disable_plugin(reference, Some(force))
            .await
            .with_context(|| format!("Docker cannot disable {reference}"))?;
    }
    let force = RemovePluginOptionsBuilder::default().force(true).build();
    // Engines differ in what they answer; whether it is gone is what counts.
    let removed = docker.remove_plugin(reference, Some(force)).await;
    match find(docker, reference).await? {
        None => Ok(()),
        Some(_) => removed.map(drop).with_context(|| format!("Docker cannot remove {reference}")),
    }
}

/// What `--replace` would interrupt.
async fn interruption(docker: &Docker, reference: &str) -> String {
    let filters = HashMap::from([("driver".to_owned(), vec![reference.to_owned()])]);
    let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
    let networks: Vec<String> = match docker.list_networks(Some(options)).await {
        Ok(networks) => networks.into_iter().filter_map(|network| network.name).collect(),
        Err(_) => Vec::new(),
    };
    let affected = if networks.is_empty() {
        "no network of it is on this engine now".to_owned()
    } else {
        format!("its networks here: {}", networks.join(", "))
    };
    format!(
        "{reference} is installed with other content. Replacing it takes some seconds in which containers keep their traffic but \
         cannot start or stop cleanly on its networks ({affected}). To do it: wgnetctl plugin install --replace"
    )
}

/// `config.json` and `rootfs/`, as `docker plugin create` sends them.
fn archive(shim: &[u8], digest: &str) -> anyhow::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let config = config(digest)?;
    append(&mut tar, "config.json", 0o644, config.as_bytes())?;
    for directory in ["rootfs/", "rootfs/run/", "rootfs/run/docker/", "rootfs/run/docker/plugins/"]
    {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, directory, std::io::empty())?;
    }
    append(&mut tar, "rootfs/wgnet-shim", 0o755, shim)?;
    Ok(tar.into_inner()?)
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: impl AsRef<Path>,
    mode: u32,
    content: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, path, content)
}

/// The plugin's configuration with the digest in its environment.
fn config(digest: &str) -> anyhow::Result<String> {
    let mut config: serde_json::Value =
        serde_json::from_str(CONFIG).context("the built-in config.json is wrong")?;
    config["env"] = serde_json::json!([{ "name": DIGEST, "description": "what this plugin was built from", "value": digest }]);
    Ok(serde_json::to_string_pretty(&config)?)
}

fn digest(shim: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(CONFIG.as_bytes());
    hash.update(shim);
    format!("sha256:{}", hex::encode(hash.finalize()))
}

/// A dynamically linked ELF program names its interpreter.
fn is_static(program: &[u8]) -> bool {
    const INTERPRETER: &[u8] = b"/ld-";
    program.starts_with(b"\x7fELF")
        && !program[..program.len().min(4096)].windows(INTERPRETER.len()).any(|w| w == INTERPRETER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_a_plugin_without_mount_network_and_capability() {
        let bytes = archive(b"\x7fELF shim", "sha256:x").unwrap();
        let mut tar = tar::Archive::new(bytes.as_slice());
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let entry = entry.unwrap();
            names.push(entry.path().unwrap().to_string_lossy().into_owned());
        }
        assert!(
            names.contains(&"config.json".to_owned())
                && names.contains(&"rootfs/wgnet-shim".to_owned())
        );
        let config: serde_json::Value = serde_json::from_str(&config("sha256:x").unwrap()).unwrap();
        assert!(config.get("mounts").is_none());
        assert_eq!(config["network"]["type"], "none");
        assert_eq!(config["linux"]["capabilities"], serde_json::json!([]));
        assert_eq!(config["env"][0]["value"], "sha256:x");
    }

    #[tokio::test]
    async fn a_program_that_is_not_the_shim_or_cannot_run_is_refused_with_what_to_name() {
        let refusal = async |path: &Path| format!("{:#}", check_name(path).await.unwrap_err());
        let told = refusal(Path::new("/bin/echo")).await;
        assert!(told.contains("/bin/echo is not wgnet-shim") && told.contains("--shim"), "{told}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = refusal(file.path()).await;
        assert!(told.contains("chmod +x") && told.contains("--shim"), "{told}");
    }

    #[test]
    fn the_digest_follows_the_shim() {
        assert_eq!(digest(b"a"), digest(b"a"));
        assert_ne!(digest(b"a"), digest(b"b"));
    }
}
