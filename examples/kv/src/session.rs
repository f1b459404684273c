//! A session: what a client has chosen (database, transaction, watched keys), and how its commands are carried
//! out inside a visit.

use std::collections::BTreeMap;
use std::sync::Arc;

use spacejmp::{Mode, Read, Write};

use crate::command::{self, Args, Command, Run, TABLE, blocking_limit, blocks_for_one, find};
use crate::data::{Change, Fail, Kv, Root, View, now};
use crate::glob;
use crate::reply::Out;
use crate::request::{Words, integer};

/// What a client has chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Session {
    pub(crate) db: usize,
    /// The commands of a transaction that has begun.
    queue: Option<Vec<Words>>,
    /// One of them was refused.
    is_spoilt: bool,
    /// Database, key, and what `View::state` gave.
    watched: Vec<(usize, Vec<u8>, Option<u64>)>,
    /// The command has been tried, and waits.
    pub(crate) is_retry: bool,
    /// Who listens to which channels, for `PUBLISH` in a transaction: of a served client.
    pub(crate) audience: Option<Arc<Audience>>,
    /// What a transaction has published: channels and messages, to be sent when it is stored.
    pub(crate) published: Vec<(Vec<u8>, Vec<u8>)>,
}

/// How many listen to channels, and to patterns of their names.
#[derive(Debug, Default)]
pub(crate) struct Audience {
    pub(crate) channels: BTreeMap<Vec<u8>, usize>,
    pub(crate) patterns: BTreeMap<Vec<u8>, usize>,
}

impl Audience {
    /// How many get a message to a channel.
    fn count(&self, channel: &[u8]) -> usize {
        let patterns = self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        self.channels.get(channel).copied().unwrap_or(0)
            + patterns.map(|(_, count)| count).sum::<usize>()
    }
}

/// Where commands are carried out: in a visit to read or to write.
pub(crate) enum Place<'a, 'v> {
    Read(&'a Root<'v>, &'a spacejmp::At<Kv<'v>, Read>),
    Write(&'a mut Root<'v>, &'a spacejmp::At<Kv<'v>, Write>),
}

/// How a command has ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With a reply.
    Replied,
    /// It waits, at most so many milliseconds; 0 for ever. There is no reply yet.
    Waits(u64),
    /// There was no room: the visit must be undone.
    Full,
}

/// There is no room in the address space.
pub(crate) const OOM: &str = "OOM command not allowed when used memory > 'maxmemory'.";
const OLD: &str = "READONLY You can't write against an old version.";

impl Session {
    /// Whether a command needs a visit to write.
    pub(crate) fn writes(&self, args: Args<'_>) -> bool {
        find(&args[0]).is_some_and(|command| command.is_write() || command.name == "EXEC")
    }

    /// Whether a command stands between visits, and is the server's. In a transaction there are two of them;
    /// the others are refused.
    pub(crate) fn is_for_server(&self, args: Args<'_>) -> bool {
        find(&args[0]).is_some_and(|command| {
            let is_served = matches!(command.run, Run::Server);
            is_served && (self.queue.is_none() || matches!(command.name, "QUIT" | "RESET"))
        })
    }

