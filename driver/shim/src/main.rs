//! Listens where Docker expects a plugin; everything else is in the library.

use std::ffi::OsString;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use wgnet_shim::forward::Driver;
use wgnet_shim::serve::serve;

/// Docker makes this directory on the host, as `/run/docker/plugins/<plugin id>`, and puts it here.
const DIRECTORY: &str = "/run/docker/plugins";

const HELP: &str = "\
wgnet-shim [DIRECTORY]

The program inside the Docker plugin wgnet:latest, which `wgnetctl plugin install` makes. Docker starts
it there; nobody needs to start it by hand. It hands Docker's calls to wgnet-driver, the service of this
host, and sends them again while that restarts. It keeps nothing and has no settings.

  DIRECTORY      where its sockets are [default: /run/docker/plugins, which is, seen from the host,
                 /run/docker/plugins/ID-OF-THE-PLUGIN]:
                   wgnet.sock    made by wgnet-shim, for Docker
                   driver.sock   made by wgnet-driver, for wgnet-shim
  -h, --help     this text
  -V, --version  its version

What goes wrong is in Docker's log (journalctl -u docker) and in the driver's (journalctl -u wgnet-driver).
";

/// Of a command line that is not understood.
const USAGE: u8 = 2;

/// Where to listen, or how to end at once.
fn directory(arguments: impl Iterator<Item = OsString>) -> Result<OsString, ExitCode> {
    let mut directory = None;
    for argument in arguments {
        match argument.to_str() {
            Some("-h" | "--help") => {
                print!("{HELP}");
                return Err(ExitCode::SUCCESS);
            }
            Some("-V" | "--version") => {
                println!("wgnet-shim {}", env!("CARGO_PKG_VERSION"));
                return Err(ExitCode::SUCCESS);
            }
            _ if directory.is_none() && !argument.as_encoded_bytes().starts_with(b"-") => {
                directory = Some(argument);
            }
            _ => {
                eprintln!(
                    "wgnet-shim: {argument:?} is none of its arguments; see: wgnet-shim --help"
                );
                return Err(ExitCode::from(USAGE));
            }
        }
    }
    Ok(directory.unwrap_or_else(|| DIRECTORY.into()))
}

fn main() -> ExitCode {
    let directory = match directory(std::env::args_os().skip(1)) {
        Ok(directory) => directory,
        Err(ended) => return ended,
    };
    // Before any thread exists, so that all of them leave the signal to the one that waits for it:
    // as process 1 of its namespace the shim gets no default action.
    let stop = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    if let Err(error) = stop.thread_block() {
        println!("cannot block SIGTERM: {error}");
    }

    let socket = Path::new(&directory).join("wgnet.sock");
    // Left by a killed predecessor where the directory outlived it; bind() refuses an existing name.
    let _ = std::fs::remove_file(&socket);
    let listener = match UnixListener::bind(&socket) {
        Ok(listener) => listener,
        Err(error) => {
            println!("cannot listen on {}: {error}", socket.display());
            // Docker restarts a plugin at once and without limit; do not turn that into a hot loop.
            thread::sleep(Duration::from_secs(5));
            return ExitCode::FAILURE;
        }
    };
    println!("wgnet-shim {} listens on {}", env!("CARGO_PKG_VERSION"), socket.display());

    let driver = Arc::new(Driver::new(Path::new(&directory).join("driver.sock")));
    thread::spawn(move || serve(&listener, &driver));

    // Calls that wait for the driver are cut off: dockerd, which asks for this, has given them up.
    match stop.wait() {
        Ok(signal) => println!("wgnet-shim ends on {signal}"),
        Err(error) => println!("cannot wait for signals: {error}"),
    }
    ExitCode::SUCCESS
}
