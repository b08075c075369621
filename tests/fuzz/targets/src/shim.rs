//! The shim's HTTP, on Docker's side and on the driver's.

use std::io::{BufRead as _, ErrorKind};
use std::time::Duration;

use wgnet_shim::forward;
use wgnet_shim::http::{Response, read_request, read_response, response_bytes};
use wgnet_shim::serve::converse;

/// A request that is understood reaches the driver as it was and says nothing twice; every one has an answer.
pub(crate) fn request(bytes: &[u8]) {
    let mut stream = bytes;
    let mut requests = 0;
    let ended = loop {
        let before = stream.len();
        let request = match read_request(&mut stream) {
            Ok(Some(request)) => request,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        requests += 1;
        assert!(before - stream.len() >= request.body.len());
        assert!(!request.method.is_empty() && !request.path.is_empty());
        let clean = |text: &str| !text.contains(|c: char| c.is_ascii_control() || c == ' ');
        assert!(clean(&request.method) && clean(&request.path));
        let left = Duration::from_secs(25);
        let head = forward::head(&request, "1-1", left, left);
        let forwarded = [head.as_bytes(), &request.body].concat();
        let mut at_the_driver = forwarded.as_slice();
        let again = read_request(&mut at_the_driver).expect("it can be read").expect("it is one");
        assert!(at_the_driver.is_empty());
        assert_eq!((again.method, again.path), (request.method, request.path));
        assert_eq!(again.body, request.body);
        if request.close {
            break None;
        }
    };
    if let Some(error) = &ended {
        assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof));
        crate::assert_sentence(&error.to_string());
    }

    let mut answers = Vec::new();
    let answer = |_: &_| Response { status: 200, body: b"{}".to_vec() };
    let conversation = converse(&mut &*bytes, &mut answers, answer);
    assert_eq!(conversation.is_ok(), ended.is_none());
    let malformed = ended.is_some_and(|error| error.kind() == ErrorKind::InvalidData);
    let mut stream = answers.as_slice();
    let mut answered = 0;
    while !stream.fill_buf().expect("it is memory").is_empty() {
        let response = read_response(&mut stream).expect("an answer can be read");
        serde_json::from_slice::<serde_json::Value>(&response.body).expect("its body is JSON");
        answered += 1;
    }
    assert_eq!(answered, requests + usize::from(malformed));
}

/// A response that is understood reaches Docker as it was.
pub(crate) fn response(bytes: &[u8]) {
    let mut stream = bytes;
    match read_response(&mut stream) {
        Ok(response) => {
            assert!((200..600).contains(&response.status));
            let passed_on = response_bytes(&response);
            assert_eq!(read_response(&mut passed_on.as_slice()).expect("it can be read"), response);
        }
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof));
            crate::assert_sentence(&error.to_string());
        }
    }
}

pub(crate) fn request_seeds() -> Vec<Vec<u8>> {
    let head = |method: &str, length: usize| {
        format!(
            "POST /{method} HTTP/1.1\r\nHost: plugin.moby.localhost\r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {length}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n"
        )
    };
    let body = r#"{"NetworkID":"m3v0gvk6pj5e0l1y9h3kz1v2c"}"#;
    let texts = [
        head("Plugin.Activate", 0),
        format!("{}{body}\n", head("NetworkDriver.DeleteNetwork", body.len() + 1)),
        format!("{0}{body}{0}{body}", head("NetworkDriver.FreeNetwork", body.len())),
        "GET / HTTP/1.0\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    texts.map(String::into_bytes).to_vec()
}

pub(crate) fn response_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "HTTP/1.1 200 OK\r\ncontent-type: application/vnd.docker.plugins.v1.2+json\r\ncontent-length: 2\r\n\
         date: Sat, 21 Nov 2026 00:00:00 GMT\r\n\r\n{}",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\n\r\n{\"Err\":\"no\"}",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
