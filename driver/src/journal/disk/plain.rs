//! The networks of plain engines once more, in a file beside the journal: what a damaged journal and
//! a boot together would take. Docker tells of such a network only once; a swarm tells again.
//!
//! The file follows the journal and is never ahead of it: it is written when an update is on the disk
//! and before anybody is told so. Where it cannot be written it stays if it only lacks something, for
//! a network that is lost is lost for good. What has been removed since, or has other keys, must not
//! come back: then the file goes. An end between the two is made good by the next start. A file that
//! cannot be read is set aside for people to look at.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use wgnet_core::NetworkDefinition;
use wgnet_proto::{Generation, HostId};

use super::super::{aside, private};
use super::*;

const NAME: &str = "networks.json";
const SCHEMA: u32 = 1;
/// A network takes a kilobyte, and there are no more networks than ports.
const LARGEST: u64 = 64 << 20;

/// Where the checksum ends, which is of all that follows. Nothing before it is ever longer.
const CHECKED: usize = r#"{"schema":1,"sha256":""#.len() + 64;

type Networks = BTreeMap<DockerNetworkId, Arc<LocalNetwork>>;

pub(super) struct Plain {
    path: PathBuf,
    host: HostId,
    /// What the file holds; `None` where that is not known.
    on_disk: Option<Networks>,
    /// Said once; what the file holds may not outlive a power cut, whatever it is.
    has_failed: bool,
}

/// The file, its fields in this order.
#[derive(Serialize, Deserialize)]
struct Stored {
    schema: u32,
    sha256: String,
    host: HostId,
    networks: Vec<Row>,
}

/// What does not depend on the rest being whole.
#[derive(Deserialize)]
struct Head {
    schema: u32,
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct Row {
    definition: NetworkDefinition,
    slots: Vec<SlotRow>,
}

#[derive(Serialize, Deserialize)]
struct SlotRow {
    generation: Generation,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<u64>,
    #[serde(serialize_with = "expose", deserialize_with = "take")]
    private_key: PrivateKey,
}

impl Plain {
    /// Reads the file of this host; what cannot be relied on is said and ignored.
    pub(super) fn read(dir: &Path, host: HostId) -> Self {
        let path = dir.join(NAME);
        let on_disk = match read(&path) {
            Ok(None) => Some(Networks::new()),
            Ok(Some((of, networks))) if of == host => Some(networks),
            Ok(Some((of, _))) => ignored(&path, &format!("it belongs to another host, {of}")),
            Err(why) => ignored(&path, &why),
        };
        Self { path, host, on_disk, has_failed: false }
    }

    /// Puts in what the state lacks, as a boot leaves it; how many networks that are.
    pub(super) fn restore(&self, state: &mut State) -> usize {
        let mut restored = 0;
        for (id, network) in self.on_disk.iter().flatten() {
            if state.networks.contains_key(id) {
                continue;
            }
            let key = &network.definition.key;
            let namesake = state.by_key(key).cloned();
            if namesake.as_ref().is_some_and(|namesake| !namesake.endpoints.is_empty()) {
                continue;
            }
            // The network that this one has replaced in an update which the journal lost.
            if let Some(namesake) = namesake {
                state.networks.remove(&namesake.definition.docker_id);
                state.lingers_until.remove(&namesake.definition.docker_id);
            }
            // None of the endpoints that were published is left.
            state.raise_floor(key, self.host, state.reserved_seq);
            state.networks.insert(id.clone(), Arc::clone(network));
            restored += 1;
        }
        restored
    }

    /// Brings the file in step. A failure is none of the journal's, and the next call tries again.
    pub(super) fn follow(&mut self, state: &State) {
        let wanted = of(state);
        let is_held = |on_disk| holds(on_disk, &wanted, true);
        if !self.has_failed && self.on_disk.as_ref().is_some_and(is_held) {
            return;
        }
        match self.write(&wanted) {
            Ok(()) => {
                if std::mem::take(&mut self.has_failed) {
                    info!(file = %self.path.display(), "The networks of this plain engine are written down again");
                }
                self.on_disk = Some(wanted);
            }
            Err(error) => self.failed(&wanted, &error),
        }
    }

    fn write(&self, wanted: &Networks) -> Result<(), JournalError> {
        if wanted.is_empty() {
            return private::remove(&self.path)
                .map_err(|error| JournalError::file("remove", &self.path, error));
        }
        private::put(&self.path, &render(self.host, wanted)).map_err(|error| {
            JournalError::file("write the networks of this plain engine to", &self.path, error)
        })
    }

