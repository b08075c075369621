//! The operator's command: secret, plugin, what the cluster and this host's driver say, and orders.

mod bundle;
mod dashboard;
mod dockerd;
mod doctor;
mod driver;
mod list;
mod man;
mod orders;
mod path;
mod plugin;
mod revoke;
mod secret;
mod settings;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};
use wgnet_control_plane::fleet::problems::ProblemRow;
use wgnet_control_plane::fleet::rows::{EndpointRow, HostRow, NetworkRow, PeerRow};
use wgnet_control_plane::store::StoreError;
use wgnet_proto::text::printable;

/// Runs and looks into wgnet: networks for Docker whose traffic between hosts is WireGuard.
///
/// First steps on a new cluster:
///
/// - on one host: `wgnetctl secret new /etc/wgnet/secret`
///
/// - on every host: copy that file there (mode 0600), set `etcd` in /etc/wgnet/driver.toml, start
///   wgnet-driver, then `wgnetctl plugin install`
///
/// - on a manager: `docker network create -d wgnet:latest --attachable blue`
///
/// - anywhere: `wgnetctl status`
///
/// What is where, in the whole cluster, from etcd: `networks`, `hosts`, `endpoints`, `peers`. What is
/// wrong with it: `problems`. All of it in a browser: `dashboard`. Why one container does not reach
/// another: `path`. What this host's driver does: `status`.
///
/// What is wrong on this host: `doctor`. For a bug report: `bundle`.
///
/// A host that was stolen or broken into: `revoke`, then `secret next`.
///
/// Exit codes: 0 done, and nothing is wrong; 1 failed (the reason is on stderr), or `problems` or
/// `doctor` found something, or `path` no way; 2 wrong usage; 3 etcd cannot be reached.
#[derive(Debug, Parser)]
#[command(name = "wgnetctl", version, verbatim_doc_comment, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the cluster secret, and replaces it.
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
    /// Lists the cluster's networks.
    #[command(after_long_help = EXAMPLES_NETWORKS)]
    Networks(list::Options),
    /// Lists the cluster's hosts.
    #[command(after_long_help = EXAMPLES_HOSTS)]
    Hosts(list::Options),
    /// Lists the containers' endpoints, on every host.
    #[command(after_long_help = EXAMPLES_ENDPOINTS)]
    Endpoints(list::Options),
    /// Lists the tunnels between hosts, each as the host at its beginning tells it.
    #[command(after_long_help = EXAMPLES_PEERS)]
    Peers(list::Options),
    /// Lists what is wrong, and what to do about it. Exit code 1 if anything is; a note is not.
    #[command(after_long_help = EXAMPLES_PROBLEMS)]
    Problems(list::Options),
    /// Says whether one endpoint reaches another: through which hosts and keys, and if not, which
    /// step fails. Exit code 1 if there is no way. Looks only; sends nothing to the endpoints.
    #[command(after_long_help = EXAMPLES_PATH)]
    Path(path::Options),
    /// Looks at everything wgnet needs on this host and in the cluster: secret, driver, kernel, disk,
    /// firewall, Docker, etcd, clocks, the other hosts and the MTU of the ways to them, which it sends
    /// some echo requests for. Of each finding it says what, why it matters and what to type. Run it
    /// as root. Exit code 1 if there is any that is more than a note.
    #[command(after_long_help = EXAMPLES_DOCTOR)]
    Doctor(doctor::Options),
    /// Shows the cluster in a browser: hosts, networks, tunnels, endpoints, problems and changes, live
    /// and read only, from etcd alone. Listens on this host; elsewhere it takes TLS and a token.
    #[command(after_long_help = EXAMPLES_DASHBOARD)]
    Dashboard(dashboard::Options),
    /// Writes one archive for a bug report: what doctor, status and the lists say, settings, log,
    /// links, routes and rules. No key or secret is in it. Run it as root.
    #[command(after_long_help = EXAMPLES_BUNDLE)]
    Bundle(bundle::Options),
    /// Shows listings of etcd that this host does not believe, because most hosts, or most members of
    /// a network, would go at once; believes them if told which.
    Release(orders::ReleaseOptions),
    /// Removes the records of a host that is gone for good, before the grace time is over. Refuses
    /// while the host is alive, and a host that nothing is known of.
    ForgetHost(orders::ForgetOptions),
    /// Locks a host out for good, one that was stolen or broken into.
    ///
    /// Writes the host's tombstone into etcd. From then on nothing counts that the host writes; within a
    /// second the others drop its keys and send it nothing more, and its records are removed. Hosts that
    /// are off hear of it when they start, a tombstone that etcd loses is put back, and no old journal
    /// undoes it: this host id never comes back. It does not matter whether the host is on, and this
    /// command needs etcd and the cluster secret, but no driver.
    ///
    /// The host knew the cluster secret, and could join as another host with it. So replace that next
    /// (`wgnetctl secret next --help`). Before the old secret is dropped order the same once more: it is
    /// said to be revoked already, and its tombstone is sealed with the new one, with which it lasts.
    ///
    /// It asks first, on a terminal; elsewhere it needs --yes. The very host it runs on is refused by its
    /// name, which is easily typed in the wrong window, and taken by its id. To revoke a host twice is no
    /// failure. A host that only goes away needs none of this: forget-host.
    #[command(after_long_help = revoke::EXAMPLES)]
    Revoke(revoke::Options),
    /// Makes this host forget a network that Docker does not have any more.
    ///
    /// For what `docker network rm` leaves if the driver cannot be told (it was away, or its disk was
    /// full): Docker forgets the network all the same and never tells again. It does what Docker's
    /// order would: the network's namespace, UDP port and firewall rule on this host go, its endpoints
    /// without a container, and what this host published of it in etcd. `wgnetctl doctor` finds such
    /// networks. Other hosts keep theirs.
    ///
    /// Docker must not have the network any more: it is asked first, and one that it still has is
    /// removed by `docker network rm`. Refused, too, while a container of the network lives here. To
    /// order it twice does no harm; once all is gone, no such network is known any more (exit code 1).
    #[command(after_long_help = orders::EXAMPLES_FORGET_NETWORK)]
    ForgetNetwork(orders::ForgetNetworkOptions),
    /// Writes the man pages, one for each command, into a directory.
    Man {
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Prints a completion script: wgnetctl completion bash > /etc/bash_completion.d/wgnetctl
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

const EXAMPLES_NETWORKS: &str = "\
Examples:
  wgnetctl networks                          every network, its members and endpoints
  wgnetctl networks --host db1               those that db1 is a member of
  wgnetctl networks --watch                  kept current
  wgnetctl networks --json | jq -r '.[] | select(.alive < .members) | .network'

Fields of --json: network, subnets, state (up, freed, unrecorded), generation, members, alive,
endpoints, options.";

const EXAMPLES_HOSTS: &str = "\
Examples:
  wgnetctl hosts                             every host, and whether it is alive
  wgnetctl hosts n-blue                      the members of a network
  wgnetctl hosts --json | jq -r '.[] | select(.state == \"gone\") | .name'

Fields of --json: host, name, state (alive, gone, revoked, unrecorded), underlay, version, backend,
networks, endpoints, unpublished, kernel.";

const EXAMPLES_ENDPOINTS: &str = "\
Examples:
  wgnetctl endpoints n-blue                  every container's address in one network
  wgnetctl endpoints --host db1 --watch      those on one host, kept current
  wgnetctl endpoints --watch --json          a line for each that comes, changes or goes

Fields of --json: network, addresses, endpoint, mac, host, host_name, claim, state (up, host-gone,
host-revoked, host-unrecorded, no-member).";

const EXAMPLES_PEERS: &str = "\
Examples:
  wgnetctl peers                             every tunnel that is told of
  wgnetctl peers n-blue --host db1           those of one host in one network, both ways
  wgnetctl peers --json | jq '.[] | select(.state == \"silent\")'

Fields of --json: network, host, host_name, peer, peer_name, public_key, underlay, last_handshake
(seconds since 1970), received_bytes, sent_bytes, state (up, idle, silent, no-handshake).";

const EXAMPLES_PROBLEMS: &str = "\
Examples:
  wgnetctl problems                          what is wrong, anywhere
  wgnetctl problems --host db1               about one host
  wgnetctl problems > /dev/null || alert     for a check that runs by the clock
  wgnetctl problems --watch --json           a line for each that comes or goes

Fields of --json: severity (error, warning, note), code, object, cause, next_step, told_by (a host;
null: the records show it).";

const EXAMPLES_PATH: &str = "\
Examples:
  wgnetctl path 10.0.3.7 10.0.3.9            between two addresses
  wgnetctl path web 10.0.3.9                 from a container of this host
  wgnetctl path 10.0.3.7 10.0.3.9 --network n-blue
                                             where several networks have these addresses

Steps: endpoint, network, address, host, member, generation, key, underlay, secret, driver, mtu,
handshake. Fields of --json: from, to, network, verdict (open, unproven, broken), steps (step,
outcome: good, unknown, broken; says, next_step).";

const EXAMPLES_DOCTOR: &str = "\
Examples:
  wgnetctl doctor                            everything, for a person
  wgnetctl doctor --json | jq -r '.[].findings[] | .code + \": \" + .next_step'

Fields of --json: for each area: area, not_seen (why it could not be looked at; null: it was),
findings (severity: error, warning, note; code, what, why, next_step).";

const EXAMPLES_DASHBOARD: &str = "\
Examples:
  wgnetctl dashboard                         then open http://127.0.0.1:7587/ on this host
  ssh -L 7587:127.0.0.1:7587 host1 wgnetctl dashboard
                                             the same, from your own machine
  openssl rand -hex 32 > /etc/wgnet/dashboard.token && chmod 600 /etc/wgnet/dashboard.token
  wgnetctl dashboard --listen 0.0.0.0:7587 --name dash.example.org \\
      --tls-cert dash.pem --tls-key dash.key --token-file /etc/wgnet/dashboard.token
                                             for others; the token is the password
  wgnetctl dashboard --name dash.example.org behind a proxy on this host that authenticates
  curl -H \"Authorization: Bearer $(cat /etc/wgnet/dashboard.token)\" https://dash.example.org:7587/healthz

It needs etcd and the cluster secret, as the other commands do, and writes to neither. One process
serves up to 100 pages that are open at a time. The journal and the plots begin when it starts.";

const EXAMPLES_BUNDLE: &str = "\
Examples:
  wgnetctl bundle                            writes wgnet-bundle-HOST-TIME.tar.gz here
  wgnetctl bundle -o /tmp/b.tar.gz           writes there
  tar -xzOf b.tar.gz --wildcards '*/doctor.json'
                                             looks into it";

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Writes a new secret (mode 0600) to a file that does not exist yet. Copy it to every host.
    New {
        #[arg(default_value = "/etc/wgnet/secret")]
        path: PathBuf,
    },
    /// Adds the next epoch, a new secret, to a secret file.
    ///
    /// Drivers accept both epochs of a file, and use the higher one for what they write and for
    /// WireGuard's pre-shared keys. So take a copy of the file, add the next epoch to it, and bring that
    /// to every host (mode 0600): a driver reads it when it starts. Then restart all drivers within a
    /// minute: hosts that use the new secret and hosts that do not know it cannot begin sessions with
    /// each other, and those that exist live for a minute at least. When all use it, `drop-old`.
    ///
    /// The file is replaced as a whole (mode 0600), or left as it was. Refused if others can read it, if
    /// drivers would not take it, and if it has two epochs already. No secret is shown.
    #[command(after_long_help = secret::EXAMPLES_NEXT)]
    Next {
        #[arg(value_name = "FILE")]
        path: PathBuf,
    },
    /// Leaves only the highest epoch in a secret file.
    ///
    /// The end of a replacement that began with `next`: when every host's driver uses the new secret
    /// (`wgnetctl problems` shows no secret-epochs-differ), order it on every host and restart the
    /// drivers. Then who has only the old secret is out, a host that was off meanwhile too: it needs the
    /// new file before it starts.
    ///
    /// The file is replaced as a whole (mode 0600), or left as it was. Refused if others can read it, or
    /// if drivers would not take it. With one epoch there is nothing to do, which is no failure.
    #[command(after_long_help = secret::EXAMPLES_NEXT)]
    DropOld {
        #[arg(value_name = "FILE")]
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
        Ok(Outcome::Fine) => ExitCode::SUCCESS,
        Ok(Outcome::Found) => ExitCode::FAILURE,
        Err(error) => {
            // What etcd, Docker or a file says may hold anything.
            eprintln!("wgnetctl: {}", printable(&format!("{error:#}")));
            code_of(&error)
        }
    }
}

