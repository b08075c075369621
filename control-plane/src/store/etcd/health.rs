//! How each member of etcd does, asked one by one: for people, not for drivers.

use std::net::ToSocketAddrs as _;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client};
use tokio::time::{Instant, timeout};

use super::line::Fault;
use super::{EtcdOptions, line, tls_options};

/// For all questions to one member.
const PATIENCE: Duration = Duration::from_secs(5);

/// One endpoint and what was heard there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub endpoint: String,
    pub heard: Result<Health, Unheard>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub version: String,
    pub has_leader: bool,
    /// On disk.
    pub size: u64,
    /// `NOSPACE` or `CORRUPT`, of any member.
    pub alarms: Vec<String>,
    /// How long one question took.
    pub took: Duration,
}

/// Why a member was not heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unheard {
    /// Its name has no address.
    Name(String),
    /// It cannot be reached, or refuses.
    Silent(String),
}

/// Asks every member.
pub async fn members(options: &EtcdOptions) -> Vec<Member> {
    let asked = options.endpoints.iter().map(|endpoint| async move {
        let heard = match timeout(PATIENCE, ask(options, endpoint)).await {
            Ok(heard) => heard,
            Err(_) => Err(Unheard::Silent(format!("no answer within {} s", PATIENCE.as_secs()))),
        };
        Member { endpoint: endpoint.clone(), heard }
    });
    futures::future::join_all(asked).await
}

async fn ask(options: &EtcdOptions, endpoint: &str) -> Result<Health, Unheard> {
    resolve(endpoint).await?;
    let silent = |error: etcd_client::Error| {
        Unheard::Silent(match Fault::from(error) {
            Fault::Unsent(why) | Fault::Lost(why) => why,
            Fault::NoLeader => "it has no leader".to_owned(),
            Fault::Answered { message, .. } => message,
        })
    };
    let mut connect = line::connect_options().with_require_leader(false);
    if let Some(tls) = &options.tls {
        connect = connect.with_tls(tls_options(tls.clone()));
    }
    let mut client = Client::connect([endpoint], Some(connect)).await.map_err(silent)?;
    // The first question makes the connection.
    client.status().await.map_err(silent)?;
    let begun = Instant::now();
    let status = client.status().await.map_err(silent)?;
    let took = begun.elapsed();
    let mut alarms = status.errors().to_vec();
    if status.leader() != 0
        && let Ok(raised) = client.alarm(AlarmAction::Get, AlarmType::None, None).await
    {
        alarms = raised
            .alarms()
            .iter()
            .map(|alarm| match alarm.alarm() {
                AlarmType::Nospace => "NOSPACE".to_owned(),
                AlarmType::Corrupt => "CORRUPT".to_owned(),
                AlarmType::None => "unknown".to_owned(),
            })
            .collect();
    }
    alarms.sort();
    alarms.dedup();
    Ok(Health {
        version: status.version().to_owned(),
        has_leader: status.leader() != 0,
        size: u64::try_from(status.db_size()).unwrap_or(0),
        alarms,
        took,
    })
}

/// Tells a name without address from a host that does not answer.
async fn resolve(endpoint: &str) -> Result<(), Unheard> {
    let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest).to_owned();
    let named = if authority.rsplit(']').next().is_some_and(|port| port.contains(':')) {
        authority
    } else {
        format!("{authority}:2379")
    };
    let looked_up = tokio::task::spawn_blocking(move || named.to_socket_addrs().map(drop)).await;
    match looked_up {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Unheard::Name(error.to_string())),
        Err(error) => Err(Unheard::Name(error.to_string())),
    }
}
