//! Files with holes: what to read of one, what to write of it, and copying one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use abi::addr::PAGE_SIZE;
use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Copies the data (not the holes) in `from..end` to the same offsets of another file, whose length
/// is already correct.
pub(crate) fn copy_sparse(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        // Shared with a file that may have grown since: that file's length counts, not the copy's.
        return to.set_len(end);
    }
    let mut at = start;
    while let Some((data, hole)) = next_data(from, at, end) {
        copy_range(from, to, data, data, hole)?;
        at = hole;
    }
    Ok(())
}

/// Copies the data in `start..end` to `start_to` and behind, of a file that has its length already.
pub(crate) fn copy_shifted(
    from: &File,
    to: &File,
    (start, start_to): (u64, u64),
    end: u64,
) -> io::Result<()> {
    let mut at = start;
    while let Some((data, hole)) = next_data(from, at, end) {
        copy_range(from, to, data, start_to + (data - start), hole)?;
        at = hole;
    }
    Ok(())
}

/// The next range before `end` that may contain something other than zeros.
pub(crate) fn next_data(from: &File, at: u64, end: u64) -> Option<(u64, u64)> {
    if at >= end {
        return None;
    }
    let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
        Ok(data) => data.max(at),
        Err(Errno::NXIO) => return None,
        // A file system without support for holes has none.
        Err(_) => at,
    };
    if data >= end {
        return None;
    }
    let hole = rustix::fs::seek(from, SeekFrom::Hole(data)).unwrap_or(end);
    Some((data, hole.clamp(data + 1, end)))
}

fn copy_range(from: &File, to: &File, start: u64, start_to: u64, end: u64) -> io::Result<()> {
    let (mut read, mut written) = (start, start_to);
    while read < end {
        let most = usize::try_from(end - read).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            // Not between these files, or not at all: read and write instead.
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return copy_by_hand(from, to, read, written, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, start: u64, start_to: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let chunk = buffer.get_mut(..most).unwrap_or_default();
        from.read_exact_at(chunk, at)?;
        to.write_all_at(chunk, start_to + (at - start))?;
        at += most as u64;
    }
    Ok(())
}

/// The non-zero runs of a chunk, in whole pages: where each begins, and its bytes.
pub(crate) fn runs(chunk: &[u8]) -> Vec<(usize, &[u8])> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, page) in chunk.chunks(PAGE_SIZE as usize).enumerate() {
        if page.iter().all(|byte| *byte == 0) {
            continue;
        }
        let at = index * PAGE_SIZE as usize;
        match runs.last_mut().filter(|(start, len)| start + len == at) {
            Some((_, len)) => *len += page.len(),
            None => runs.push((at, page.len())),
        }
    }
    runs.into_iter().filter_map(|(at, len)| Some((at, chunk.get(at..at + len)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn by_hand_or_by_the_host_the_copy_is_the_same_and_as_sparse() {
        let folder = tempfile::tempdir().unwrap();
        let new = |name: &str| {
            let path = folder.path().join(name);
            let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
            file.set_len(1 << 30).unwrap();
            file
        };
        let from = new("from");
        for at in [0, (5 << 20) + 1, (1 << 30) - 4] {
            from.write_all_at(b"data", at).unwrap();
        }
        type How = fn(&File, &File, u64, u64, u64) -> io::Result<()>;
        for (name, copy) in [("a", copy_range as How), ("b", copy_by_hand)] {
            let to = new(name);
            for start_to in [5 << 20, 9 << 20] {
                copy(&from, &to, 5 << 20, start_to, 6 << 20).unwrap();
                let mut bytes = [0; 6];
                to.read_exact_at(&mut bytes, start_to).unwrap();
                assert_eq!(&bytes, b"\0data\0");
            }
        }
        let to = new("c");
        copy_sparse(&from, &to, 0, 1 << 30).unwrap();
        let mut bytes = [0; 4];
        to.read_exact_at(&mut bytes, (1 << 30) - 4).unwrap();
        assert_eq!(&bytes, b"data");
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
        let to = new("d");
        copy_shifted(&from, &to, (5 << 20, 0), 6 << 20).unwrap();
        let mut bytes = [0; 5];
        to.read_exact_at(&mut bytes, 1).unwrap();
        assert_eq!(&bytes, b"data\0");
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn only_pages_with_something_in_them_are_written() {
        let mut chunk = vec![0; 5 * 4096 + 100];
        assert!(runs(&chunk).is_empty());
        for at in [4096, 2 * 4096 + 7, 5 * 4096 + 99] {
            chunk[at] = 1;
        }
        let found: Vec<_> = runs(&chunk).iter().map(|(at, run)| (*at, run.len())).collect();
        assert_eq!(found, [(4096, 8192), (5 * 4096, 100)]);
    }
}
