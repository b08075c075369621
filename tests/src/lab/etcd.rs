//! The lab's etcd: the machine's own program as one member or several, each in a namespace of its
//! own on the underlay.

mod member;
mod slow;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;

pub use self::{member::Member, slow::Slow};
use super::{
    command::{Output, Running, USUAL_DEADLINE, label, run, wait_for},
    error::{LabError, Result},
    host::Host,
    underlay::pin,
};

const START: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Etcd {
    pub(crate) members: Vec<Member>,
    pub(crate) dir: PathBuf,
}

impl Etcd {
    /// The first member's.
    pub fn url(&self) -> String {
        self.members[0].url()
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    /// Member 1 is the first.
    pub fn member(&self, number: usize) -> &Member {
        &self.members[number.checked_sub(1).expect("members are counted from 1")]
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Starts every member that does not run on what its directory holds, and waits as
    /// [`Etcd::until_it_answers`] does.
    pub fn start(&self) -> Result<Instant> {
        let cluster = self.cluster();
        self.members.iter().try_for_each(|member| member.spawn(&cluster))?;
        self.until_it_answers(START)
    }

    /// Waits for an answer. Returns when the last question was asked that got none: from then on others
    /// may have got one.
    pub fn until_it_answers(&self, within: Duration) -> Result<Instant> {
        let (mut unanswered, mut asked) = (Instant::now(), Instant::now());
        wait_for("an answer of etcd", within, || {
            (unanswered, asked) = (asked, Instant::now());
            self.etcdctl(&["--command-timeout=300ms", "get", "--limit=1", "x"])
                .map_err(|error| format!("{error}; log: {}", self.members[0].log_tail()))
        })?;
        Ok(unanswered)
    }

    pub fn stop(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::stop)
    }

    pub fn kill(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::kill)
    }

    /// Forgets everything: the next start is another history.
    pub fn wipe(&self) -> Result<()> {
        self.must_be_down("wiping its data")?;
        self.members
            .iter()
            .map(Member::data_dir)
            .filter(|data| data.exists())
            .try_for_each(|data| fs::remove_dir_all(&data).map_err(LabError::io("remove", &data)))
    }

