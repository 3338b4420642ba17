//! Upstream proxies: their URLs, their credentials, and which one a connection goes through.

mod choice;
mod credentials;
mod endpoint;
mod no_proxy;
mod url;

pub use choice::{MAX_PROXIES, MAX_PROXY_CHOICES, ProxyGroup, UpstreamProxies};
pub use credentials::Credentials;
pub use endpoint::ProxyHost;
pub use no_proxy::NoProxy;
pub use url::{ProxyScheme, UpstreamProxy};

pub(crate) use choice::{Choice, ProxyTarget};
pub(crate) use endpoint::Endpoint;
