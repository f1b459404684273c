//! Several threads that work on what one produces, with the results in order.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

/// `work` on each item, by as many threads as are said, which take turns in producing the items; the caller
/// takes the results. With one thread, all is the caller's.
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
    let (results, ordered) = sync_channel::<Receiver<R>>(2 * threads.get());
    let (source, work) = (Arc::new(Mutex::new((items, results))), Arc::new(work));
    for _ in 0..threads.get() {
        let (source, work) = (Arc::clone(&source), Arc::clone(&work));
        thread::spawn(move || {
            loop {
                let (item, result) = {
                    let mut source = source.lock().expect("no thread panics with the lock");
                    let (items, results) = &mut *source;
                    let Some(item) = items.next() else { break };
                    let (send, receive) = sync_channel(1);
                    if results.send(receive).is_err() {
                        break;
                    }
                    (item, send)
                };
                // Nobody waits for it if the caller has given up.
                let _ = result.send(work(item));
            }
        });
    }
    // A worker that panicked has sent nothing.
    Box::new(ordered.into_iter().map(|result| result.recv().expect("a thread has panicked")))
}
