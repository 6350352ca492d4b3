//! Requests that a client sends again: what was asked once is done once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::watch;

use super::failure::{Class, Failure};

/// The most that answers take which are kept for a second request, in bytes.
const MOST_BYTES: usize = 64 << 20;

/// The most answers that are kept.
const MOST_ANSWERS: usize = 1000;

/// The most requests that are remembered without their answers.
const MOST_FORGOTTEN: usize = 100_000;

/// An answer: its status, and its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reply {
    /// The status.
    pub(super) status: StatusCode,
    /// The text of the document.
    pub(super) body: Bytes,
}

impl Reply {
    /// Makes the answer of a failure.
    pub(super) fn of(failure: &Failure) -> Reply {
        let (status, document) = failure.answer();
        Reply { status, body: document.to_string().into() }
    }
}

/// The requests that were seen.
#[derive(Default)]
pub(super) struct Once {
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    slots: HashMap<String, Slot>,
    answered: VecDeque<(String, usize)>,
    forgotten: VecDeque<String>,
    bytes: usize,
}

enum Slot {
    /// It is there, or comes.
    Answer(watch::Receiver<Option<Reply>>),
    /// It was there.
    Forgotten,
}

impl Once {
    /// Does the work of a request, unless one with the same id was there: then its answer is given, as soon
    /// as it is there. The work goes on when its client leaves.
    pub(super) async fn answer(
        self: &Arc<Once>,
        id: Option<String>,
        work: impl Future<Output = Reply> + Send + 'static,
    ) -> Reply {
        let failed =
            || Reply::of(&Failure::raised(Class::Swerex, "the server failed over this request"));
        let Some(id) = id else {
            return tokio::spawn(work).await.unwrap_or_else(|_| failed());
        };
        let mut answer = match self.claim(&id) {
            Claim::New(tell, answer) => {
                let once = self.clone();
                tokio::spawn(async move {
                    let reply = work.await;
                    once.keep(id, reply.body.len());
                    let _ = tell.send(Some(reply));
                });
                answer
            }
            Claim::Seen(answer) => answer,
            Claim::Forgotten => {
                let message = "this request was answered before, and its answer is not kept";
                return Reply::of(&Failure::raised(Class::Swerex, message));
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(reply) => reply.clone().expect("it was waited for"),
            Err(_) => failed(),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, id: &str) -> Claim {
        let mut held = self.held();
        match held.slots.get(id) {
            Some(Slot::Answer(answer)) => Claim::Seen(answer.clone()),
            Some(Slot::Forgotten) => Claim::Forgotten,
            None => {
                let (tell, answer) = watch::channel(None);
                held.slots.insert(id.to_owned(), Slot::Answer(answer.clone()));
                Claim::New(tell, answer)
            }
        }
    }

    /// Keeps an answer of so many bytes, and forgets the oldest where that is too much.
    fn keep(&self, id: String, bytes: usize) {
        let mut held = self.held();
        held.answered.push_back((id, bytes));
        held.bytes += bytes;
        while held.answered.len() > 1
            && (held.bytes > MOST_BYTES || held.answered.len() > MOST_ANSWERS)
        {
            let Some((oldest, bytes)) = held.answered.pop_front() else { break };
            held.bytes -= bytes;
            held.slots.insert(oldest.clone(), Slot::Forgotten);
            held.forgotten.push_back(oldest);
            if held.forgotten.len() > MOST_FORGOTTEN
                && let Some(oldest) = held.forgotten.pop_front()
            {
                held.slots.remove(&oldest);
            }
        }
    }
}

enum Claim {
    New(watch::Sender<Option<Reply>>, watch::Receiver<Option<Reply>>),
    Seen(watch::Receiver<Option<Reply>>),
    Forgotten,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    async fn ask(once: &Arc<Once>, id: Option<&str>, count: &Arc<AtomicU32>, size: usize) -> Reply {
        let count = count.clone();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let number = count.fetch_add(1, Ordering::Relaxed);
            let body = (number.to_string() + &" ".repeat(size)).into();
            Reply { status: StatusCode::OK, body }
        };
        once.answer(id.map(str::to_owned), work).await
    }

    #[tokio::test]
    async fn a_request_with_the_same_id_is_done_once_also_while_it_is_being_done() {
        let (once, count) = (Arc::new(Once::default()), Arc::new(AtomicU32::new(1)));
        let (one, two) =
            tokio::join!(ask(&once, Some("a"), &count, 0), ask(&once, Some("a"), &count, 0),);
        assert_eq!((&one, &one.body[..]), (&two, &b"1"[..]));
        assert_eq!(ask(&once, Some("a"), &count, 0).await, one);
        assert_eq!(&ask(&once, Some("b"), &count, 0).await.body[..], b"2");
        for number in ["3", "4"] {
            assert_eq!(ask(&once, None, &count, 0).await.body, number, "without an id");
        }
    }

    #[tokio::test]
    async fn the_work_goes_on_when_the_client_leaves() {
        let (once, count) = (Arc::new(Once::default()), Arc::new(AtomicU32::new(1)));
        let left = tokio::time::timeout(Duration::from_millis(1), ask(&once, Some("a"), &count, 0));
        assert!(left.await.is_err());
        assert_eq!(&ask(&once, Some("a"), &count, 0).await.body[..], b"1");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_kept_is_an_error_and_not_done_again() {
        let (once, count) = (Arc::new(Once::default()), Arc::new(AtomicU32::new(1)));
        ask(&once, Some("old"), &count, MOST_BYTES).await;
        ask(&once, Some("new"), &count, MOST_BYTES).await;
        let again = ask(&once, Some("old"), &count, 0).await;
        assert_eq!(again.status, 511);
        assert_eq!(ask(&once, Some("new"), &count, 0).await.body.len(), MOST_BYTES + 1);
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }
}
