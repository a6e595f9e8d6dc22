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

/// Thinning keeps the peaks.
#[test]
fn no_peak_is_lost() {
    let mut points: Vec<_> = (0..10_000).map(|at| (f64::from(at), 1.0)).collect();
    points[7_777].1 = 9.0;
    let thinned = thinned(&points);
    assert!(thinned.len() <= POINTS_MAX && thinned.contains(&(7_777.0, 9.0)));
    assert!(thinned.windows(2).all(|pair| pair[0].0 <= pair[1].0));
}
