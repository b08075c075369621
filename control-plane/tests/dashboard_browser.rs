//! The dashboard in a real browser: what its script does, that nothing of it is forbidden by its own
//! policy, and that axe-core finds no barrier. Pictures are kept in the target directory.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "dashboard/browser.rs"]
mod browser;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "dashboard/world.rs"]
mod world;

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use browser::Browser;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wgnet_control_plane::dashboard::guard::Guard;
use wgnet_control_plane::dashboard::server::{Options, serve};
use wgnet_control_plane::store::MemoryStore;
use wgnet_proto::Path;
use world::{World, problem};

/// axe-core 4.14.1 (MPL-2.0), unchanged.
const AXE: &str = include_str!("dashboard/axe-core/axe.min.js");

struct Dashboard {
    at: SocketAddr,
    store: MemoryStore,
    client: MemoryStore,
    world: World,
    cancel: CancellationToken,
    running: JoinHandle<()>,
}

impl Dashboard {
    /// Twenty hosts, of which one is gone and one does not answer another.
    async fn start() -> Self {
        let store = MemoryStore::new();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut world = World::new(20, 4, 2, now);
        let mut records = world.records(240);
        let gone = Path::Alive(World::id(7));
        records.retain(|(_, path, _)| *path != gone);
        records.push(world.status(0, |status| {
            status.networks[0].peers[0].silent = true;
            status.networks[0].peers_silent = 1;
            let cause = "nothing comes back through WireGuard";
            status.problems = vec![problem("host-silent", "host host3", cause)];
        }));
        world.put(&store, records).await;
        let (client, cancel) = (store.client(), CancellationToken::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let options = Options { guard: Guard::new([], None, false), tls: None };
        let running = serve(listener, options, client.clone(), World::secrets(), cancel.clone());
        Self { at, store, client, world, cancel, running: tokio::spawn(running) }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    async fn end(self) {
        self.cancel.cancel();
        tokio::time::timeout(Duration::from_secs(10), self.running).await.unwrap().unwrap();
    }
}

const LIVE: &str = "document.documentElement.classList.contains('has-script') && \
    document.querySelector('footer').textContent.includes('20 hosts')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a browser, which tests/run installs with --full"]
async fn no_page_has_a_barrier_or_does_what_its_policy_forbids() {
    let dashboard = Dashboard::start().await;
    let mut browser = Browser::start().await;
    let (host, peer) = (World::id(0), World::id(3));
    let pages = [
        ("overview", "/".to_owned()),
        ("networks", "/networks".to_owned()),
        ("network", format!("/networks/{}", World::network(0))),
        ("hosts", "/hosts".to_owned()),
        ("host", format!("/hosts/{host}")),
        ("endpoints", "/endpoints?q=host1".to_owned()),
        ("tunnels", "/tunnels".to_owned()),
        ("pair", format!("/tunnels/{host}/{peer}")),
        ("problems", "/problems".to_owned()),
        ("journal", "/journal".to_owned()),
        ("nowhere", "/nowhere".to_owned()),
    ];
    for (width, height, theme) in [(1360, 900, "light"), (390, 844, "dark")] {
        browser.screen(width, height, theme).await;
        for (name, path) in &pages {
            browser.open(&dashboard.url(path)).await;
            browser.until(LIVE).await;
            let wide = browser.value("document.documentElement.scrollWidth - innerWidth").await;
            assert!(wide.as_i64().unwrap() <= 0, "{path} is too wide for {width}: {wide}");
            browser.value(&format!("{AXE}; 0")).await;
            let found = browser
                .value(
                    "axe.run(document, { resultTypes: ['violations'] }).then((it) => it.violations.map(
                        (one) => one.id + ': ' + one.nodes.map((node) => node.html).join(' | ')))",
                )
                .await;
            assert_eq!(found, serde_json::json!([]), "{path} in {theme}, {width} wide");
            browser.picture(&format!("{name}-{theme}-{width}.png")).await;
        }
    }
    // A page that is not there is told as such, and that is no fault.
    browser.complaints.retain(|it| !(it.contains("404") && it.contains("/nowhere")));
    assert_eq!(browser.complaints, [""; 0]);
    dashboard.end().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a browser, which tests/run installs with --full"]
