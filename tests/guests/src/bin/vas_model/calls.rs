//! Makes the call of one line and returns its result as text.

use std::io::{Read, Write};
use std::time::Duration;

use abi::Errno;
use guests::place::{Place, enter, enter_by_hypercall, enter_within, recover, set_root, try_enter};
use guests::store::{all_segments, all_vases, segments_of, text};
use guests::touch::Seen;
use spacejmp::sys::{self, Right, SegId, SegParams, SegRoot, SegStat, VasHandle, VasId, VasStat};

/// The words of a line.
struct Words<'a>(std::str::SplitAsciiWhitespace<'a>);

impl<'a> Words<'a> {
    fn text(&mut self) -> &'a str {
        self.0.next().expect("another word")
    }

    fn number(&mut self) -> u64 {
        let text = self.text();
        text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
    }

    fn vid(&mut self) -> VasId {
        VasId::new(self.number()).expect("a vid")
    }

    fn sid(&mut self) -> SegId {
        SegId::new(self.number()).expect("a sid")
    }

    fn vh(&mut self) -> VasHandle {
        VasHandle::from_raw(self.number())
    }

    fn right(&mut self) -> Right {
        Right::from_raw(self.number()).expect("a right")
    }
}

type Told = Result<String, Errno>;

/// Makes the call of a line.
pub(crate) fn make(line: &str) -> String {
    let mut words = Words(line.split_ascii_whitespace());
    let call = words.text();
    let result = match call.split_once('_') {
        Some(("vas", _)) => vas(call, &mut words),
        Some(("seg", _)) => segment(call, &mut words),
        _ => inside(call, &mut words),
    };
    match result {
        Ok(told) => format!("= {told}").trim_end().to_owned(),
        Err(error) => format!("! {error:?}"),
    }
}

fn vas(call: &str, words: &mut Words<'_>) -> Told {
    let done = |result: Result<(), Errno>| result.map(|()| String::new());
    let id = |vid: Result<VasId, Errno>| vid.map(|vid| vid.raw().to_string());
    match call {
        "vas_create" => id(sys::vas_create(words.text(), words.number() as u32)),
        "vas_find" => id(sys::vas_find(words.text())),
        "vas_clone" => id(sys::vas_clone(words.vid(), words.text(), 0)),
        "vas_attach" => sys::vas_attach(words.vid(), words.number()).map(|vh| vh.raw().to_string()),
        "vas_detach" => done(sys::vas_detach(words.vh())),
        "vas_delete" => done(sys::vas_delete(words.vid())),
        "vas_ctl" => done(sys::vas_ctl(words.number(), words.number(), words.number())),
        "vas_stat" => sys::vas_stat(words.vid()).map(|stat| vas_stat(&stat)),
        "vas_list" => all_vases().map(|all| joined(all.iter().map(vas_stat))),
        "vas_segments" => segments_of(words.vid())
            .map(|all| joined(all.iter().map(|one| format!("{}:{}", one.sid, one.right)))),
        _ => panic!("no call {call:?}"),
    }
}

fn segment(call: &str, words: &mut Words<'_>) -> Told {
    let done = |result: Result<(), Errno>| result.map(|()| String::new());
    let id = |sid: Result<SegId, Errno>| sid.map(|sid| sid.raw().to_string());
    match call {
        "seg_alloc" => {
            let name = words.text();
            let params = SegParams {
                base: words.number(),
                size_bytes: words.number(),
                reserve_bytes: words.number(),
                mode: words.number() as u32,
                lifetime: words.number() as u8,
                pages: words.number() as u8,
                lockable: words.number() as u8,
                reserved: 0,
                durability: 0,
                reserved_end: [0; 6],
            };
            id(sys::seg_alloc(name, &params))
        }
        "seg_find" => id(sys::seg_find(words.text())),
        "seg_clone" => id(sys::seg_clone(words.sid(), words.text())),
        "seg_attach" => done(sys::seg_attach(words.vid(), words.sid(), words.right())),
        "seg_attach_local" => done(sys::seg_attach_local(words.vh(), words.sid(), words.right())),
        "seg_detach" => done(sys::seg_detach(words.vid(), words.sid())),
        "seg_detach_local" => done(sys::seg_detach_local(words.vh(), words.sid())),
        "seg_ctl" => {
            let (sid, command) = (words.sid(), words.number());
            let argument = words.number();
            done(match command {
                sys::seg_command::RECOVER => recover(sid),
                command => sys::seg_ctl(sid, command, argument),
            })
        }
        "seg_delete" => done(sys::seg_delete(words.sid())),
        "seg_stat" => sys::seg_stat(words.sid()).map(|stat| seg_stat(&stat)),
        "seg_list" => all_segments().map(|all| joined(all.iter().map(seg_stat))),
        "seg_grow" => done(sys::seg_grow(words.sid(), words.number())),
        "seg_sync" => done(sys::seg_sync(words.sid())),
        "seg_root_get" => sys::seg_root_get(words.sid()).map(|root| {
            format!("{} {} {}", root.address, root.fingerprint[0], root.fingerprint[1])
        }),
        "seg_root_set" => {
            let sid = words.sid();
            let address = words.number();
            let root = SegRoot { address, fingerprint: [words.number(), words.number()] };
            done(set_root(sid, &root))
        }
        _ => panic!("no call {call:?}"),
    }
}

