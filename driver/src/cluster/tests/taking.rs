//! A listing without most hosts from an etcd that is read and takes no changes, or hardly any.

use wgnet_proto::record::AliveRecord;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Whoever lives and has not put its record back within it is gone.
const MINUTE: Duration = Duration::from_secs(60);

/// Until the first try, and between two.
const TRY_WITHIN: Duration = Duration::from_secs(10);

/// The task looks every few seconds.
const A_LITTLE: Duration = Duration::from_secs(5);

impl Rig {
    /// The others live, and etcd lists them no more.
    async fn with_others_lost(live: bool) -> Self {
        let mut rig = Self::start().await;
        let cluster = rig.founded(None).await.cluster;
        if live {
            for number in 0..rig.others.len() {
                let alive = Record::Alive(AliveRecord { boot: "boot".to_owned() });
                let path = Path::Alive(rig.others[number].id());
                rig.write(number, cluster, (path, alive)).await;
            }
            rig.until("their lives", |rig| {
                Box::pin(async { rig.view.borrow().alive.len() == 1 + rig.others.len() })
            })
            .await;
        }
        rig.line.cut();
        for other in &rig.others {
            rig.delete(&Path::Host(other.id())).await;
        }
        rig.store.compact();
        rig
    }

    /// The listing comes.
    async fn until_held(&self) {
        self.line.mend();
        self.until("a listing that is held", |rig| {
            Box::pin(async { rig.has("mass-delete-held") && rig.has_hosts(3) })
        })
        .await;
    }

    fn has_hosts(&self, count: usize) -> bool {
        self.view.borrow().hosts.len() == count
    }

    fn endpoints(&self) -> usize {
        let view = self.view.borrow();
        view.networks.get(&network()).map_or(0, |network| network.endpoints.len())
    }

    async fn until_gone(&self) {
        let limit = MINUTE + TRY_WITHIN + A_LITTLE;
        self.within(limit, "their end", |rig| Box::pin(async { rig.has_hosts(1) })).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_who_lives_is_cut_off_because_etcd_takes_changes_for_seconds_only() {
    let mut rig = Rig::with_others_lost(true).await;
    let cluster = rig.founded(None).await.cluster;
    rig.store.fill();
    rig.until_held().await;
    let mut claim = 0;
    for _ in 0..60 {
        sleep(MINUTE - 2 * SECOND).await;
        rig.store.make_room();
        for _ in 0..4 {
            claim += 1;
            rig.write(0, cluster, rig.endpoint(0, claim)).await;
            sleep(SECOND / 2).await;
        }
        rig.store.fill();
        assert!(rig.has_hosts(3), "after {claim} changes");
    }
    rig.store.make_room();
    sleep(MINUTE - A_LITTLE).await;
    assert!(rig.has_hosts(3), "they have a minute");
    rig.until_gone().await;
    assert!(!rig.has("mass-delete-held"));
}

#[tokio::test(start_paused = true)]
async fn nobody_who_lives_is_cut_off_because_every_other_try_works() {
    let rig = Rig::with_others_lost(true).await;
    rig.until_held().await;
    for _ in 0..60 {
        sleep(TRY_WITHIN).await;
        rig.store.fill();
        sleep(TRY_WITHIN).await;
        rig.store.make_room();
        assert!(rig.has_hosts(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_minute_in_which_etcd_was_away_for_a_moment_begins_anew() {
    let rig = Rig::with_others_lost(true).await;
    rig.until_held().await;
    let is_connected = |rig: &Rig| rig.status.borrow().store.connected;
    for _ in 0..5 {
        sleep(MINUTE - 2 * A_LITTLE).await;
        rig.line.cut();
        rig.until("its loss", move |rig| Box::pin(async move { !is_connected(rig) })).await;
        rig.line.mend();
        rig.until("its return", move |rig| Box::pin(async move { is_connected(rig) })).await;
        assert!(rig.has_hosts(3));
    }
    rig.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_lives_and_puts_nothing_back_is_gone_after_a_minute_in_which_etcd_takes_changes() {
    let rig = Rig::with_others_lost(true).await;
    rig.until_held().await;
    sleep(MINUTE - A_LITTLE).await;
    assert!(rig.has_hosts(3));
    rig.until_gone().await;
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_never_takes_changes_lets_nobody_go() {
    let rig = Rig::with_others_lost(true).await;
    rig.mute.begin();
    rig.until_held().await;
    sleep(60 * MINUTE).await;
    assert!(rig.has_hosts(3) && rig.has("mass-delete-held"));
}

#[tokio::test(start_paused = true)]
async fn changes_of_others_that_are_seen_count_without_a_try() {
    let mut rig = Rig::with_others_lost(true).await;
    let cluster = rig.founded(None).await.cluster;
    rig.until_held().await;
    let (granted, held) = (rig.store.granted(), Instant::now());
    let mut claim = 0;
    while rig.has_hosts(3) {
        assert!(held.elapsed() < MINUTE + A_LITTLE);
        claim += 1;
        rig.write(0, cluster, rig.endpoint(0, claim)).await;
        sleep(2 * SECOND).await;
    }
    assert!(held.elapsed() >= MINUTE);
    assert!(rig.store.granted() <= granted + 1, "at most one before a change was seen");
}

#[tokio::test(start_paused = true)]
async fn it_is_tried_only_while_a_listing_is_held_and_until_its_time_is_over() {
    let rig = Rig::start().await;
    let own = rig.store.granted();
    sleep(60 * MINUTE).await;
    assert_eq!(rig.store.granted(), own);

    let rig = Rig::with_others_lost(false).await;
    let (own, leases) = (rig.store.granted(), rig.store.leases());
    rig.until_held().await;
    sleep(SECOND).await;
    for _ in 0..60 {
        assert_eq!(rig.store.leases(), leases, "a try leaves nothing");
        sleep(TRY_WITHIN).await;
    }
    assert!(rig.has_hosts(3), "those who do not live are left to people");
    let tried = rig.store.granted() - own;
    assert!((5..=8).contains(&tried), "{tried} times");
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_not_answered_keeps_no_host_from_following_the_others() {
    let mut rig = Rig::with_others_lost(true).await;
    let cluster = rig.founded(None).await.cluster;
    let addresses: Vec<IpAddr> = (100..160).map(|last| [10, 50, 0, last].into()).collect();
    for address in &addresses {
        let (_, record) = rig.endpoint(0, 1);
        let Record::Endpoint(record) = record else { panic!("{record:?}") };
        let record = EndpointRecord { addresses: vec![*address], ..record };
        let path = Path::Endpoint(network(), *address);
        rig.write(0, cluster, (path, Record::Endpoint(record))).await;
    }
    rig.until_held().await;
    rig.until("them", |rig| Box::pin(async { rig.endpoints() == 60 })).await;
    rig.mute.begin();
    // What is deleted says nothing of whether anything is taken, so it is tried all the time.
    for (number, address) in addresses.into_iter().enumerate() {
        rig.delete(&Path::Endpoint(network(), address)).await;
        rig.within(SECOND, "a change", move |rig| {
            Box::pin(async move { rig.endpoints() == 59 - number })
        })
        .await;
        sleep(SECOND).await;
    }
}