    /// The command, if it can be carried out.
    pub(crate) fn check(&mut self, args: Args<'_>, out: &mut Out) -> Option<&'static Command> {
        let name = String::from_utf8_lossy(&args[0]);
        let problem = match find(&args[0]) {
            None => {
                let mut shown = String::new();
                for word in &args[1..] {
                    if shown.len() >= 128 {
                        break;
                    }
                    let room = 128 - shown.len();
                    let text = word.split(|&byte| byte == 0).next().unwrap_or_default();
                    let word = String::from_utf8_lossy(&text[..text.len().min(room)]).into_owned();
                    shown += &format!("'{word}' ");
                }
                let name: String = name.chars().take(128).collect();
                format!("ERR unknown command '{name}', with args beginning with: {shown}")
            }
            Some(command) if !command.takes(args.len()) => {
                let name = command.name.to_ascii_lowercase();
                format!("ERR wrong number of arguments for '{name}' command")
            }
            Some(command) => return Some(command),
        };
        out.error(&problem);
        self.is_spoilt |= self.queue.is_some();
        None
    }

    /// Carries out a command in a visit, to a version that cannot be changed if it `is_old`.
    pub(crate) fn run(
        &mut self,
        place: &mut Place<'_, '_>,
        args: Args<'_>,
        is_old: bool,
        out: &mut Out,
    ) -> Ended {
        let Some(command) = self.check(args, out) else { return Ended::Replied };
        if let Some(queue) = &mut self.queue {
            match command.name {
                "EXEC" => return self.exec(place, is_old, out),
                "DISCARD" | "MULTI" | "WATCH" => {}
                _ if matches!(command.run, Run::Server)
                    && !(command.name == "PUBLISH" && self.audience.is_some()) =>
                {
                    out.error("ERR Command not allowed inside a transaction");
                    self.is_spoilt = true;
                    return Ended::Replied;
                }
                _ => {
                    if let Some(problem) = refusal(command, is_old) {
                        out.error(problem);
                        self.is_spoilt = true;
                        return Ended::Replied;
                    }
                    queue.push(args.to_vec());
                    out.simple("QUEUED");
                    return Ended::Replied;
                }
            }
        }
        self.carry_out(command, place, args, is_old, out)
    }

    fn carry_out(
        &mut self,
        command: &Command,
        place: &mut Place<'_, '_>,
        args: Args<'_>,
        is_old: bool,
        out: &mut Out,
    ) -> Ended {
        if let Some(problem) = refusal(command, is_old) {
            out.error(problem);
            return Ended::Replied;
        }
        let (now, db, before) = (now(), self.db, out.bytes.len());
        let done = match (command.run, place) {
            (Run::Read(run, _), Place::Read(root, at)) => {
                run(View { root, at, now, db }, args, out)
            }
            (Run::Read(_, run), Place::Write(root, at)) => {
                run(View { root, at, now, db }, args, out)
            }
            (Run::Write(run), Place::Write(root, at)) => {
                let is_retry = self.is_retry;
                run(&mut Change { root, at, now, db, is_retry }, args, out)
            }
            (Run::Write(_), Place::Read(..)) => Err(Fail::Said(OLD.into())),
            (Run::Session, Place::Read(root, at)) => {
                self.of_session(command, View { root, at, now, db }, args, out)
            }
            (Run::Session, Place::Write(root, at)) => {
                self.of_session(command, View { root, at, now, db }, args, out)
            }
            (Run::Server, _) => {
                Err(Fail::Said(format!("ERR {} is served by `kv serve`", command.name).into()))
            }
        };
        match done {
            Ok(()) => Ended::Replied,
            Err(fail) => {
                // A reply that had begun is none.
                out.bytes.truncate(before);
                match fail {
                    Fail::Said(text) => {
                        out.error(&text);
                        Ended::Replied
                    }
                    Fail::Full => Ended::Full,
                    Fail::Wait => {
                        Ended::Waits(blocking_limit(args).and_then(Result::ok).unwrap_or(0))
                    }
                }
            }
        }
    }

    /// The commands of a transaction, one after another in this visit.
    fn exec(&mut self, place: &mut Place<'_, '_>, is_old: bool, out: &mut Out) -> Ended {
        let queue = self.queue.take().unwrap_or_default();
        let watched = std::mem::take(&mut self.watched);
        if std::mem::take(&mut self.is_spoilt) {
            out.error("EXECABORT Transaction discarded because of previous errors.");
            return Ended::Replied;
        }
        let now = now();
        let has_changed = watched.iter().any(|(db, key, state)| {
            let seen = match place {
                Place::Read(root, at) => View { root, at, now, db: *db }.state(key),
                Place::Write(root, at) => View { root, at, now, db: *db }.state(key),
            };
            seen != *state
        });
        if has_changed {
            out.null_array();
            return Ended::Replied;
        }
        out.array(queue.len());
        for args in &queue {
            let Some(command) = find(&args[0]) else { continue };
            if command.name == "PUBLISH"
                && let Some(audience) = &self.audience
            {
                out.count(audience.count(&args[1]));
                self.published.push((args[1].clone(), args[2].clone()));
                continue;
            }
            match self.carry_out(command, place, args, is_old, out) {
                Ended::Replied => {}
                Ended::Waits(_) if blocks_for_one(args) => out.null(),
                Ended::Waits(_) => out.null_array(),
                Ended::Full => return Ended::Full,
            }
        }
        Ended::Replied
    }

    fn of_session<M: Mode>(
        &mut self,
        command: &Command,
        v: View<'_, '_, M>,
        args: Args<'_>,
        out: &mut Out,
    ) -> Result<(), Fail> {
        match command.name {
            "MULTI" if self.queue.is_some() => {
                return Err("ERR MULTI calls can not be nested".into());
            }
            "MULTI" => {
                self.queue = Some(Vec::new());
                out.ok();
            }
            "EXEC" => return Err("ERR EXEC without MULTI".into()),
            "DISCARD" if self.queue.is_none() => return Err("ERR DISCARD without MULTI".into()),
            "DISCARD" => {
                self.forget();
                out.ok();
            }
            "WATCH" if self.queue.is_some() => {
                return Err("ERR WATCH inside MULTI is not allowed".into());
            }
            "WATCH" => {
                for key in &args[1..] {
                    if !self.watched.iter().any(|(db, held, _)| *db == v.db && held == key) {
                        self.watched.push((v.db, key.clone(), v.state(key)));
                    }
                }
                out.ok();
            }
            "UNWATCH" => {
                self.watched.clear();
                out.ok();
            }
            "PING" if args.len() > 2 => return Err(command::wrong_number("ping")),
            "PING" => match args.get(1) {
                Some(word) => out.bulk(word),
                None => out.simple("PONG"),
            },
            "ECHO" => out.bulk(&args[1]),
            "SELECT" => {
                let db = integer(&args[1]).ok_or(command::NO_INTEGER)?;
                let db = usize::try_from(db).ok().filter(|&db| db < crate::data::DATABASES);
                self.db = db.ok_or("ERR DB index is out of range")?;
                out.ok();
            }
            "TIME" => {
                let time = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                out.array(2);
                out.bulk(time.as_secs().to_string().as_bytes());
                out.bulk(time.subsec_micros().to_string().as_bytes());
            }
            "LASTSAVE" => out.int(v.root.saved as i64),
            "COMMAND" => commands(args, out)?,
            // A direct client has no connection to greet or to unlock.
            _ => return Err(format!("ERR {} is served by `kv serve`", command.name).into()),
        }
        Ok(())
    }

    /// Whether a transaction that it may end has something to publish.
    pub(crate) fn may_publish(&self, requests: &[Words]) -> bool {
        let is = |words: &Words| find(&words[0]).is_some_and(|command| command.name == "PUBLISH");
        self.queue.iter().flatten().chain(requests).any(is)
    }

    /// Ends a transaction, and watches nothing any more.
    pub(crate) fn forget(&mut self) {
        self.queue = None;
        self.is_spoilt = false;
        self.watched.clear();
    }
}

fn refusal(command: &Command, is_old: bool) -> Option<&'static str> {
    (is_old && command.is_write()).then_some(OLD)
}