/// What a command that worked has to say by its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Fine,
    /// Something is wrong, as it was asked to find out.
    Found,
}

const NO_ETCD: u8 = 3;

fn code_of(error: &anyhow::Error) -> ExitCode {
    let is_etcd = |error: &StoreError| !matches!(error, StoreError::Config { .. });
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>());
    if cause.is_some_and(is_etcd) { NO_ETCD.into() } else { ExitCode::FAILURE }
}

fn run(command: Command) -> anyhow::Result<Outcome> {
    let done = |()| Outcome::Fine;
    match command {
        Command::Secret { command: SecretCommand::New { path } } => secret::new(&path).map(done),
        Command::Secret { command: SecretCommand::Next { path } } => secret::next(&path).map(done),
        Command::Secret { command: SecretCommand::DropOld { path } } => {
            secret::drop_old(&path).map(done)
        }
        Command::Plugin { command: PluginCommand::Install(options) } => {
            block_on(plugin::install(&options)).map(done)
        }
        Command::Status(options) => block_on(status::show(&options)).map(done),
        Command::Networks(options) => block_on(options.show::<NetworkRow>()),
        Command::Hosts(options) => block_on(options.show::<HostRow>()),
        Command::Endpoints(options) => block_on(options.show::<EndpointRow>()),
        Command::Peers(options) => block_on(options.show::<PeerRow>()),
        Command::Problems(options) => block_on(options.show::<ProblemRow>()),
        Command::Dashboard(options) => block_on_threads(dashboard::run(&options)).map(done),
        Command::Bundle(options) => block_on(bundle::write(&options)),
        Command::Doctor(options) => block_on(doctor::show(&options)),
        Command::Path(options) => block_on(path::show(&options)),
        Command::Release(options) => block_on(orders::release(&options)).map(done),
        Command::ForgetHost(options) => block_on(orders::forget(&options)).map(done),
        Command::Revoke(options) => block_on(revoke::run(&options)).map(done),
        Command::ForgetNetwork(options) => block_on(orders::forget_network(&options)).map(done),
        Command::Man { directory } => {
            let pages = man::write(Cli::command(), &directory)?;
            println!("Wrote {pages} pages; to read one: man -l {}/wgnetctl.1", directory.display());
            Ok(Outcome::Fine)
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "wgnetctl", &mut std::io::stdout());
            Ok(Outcome::Fine)
        }
    }
}

