//! A host to run a data plane on: threads of this process in a network and a mount namespace of
//! their own. Nothing of it can be seen from outside and nothing stays when it ends.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::{Builder, Handle};

pub(crate) struct Host {
    runtime: Handle,
    namespace: File,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn start(name: &str) -> Self {
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        let body = move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .expect("root may make namespaces");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            std::fs::create_dir_all("/run/netns").unwrap();
            mount(Some("wgnett"), "/run/netns", Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .unwrap();
            // Its threads are children of this one, and so in its namespaces.
            let runtime =
                Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let namespace = File::open("/proc/thread-self/ns/net").unwrap();
            ready.send((runtime.handle().clone(), namespace)).unwrap();
            let _ = stopped.recv();
            runtime.shutdown_timeout(std::time::Duration::from_secs(10));
        };
        let thread =
            std::thread::Builder::new().name(format!("wgnett-{name}")).spawn(body).unwrap();
        let (runtime, namespace) =
            started.recv().expect("the host's thread tells that it is ready");
        let host = Self { runtime, namespace, stop: Some(stop), thread: Some(thread) };
        host.sh("ip link set lo up");
        host
    }

    /// Where `ip` finds the host's namespace.
    pub(crate) fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd()))
    }

    /// Runs on the host and waits.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let task = self.runtime.spawn(work);
        match futures::executor::block_on(task) {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Whether a command succeeded, and what it said.
    pub(crate) fn try_sh(&self, command: &str) -> Output {
        let command = command.to_owned();
        self.run(async move { shell(&command) })
    }

    pub(crate) fn sh(&self, command: &str) -> String {
        checked(command, &self.try_sh(command))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs a command in the namespaces of the calling thread.
pub(crate) fn shell(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).output().unwrap()
}

pub(crate) fn sh(command: &str) -> String {
    checked(command, &shell(command))
}

fn checked(command: &str, output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
