//! Speaks to a driver as dockerd does, without an engine: for what Docker would refuse (two networks
//! of one subnet) and for machines where engines are slow.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{Host, LabError, Result};

/// The driver's legacy socket, which every driver with `legacy_socket = true` has.
pub const LEGACY_SOCKET: &str = "/run/docker/plugins/wgnet.sock";

const PATIENCE: Duration = Duration::from_secs(60);

/// A host whose driver is spoken to directly.
#[derive(Clone, Copy)]
pub struct Dockerless<'lab> {
    pub host: &'lab Host,
}

/// What stands in for a container: a namespace with the endpoint's interface in it.
pub struct Pretended<'lab> {
    pub host: &'lab Host,
    pub name: String,
    pub network: String,
    pub endpoint: String,
    pub address: String,
}

impl<'lab> Dockerless<'lab> {
    /// One call; its answer, whatever it is.
    ///
    /// # Errors
    ///
    /// When the driver does not speak HTTP.
    pub fn call(&self, method: &str, body: &Value) -> Result<Value> {
        let path = self.host.path(LEGACY_SOCKET);
        let failed = |error: std::io::Error| {
            LabError::Machine(format!("{method} through {}: {error}", path.display()))
        };
        exchange(&path, method, &body.to_string()).map_err(failed)
    }

    /// One call that has to succeed.
    ///
    /// # Errors
    ///
    /// The driver's `Err`.
    pub fn done(&self, method: &str, body: &Value) -> Result<Value> {
        let answer = self.call(method, body)?;
        match answer["Err"].as_str() {
            Some(error) if !error.is_empty() => {
                Err(LabError::Machine(format!("{method} on {}: {error}", self.host.name())))
            }
            _ => Ok(answer),
        }
    }

    /// # Errors
    ///
    /// The driver's `Err`.
    pub fn create_network(
        &self,
        id: &str,
        subnet: &str,
        gateway: &str,
        options: &Value,
    ) -> Result<()> {
        let body = json!({
            "NetworkID": id,
            "Options": { "com.docker.network.enable_ipv6": false, "com.docker.network.generic": options },
            "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": subnet, "Gateway": gateway }],
            "IPv6Data": [],
        });
        self.done("CreateNetwork", &body).map(drop)
    }

    /// # Errors
    ///
    /// The driver's `Err`.
    pub fn delete_network(&self, id: &str) -> Result<()> {
        self.done("DeleteNetwork", &json!({ "NetworkID": id })).map(drop)
    }

    /// CreateEndpoint, Join, and what dockerd then does with the interface. The endpoint's id is made
    /// of the name, which has to be hex digits.
    ///
    /// # Errors
    ///
    /// The driver's `Err`, or what `ip` says.
    pub fn run(&self, name: &str, network: &str, address: &str) -> Result<Pretended<'lab>> {
        let endpoint = format!("{name:0<64}");
        let ids = json!({ "NetworkID": network, "EndpointID": endpoint });
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        let created = self.done(
            "CreateEndpoint",
            &merge(&ids, &json!({ "Interface": interface, "Options": {} })),
        )?;
        let mac = created["Interface"]["MacAddress"].as_str().unwrap_or_default().to_owned();
        let sandbox = format!("/run/netns/c-{name}");
        self.host.sh(&format!("ip netns add c-{name}; ip -n c-{name} link set lo up"))?;
        let joined =
            self.done("Join", &merge(&ids, &json!({ "SandboxKey": sandbox, "Options": {} })))?;
        let source = joined["InterfaceName"]["SrcName"].as_str().unwrap_or_default();
        self.host.sh(&format!(
            "ip link set {source} netns c-{name}
             ip -n c-{name} link set {source} name eth0 address {mac}
             ip -n c-{name} addr add {address} dev eth0
             ip -n c-{name} link set eth0 up"
        ))?;
        for route in joined["StaticRoutes"].as_array().into_iter().flatten() {
            let (destination, via) = (
                route["Destination"].as_str().unwrap_or_default(),
                route["NextHop"].as_str().unwrap_or_default(),
            );
            self.host.sh(&format!("ip -n c-{name} route add {destination} via {via}"))?;
        }
        let address = address.split('/').next().unwrap_or_default().to_owned();
        Ok(Pretended {
            host: self.host,
            name: name.to_owned(),
            network: network.to_owned(),
            endpoint,
            address,
        })
    }
}

impl Pretended<'_> {
    /// Runs a command in its namespace; its output.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn sh(&self, command: &str) -> Result<String> {
        self.host.sh(&format!("ip netns exec c-{} {command}", self.name))
    }

    pub fn reaches(&self, address: &str) -> bool {
        self.sh(&format!("ping -c1 -W2 {address}")).is_ok()
    }

    /// Leave, what dockerd does then, DeleteEndpoint.
    ///
    /// # Errors
    ///
    /// The driver's `Err`, or what `ip` says.
    pub fn stop(self) -> Result<()> {
        let driver = Dockerless { host: self.host };
        let ids = json!({ "NetworkID": self.network, "EndpointID": self.endpoint });
        driver.done("Leave", &ids)?;
        self.host.sh(&format!("ip netns del c-{}", self.name))?;
        driver.done("DeleteEndpoint", &ids).map(drop)
    }
}

fn merge(one: &Value, other: &Value) -> Value {
    let mut both = one.clone();
    if let (Some(both), Some(other)) = (both.as_object_mut(), other.as_object()) {
        both.extend(other.clone());
    }
    both
}

fn exchange(socket: &PathBuf, method: &str, body: &str) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "POST /NetworkDriver.{method} HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(body)?)
}
