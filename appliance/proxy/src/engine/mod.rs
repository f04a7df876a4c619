//! The seam behind which HTTP itself is spoken.
//!
//! Everything outside this folder deals in connections, routes, slots and answers and names no
//! HTTP implementation; everything inside it may be replaced by another engine that serves a
//! [`ClientConnection`] by asking [`crate::answers::admit`] and [`crate::upstream::choose`].

mod asking;
mod coder;
mod exchange;
mod fast;
mod gateway;
mod greeting;
mod mirror;
mod peers;
mod pingora;
mod stream;

use crate::connection::ClientConnection;

pub(crate) use self::asking::KeyFetcher;
pub use self::pingora::EngineError;
pub(crate) use self::pingora::PingoraEngine as Engine;

/// Serves HTTP on connections.
pub(crate) trait HttpEngine: Send + Sync + 'static {
    /// Serves one connection to its end. Dropping the future closes the connection.
    fn serve(&self, connection: ClientConnection) -> impl Future<Output = ()> + Send;
}