fn inside(call: &str, words: &mut Words<'_>) -> Told {
    let done = |result: Result<(), Errno>| result.map(|()| String::new());
    match call {
        "switch" => done(enter(words.vh())),
        "hyper" => done(enter_by_hypercall(words.vh())),
        "try" => done(try_enter(words.vh())),
        "within" => {
            let vh = words.vh();
            done(enter_within(vh, Duration::from_nanos(words.number())))
        }
        "current" => sys::vas_current().map(|vh| vh.raw().to_string()),
        "read" => Ok(seen(Place::at(words.number()).look())),
        "write" => {
            let place = Place::at(words.number());
            Ok(seen(place.put(words.number())))
        }
        // As a program that handles no faults.
        "die" => {
            let place = Place::at(words.number());
            guests::touch::unprepare();
            Ok(place.read().to_string())
        }
        "out" => through_a_pipe(words.number()),
        "in" => {
            let address = words.number();
            from_a_pipe(address, words.number())
        }
        _ => panic!("no call {call:?}"),
    }
}

fn joined(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(" ")
}

fn seen(seen: Seen) -> String {
    match seen {
        Seen::Value(value) => value.to_string(),
        other => format!("{other:?}"),
    }
}

/// All its fields, joined by `,`.
fn vas_stat(stat: &VasStat) -> String {
    let VasStat { vid, mode, segments, attachers, tagged, access, name, .. } = stat;
    format!("{vid},{},{mode:o},{segments},{attachers},{tagged},{access}", text(name))
}

/// All its fields but the number of bytes stored, which is up to the host.
fn seg_stat(stat: &SegStat) -> String {
    let SegStat { sid, base, size_bytes, reserve_bytes, mode, lifetime, pages, .. } = stat;
    let SegStat { lockable, dirty, inconsistent, access, attachers, name, .. } = stat;
    let name = text(name);
    format!(
        "{sid},{name},{base},{size_bytes},{reserve_bytes},{mode:o},{lifetime},{pages},{lockable},\
         {dirty},{inconsistent},{access},{attachers}"
    )
}

fn last_error() -> Errno {
    Errno::from_raw(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// The word at `address` as the host kernel reads it for a system call.
fn through_a_pipe(address: u64) -> Told {
    use std::os::fd::AsRawFd;
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let from = std::ptr::with_exposed_provenance::<libc::c_void>(address as usize);
    // SAFETY: the call itself checks the address.
    if unsafe { libc::write(writer.as_raw_fd(), from, 8) } != 8 {
        return Err(last_error());
    }
    let mut word = [0; 8];
    reader.read_exact(&mut word).expect("what was written comes out");
    Ok(u64::from_le_bytes(word).to_string())
}

/// Lets the host kernel write the word at `address` for a system call.
fn from_a_pipe(address: u64, value: u64) -> Told {
    use std::os::fd::AsRawFd;
    // Checked to be a word that no Rust object has.
    let address = Place::at(address).address();
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    writer.write_all(&value.to_le_bytes()).expect("a pipe has room for a word");
    let to = std::ptr::with_exposed_provenance_mut::<libc::c_void>(address as usize);
    // SAFETY: the call itself checks the address; no Rust object lives in the VAS region.
    if unsafe { libc::read(reader.as_raw_fd(), to, 8) } != 8 {
        return Err(last_error());
    }
    Ok(String::new())
}
