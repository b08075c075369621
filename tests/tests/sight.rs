//! What happens on one host is soon seen from another: in wgnetctl's lists, and on the dashboard.

// tests/run: oldest

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wgnet_tests::lab::{Host, LabError, Result, wait_for};
use wgnet_tests::swarm::{SOON, Swarm, eventually};

const DASHBOARD: &str = "127.0.0.1:7587";

const STARTED_WITHIN: Duration = Duration::from_secs(1);
const STALLED_WITHIN: Duration = Duration::from_secs(30);
const GONE_WITHIN: Duration = Duration::from_secs(60);

#[test]
#[ignore = "takes minutes"]
fn what_happens_on_a_host_is_soon_seen_from_another() -> Result<()> {
    let swarm = Swarm::start("e2e-sight", 3)?;
    swarm.network("blue", &["--subnet", "10.73.0.0/24"])?;
    swarm.run(1, "near", "blue", &[])?;
    let eye = swarm.host(1);
    let _dashboard = eye.spawn(&["/opt/wgnet/wgnetctl", "dashboard", "--listen", DASHBOARD])?;
    eventually("the dashboard", SOON, || page(eye, "/").is_ok())?;

    let address = "10.73.0.77";
    swarm.run(3, "far", "blue", &["--ip", address])?;
    let since = Instant::now();
    seen(
        "a container that started",
        since,
        STARTED_WITHIN,
        eye,
        &Sight {
            list: "endpoints",
            is_shown: &|row| row["addresses"][0] == address && row["host_name"] == "h3",
            page: "/endpoints",
            words: &[address],
        },
    )?;

    let _talk = eye.spawn(&["docker", "exec", "near", "ping", "-i", "0.2", address])?;
    eventually("a session", SOON, || {
        rows(eye, "peers").is_ok_and(|rows| rows.iter().any(|row| row["state"] == "up"))
    })?;
    swarm.host(3).sh(&format!(
        "nft 'table inet oneway {{ chain input {{ type filter hook input priority 0; ip saddr {} udp dport 51820-52819 drop; }}; }}'",
        eye.address()
    ))?;
    let since = Instant::now();
    let is_silent = |row: &Value| {
        row["host_name"] == "h1" && row["peer_name"] == "h3" && row["state"] == "silent"
    };
    let silent = Sight {
        list: "peers",
        is_shown: &is_silent,
        page: "/problems",
        words: &["host-silent", "h3"],
    };
    seen("a peer that stalled", since, STALLED_WITHIN, eye, &silent)?;
    let problems = rows(eye, "problems")?;
    let told = problems.iter().find(|row| row["code"] == "host-silent").expect("seen above");
    assert_eq!(told["object"], "host h3");
    assert!(told["cause"].as_str().is_some_and(|why| why.contains("nothing comes back")), "{told}");
    swarm.host(3).sh("nft delete table inet oneway")?;
    eventually("the session to go on", SOON, || {
        rows(eye, "peers").is_ok_and(|rows| !rows.iter().any(is_silent))
    })?;

    swarm.host(3).power_off()?;
    let since = Instant::now();
    seen(
        "a host without power",
        since,
        GONE_WITHIN,
        eye,
        &Sight {
            list: "hosts",
            is_shown: &|row| row["name"] == "h3" && row["state"] == "gone",
            page: "/problems",
            words: &["host-gone", "h3"],
        },
    )
}

/// Where something is to appear.
struct Sight<'s> {
    /// Of wgnetctl's.
    list: &'s str,
    is_shown: &'s (dyn Fn(&Value) -> bool + Sync),
    /// Of the dashboard's.
    page: &'s str,
    words: &'s [&'s str],
}

/// Waits until it is in both, and holds each against the bar.
fn seen(what: &str, since: Instant, bar: Duration, eye: &Host, sight: &Sight<'_>) -> Result<()> {
    let listed = || {
        wait_for(&format!("{what} in wgnetctl {}", sight.list), 2 * bar + SOON, || {
            let rows = rows(eye, sight.list).map_err(|error| error.to_string())?;
            rows.iter().any(sight.is_shown).then(|| since.elapsed()).ok_or(format!("{rows:?}"))
        })
    };
    let shown = || {
        wait_for(&format!("{what} on {}", sight.page), 2 * bar + SOON, || {
            let text = page(eye, sight.page).map_err(|error| error.to_string())?;
            let is_shown = sight.words.iter().all(|word| text.contains(word));
            is_shown.then(|| since.elapsed()).ok_or(text)
        })
    };
    let (listed, shown) = thread::scope(|scope| {
        let listed = scope.spawn(listed);
        let shown = shown();
        (listed.join().expect("it does not panic"), shown)
    });
    let (listed, shown) = (listed?.0, shown?.0);
    println!(
        "  {what}: wgnetctl {} after {:.2} s, the dashboard after {:.2} s (bar {} s)",
        sight.list,
        listed.as_secs_f32(),
        shown.as_secs_f32(),
        bar.as_secs()
    );
    assert!(listed < bar && shown < bar, "{what}: {listed:?}, {shown:?}");
    Ok(())
}

fn rows(host: &Host, list: &str) -> Result<Vec<Value>> {
    // Problems are an exit code of their own.
    let said = host.try_wgnetctl(&[list, "--json"])?;
    serde_json::from_str(&said.stdout)
        .map_err(|error| LabError::Machine(format!("wgnetctl {list}: {error}: {said}")))
}

/// A page of the dashboard, asked for on its own host.
fn page(host: &Host, path: &str) -> Result<String> {
    let (address, port) = DASHBOARD.split_once(':').expect("it is written above");
    let ask =
        format!("GET {path} HTTP/1.1\\r\\nHost: {DASHBOARD}\\r\\nConnection: close\\r\\n\\r\\n");
    let script =
        format!("exec 3<>/dev/tcp/{address}/{port}; printf '{ask}' >&3; timeout 5 cat <&3");
    let text = host.exec(&["bash", "-c", &script])?;
    if text.starts_with("HTTP/1.1 200") { Ok(text) } else { Err(LabError::Machine(text)) }
}
