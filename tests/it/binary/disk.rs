//! A device without space.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::support::{
    binary::{Forebay, Place},
    device::Device,
    http::Destination,
    until,
};

fn batch(from: usize) -> (Vec<String>, Value) {
    let ids: Vec<_> = (from..from + 20).map(|i| format!("d{i:06}")).collect();
    let noise = || (0..1_000).map(|_| fastrand::alphanumeric()).collect::<String>();
    let events = ids.iter().map(|id| json!({"service": "s", "message": noise(), "event_id": id})).collect();
    (ids, events)
}

fn store_has(forebay: &Forebay, ids: &[String]) -> bool {
    ids.iter().all(|id| forebay.get(&format!("/events/{id}")).status == 200)
}

/// The device fills up while events are posted: posts get 503 `disk_full`, nothing crashes, and when there is space
/// again events are accepted without a restart. Everything that was acknowledged is delivered, also to the store, which
/// lies on the same device.
#[test]
fn a_full_disk_is_a_503_and_nothing_is_lost() {
    let place = Place::new();
    let Some(device) = Device::tmpfs(place.file("device"), 24, "a_full_disk_is_a_503_and_nothing_is_lost")
    else {
        return;
    };
    let destination = Destination::start();
    let data_dir: &Path = &device.path.join("data");
    let place = place.with_data_dir(data_dir.to_owned()).sink("up", &destination.sink());
    let mut forebay = place.start();
    let mut acknowledged = Vec::new();
    let post = |acknowledged: &mut Vec<String>, n: usize| {
        let (ids, events) = batch(n * 20);
        let answer = forebay.post_json(events.to_string());
        if answer.status == 202 {
            acknowledged.extend(ids);
        } else {
            answer.error(503, "disk_full");
            assert!(answer.header("retry-after").is_some());
        }
        answer.status == 202
    };
    assert!(post(&mut acknowledged, 0));
    until("the first are stored", || store_has(&forebay, &acknowledged));
    let ballast = device.fill();
    let mut n = 1;
    let refused = (0..2_000).find(|_| {
        n += 1;
        !post(&mut acknowledged, n)
    });
    assert!(refused.is_some(), "the device is full, and everything is accepted");
    for _ in 0..20 {
        n += 1;
        post(&mut acknowledged, n);
    }
    forebay.get("/live").ok(200);
    fs::remove_file(ballast).unwrap();
    until("events are accepted again", || {
        n += 1;
        post(&mut acknowledged, n)
    });
    until("everything is delivered", || acknowledged.iter().all(|id| destination.has(id)));
    until("everything is stored", || store_has(&forebay, &acknowledged));
    assert_eq!(forebay.metric("forebay_actor_restarts_total", ""), 0.0, "nothing crashed");
    forebay.kill();
    let mut forebay = place.start();
    assert!(store_has(&forebay, &acknowledged));
    let rows = forebay.all_events("limit=1000").len();
    assert_eq!(rows as u64, forebay.counted());
    assert!(rows >= acknowledged.len());
    assert_eq!(forebay.stop(), Some(0));
}

/// A device that is full at the start is named, with its path and a code.
#[test]
fn a_full_disk_at_the_start_is_named() {
    let place = Place::new();
    let Some(device) = Device::tmpfs(place.file("device"), 24, "a_full_disk_at_the_start_is_named") else {
        return;
    };
    device.fill();
    let data_dir = device.path.join("data");
    let place = place.with_data_dir(data_dir.clone());
    place.write();
    let said = place.run(&["run"]).failed(1);
    assert!(said.contains(data_dir.to_str().unwrap()) && said.contains("space"), "{said}");
}
