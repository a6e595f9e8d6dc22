//! The plot of a run.

use std::time::Duration;

use super::{
    judge::{Allowance, judge},
    plot::{POINTS_MAX, Panel, Plot, shade, thinned},
    sample::Sample,
    schedule::{Fault, Planned},
};

const MIB: f64 = 1024.0 * 1024.0;

fn samples(count: usize) -> Vec<Sample> {
    let sample = |index: usize| Sample {
        seconds: index as f64 / 2.0,
        rss_bytes: (100.0 + index as f64) * MIB,
        acknowledged_per_s: 20_000.0,
        ..Sample::default()
    };
    (0..count).map(sample).collect()
}

/// A run of any length becomes a document with five panels, its faults, its verdict, and text that is escaped.
#[test]
fn a_run_becomes_a_document() {
    for count in [0, 1, 120, 50_000] {
        let samples = samples(count);
        let points: Vec<_> = samples.iter().map(|sample| (sample.seconds, sample.rss_bytes)).collect();
        let allowance = Allowance { absolute: 1.0, share: 0.0 };
        let verdicts: Vec<_> =
            judge(&points, allowance).into_iter().map(|verdict| (Panel::Rss, verdict)).collect();
        let seconds = Duration::from_secs;
        let faults = [
            Planned { fault: Fault::Hung, at: seconds(3), until: seconds(9) },
            Planned { fault: Fault::Kill, at: seconds(20), until: seconds(20) },
        ];
        let (title, subtitle, outcome) = ("<soak> & co", "", ("", false));
        let plot = Plot { title, subtitle, outcome, samples: &samples, faults: &faults, verdicts: &verdicts };
        let svg = plot.svg();
        assert!(svg.contains("&lt;soak> &amp; co") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<polyline").count(), 6);
        assert_eq!(svg.matches(shade(Fault::Hung)).count(), 6, "five panels and the legend");
        assert_eq!(svg.contains("allowed"), count >= 120);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.len() < 200_000, "{} bytes", svg.len());
    }
}

/// A night has more faults than a plot has columns: it says so instead of turning grey.
#[test]
fn too_many_faults_are_not_drawn() {
    let fault = |at: u64| Planned {
        fault: Fault::Hung,
        at: Duration::from_secs(9 * at),
        until: Duration::from_secs(9 * at + 3),
    };
    let drawn = |count| {
        let faults: Vec<_> = (0..count).map(fault).collect();
        let (samples, outcome) = (samples(120), ("", true));
        Plot { title: "", subtitle: "", outcome, samples: &samples, faults: &faults, verdicts: &[] }.svg()
    };
    assert!(drawn(9).contains(shade(Fault::Hung)) && !drawn(9).contains("too many"));
    assert!(!drawn(3000).contains(shade(Fault::Hung)) && drawn(3000).contains("3000 faults, too many"));
}

/// Thinning keeps the peaks.
#[test]
fn no_peak_is_lost() {
    let mut points: Vec<_> = (0..10_000).map(|at| (f64::from(at), 1.0)).collect();
    points[7_777].1 = 9.0;
    let thinned = thinned(&points);
    assert!(thinned.len() <= POINTS_MAX && thinned.contains(&(7_777.0, 9.0)));
    assert!(thinned.windows(2).all(|pair| pair[0].0 <= pair[1].0));
}
