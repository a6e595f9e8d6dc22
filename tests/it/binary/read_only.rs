//! A file system that fails under the running process: ext4 goes read-only after an error, and takes no more writes.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::{Value, json};

use crate::support::{
    binary::Place,
    device::Device,
    http::{Connection, Destination},
    until,
};

/// Under load the file system of the data directory aborts, as after an I/O error: from then on every write fails. Events
/// are refused with 503 `journal_failed`, readiness says it, the process lives and ends when it is told. On the repaired
/// file system it starts again, and everything acknowledged is delivered and stored. Mounted read-only at the start, it is
/// named.
#[test]
fn a_file_system_that_fails_loses_nothing() {
    let place = Place::new();
    let (test, image) = ("a_file_system_that_fails_loses_nothing", place.file("image"));
    let Some(device) = Device::ext4(place.file("device"), &image, 96, test) else { return };
    let destination = Destination::start();
    let data_dir = device.path.join("data");
    let place =
        place.with_data_dir(data_dir.clone()).sink("up", &destination.sink()).section("shutdown_timeout: 1s");
    let mut forebay = place.start();
    let ended = AtomicBool::new(false);
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let (ended, address) = (&ended, forebay.address);
                scope.spawn(move || post_until(client, address, ended))
            })
            .collect();
        until("events are delivered", || destination.count() > 300);
        assert!(device.remount("abort"), "the file system can be made to fail");
        until("readiness says it", || {
            let answer = forebay.get("/ready");
            answer.status == 503 && answer.text().contains("the journal cannot be written")
        });
        forebay.get("/live").ok(200);
        let refused = forebay.post_json(json!({"service": "s", "message": "m"}).to_string());
        refused.error(503, "journal_failed");
        ended.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(forebay.metric("forebay_actor_restarts_total", ""), 0.0);
    let code = forebay.stop();
    // 3 where the store could not take the last, 0 where it had them all.
    assert!(matches!(code, Some(0 | 3)), "{code:?}");
    drop(device);

    // The repair may find nothing, mend something, and say so by its code.
    let repaired = Command::new("fsck.ext4").args(["-p", "-f"]).arg(&image).output().unwrap();
    assert!(repaired.status.code() < Some(4), "{repaired:?}");
    let device = Device::ext4(place.file("device"), &image, 96, test).expect("it could be mounted before");
    assert!(device.remount("ro"));
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains(data_dir.to_str().unwrap()) && said.contains("Read-only file system"), "{said}");
    assert!(device.remount("rw"));
    let mut forebay = place.start();
    until("everything is delivered", || acknowledged.iter().all(|id| destination.has(id)));
    until("everything is stored", || forebay.counted() as usize >= acknowledged.len());
    acknowledged.iter().step_by(20).for_each(|id| drop(forebay.stored(id)));
    eprintln!("the file system failed: {} events acknowledged, 0 lost", acknowledged.len());
    assert_eq!(forebay.stop(), Some(0));
}

/// Posts until it is told to end; the ids of what was acknowledged.
fn post_until(client: usize, address: std::net::SocketAddr, ended: &AtomicBool) -> Vec<String> {
    let mut connection = Connection::open(address).unwrap();
    let (mut acknowledged, mut post) = (Vec::new(), 0);
    while !ended.load(Ordering::Relaxed) {
        post += 1;
        let ids: Vec<_> = (0..10).map(|event| format!("r{client}-{post}-{event}")).collect();
        let event = |id: &String| json!({"service": "s", "message": "m".repeat(100), "event_id": id});
        let body = Value::from(ids.iter().map(event).collect::<Vec<_>>()).to_string();
        let headers = [("Content-Type", "application/json")];
        let answer = connection.request("POST", "/events", &headers, body.as_bytes()).expect("it answers");
        match answer.status {
            202 => acknowledged.extend(ids),
            _ => drop(answer.error(503, "journal_failed")),
        }
    }
    acknowledged
}
