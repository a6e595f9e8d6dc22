//! Commits of which a part comes into the log before they are refused.

use super::*;
use crate::journal::closed::Closed;

/// Scenario: a commit of several segments does not fit on the device any more, but a part of it does, and is in the log; then the
/// process starts again.
/// Guarantee: nothing of what was refused is there. It was, and whoever sent it again had it twice.
#[test]
fn r0600_what_was_refused_was_there_after_a_restart() {
    let mut came_into_the_log = false;
    for left_kib in [1_000, 2_500, 3_500, 4_500] {
        let dir = TempDir::new().unwrap();
        let Some(device) = Device::mount(dir.path().join("device")) else {
            let name = "r0600_what_was_refused_was_there_after_a_restart";
            let _ = writeln!(std::io::stderr(), "SKIPPED {name}: a tmpfs cannot be mounted here");
            return;
        };
        let mut run = Run::new(&device.0);
        run.apply(&Op::Commit(vec![10]));
        run.fill();
        let ballast = fs::File::options().write(true).open(run.ballast()).unwrap();
        ballast.set_len(ballast.metadata().unwrap().len() - left_kib * 1024).unwrap();
        drop(ballast);
        run.apply(&Op::Commit(vec![400_000; 16]));
        assert_eq!(run.end, 1, "it is refused");
        run.free();
        run.reopen(|run| {
            let generation = run.home.join("journal").join(format!("{:020}", 0));
            let beside = dir.path().join("without its witness");
            fs::create_dir(&beside).unwrap();
            fs::copy(generation.join("db"), beside.join("db")).unwrap();
            let last = |generation: &Path| Closed::look(generation, Position(0)).unwrap().last_end();
            assert_eq!(last(&generation), Some(Position(1)));
            came_into_the_log |= last(&beside) > Some(Position(1));
        });
        run.compare(0);
    }
    assert!(came_into_the_log, "nothing of what was refused came into any log");
}
