//! Listens where Docker expects a plugin; everything else is in the library.

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

fn main() -> ExitCode {
    // Before any thread exists, so that all of them leave the signal to the one that waits for it:
    // as process 1 of its namespace the shim gets no default action.
    let stop = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    if let Err(error) = stop.thread_block() {
        println!("cannot block SIGTERM: {error}");
    }

    let directory = std::env::args().nth(1).unwrap_or_else(|| DIRECTORY.to_owned());
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
