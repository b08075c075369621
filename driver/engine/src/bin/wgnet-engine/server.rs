//! Answers the engine protocol: one task per connection, one request at a time on each.

use std::io;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};
use wgnet_engine::wire::proto::{
    self, Code, Request, Response, request::Call, response::Result as Reply,
};
use wgnet_engine::wire::{self, Malformed, PROTOCOL};
use wgnet_engine::{DeviceId, NewDevice};

use crate::devices::Devices;
use crate::listen::Listening;
use crate::place::Taken;

/// The digest of the executable that runs, even if its file was replaced since.
static BINARY_DIGEST: LazyLock<String> = LazyLock::new(|| {
    wgnet_engine::binary_digest("/proc/self/exe".as_ref()).unwrap_or_else(|error| {
        warn!(%error, "Cannot tell which executable this is");
        String::new()
    })
});

/// How often the socket is looked after.
const LOOK: Duration = Duration::from_secs(1);

/// Serves until dropped or until another engine does. A call whose driver has gone is still carried
/// out.
pub(crate) async fn serve(listening: &mut Listening, devices: &Devices) {
    let mut connections = JoinSet::new();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both arms are cancel-safe.
        let accepted = tokio::select! {
            accepted = listening.accept() => accepted,
            _ = look.tick() => {
                match listening.restore() {
                    Ok(false) => {}
                    Ok(true) => warn!("Put back the socket, which somebody deleted"),
                    Err(error) if error.is::<Taken>() => {
                        // Two engines with the same keys would take each other's traffic.
                        warn!("Ending, for {error:#}");
                        return;
                    }
                    Err(error) => warn!("Cannot put back the socket: {error:#}"),
                }
                while connections.try_join_next().is_some() {}
                continue;
            }
        };
        match accepted {
            Ok(stream) => {
                connections.spawn(converse(stream, devices.clone()));
            }
            Err(error) => {
                warn!(%error, "Cannot take a connection");
                // Out of descriptors, the next attempt fails at once.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, devices: Devices) {
    let result: io::Result<()> = async {
        while let Some(request) = wire::read_frame::<Request>(&mut stream).await? {
            let id = request.id;
            let result = Some(answer(request, &devices).await);
            wire::write_frame(&mut stream, &Response { id, result }).await?;
        }
        Ok(())
    }
    .await;
    if let Err(error) = result {
        debug!(%error, "Connection broke");
    }
}

async fn answer(request: Request, devices: &Devices) -> Reply {
    let Some(call) = request.call else {
        return unsupported("this call".to_owned());
    };
    carry_out(call, devices)
        .await
        .unwrap_or_else(|malformed| failure(Code::BadRequest, malformed.to_string()))
}

async fn carry_out(call: Call, devices: &Devices) -> Result<Reply, Malformed> {
    Ok(match call {
        Call::Hello(hello) if hello.protocol != PROTOCOL => {
            unsupported(format!("protocol {}", hello.protocol))
        }
        Call::Hello(call) => hello(call.want_digest).await,
        Call::CreateDevice(call) => {
            let new = NewDevice::try_from(call)?;
            match devices.create(new).await {
                Ok(made) => Reply::DeviceCreated(proto::DeviceCreated { made }),
                Err(error) => failure(error.code(), chain(&error)),
            }
        }
        Call::DeleteDevice(call) => match devices.delete(&wire::device_id(call.device)?).await {
            Ok(existed) => Reply::DeviceDeleted(proto::DeviceDeleted { existed }),
            Err(error) => failure(error.code(), chain(&error)),
        },
        Call::ListDevices(_) => Reply::DeviceList(proto::DeviceList {
            devices: devices.list().await.iter().map(Into::into).collect(),
        }),
        Call::GetDevice(call) => {
            let id = wire::device_id(call.device)?;
            match devices.state(&id).await {
                Some(state) => Reply::Device(state.into()),
                None => not_found(&id),
            }
        }
        Call::Configure(call) => {
            let id = wire::device_id(call.device)?;
            let operations = call.operations.into_iter().map(TryInto::try_into).collect();
            match devices.configure(&id, operations).await {
                None => not_found(&id),
                Some(Ok(failures)) => Reply::Configured(proto::Configured {
                    failures: failures.into_iter().map(Into::into).collect(),
                }),
                Some(Err(error)) => failure(error.code(), chain(&error)),
            }
        }
    })
}

async fn hello(want_digest: bool) -> Reply {
    let binary_digest = match want_digest {
        true => tokio::task::spawn_blocking(|| BINARY_DIGEST.clone()).await,
        false => Ok(String::new()),
    };
    Reply::Hello(proto::HelloReply {
        protocol: PROTOCOL,
        build: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        binary_digest: binary_digest.unwrap_or_default(),
    })
}

fn unsupported(what: String) -> Reply {
    let text = format!(
        "wgnet-engine {} does not know {what}; restart it with the driver's version",
        env!("CARGO_PKG_VERSION")
    );
    failure(Code::Unsupported, text)
}

fn not_found(id: &DeviceId) -> Reply {
    failure(Code::NotFound, format!("there is no device {id}"))
}

fn failure(code: Code, text: String) -> Reply {
    Reply::Failure(proto::Failure { code: code.into(), text })
}

/// An error with its causes, in one sentence.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
