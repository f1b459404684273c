//! The address space of a store, and visits to it.

use std::time::{Duration, Instant};

use spacejmp::{Durability, Error, Space};

use crate::data::{Change, DATABASES, Kv, Root, View, now};
use crate::reply::Out;
use crate::request::Words;
use crate::session::{Ended, OOM, Place, Session, timed_out};
use crate::shown::Reply;

/// How many keys that are over one visit removes besides what it is for.
const PURGED: usize = 100;

/// A key-value store in an address space, or an old version of one.
#[derive(Debug)]
pub struct Store {
    pub(crate) space: Space<Kv<'static>>,
    pub(crate) is_old: bool,
}

/// A command of a session, and the replies so far.
pub(crate) struct Job<'a> {
    pub(crate) session: &'a mut Session,
    pub(crate) requests: &'a [Words],
    pub(crate) out: &'a mut Out,
    /// How many of the requests have been carried out, and whether the next one waits, and how long.
    pub(crate) done: usize,
    pub(crate) waits: Option<u64>,
    /// How many bytes its replies may have.
    pub(crate) room: usize,
}

/// Why a visit has undone what it did.
enum Undone {
    /// A request needs more room than there is: the job and its request.
    Full(usize, usize),
    Space(Error),
}

/// Why a visit of [`Client::call_each`] has.
enum Refused {
    Said(Reply),
    Space(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Space(error)
    }
}

impl From<Error> for Undone {
    fn from(error: Error) -> Undone {
        Undone::Space(error)
    }
}

impl Store {
    /// The store of a name, which is made if there is none: with this durability, and room for so many bytes at most.
    ///
    /// # Errors
    /// Those of [`Space::open`] and of making one.
    pub fn open_or_create(
        name: &str,
        durability: Durability,
        most: Option<u64>,
    ) -> spacejmp::Result<Store> {
        let mut options = Space::<Kv<'_>>::options().durability(durability);
        if let Some(most) = most {
            options = options.reserve(most);
        }
        let space = options.open_or_create(name, |_| Ok(Root::new()))?;
        Ok(Store { space, is_old: false })
    }

    /// A store in the process's own memory, of so many bytes, that ends with it: for tests, which need no VM for it. A
    /// process has one store, whatever kind it is.
    ///
    /// # Errors
    /// Those of [`Space::in_memory`].
    pub fn in_memory(bytes: usize) -> spacejmp::Result<Store> {
        Ok(Store { space: Space::in_memory(bytes, |_| Ok(Root::new()))?, is_old: false })
    }

    /// An old version, `NAME@TAG` or `NAME@NUMBER`, or a store that is only read.
    ///
    /// # Errors
    /// Those of [`Space::open_read_only`].
    pub fn open_read_only(name: &str) -> spacejmp::Result<Store> {
        Ok(Store { space: Space::open_read_only(name)?, is_old: true })
    }

    /// Carries out requests, all in one visit: to read if none of them writes, otherwise as one
    /// change, which is stored when this returns. A request for which there is no room is answered with
    /// an error, and has changed nothing.
    ///
    /// # Errors
    /// The space cannot be entered, or the change not be stored; none of the requests has been carried out
    /// then, and the jobs are as they were.
    pub(crate) fn visit(&self, jobs: &mut [Job<'_>]) -> spacejmp::Result<()> {
        let is_old = self.is_old;
        let writes = !self.is_old
            && jobs
                .iter()
                .any(|job| job.requests.iter().any(|request| job.session.writes(request)));
        if !writes {
            return self.space.read(|v| {
                let mut place = Place::Read(v.root(), v);
                // Nothing is needed to read.
                let _ = run_all(jobs, &mut place, is_old, &[]);
            });
        }
        let before: Vec<(Session, usize)> =
            jobs.iter().map(|job| (job.session.clone(), job.out.bytes.len())).collect();
        let is_resp3: Vec<bool> = jobs.iter().map(|job| job.out.is_resp3).collect();
        let undo = |jobs: &mut [Job<'_>]| {
            for ((job, (session, len)), is_resp3) in jobs.iter_mut().zip(&before).zip(&is_resp3) {
                *job.session = session.clone();
                job.out.bytes.truncate(*len);
                job.out.is_resp3 = *is_resp3;
                (job.done, job.waits) = (0, None);
            }
        };
        let mut full = Vec::new();
        loop {
            let done = self.space.write(|v| {
                let (root, at) = v.root_mut();
                let time = now();
                if root.next_expiry(at).is_some_and(|next| next <= time) {
                    Change { root, at, now: time, db: 0, is_retry: false }.purge(PURGED);
                }
                let mut place = Place::Write(root, at);
                run_all(jobs, &mut place, is_old, &full)
                    .map_err(|(job, request)| Undone::Full(job, request))
            });
            match done {
                Ok(()) => return Ok(()),
                Err(Undone::Full(job, request)) => {
                    undo(jobs);
                    full.push((job, request));
                }
                Err(Undone::Space(error)) => {
                    undo(jobs);
                    return Err(error);
                }
            }
        }
    }

    /// Removes keys whose time is over, up to some thousand. Whether there may be more.
    pub(crate) fn purge(&self) -> spacejmp::Result<bool> {
        const MOST: usize = 2000;
        if self.is_old
            || !self.space.read(|v| v.root().next_expiry(v).is_some_and(|next| next <= now()))?
        {
            return Ok(false);
        }
        self.space.write(|v| {
            let (root, at) = v.root_mut();
            Ok::<_, Error>(
                Change { root, at, now: now(), db: 0, is_retry: false }.purge(MOST) == MOST,
            )
        })
    }

    /// Makes durable what was committed, and keeps it as a version, whose name it returns.
    pub(crate) fn save(&self) -> spacejmp::Result<String> {
        let seconds = now() / 1000;
        self.space.write(|v| {
            v.root_mut().0.saved = seconds;
            Ok::<_, Error>(())
        })?;
        self.space.sync()?;
        // Two in a second are two versions.
        let mut tag = format!("save-{seconds}");
        for number in 2.. {
            match self.space.tag(&tag) {
                Err(Error::Call { errno, .. })
                    if errno.to_string().starts_with("EEXIST") && number < 100 =>
                {
                    tag = format!("save-{seconds}-{number}");
                }
                other => return other.map(|()| tag),
            }
        }
        Ok(tag)
    }

    /// Makes durable what was committed.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn sync(&self) -> spacejmp::Result<()> {
        self.space.sync().map(|_| ())
    }

