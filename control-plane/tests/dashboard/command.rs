//! The command itself: what it refuses to start with, and TLS with a token off loopback.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, DEFAULT_VERSIONS, RootCertStore};

use crate::http::{Answer, Events, ask, ask_over};

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wgnetctl"));
    command.env_clear().args(["dashboard", "--insecure", "--etcd", "http://127.0.0.1:1"]);
    command.args(arguments);
    command
}

#[test]
fn it_does_not_start_where_others_could_read_along() {
    let output = command(&["--listen", "0.0.0.0:0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("0.0.0.0:0 can be reached from elsewhere") && said.contains("--tls-cert"),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn off_loopback_it_speaks_tls_and_wants_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    certificate(dir.path());
    std::fs::write(path("token"), "fedcba9876543210fedcba98\n").unwrap();
    let mut child = command(&["--listen", "0.0.0.0:0", "--name", "dash.test"])
        .args(["--tls-cert", &path("cert.pem"), "--tls-key", &path("key.pem")])
        .args(["--token-file", &path("token")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    let _running = Running(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let port = line.split("https://dash.test:").nth(1).and_then(|it| it.split('/').next());
    let at: SocketAddr = format!("127.0.0.1:{}", port.expect(&line)).parse().unwrap();

    let bare = over_tls(dir.path(), at, &[]).await;
    assert_eq!(bare.status, 401);
    let token = "authorization: Bearer fedcba9876543210fedcba98";
    let answer = over_tls(dir.path(), at, &[token]).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains("Nothing is known yet"));
    let foreign = over_tls(dir.path(), at, &[token, "host: evil.example"]).await;
    assert_eq!(foreign.status, 421);
    let plain = TcpStream::connect(at).await.unwrap();
    let said = read_plainly(plain).await;
    assert!(!said.contains("HTTP/"), "{said}");

    // A key that does not fit yet changes nothing; with its certificate it is taken.
    let renewed = tempfile::tempdir().unwrap();
    certificate(renewed.path());
    let copy = |name: &str| std::fs::copy(renewed.path().join(name), dir.path().join(name));
    copy("key.pem").unwrap();
    assert!(connects(dir.path(), at).await);
    copy("cert.pem").unwrap();
    let taken = async {
        while !connects(dir.path(), at).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken).await.expect("the renewed one is taken");
}

#[tokio::test]
async fn a_browser_that_goes_away_does_not_end_it_and_an_order_does() {
    let mut child = command(&["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let at = line.split("http://").nth(1).and_then(|it| it.split('/').next());
    let at: SocketAddr = at.expect(&line).parse().unwrap();
    let process = Pid::from_raw(running.0.id().cast_signed());
    // What a write to a connection that was reset leads to.
    kill(process, Signal::SIGPIPE).unwrap();
    let mut events = Events::open(at).await;
    assert_eq!(events.next().await["etcd"], "connecting");
    assert_eq!(ask(at, "GET", "/healthz", &[]).await.status, 200);
    kill(process, Signal::SIGTERM).unwrap();
    let ended = tokio::task::spawn_blocking(move || running.0.wait().unwrap());
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(ended.expect("it ends").unwrap().success());
}

async fn over_tls(dir: &Path, at: SocketAddr, headers: &[&str]) -> Answer {
    let stream = connect(dir, at).await.unwrap();
    ask_over(stream, "dash.test", "GET", "/", headers).await
}

/// Whether the certificate in the directory is the one in use.
async fn connects(dir: &Path, at: SocketAddr) -> bool {
    connect(dir, at).await.is_ok()
}

async fn connect(dir: &Path, at: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("cert.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(DEFAULT_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(at).await.unwrap();
    let name = ServerName::try_from("dash.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

async fn read_plainly(mut stream: TcpStream) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    stream.write_all(b"GET / HTTP/1.1\r\nhost: dash.test\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    // TLS answers with an alert and closes.
    let _ = stream.read_to_end(&mut said).await;
    String::from_utf8_lossy(&said).into_owned()
}

fn certificate(dir: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-subj", "/CN=dash.test", "-addext", "subjectAltName=DNS:dash.test"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-days", "2", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
