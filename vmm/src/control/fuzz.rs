//! For fuzz targets: what somebody sends to a control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::server::{Connection, QUESTION_BYTES_MAX, Question, Reply, Wants};

/// Sends these bytes behind the first one, which says in pieces of how many, and then hangs up. Whatever the pieces
/// are, the first line is the question, or the connection ends without an answer and without keeping more than a
/// question has. Returns whether it was answered.
///
/// # Panics
/// If that is not so; if the host has no sockets.
#[must_use]
pub fn requests(bytes: &[u8]) -> bool {
    let Some((piece, bytes)) = bytes.split_first() else { return false };
    let (mut other, stream) = UnixStream::pair().expect("a pair of sockets");
    stream.set_nonblocking(true).expect("a socket can be");
    let mut connection = Connection::new(stream);
    let line = bytes.iter().position(|byte| *byte == b'\n').and_then(|end| bytes.get(..end));
    let expected = line.and_then(Question::parse);
    let (mut asked, mut wants) = (None, Wants::Question);
    let mut pieces = bytes.chunks(usize::from(*piece).max(1));
    let mut is_open = true;
    while wants == Wants::Question && is_open {
        match pieces.next() {
            // It has ended the connection: then it does not read on.
            Some(piece) => other.write_all(piece).expect("there is room for a piece"),
            None => {
                other.shutdown(std::net::Shutdown::Write).expect("it is connected");
                is_open = false;
            }
        }
        // As often as there is something to be read, as the event loop does.
        for _ in 0..=usize::from(u8::MAX) / QUESTION_BYTES_MAX + 2 {
            if wants != Wants::Question {
                break;
            }
            wants = connection
                .go_on(|question, _| {
                    assert!(asked.replace(question).is_none(), "one question, one answer");
                    match question {
                        Question::Trace => Reply::Viewed,
                        Question::Gdb | Question::Snapshot => Reply::HandedOver,
                        Question::Report | Question::Alive => Reply::Answer(b"told\n".to_vec()),
                    }
                })
                .unwrap_or(Wants::Nothing);
            assert!(
                connection.kept() <= 2 * QUESTION_BYTES_MAX,
                "it keeps no more than a question"
            );
        }
    }
    assert_eq!(wants, Wants::Nothing, "it ends when the other side has hung up");
    assert_eq!(asked, expected);
    drop(connection);
    let mut answer = Vec::new();
    // Unread bytes of ours take the connection back.
    let read = other.read_to_end(&mut answer);
    let is_told = matches!(expected, Some(Question::Report | Question::Alive));
    assert!(read.is_err() || is_told == (answer == b"told\n"), "{answer:?}");
    is_told
}