/// For what serves many at a time.
fn block_on_threads<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let threads =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    threads.block_on(future)
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_man_page_and_the_first_tells_exit_codes() {
        let dir = tempfile::tempdir().unwrap();
        run(Command::Man { directory: dir.path().to_owned() }).unwrap();
        let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(page("wgnetctl.1").contains("Exit codes"));
        for examples in ["wgnetctl-path.1", "wgnetctl-revoke.1", "wgnetctl-secret-next.1"] {
            assert!(page(examples).contains(".SH EXAMPLES"), "{examples}");
        }
        let mut cli = Cli::command().disable_help_subcommand(true);
        cli.build();
        for command in cli.get_subcommands() {
            assert!(page(&format!("wgnetctl-{}.1", command.get_name())).contains(".SH NAME"));
        }
        run(Command::Man { directory: dir.path().join("none") }).unwrap_err();
    }

    #[test]
    fn completion_knows_every_command() {
        let mut script = Vec::new();
        clap_complete::generate(
            clap_complete::Shell::Bash,
            &mut Cli::command(),
            "wgnetctl",
            &mut script,
        );
        let script = String::from_utf8(script).unwrap();
        for command in ["revoke", "drop-old", "forget-host"] {
            assert!(script.contains(command), "{command}");
        }
    }

    #[test]
    fn an_etcd_that_cannot_be_reached_has_its_own_exit_code() {
        let away = anyhow::Error::new(StoreError::NoLeader { endpoints: "e".to_owned() });
        assert_eq!(code_of(&away.context("reading")), ExitCode::from(3));
        assert_eq!(code_of(&anyhow::anyhow!("no")), ExitCode::FAILURE);
    }
}
