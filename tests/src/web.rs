//! A web server with one page, for programs that fetch it.

use std::io::{Read, Write};
use std::net::TcpListener;

/// Serves `page` and a line feed to whoever asks for anything, on loopback, until the test ends; its port.
///
/// # Panics
/// If loopback cannot be bound.
#[must_use]
pub fn one_page() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            let mut piece = [0; 512];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut piece) {
                    Ok(0) | Err(_) => break,
                    Ok(len) => request.extend_from_slice(&piece[..len]),
                }
            }
            let page = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\npage\n";
            let _ = stream.write_all(page.as_bytes());
        }
    });
    port
}
