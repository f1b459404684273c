//! Visits: what has arrived from all connections is carried out in few of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;
use super::connection::{Blocked, Connection, OUTPUT};
use crate::reply::Out;
use crate::request::Words;
use crate::session::{Audience, Session, timed_out};
use crate::store::Job;

/// What one connection has for a visit, apart from the connection while that lasts.
struct Batch {
    id: u64,
    session: Session,
    out: Out,
    requests: Vec<Words>,
    done: usize,
    waits: Option<u64>,
    /// How many bytes there may be in `out` before another request, those that were sent included.
    room: usize,
}

impl Batch {
    fn job(&mut self) -> Job<'_> {
        let Batch { session, out, requests, room, .. } = self;
        Job { session, requests, out, done: 0, waits: None, room: *room }
    }
}

const NOT_STORED: &str = "MISCONF Errors writing to the disk: the change is undone";

impl Server<'_> {
    /// Carries out what there is, for each connection up to the next command that stands between
    /// visits. Whether there may be more.
    pub(super) fn round(&mut self) -> spacejmp::Result<bool> {
        let ready = self.connections.values().filter(|one| one.can_go_on());
        let mut ids: Vec<(u64, u64)> = ready.map(|one| (one.arrived, one.id)).collect();
        ids.sort_unstable();
        let (mut readers, mut writers, mut is_busy) = (Vec::new(), Vec::new(), false);
        for (_, id) in ids {
            is_busy |= self.serve_ahead(id)?;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let Some(batch) = batch(connection) else { continue };
            is_busy = true;
            let writes = batch.requests.iter().any(|request| batch.session.writes(request));
            if writes { writers.push(batch) } else { readers.push(batch) }
        }
        self.tell_who_listens(readers.iter_mut().chain(&mut writers));
        self.visit(&mut readers)?;
        self.put_back(readers);
        self.visit(&mut writers)?;
        self.put_back(writers);
        let limits = self.settings.limits;
        self.connections.values_mut().for_each(|connection| connection.parse(limits));
        Ok(is_busy)
    }

    /// Nobody begins to listen to a channel, or ceases to, during a visit.
    fn tell_who_listens<'b>(&self, batches: impl Iterator<Item = &'b mut Batch>) {
        let mut known: Option<Arc<Audience>> = None;
        for Batch { session, requests, .. } in batches {
            if session.may_publish(requests) {
                let audience = known.get_or_insert_with(|| Arc::new(self.audience()));
                session.audience = Some(Arc::clone(audience));
            } else {
                session.audience.get_or_insert_default();
            }
        }
    }

    /// Carries out batches in one visit, or where that cannot be stored, one by one.
    fn visit(&self, batches: &mut [Batch]) -> spacejmp::Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        let mut jobs: Vec<Job<'_>> = batches.iter_mut().map(Batch::job).collect();
        let visited = self.store.visit(&mut jobs);
        let ended: Vec<(usize, Option<u64>)> =
            jobs.iter().map(|job| (job.done, job.waits)).collect();
        drop(jobs);
        match visited {
            Ok(()) => {
                for (batch, ended) in batches.iter_mut().zip(ended) {
                    (batch.done, batch.waits) = ended;
                }
                Ok(())
            }
            Err(error) if is_lasting(&error) => Err(error),
            Err(error) => self.one_by_one(batches, &error),
        }
    }

    /// What could not be stored together may be stored in part.
    fn one_by_one(&self, batches: &mut [Batch], error: &spacejmp::Error) -> spacejmp::Result<()> {
        eprintln!("kv: {error}");
        for batch in batches {
            let Batch { session, out, requests, done, waits, .. } = batch;
            for request in requests.iter() {
                let requests = std::slice::from_ref(request);
                let mut job =
                    Job { session, requests, out, done: 0, waits: None, room: usize::MAX };
                match self.store.visit(std::slice::from_mut(&mut job)) {
                    Ok(()) => *waits = job.waits,
                    Err(error) if is_lasting(&error) => return Err(error),
                    Err(_) => {
                        session.forget();
                        out.error(NOT_STORED);
                    }
                }
                if waits.is_some() {
                    break;
                }
                *done += 1;
            }
        }
        Ok(())
    }

    fn put_back(&mut self, batches: Vec<Batch>) {
        for Batch { id, session, out, requests, done, waits, .. } in batches {
            self.commands += done as u64;
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            (connection.session, connection.out) = (session, out);
            let published = std::mem::take(&mut connection.session.published);
            let mut rest = requests.into_iter().skip(done);
            if let Some(limit) = waits
                && let Some(request) = rest.next()
            {
                let since = Instant::now();
                let until =
                    (limit != 0).then(|| since.checked_add(Duration::from_millis(limit))).flatten();
                connection.blocked = Some(Blocked { request, since, until });
            }
            for request in rest.rev() {
                connection.pending.push_front(request);
            }
            for (channel, message) in published {
                self.publish(&channel, &message);
            }
        }
    }

    /// Tries again for those who wait, the longest first, if anything has changed; tells those whose time is over.
    pub(super) fn wake(&mut self) -> spacejmp::Result<()> {
        let mut waiting: Vec<(Instant, u64)> = Vec::new();
        for connection in self.connections.values() {
            waiting
                .extend(connection.blocked.as_ref().map(|blocked| (blocked.since, connection.id)));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        waiting.sort_unstable();
        let version = self.store.space.version()?;
        if version != self.tried {
            self.tried = version;
            let mut batches = Vec::new();
            for (_, id) in &waiting {
                let Some(connection) = self.connections.get_mut(id) else { continue };
                let Some(blocked) = &connection.blocked else { continue };
                let requests = vec![blocked.request.clone()];
                let mut batch = Batch::of(connection, requests);
                batch.session.is_retry = true;
                // Messages may have come to be sent meanwhile; it has its turn all the same.
                batch.room = usize::MAX;
                batches.push(batch);
            }
            self.visit(&mut batches)?;
            for batch in batches {
                let Some(connection) = self.connections.get_mut(&batch.id) else { continue };
                (connection.session, connection.out) = (batch.session, batch.out);
                connection.session.is_retry = false;
                if batch.waits.is_none() {
                    connection.blocked = None;
                    self.commands += 1;
                }
            }
        }
        let now = Instant::now();
        for (_, id) in waiting {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if let Some(blocked) = &connection.blocked
                && blocked.until.is_some_and(|until| until <= now)
            {
                timed_out(&mut connection.out);
                connection.blocked = None;
            }
        }
        Ok(())
    }
}

impl Batch {
    fn of(connection: &mut Connection, requests: Vec<Words>) -> Batch {
        let (session, out) =
            (std::mem::take(&mut connection.session), std::mem::take(&mut connection.out));
        let room = connection.sent + OUTPUT;
        Batch { id: connection.id, session, out, requests, done: 0, waits: None, room }
    }
}

/// The requests of a connection up to the next one that is the server's.
fn batch(connection: &mut Connection) -> Option<Batch> {
    if !connection.can_go_on() {
        return None;
    }
    let mut requests = Vec::new();
    while let Some(request) = connection.pending.pop_front() {
        if super::admin::is_ahead(connection, &request) {
            connection.pending.push_front(request);
            break;
        }
        requests.push(request);
    }
    (!requests.is_empty()).then(|| Batch::of(connection, requests))
}

/// Whether later attempts will fail, too: the server ends.
fn is_lasting(error: &spacejmp::Error) -> bool {
    !matches!(error, spacejmp::Error::NotCommitted { .. } | spacejmp::Error::Alloc(_))
}