    /// How many keys each database has, and how many of them expire.
    pub(crate) fn keyspace(&self) -> spacejmp::Result<Vec<(usize, usize)>> {
        self.space.read(|v| {
            let now = now();
            let of = |db| View { root: v.root(), at: v, now, db };
            (0..DATABASES).map(|db| (of(db).len(), of(db).expiring())).collect()
        })
    }

    /// A client of its own.
    #[must_use]
    pub fn client(&self) -> Client<'_> {
        Client { store: self, session: Session::default() }
    }
}

/// Carries out what is left of the requests of jobs. Those in `full` are answered with an error.
///
/// # Errors
/// The job and request for which there was no room.
fn run_all(
    jobs: &mut [Job<'_>],
    place: &mut Place<'_, '_>,
    is_old: bool,
    full: &[(usize, usize)],
) -> Result<(), (usize, usize)> {
    for (number, job) in jobs.iter_mut().enumerate() {
        while let Some(request) = job.requests.get(job.done) {
            if job.out.bytes.len() > job.room {
                break;
            }
            if full.contains(&(number, job.done)) {
                job.session.forget();
                job.out.error(OOM);
            } else {
                match job.session.run(place, request, is_old, job.out) {
                    Ended::Replied => {}
                    Ended::Waits(limit) => {
                        job.waits = Some(limit);
                        break;
                    }
                    Ended::Full => return Err((number, job.done)),
                }
            }
            job.done += 1;
        }
    }
    Ok(())
}

/// A client that does the work itself.
#[derive(Debug)]
pub struct Client<'a> {
    store: &'a Store,
    session: Session,
}

