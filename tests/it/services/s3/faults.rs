//! Faults of the stores, and what they are asked for: each store in its own words.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    bucket::{Bucket, Kind, Who, signature},
    delivered,
    front::{Turn, answer, front},
    ids_of,
};
use crate::{
    services::{a_full_device_is_waited_for, complains, event, p3_cuts_lose_and_double_nothing, post},
    support::{
        PATIENCE,
        binary::{Finished, Place, command},
    },
};

fn count(bucket: &Bucket) -> u64 {
    ids_of(&bucket.objects()).len() as u64
}

/// Scenario: who writes may read only; `validate` asks, then events come, and later the rights do.
/// Guarantee: both say it in the store's own words, the events wait, and each is there once.
fn rights_are_waited_for(kind: Kind, word: &str, test: &str) {
    let Some(bucket) = Bucket::start(kind, test) else { return };
    let reader = bucket.sink_by(bucket.service.port, &bucket.reader(), "archive", "");
    let mut place = Place::empty().sink("archive", &reader);
    place.write();
    let said = place.run(&["validate"]).failed(1);
    assert!(said.contains(word), "{said}");
    let mut forebay = place.start();
    post(&forebay, &[event("a"), event("b")]);
    complains(&forebay, word);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "archive"), 0.0);
    // Not in order: it would try for the whole of its time.
    forebay.kill();
    place.set_sink("archive", Some(&bucket.sink("")));
    place.write();
    let forebay = place.start();
    delivered(&forebay, 2);
    assert_eq!(ids_of(&bucket.objects()), ["a", "b"].map(str::to_owned).into());
}

#[test]
fn a_read_only_bucket_of_minio_is_waited_for() {
    rights_are_waited_for(Kind::Minio, "403 AccessDenied", "a_read_only_bucket_of_minio_is_waited_for");
}

/// The rights are those of a shared access signature, which never shows.
#[test]
fn a_read_only_signature_of_azure_is_waited_for() {
    let test = "a_read_only_signature_of_azure_is_waited_for";
    rights_are_waited_for(Kind::Azurite, "403 AuthorizationPermissionMismatch", test);
}

/// Scenario: Azure is written to by a shared access signature; then the server is away.
/// Guarantee: what it signs is done, and nothing of it shows in what is said of the failure.
#[test]
fn a_shared_access_signature_writes_and_does_not_show() {
    let Some(mut bucket) = Bucket::start(Kind::Azurite, "a_shared_access_signature_writes_and_does_not_show")
    else {
        return;
    };
    let own = format!("account: forebay, sas_token: \"{}\"", signature("rcwd"));
    let keys = ", batch: { max_wait: 100ms }";
    let place = Place::empty().sink("archive", &bucket.sink_by(bucket.service.port, &own, "archive", keys));
    let forebay = place.start();
    place.run(&["validate"]).ok();
    post(&forebay, &[event("a")]);
    delivered(&forebay, 1);
    bucket.toggle(true);
    post(&forebay, &[event("b")]);
    complains(&forebay, "tcp connect error");
    let said = forebay.get("/health").text() + &forebay.log();
    assert!(!said.contains("sig=") && !said.contains("2099"), "{said}");
    bucket.toggle(false);
    delivered(&forebay, 2);
    assert_eq!(count(&bucket), 2);
}

/// Where the configuration has no credentials, those of the vendor's own variables count.
fn variables_say_who_writes(kind: Kind, sets: &[&[(&str, String)]], test: &str) {
    let Some(bucket) = Bucket::start(kind, test) else { return };
    for own in sets {
        let sink = bucket.sink_by(bucket.service.port, "timeout: 30s", "archive", "");
        let place = Place::empty().sink("archive", &sink);
        let dir = bucket.service.dir.path().to_str().unwrap();
        let own = own.iter().map(|(name, value)| (name, value.replace("DIR", dir)));
        let mut validate = command();
        validate.arg("--config").arg(place.write()).arg("validate").envs(own);
        Finished::of(&mut validate).ok();
    }
}

