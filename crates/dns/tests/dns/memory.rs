//! A network in memory: scripted resolvers at any address, reached without a socket, so that a
//! scenario runs in virtual time (`#[tokio::test(start_paused = true)]`).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use portcullis_dns::{ByteStream, Datagrams, Network};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::world::{Act, Heard, Script};

/// Datagrams on the way; more are lost, as on a real socket.
const IN_FLIGHT: usize = 64;

/// Resolvers by address. An address without one refuses, as a closed port does.
#[derive(Clone, Default)]
pub struct MemoryNetwork {
    servers: Arc<Mutex<HashMap<SocketAddr, Script>>>,
    heard: Arc<Mutex<Vec<(SocketAddr, Heard)>>>,
    next_port: Arc<AtomicU16>,
}

impl fmt::Debug for MemoryNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryNetwork")
    }
}

impl MemoryNetwork {
    /// Puts a resolver at an address; the script's second argument counts what that address heard.
    pub fn serve(
        &self,
        at: SocketAddr,
        script: impl Fn(&Heard, usize) -> Vec<Act> + Send + Sync + 'static,
    ) {
        self.servers.lock().unwrap().insert(at, Arc::new(script));
    }

    /// Takes the resolver at an address away: it refuses from now on.
    pub fn close(&self, at: SocketAddr) {
        self.servers.lock().unwrap().remove(&at);
    }

    /// What the resolver at an address heard so far.
    pub fn heard(&self, at: SocketAddr) -> Vec<Heard> {
        let all = self.heard.lock().unwrap();
        let here = all.iter().filter(|(server, _)| *server == at);
        here.map(|(_, heard)| heard.clone()).collect()
    }

    fn script(&self, at: SocketAddr) -> io::Result<Script> {
        let found = self.servers.lock().unwrap().get(&at).cloned();
        found.ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }

    fn port(&self) -> SocketAddr {
        let port = 20_000 + self.next_port.fetch_add(1, Ordering::Relaxed) % 20_000;
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn hear(&self, at: SocketAddr, heard: &Heard) -> usize {
        let mut all = self.heard.lock().unwrap();
        all.push((at, heard.clone()));
        all.iter().filter(|(server, _)| *server == at).count() - 1
    }
}

impl Network for MemoryNetwork {
    fn udp(&self, server: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Datagrams>>> {
        Box::pin(async move {
            let (answers, receiver) = mpsc::channel(IN_FLIGHT);
            Ok(Box::new(MemorySocket {
                network: self.clone(),
                from: self.port(),
                server,
                answers,
                receiver: AsyncMutex::new(receiver),
            }) as Box<dyn Datagrams>)
        })
    }

    fn stream(&self, server: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            let script = self.script(server)?;
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            tokio::spawn(serve_stream(self.clone(), server, script, theirs));
            Ok(Box::new(ours) as Box<dyn ByteStream>)
        })
    }
}

struct MemorySocket {
    network: MemoryNetwork,
    from: SocketAddr,
    server: SocketAddr,
    answers: mpsc::Sender<Vec<u8>>,
    receiver: AsyncMutex<mpsc::Receiver<Vec<u8>>>,
}

impl Datagrams for MemorySocket {
    fn send<'a>(&'a self, datagram: &'a [u8]) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let script = self.network.script(self.server)?;
            let heard = Heard {
                bytes: datagram.to_vec(),
                from: self.from,
                tcp: false,
            };
            let nth = self.network.hear(self.server, &heard);
            let answers = self.answers.clone();
            tokio::spawn(async move {
                for act in script(&heard, nth) {
                    match act {
                        Act::Wait(time) => tokio::time::sleep(time).await,
                        Act::Send(bytes) => drop(answers.try_send(bytes)),
                    }
                }
            });
            Ok(())
        })
    }

    fn recv<'a>(&'a self, buffer: &'a mut [u8]) -> BoxFuture<'a, io::Result<usize>> {
        Box::pin(async move {
            // The sender lives as long as the socket: there is always something to wait for.
            let Some(bytes) = self.receiver.lock().await.recv().await else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            let length = bytes.len().min(buffer.len());
            buffer[..length].copy_from_slice(&bytes[..length]);
            Ok(length)
        })
    }
}

async fn serve_stream(
    network: MemoryNetwork,
    at: SocketAddr,
    script: Script,
    mut stream: tokio::io::DuplexStream,
) -> io::Result<()> {
    let from = network.port();
    while let Ok(length) = stream.read_u16().await {
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await?;
        let heard = Heard {
            bytes,
            from,
            tcp: true,
        };
        let nth = network.hear(at, &heard);
        for act in script(&heard, nth) {
            match act {
                Act::Wait(time) => tokio::time::sleep(time).await,
                Act::Send(bytes) => {
                    stream.write_u16(bytes.len() as u16).await?;
                    stream.write_all(&bytes).await?;
                }
            }
        }
    }
    Ok(())
}
