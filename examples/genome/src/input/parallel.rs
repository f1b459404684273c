//! Several threads that work on what one produces, with the results in order.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// `work` on each item, by as many threads as are said beside the one that produces the items and the
/// caller's, which takes the results. With one thread, all is the caller's.
pub(super) fn map<T, R>(
    items: impl Iterator<Item = T> + Send + 'static,
    work: impl Fn(T) -> R + Send + Sync + 'static,
    threads: NonZero<usize>,
) -> Box<dyn Iterator<Item = R> + Send>
where
    T: Send + 'static,
    R: Send + 'static,
{
    if threads.get() == 1 {
        return Box::new(items.map(work));
    }
    // What is on the way is limited, for memory's sake.
    let waiting = 2 * threads.get();
    let (results, ordered) = sync_channel::<Receiver<R>>(waiting);
    let (jobs, queue) = sync_channel::<(T, SyncSender<R>)>(waiting);
    let (queue, work) = (Arc::new(Mutex::new(queue)), Arc::new(work));
    for _ in 0..threads.get() {
        let (queue, work) = (Arc::clone(&queue), Arc::clone(&work));
        thread::spawn(move || {
            loop {
                let job = queue.lock().expect("no thread panics with the lock").recv();
                let Ok((item, result)) = job else { break };
                // Nobody waits for it if the caller has given up.
                let _ = result.send(work(item));
            }
        });
    }
    thread::spawn(move || {
        for item in items {
            let (send, receive) = sync_channel(1);
            if results.send(receive).is_err() || jobs.send((item, send)).is_err() {
                break;
            }
        }
    });
    // A worker that panicked has sent nothing.
    Box::new(ordered.into_iter().map(|result| result.recv().expect("a thread has panicked")))
}