    fn failed(&mut self, wanted: &Networks, error: &JournalError) {
        let is_first = !std::mem::replace(&mut self.has_failed, true);
        if is_first {
            warn!("{}", error.sentence());
        }
        // It may have its new content all the same.
        self.on_disk = match read(&self.path) {
            Ok(None) => Some(Networks::new()),
            Ok(Some((of, networks))) if of == self.host => Some(networks),
            Ok(Some(_)) | Err(_) => None,
        };
        if self.on_disk.as_ref().is_some_and(|on_disk| holds(wanted, on_disk, false)) {
            return;
        }
        let file = self.path.display();
        match private::remove(&self.path) {
            Ok(()) => {
                warn!(%file, "Removed the file, which has networks that are gone; it is written again when it can be");
                self.on_disk = Some(Networks::new());
            }
            Err(error) => {
                if is_first || self.on_disk.take().is_some() {
                    error!(%file, %error, "Cannot remove the file, which has networks that are gone; remove it");
                }
            }
        }
    }
}

/// Says why a file is ignored, and sets it aside; what is there then.
fn ignored(path: &Path, why: &str) -> Option<Networks> {
    let aside = aside::set_aside(path);
    let now = match &aside {
        Ok(aside) => format!("; it is {} now", aside.display()),
        Err(error) => format!("; {}", error.sentence()),
    };
    warn!(
        "The networks of a plain engine in {} are ignored: {why}{now}; what the journal does not know of them is to be removed with docker network rm and created again",
        path.display()
    );
    aside.ok().map(|_| Networks::new())
}

fn of(state: &State) -> Networks {
    let networks = state.networks.iter();
    let plain = networks.filter(|(id, network)| !id.is_swarm() && !network.lingering);
    plain.map(|(id, network)| (id.clone(), Arc::clone(network))).collect()
}

/// Whether these networks have all of those as they are, and no others if `only`.
fn holds(these: &Networks, those: &Networks, only: bool) -> bool {
    let same = |a: &Arc<LocalNetwork>, b: &Arc<LocalNetwork>| {
        Arc::ptr_eq(a, b) || (a.definition == b.definition && a.slots == b.slots)
    };
    (!only || these.len() == those.len())
        && those.iter().all(|(id, that)| these.get(id).is_some_and(|this| same(this, that)))
}

/// `None` if there is no file. What is wrong is told without a word of what it holds.
fn read(path: &Path) -> Result<Option<(HostId, Networks)>, String> {
    let said = |error: io::Error| error.to_string();
    let found = match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(said)?,
    };
    if !found.is_file() || found.len() > LARGEST {
        return Err("it is no file of wgnet-driver's".to_owned());
    }
    let room = usize::try_from(found.len()).unwrap_or(0) + 1;
    let mut content = Zeroizing::new(Vec::with_capacity(room));
    let file = File::open(path).map_err(said)?;
    file.take(LARGEST).read_to_end(&mut content).map_err(said)?;
    parse(&content).map(Some)
}

fn parse(content: &[u8]) -> Result<(HostId, Networks), String> {
    let damaged = || "it is damaged".to_owned();
    let head: Head = serde_json::from_slice(content).map_err(|_| damaged())?;
    if head.schema > SCHEMA {
        return Err(format!("it was written by a newer wgnet-driver (schema {})", head.schema));
    }
    if head.schema != SCHEMA || content.get(CHECKED..).map(checksum) != Some(head.sha256) {
        return Err(damaged());
    }
    let stored: Stored = serde_json::from_slice(content).map_err(|_| damaged())?;
    let networks = stored.networks.into_iter().map(Row::into_network);
    let plain = networks.filter(|network| !network.definition.docker_id.is_swarm());
    let networks = plain.map(|network| (network.definition.docker_id.clone(), Arc::new(network)));
    Ok((stored.host, networks.collect()))
}

fn render(host: HostId, networks: &Networks) -> Zeroizing<Vec<u8>> {
    let stored = Stored {
        schema: SCHEMA,
        sha256: "0".repeat(64),
        host,
        networks: networks.values().map(|network| Row::of(network)).collect(),
    };
    let put = |to: &mut dyn Write| {
        serde_json::to_writer(to, &stored).expect("it has text keys, and memory takes everything");
    };
    let mut length = Length(0);
    put(&mut length);
    // What a buffer leaves behind when it grows is not wiped.
    let mut content = Zeroizing::new(Vec::with_capacity(length.0));
    put(&mut *content);
    let sum = checksum(&content[CHECKED..]);
    content[CHECKED - 64..CHECKED].copy_from_slice(sum.as_bytes());
    content
}

fn checksum(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

impl Row {
    fn of(network: &LocalNetwork) -> Self {
        let slots = network.slots.iter().cloned();
        let slots = slots.map(|LocalSlot { generation, private_key, made, port }| SlotRow {
            generation,
            port,
            made,
            private_key,
        });
        Self { definition: network.definition.clone(), slots: slots.collect() }
    }

    fn into_network(self) -> LocalNetwork {
        let slots = self.slots.into_iter();
        let slots = slots.map(|SlotRow { generation, port, made, private_key }| LocalSlot {
            generation,
            private_key,
            made,
            port,
        });
        LocalNetwork {
            definition: self.definition,
            slots: slots.collect(),
            endpoints: BTreeMap::new(),
            lingering: false,
        }
    }
}

fn expose<S: Serializer>(key: &PrivateKey, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&private::hex(key.expose()))
}

fn take<'de, D: Deserializer<'de>>(from: D) -> Result<PrivateKey, D::Error> {
    // Borrowed: a copy would not be wiped.
    let key = private::from_hex(<&str>::deserialize(from)?);
    key.map(|key| PrivateKey::from_bytes(*key)).ok_or_else(|| D::Error::custom("no key"))
}

/// How much is written.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
