//! Encrypted resolvers on the loopback: a certificate authority of the tests' own, a scripted server
//! over TLS, one over HTTPS, and one that says over TLS whatever it is told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis_dns::Authorities;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::world::{Heard, World, policy_of};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// What a gateway that trusts this authority is given.
    pub fn trusted(&self) -> Authorities {
        Authorities::Only(self.pem.as_bytes().into())
    }

    /// Accepts connections with a certificate for these names or addresses.
    fn acceptor(&self, names: &[&str], alpn: &[&str]) -> TlsAcceptor {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// What a server over TLS does about a question.
pub enum Act {
    Wait(Duration),
    /// A message, with its length before it.
    Send(Vec<u8>),
    /// Bytes as they are.
    Raw(Vec<u8>),
    /// The end of the connection.
    Close,
}

/// What a server over HTTPS was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub head: String,
    pub heard: Heard,
}

/// A server and what it heard.
pub struct SecureServer {
    pub address: SocketAddr,
    heard: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
}

type Accepted = tokio_rustls::server::TlsStream<TcpStream>;

impl SecureServer {
    /// Speaks DNS over TLS. The script is given the question, the number of the connection and of the
    /// question; what it says is done beside other questions' acts.
    pub async fn tls(
        acceptor: (&Authority, &[&str]),
        script: impl Fn(&Heard, usize, usize) -> Vec<Act> + Send + Sync + 'static,
    ) -> SecureServer {
        let script = Arc::new(script);
        let acceptor = acceptor.0.acceptor(acceptor.1, &[]);
        SecureServer::serve(acceptor, move |stream, from, connection, heard| {
            speak_tls(stream, from, connection, heard, script.clone())
        })
        .await
    }

    /// Speaks DNS over HTTPS, with `alpn` deciding between HTTP/2 and HTTP/1.1.
    pub async fn https(
        acceptor: (&Authority, &[&str]),
        alpn: &[&str],
        script: impl Fn(&Heard, usize) -> Response<Full<Bytes>> + Send + Sync + 'static,
    ) -> SecureServer {
        let script = Arc::new(script);
        let acceptor = acceptor.0.acceptor(acceptor.1, alpn);
        SecureServer::serve(acceptor, move |stream, from, _, heard| {
            speak_https(stream, from, heard, script.clone())
        })
        .await
    }

    /// Reads a little, says these bytes, closes.
    pub async fn saying(
        acceptor: (&Authority, &[&str]),
        alpn: &[&str],
        bytes: &'static [u8],
    ) -> SecureServer {
        let acceptor = acceptor.0.acceptor(acceptor.1, alpn);
        SecureServer::serve(acceptor, move |mut stream, _, _, _| async move {
            let mut some = [0; 1024];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        })
        .await
    }

    async fn serve<F>(
        acceptor: TlsAcceptor,
        speak: impl Fn(Accepted, SocketAddr, usize, Arc<Mutex<Vec<Asked>>>) -> F + Send + Sync + 'static,
    ) -> SecureServer
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let (log, count) = (heard.clone(), connections.clone());
        let speak = Arc::new(speak);
        tokio::spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::SeqCst);
                let (acceptor, speak, log) = (acceptor.clone(), speak.clone(), log.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        speak(stream, from, number, log).await;
                    }
                });
            }
        });
        SecureServer {
            address,
            heard,
            connections,
        }
    }

    /// Everything heard so far.
    pub fn heard(&self) -> Vec<Asked> {
        self.heard.lock().unwrap().clone()
    }

    /// Connections accepted so far, those whose handshake failed too.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn speak_tls<S>(
    stream: Accepted,
    from: SocketAddr,
    connection: usize,
    log: Arc<Mutex<Vec<Asked>>>,
    script: Arc<S>,
) where
    S: Fn(&Heard, usize, usize) -> Vec<Act> + Send + Sync + 'static,
{
    let (mut reader, writer) = tokio::io::split(stream);
    let writer = Arc::new(tokio::sync::Mutex::new(writer));
    while let Ok(length) = reader.read_u16().await {
        let mut bytes = vec![0; length.into()];
        if reader.read_exact(&mut bytes).await.is_err() {
            return;
        }
        let heard = Heard {
            bytes,
            from,
            tcp: true,
        };
        let nth = note(&log, String::new(), heard.clone());
        let acts = script(&heard, connection, nth);
        let writer = writer.clone();
        tokio::spawn(async move {
            for act in acts {
                match act {
                    Act::Wait(time) => tokio::time::sleep(time).await,
                    Act::Send(message) => {
                        let mut frame = (message.len() as u16).to_be_bytes().to_vec();
                        frame.extend_from_slice(&message);
                        let mut writer = writer.lock().await;
                        let _ = writer.write_all(&frame).await;
                        let _ = writer.flush().await;
                    }
                    Act::Raw(bytes) => {
                        let mut writer = writer.lock().await;
                        let _ = writer.write_all(&bytes).await;
                        let _ = writer.flush().await;
                    }
                    Act::Close => drop(writer.lock().await.shutdown().await),
                }
            }
        });
    }
}

async fn speak_https<S>(
    stream: Accepted,
    from: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    script: Arc<S>,
) where
    S: Fn(&Heard, usize) -> Response<Full<Bytes>> + Send + Sync + 'static,
{
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request: Request<Incoming>| {
        let (log, script) = (log.clone(), script.clone());
        async move {
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.unwrap().to_bytes().to_vec();
            let heard = Heard {
                bytes,
                from,
                tcp: true,
            };
            let text = format!(
                "{} {} {:?} {:?}",
                head.method, head.uri, head.version, head.headers
            );
            let nth = note(&log, text, heard.clone());
            Ok::<_, Infallible>(script(&heard, nth))
        }
    });
    let stream = TokioIo::new(stream);
    if two {
        let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http.serve_connection(stream, service).await;
    } else {
        let http = hyper::server::conn::http1::Builder::new();
        let _ = http.serve_connection(stream, service).await;
    }
}

fn note(log: &Mutex<Vec<Asked>>, head: String, heard: Heard) -> usize {
    let mut log = log.lock().unwrap();
    log.push(Asked { head, heard });
    log.len() - 1
}

/// A world whose policy names these resolvers and `settings` of `[network.dns]`, and whose gateway
/// trusts `authority`; names below `example` are listed.
pub fn secure_world(authority: &Authority, resolvers: &[String], settings: &str) -> World {
    let policy = policy_of(&format!(
        "version = 1\n[network.dns]\nresolvers = {resolvers:?}\n{settings}\n\
         [network.domains]\n\"*.example\" = \"allow\"\n"
    ));
    World::with(policy, Vec::new(), |config| {
        config.authorities = authority.trusted();
        config.ipv6_route = Arc::new(|| false);
    })
}
