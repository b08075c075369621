//! Asks as a browser would, or as it never would.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// One request; the address is its host unless the headers have one.
pub(crate) async fn ask(at: SocketAddr, method: &str, path: &str, headers: &[&str]) -> Answer {
    let stream = TcpStream::connect(at).await.unwrap();
    ask_over(stream, &at.to_string(), method, path, headers).await
}

pub(crate) async fn ask_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    method: &str,
    path: &str,
    headers: &[&str],
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|it| it.to_ascii_lowercase().starts_with("host:")) {
        request.push_str(&format!("host: {host}\r\n"));
    }
    headers.iter().for_each(|header| request.push_str(&format!("{header}\r\n")));
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that is not patient with requests may cut the connection after its answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer");
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// An open stream of events.
pub(crate) struct Events {
    stream: TcpStream,
    buffer: String,
}

impl Events {
    pub(crate) async fn open(at: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request =
            format!("GET /live HTTP/1.1\r\nhost: {at}\r\naccept: text/event-stream\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { stream, buffer: String::new() }
    }

    /// The next event's data.
    pub(crate) async fn next(&mut self) -> serde_json::Value {
        loop {
            if let Some(at) = self.buffer.find("data: ")
                && let Some(end) = self.buffer[at..].find("\n\n")
            {
                let data = serde_json::from_str(&self.buffer[at + 6..at + end]).unwrap();
                self.buffer.drain(..at + end + 2);
                return data;
            }
            let mut part = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut part)).await.expect("an event");
            let read = read.unwrap();
            assert!(read > 0, "the stream ended: {}", self.buffer);
            self.buffer.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
    }

    /// Until an event is so.
    pub(crate) async fn until(&mut self, is_so: impl Fn(&serde_json::Value) -> bool) {
        while !is_so(&self.next().await) {}
    }
}