async fn a_change_is_on_the_open_page_within_a_second_and_what_is_typed_stays() {
    let mut dashboard = Dashboard::start().await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url(&format!("/networks/{}?q=.200.", World::network(0)))).await;
    browser.until(LIVE).await;
    browser
        .value(
            "const find = document.getElementById('find'); find.focus(); find.value = 'typed'; window.before = document.querySelector('main'); 0",
        )
        .await;
    let number = 200 * 256;
    let address = World::address(number);
    let host = dashboard.world.members(0)[0];
    let record = dashboard.world.endpoint(0, number, host);
    let store = dashboard.store.clone();
    let began = Instant::now();
    dashboard.world.put(&store, vec![record]).await;
    browser
        .until(&format!("document.querySelector('#list').textContent.includes('{address}')"))
        .await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let stayed = "document.activeElement.id + ' ' + document.activeElement.value + ' ' + (window.before === document.querySelector('main'))";
    assert_eq!(browser.value(stayed).await, "find typed true");
    dashboard.end().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a browser, which tests/run installs with --full"]
async fn the_matrix_is_read_by_keyboard_and_a_field_filters_as_one_types() {
    let dashboard = Dashboard::start().await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url("/tunnels")).await;
    browser.until(LIVE).await;
    browser.value("grid.focus(), 0").await;
    for key in ["ArrowDown", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight"] {
        browser.press(key).await;
    }
    browser.until("readout.textContent === 'host0 → host3: silent'").await;
    browser.press("Enter").await;
    browser
        .until(&format!("location.pathname === '/tunnels/{}/{}'", World::id(0), World::id(3)))
        .await;
    browser.until("document.body.textContent.includes('and nothing comes back')").await;
    browser.open(&dashboard.url("/hosts")).await;
    browser.until(LIVE).await;
    let typed = "const field = document.querySelector('input[data-live]'); field.focus(); \
        field.value = 'host13'; field.dispatchEvent(new Event('input', { bubbles: true })); 0";
    browser.value(typed).await;
    browser.until("document.querySelectorAll('tbody tr').length === 1").await;
    assert_eq!(browser.value("location.search").await, "?q=host13");
    dashboard.end().await;
    browser.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "wants a browser, which tests/run installs with --full"]
async fn a_lost_store_and_a_lost_server_are_told_with_the_age_of_what_is_seen() {
    let dashboard = Dashboard::start().await;
    let mut browser = Browser::start().await;
    browser.open(&dashboard.url("/hosts")).await;
    browser.until(LIVE).await;
    dashboard.client.cut();
    browser.until("standing.textContent.includes('etcd cannot be reached')").await;
    // The age goes on.
    browser.until("parseInt(standing.querySelector('time').textContent) >= 2").await;
    dashboard.client.mend();
    browser.until("standing.textContent === ''").await;
    // While nobody looks, the page does not listen, and it is no fault that it hears nothing.
    browser
        .value("Object.defineProperty(document, 'hidden', { get: () => window.isAside }), 0")
        .await;
    for is_aside in [true, false] {
        let turn = format!(
            "window.isAside = {is_aside}; document.dispatchEvent(new Event('visibilitychange')); away.hidden"
        );
        assert_eq!(browser.value(&turn).await, true);
    }
    dashboard.client.cut();
    browser.until("standing.textContent.includes('etcd cannot be reached')").await;
    let began = Instant::now();
    dashboard.end().await;
    browser.until("!away.hidden && /What you see is [0-9]+ s old/.test(away.textContent)").await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(browser.value("document.querySelectorAll('tbody tr').length").await, 20);
    browser.close().await;
}
