//! What is called growth.

use super::judge::{Allowance, judge};

const MIB: f64 = 1024.0 * 1024.0;
const ALLOWANCE: Allowance = Allowance { absolute: 8.0 * MIB, share: 0.1 };

/// Two samples a second for `seconds`.
fn run(seconds: u32, value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    (0..2 * seconds).map(|half| f64::from(half) / 2.0).map(|at| (at, value(at))).collect()
}

/// Noise without chance: between -1 and 1, and of no period that a window could have.
fn noise(at: f64) -> f64 {
    (at * 12.9898).sin()
}

/// Humps of 60 MiB for 4 of every 10 s, as a backlog makes them.
fn humps(at: f64) -> f64 {
    if at % 10.0 < 4.0 { 60.0 * MIB } else { 0.0 }
}

fn holds(points: &[(f64, f64)]) -> bool {
    judge(points, ALLOWANCE).unwrap().holds()
}

/// A steady run holds, whatever its noise, its humps and how it began.
#[test]
fn what_comes_back_down_is_no_growth() {
    for seconds in [60, 600] {
        assert!(holds(&run(seconds, |at| 100.0 * MIB + 5.0 * MIB * noise(at))));
        assert!(holds(&run(seconds, |at| 100.0 * MIB + humps(at) + MIB * noise(at))));
        let filling = |at: f64| 100.0 * MIB - 80.0 * MIB * (-at / 5.0).exp();
        assert!(holds(&run(seconds, filling)));
        assert!(holds(&run(seconds, |at| 100.0 * MIB - MIB * at / f64::from(seconds))));
    }
}

/// A leak is found under noise and humps, in a minute as in ten, and measured within a fifth.
#[test]
fn what_only_rises_is_growth() {
    for seconds in [60, 600] {
        let leak = |at: f64| 40.0 * MIB * at / f64::from(seconds);
        for hump in [0.0, 1.0] {
            let points = run(seconds, |at| 50.0 * MIB + leak(at) + hump * humps(at) + MIB * noise(at));
            let verdict = judge(&points, ALLOWANCE).unwrap();
            assert!(!verdict.holds(), "{verdict:?}");
            let grown = verdict.line.growth() / MIB;
            assert!((15.0..23.0).contains(&grown), "20 MiB in the second half, {grown} were found");
        }
    }
}

/// A hump at the very end, or values that are far off, say nothing.
#[test]
fn a_few_values_far_off_change_nothing() {
    assert!(holds(&run(60, |at| if at > 56.0 { 900.0 * MIB } else { 50.0 * MIB })));
    assert!(holds(&run(60, |at| if (38.0..42.0).contains(&at) { 1.0 } else { 50.0 * MIB })));
}

/// The allowance is whichever is more: of 1 GiB, a tenth may come on top.
#[test]
fn the_allowance_is_the_larger_of_both() {
    let rising = |from: f64| run(60, move |at| from + 20.0 * MIB * at / 60.0);
    assert!(!holds(&rising(0.0)));
    assert!(holds(&rising(1024.0 * MIB)));
}

/// Of too few values nothing is said.
#[test]
fn too_short_a_run_has_no_verdict() {
    assert_eq!(judge(&[], ALLOWANCE), None);
    assert_eq!(judge(&run(3, |_| 1.0), ALLOWANCE), None);
    assert_eq!(judge(&[(1.0, 1.0); 9], ALLOWANCE), None);
}
