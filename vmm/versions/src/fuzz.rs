//! The files of a segment with any bytes, for the fuzz targets in `fuzz/` and their smoke test only: what is
//! in them is refused, or read as something that can be written and read again. Nothing panics, and nothing
//! is allocated that the files have no bytes for.

use std::io::ErrorKind;
use std::sync::OnceLock;

use crate::checksum::Checksum;
use crate::disk::simulated::{Disk, Done, FaultKind, Files, FolderNumber};
use crate::disk::{File, Folder};
use crate::error::Result;
use crate::layer::Presence;
use crate::log::header::LogHeader;
use crate::log::record::{RecordHead, VersionFacts, checksum_of};
use crate::page::{PAGE_BYTES, Page, PageIndex, VersionNumber};
use crate::root::{FILE_NAME, Root};
use crate::segment::{Commit, LargeCommit, Limits, Part, Segment, Sharing, append_together};

/// Where the checksum of a page is that has one: a log's header, a root record.
const PAGE_CHECKSUM: usize = PAGE_BYTES - 8;
/// As every file system has a longest file.
const FILE_BYTES_MAX: u64 = 16 << 20;
const LIMITS: Limits = Limits { log_bytes: 64 << 10, ahead_bytes: 4096 };

fn page_of(bytes: &[u8]) -> Page {
    let mut page = [0; PAGE_BYTES];
    page.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    page
}

fn seal(page: &mut [u8]) {
    let checksum = Checksum::of(&page[..PAGE_CHECKSUM]);
    page[PAGE_CHECKSUM..PAGE_BYTES].copy_from_slice(&checksum.0.to_le_bytes());
}

/// Puts the checksums of a log's header and records right, as if they had been written so.
fn seal_log(log: &mut [u8]) {
    if log.len() < PAGE_BYTES {
        return;
    }
    seal(&mut log[..PAGE_BYTES]);
    let mut previous = Checksum::of(&log[..PAGE_CHECKSUM]);
    let mut at = PAGE_BYTES;
    while let Some(sizes) = log.get(at..at + PAGE_BYTES).and_then(RecordHead::sizes)
        && let Some(end) =
            usize::try_from(sizes.record).ok().and_then(|whole| at.checked_add(whole))
        && end <= log.len()
    {
        previous = seal_record(&mut log[at..at + sizes.head as usize], previous);
        at = end;
    }
}

fn seal_record(head: &mut [u8], previous: Checksum) -> Checksum {
    head[16..24].copy_from_slice(&previous.0.to_le_bytes());
    let checksum = checksum_of(head, previous);
    head[248..256].copy_from_slice(&checksum.0.to_le_bytes());
    checksum
}

/// The head of a record, with the checksum that belongs to it if `sealed`. Whether one that is accepted
/// comes back when it is written and read again; `None` if it is not accepted.
#[must_use]
pub fn record(bytes: &[u8], sealed: bool) -> Option<bool> {
    let previous = Checksum(9);
    let mut head = bytes.to_vec();
    head.resize(head.len().max(1).next_multiple_of(PAGE_BYTES), 0);
    if sealed {
        let whole = RecordHead::sizes(&head).filter(|sizes| sizes.head <= head.len() as u64)?;
        head.truncate(whole.head as usize);
        seal_record(&mut head, previous);
    }
    let (read, _) = RecordHead::decode(&head, previous)?;
    let (written, _) = read.encode(previous);
    Some(RecordHead::decode(&written, previous).is_some_and(|(again, _)| again == read))
}

/// The first page of a log: as [`record`].
#[must_use]
pub fn log_header(bytes: &[u8], sealed: bool) -> Option<bool> {
    let mut page = page_of(bytes);
    if sealed {
        seal(&mut page);
    }
    let (read, _) = LogHeader::decode(&page).ok()?;
    Some(LogHeader::decode(&read.encode().0).is_ok_and(|(again, _)| again == read))
}

/// The file with the two root records: as [`record`].
#[must_use]
pub fn root(bytes: &[u8], sealed: bool) -> Option<bool> {
    let mut content = bytes.to_vec();
    content.resize(bytes.len().clamp(1, 2 * PAGE_BYTES).next_multiple_of(PAGE_BYTES), 0);
    if sealed {
        content.chunks_mut(PAGE_BYTES).for_each(seal);
    }
    let read = Root::read(&file(&content)?).ok()?;
    let to = file(&[])?;
    // One of the first format is written as one of the second.
    read.store(&to).ok()?;
    Some(Root::read(&to).is_ok_and(|again| again == read))
}

/// The map of a layer's pages: as [`record`], and that its pages are as many as it says.
#[must_use]
pub fn presence(bytes: &[u8]) -> Option<bool> {
    let read = Presence::read(&file(bytes)?, "map").ok()?;
    if read.iter().count() as u64 != read.count() || !read.iter().all(|page| read.has(page)) {
        return Some(false);
    }
    let to = file(&[])?;
    read.write(&to).ok()?;
    Some(Presence::read(&to, "map").is_ok_and(|again| again == read))
}

fn file(content: &[u8]) -> Option<<Disk as Folder>::File> {
    let file = Disk::default().create("file").ok()?;
    file.write_at(&[std::io::IoSlice::new(content)], 0).ok()?;
    Some(file)
}

