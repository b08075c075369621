//! Chromium without a window, driven by its DevTools protocol over a pipe. It ends with the pipe.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

/// One page of one browser.
pub(crate) struct Browser {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    sent: u64,
    /// What the browser found wrong: exceptions, refused loads, breaches of the policy.
    pub(crate) complaints: Vec<String>,
    child: Child,
    profile: TempDir,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("wgnett-browser-").tempdir().unwrap();
        // The protocol goes over descriptors 3 and 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"])
            .args(["--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .env("HOME", profile.path())
            .env("TMPDIR", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut browser = Self {
            orders,
            answers,
            session: None,
            sent: 0,
            complaints: Vec::new(),
            child,
            profile,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" })).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let answer = self.try_call(method, params).await;
        answer.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.sent += 1;
        let mut order = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            order["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&order).unwrap();
        bytes.push(0);
        self.orders.write_all(&bytes).await.unwrap();
        loop {
            let mut answer = Vec::new();
            let read = timeout(PATIENCE, self.answers.read_until(0, &mut answer)).await;
            let read = read.unwrap_or_else(|_| panic!("the browser does not answer {method}"));
            assert!(read.unwrap() > 0, "there is no browser: is chromium installed? (tests/setup)");
            answer.pop();
            let mut answer: Value = serde_json::from_slice(&answer).unwrap();
            if answer["id"] == self.sent {
                let error = answer["error"].take();
                return if error.is_null() { Ok(answer["result"].take()) } else { Err(error) };
            }
            self.notice(&answer);
        }
    }

    fn notice(&mut self, event: &Value) {
        let params = &event["params"];
        let is_complaint = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            _ => false,
        };
        if is_complaint {
            self.complaints.push(params.to_string());
        }
    }

    pub(crate) async fn screen(&mut self, width: u32, height: u32, theme: &str) {
        let screen = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    pub(crate) async fn open(&mut self, url: &str) {
        let opened = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(opened["errorText"].is_null(), "{url}: {opened}");
    }

    /// What an expression is, or becomes.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let evaluated = self.evaluate(expression).await.unwrap();
        let said: String = evaluated["exceptionDetails"].to_string().chars().take(600).collect();
        assert_eq!(said, "null", "{}", expression.chars().take(200).collect::<String>());
        evaluated["result"]["value"].clone()
    }

    /// Fails while another page takes the place of this one.
    async fn evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let order = json!({
            "expression": expression, "awaitPromise": true, "returnByValue": true,
        });
        self.try_call("Runtime.evaluate", order).await
    }

    /// Waits until an expression is true; while a page loads, nothing is.
    pub(crate) async fn until(&mut self, expression: &str) {
        let began = Instant::now();
        while !self.evaluate(expression).await.is_ok_and(|it| it["result"]["value"] == true) {
            assert!(began.elapsed() < PATIENCE, "never: {expression}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            let mut order = json!({ "type": kind, "key": key, "code": key });
            if key == "Enter" {
                order["text"] = json!("\r");
                order["windowsVirtualKeyCode"] = json!(13);
            }
            self.call("Input.dispatchKeyEvent", order).await;
        }
    }

    /// Ends the browser, and takes away what it wrote.
    pub(crate) async fn close(mut self) {
        self.session = None;
        self.call("Browser.close", json!({})).await;
        timeout(PATIENCE, self.child.wait()).await.expect("the browser ends").unwrap();
        let began = Instant::now();
        // Some of its processes end after it, and write until then.
        while std::fs::remove_dir_all(self.profile.path()).is_err() && self.profile.path().exists()
        {
            assert!(began.elapsed() < PATIENCE, "{} stays", self.profile.path().display());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Keeps what is seen, for people.
    pub(crate) async fn picture(&mut self, name: &str) {
        let taken = self.call("Page.captureScreenshot", json!({ "format": "png" })).await;
        let picture = STANDARD.decode(taken["data"].as_str().unwrap()).unwrap();
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(name), picture).unwrap();
    }
}
