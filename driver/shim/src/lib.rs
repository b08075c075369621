//! The managed Docker plugin in front of wgnet-driver: no state, no capability, no mount.
//!
//! Swarm accepts only managed plugins, and those cannot be upgraded while in use, are disabled for
//! good when they die within their first half second, and are killed with dockerd. So the plugin is
//! this program, which never has to change: it answers what must never wait and hands everything
//! else to the driver, sending it again for as long as Docker would wait (dockerd's own second try
//! comes with an empty body: moby#35459).

pub mod forward;
pub mod http;
pub mod serve;