/// The reply of a command whose time to wait is over.
pub(crate) fn timed_out(out: &mut Out) {
    out.null_array();
}

fn describe(command: &Command, out: &mut Out) {
    let (first, last, step) = command.keys;
    out.array(6);
    out.bulk(command.name.to_ascii_lowercase().as_bytes());
    out.int(command.arity.into());
    let flags: &[&str] = match command.run {
        Run::Read(..) => &["readonly"],
        Run::Write(_) if command.grows => &["write", "denyoom"],
        Run::Write(_) => &["write"],
        Run::Session | Run::Server => &["fast"],
    };
    out.set(flags.len());
    flags.iter().for_each(|flag| out.simple(flag));
    [first, last, step].into_iter().for_each(|place| out.int(place.into()));
}

fn commands(args: Args<'_>, out: &mut Out) -> Result<(), Fail> {
    let what = args.get(1).map(|word| word.to_ascii_uppercase());
    match (what.as_deref(), &args[args.len().min(2)..]) {
        (None, _) => {
            out.array(TABLE.len());
            TABLE.iter().for_each(|command| describe(command, out));
        }
        (Some(b"COUNT"), []) => out.count(TABLE.len()),
        (Some(b"LIST"), []) => {
            out.array(TABLE.len());
            TABLE.iter().for_each(|command| out.bulk(command.name.to_ascii_lowercase().as_bytes()));
        }
        (Some(b"INFO"), names) if !names.is_empty() => {
            out.array(names.len());
            for name in names {
                match find(name) {
                    Some(command) => describe(command, out),
                    None => out.null_array(),
                }
            }
        }
        // What interactive clients ask for at their start.
        (Some(b"DOCS"), _) => out.map(0),
        _ => return Err("ERR unknown subcommand or wrong number of arguments for 'command'".into()),
    }
    Ok(())
}
