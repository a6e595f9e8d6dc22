//! Clients that would take memory or time.

use std::io::{Read as _, Write as _};

use flate2::{Compression, write::GzEncoder};

use super::event;
use crate::support::{
    binary::{Forebay, Place},
    until,
};

/// The most memory the process ever had.
fn peak_rss_bytes(forebay: &Forebay) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", forebay.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// A body over the bound is refused before it is read, while it is read, and while it is unpacked.
#[test]
fn bodies_over_the_bound_are_refused() {
    let place = Place::new().http("max_body_bytes: 64KiB").http("max_event_bytes: 64KiB");
    let forebay = place.start();
    let long = vec![b' '; 64 * 1024 + 1];
    forebay.post_json(&long).error(413, "body_too_large");

    // By its length alone, though nothing of it was sent.
    let mut connection = forebay.connect();
    connection.write(b"POST /events HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999\r\n\r\n").unwrap();
    connection.response().unwrap().error(413, "body_too_large");
    assert!(connection.is_at_end());

    // In chunks, which have no length.
    let mut connection = forebay.connect();
    connection.write(b"POST /events HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"1000\r\n".as_slice(), &[b' '; 4096], b"\r\n"].concat();
    // The server may close before it has been sent all.
    (0..17).for_each(|_| drop(connection.write(&chunk)));
    connection.response().unwrap().error(413, "body_too_large");

    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&long).unwrap();
    let packed = encoder.finish().unwrap();
    forebay.post("/events", &[("Content-Encoding", "gzip")], &packed).error(413, "body_too_large");
    let exact = [event("exact").to_string().into_bytes(), long].concat();
    forebay.post_json(&exact[..64 * 1024]).ok(202);
}

/// Bombs of a gigabyte, gzip and zstd, several at once, do not grow the memory.
#[test]
fn bombs_do_not_grow_the_memory() {
    let forebay = Place::new().start();
    forebay.post_json(event("before").to_string()).ok(202);
    forebay.stored("before");
    let before = peak_rss_bytes(&forebay);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::copy(&mut std::io::repeat(b' ').take(1 << 30), &mut encoder).unwrap();
    let gzip = encoder.finish().unwrap();
    let zstd = zstd::encode_all(std::io::repeat(b' ').take(1 << 30), 1).unwrap();
    assert!(gzip.len() < 16 << 20 && zstd.len() < 16 << 20);
    std::thread::scope(|scope| {
        for (coding, bomb) in [("gzip", &gzip), ("zstd", &zstd), ("gzip", &gzip)] {
            let forebay = &forebay;
            scope.spawn(move || {
                forebay.post("/events", &[("Content-Encoding", coding)], bomb).error(413, "body_too_large");
            });
        }
    });
    let grown = peak_rss_bytes(&forebay) - before;
    // Three bodies as packed (5 MB each) and three outputs of at most 16 MiB that a Vec has doubled.
    assert!(grown < 160 << 20, "the process grew by {} MiB", grown >> 20);
    forebay.post_json(event("after").to_string()).ok(202);
}

/// A zstd frame that asks for a window of 2 GiB is refused instead of given it.
#[test]
fn a_giant_window_is_refused() {
    let forebay = Place::new().start();
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(event("w").to_string().as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    forebay.post("/events", &[("Content-Encoding", "zstd")], &packed).error(400, "bad_compression");
}

/// Clients that send their head or their body drop by drop are cut off, and others do not notice.
#[test]
fn slow_clients_are_cut_off() {
    let place = Place::new().http("header_timeout: 300ms").http("request_timeout: 300ms");
    let forebay = place.start();
    let mut head = forebay.connect();
    head.write(b"POST /events HTTP/1.1\r\nHost: t\r\nX-Slow: ").unwrap();
    let mut body = forebay.connect();
    body.write(b"POST /events HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{\"service\"").unwrap();
    let mut chunked = forebay.connect();
    chunked
        .write(b"POST /events HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"ser")
        .unwrap();
    forebay.post_json(event("meanwhile").to_string()).ok(202);
    let answer = head.response().unwrap();
    assert_eq!((answer.status, &*answer.body), (408, &b""[..]));
    assert!(head.is_at_end());
    for connection in [&mut body, &mut chunked] {
        connection.response().unwrap().error(408, "timeout");
        assert!(connection.is_at_end());
    }
    forebay.stored("meanwhile");
}

/// A client that goes away in the middle of its body leaves nothing behind, and is not taken for a failure.
#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let forebay = Place::new().start();
    for _ in 0..20 {
        let mut connection = forebay.connect();
        let half =
            format!("POST /events HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{}", event("half"));
        connection.write(half.as_bytes()).unwrap();
    }
    until("each of them is counted", || {
        forebay.metric("forebay_receiver_rejected_total", "incomplete_body") == 20.0
    });
    forebay.post_json(event("whole").to_string()).ok(202);
    forebay.stored("whole");
    assert_eq!(forebay.all_events("").len(), 1);
}

/// Bytes that are no HTTP at all end their connection and nothing else.
#[test]
fn bytes_that_are_no_http_end_their_connection() {
    let forebay = Place::new().start();
    let long_header = [b"GET / HTTP/1.1\r\nA: ".as_slice(), &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat();
    for bytes in [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".as_slice(),
        b"\r\n\r\n\x00\x00\x00\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /events HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /events HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /events HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        &long_header,
    ] {
        let mut connection = forebay.connect();
        // The server may close before it has been sent all.
        let _ = connection.write(bytes);
        if let Ok(answer) = connection.response() {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
        assert!(connection.is_at_end());
    }
    forebay.post_json(event("after").to_string()).ok(202);
    forebay.stored("after");
}

/// What never became a request is answered by the HTTP library, without a body, as the README says. Where this fails, it has
/// learned to say more, and so can we.
#[test]
fn what_is_no_request_is_answered_without_a_body() {
    let forebay = Place::new().start();
    // To the last byte of what is read, or the answer could be lost with what is not.
    let mut long_head = b"GET / HTTP/1.1\r\nA: ".to_vec();
    long_head.resize(128 * 1024, b'a');
    for (bytes, status) in
        [(&b"GET / HTTP/9.9\r\n\r\n"[..], 400), (&b"\x16\x03\x01\r\n\r\n"[..], 400), (&long_head[..], 431)]
    {
        let mut connection = forebay.connect();
        connection.write(bytes).unwrap();
        let answer = connection.response().unwrap();
        assert_eq!((answer.status, &*answer.body), (status, &b""[..]));
        assert!(connection.is_at_end());
    }
}

/// `max_connections` bounds what can be open at once; those that wait are served when others go.
#[test]
fn connections_over_the_bound_wait_their_turn() {
    let forebay = Place::new().http("max_connections: 4").http("workers: 1").start();
    let mut held: Vec<_> = (0..4).map(|_| forebay.connect()).collect();
    for connection in &mut held {
        connection.request("GET", "/live", &[], b"").unwrap().ok(200);
    }
    let mut fifth = forebay.connect();
    fifth.write(b"GET /live HTTP/1.1\r\nHost: t\r\n\r\n").unwrap();
    held.clear();
    fifth.response().unwrap().ok(200);
}
