//! Reads the last known records, for as long as it takes: without them a network that runs would look
//! as if it had no peers.

use std::time::Duration;

use tokio::time::sleep;
use wgnet_proto::status::Problem;

use crate::journal::{Journal, JournalError};
use crate::problems::Problems;

const UNREADABLE: &str = "journal-unreadable";

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Tries until they are read.
pub(super) async fn read(journal: &Journal, problems: &Problems) -> Vec<(String, Vec<u8>)> {
    let object = journal.path().display().to_string();
    let mut pause = FIRST_PAUSE;
    loop {
        match journal.records().await {
            Ok(records) => {
                problems.clear(UNREADABLE, &object);
                return records;
            }
            Err(error) => problems.set(unreadable(&object, &error)),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn unreadable(object: &str, error: &JournalError) -> Problem {
    let sentence = error.sentence();
    let (cause, next_step) = sentence.rsplit_once("; ").unwrap_or((&sentence, "check the disk"));
    Problem {
        code: UNREADABLE.to_owned(),
        object: object.to_owned(),
        cause: format!(
            "{cause}; what was known of other hosts cannot be read: running containers go on as they were, and no container can start on a wgnet network"
        ),
        next_step: format!("{next_step}; it is tried again by itself"),
    }
}
