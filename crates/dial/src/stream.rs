//! An open connection: a socket, or TLS over one where an upstream proxy is spoken to in TLS.
//!
//! What a caller does to sockets (options, resets, splicing) it does to [`Stream::tcp`]; bytes go
//! through the stream itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// The socket as it is.
    Tcp(TcpStream),
    /// Inside TLS to an upstream proxy. Boxed: few flows have one, and its state is large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// The socket underneath, for its options. Reading or writing it goes around TLS.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether the socket carries the bytes as they are, so that the kernel may move them.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self, Stream::Tcp(_))
    }

    /// The two directions, to be used at the same time.
    pub fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Stream::Tcp(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Stream::Tls(stream) => {
                let (read, write) = tokio::io::split(&mut **stream);
                (ReadHalf::Tls(read), WriteHalf::Tls(write))
            }
        }
    }

    /// Adds what is there right now to `buffer`, up to its capacity, without waiting; 0 is the end.
    /// TLS needs a turn of its own to see what is there: its waker is not kept.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] where nothing is there, or what broke the connection.
    pub fn try_read_buf(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_read_buf(buffer),
            Stream::Tls(stream) => {
                let mut nobody = Context::from_waker(std::task::Waker::noop());
                let mut bytes = [0; 1024];
                let room = (buffer.capacity() - buffer.len()).min(bytes.len());
                let mut read = ReadBuf::new(&mut bytes[..room]);
                match Pin::new(stream).poll_read(&mut nobody, &mut read) {
                    Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
                    Poll::Ready(done) => {
                        done?;
                        buffer.extend_from_slice(read.filled());
                        Ok(read.filled().len())
                    }
                }
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

/// What is written to TLS may wait in its buffers although the write is done: whoever has written
/// must flush before it waits for anything else.
impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// The reading side of a [`Stream`].
#[derive(Debug)]
pub enum ReadHalf<'a> {
    /// Of a socket.
    Tcp(tokio::net::tcp::ReadHalf<'a>),
    /// Of TLS.
    Tls(tokio::io::ReadHalf<&'a mut TlsStream<TcpStream>>),
}

impl ReadHalf<'_> {
    /// Adds what comes next to `buffer`, which gets room for `room` bytes; 0 is the end. An empty
    /// buffer in front of a socket is given back while it waits.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn fill(&mut self, buffer: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        match self {
            ReadHalf::Tcp(half) => loop {
                buffer.reserve(room);
                match half.try_read_buf(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
                if buffer.is_empty() {
                    *buffer = Vec::new();
                }
                half.readable().await?;
            },
            ReadHalf::Tls(half) => {
                buffer.reserve(room);
                half.read_buf(buffer).await
            }
        }
    }
}

/// The writing side of a [`Stream`].
#[derive(Debug)]
pub enum WriteHalf<'a> {
    /// Of a socket.
    Tcp(tokio::net::tcp::WriteHalf<'a>),
    /// Of TLS.
    Tls(tokio::io::WriteHalf<&'a mut TlsStream<TcpStream>>),
}

impl WriteHalf<'_> {
    /// Writes all of it, and sees it off to the kernel.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            while !bytes.is_empty() {
                let written = ready!(match self {
                    WriteHalf::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
                    WriteHalf::Tls(half) => Pin::new(half).poll_write(cx, bytes),
                })?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                bytes = &bytes[written..];
            }
            match self {
                WriteHalf::Tcp(_) => Poll::Ready(Ok(())),
                WriteHalf::Tls(half) => Pin::new(half).poll_flush(cx),
            }
        })
        .await
    }

    /// Says that nothing more will be written. The other direction goes on.
    ///
    /// # Errors
    /// What broke the connection.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            WriteHalf::Tcp(half) => half.shutdown().await,
            WriteHalf::Tls(half) => half.shutdown().await,
        }
    }
}
