//! Channels: messages to those connections that listen. They are of this server alone, and not stored.

use super::Server;
use crate::glob;
use crate::reply::Out;
use crate::session::Audience;

/// A message as a subscriber gets it.
fn message(out: &mut Out, pattern: Option<&[u8]>, channel: &[u8], content: &[u8]) {
    match pattern {
        None => {
            out.push(3);
            out.bulk(b"message");
        }
        Some(pattern) => {
            out.push(4);
            out.bulk(b"pmessage");
            out.bulk(pattern);
        }
    }
    out.bulk(channel);
    out.bulk(content);
}

impl Server<'_> {
    /// Who listens now.
    pub(super) fn audience(&self) -> Audience {
        let mut audience = Audience::default();
        for connection in self.connections.values() {
            for channel in &connection.channels {
                *audience.channels.entry(channel.clone()).or_default() += 1;
            }
            for pattern in &connection.patterns {
                *audience.patterns.entry(pattern.clone()).or_default() += 1;
            }
        }
        audience
    }

    /// Sends a message; how many have got it.
    pub(super) fn publish(&mut self, channel: &[u8], content: &[u8]) -> usize {
        let mut sent = 0;
        for connection in self.connections.values_mut() {
            if connection.channels.contains(channel) {
                message(&mut connection.out, None, channel, content);
                sent += 1;
            }
            for pattern in &connection.patterns {
                if glob::matches(pattern, channel) {
                    message(&mut connection.out, Some(pattern), channel, content);
                    sent += 1;
                }
            }
        }
        sent
    }

    /// `SUBSCRIBE` and its kin.
    pub(super) fn subscribe(&mut self, id: u64, name: &str, channels: &[Vec<u8>]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let kind = name.to_ascii_lowercase();
        let (starts, by_pattern) = (!name.contains("UN"), name.starts_with('P'));
        let all: Vec<Vec<u8>> = if channels.is_empty() {
            if by_pattern { &connection.patterns } else { &connection.channels }
                .iter()
                .cloned()
                .collect()
        } else {
            channels.to_vec()
        };
        let reply = |channel: Option<&[u8]>, count: usize, out: &mut Out| {
            out.push(3);
            out.bulk(kind.as_bytes());
            out.bulk_or_null(channel);
            out.count(count);
        };
        if all.is_empty() {
            let count = connection.subscriptions();
            reply(None, count, &mut connection.out);
        }
        for channel in all {
            let set = if by_pattern { &mut connection.patterns } else { &mut connection.channels };
            if starts {
                set.insert(channel.clone());
            } else {
                set.remove(&channel);
            }
            let count = connection.subscriptions();
            reply(Some(&channel), count, &mut connection.out);
        }
    }

    /// `PUBSUB`.
    pub(super) fn pubsub(&self, args: &[Vec<u8>], out: &mut Out) {
        let subscribers = |channel: &[u8]| {
            self.connections.values().filter(|one| one.channels.contains(channel)).count()
        };
        match (&args[1].to_ascii_uppercase()[..], &args[2..]) {
            (b"CHANNELS", pattern) if pattern.len() <= 1 => {
                let all = self.connections.values().flat_map(|one| &one.channels);
                let wanted = |channel: &&Vec<u8>| {
                    pattern.first().is_none_or(|pattern| glob::matches(pattern, channel))
                };
                let found: std::collections::BTreeSet<&Vec<u8>> = all.filter(wanted).collect();
                out.array(found.len());
                found.iter().for_each(|channel| out.bulk(channel));
            }
            (b"NUMSUB", channels) => {
                out.map(channels.len());
                for channel in channels {
                    out.bulk(channel);
                    out.count(subscribers(channel));
                }
            }
            (b"NUMPAT", []) => {
                let all = self.connections.values().flat_map(|one| &one.patterns);
                out.count(all.collect::<std::collections::BTreeSet<_>>().len());
            }
            _ => out.error("ERR unknown subcommand or wrong number of arguments for 'pubsub'"),
        }
    }
}
