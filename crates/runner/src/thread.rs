//! Threads that a gateway cannot go on without, as parts of it.
//!
//! Answers *exhaustion* (docs/threats.md): each is started before the program is, which may use up the
//! process ids of its user later.

use std::any::Any;
use std::io;
use std::thread::Builder;
use tokio::sync::oneshot;

/// Starts a thread. What it returns is ready when the thread has ended, with an error where it
/// panicked.
///
/// # Errors
/// There is no thread left.
pub(crate) fn start(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<impl Future<Output = io::Result<()>> + Send + 'static> {
    let (done, ended) = oneshot::channel::<()>();
    let thread = Builder::new().name(name.to_owned()).spawn(move || {
        // Dropped at its end, whatever that is.
        let _done = done;
        work();
    })?;
    Ok(async move {
        let _ = ended.await;
        thread.join().map_err(|panic| {
            let message = message(&*panic);
            io::Error::other(format!("it panicked: {message}"))
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        assert!(start("quiet", || {}).unwrap().await.is_ok());
        let ended = start("loud", || panic!("no {}", 7)).unwrap().await;
        assert_eq!(ended.unwrap_err().to_string(), "it panicked: no 7");
    }
}
