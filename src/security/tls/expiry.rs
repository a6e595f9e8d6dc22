//! When a certificate expires: the one thing that is read out of its DER by hand, because what checks certificates
//! does not tell.

use forebay_actors::event::Timestamp;

const SEQUENCE: u8 = 0x30;
/// The version, which may be absent.
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the certificate's validity; `None` where it is no certificate. One without an end, which is written as the
/// last second of the year 9999, expires at the last instant that there is.
pub(super) fn of(certificate: &[u8]) -> Option<Timestamp> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (signed, _) = element(certificate, SEQUENCE)?;
    let rest = element(signed, VERSION).map_or(signed, |(_, rest)| rest);
    // Serial number, algorithm and issuer stand before it.
    let rest = (0..3).try_fold(rest, |rest, _| any_element(rest).map(|(_, _, rest)| rest))?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (_, _, not_after) = any_element(validity)?;
    let (tag, text, _) = any_element(not_after)?;
    time(tag, std::str::from_utf8(text).ok()?)
}

/// The tag and the content of the first element, and what stands behind it.
fn any_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let fits = !length.is_empty() && length.len() <= 4;
        (fits.then(|| length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)))?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn element(bytes: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    any_element(bytes).filter(|(tag, ..)| *tag == wanted).map(|(_, content, rest)| (content, rest))
}

fn time(tag: u8, text: &str) -> Option<Timestamp> {
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let century = if year.parse::<u8>().ok()? < 50 { "20" } else { "19" };
            (format!("{century}{year}"), rest)
        }
        GENERALIZED_TIME => text.split_at_checked(4).map(|(year, rest)| (year.to_owned(), rest))?,
        _ => return None,
    };
    let digits = rest.strip_suffix('Z').filter(|rest| rest.len() == 10 && rest.is_ascii())?;
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| &digits[at..at + 2]);
    if year.parse::<u16>().ok()? > 2261 {
        return Some(Timestamp::from_nanos(i64::MAX));
    }
    Timestamp::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z")).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn text(tag: u8, text: &str) -> Option<String> {
        time(tag, text).map(|time| time.to_string())
    }

    #[test]
    fn both_forms_of_a_time_are_read() {
        assert_eq!(text(UTC_TIME, "491231235959Z").as_deref(), Some("2049-12-31T23:59:59Z"));
        assert_eq!(text(UTC_TIME, "500101000000Z").as_deref(), Some("1950-01-01T00:00:00Z"));
        assert_eq!(text(GENERALIZED_TIME, "20500229000000Z"), None, "there is no such day");
        assert_eq!(text(GENERALIZED_TIME, "20520229010203Z").as_deref(), Some("2052-02-29T01:02:03Z"));
        assert_eq!(time(GENERALIZED_TIME, "99991231235959Z"), Some(Timestamp::from_nanos(i64::MAX)));
        for wrong in ["", "4912312359Z", "491231235959", "é91231235959Z", "4912312359é9Z"] {
            assert_eq!(text(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    });

    proptest! {
        /// Of a certificate's bytes, cut anywhere or changed, something is read or nothing; never a panic.
        #[test]
        fn any_bytes_end(mut at in 0_usize..400, byte: u8) {
            let mut der = CERTIFICATE.clone();
            prop_assert!(of(&der).is_some());
            at %= der.len();
            prop_assert_eq!(of(&der[..at]), None);
            der[at] = byte;
            let _ = of(&der);
        }
    }
}
