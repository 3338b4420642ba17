//! Upstream proxies: their URLs, their credentials, and which one a connection goes through.

mod choice;
mod credentials;
mod no_proxy;
mod url;

pub use choice::{MAX_PROXIES, MAX_PROXY_CHOICES, ProxyGroup, UpstreamProxies};
pub use credentials::Credentials;
pub use no_proxy::NoProxy;
pub use url::{ProxyHost, ProxyScheme, UpstreamProxy};

pub(crate) use choice::{Choice, Destinations};
