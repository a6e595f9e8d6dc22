//! Found with the real binary.

use serde_json::json;

use crate::support::{binary::Place, http::Destination, until};

/// A journal that was full stayed "not ready" until somebody posted; but who is not ready is sent nothing by a load
/// balancer, so it would have stayed so for ever. Readiness comes back alone.
#[test]
fn r0101_readiness_comes_back_without_a_post() {
    let destination = Destination::start();
    destination.answer(503);
    let place = Place::empty().sink("up", &destination.sink());
    let forebay = place.section("buffer: { durability: memory, max_bytes: 16KiB }").start();
    let event = json!({"service": "s", "message": "m".repeat(1_000)}).to_string();
    until("the journal is full", || forebay.post_json(&event).status == 503);
    forebay.get("/ready").error(503, "not_ready");
    destination.answer(200);
    until("it is ready", || forebay.get("/ready").status == 200);
    forebay.post_json(&event).ok(202);
}