    pub fn freeze(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::freeze)
    }

    pub fn thaw(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::thaw)
    }

    pub fn is_up(&self) -> bool {
        self.members.iter().any(Member::is_up)
    }

    /// Where the first member keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.members[0].data_dir()
    }

    /// The member that leads the others now.
    pub fn leader(&self) -> Result<&Member> {
        let answers = self.statuses()?;
        let leads = |answer: &&Value| {
            let status = &answer["Status"];
            !status["leader"].is_null() && status["leader"] == status["header"]["member_id"]
        };
        let leader = answers.iter().find(leads).and_then(|answer| answer["Endpoint"].as_str());
        self.members
            .iter()
            .find(|member| Some(member.url().as_str()) == leader)
            .ok_or_else(|| LabError::Machine("no member of etcd leads".into()))
    }

    pub fn revision(&self) -> Result<i64> {
        let answers = self.statuses()?;
        let revisions =
            answers.iter().filter_map(|answer| answer["Status"]["header"]["revision"].as_i64());
        revisions.max().ok_or_else(|| LabError::Machine("no member of etcd says a revision".into()))
    }

    fn statuses(&self) -> Result<Vec<Value>> {
        // It answers for those it reaches and fails for the others.
        let said = self.try_etcdctl(&["endpoint", "status", "-w", "json"])?;
        serde_json::from_str(&said.stdout).map_err(|_| LabError::Machine(said.to_string()))
    }

    /// A backup as administrators make it; for [`Etcd::restore`].
    pub fn snapshot(&self, name: &str) -> Result<PathBuf> {
        let file = self.dir.join(format!("{name}.backup"));
        let _ = fs::remove_file(&file);
        let running = self.members.iter().find(|member| member.is_up());
        let url = running.map_or_else(|| self.url(), Member::url);
        self.finish(self.client(&url, &["snapshot", "save", &file.to_string_lossy()]), "snapshot")?;
        Ok(file)
    }

    /// Puts a backup in place of all data; [`Etcd::start`] then begins with it.
    pub fn restore(&self, backup: &Path) -> Result<()> {
        self.wipe()?;
        let cluster = self.cluster();
        self.members.iter().try_for_each(|member| {
            let (data, peer) = (member.data_dir(), member.peer_url());
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup).args([
                format!("--name={}", member.name()),
                format!("--data-dir={}", data.display()),
                format!("--initial-cluster={cluster}"),
                format!("--initial-advertise-peer-urls={peer}"),
            ]);
            self.finish(command, "restore").map(drop)
        })
    }

    /// Sets the data aside under a name, as another cluster's, and takes up what is aside under another.
    pub fn exchange(&self, aside: &str, instead: &str) -> Result<()> {
        self.must_be_down("exchanging its data")?;
        self.members.iter().try_for_each(|member| {
            let place = |name: &str| member.dir.join(format!("data-{name}"));
            let mv = |from: PathBuf, to: PathBuf| {
                if !from.exists() {
                    return Ok(());
                }
                fs::rename(&from, &to).map_err(LabError::io("rename", &from))
            };
            mv(member.data_dir(), place(aside))?;
            mv(place(instead), member.data_dir())
        })
    }

    /// Forgets the history before the current revision.
    pub fn compact(&self) -> Result<()> {
        self.etcdctl(&["compact", "--physical", &self.revision()?.to_string()]).map(drop)
    }

    /// Keeps these hosts from etcd, and nothing else from them; ended by [`Etcd::admit`].
    pub fn refuse(&self, hosts: &[&Host]) -> Result<()> {
        self.members.iter().try_for_each(|it| hosts.iter().try_for_each(|host| it.refuse(host)))
    }

    pub fn admit(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::admit)
    }

    /// Keeps each answer to these hosts back for so long, on connections made from now on, until the
    /// returned values are dropped.
    pub fn slow(&self, hosts: &[&Host], delay: Duration) -> Result<Vec<Slow>> {
        self.members.iter().map(|member| Slow::start(member, hosts, delay)).collect()
    }

    /// Debian's client against this cluster; its trimmed output.
    pub fn etcdctl(&self, args: &[&str]) -> Result<String> {
        self.try_etcdctl(args)?.text()
    }

    pub fn try_etcdctl(&self, args: &[&str]) -> Result<Output> {
        let client = self.client(&self.urls().join(","), args);
        Running::start(client, label("etcdctl", args), None)?.finish(USUAL_DEADLINE)
    }

    fn client(&self, urls: &str, args: &[&str]) -> Command {
        let netns = format!("--net={}", pin(&self.members[0].station.netns).display());
        let mut command = Command::new("nsenter");
        command.args([&netns, "etcdctl", "--endpoints", urls]).args(args).env("ETCDCTL_API", "3");
        command
    }

    fn finish(&self, command: Command, what: &str) -> Result<String> {
        Running::start(command, format!("etcdctl {what}"), None)?.finish(USUAL_DEADLINE)?.text()
    }

    /// Writes any bytes, as a client that knows nothing of wgnet could.
    pub fn put(&self, key: &str, value: &[u8]) -> Result<()> {
        let file = self.dir.join("value");
        fs::write(&file, value).map_err(LabError::io("write", &file))?;
        let input = fs::File::open(&file).map_err(LabError::io("open", &file))?;
        let client = self.client(&self.urls().join(","), &["put", key]);
        Running::start(client, label("etcdctl", &["put", key]), Some(input))?
            .finish(USUAL_DEADLINE)?
            .text()
            .map(drop)
    }

    /// The bytes of a key; `None` if there is no such key.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let listed = self.etcdctl(&["get", key, "--print-value-only", "--hex"])?;
        let bytes = bytes_of(&listed);
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    /// Every key with its bytes, as they were at one moment.
    pub fn values(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        Ok(pairs(&self.etcdctl(&["get", "", "--prefix", "--hex"])?))
    }

    /// The paths of all keys, sorted.
    pub fn keys(&self) -> Result<Vec<String>> {
        let listed = self.etcdctl(&["get", "", "--prefix", "--keys-only"])?;
        Ok(listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// The same without what hosts say of their own state, each at a pace of its own. Paths alone: what
    /// they hold may be another host's, or of a backup.
    pub fn records(&self) -> Result<Vec<String>> {
        Ok(self.keys()?.into_iter().filter(|key| !key.contains("/status/")).collect())
    }

    /// Goes on by so many revisions.
    pub fn advance(&self, revisions: usize) -> Result<()> {
        let netns = format!("--net={}", pin(&self.members[0].station.netns).display());
        let script = "seq \"$1\" | xargs -P4 -I{} etcdctl --endpoints \"$2\" put /advance {}";
        let count = revisions.to_string();
        let args = ["env", "ETCDCTL_API=3", "sh", "-c", script, "sh", &count, &self.url()];
        run("nsenter", &[&[&*netns][..], &args].concat())?.text().map(drop)
    }

    /// Fills the quota until etcd raises its alarm and takes nothing more; the keys are `/fill/...`.
    pub fn fill(&self) -> Result<()> {
        let netns = format!("--net={}", pin(&self.members[0].station.netns).display());
        let script = "head -c 700000 /dev/zero | base64 -w0 > \"$1\"; i=0; \
                      while etcdctl --endpoints \"$2\" put /fill/$i < \"$1\" 2>&1; do \
                      i=$((i+1)); [ $i -lt 500 ] || exit 1; done";
        let file = self.dir.join("fill");
        let (file, url) = (file.to_string_lossy(), self.url());
        let said = run(
            "nsenter",
            &[&netns, "env", "ETCDCTL_API=3", "sh", "-c", script, "sh", &file, &url],
        )?;
        if said.stdout.contains("database space exceeded") {
            return Ok(());
        }
        Err(LabError::Machine(format!("etcd did not become full: {said}")))
    }

    /// What an administrator does about a full etcd: away with what fills it, compact, defragment, disarm.
    pub fn unfill(&self) -> Result<()> {
        self.etcdctl(&["del", "/fill/", "--prefix"])?;
        self.compact()?;
        self.etcdctl(&["defrag"])?;
        self.etcdctl(&["alarm", "disarm"]).map(drop)
    }

    fn cluster(&self) -> String {
        let members = self.members.iter().map(|it| format!("{}={}", it.name(), it.peer_url()));
        members.collect::<Vec<_>>().join(",")
    }

    fn must_be_down(&self, before: &str) -> Result<()> {
        if self.is_up() {
            return Err(LabError::Machine(format!("etcd runs: stop it before {before}")));
        }
        Ok(())
    }
}

/// What etcdctl writes as `\x2f\x77`.
fn bytes_of(hex: &str) -> Vec<u8> {
    let hex: String = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    (0..hex.len() / 2).filter_map(|n| byte(2 * n)).collect()
}

/// A line for each key, and one for its value.
fn pairs(listed: &str) -> BTreeMap<String, Vec<u8>> {
    let mut lines = listed.lines().map(bytes_of);
    let mut pairs = BTreeMap::new();
    while let Some(key) = lines.next() {
        let key = String::from_utf8_lossy(&key).into_owned();
        pairs.insert(key, lines.next().unwrap_or_default());
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcdctl_lists_is_read_whatever_its_bytes_are() {
        let listed = "\\x2f\\x61\n\\x78\\x0a\\x79\n\\x2f\\x62\n\n\\x2f\\x63";
        let value = |bytes: &[u8]| bytes.to_vec();
        let wanted = [("/a", value(b"x\ny")), ("/b", value(b"")), ("/c", value(b""))];
        let wanted = wanted.map(|(key, value)| (key.to_owned(), value));
        assert_eq!(pairs(listed), BTreeMap::from(wanted));
    }
}
