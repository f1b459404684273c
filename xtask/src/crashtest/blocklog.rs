//! Every write to a block device, recorded while a VM works on the file system there, and replayed to
//! any flush: what a device leaves that kept its promises up to there and lost everything since.
//!
//! `qemu-storage-daemon` exports an image as a file (FUSE) and records what is written to it in the
//! kernel's format of dm-log-writes: a superblock, then for each write an entry of one sector,
//! followed by its data.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Done;
use super::ledger::Ledger;
use super::small_disk::{Kind, Mounted, cannot, image_of};

const DAEMON: &str = "qemu-storage-daemon";
/// How long the VM works.
const WORK: Duration = Duration::from_secs(4);
/// How long the daemon may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

/// The superblock of dm-log-writes, and flags of entries.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const DISCARD: u64 = 4;

/// Records a run, and opens what is there after `flushes` of its flushes.
///
/// # Errors
/// The first loss.
pub(super) fn run(ledger: &Ledger, kind: Kind, flushes: u64) -> Result<Done> {
    if let Some(why) = cannot(kind, &[DAEMON]) {
        return Ok(Done::Skipped(why));
    }
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let (image, base, log) = (path("image"), path("base"), path("log"));
    image_of(kind, &image)?;
    let mounted = Mounted::mount(kind, &image, &path("at"))?;
    ledger.create(&mounted.store())?;
    mounted.unmount()?;
    fs::copy(&image, &base)?;
    let told = record(ledger, kind, folder.path())?;
    let log = Log::open(&log)?;
    let ends = log.flushes()?;
    let step = (ends.len() as u64).div_ceil(flushes).max(1) as usize;
    let (mut replayed, mut checked, mut last) = (Replay::new(&log, &base)?, 0, 0);
    for &end in ends.iter().step_by(step).chain(ends.last()) {
        replayed.to(end)?;
        let copy = path("copy");
        sparse_copy(&base, &copy)?;
        let mounted = Mounted::mount(kind, &copy, &path("at"))?;
        let promised = told.iter().rev().find(|(entries, _)| *entries <= end);
        let promised = promised.map_or(0, |(_, changes)| *changes);
        let most = told.last().map_or(0, |(_, changes)| *changes);
        let changes = check(ledger, &mounted.store(), promised, most)?;
        ensure!(
            changes >= last,
            "LOST: {last} changes were there after an earlier flush, and now {changes}"
        );
        mounted.unmount()?;
        (last, checked) = (changes, checked + 1);
    }
    Ok(Done::Checked(vec![("flushes", checked), ("writes", log.entries), ("changes", last)]))
}

fn check(ledger: &Ledger, store: &Path, promised: u64, most: u64) -> Result<u64> {
    let output = ledger.command(store, &["check"]).output()?;
    let changes: u64 = super::ledger::whole(&output, "looking at what is left")?.trim().parse()?;
    ensure!(changes >= promised, "LOST: {promised} changes were committed, and {changes} are left");
    ensure!(changes <= most + 1, "{most} changes were committed, and {changes} are there");
    ledger.check_store(store)?;
    Ok(changes)
}

/// Has a VM work on the image `image`, recorded in `log`. Returns which change was committed at the
/// latest when the log had how many entries.
fn record(ledger: &Ledger, kind: Kind, folder: &Path) -> Result<Vec<(u64, u64)>> {
    let daemon = Daemon::start(folder, kind)?;
    let log = File::open(folder.join("log"))?;
    let mounted = Mounted::mount(kind, &daemon.exported, &folder.join("at"))?;
    let working = ledger.work(&mounted.store(), 0)?;
    let (began, mut told) = (Instant::now(), Vec::new());
    while began.elapsed() < WORK {
        // In this order: what was committed by now is in the entries that are there a moment later.
        let changes = working.acknowledged();
        told.push((entries(&log)?, changes));
        thread::sleep(Duration::from_millis(2));
    }
    let changes = working.kill()?;
    told.push((entries(&log)?, changes));
    ensure!(changes > 0, "nothing was committed in {WORK:?}");
    mounted.unmount()?;
    daemon.stop()?;
    Ok(told)
}

/// How many entries a log says it has.
fn entries(log: &File) -> Result<u64> {
    let mut bytes = [0; 8];
    log.read_exact_at(&mut bytes, 16)?;
    Ok(u64::from_le_bytes(bytes))
}

/// The daemon; killed when dropped.
struct Daemon {
    child: Child,
    exported: PathBuf,
}

