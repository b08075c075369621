//! As much of HTTP/1.1 as dockerd and the driver speak: one head with a known length, one body.

use std::io::{self, BufRead, Read};

/// No call of Docker's comes near this; more is refused instead of kept in memory.
const MAX_BODY: usize = 4 << 20;
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// A request, kept whole so that it can be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// `/NetworkDriver.Join`
    pub path: String,
    pub body: Vec<u8>,
    pub close: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Reads one request; `None` when the other side closed between requests or sent nothing at all
/// (dockerd does, to see whether the plugin lives).
///
/// # Errors
///
/// `InvalidData` for what is not HTTP or is too large, and whatever the stream says.
pub fn read_request(stream: &mut impl BufRead) -> io::Result<Option<Request>> {
    let Some(head) = read_head(stream)? else { return Ok(None) };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let parsed_to = parsed.parse(&head).map_err(invalid)?;
    whole(parsed_to, &head)?;
    let close =
        header(parsed.headers, "connection").is_some_and(|v| v.eq_ignore_ascii_case(b"close"));
    let (method, path) =
        (parsed.method.unwrap_or_default().to_owned(), parsed.path.unwrap_or_default().to_owned());
    let length = content_length(parsed.headers)?;
    Ok(Some(Request { method, path, body: read_body(stream, length)?, close }))
}

/// Reads one response.
///
/// # Errors
///
/// `UnexpectedEof` when the driver went away, `InvalidData` for what is not HTTP.
pub fn read_response(stream: &mut impl BufRead) -> io::Result<Response> {
    let head = read_head(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let parsed_to = parsed.parse(&head).map_err(invalid)?;
    whole(parsed_to, &head)?;
    let status = parsed.code.unwrap_or_default();
    if !(200..600).contains(&status) {
        return Err(invalid("its status is none of an answer"));
    }
    let length = content_length(parsed.headers)?;
    Ok(Response { status, body: read_body(stream, length)? })
}

/// The bytes of a response as dockerd wants them: a length, and never an empty body.
pub fn response_bytes(response: &Response) -> Vec<u8> {
    let reason = if response.status == 200 { "OK" } else { "Error" };
    let mut bytes = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {}\r\n\r\n",
        response.status,
        response.body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(&response.body);
    bytes
}

/// Everything up to and with the empty line.
fn read_head(stream: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    loop {
        let room = (MAX_HEAD - head.len()) as u64;
        let read = stream.by_ref().take(room).read_until(b'\n', &mut head)?;
        if read == 0 {
            return if head.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
        if head.ends_with(b"\r\n\r\n") {
            return Ok(Some(head));
        }
        if head.len() >= MAX_HEAD {
            return Err(invalid("the head is longer than 64 KiB"));
        }
    }
}

/// Nothing but empty lines is no head, and one that ends before its empty line (bare line feeds) hides
/// what follows in it.
fn whole(parsed_to: httparse::Status<usize>, head: &[u8]) -> io::Result<()> {
    match parsed_to {
        httparse::Status::Complete(length) if length == head.len() => Ok(()),
        _ => Err(invalid("the head does not end with its first empty line")),
    }
}

fn read_body(stream: &mut impl BufRead, length: usize) -> io::Result<Vec<u8>> {
    if length > MAX_BODY {
        return Err(invalid("the body is longer than 4 MiB"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn content_length(headers: &[httparse::Header<'_>]) -> io::Result<usize> {
    if header(headers, "transfer-encoding").is_some() {
        return Err(invalid("a chunked body is not expected here"));
    }
    let mut lengths = headers.iter().filter(|h| h.name.eq_ignore_ascii_case("content-length"));
    let Some(first) = lengths.next() else { return Ok(0) };
    // Two lengths, or a signed one: whoever else reads this may see another body than we do.
    if lengths.next().is_some() || !first.value.iter().all(u8::is_ascii_digit) {
        return Err(invalid("the head does not say one length of its body"));
    }
    std::str::from_utf8(first.value).map_err(invalid)?.parse().map_err(invalid)
}

fn header<'h>(headers: &[httparse::Header<'h>], name: &str) -> Option<&'h [u8]> {
    headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
}

fn invalid(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, cause)
}