impl Client<'_> {
    /// Carries out a command in a visit of its own: its name and its arguments. One that waits, as `BLPOP` does,
    /// waits for changes by whoever makes them.
    ///
    /// ```no_run
    /// use kv::{Store, shown::Reply};
    /// use spacejmp::Durability;
    ///
    /// let store = Store::open_or_create("kv", Durability::Each, None)?;
    /// let mut client = store.client();
    /// client.call(&[b"SET", b"greeting", b"hello"])?;
    /// assert_eq!(client.call(&[b"GET", b"greeting"])?, Reply::Bulk(b"hello".to_vec()));
    /// # Ok::<_, spacejmp::Error>(())
    /// ```
    ///
    /// # Errors
    /// The space cannot be entered, or the change not be stored. What is wrong with a command is a reply.
    pub fn call(&mut self, words: &[&[u8]]) -> spacejmp::Result<Reply> {
        let request: Words = words.iter().map(|word| word.to_vec()).collect();
        let mut out = Out { bytes: Vec::new(), is_resp3: true };
        let began = Instant::now();
        if request.is_empty() {
            out.error("ERR empty command");
        } else if let Some(command) = self.session.check(&request, &mut out) {
            if command.name == "SAVE" || command.name == "BGSAVE" {
                let tag = self.store.save()?;
                out.simple(&format!("OK, kept as {tag}"));
            } else {
                let done = self.carry_out(&request, began, &mut out);
                self.session.is_retry = false;
                done?;
            }
        }
        Ok(Reply::parse(&out.bytes).map_or(Reply::Null, |(reply, _)| reply))
    }

    /// Carries out commands in one visit, as a pipeline: others see all their changes or none, and they
    /// are stored when this returns. One that would wait finds nothing.
    ///
    /// # Errors
    /// As of [`Client::call`]; none of the commands has been carried out then.
    pub fn call_all(&mut self, mut requests: Vec<Words>) -> spacejmp::Result<Vec<Reply>> {
        // Nothing at all is no command, like a word that is none.
        requests
            .iter_mut()
            .filter(|words| words.is_empty())
            .for_each(|words| words.push(Vec::new()));
        let mut out = Out { bytes: Vec::new(), is_resp3: true };
        let mut left = &requests[..];
        while !left.is_empty() {
            let mut job = Job {
                session: &mut self.session,
                requests: left,
                out: &mut out,
                done: 0,
                waits: None,
                room: usize::MAX,
            };
            self.store.visit(std::slice::from_mut(&mut job))?;
            let (done, waits) = (job.done, job.waits.is_some());
            if waits {
                timed_out(&mut out);
            }
            left = &left[(done + usize::from(waits)).min(left.len())..];
        }
        let (mut replies, mut at) = (Vec::with_capacity(requests.len()), 0);
        while let Some((reply, len)) = Reply::parse(&out.bytes[at..]) {
            replies.push(reply);
            at += len;
        }
        Ok(replies)
    }

    /// Carries out commands in one visit, one after another as they are asked for: as many as one likes, because neither they
    /// nor their replies are kept. This is how a store is filled. The first reply that is an error is returned, and then
    /// no command has changed anything; a command that would wait finds nothing.
    ///
    /// ```no_run
    /// use kv::Store;
    /// use spacejmp::Durability;
    ///
    /// let store = Store::open_or_create("kv", Durability::Manual, None)?;
    /// let set = |n: u32| ["SET".into(), format!("key:{n}").into(), n.to_string().into()].to_vec();
    /// store.client().call_each((0..1_000_000).map(set))?.map_err(|reply| format!("{reply:?}"))?;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As of [`Client::call`]; none of the commands has been carried out then.
    pub fn call_each(
        &mut self,
        requests: impl IntoIterator<Item = Words>,
    ) -> spacejmp::Result<std::result::Result<(), Reply>> {
        let (is_old, before) = (self.store.is_old, self.session.clone());
        let done = self.store.space.write(|v| {
            let (root, at) = v.root_mut();
            let mut place = Place::Write(root, at);
            let mut out = Out { bytes: Vec::new(), is_resp3: true };
            for request in requests {
                out.bytes.clear();
                match request.is_empty() {
                    true => out.error("ERR empty command"),
                    false => match self.session.run(&mut place, &request, is_old, &mut out) {
                        Ended::Replied => {}
                        Ended::Waits(_) => continue,
                        Ended::Full => out.error(OOM),
                    },
                }
                if let Some((reply @ Reply::Error(_), _)) = Reply::parse(&out.bytes) {
                    return Err(Refused::Said(reply));
                }
            }
            Ok(())
        });
        match done {
            Ok(()) => Ok(Ok(())),
            Err(refused) => {
                self.session = before;
                match refused {
                    Refused::Said(reply) => Ok(Err(reply)),
                    Refused::Space(error) => Err(error),
                }
            }
        }
    }

    fn carry_out(
        &mut self,
        request: &Words,
        began: Instant,
        out: &mut Out,
    ) -> spacejmp::Result<()> {
        let may_wait = crate::command::blocking_limit(request).is_some();
        loop {
            // Before the attempt, so that no change in between is missed.
            let seen =
                if self.store.is_old || !may_wait { 0 } else { self.store.space.version()? };
            let requests = std::slice::from_ref(request);
            let mut job = Job {
                session: &mut self.session,
                requests,
                out: &mut *out,
                done: 0,
                waits: None,
                room: usize::MAX,
            };
            self.store.visit(std::slice::from_mut(&mut job))?;
            let Some(limit) = job.waits else { return Ok(()) };
            let limit = if limit == 0 { Duration::MAX } else { Duration::from_millis(limit) };
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                timed_out(out);
                return Ok(());
            }
            self.session.is_retry = true;
            self.store.space.wait_newer(seen, left.min(Duration::from_secs(3600)))?;
        }
    }
}

/// The names of the commands that are served.
#[must_use]
pub fn served() -> Vec<&'static str> {
    crate::command::TABLE.iter().map(|command| command.name).collect()
}
