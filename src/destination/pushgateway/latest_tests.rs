use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
    thread,
};

use super::{super::PushgatewayDestination, *};

const ROOM: usize = 4096;

fn key(job: &str) -> GroupKey {
    vec![("job".to_owned(), job.to_owned())]
}

fn keep(groups: &mut Groups, job: &str, bytes: usize) {
    let mut group = Group::default();
    group.bytes += bytes;
    groups.keep(BTreeMap::from([(key(job), group)]), ROOM);
}

/// Scenario: a sink with `delete_on_exit` and a replay beside it have a destination each; both end, and then the sink.
/// Guarantee: what they have pushed is of both, and is deleted when the sink ends, not before. Whichever destination was dropped
/// deleted what it had pushed, and the other one knew nothing of it. What a command has pushed is no sink's, and stays.
#[test]
fn r0562_a_destination_that_was_dropped_deleted_what_its_sink_had_pushed() {
    let gateway = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", gateway.local_addr().unwrap());
    let options = PushgatewaySink { delete_on_exit: true, ..PushgatewaySink::to(url) };
    let (push, other) = (SinkName::from("push"), SinkName::from("other"));

    let commands = Gateways::default();
    let of_a_command = commands.of(&push, &options);
    keep(&mut of_a_command.groups.blocking_lock(), "a", 1);
    drop(of_a_command);
    assert!(commands.farewells.lock().unwrap().is_empty(), "a command deletes nothing");

    let gateways = Gateways::of_sinks();
    let latest = gateways.of(&push, &options);
    keep(&mut latest.groups.blocking_lock(), "a", 1);
    let of_a_replay = PushgatewayDestination::new(gateways.of(&push, &options)).unwrap();
    let of_the_sink = PushgatewayDestination::new(latest.clone()).unwrap();
    assert!(Arc::ptr_eq(&latest, &gateways.of(&push, &options)));
    assert!(!Arc::ptr_eq(&latest, &gateways.of(&other, &options)));
    drop((of_a_replay, of_the_sink));
    assert!(!latest.has_left.load(Ordering::Acquire), "a destination is no sink");
    assert!(gateways.farewells.lock().unwrap().is_empty());

    let answering = thread::spawn(move || {
        let (mut stream, _) = gateway.accept().unwrap();
        let mut request = vec![0; 4096];
        let bytes = stream.read(&mut request).unwrap();
        stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request[..bytes]).into_owned()
    });
    drop(latest);
    let request = answering.join().unwrap();
    assert!(request.starts_with("DELETE /metrics/job/a HTTP/1.1\r\n"), "{request}");
}

/// Other options are another sink's, also under the same name: what it pushes, and where, may be another.
#[test]
fn a_sink_with_other_options_begins_anew() {
    let gateways = Gateways::of_sinks();
    let (sink, options) = (SinkName::from("push"), PushgatewaySink::to("http://127.0.0.1:1".to_owned()));
    let before = gateways.of(&sink, &options);
    let other = PushgatewaySink { job: Some("a".to_owned()), ..options.clone() };
    let after = gateways.of(&sink, &other);
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(Arc::ptr_eq(&after, &gateways.of(&sink, &other)));
}

/// Scenario: there are more groups than `state_bytes` has room for, and the sink ends.
/// Guarantee: groups whose values were forgotten are known by name and deleted with the others, as far as a share of
/// `state_bytes` goes. They were left at the gateway for good.
#[test]
fn r0564_forgotten_groups_were_left_at_the_gateway() {
    let mut groups = Groups::default();
    let known = |groups: &Groups| {
        let mut known: Vec<_> = groups.names().map(|key| key[0].1.clone()).collect();
        known.sort();
        known.join("")
    };
    for job in ["a", "b", "c"] {
        keep(&mut groups, job, 1500);
    }
    assert_eq!((groups.held.len(), groups.forgotten.len()), (2, 1));
    assert_eq!(known(&groups), "abc");
    keep(&mut groups, "a", 1500);
    assert!(groups.held.contains_key(&key("a")) && !groups.forgotten.contains(&key("a")));
    assert_eq!(known(&groups), "abc");
    for job in ["d", "e", "f", "g", "h"] {
        keep(&mut groups, job, 1500);
        assert!(groups.bytes + groups.forgotten_bytes <= ROOM, "{groups:?}");
        assert!(groups.forgotten_bytes <= ROOM / FORGOTTEN_SHARE, "{groups:?}");
    }
    assert_eq!(groups.forgotten_bytes, groups.forgotten.iter().map(|key| key_bytes(key)).sum::<usize>());
}
