//! The graph as arrays of numbers (compressed sparse rows), which is how such data is usually
//! kept in files: saved, and loaded again, with plain reads and writes.
//!
//! The file: `SJGRAPH1`, number of nodes, number of edges (8 bytes each, little-endian), then
//! the nodes' numbers (4 bytes each), where each node's edges begin (8 bytes each, one more
//! than nodes), and the positions the edges lead to (4 bytes each).

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;

use crate::edges::EdgeList;
use crate::query::Adjacency;

const MAGIC: [u8; 8] = *b"SJGRAPH1";
/// Bytes read or written at a time.
const STEP_BYTES: usize = 1 << 20;

/// A graph as arrays.
#[derive(Debug, PartialEq, Eq)]
pub struct Csr {
    ids: Vec<u32>,
    starts: Vec<u64>,
    targets: Vec<u32>,
}

impl Csr {
    /// The arrays of an edge list.
    #[must_use]
    pub fn new(list: &EdgeList) -> Csr {
        let starts = list.starts();
        let mut next = starts.clone();
        let mut targets = vec![0; list.pairs().len()];
        for &(from, to) in list.pairs() {
            targets[next[from as usize] as usize] = to;
            next[from as usize] += 1;
        }
        Csr { ids: list.ids().to_vec(), starts, targets }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The system's error.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(&MAGIC)?;
        file.write_all(&(self.ids.len() as u64).to_le_bytes())?;
        file.write_all(&(self.targets.len() as u64).to_le_bytes())?;
        write(&mut file, &self.ids, u32::to_le_bytes)?;
        write(&mut file, &self.starts, u64::to_le_bytes)?;
        write(&mut file, &self.targets, u32::to_le_bytes)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// The system's error, or `InvalidData` for a file that [`Self::save`] did not write.
    pub fn load(path: &Path) -> io::Result<Csr> {
        let mut file = File::open(path)?;
        let mut head = [0; 24];
        file.read_exact(&mut head)?;
        let number = |at: usize| {
            let bytes = head[at..at + 8].try_into().expect("eight bytes are eight");
            u64::from_le_bytes(bytes)
        };
        let (nodes, edges) = (number(8), number(16));
        // The sizes must fit the file before anything is allocated for them.
        let needed = u128::from(nodes) * 12 + u128::from(edges) * 4 + 8 + 24;
        if head[..8] != MAGIC || needed != u128::from(file.metadata()?.len()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a saved graph"));
        }
        let csr = Csr {
            ids: read(&mut file, nodes as usize, u32::from_le_bytes)?,
            starts: read(&mut file, nodes as usize + 1, u64::from_le_bytes)?,
            targets: read(&mut file, edges as usize, u32::from_le_bytes)?,
        };
        let is_whole = csr.starts.is_sorted()
            && csr.starts.first() == Some(&0)
            && csr.starts.last() == Some(&edges)
            && csr.targets.iter().max().is_none_or(|&last| u64::from(last) < nodes);
        if !is_whole {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged saved graph"));
        }
        Ok(csr)
    }

    /// Where all edges lead to: positions of nodes.
    #[must_use]
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// The range of targets of each node, in the order of the nodes.
    pub fn spans(&self) -> impl Iterator<Item = Range<usize>> {
        self.starts.windows(2).map(|span| span[0] as usize..span[1] as usize)
    }
}

/// Writes numbers in steps. The conversion is a copy on little-endian machines.
fn write<T: Copy, const N: usize>(
    file: &mut File,
    numbers: &[T],
    bytes_of: fn(T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(STEP_BYTES);
    for step in numbers.chunks(STEP_BYTES / N) {
        buffer.clear();
        buffer.extend(step.iter().flat_map(|&number| bytes_of(number)));
        file.write_all(&buffer)?;
    }
    Ok(())
}

/// Reads numbers in steps small enough to stay in the cache until they are converted.
fn read<T, const N: usize>(
    file: &mut File,
    count: usize,
    number_of: fn([u8; N]) -> T,
) -> io::Result<Vec<T>> {
    let mut numbers = Vec::with_capacity(count);
    let mut buffer = vec![0; STEP_BYTES];
    while numbers.len() < count {
        let step = &mut buffer[..N * (count - numbers.len()).min(STEP_BYTES / N)];
        file.read_exact(step)?;
        let (chunks, _) = step.as_chunks::<N>();
        numbers.extend(chunks.iter().map(|&bytes| number_of(bytes)));
    }
    Ok(numbers)
}

impl Adjacency for Csr {
    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn edge_count(&self) -> u64 {
        self.targets.len() as u64
    }

    fn degree(&self, index: usize) -> u64 {
        self.starts[index + 1] - self.starts[index]
    }

    fn for_neighbours(&self, index: usize, mut visit: impl FnMut(usize)) {
        for &target in &self.targets[self.starts[index] as usize..self.starts[index + 1] as usize] {
            visit(target as usize);
        }
    }

    fn largest(&self) -> Option<usize> {
        (0..self.ids.len()).rev().max_by_key(|&index| self.degree(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(name: &str) -> (Csr, std::path::PathBuf) {
        let list = EdgeList::parse("5 1\n1 9\n5 5\n9 1\n".as_bytes()).unwrap();
        let path = std::env::temp_dir().join(format!("graph-{name}-{}", std::process::id()));
        let csr = Csr::new(&list);
        csr.save(&path).unwrap();
        (csr, path)
    }

    #[test]
    fn a_saved_graph_is_loaded_as_it_was() {
        let (csr, path) = saved("csr");
        assert_eq!(Csr::load(&path).unwrap(), csr);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let (_, path) = saved("damaged");
        let good = std::fs::read(&path).unwrap();
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Csr::load(&path).is_err()
        };
        assert!(refused(&good[..good.len() - 1]));
        assert!(refused(&[&good[..], b"x"].concat()));
        // Magic, number of nodes, of edges, a start, a target; a node's number may be any.
        for at in [0, 8, 15, 16, 23, 24 + 12, 24 + 12 + 8, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(refused(&bad), "byte {at}");
        }
        std::fs::remove_file(path).unwrap();
    }
}
