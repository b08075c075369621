//! A host whose secret is not the one that the others have.

use super::*;

impl Rig {
    fn has_wrong_secret(&self) -> bool {
        self.status.borrow().has_wrong_secret
    }

    /// The store as the others write it with this secret.
    async fn written_with(&mut self, secrets: &ClusterSecrets, cluster: &ClusterRecord) {
        self.line.cut();
        self.store.wipe();
        let ours = std::mem::replace(&mut self.secrets, secrets.clone());
        let id = cluster.cluster;
        self.write(0, id, (Path::Cluster, Record::Cluster(cluster.clone()))).await;
        for number in 0..self.others.len() {
            self.write(number, id, self.host(number, cluster.incarnation)).await;
            self.write(number, id, self.member(number)).await;
        }
        self.secrets = ours;
        self.line.mend();
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_with_another_secret_than_all_others_knows_it_and_when_it_is_over() {
    let mut rig = Rig::start().await;
    let (cluster, ours) = (rig.founded(None).await, rig.secrets.clone());
    rig.written_with(&ClusterSecrets::generate([8; 32]), &cluster).await;
    rig.until("the wrong secret", |rig| Box::pin(async { rig.has_wrong_secret() })).await;
    rig.until("each refusal", |rig| {
        Box::pin(async { rig.status.borrow().refusals.len() == 1 + 2 * rig.others.len() })
    })
    .await;
    assert!(rig.has_wrong_secret());
    rig.written_with(&ours, &cluster).await;
    rig.until("the right one", |rig| Box::pin(async { !rig.has_wrong_secret() })).await;
}

#[tokio::test(start_paused = true)]
async fn a_strangers_record_in_the_place_of_the_clusters_makes_no_secret_wrong() {
    let mut rig = Rig::start().await;
    let (cluster, ours) = (rig.founded(None).await, rig.secrets.clone());
    rig.secrets = ClusterSecrets::generate([8; 32]);
    let mut told = rig.status.clone();
    rig.write(0, cluster.cluster, (Path::Cluster, Record::Cluster(cluster.clone()))).await;
    rig.secrets = ours;
    let named = told.wait_for(|status| {
        assert!(!status.has_wrong_secret);
        status.refusals.iter().any(|refusal| refusal.path == CLUSTER)
    });
    named.await.unwrap();
    sleep(SOON).await;
    assert!(!rig.has_wrong_secret());
}
