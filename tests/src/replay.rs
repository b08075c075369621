//! Plays a recording to the drivers of a lab without engines, and does with the interfaces what dockerd does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::lab::{Host, Lab, LabError, Result};
use crate::plugin::Dockerless;
use crate::recording::{Event, events, our_options};

/// A recording under way.
pub struct Replay<'lab> {
    lab: &'lab Lab,
    events: std::iter::Peekable<std::vec::IntoIter<Event>>,
    /// By network: what AllocateNetwork answered, which swarm hands to every host.
    allocated: BTreeMap<String, Value>,
    /// By endpoint: its interface as asked for, and with the address that was answered.
    created: BTreeMap<String, Interface>,
    sandboxes: BTreeMap<String, Sandbox<'lab>>,
    /// Networks with --ipv6: dockerd gives their containers up.
    refused: BTreeSet<String>,
    calls: usize,
}

#[derive(Debug, Clone)]
struct Interface {
    mac: String,
    /// With their prefixes.
    addresses: Vec<String>,
}

/// A container as far as a network driver sees it: a namespace with the endpoint's interface.
#[derive(Debug, Clone)]
pub struct Sandbox<'lab> {
    pub host: &'lab Host,
    pub network: String,
    pub address: String,
    /// The path of its pin, which Docker calls its key.
    pub key: String,
    /// What the driver calls the interface.
    source: String,
}

impl<'lab> Replay<'lab> {
    pub fn new(lab: &'lab Lab, recording: &str) -> Self {
        Self {
            lab,
            events: events(recording).into_iter().peekable(),
            allocated: BTreeMap::new(),
            created: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            refused: BTreeSet::new(),
            calls: 0,
        }
    }

    /// Plays up to the scene of this name, which is the word its text starts with.
    ///
    /// # Errors
    ///
    /// A driver's `Err`, or that there was none where one has to be, what `ip` says, or that there is
    /// no such scene.
    pub fn play_to(&mut self, scene: &str) -> Result<()> {
        loop {
            match self.events.peek() {
                Some(Event::Scene(text)) if text.split(' ').next() == Some(scene) => return Ok(()),
                Some(Event::Scene(text)) => println!("  {text}"),
                Some(_) => {}
                None => {
                    return Err(LabError::Machine(format!("the recording has no scene {scene}")));
                }
            }
            if let Some(Event::Call { host, method, body: Some(body) }) = self.events.next() {
                self.call(&host, &method, body)?;
            }
        }
    }

