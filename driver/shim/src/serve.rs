//! Docker's side: one thread a connection, which is never dropped while Docker holds it.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::forward::{Driver, json_text};
use crate::http::{Request, Response, read_request, response_bytes};

/// Accepts until the process ends.
pub fn serve(listener: &UnixListener, driver: &Arc<Driver>) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let driver = Arc::clone(driver);
                thread::spawn(move || connection(stream, &driver));
            }
            // Out of file descriptors, most likely: those in use will be closed.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn connection(stream: UnixStream, driver: &Driver) {
    if let Err(error) = exchange(stream, driver) {
        match error.kind() {
            // Docker went away in the middle; it knows.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => {}
            _ => println!("a connection ended: {error}"),
        }
    }
}

fn exchange(stream: UnixStream, driver: &Driver) -> io::Result<()> {
    let mut writer = stream.try_clone()?;
    converse(&mut BufReader::new(stream), &mut writer, |request| driver.call(request))
}

/// Answers request after request, those the driver must see with `call`, until the other side ends.
///
/// # Errors
///
/// Whatever the streams say, and `InvalidData` for what is no request, after it was answered.
pub fn converse(
    reader: &mut impl BufRead,
    writer: &mut impl Write,
    call: impl Fn(&Request) -> Response,
) -> io::Result<()> {
    loop {
        let request = match read_request(reader) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let cause = json_text(&error.to_string());
                let body = format!(r#"{{"Err":"wgnet-shim cannot read this request: {cause}"}}"#);
                let body = body.into_bytes();
                writer.write_all(&response_bytes(&Response { status: 400, body }))?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let response = constant(&request).unwrap_or_else(|| call(&request));
        writer.write_all(&response_bytes(&response))?;
        if request.close {
            return Ok(());
        }
    }
}

/// What the shim answers itself: forwarded to an absent driver, GetCapabilities keeps the engine
/// from starting for 54 s and the network driver is then never registered.
fn constant(request: &Request) -> Option<Response> {
    let body: &[u8] = match request.path.as_str() {
        "/Plugin.Activate" => br#"{"Implements":["NetworkDriver"]}"#,
        "/NetworkDriver.GetCapabilities" => br#"{"Scope":"global","ConnectivityScope":"global"}"#,
        _ => return None,
    };
    Some(Response { status: 200, body: body.to_vec() })
}
