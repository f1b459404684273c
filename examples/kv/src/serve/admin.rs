//! Commands about the server and its connections, which stand between visits; and who may say what.

use std::fmt::Write;
use std::time::Duration;

use super::Server;
use super::connection::Connection;
use crate::command;
use crate::reply::Out;
use crate::request::{Words, integer};
use crate::session::{Session, timed_out};

/// What a server says it is, for clients that ask.
const VERSION: &str = "7.0.0";

/// Whether a request is answered here, not in a visit.
pub(super) fn is_ahead(connection: &Connection, request: &Words) -> bool {
    request[0].is_empty()
        || connection.is_stranger
        || (connection.subscriptions() > 0 && !connection.out.is_resp3)
        || connection.session.is_for_server(request)
}

impl Server<'_> {
    /// Answers the requests at the front that are the server's. Whether there were any.
    pub(super) fn serve_ahead(&mut self, id: u64) -> spacejmp::Result<bool> {
        let mut any = false;
        while let Some(connection) = self.connections.get_mut(&id)
            && connection.can_go_on()
            && let Some(request) = connection.pending.front()
            && is_ahead(connection, request)
            && let Some(request) = connection.pending.pop_front()
        {
            any = true;
            self.commands += 1;
            let mut out = std::mem::take(&mut connection.out);
            let later = self.answer(id, &request, &mut out)?;
            if let Some(connection) = self.connections.get_mut(&id) {
                // What was published to itself comes after the reply.
                out.bytes.append(&mut connection.out.bytes);
                connection.out = out;
                if let Some(later) = later {
                    self.subscribe(id, later, &request[1..]);
                }
            }
        }
        Ok(any)
    }

    /// Answers a request, or names the command about channels that it is.
    fn answer(
        &mut self,
        id: u64,
        request: &Words,
        out: &mut Out,
    ) -> spacejmp::Result<Option<&'static str>> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(None) };
        if request[0].is_empty() && request.len() == 2 {
            let message = String::from_utf8_lossy(&request[1]).into_owned();
            out.error(&format!("ERR Protocol error: {message}"));
            connection.is_closing = true;
            return Ok(None);
        }
        let known = command::find(&request[0]);
        let name = known.map_or("", |command| command.name);
        if connection.is_stranger && !matches!(name, "AUTH" | "HELLO" | "QUIT" | "RESET") {
            out.error("NOAUTH Authentication required.");
            return Ok(None);
        }
        let Some(command) = connection.session.check(request, out) else { return Ok(None) };
        if connection.subscriptions() > 0 && !out.is_resp3 {
            match name {
                "SUBSCRIBE" | "PSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" | "QUIT" => {}
                "PING" => {
                    out.array(2);
                    out.bulk(b"pong");
                    out.bulk(request.get(1).map_or(&[], |word| &word[..]));
                    return Ok(None);
                }
                "RESET" => {}
                _ => {
                    let name = command.name.to_ascii_lowercase();
                    out.error(&format!("ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"));
                    return Ok(None);
                }
            }
        }
        match command.name {
            "SUBSCRIBE" | "PSUBSCRIBE" | "UNSUBSCRIBE" | "PUNSUBSCRIBE" => {
                return Ok(Some(command.name));
            }
            "PUBLISH" => {
                let sent = self.publish(&request[1], &request[2]);
                out.count(sent);
            }
            "PUBSUB" => self.pubsub(request, out),
            "QUIT" => {
                out.ok();
                connection.is_closing = true;
            }
            "RESET" => {
                connection.session = Session::default();
                connection.channels.clear();
                connection.patterns.clear();
                connection.is_stranger = self.settings.password.is_some();
                out.is_resp3 = false;
                out.simple("RESET");
            }
            "AUTH" => self.auth(id, &request[1..], out),
            "HELLO" => self.hello(id, &request[1..], out),
            "CLIENT" => self.client(id, request, out),
            "CONFIG" => self.config(request, out),
            "INFO" => self.info(request, out)?,
            "SAVE" | "BGSAVE" => match self.store.save() {
                Ok(_) if command.name == "SAVE" => out.ok(),
                Ok(_) => out.simple("Background saving started"),
                Err(error) => out.error(&format!("ERR {error}")),
            },
            "DEBUG" => match (&request[1].to_ascii_uppercase()[..], request.get(2)) {
                (b"SLEEP", Some(seconds)) => {
                    let seconds = crate::number::float(seconds).unwrap_or(0.0).clamp(0.0, 3600.0);
                    std::thread::sleep(Duration::from_secs_f64(seconds));
                    out.ok();
                }
                _ => out.error("ERR only DEBUG SLEEP is served"),
            },
            name => out.error(&format!("ERR {name} is not served here")),
        }
        Ok(None)
    }

    /// Whether a password is the server's, in a time that does not depend on where it differs.
    fn knows(&self, password: &[u8]) -> bool {
        let held = self.settings.password.as_deref().unwrap_or_default().as_bytes();
        let differences =
            held.iter().zip(password).fold(0, |all, (one, other)| all | (one ^ other));
        held.len() == password.len() && differences == 0
    }

    fn auth(&mut self, id: u64, words: &[Vec<u8>], out: &mut Out) {
        let (user, password) = match words {
            [password] if self.settings.password.is_some() => (&b"default"[..], password),
            [_] => {
                out.error("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?");
                return;
            }
            [user, password] => (&user[..], password),
            _ => {
                out.error(crate::command::SYNTAX);
                return;
            }
        };
        // Without a password of its own the default user takes any.
        if user == b"default" && (self.settings.password.is_none() || self.knows(password)) {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.is_stranger = false;
            }
            out.ok();
        } else {
            out.error("WRONGPASS invalid username-password pair or user is disabled.");
        }
    }

    fn hello(&mut self, id: u64, words: &[Vec<u8>], out: &mut Out) {
        let mut version = None;
        let mut rest = words;
        if let [number, others @ ..] = words {
            let number = integer(number);
            if number.is_none() {
                out.error("ERR Protocol version is not an integer or out of range");
                return;
            }
            if !matches!(number, Some(2 | 3)) {
                out.error("NOPROTO unsupported protocol version");
                return;
            }
            (version, rest) = (number, others);
        }
        while let [option, others @ ..] = rest {
            rest = match (&option.to_ascii_uppercase()[..], others) {
                (b"AUTH", [user, password, others @ ..]) => {
                    let mut said = Out::default();
                    self.auth(id, &[user.clone(), password.clone()], &mut said);
                    if said.bytes.first() == Some(&b'-') {
                        out.bytes.append(&mut said.bytes);
                        return;
                    }
                    others
                }
                (b"SETNAME", [name, others @ ..]) => {
                    if let Some(connection) = self.connections.get_mut(&id) {
                        connection.name = name.clone();
                    }
                    others
                }
                _ => {
                    let option = String::from_utf8_lossy(option);
                    out.error(&format!("ERR Syntax error in HELLO option '{option}'"));
                    return;
                }
            };
        }
        if self.connections.get(&id).is_some_and(|connection| connection.is_stranger) {
            out.error("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time");
            return;
        }
        out.is_resp3 = version.map_or(out.is_resp3, |version| version == 3);
        out.map(7);
        for (name, value) in [("server", "redis"), ("version", VERSION)] {
            out.bulk(name.as_bytes());
            out.bulk(value.as_bytes());
        }
        out.bulk(b"proto");
        out.int(if out.is_resp3 { 3 } else { 2 });
        out.bulk(b"id");
        out.int(id as i64);
        for (name, value) in [("mode", "standalone"), ("role", "master")] {
            out.bulk(name.as_bytes());
            out.bulk(value.as_bytes());
        }
        out.bulk(b"modules");
        out.array(0);
    }

    /// `CLIENT UNBLOCK`: somebody who waits goes on, as if its time were over or with an error.
    fn unblock(&mut self, which: &[u8], how: Option<&Vec<u8>>, out: &mut Out) {
        let is_error = match how.map(|how| how.to_ascii_uppercase()).as_deref() {
            None | Some(b"TIMEOUT") => false,
            Some(b"ERROR") => true,
            _ => {
                out.error("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR");
                return;
            }
        };
        let Some(which) = integer(which) else {
            out.error(crate::command::NO_INTEGER);
            return;
        };
        let connection = u64::try_from(which).ok().and_then(|id| self.connections.get_mut(&id));
        let waiting = connection.and_then(|one| one.blocked.take().map(|_| one));
        out.count(usize::from(waiting.is_some()));
        match waiting {
            Some(one) if is_error => {
                one.out.error("UNBLOCKED client unblocked via CLIENT UNBLOCK");
            }
            Some(one) => timed_out(&mut one.out),
            None => {}
        }
    }

    fn client(&mut self, id: u64, request: &[Vec<u8>], out: &mut Out) {
        let line = |one: &Connection| {
            format!(
                "id={} name={} db={} sub={} psub={}\n",
                one.id,
                one.name.escape_ascii(),
                one.session.db,
                one.channels.len(),
                one.patterns.len()
            )
        };
        match (&request[1].to_ascii_uppercase()[..], &request[2..]) {
            (b"ID", []) => out.int(id as i64),
            (b"GETNAME", []) => {
                let name = self
                    .connections
                    .get(&id)
                    .map(|one| &one.name[..])
                    .filter(|name| !name.is_empty());
                out.bulk_or_null(name);
            }
            (b"SETNAME", [name]) => {
                if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
                    out.error(
                        "ERR Client names cannot contain spaces, newlines or special characters.",
                    );
                    return;
                }
                if let Some(one) = self.connections.get_mut(&id) {
                    one.name = name.clone();
                }
                out.ok();
            }
            (b"UNBLOCK", [which, how @ ..]) if how.len() <= 1 => {
                self.unblock(which, how.first(), out)
            }
            (b"LIST", []) => {
                out.bulk(self.connections.values().map(line).collect::<String>().as_bytes())
            }
            (b"INFO", []) => {
                out.bulk(self.connections.get(&id).map(line).unwrap_or_default().as_bytes())
            }
            _ => out.error("ERR unknown subcommand or wrong number of arguments for 'client'"),
        }
    }

    fn info(&self, request: &[Vec<u8>], out: &mut Out) -> spacejmp::Result<()> {
        let wanted = |section: &str| {
            request.len() == 1
                || request[1..].iter().any(|word| {
                    let word = word.to_ascii_lowercase();
                    word == section.as_bytes()
                        || matches!(&word[..], b"all" | b"everything" | b"default")
                })
        };
        let mut text = String::new();
        // Writing to a string does not fail.
        if wanted("server") {
            let _ = write!(
                text,
                "# Server\r\nredis_version:{VERSION}\r\nredis_mode:standalone\r\nprocess_id:{}\r\nuptime_in_seconds:{}\r\n\r\n",
                std::process::id(),
                self.began.elapsed().as_secs()
            );
        }
        if wanted("clients") {
            let blocked = self.connections.values().filter(|one| one.blocked.is_some()).count();
            let _ = write!(
                text,
                "# Clients\r\nconnected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:{blocked}\r\n\r\n",
                self.connections.len(),
                self.settings.max_clients
            );
        }
        if wanted("stats") {
            let _ = write!(
                text,
                "# Stats\r\ntotal_connections_received:{}\r\ntotal_commands_processed:{}\r\n\r\n",
                self.accepted, self.commands
            );
        }
        if wanted("replication") {
            text += "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n\r\n";
        }
        if wanted("keyspace") {
            text += "# Keyspace\r\n";
            for (db, (keys, expiring)) in self.store.keyspace()?.into_iter().enumerate() {
                if keys > 0 {
                    let _ = write!(text, "db{db}:keys={keys},expires={expiring},avg_ttl=0\r\n");
                }
            }
        }
        out.bulk(text.as_bytes());
        Ok(())
    }
}