    /// How many calls were made.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// How many networks were refused, for they have IPv6 in a swarm.
    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// The containers that run now.
    pub fn sandboxes(&self) -> Vec<Sandbox<'lab>> {
        self.sandboxes.values().cloned().collect()
    }

    fn call(&mut self, host: &str, method: &str, mut body: Value) -> Result<()> {
        let driver = Dockerless {
            host: self.lab.hosts().iter().find(|of| of.name() == host).ok_or_else(|| {
                LabError::Machine(format!("the recording has a host {host}, the lab has not"))
            })?,
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (network, endpoint) = (text(&body["NetworkID"]), text(&body["EndpointID"]));
        match method {
            "AllocateNetwork" => body["Options"] = our_options(&body["Options"]),
            "CreateNetwork" => {
                let allocated = self.allocated.get(&network).cloned();
                body["Options"]["com.docker.network.generic"] = allocated.unwrap_or_default();
            }
            _ => {}
        }
        let ends = matches!(method, "FreeNetwork" | "DeleteNetwork");
        if self.refused.contains(&network) && !ends {
            return Ok(());
        }
        self.calls += 1;
        if method == "CreateNetwork" && body["IPv6Data"].as_array().is_some_and(|it| !it.is_empty())
        {
            return self.refuse(driver, network, &body);
        }
        let answer = driver.done(method, &body)?;
        match method {
            "AllocateNetwork" => drop(self.allocated.insert(network, answer["Options"].clone())),
            "CreateEndpoint" => {
                let asked = &body["Interface"];
                let mac = [&answer["Interface"]["MacAddress"], &asked["MacAddress"]];
                let interface = Interface {
                    mac: mac.into_iter().map(text).find(|mac| !mac.is_empty()).unwrap_or_default(),
                    addresses: [&asked["Address"], &asked["AddressIPv6"]]
                        .into_iter()
                        .map(text)
                        .filter(|address| !address.is_empty())
                        .collect(),
                };
                self.created.insert(endpoint, interface);
            }
            "Join" => {
                let interface = self.created.get(&endpoint).ok_or_else(|| {
                    LabError::Machine(format!("Join of the unknown endpoint {endpoint}"))
                })?;
                let key = text(&body["SandboxKey"]);
                let sandbox = Sandbox::build(driver.host, network, key, interface, &answer)?;
                self.sandboxes.insert(endpoint, sandbox);
            }
            "Leave" => {
                if let Some(sandbox) = self.sandboxes.remove(&endpoint) {
                    sandbox.clear()?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Replay<'_> {
    fn refuse(&mut self, driver: Dockerless, network: String, body: &Value) -> Result<()> {
        let answer = driver.call("CreateNetwork", body)?;
        let error = answer["Err"].as_str().unwrap_or_default();
        if !error.contains("--ipv6") {
            let said = format!("CreateNetwork of network {network} with IPv6: {answer}");
            return Err(LabError::Machine(said));
        }
        self.refused.insert(network);
        Ok(())
    }
}

impl<'lab> Sandbox<'lab> {
    /// The container's namespace, with the interface that Join's answer names.
    fn build(
        host: &'lab Host,
        network: String,
        key: String,
        interface: &Interface,
        joined: &Value,
    ) -> Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let source = text(&joined["InterfaceName"]["SrcName"]);
        let prefix = text(&joined["InterfaceName"]["DstPrefix"]);
        let mut inside =
            vec![format!("link set {source} name {prefix}0 address {}", interface.mac)];
        for address in &interface.addresses {
            inside.push(format!("addr add {address} dev {prefix}0"));
        }
        inside.push(format!("link set {prefix}0 up"));
        for route in joined["StaticRoutes"].as_array().into_iter().flatten() {
            let (to, via) = (text(&route["Destination"]), text(&route["NextHop"]));
            inside.push(format!("route add {to} via {via}"));
        }
        host.sh(&format!(
            "key={key}
             [ -d ${{key%/*}} ] || mkdir -p ${{key%/*}}
             : > $key
             unshare --net=$key ip link set lo up
             ip link set {source} netns $key
             nsenter --net=$key ip -batch - <<'EOF'\n{}\nEOF",
            inside.join("\n")
        ))?;
        let address = interface.addresses.first().and_then(|address| address.split('/').next());
        Ok(Self { host, network, address: address.unwrap_or_default().to_owned(), key, source })
    }

    /// What dockerd does after Leave: the interface goes back under its old name, the namespace ends.
    fn clear(&self) -> Result<()> {
        let Self { key, source, .. } = self;
        self.host
            .sh(&format!(
                "nsenter --net={key} ip -batch - <<'EOF'\nlink set eth0 down\nlink set eth0 name {source}\nlink set {source} netns 1\nEOF
                 umount {key} && rm {key}"
            ))
            .map(drop)
    }

    /// Runs a shell script in its namespace; its output.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.host.exec(&["nsenter", &format!("--net={}", self.key), "sh", "-ec", script])
    }

    /// One ping to each (by busybox, which starts soonest), all at once; those that were not answered.
    ///
    /// # Errors
    ///
    /// When it cannot be tried.
    pub fn unreachable(&self, addresses: &[&str]) -> Result<Vec<String>> {
        let script = format!(
            "for to in {}; do {{ busybox ping -q -c1 -W5 $to > /dev/null || echo $to; }} & done; wait",
            addresses.join(" ")
        );
        Ok(self.sh(&script)?.lines().map(str::to_owned).collect())
    }

    pub fn reaches(&self, address: &str) -> bool {
        self.unreachable(&[address]).is_ok_and(|lost| lost.is_empty())
    }
}
