//! `/proc/sysvipc`: all objects of the run, as Linux lists them.

use std::fmt::Write;

use crate::process_tree::sysv::question;
use crate::process_tree::sysv::server::Client;

use super::words;

/// `SHM_STAT_ANY`, `SEM_STAT_ANY` and `MSG_STAT_ANY`: of any object, by its index.
const STAT_ANY: [i32; 3] = [15, 20, 13];

/// Index and fields of each object; `question` asks for one.
fn all(
    client: &Client,
    question: impl Fn(i32, i32) -> Vec<u64>,
    stat: i32,
) -> Vec<(u64, Vec<u64>)> {
    let ask = |index: i32, command: i32| {
        let asked = client.ask(&words(&question(index, command)));
        asked.and_then(|asked| asked.answer(false)).map(|(answer, _)| (answer.value, answer.words))
    };
    let Ok((highest, _)) = ask(0, libc::IPC_INFO) else { return Vec::new() };
    let highest = i32::try_from(highest).unwrap_or(0);
    (0..=highest).filter_map(|index| ask(index, stat).ok()).collect()
}

/// `/proc/sysvipc/shm`.
pub(in crate::linux) fn segments(client: Option<&Client>) -> String {
    let mut text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      \
        atime      dtime      ctime                   rss                  swap\n"
        .to_owned();
    let question = |index: i32, command: i32| {
        vec![question::SHM_CONTROL, index as u64, command as u64, 0, 0, 0]
    };
    for (id, of) in client.map(|client| all(client, question, STAT_ANY[0])).unwrap_or_default() {
        let [key, uid, gid, cuid, cgid, mode, _, bytes, atime, dtime, ctime, cpid, lpid, count] =
            of.as_slice()
        else {
            continue;
        };
        let (key, rss) = (*key as i32, bytes.next_multiple_of(abi::PAGE_SIZE));
        let _ = writeln!(
            text,
            "{key:10} {id:10}  {mode:4o} {bytes:21} {cpid:5} {lpid:5}  {count:5} {uid:5} {gid:5} {cuid:5} {cgid:5} \
             {atime:10} {dtime:10} {ctime:10} {rss:21} {:21}",
            0
        );
    }
    text
}

/// `/proc/sysvipc/sem`.
pub(in crate::linux) fn sets(client: Option<&Client>) -> String {
    let mut text =
        "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n"
            .to_owned();
    let question =
        |index: i32, command: i32| vec![question::SEM_CONTROL, index as u64, 0, command as u64, 0];
    for (id, of) in client.map(|client| all(client, question, STAT_ANY[1])).unwrap_or_default() {
        let [key, uid, gid, cuid, cgid, mode, _, otime, ctime, count] = of.as_slice() else {
            continue;
        };
        let key = *key as i32;
        let _ = writeln!(
            text,
            "{key:10} {id:10}  {mode:4o} {count:10} {uid:5} {gid:5} {cuid:5} {cgid:5} {otime:10} {ctime:10}"
        );
    }
    text
}

/// `/proc/sysvipc/msg`.
pub(in crate::linux) fn queues(client: Option<&Client>) -> String {
    let mut text = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      \
        stime      rtime      ctime\n"
        .to_owned();
    let question = |index: i32, command: i32| {
        vec![question::MSG_CONTROL, index as u64, command as u64, 0, 0, 0, 0]
    };
    for (id, of) in client.map(|client| all(client, question, STAT_ANY[2])).unwrap_or_default() {
        let [
            key,
            uid,
            gid,
            cuid,
            cgid,
            mode,
            _,
            stime,
            rtime,
            ctime,
            bytes,
            count,
            _,
            lspid,
            lrpid,
        ] = of.as_slice()
        else {
            continue;
        };
        let key = *key as i32;
        let _ = writeln!(
            text,
            "{key:10} {id:10}  {mode:4o}  {bytes:10} {count:10} {lspid:5} {lrpid:5} {uid:5} {gid:5} {cuid:5} {cgid:5} \
             {stime:10} {rtime:10} {ctime:10}"
        );
    }
    text
}
