//! TLS, both ways, over both protocols.

use std::time::Duration;

use forebay_client::{BuildError, Client, Failure, Outcome, Retry, Tls};
use tokio::net::TcpListener;

use crate::support::{Authority, Protocol, Server, acceptor, send};

async fn outcome(client: &Client) -> Result<Outcome, Failure> {
    send(client, &["a"]).await.pop().unwrap().await.map_err(|back| back.failure)
}

/// A server is trusted by the authority that was named and no other, under its own name; a client is let in by its
/// certificate. What is wrong is said, and nothing is sent.
#[tokio::test]
async fn both_sides_prove_who_they_are() {
    for (protocol, scheme, alpn) in [(Protocol::Http, "https", "http/1.1"), (Protocol::Grpc, "grpcs", "h2")] {
        let (ours, others) = (Authority::new(), Authority::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = acceptor(&ours.identity("127.0.0.1"), &ours, alpn.as_bytes());
        let server = Server::listen(listener, protocol, Some(tls), []);
        let client = |tls| {
            let retry = Retry::attempts(2).first_wait(Duration::from_millis(5));
            server.builder(scheme).retry(retry).tls(tls).build().unwrap()
        };
        let me = ours.identity("till");
        let right = Tls::new().authority(&*ours.pem).identity(&*me.certificate_pem, &*me.key_pem);
        assert_eq!(outcome(&client(right)).await, Ok(Outcome::Delivered), "{scheme}");

        let stranger = Tls::new().authority(&*others.pem).identity(&*me.certificate_pem, &*me.key_pem);
        let said = outcome(&client(stranger)).await.unwrap_err().to_string();
        assert!(said.contains("certificate"), "{scheme}: {said}");
        for tls in [Tls::new().authority(&*ours.pem), {
            let unknown = others.identity("till");
            Tls::new().authority(&*ours.pem).identity(&*unknown.certificate_pem, &*unknown.key_pem)
        }] {
            assert!(matches!(outcome(&client(tls)).await, Err(Failure::GaveUp { .. })), "{scheme}");
        }
        assert_eq!(server.came().len(), 1, "{scheme}");
    }
}

/// Certificates and keys that cannot be used are said when the client is built.
#[tokio::test]
async fn unusable_certificates_are_said() {
    let ours = Authority::new();
    let me = ours.identity("till");
    let other = ours.identity("other");
    for (tls, wanted) in [
        (Tls::new().authority("nothing"), "no certificate in it"),
        (Tls::new().authority(&*ours.pem).identity(&*me.certificate_pem, "nothing"), "key"),
        (Tls::new().authority(&*ours.pem).identity(&*me.certificate_pem, &*other.key_pem), "key"),
    ] {
        let error = Client::builder("https://127.0.0.1:1").tls(tls).build().unwrap_err();
        assert!(matches!(&error, BuildError::Tls(why) if why.contains(wanted)), "{wanted}: {error}");
    }
    for url in ["127.0.0.1:8080", "ftp://x", "http://", "grpc://"] {
        let error = Client::builder(url).build().unwrap_err();
        assert!(matches!(error, BuildError::Url { .. }), "{url}: {error}");
    }
    let error = Client::builder("http://127.0.0.1:1").token("a\nb").build().unwrap_err();
    assert!(!error.to_string().contains('\n'), "{error:?}");
    assert!(!format!("{:?}", Client::builder("http://x").token("secret")).contains("secret"));
}
