use hyper::StatusCode;

use super::*;

#[tokio::test]
async fn turns_are_taken_in_order_of_arrival_and_objects_do_not_wait_for_each_other() {
    let turns = Turns::default();
    let first = turns.queue("a").await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let (turn, order) = (turns.queue("a"), Arc::clone(&order));
            tokio::spawn(async move {
                let _turn = turn.await;
                lock(&order).push(n);
            })
        })
        .collect();
    drop(turns.queue("b").await);
    assert!(lock(&order).is_empty());
    drop(first);
    for task in waiting {
        task.await.unwrap();
    }
    assert_eq!(*lock(&order), (0..20).collect::<Vec<_>>());
    assert!(lock(&turns.queues).is_empty(), "nothing is kept of what nobody waits for");
}

#[tokio::test]
async fn the_newest_answers_are_remembered_and_no_more() {
    let answers = Answers::default();
    let answer = |n: usize| Answer { status: StatusCode::OK, body: n.to_string().into() };
    for n in 0..REMEMBERED + 10 {
        let Known::New(answering) = answers.look_up(&n.to_string()) else { panic!("{n} is new") };
        answering.finish(answer(n));
    }
    assert_eq!(lock(&answers.inner).by_id.len(), REMEMBERED);
    assert!(matches!(answers.look_up("9"), Known::New(_)), "the oldest are forgotten");
    let Known::Repeated(newest) = answers.look_up("10") else { panic!("10 is known") };
    assert_eq!(*newest.borrow(), Some(answer(10)));
}

#[tokio::test]
async fn a_request_that_was_abandoned_may_come_again() {
    let answers = Answers::default();
    let Known::New(answering) = answers.look_up("a") else { panic!("a is new") };
    let Known::Repeated(mut waiting) = answers.look_up("a") else { panic!("a runs") };
    drop(answering);
    assert!(waiting.changed().await.is_err());
    assert!(matches!(answers.look_up("a"), Known::New(_)));
}
