//! What goes wrong when.

use std::time::Duration;

use super::schedule::{Fault, Wishes, plan};

fn wishes(seed: u64, total_s: u64) -> Wishes {
    Wishes {
        seed,
        total: Duration::from_secs(total_s),
        reload_every: Duration::from_secs(13),
        kill_every: Duration::ZERO,
    }
}

/// The same seed is the same run, another seed is another.
#[test]
fn a_plan_is_a_function_of_its_seed() {
    assert_eq!(plan(&wishes(7, 300)), plan(&wishes(7, 300)));
    assert_ne!(plan(&wishes(7, 300)), plan(&wishes(8, 300)));
}

/// The destination has one fault at a time, every kind of them in a minute, and none at the end of the run.
#[test]
fn faults_of_the_destination_follow_each_other() {
    for seed in 0..200 {
        let plan = plan(&wishes(seed, 90));
        let of_the_destination: Vec<_> = plan.iter().filter(|planned| planned.until > planned.at).collect();
        assert!(of_the_destination.windows(2).all(|pair| pair[0].until < pair[1].at));
        assert!(of_the_destination.iter().all(|planned| planned.until <= Duration::from_secs(77)));
        let kinds = Fault::OF_THE_DESTINATION;
        assert!(kinds.iter().all(|kind| plan.iter().any(|planned| planned.fault == *kind)), "{plan:?}");
        assert_eq!(plan.iter().filter(|planned| planned.fault == Fault::Reload).count(), 5);
        assert!(plan.iter().all(|planned| planned.fault != Fault::Kill));
    }
}