/// A whole segment in whose files bytes are changed: 6 of the input each say in which file, where,
/// to what, and whether the checksum of that page, or all of a log, is put right. Opened to read
/// and to write; all that is said to be there is read, and one more version made. Returns how many
/// versions there were, if it opens.
///
/// # Errors
/// What is wrong with it.
pub fn segment(changes: &[u8]) -> Result<usize> {
    static SOUND: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let mut files = SOUND.get_or_init(|| sound().unwrap_or_default()).clone();
    assert!(!files.is_empty(), "a segment can be made");
    for change in changes.as_chunks::<6>().0 {
        let [which, high, low, value, sealed, _] = *change;
        let at = usize::from(which) % files.len();
        let (_, content) = &mut files[at];
        if content.is_empty() {
            continue;
        }
        // Most of a file is pages: what decides is at their beginnings.
        let (page, offset) = (usize::from(high) * PAGE_BYTES, usize::from(low) * 2);
        let place = (page + offset) % content.len();
        content[place] = value;
        let start = place - place % PAGE_BYTES;
        if sealed % 4 == 3 {
            seal_log(content);
        } else if sealed % 2 == 1 && start + PAGE_BYTES <= content.len() {
            seal(&mut content[start..start + PAGE_BYTES]);
        }
    }
    let disk = disk_of(&files);
    let read = Segment::open_shared(disk, LIMITS, None)?;
    let count = look(&read)?;
    drop(read);
    let mut written = Segment::open(disk_of(&files), LIMITS)?;
    let (facts, page) = (written.next_facts(), [1; PAGE_BYTES]);
    let version = written.append(&Commit { facts, pages: vec![(PageIndex(5), &page)] })?;
    written.sync()?;
    assert_eq!(written.read(PageIndex(5), version)?, page, "what was committed is there");
    written.checkpoint(version, Sharing::Shared)?;
    assert_eq!(written.read(PageIndex(5), version)?, page, "also after a checkpoint");
    Ok(count)
}

/// Reads all that is said to be there.
fn look<D: Folder>(segment: &Segment<D>) -> Result<usize> {
    let versions: Vec<VersionNumber> = segment.history().map(|(version, ..)| version).collect();
    let mut count = 0;
    for version in versions.into_iter().filter(|version| segment.has(*version)) {
        count += 1;
        for page in 0..24 {
            segment.read(PageIndex(page), version)?;
        }
    }
    Ok(count)
}

/// The files of a segment with several logs, layers and a rollback's worth of generations.
fn sound() -> Result<Vec<(String, Vec<u8>)>> {
    let disk = Disk::default();
    let facts = VersionFacts { size_bytes: 1 << 20, ..VersionFacts::default() };
    let mut segment = Segment::create(disk.clone(), 7, facts, LIMITS)?;
    let commit = |segment: &mut Segment<Disk>, pages: &[u64]| -> Result<()> {
        let (facts, content) = (segment.next_facts(), [pages.len() as u8; PAGE_BYTES]);
        let pages = pages.iter().map(|page| (PageIndex(*page), &content)).collect();
        segment.append(&Commit { facts, pages })?;
        segment.sync().map(drop)
    };
    commit(&mut segment, &[0, 1, 20])?;
    let newest = segment.appended();
    segment.checkpoint(newest, Sharing::Alone)?;
    commit(&mut segment, &[1])?;
    segment.freeze()?;
    commit(&mut segment, &[2, 3])?;
    let mut large = LargeCommit::begin(&segment)?;
    large.write(PageIndex(9), &[9; PAGE_BYTES])?;
    let facts = segment.next_facts();
    large.finish(&mut segment, facts)?;
    let facts = VersionFacts { size_bytes: 4096, ..VersionFacts::default() };
    let mut other = Segment::create(Disk::default(), 8, facts, LIMITS)?;
    let (content, theirs) = ([8; PAGE_BYTES], Commit::default());
    let ours = Commit { facts: segment.next_facts(), pages: vec![(PageIndex(8), &content)] };
    append_together(&mut [
        Part { segment: &mut segment, commit: &ours },
        Part { segment: &mut other, commit: &theirs },
    ])?;
    segment.sync()?;
    commit(&mut segment, &[0])?;
    drop(segment);
    let mut names = disk.names().map_err(|source| crate::VersionsError::Io {
        action: "list",
        file: FILE_NAME.to_owned(),
        source,
    })?;
    names.sort();
    let (files, _) = disk.take();
    let content = |name: String| {
        let content = files.get(FolderNumber::default(), &name).unwrap_or_default().to_vec();
        (name, content)
    };
    Ok(names.into_iter().map(content).collect())
}

fn disk_of(contents: &[(String, Vec<u8>)]) -> Disk {
    let mut files = Files::default();
    for (name, content) in contents {
        files.insert(FolderNumber::default(), name, content.clone());
    }
    let disk = Disk::with_files(files);
    // It has no holes: a file that ends far away would take as much memory.
    disk.set_fault(Some(Box::new(|done, _| match done {
        Done::Write(_, at, _) if *at > FILE_BYTES_MAX => FaultKind::Error(ErrorKind::FileTooLarge),
        _ => FaultKind::None,
    })));
    disk
}
