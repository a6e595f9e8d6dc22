//! Three servers that keep the stream together.

use super::*;
use crate::support::free_port;

/// Three servers of one cluster, or the word that the test is skipped.
fn three_servers(test: &str) -> Option<Vec<Service>> {
    let ports = [free_port(), free_port(), free_port()];
    let routes = ports.map(|port| format!("\"nats-route://127.0.0.1:{port}\"")).join(", ");
    let servers = ports.iter().map(|port| {
        let dir = Service::dir();
        let more = format!("cluster {{ name: tests, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}\n");
        std::fs::write(dir.path().join("more.conf"), more).unwrap();
        Service::start_in(dir, None, "nats", test)
    });
    servers.collect()
}

/// Scenario: a stream with three replicas; the server that leads it is killed with SIGKILL under load and comes back; then another.
/// Guarantee: events are taken and delivered again within seconds while one server is missing, and none is lost.
#[test]
fn p1_one_server_of_three_dies_and_nothing_is_lost() {
    let Some(mut servers) = three_servers("p1_one_server_of_three_dies_and_nothing_is_lost") else { return };
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    let destination = Destination::start();
    let place =
        place(&addresses.join(","), "replicas: 3, ack_wait: 2s", MAX_BYTES).sink("out", &destination.sink());
    place.write();
    // Until they have found each other, nobody can make a stream.
    until("the servers agree", || place.run(&["validate"]).code == Some(0));
    let forebay = place.start();
    let leader = || -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(addresses.clone()).await.ok()?;
            let stream = jetstream::new(client).get_stream("FOREBAY").await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        })
    };
    let (posts, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let address = forebay.address;
    let acknowledged: BTreeSet<String> = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..2).map(|_| scope.spawn(|| load(address, &posts, &ended))).collect();
        for _ in 0..2 {
            let before = destination.count();
            until("events come through", || destination.count() > before + 2000);
            let leader = crate::support::eventually("there is a leader", leader);
            let index =
                servers.iter().position(|server| leader.ends_with(&format!("-{}", server.port))).unwrap();
            servers[index].down("kill");
            let before = destination.count();
            until("it goes on with two", || destination.count() > before + 2000);
            servers[index].up();
        }
        ended.store(true, Ordering::Relaxed);
        loads.into_iter().flat_map(|load| load.join().unwrap()).collect()
    });
    all_arrived(&destination, &acknowledged);
}
