//! The server over a store in memory: whom it answers, whom it refuses, and how soon it tells.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::dashboard::guard::{Guard, Token};
use wgnet_control_plane::dashboard::server::{MOST_LIVE, Options, serve};
use wgnet_control_plane::store::{MemoryStore, Store as _};
use wgnet_proto::Path;

use crate::http::{Answer, Events, ask};
use crate::world::World;

const TOKEN: &str = "0123456789abcdef0123";

struct Dashboard {
    at: SocketAddr,
    store: MemoryStore,
    /// As the dashboard has it.
    client: MemoryStore,
    world: World,
    cancel: CancellationToken,
    running: JoinHandle<()>,
}

impl Dashboard {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(token: Option<Token>) -> Self {
        let store = MemoryStore::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut world = World::new(3, 2, 2, now);
        let records = world.records(6);
        world.put(&store, records).await;
        let (client, cancel) = (store.client(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let options = Options { guard: Guard::new([], token, false), tls: None };
        let running = serve(listener, options, client.clone(), World::secrets(), cancel.clone());
        let running = tokio::spawn(running);
        let mut dashboard = Self { at, store, client, world, cancel, running };
        dashboard.shows("/hosts", "host2").await;
        dashboard
    }

    async fn get(&self, path: &str) -> Answer {
        let authorised = format!("authorization: Bearer {TOKEN}");
        ask(self.at, "GET", path, &[&authorised]).await
    }

    /// Waits until a page has a text.
    async fn shows(&mut self, path: &str, text: &str) -> Duration {
        let began = Instant::now();
        while !self.get(path).await.body.contains(text) {
            assert!(began.elapsed() < Duration::from_secs(10), "{path} never shows {text}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        began.elapsed()
    }

    async fn end(self) {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_change_is_told_and_shown_within_a_second() {
    let mut dashboard = Dashboard::start().await;
    let mut events = Events::open(dashboard.at).await;
    let first = events.next().await;
    let version = first["version"].as_u64().unwrap();
    assert_eq!(first["etcd"], "connected");
    let path = format!("/networks/{}", World::network(0));
    let address = World::address(77).to_string();
    assert!(!dashboard.get(&path).await.body.contains(&address));
    let began = Instant::now();
    let record = dashboard.world.endpoint(0, 77, 1);
    let store = dashboard.store.clone();
    dashboard.world.put(&store, vec![record]).await;
    events.until(|tick| tick["version"].as_u64().unwrap() > version).await;
    dashboard.shows(&path, &address).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    World::delete(&dashboard.store, &Path::Alive(World::id(2))).await;
    dashboard.shows("/", "host2: gone").await;
    dashboard.end().await;
}

#[tokio::test]
async fn a_lost_store_is_told_and_its_return_too() {
    let mut dashboard = Dashboard::start().await;
    let mut events = Events::open(dashboard.at).await;
    dashboard.client.cut();
    events.until(|tick| tick["etcd"] == "lost").await;
    dashboard.shows("/", "etcd cannot be reached").await;
    dashboard.client.mend();
    events.until(|tick| tick["etcd"] == "connected").await;
    dashboard.shows("/journal", "etcd is back after").await;
    dashboard.end().await;
}

#[tokio::test]
async fn writes_other_sites_and_other_names_are_refused_and_nothing_is_written() {
    let dashboard = Dashboard::start().await;
    let before = dashboard.store.revision().await.unwrap();
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FORGET"] {
        for path in ["/", "/hosts", "/live", "/forget-host", "/release"] {
            let answer = ask(dashboard.at, method, path, &["content-length: 2", "", "{}"]).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET, HEAD"));
            assert_protected(&answer);
        }
    }
    for header in [
        "origin: http://evil.example",
        "origin: null",
        "sec-fetch-site: cross-site",
        "host: evil.example\r\norigin: http://evil.example",
        "host: evil.example",
        "host: 127.0.0.1.evil.example:7587",
    ] {
        for path in ["/", "/live", "/networks", "/assets/app.js"] {
            let answer = ask(dashboard.at, "GET", path, &[header]).await;
            assert!(matches!(answer.status, 403 | 421), "{header}: {answer:?}");
            assert!(!answer.body.contains("host0"));
            assert_protected(&answer);
        }
    }
    assert_eq!(dashboard.store.revision().await.unwrap(), before);
    dashboard.end().await;
}

#[tokio::test]
async fn without_the_token_nothing_is_shown() {
    let dashboard = Dashboard::start_with(Some(Token::new(TOKEN).unwrap())).await;
    let style = style_of(&dashboard).await;
    for path in ["/", "/live", "/healthz", "/networks", "/nowhere", &style] {
        for header in ["x: y", "authorization: Bearer 0123456789abcdef0124", "authorization: Basic"]
        {
            let answer = ask(dashboard.at, "GET", path, &[header]).await;
            assert_eq!(answer.status, 401, "{path} {header}");
            assert!(answer.header("www-authenticate").unwrap().starts_with("Basic"));
            assert!(!answer.body.contains("host0"));
            assert_protected(&answer);
        }
        if path != "/live" {
            assert_ne!(dashboard.get(path).await.status, 401, "{path}");
        }
    }
    dashboard.end().await;
}

async fn style_of(dashboard: &Dashboard) -> String {
    let page = dashboard.get("/").await.body;
    let at = page.find("/assets/app-").unwrap();
    page[at..].split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn every_answer_forbids_what_pages_do_not_need() {
    let dashboard = Dashboard::start().await;
    let style = style_of(&dashboard).await;
    for (path, status) in
        [("/", 200), ("/hosts?q=x", 200), ("/nowhere", 404), ("/healthz", 200), (&style, 200)]
    {
        let answer = dashboard.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_protected(&answer);
        let head = ask(dashboard.at, "HEAD", path, &[]).await;
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
    }
    assert_eq!(dashboard.get(&style).await.header("content-type"), Some("text/css; charset=utf-8"));
    assert_eq!(dashboard.get("/").await.header("cache-control"), Some("no-store"));
    dashboard.end().await;
}

fn assert_protected(answer: &Answer) {
    let policy = answer.header("content-security-policy").unwrap();
    for part in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
    {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn as_many_live_pages_as_there_are_places_and_places_come_back() {
    let dashboard = Dashboard::start().await;
    let mut all = Vec::new();
    for _ in 0..MOST_LIVE {
        let mut events = Events::open(dashboard.at).await;
        events.next().await;
        all.push(events);
    }
    let refused = ask(dashboard.at, "GET", "/live", &[]).await;
    assert_eq!(refused.status, 503);
    assert_eq!(dashboard.get("/").await.status, 200);
    all.clear();
    let began = Instant::now();
    loop {
        let asked = tokio::time::timeout(
            Duration::from_millis(300),
            ask(dashboard.at, "GET", "/live", &[]),
        );
        // An open stream has no end to wait for.
        if asked.await.is_err() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "no place came back");
    }
    dashboard.end().await;
}
