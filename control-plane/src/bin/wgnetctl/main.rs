//! The operator's command: secret, plugin, status, and orders to the driver.

mod driver;
mod orders;
mod plugin;
mod secret;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};

/// Runs and looks into wgnet: networks for Docker whose traffic between hosts is WireGuard.
///
/// First steps on a new cluster:
///
/// - on one host: `wgnetctl secret new /etc/wgnet/secret`
/// - on every host: copy that file there (mode 0600), set `etcd` in /etc/wgnet/driver.toml, start
///   wgnet-driver, then `wgnetctl plugin install`
/// - on a manager: `docker network create -d wgnet:latest --attachable blue`
/// - anywhere: `wgnetctl status`
///
/// Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "wgnetctl", version, verbatim_doc_comment, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the cluster secret.
    Secret {
        #[command(subcommand)]
        command: SecretCommand,
    },
    /// Installs the Docker plugin on this host's engine.
    Plugin {
        #[command(subcommand)]
        command: PluginCommand,
    },
    /// Shows this host's networks, members, endpoints, handshakes and problems.
    Status(status::Options),
    /// Shows listings of etcd that this host does not believe, because most members of a network
    /// would go at once; believes them if told which.
    Release(orders::ReleaseOptions),
    /// Removes the records of a host that is gone for good, before the grace time is over. Refuses
    /// while the host is alive.
    ForgetHost(orders::ForgetOptions),
    /// Prints a completion script: wgnetctl completion bash > /etc/bash_completion.d/wgnetctl
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Writes a new secret (mode 0600) to a file that does not exist yet. Copy it to every host.
    New {
        #[arg(default_value = "/etc/wgnet/secret")]
        path: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Builds the plugin from the shim on disk through Docker's API and enables it. Does nothing if
    /// the engine has the same already.
    Install(plugin::Options),
}

fn main() -> ExitCode {
    // `wgnetctl status | head` ends quietly, as other commands do.
    // SAFETY: no handler is installed; the default action takes the place of being ignored.
    let restored = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    if let Err(error) = restored {
        eprintln!("wgnetctl: cannot restore SIGPIPE: {error}");
    }
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wgnetctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Secret { command: SecretCommand::New { path } } => secret::new(&path),
        Command::Plugin { command: PluginCommand::Install(options) } => {
            block_on(plugin::install(&options))
        }
        Command::Status(options) => block_on(status::show(&options)),
        Command::Release(options) => block_on(orders::release(&options)),
        Command::ForgetHost(options) => block_on(orders::forget(&options)),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wgnetctl", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