impl Daemon {
    fn start(folder: &Path, kind: Kind) -> Result<Daemon> {
        let path = |name: &str| folder.join(name).display().to_string();
        let exported = folder.join("exported");
        File::create(&exported)?;
        File::create(folder.join("log"))?.set_len(4 << 30)?;
        let node = |name: &str| format!("driver=file,node-name={name},filename={}", path(name));
        let mut daemon = Command::new(DAEMON);
        daemon.args(["--blockdev", &node("image"), "--blockdev", &node("log"), "--blockdev"]);
        // The number of entries is told with each, not now and then.
        daemon.arg(
            "driver=blklogwrites,node-name=both,file=image,log=log,log-super-update-interval=1",
        );
        daemon.args([
            "--export",
            &format!("type=fuse,id=e,node-name=both,mountpoint={},writable=on", path("exported")),
        ]);
        let child = daemon.stdin(Stdio::null()).spawn().context("start the daemon")?;
        let daemon = Daemon { child, exported };
        let began = Instant::now();
        while fs::metadata(&daemon.exported)?.len() != kind.bytes() {
            ensure!(began.elapsed() < PATIENCE, "{DAEMON} exports nothing");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Ends it; all is written then.
    fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        super::ledger::whole(&Command::new("kill").arg(&pid).output()?, "ending the daemon")?;
        self.child.wait().context("wait for the daemon").map(drop)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = Command::new("umount").arg(&self.exported).output();
    }
}

/// A log of dm-log-writes.
struct Log {
    file: File,
    sector_bytes: u64,
    entries: u64,
}

/// One write.
struct Entry {
    offset: u64,
    bytes: u64,
    flags: u64,
    /// Of its data in the log.
    data: u64,
}

impl Log {
    fn open(path: &Path) -> Result<Log> {
        let file = File::open(path)?;
        let mut head = [0; 28];
        file.read_exact_at(&mut head, 0)?;
        let word = |at: usize| head[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        ensure!(word(0) == MAGIC, "{} is no log of writes", path.display());
        let sector_bytes = u64::from(u32::from_le_bytes([head[24], head[25], head[26], head[27]]));
        Ok(Log { file, sector_bytes, entries: word(16) })
    }

    /// The entry at a place in the file, and where the next one is.
    fn entry(&self, at: u64) -> Result<(Entry, u64)> {
        let mut head = [0; 32];
        self.file.read_exact_at(&mut head, at)?;
        let word = |at: usize| head[at..].first_chunk().copied().map_or(0, u64::from_le_bytes);
        let (sector, sectors, flags) = (word(0), word(8), word(16));
        let entry = Entry {
            offset: sector * self.sector_bytes,
            bytes: sectors * self.sector_bytes,
            flags,
            data: at + self.sector_bytes,
        };
        let data = if flags & DISCARD == 0 { entry.bytes } else { 0 };
        let next = entry.data + data;
        Ok((entry, next))
    }

    /// After how many entries the device was flushed.
    fn flushes(&self) -> Result<Vec<u64>> {
        let (mut ends, mut at) = (Vec::new(), self.sector_bytes);
        for index in 1..=self.entries {
            let (entry, next) = self.entry(at)?;
            if entry.flags & FLUSH != 0 {
                ends.push(index);
            }
            at = next;
        }
        if ends.is_empty() {
            bail!("the device was never flushed");
        }
        Ok(ends)
    }
}

/// An image that is brought forward along a log.
struct Replay<'a> {
    log: &'a Log,
    image: File,
    done: u64,
    at: u64,
}

impl<'a> Replay<'a> {
    fn new(log: &'a Log, image: &Path) -> Result<Replay<'a>> {
        let image = File::options().read(true).write(true).open(image)?;
        Ok(Replay { log, image, done: 0, at: log.sector_bytes })
    }

    fn to(&mut self, entries: u64) -> Result<()> {
        while self.done < entries {
            let (entry, next) = self.log.entry(self.at)?;
            let mut data = vec![0; usize::try_from(entry.bytes)?];
            if entry.flags & DISCARD == 0 {
                self.log.file.read_exact_at(&mut data, entry.data)?;
            }
            self.image.write_all_at(&data, entry.offset)?;
            (self.done, self.at) = (self.done + 1, next);
        }
        Ok(())
    }
}

fn sparse_copy(from: &Path, to: &Path) -> Result<()> {
    let mut cp = Command::new("cp");
    cp.arg("--sparse=always").args([from, to]);
    super::ledger::whole(&cp.output()?, "copying an image").map(drop)
}