#[test]
fn variables_of_amazon_say_who_writes() {
    let own = [
        ("AWS_ACCESS_KEY_ID", "forebay".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", Who::Writer.secret().to_owned()),
    ];
    variables_say_who_writes(Kind::Minio, &[&own], "variables_of_amazon_say_who_writes");
}

#[test]
fn variables_of_google_say_who_writes() {
    let own = [("GOOGLE_APPLICATION_CREDENTIALS", "DIR/service-account.json".to_owned())];
    variables_say_who_writes(Kind::Gcs, &[&own], "variables_of_google_say_who_writes");
}

#[test]
fn variables_of_azure_say_who_writes() {
    let account = ("AZURE_STORAGE_ACCOUNT", "forebay".to_owned());
    let key = [account.clone(), ("AZURE_STORAGE_KEY", STANDARD.encode(Who::Writer.secret()))];
    let signed = [account, ("AZURE_STORAGE_SAS_TOKEN", signature("rcwd"))];
    variables_say_who_writes(Kind::Azurite, &[&key, &signed], "variables_of_azure_say_who_writes");
}

fn a_full_store_is_waited_for(kind: Kind, mib: u64, words: &str, test: &str) {
    let Some(bucket) = Bucket::start_on_device(kind, mib, test) else { return };
    let sink = bucket.sink(", batch: { max_wait: 100ms }");
    a_full_device_is_waited_for(&bucket.service, &sink, words, || count(&bucket));
}

#[test]
fn a_full_minio_is_waited_for() {
    a_full_store_is_waited_for(Kind::Minio, 64, "507 XMinioStorageFull", "a_full_minio_is_waited_for");
}

#[test]
fn a_full_gcs_is_waited_for() {
    a_full_store_is_waited_for(Kind::Gcs, 32, "no space left on device", "a_full_gcs_is_waited_for");
}

#[test]
fn a_full_azurite_is_waited_for() {
    a_full_store_is_waited_for(
        Kind::Azurite,
        48,
        "500 Internal Server Error",
        "a_full_azurite_is_waited_for",
    );
}

fn cuts_lose_and_double_nothing(kind: Kind, test: &str) {
    let Some(bucket) = Bucket::start(kind, test) else { return };
    let keys = ", batch: { max_wait: 20ms }";
    let sink = |port| bucket.sink_at(port, Who::Writer, "archive", keys);
    p3_cuts_lose_and_double_nothing(&bucket.service, sink, (1_600, 300), || count(&bucket));
}

#[test]
fn p3_cuts_lose_and_double_nothing_in_minio() {
    cuts_lose_and_double_nothing(Kind::Minio, "p3_cuts_lose_and_double_nothing_in_minio");
}

#[test]
fn p3_cuts_lose_and_double_nothing_in_gcs() {
    cuts_lose_and_double_nothing(Kind::Gcs, "p3_cuts_lose_and_double_nothing_in_gcs");
}

#[test]
fn p3_cuts_lose_and_double_nothing_in_azurite() {
    cuts_lose_and_double_nothing(Kind::Azurite, "p3_cuts_lose_and_double_nothing_in_azurite");
}

/// Scenario: the store asks for a slower pace, with a time to wait, twice instead of writing and once after it has written.
/// Guarantee: it is not asked before that time, although the sink would try sooner by itself; nothing is lost, no object is there
/// twice.
fn throttling_is_obeyed(kind: Kind, status: &'static str, code: &'static str, test: &str) {
    const WAIT: Duration = Duration::from_secs(1);
    let Some(bucket) = Bucket::start(kind, test) else { return };
    // When each object was asked to be written.
    let asked = Arc::new(Mutex::new(Vec::new()));
    let port = front(bucket.service.port, {
        let asked = asked.clone();
        move |head| {
            if !head.starts_with("PUT ") {
                return Turn::Passed;
            }
            let mut asked = asked.lock().unwrap();
            asked.push(Instant::now());
            let body = format!("<Error><Code>{code}</Code><Message>slower</Message></Error>");
            let slower = answer(status, "Retry-After: 1\r\n", &body);
            match asked.len() {
                1 | 2 => Turn::Answered(slower),
                3 => Turn::Done(slower),
                _ => Turn::Passed,
            }
        }
    });
    let sink = bucket.sink_at(port, Who::Writer, "archive", ", batch: { max_wait: 20ms }");
    let forebay = Place::empty().sink("archive", &sink).start();
    let posted: Vec<Value> = (0..50).map(|id| event(&format!("e{id}"))).collect();
    post(&forebay, &posted);
    complains(&forebay, code);
    delivered(&forebay, posted.len());
    assert_eq!(forebay.metric("forebay_sink_errors_total", "throttled"), 3.0);
    assert_eq!(forebay.metric("forebay_sink_dead_letters_total", "archive"), 0.0);
    let asked = asked.lock().unwrap();
    for pair in asked.windows(2).take(3) {
        assert!(pair[1] - pair[0] >= WAIT, "{:?}", pair[1] - pair[0]);
    }
    let objects = bucket.objects();
    assert_eq!((objects.len(), ids_of(&objects).len()), (1, posted.len()));
}

#[test]
fn throttling_by_s3_is_obeyed() {
    throttling_is_obeyed(Kind::Minio, "503 Slow Down", "SlowDown", "throttling_by_s3_is_obeyed");
}

#[test]
fn throttling_by_google_is_obeyed() {
    throttling_is_obeyed(Kind::Gcs, "429 Too Many Requests", "SlowDown", "throttling_by_google_is_obeyed");
}

#[test]
fn throttling_by_azure_is_obeyed() {
    throttling_is_obeyed(Kind::Azurite, "503 Server Busy", "ServerBusy", "throttling_by_azure_is_obeyed");
}

/// What is asked for is in each store's own headers: storage class, encryption and the token of temporary credentials of S3, the
/// class of Google's, the tier of Azure's.
#[test]
fn what_a_store_is_asked_for_is_in_the_headers() {
    let account = r#"{"type": "service_account", "private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": true}"#;
    let amazon = "access_key_id: me, secret_access_key: secret-123, session_token: token-1, storage_class: GLACIER_IR, \
                  encryption: kms, kms_key_id: key-1";
    let google = format!("credentials_json: '{account}', storage_class: NEARLINE, overwrite: false");
    let azure = "account: me, account_key: c2VjcmV0LTEyMw==, storage_class: Cool, overwrite: false";
    for (url, path, own, expected) in [
        (
            "s3://archive",
            "",
            amazon,
            &[
                "put /archive/events/api/date%3d2026-05-06/hour%3d07/",
                "x-amz-storage-class: glacier_ir",
                "x-amz-server-side-encryption: aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id: key-1",
                "x-amz-security-token: token-1",
                "content-type: application/gzip",
            ][..],
        ),
        (
            "gs://archive/a",
            "",
            google.as_str(),
            &[
                "put /archive/a%2fevents%2fapi%2fdate%3d2026%2d05%2d06%2fhour%3d07%2f",
                "x-goog-storage-class: nearline",
                "x-goog-if-generation-match: 0",
                "content-type: application/gzip",
            ][..],
        ),
        (
            "az://archive/a",
            "/me",
            azure,
            &[
                "put /me/archive/a/events/api/date=2026-05-06/hour=07/",
                "x-ms-access-tier: cool",
                "x-ms-blob-type: blockblob",
                "x-ms-blob-content-type: application/gzip",
                "if-none-match: *",
                "authorization: sharedkey me:",
            ][..],
        ),
    ] {
        let (said, heard) = mpsc::channel();
        let port = front(0, move |head| {
            // The test may have heard enough.
            let _ = said.send(head.to_ascii_lowercase());
            Turn::Answered(answer("200 OK", "ETag: \"1\"\r\n", ""))
        });
        let sink =
            format!("{{ type: s3, url: \"{url}\", endpoint: \"http://127.0.0.1:{port}{path}/\", {own} }}");
        let forebay = Place::empty().sink("archive", &sink).start();
        post(&forebay, &[event("a")]);
        let head = heard.recv_timeout(PATIENCE).unwrap();
        for expected in expected {
            assert!(head.contains(expected), "{expected} in {head}");
        }
    }
}

/// The port of a store that answers each request by its method, with a status and a code, and a clock that stands still.
fn answering(of: impl Fn(&str) -> (&'static str, &'static str) + Send + Clone + 'static) -> u16 {
    front(0, move |head| {
        let (status, code) = of(head.split(' ').next().unwrap_or_default());
        let body = match code {
            "" => "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u</UploadId>\
                   </InitiateMultipartUploadResult>"
                .to_owned(),
            code => format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
        };
        Turn::Answered(answer(status, "Date: Sun, 31 May 2015 08:00:00 GMT\r\n", &body))
    })
}

/// Scenario: a store lets read and not write; then it lets write, and not give up what was begun.
/// Guarantee: `validate` sees the first, which a look at what is there does not, and passes the second, and says so. It says that
/// the store's clock is off.
#[test]
fn r0511_validate_passed_a_bucket_that_cannot_be_written() {
    let says = |of: fn(&str) -> (&'static str, &'static str)| {
        let port = answering(of);
        let sink = format!(
            "{{ type: s3, url: \"s3://archive\", endpoint: \"http://127.0.0.1:{port}/\", access_key_id: me, secret_access_key: secret-123 }}"
        );
        let place = Place::empty().sink("archive", &sink);
        place.write();
        place.run(&["validate"])
    };
    let said = says(|method| match method {
        "POST" => ("403 Forbidden", "AccessDenied"),
        _ => ("404 Not Found", "NoSuchKey"),
    });
    let said = said.failed(1);
    assert!(said.contains("FAIL  sink archive  s3    yes        NO          ?       "), "{said}");
    assert!(said.contains("403 AccessDenied") && said.contains("s behind"), "{said}");
    let said = says(|method| match method {
        "POST" => ("200 OK", ""),
        _ => ("403 Forbidden", "AccessDenied"),
    });
    let said = said.ok();
    assert!(said.contains("warn  sink archive  s3    yes        yes"), "{said}");
    assert!(said.contains("could not be given up") && said.contains("s behind"), "{said}");
}
