//! The record of the cluster while its secret is replaced.

use std::io::Write as _;

use wgnet_proto::record::AliveRecord;

use super::*;

fn two_epochs() -> ClusterSecrets {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let [old, new] = ["BwcH", "CAgI"].map(|part| part.repeat(10) + &part[..3] + "=");
    write!(file, "wgnet-cluster-secret v1\nepoch 1 {old}\nepoch 2 {new}\n").unwrap();
    ClusterSecrets::load(file.path()).unwrap()
}

async fn opens(rig: &Rig, secrets: &ClusterSecrets) -> bool {
    let listing = rig.store.list(CLUSTER).await.unwrap();
    let mut judge = Judge::new(secrets.clone(), None, HostId([0; 16]));
    for entry in listing.entries {
        judge.put(&entry.key, &entry.value, entry.mod_revision);
    }
    judge.cluster().is_some()
}

#[tokio::test(start_paused = true)]
async fn the_cluster_is_sealed_anew_once_every_living_host_uses_the_new_secret() {
    let both = two_epochs();
    let [old, new] =
        [both.epochs().min(), both.epochs().max()].map(|epoch| both.only(epoch.unwrap()).unwrap());
    let mut rig = Rig::with(both.clone()).await;
    let record = rig.founded(None).await;
    let (cluster, incarnation) = (record.cluster, record.incarnation);

    // As it was before: sealed with the old one, by a host that lives and has no other yet.
    rig.secrets = old.clone();
    let other = rig.others[0].id();
    rig.write(0, cluster, rig.host(0, incarnation)).await;
    let alive = Record::Alive(AliveRecord { boot: "boot".to_owned() });
    rig.write(0, cluster, (Path::Alive(other), alive)).await;
    rig.until("a host that lives", |rig| {
        Box::pin(async { rig.view.borrow().alive.contains(&rig.others[0].id()) })
    })
    .await;
    rig.write(0, cluster, (Path::Cluster, Record::Cluster(record))).await;
    sleep(SOON).await;
    assert!(opens(&rig, &old).await, "who has only the old secret has to be able to read it");

    rig.secrets = both;
    rig.write(0, cluster, rig.host(0, incarnation)).await;
    let begun = Instant::now();
    while !opens(&rig, &new).await {
        assert!(begun.elapsed() < SOON, "the cluster was not sealed with the new secret");
        sleep(Duration::from_millis(5)).await;
    }
}
